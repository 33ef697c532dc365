"""A plan as an HTML page: what is in it, what cannot get in, and the command that writes it."""

import base64
import hashlib
import json
import math
import os
import re
import shlex
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import npas
from benchmarks.browser import find_browser
from benchmarks.look import PICTURES, main as look
from npas import cli
from npas.html import report_html, write_report
from npas.html.bars import budget_parts, parts_bar
from npas.html.changes import changes_data
from npas.html.command import plan_command
from npas.html.coverage import covered_elements, edges, fewest_and_most, sharers, span
from npas.html.data import plan_data
from npas.html.glance import layers_that
from npas.html.head import _percent
from npas.html.text import bytes_text, embedded, short, visible
from npas.plan import DOWNSAMPLE, UPSAMPLE, Plan
from npas.plan_rows import rows
from tests.html_plans import HOSTILE, hostile_plan, large_plan, layer, plan_of

pytestmark = pytest.mark.pure


class Page(HTMLParser):
    """A page taken apart: its tags, attributes, and the text inside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.inside: list[str] = []
        self.raw: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        kind = dict(attrs).get("type") or ""
        self.inside = [f"{tag} {kind}".strip()] if tag in ("script", "style", "title") else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = []

    def handle_data(self, data: str) -> None:
        for name in self.inside:
            self.raw[name] = self.raw.get(name, "") + data

    @property
    def data(self) -> Any:
        return json.loads(self.raw["script application/json"])


@pytest.fixture(scope="module")
def plan() -> Plan:
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Embedding(50, 32),
            *(nn.Linear(32, 32) for _ in range(6)),
            nn.LayerNorm(32),
            nn.Linear(32, 300),
        )
    return npas.plan(model, "20%", n_banks=2, groups="random")


# What others wrote is text.


@pytest.mark.parametrize("against", [False, True])
def test_hostile_names_stay_text(against: bool) -> None:
    plain = plan_of([layer("a", "b0", 8, 0, 0, 1), layer("b", "b0", 9, 0, 0, 1)], {"b0": 9})
    first = Page(report_html(plain, plain if against else None))
    text = report_html(hostile_plan(), plain if against else None)
    page = Page(text)
    grown = {tag for tag in page.tags if page.tags[tag] != first.tags[tag]}
    assert grown <= {"rect"}, "a part of the bar that is zero is not drawn; else the same elements"
    assert page.tags["script"] == 2 and page.tags["img"] == 0
    names = {name for _, name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} and "style" not in names
    assert "autofocus" not in names
    assert visible(HOSTILE[0]) in page.raw["title"]
    unseen = [c for c in text if not c.isprintable() and c != "\n"]
    assert not unseen, "controls, direction overrides and separators are spelled out"


def test_names_come_through_the_data() -> None:
    data = Page(report_html(hostile_plan())).data
    assert data["layers"]["name"][: len(HOSTILE)] == [visible(text) for text in HOSTILE]
    assert [data["texts"][i] for i in data["fixed"]["reason"]] == [visible(x) for x in HOSTILE]
    assert data["aliases"]["0"] == ["a</script><img src=x onerror=alert(1)>"]


def test_embedded_json_has_nothing_that_ends_a_script() -> None:
    values = [*HOSTILE, "\u2028\u2029"]
    text = embedded(values)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layers.0.weight", "layers.0.weight"),
        ("größe.重み", "größe.重み"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202egnp", "\\u202egnp"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_long_names_lose_their_middle() -> None:
    shown = visible("a" * 1000 + "z")
    assert len(shown) < 350 and shown.endswith("z") and "701 characters left out" in shown


# The page asks nothing of anybody.


def test_the_policy_names_what_is_in_the_page(plan: Plan) -> None:
    text = report_html(plan)
    page = Page(text)
    policy = next(v for tag, name, v in page.attributes if tag == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'; ")
    for kind, raw in (("style", page.raw["style"]), ("script", page.raw["script"])):
        digest = base64.b64encode(hashlib.sha256(raw.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_nothing_is_loaded(plan: Plan) -> None:
    text = report_html(plan)
    links = [v for _, name, v in Page(text).attributes if name in ("src", "href", "action")]
    assert links and all(link.startswith(("#", "data:image/svg+xml,")) for link in links)
    found = set(re.findall(r"https?://[^\s'\"]+", text))
    assert found == {"http://www.w3.org/2000/svg"}, "the name of a namespace, which nobody loads"
    for word in ("fetch(", "XMLHttpRequest", "innerHTML", "eval(", "import(", "@import", "url("):
        assert word not in text


def test_the_page_is_readable_by_assistive_technology(plan: Plan) -> None:
    page = Page(report_html(plan, plan))
    attributes = page.attributes
    assert ("html", "lang", "en") in attributes and page.tags["main"] == 1 == page.tags["h1"]
    assert any(
        name == "content" and v.startswith("width=device-width") for _, name, v in attributes
    )
    assert page.tags["th"] == sum(tag == "th" and name == "scope" for tag, name, _ in attributes)
    ids = [v for _, name, v in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = [v[1:] for tag, name, v in attributes if name == "href" and v.startswith("#")]
    wanted += [v for _, name, v in attributes if name == "aria-labelledby"]
    assert len(wanted) >= 10 and set(wanted) <= set(ids)


Colour = tuple[float, float, float]
# Machado, Oliveira and Fernandes 2009, table 1: what is seen without one kind of cone, linear RGB.
SEEN_BY = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no L cones": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "no M cones": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "no S cones": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def _linear(colour: str) -> Colour:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return r, g, b


def _mixed(colour: str, ground: str, opacity: float) -> str:
    pairs = [(int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * a + (1 - opacity) * b):02x}" for a, b in pairs)


def _contrast(one: str, other: str) -> float:
    r, g, b = ([x, y] for x, y in zip(_linear(one), _linear(other), strict=True))
    light, dark = sorted(
        (0.2126 * x + 0.7152 * y + 0.0722 * z for x, y, z in zip(r, g, b, strict=True)),
        reverse=True,
    )
    return (light + 0.05) / (dark + 0.05)


def _lab(colour: str, seen_by: str) -> Colour:
    """Return CIE L*a*b* of a colour, white being D65."""
    r, g, b = _linear(colour)
    r, g, b = (min(1.0, max(0.0, row[0] * r + row[1] * g + row[2] * b)) for row in SEEN_BY[seen_by])
    x = 0.4124 * r + 0.3576 * g + 0.1805 * b
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = 0.0193 * r + 0.1192 * g + 0.9505 * b
    x, y, z = (
        t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x / 0.9505, y, z / 1.089)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _css() -> str:
    return files("npas.html").joinpath("assets", "page.css").read_text(encoding="utf-8")


def _colours(scheme: int) -> dict[str, str]:
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", _css())
    return {name: pair[scheme] for name, *pair in pairs}


SCHEMES = pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
DRAWN = ("hue0", "hue1", "hue2", "hue3", "hue4", "hue5", "plain")


@SCHEMES
def test_colours_have_contrast(scheme: int) -> None:
    """WCAG 2.2, AA: 4.5 for text (1.4.3), 3 for what a control or a drawing is seen by (1.4.11)."""
    colours = _colours(scheme)
    assert _contrast("#ffffff", "#000000") == pytest.approx(21)
    for text in ("ink", "muted", "accent", "good", "bad"):
        for ground in ("page", "surface", "raised"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for drawn in (*DRAWN, "edge"):
        for ground in ("page", "surface", "track") if drawn != "edge" else ("page", "surface"):
            assert _contrast(colours[drawn], colours[ground]) >= 3, (drawn, ground)
    found = re.search(r"\.odd { fill-opacity: ([\d.]+); }", _css())
    assert found is not None
    for drawn in DRAWN:
        odd = _mixed(colours[drawn], colours["track"], float(found[1]))
        assert _contrast(odd, colours["track"]) >= 3, f"every other template in {drawn}"


@SCHEMES
@pytest.mark.parametrize("seen_by", SEEN_BY)
def test_colours_differ_whoever_looks(scheme: int, seen_by: str) -> None:
    """A just noticeable difference in L*a*b* is 2.3; banks have names too, and parts a table."""
    colours = _colours(scheme)
    for one, other in combinations(DRAWN, 2):
        apart = math.dist(_lab(colours[one], seen_by), _lab(colours[other], seen_by))
        assert apart >= 12, (one, other)


# The numbers are the plan's.


def test_totals_are_the_plans(plan: Plan) -> None:
    data = Page(report_html(plan)).data
    head, banks = data["head"], data["banks"]
    for name in set(head) - {"generation_macs"}:
        assert head[name] == getattr(plan, name)
    assert {"budget", "budget_params", "n_dense", "n_params", "n_fixed", "n_macs"} <= set(head)
    assert head["generation_macs"] == plan.generation_macs == sum(banks["generation"])
    assert sum(banks["total"]) + plan.n_fixed == plan.n_params
    assert banks["generated"] == [sum(x.n for x in plan.layers_of(b.name)) for b in plan.banks]
    assert sum(data["fixed"]["n"]) == sum(f.n_params for f in plan.fixed)
    layers = data["layers"]
    assert {len(column) for column in layers.values()} == {len(plan.layers)}
    assert {len(column) for column in banks.values()} == {len(plan.banks)}
    for i, planned in enumerate(plan.layers):
        assert plan.banks[layers["bank"][i]].name == planned.bank
        assert [layers[c][i] for c in ("base", "stride", "k", "n")] == [
            *(planned.base, planned.stride, planned.k, planned.n)
        ]


def test_where_the_budget_goes_adds_up(plan: Plan) -> None:
    parts = budget_parts(plan)
    assert sum(parts.values()) == plan.budget_params
    text = report_html(plan)
    for name, n in parts.items():
        assert re.search(rf"{name}</th>\s*<td>{n:,}</td>", text)
    assert f"{plan.n_params:,}" in text and f"{plan.n_dense:,}" in text


@pytest.mark.parametrize(
    ("part", "whole", "says"),
    [
        (1, 1, "100.00%"),
        (0, 5, "0.00%"),
        (1, 3, "33.33%"),
        (999_999_999_999, 10**12, "99.99999%"),
        (1, 10**12, "<0.01%"),
        (4, 1, "400.00%"),
    ],
)
def test_shares_are_all_or_nothing_only_where_they_are(part: int, whole: int, says: str) -> None:
    assert _percent(part, whole) == says


BANK = st.integers(1, 200)


@st.composite
def _plans(draw: st.DrawFn) -> Plan:
    size = draw(BANK)
    layers = []
    for i in range(draw(st.integers(1, 8))):
        n = draw(st.integers(1, 2 * size))
        most = 0 if n > size else draw(st.integers(1, 5))
        stride = 0 if most < 2 else draw(st.integers(1, n))
        k = min(most, 1 + (size - n) // stride) if stride else most
        stride = stride if k >= 2 else 0
        free = size - n - max(0, k - 1) * stride
        base = draw(st.integers(0, free)) if k else 0
        layers.append(layer(f"l{i}", "b0", n, base, stride, k))
    return plan_of(layers, {"b0": size})


@settings(max_examples=150, deadline=None)
@given(_plans(), st.integers(1, 90))
def test_coverage_is_what_counting_one_by_one_gives(plan: Plan, bins: int) -> None:
    size = plan.banks[0].size
    used = [set[int]() for _ in plan.layers]
    for layer_plan, own in zip(plan.layers, used, strict=True):
        if layer_plan.k == 0:
            own.update(range(size))
        for k in range(layer_plan.k):
            start = layer_plan.base + k * layer_plan.stride
            own.update(range(start, start + layer_plan.n))
    counts = [sum(x in own for own in used) for x in range(size)]
    spans = [span(x, size) for x in plan.layers]
    bounds = edges(size, bins)
    assert bounds[0] == 0 and bounds[-1] == size and len(bounds) == min(size, bins) + 1
    assert covered_elements(spans, bounds) == [sum(counts[a:b]) for a, b in pairwise(bounds)]
    assert fewest_and_most(spans, size) == (min(counts), max(counts))
    assert sharers(spans) == [sum(bool(own & other) for other in used) - 1 for own in used]
    if len(plan.layers) > 1:
        shown = plan_data(plan)["banks"]["cover"][0]
        bounds = edges(size, 80)
        assert shown == pytest.approx(
            [sum(counts[a:b]) / (b - a) for a, b in pairwise(bounds)],
            abs=0.006,
        )


def test_repeated_blocks_are_folded_as_in_the_table() -> None:
    plan = large_plan(400, 4)
    folded = [row for row in rows(plan) if len(row) > 1]
    found = plan_data(plan)["rows"]
    assert [[plan.layers[i].name for i in row[1]] for row in found] == [
        [x.name for x in row] for row in folded
    ]
    assert "{" in found[0][0] and len(found) > 5
    assert plan_data(large_plan(40, 4))["rows"] == []


# The same plan, the same bytes; and not many of them.


def test_the_same_plan_gives_the_same_bytes(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert report_html(plan) == report_html(again)
    assert report_html(plan, again) == report_html(again, plan)
    assert report_html(plan) != report_html(replace(plan, seed=7))


@pytest.mark.parametrize("n_banks", [1, 2500])
def test_ten_thousand_layers_are_a_few_megabytes(n_banks: int) -> None:
    plan = large_plan(10_000, n_banks)
    text = report_html(plan)
    assert len(text.encode()) < 4_000_000
    assert Page(text).tags.total() < 250, "rows are made by the script, as they are looked at"


def test_ten_thousand_changes_are_a_few_megabytes() -> None:
    text = report_html(large_plan(10_000, 40), large_plan(10_000, 41))
    assert len(text.encode()) < 10_000_000


def test_a_row_does_not_list_hundreds_of_numbers() -> None:
    names = [name for name, _ in plan_data(large_plan(2000, 5))["rows"]]
    assert names[0] == "model.decoder.layers.{0,5,10, … ,245}.block.q_projection.weight"
    few = [name for name, _ in plan_data(large_plan(96, 4))["rows"]]
    assert few[0] == "model.decoder.layers.{0-11}.block.q_projection.weight"


# What a reader who is new needs.


@pytest.mark.parametrize(
    ("n", "says", "of_bytes"),
    [
        (999, "999 ", "999 bytes"),
        (1024, "1.02 k", "1 KiB"),
        (56_449_728, "56.4 M", "53.8 MiB"),
        (5_243_328_768, "5.24 G", "4.88 GiB"),
        (282_209_550_336, "282 G", "263 GiB"),
    ],
)
def test_numbers_have_units(n: int, says: str, of_bytes: str) -> None:
    assert short(n) == says and bytes_text(n) == of_bytes


def test_memory_and_work_are_the_plans(plan: Plan) -> None:
    text = report_html(plan)
    assert bytes_text(4 * sum(bank.size for bank in plan.banks)) in text
    assert bytes_text(4 * sum(x.n for x in plan.layers)) in text
    assert f"{short(plan.generation_macs)}MACs<small>{plan.generation_macs:,} multiply-" in text
    assert "plan with example inputs: --input" in text


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"groups": "by_shape", "k": 7},
    {"groups": "random", "n_banks": 2, "seed": 3},
    {"groups": "random", "downsample": "emb"},
    {"downsample": "rr", "upsample": "inter"},
    {"groups": "own", "upsample": "repeat"},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_command_makes_the_plan_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "from torch.nn import Linear, Sequential\n" + (
        "def make(): return Sequential(*(Linear(n, n) for n in (32, 32, 36, 36, 48)))\n"
    )
    (tmp_path / "model.py").write_text(source)
    scope: dict[str, Any] = {}
    exec(source, scope)
    plan = npas.plan(scope["make"](), "30%", **options)
    words = shlex.split(plan_command(plan, "again"))
    monkeypatch.chdir(tmp_path)
    assert words[:3] == ["npas", "plan", "MODEL"] and words[-2:] == ["--out", "again.json"]
    assert cli.main(["plan", "model.py:make", *words[3:]]) == 0
    assert Plan.load("again.json") == plan


def test_the_command_says_what_the_file_does_not_know(plan: Plan) -> None:
    with_macs = plan_of([layer("a", "b0", 8, 0, 0, 1)], {"b0": 8}, groups="patterns")
    assert "--groups MAPPING.json" in plan_command(with_macs)
    assert "--input DTYPE:SIZES" in plan_command(with_macs)
    assert "--input" not in plan_command(plan)
    hostile = replace(plan, budget="10% ; rm -rf ~ #'")
    assert shlex.split(plan_command(hostile))[4] == hostile.budget


def test_the_words_that_the_page_uses_are_explained(plan: Plan) -> None:
    page = Page(report_html(plan))
    explained = {v for _, name, v in page.attributes if name == "id" and v.startswith("word-")}
    assert {f"word-{word}" for word in ("bank", "template", "coefficient", "macs")} <= explained
    script = page.raw["script"]
    for name in (*DOWNSAMPLE, *UPSAMPLE):
        assert re.search(rf"<b>{name}</b>", report_html(plan)), name
        assert f"{name}: (" in script, "the panel says how it is made"


def test_the_title_has_the_files_name(plan: Plan) -> None:
    assert Page(report_html(plan, name="wide")).raw["title"].startswith("wide, budget 20%: ")
    assert "<img" not in report_html(plan, name="<img src=x>")
    assert Page(report_html(plan)).raw["title"].startswith("npas plan, budget 20%: ")


# What changed.


def test_changes_are_the_diffs(plan: Plan) -> None:
    assert changes_data(plan, plan)["rows"] == []
    moved = replace(plan.layers[0], name="new.weight")
    bank = next(b for b in plan.banks if plan.layers[0].name in b.layers)
    names = tuple("new.weight" if x == plan.layers[0].name else x for x in bank.layers)
    after = replace(
        plan,
        budget="21%",
        layers=(moved, *plan.layers[1:]),
        banks=tuple(replace(b, layers=names) if b is bank else b for b in plan.banks),
        fixed=plan.fixed[1:],
    )
    found = changes_data(plan, after)
    assert ["budget", "20%", "21%"] in found["plan"]
    states = {(kind, name): (how, fields) for kind, name, how, fields, *_ in found["rows"]}
    assert states["layer", "new.weight"][0] == "added"
    assert states["layer", plan.layers[0].name][0] == "removed"
    assert states["fixed", plan.fixed[0].name][0] == "removed"
    how, fields = states["bank", bank.name]
    assert how == "changed"
    n = len(bank.layers)
    assert fields == [["layers", f"{n}, without {plan.layers[0].name}", f"{n}, with new.weight"]]
    assert found["counts"] == {
        "bank": {"added": 0, "removed": 0, "changed": 1},
        "layer": {"added": 1, "removed": 1, "changed": 0},
        "fixed": {"added": 0, "removed": 1, "changed": 0},
    }
    assert found["after"]["trainable parameters"] == after.n_params
    assert found["before"]["number of banks"] == len(plan.banks)


def test_what_changed_is_counted() -> None:
    a, b, c = (
        layer("a", "b0", 8, 0, 0, 1),
        layer("b", "b0", 8, 8, 0, 1),
        layer("c", "b0", 9, 0, 0, 1),
    )
    first = plan_of([a, b, c], {"b0": 16})
    second = plan_of(
        [a, replace(b, bank="b1", base=0), layer("d", "b1", 8, 4, 4, 2)], {"b0": 16, "b1": 16}
    )
    assert layers_that(first, second) == {
        "in both": 2,
        "in another bank": 1,
        "made another way": 0,
        "with other windows": 1,
        "the same": 1,
        "added": 1,
        "removed": 1,
    }
    larger = replace(second, banks=tuple(replace(bank, size=20) for bank in second.banks))
    assert layers_that(second, larger)["with other windows"] == 3
    assert layers_that(second, larger)["the same"] == 0
    wider = plan_of([replace(a, base=0, stride=4, k=3)], {"b0": 16})
    assert layers_that(plan_of([a], {"b0": 16}), wider)["made another way"] == 1
    text = report_html(second, first)
    assert f"<b>{second.n_params - first.n_params:+,}</b> parameters" in text
    assert "<b>1 layer</b> in another bank" in text
    assert "Since the earlier plan" not in report_html(second)


def test_windows_before_and_after_can_be_drawn() -> None:
    a = layer("a", "b0", 8, 0, 0, 1)
    first, second = plan_of([a], {"b0": 16}), plan_of([replace(a, base=4)], {"b0": 16})
    ((kind, name, how, _, before, after),) = changes_data(first, second)["rows"]
    assert (kind, name, how) == ("layer", "a", "changed")
    assert before == {"bank": "b0", "size": 16, "base": 0, "stride": 0, "k": 1, "n": 8}
    assert after == before | {"base": 4}
    gone = changes_data(first, plan_of([replace(a, name="z")], {"b0": 16}))["rows"]
    drawn = {row[1]: (row[4] is None, row[5] is None) for row in gone if row[0] == "layer"}
    assert drawn == {"a": (False, True), "z": (True, False)}


def test_bars_of_two_plans_have_one_scale(plan: Plan) -> None:
    half = [
        float(x) for x in re.findall(r' width="([\d.]+)"', parts_bar(plan, 2 * plan.budget_params))
    ]
    whole = [float(x) for x in re.findall(r' width="([\d.]+)"', parts_bar(plan))]
    assert sum(half) == pytest.approx(500, abs=0.1) and sum(whole) == pytest.approx(1000, abs=0.1)
    assert len(half) == len(whole) == sum(n > 0 for n in budget_parts(plan).values())


def test_every_change_of_the_diff_is_in_the_page(plan: Plan) -> None:
    other = npas.plan(nn.Sequential(*(nn.Linear(32, 32) for _ in range(9))), "15%", groups="single")
    found = Page(report_html(plan, other)).data["changes"]
    shown = len(found["plan"]) + sum(len(row[3]) for row in found["rows"])
    assert shown == len(other.diff(plan)) > 20


def test_an_order_that_changed_is_said(plan: Plan) -> None:
    after = replace(plan, fixed=plan.fixed[::-1])
    fields = changes_data(plan, after)["plan"]
    first, last = plan.fixed[0].name, plan.fixed[-1].name
    assert fields == [["order of fixed", f"{first} at place 1", f"{last} at place 1"]]


# The command.

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Call the command line in a folder with a plan; its code, output and errors."""
    monkeypatch.chdir(tmp_path)
    plan.save("plan.json")
    replace(plan, seed=3).save("old.json")
    capsys.readouterr()

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


