"""The page of a plan in a real browser: used, and attacked. Skipped where there is none."""

from pathlib import Path

import pytest

from benchmarks.browser import Tab, find_browser
from npas.html import report_html
from npas.plan import Plan
from tests.html_plans import HOSTILE, hostile_plan, large_plan, layer, plan_of

pytestmark = [
    pytest.mark.pure,
    pytest.mark.skipif(find_browser() is None, reason="needs Chromium on the path"),
]
ROWS = "document.querySelectorAll('#layers-rows tbody tr')"
PAGER = "document.querySelector('#layers-rows .pages-said').textContent"


def show(tab: Tab, folder: Path, plan: Plan, against: Plan | None = None) -> None:
    page = folder / "plan.html"
    page.write_text(report_html(plan, against), encoding="utf-8")
    tab.screen(1280, 900)
    tab.open(page.as_uri())


def type_in(tab: Tab, text: str) -> None:
    box = "document.querySelector('#layers-tools input[type=search]')"
    tab.run(f"{box}.focus(), {box}.select()")
    for letter in text:
        tab.press(letter)


def told(tab: Tab) -> str:
    return tab.run("document.querySelector('#layers-tools .told').textContent")


def test_hostile_names_run_nothing(tab: Tab, tmp_path: Path) -> None:
    plain = plan_of([layer("a", "b0", 8, 0, 0, 1), layer("b", "b0", 9, 0, 0, 1)], {"b0": 9})
    show(tab, tmp_path, hostile_plan(), plain)
    tab.run("document.querySelector('#kept-rows details').open = true")
    for i in range(len(HOSTILE)):
        tab.run(f"{ROWS}[{i}].querySelector('.pick').focus()")
    assert tab.run("document.querySelector('#details h3').textContent").startswith("xxx")
    assert tab.run("document.querySelectorAll('img, iframe, object, [onload]').length") == 0
    assert HOSTILE[0] == tab.run(f"{ROWS}[0].querySelector('.pick').textContent")
    assert tab.said() == []
    assert [url for url in tab.requested() if not url.startswith(("file:", "data:image/svg"))] == []
    assert not [e for e in tab.events if e.get("method") == "Page.javascriptDialogOpening"]


def test_the_policy_stops_a_script_that_got_in(tab: Tab, tmp_path: Path) -> None:
    """The policy is a second wall: were a name ever read as markup, nothing would run or load."""
    text = report_html(hostile_plan())
    page = tmp_path / "broken.html"
    bad = "<script>window.got = 1</script><img src='http://127.0.0.1:9/x' onerror='window.got = 2'>"
    page.write_text(text.replace("<main>", f"<main>{bad}"), encoding="utf-8")
    tab.open(page.as_uri())
    assert tab.run("window.got") is None
    assert len(tab.said()) >= 2 and "Content Security Policy" in tab.said()[0]


def test_search_bank_fold_and_pages(tab: Tab, tmp_path: Path) -> None:
    show(tab, tmp_path, large_plan(2000, 8))
    folded = tab.run(f"{ROWS}.length")
    assert folded < 40 and told(tab) == "2,000 layers"
    tab.run("document.querySelector('#layers-tools [type=checkbox]').click()")
    assert tab.run(f"{ROWS}.length") == 100 and tab.run(PAGER) == "1 to 100 of 2,000"
    tab.run("document.querySelector('#layers-rows .pages button:last-child').click()")
    assert tab.run(PAGER) == "101 to 200 of 2,000"
    type_in(tab, "Layers.17.")
    assert told(tab) == "8 of 2,000 layers" and tab.run(f"{ROWS}.length") == 8
    type_in(tab, "nowhere")
    assert told(tab) == "0 of 2,000 layers" and tab.run(f"{ROWS}.length") == 0
    tab.run("document.querySelectorAll('#banks-rows .to-layers')[3].click()")
    type_in(tab, "o_proj")
    assert told(tab) == "250 of 2,000 layers"
    assert tab.run(f"{ROWS}[0].querySelector('.of-bank').textContent") == "b3"
    assert tab.said() == []


def test_alike_layers_open_in_place(tab: Tab, tmp_path: Path) -> None:
    show(tab, tmp_path, large_plan(80, 8))
    before = tab.run(f"{ROWS}.length")
    unfold = f"{ROWS}[0].querySelector('.unfold')"
    assert tab.run(f"{unfold}.getAttribute('aria-expanded')") == "false"
    tab.run(f"{unfold}.click()")
    n = int(tab.run(f"{unfold}.textContent").split()[0])
    assert tab.run(f"{ROWS}.length") == before + n
    assert tab.run(f"{unfold}.getAttribute('aria-expanded')") == "true"
    assert tab.run(f"document.activeElement === {unfold}")


def test_keys_move_pin_and_let_go(tab: Tab, tmp_path: Path) -> None:
    layers = [layer(f"l{i}", "b0", 10, 5 * i, 0, 1) for i in range(150)]
    show(tab, tmp_path, plan_of(layers, {"b0": 755}))
    tab.run("document.querySelector('#layers-tools [type=checkbox]')?.click()")
    tab.run(f"{ROWS}[98].querySelector('.pick').focus()")
    tab.press("ArrowDown")
    assert tab.run("document.activeElement.textContent") == "l99"
    assert tab.run("document.querySelector('#details h3').textContent") == "l99"
    assert tab.run("document.querySelector('#layers-rows .shares th').textContent") == "l98"
    assert "shares elements with 2 layers" in tab.run(
        "document.querySelector('#spoken').textContent"
    )
    tab.press("ArrowDown")
    assert tab.run("document.activeElement.textContent") == "l100", "on to the next page"
    tab.press("Enter")
    tab.press("ArrowDown")
    assert tab.run("document.querySelector('#details.pinned h3').textContent") == "l100"
    tab.press("Escape")
    assert tab.run("document.querySelector('#details.pinned')") is None


def test_a_phone_has_no_sideways_scrolling(tab: Tab, tmp_path: Path) -> None:
    plain = plan_of([layer("a", "b0", 8, 0, 0, 1), layer("b", "b0", 9, 0, 0, 1)], {"b0": 9})
    show(tab, tmp_path, hostile_plan(), plain)
    tab.screen(390, 844, phone=True)
    tab.run("document.querySelector('#kept-rows details').open = true")
    assert tab.run("document.documentElement.scrollWidth") == 390
    tab.run(f"{ROWS}[0].click()")
    assert tab.run("getComputedStyle(document.querySelector('#details')).position") == "fixed"
    tab.run("document.querySelector('#details .close').click()")
    assert tab.run("getComputedStyle(document.querySelector('#details')).display") == "none"


def test_colours_follow_the_system_and_the_switch(tab: Tab, tmp_path: Path) -> None:
    show(tab, tmp_path, large_plan(16, 2))
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.run(ground)
    tab.screen(1280, 900, scheme="dark")
    dark = tab.run(ground)
    assert light != dark
    tab.run("document.querySelector('#theme [value=light]').click()")
    assert tab.run(ground) == light
    tab.run("document.querySelector('#theme [value=\"\"]').click()")
    assert tab.run(ground) == dark
