"""The coverage command measures what it says, and the committed table holds what is promised."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import coverage
from benchmarks.tables import read_markdown

pytestmark = pytest.mark.pure

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "front_end", "generates"),
    [("reference:wrn-16-1", "fx", None), ("vit:", "export", None), ("opt:", "export", True)],
)
def test_a_row(name: str, front_end: str, generates: bool | None) -> None:
    pytest.importorskip("transformers")
    (subject,) = coverage.subjects(f"^{name}")
    row = coverage.measure(subject)
    assert row["front_end"] == front_end and row["visible"] == 1.0
    assert row["identical"] and row["falls"] and row["budget"] == "10%"
    assert row["notes"] == [] and row.get("generates") == generates
    assert row["compile_s"] > 0 and row["tracing_s"] > 0
    json.dumps(row)


def test_a_model_that_fails_is_a_row_with_a_note() -> None:
    (subject,) = coverage.subjects("^reference:mlp$")

    def raises(output: Any) -> Any:
        raise RuntimeError("no such input")

    broken = coverage.Subject("broken", "none", subject.make, dict, lambda: (3,), raises, False)
    row = coverage.measure(broken)
    assert [note.partition(":")[0] for note in row["notes"]] == ["100%", "10%"]
    assert "front_end" not in row


def test_families_take_turns() -> None:
    found = coverage.subjects(None)
    families = {subject.family for subject in found}
    assert {subject.family for subject in found[: len(families)]} == families
    assert len(found) > 300


def test_the_committed_table_holds_what_is_promised() -> None:
    rows = read_markdown(PAGE)
    (every,) = [row for row in rows if row.get("family") == "all"]
    listed = [row for row in rows if "front end" in row and ":" in row["architecture"]]
    made = [row for row in listed if not row["architecture"].startswith("reference:")]
    assert len(made) >= 60
    families = {row["family"] for row in made}
    assert families == {
        "encoder",
        "decoder",
        "encoder-decoder",
        "vision",
        "speech",
        "multimodal",
        "mixture of experts",
        "state-space",
    }
    count = every["architectures"]
    for column in ("at 10%", "at 100%", "bit-equal", "loss falls"):
        assert every[column] == count, column
    roots = [row for row in made if row["front end"] in ("fx", "export")]
    assert len(roots) >= 0.85 * len(made)
    # One that every front end refuses at once, so that planning is most of its time.
    assert int(every["over 3x + 0.5 s"]) <= 0.01 * int(count)
    can, of = every["generate"].split(" of ")
    assert can == of
    reference = [row for row in listed if row["architecture"].startswith("reference:")]
    assert all(row["visible"] == "100.0%" for row in reference)