def test_the_page_lies_beside_the_plan(run: Run, plan: Plan, tmp_path: Path) -> None:
    code, out, err = run("report", "plan.json")
    page = tmp_path / "plan.html"
    assert code == 0 and out == ""
    assert page.read_text(encoding="utf-8") == report_html(plan, name="plan")
    assert str(page) in err and f"({page.stat().st_size:,} bytes)" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "old.json",
        "plan.html",
        "plan.json",
    ]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(page.stat().st_mode) == 0o666 & ~mask
    assert b"\r" not in page.read_bytes()


def test_report_json_and_against(run: Run, plan: Plan, tmp_path: Path) -> None:
    code, out, err = run(
        "report", "plan.json", "--against", "old.json", "--out", "page.html", "--json"
    )
    page = tmp_path / "page.html"
    assert (code, err) == (0, "")
    assert json.loads(out) == {"path": str(page), "bytes": page.stat().st_size}
    assert page.read_text(encoding="utf-8") == report_html(plan, replace(plan, seed=3), "plan")


def test_report_of_a_saved_module(run: Run, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    module = npas.compile(model, budget="60%", groups="single")
    npas.save(module, tmp_path / "saved")
    code, _, err = run("report", "saved", "--against", "saved")
    assert code == 0, err
    page = (tmp_path / "saved" / "plan.html").read_text(encoding="utf-8")
    data = Page(page).data
    assert data["layers"]["name"] == ["0.weight", "1.weight", "2.weight"]
    assert data["changes"]["rows"] == []


def test_a_page_is_replaced_and_a_link_stays_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("before")
    (tmp_path / "link.html").symlink_to("real.html")
    assert run("report", "plan.json", "--out", "link.html")[0] == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "real.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["absent.json"], 4, "absent.json: not there; npas plan MODEL"),
        (["words.json"], 4, "plan words.json: not JSON"),
        (["binary.json"], 4, "binary.json: cannot be read"),
        (["edited.json"], 4, "edited.json: n_params:"),
        (["empty"], 4, "plan empty: a folder without plan.json; give a plan"),
        (["plan.json", "--against", "absent.json"], 4, "absent.json: not there"),
        (["plan.json", "--against", "empty"], 4, "a folder without plan.json"),
        (["plan.json", "--out", "plan.json"], 2, "is the plan itself"),
        (["plan.json", "--out", "same.json"], 2, "is the plan itself"),
        (["plan.json", "--against", "old.json", "--out", "old.json"], 2, "is the plan itself"),
        (["plan.json", "--out", "empty"], 2, "empty: is not a file; name one"),
        (["plan.json", "--out", "nowhere/page.html"], 4, "the folder is not there"),
        (["plan.json", "--out", "plan.json/page.html"], 4, "the folder is not there"),
        (["/dev/null"], 2, "say where with --out"),
        (["/dev/null", "--out", "page.html"], 4, "not JSON"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_reports_that_cannot_be(
    run: Run, tmp_path: Path, arguments: list[str], code: int, says: str
) -> None:
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    (tmp_path / "words.json").write_text("not a plan")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "edited.json").write_text(text.replace('"n_params": ', '"n_params": 1', 1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "same.json").symlink_to("plan.json")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    found, out, err = run("report", *arguments)
    assert (found, out) == (code, ""), err
    assert err.startswith("npas report: ") and says in err
    assert "Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_failed_write_leaves_what_was_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.html").write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npas.html.write.os.replace", full)
    code, _, err = run("report", "plan.json")
    assert code == 4 and "No space left" in err
    assert (tmp_path / "plan.html").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 3, "nothing is left lying about"


def test_a_plan_that_is_too_large_is_not_read(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npas.plan_json.MOST_PLAN_BYTES", 100)
    with pytest.raises(npas.PlanError, match="larger than any plan, 100 bytes"):
        write_report("plan.json")


# The pictures of the documentation.


def test_the_documentation_shows_every_picture_and_they_are_small() -> None:
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "how_to" / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]{20,}\]\(\.\./report/([\w.-]+)\)", page)
    assert sorted(shown) == sorted(shot.name for shot in PICTURES)
    assert sorted(shown) == sorted(path.name for path in (docs / "report").iterdir())
    for name in shown:
        picture = (docs / "report" / name).read_bytes()
        assert picture[:4] == b"RIFF" and picture[8:12] == b"WEBP"
        assert 20_000 < len(picture) < 150_000, name


def test_pages_that_are_not_there_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    if find_browser() is None:
        pytest.skip("needs Chromium on the path")
    for arguments, says in (
        (["absent.html"], "absent.html: not there; npas report PLAN --out absent.html"),
        ([], "name a page"),
    ):
        with pytest.raises(SystemExit) as left:
            look(arguments)
        assert left.value.code == 2 and says in capsys.readouterr().err
