"""Names and patterns."""

import keyword

import pytest
from hypothesis import given, strategies as st

from npas.errors import NpasError
from npas.naming import identifier, matches, nearest, prefixes, select

pytestmark = pytest.mark.pure

NAMES = [
    "embed.weight",
    "blocks.0.attn.q.weight",
    "blocks.0.fc1.weight",
    "blocks.1.attn.q.weight",
    "blocks.1.fc1.weight",
    "blocks.10.fc1.weight",
    "head.weight",
]


def test_prefixes_are_the_modules_above() -> None:
    assert prefixes("a.b.c") == ["a", "a.b", "a.b.c"]
    assert prefixes("weight") == ["weight"]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("blocks.0.fc1.weight", "blocks.0.fc1.weight"),
        ("blocks.0.fc1", "blocks.0.fc1.weight"),
        ("blocks.0", "blocks.0.fc1.weight"),
        ("blocks", "blocks.0.fc1.weight"),
        ("fc1", "blocks.0.fc1.weight"),
        ("fc1.weight", "blocks.0.fc1.weight"),
        ("weight", "blocks.0.fc1.weight"),
        ("attn.q", "blocks.0.attn.q.weight"),
        ("attn", "blocks.0.attn.q.weight"),
        ("*", "blocks.0.fc1.weight"),
        ("blocks.*.fc1", "blocks.0.fc1.weight"),
        ("blocks.?.fc1", "blocks.0.fc1.weight"),
        ("blocks.[01].*", "blocks.0.fc1.weight"),
        ("*.fc1.weight", "blocks.0.fc1.weight"),
        (r"re:blocks\.\d+", "blocks.0.fc1.weight"),
        (r"re:blocks\.\d+\.fc1(\.weight)?", "blocks.0.fc1.weight"),
        ("re:.*", "blocks.0.fc1.weight"),
    ],
)
def test_patterns_that_point_at_a_weight(pattern: str, name: str) -> None:
    assert matches(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("fc", "blocks.0.fc1.weight"),
        ("c1", "blocks.0.fc1.weight"),
        ("blocks.1", "blocks.10.fc1.weight"),
        ("block", "blocks.0.fc1.weight"),
        ("FC1", "blocks.0.fc1.weight"),
        ("blocks.?.fc1", "blocks.10.fc1.weight"),
        ("Blocks.*", "blocks.0.fc1.weight"),
        ("", "blocks.0.fc1.weight"),
        ("re:", "blocks.0.fc1.weight"),
        ("re:fc1", "blocks.0.fc1.weight"),
        ("re:blocks", "myblocks.0.weight"),
        ("fc1.*", "blocks.0.fc1.weight"),
        ("blocks.0.fc1.weight.more", "blocks.0.fc1.weight"),
        (".", "blocks.0.fc1.weight"),
    ],
)
def test_patterns_that_do_not(pattern: str, name: str) -> None:
    assert not matches(pattern, name)


@pytest.mark.parametrize("pattern", ["re:(", "re:[", "re:*", "re:(?P<x>"])
def test_bad_expressions_are_named(pattern: str) -> None:
    with pytest.raises(NpasError, match="is not a regular expression") as caught:
        matches(pattern, "blocks.0.fc1.weight")
    assert repr(pattern) in str(caught.value)


@given(st.text(max_size=16), st.sampled_from(NAMES))
def test_any_pattern_matches_or_raises_ours(pattern: str, name: str) -> None:
    try:
        assert matches(pattern, name) in (True, False)
    except NpasError:
        assert pattern.startswith("re:")


@given(st.sampled_from(NAMES))
def test_a_name_and_its_module_point_at_it(name: str) -> None:
    assert matches(name, name)
    assert matches(name.rpartition(".")[0], name)


def test_select_is_the_union() -> None:
    assert select(["attn", "head"], NAMES, argument="x") == {
        "blocks.0.attn.q.weight",
        "blocks.1.attn.q.weight",
        "head.weight",
    }
    assert select([], NAMES, argument="x") == set()
    assert select(["*"], NAMES, argument="x") == set(NAMES)
    assert select(["blocks.1"], NAMES, argument="x") == {
        "blocks.1.attn.q.weight",
        "blocks.1.fc1.weight",
    }


def test_select_takes_any_iterable_of_names() -> None:
    assert select((p for p in ["head"]), (n for n in NAMES), argument="x") == {"head.weight"}


@pytest.mark.parametrize(
    ("pattern", "near"), [("haed", "head"), ("embd.weight", "embed.weight"), ("block", "blocks")]
)
def test_a_pattern_that_matches_nothing_says_which_argument(pattern: str, near: str) -> None:
    with pytest.raises(NpasError) as caught:
        select(["head", pattern], NAMES, argument="target_modules")
    message = str(caught.value)
    assert message.startswith("target_modules: ")
    assert repr(pattern) in message
    assert near in message


def test_select_of_no_names() -> None:
    with pytest.raises(NpasError, match="matches no weight"):
        select(["head"], [], argument="x")


def test_nearest() -> None:
    assert nearest("sinlge", ["single", "own"]) == " (nearest: 'single')"
    assert nearest("zzzz", ["single", "own"]) == ""
    assert nearest("x", []) == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0.fc1", "blocks_0_fc1"),
        ("0.weight", "_0_weight"),
        ("weight", "weight"),
        ("a-b c", "a_b_c"),
    ],
)
def test_identifier(name: str, expected: str) -> None:
    assert identifier(name) == expected


@given(st.text(min_size=1, max_size=12))
def test_identifier_is_one(name: str) -> None:
    found = identifier(name)
    assert found.isidentifier()
    assert identifier(found) == found


def test_identifier_can_stand_in_code() -> None:
    for name in ("", *keyword.kwlist):
        found = identifier(name)
        assert found.isidentifier() and not keyword.iskeyword(found), name
