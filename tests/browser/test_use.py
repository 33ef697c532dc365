"""The page of a plan as it is used: sorted, linked, filtered, read by keyboard, printed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
NAMES = f"[...{ROWS}].map(row => row.querySelector('.pick').textContent)"
PINNED = "document.querySelector('#details.pinned h3')?.textContent"
WIDTHS = (320, 390, 760, 761, 1000, 1001, 1024, 1279, 1280, 1600)


@pytest.fixture
def page(tab: Tab, tmp_path: Path) -> Iterator[Any]:
    """Open a plan; at the end nothing was said in the console and nothing asked for."""
    url = (tmp_path / "plan.html").as_uri()

    def show(plan: Plan, against: Plan | None = None, hash: str = "") -> str:
        (tmp_path / "plan.html").write_text(report_html(plan, against), encoding="utf-8")
        tab.screen(1280, 900)
        tab.open("about:blank")  # another hash alone is no other page
        tab.open(url + hash)
        return url

    yield show
    assert tab.said() == []
    asked = [found for found in tab.requested() if not found.startswith("data:image/svg")]
    assert {found.partition("#")[0] for found in asked} <= {url, "about:blank"}


def until(tab: Tab, script: str, wanted: object) -> None:
    """Wait until an expression has a value: an address follows after a moment."""
    for _ in range(40):
        if tab.run(script) == wanted:
            return
        time.sleep(0.05)
    assert tab.run(script) == wanted


def three() -> Plan:
    """Return a plan in whose order neither names nor sizes nor places are sorted."""
    return plan_of(
        [
            layer("l.10.w", "b0", 8, 12, 0, 1),
            layer("l.2.w", "b0", 20, 0, 0, 1),
            layer("l.1.w", "b1", 4, 0, 2, 3, macs=None),
        ],
        {"b0": 20, "b1": 8},
    )


def head(name: str) -> str:
    return (
        "[...document.querySelectorAll('#layers-rows thead th')]"
        f".find(head => head.textContent === '{name}')"
    )


def test_each_column_sorts_by_its_button(tab: Tab, page: Any) -> None:
    page(three())
    planned = ["l.10.w", "l.2.w", "l.1.w"]
    orders = {
        "Layer": (["l.1.w", "l.2.w", "l.10.w"], "ascending"),  # 2 is before 10
        "Elements": (["l.2.w", "l.10.w", "l.1.w"], "descending"),
        "Made by": (["l.1.w", "l.10.w", "l.2.w"], "ascending"),
        "Bank": (["l.10.w", "l.2.w", "l.1.w"], "ascending"),
        "Shares": (["l.10.w", "l.2.w", "l.1.w"], "descending"),
        "MACs": (["l.2.w", "l.10.w", "l.1.w"], "descending"),  # what is not known is last
        "In the bank": (["l.2.w", "l.1.w", "l.10.w"], "ascending"),
        "Weight": (["l.1.w", "l.10.w", "l.2.w"], "ascending"),
    }
    heads = tab.run("[...document.querySelectorAll('#layers-rows thead th')].map(h => h.innerText)")
    assert set(heads) == set(orders), "every column"
    for name, (names, direction) in orders.items():
        tab.run(f"{head(name)}.querySelector('button').focus()")
        tab.press("Enter")
        assert tab.run(NAMES) == names, name
        assert tab.run(f"{head(name)}.getAttribute('aria-sort')") == direction
        assert tab.run("document.querySelectorAll('#layers-rows [aria-sort]').length") == 1
        assert tab.run(f"document.activeElement.parentElement === {head(name)}")
    tab.press("Enter")
    assert tab.run(f"{head('Weight')}.getAttribute('aria-sort')") == "descending"
    tab.press("Enter")
    assert tab.run(NAMES) == planned, "the third time it is the plan's order again"
    assert tab.run("document.querySelector('#layers-rows [aria-sort]')") is None
    tab.run(f"{head('MACs')}.querySelector('button').click()")
    tab.run(f"{head('MACs')}.querySelector('button').click()")
    assert tab.run(NAMES) == ["l.10.w", "l.2.w", "l.1.w"], "what is not known is last again"


def test_every_table_of_the_page_sorts(tab: Tab, page: Any) -> None:
    page(large_plan(12, 3), large_plan(8, 2))
    for host in ("banks-rows", "layers-rows", "kept-rows", "changes-rows"):
        assert tab.run(f"document.querySelectorAll('#{host} th .sort').length") >= 2, host
    names = "[...document.querySelectorAll('#banks-rows tbody th a')]"
    banks = f"{names}.map(link => link.firstElementChild.nextSibling.data)"
    tab.run("document.querySelector('#banks-rows th .sort').click()")
    tab.run("document.querySelector('#banks-rows th .sort').click()")
    assert tab.run(banks) == ["b2", "b1", "b0"]


def test_parts_stay_below_their_row(tab: Tab, page: Any) -> None:
    page(large_plan(80, 8))
    n = tab.run(f"{ROWS}.length")
    tab.run(f"{ROWS}[2].querySelector('.unfold').click()")
    opened = tab.run(f"{ROWS}[2].querySelector('.pick').textContent")
    at = 0
    for _ in range(2):
        tab.run(f"{head('Layer')}.querySelector('button').click()")
        at = tab.run(NAMES).index(opened)
        parts = tab.run(f"[...{ROWS}].map(row => row.classList.contains('part'))")
        assert parts == [at < i <= at + 10 for i in range(n + 10)]
    assert ".layers.9." in tab.run(NAMES)[at + 1], "and are sorted as the rows are"


def test_a_layer_and_its_bank_lead_to_each_other(tab: Tab, page: Any) -> None:
    page(large_plan(60, 30))
    tab.run(f"{ROWS}[28].querySelector('.of-bank').click()")
    until(tab, "location.hash", "#bank=b28")
    line = "document.querySelector('#banks-rows tr.looked')"
    assert tab.run(f"{line}.querySelector('.to-layers').innerText").startswith("b28")
    assert tab.run(f"{line}.contains(document.activeElement)"), "on the second page of banks"
    tab.run(f"{line}.querySelector('.to-layers').click()")
    until(tab, "location.hash", "#of=b28")
    assert tab.run(f"{ROWS}.length") == 2
    assert tab.run("document.querySelector('#layers-tools select').value") == "28"
    assert tab.run(f"{ROWS}[0].contains(document.activeElement)")
    tab.run("history.back()")
    until(tab, "location.hash", "#bank=b28")


def test_what_is_looked_at_survives_a_reload(tab: Tab, page: Any) -> None:
    url = page(large_plan(2000, 8))
    tab.run(f"{head('Elements')}.querySelector('button').click()")
    tab.run("document.querySelector('#layers-tools input[type=search]').focus()")
    for letter in "7.block.up":
        tab.press(letter)
    told = tab.run("document.querySelector('#layers-tools .told').textContent")
    tab.press("ArrowDown")
    tab.press("Enter")
    pinned = tab.run(PINNED)
    until(tab, "new URLSearchParams(location.hash.slice(1)).get('layer')", pinned)
    kept = tab.run("location.hash")
    tab.open("about:blank")
    tab.open(url + kept)
    assert tab.run(PINNED) == pinned == tab.run("document.activeElement.textContent")
    assert tab.run("document.querySelector('#layers-tools .told').textContent") == told
    assert tab.run(f"{head('Elements')}.getAttribute('aria-sort')") == "descending"
    tab.press("Escape")
    until(tab, "location.hash", kept[: kept.index("&layer")])
    tab.run("document.querySelector('.clear').click()")
    until(tab, "location.hash", "#sort=-elements")


def test_an_address_opens_the_row_that_a_layer_is_in(tab: Tab, page: Any) -> None:
    name = "model.decoder.layers.243.block.up_projection.weight"
    page(large_plan(2000, 8), hash=f"#layer={name}")
    assert tab.run(PINNED) == name == tab.run("document.activeElement.textContent")
    box = tab.run("JSON.stringify(document.activeElement.getBoundingClientRect())")
    assert '"top":-' not in box, box
    alike = "model.decoder.layers.{0-249}.block.up_projection.weight"
    tab.run("document.querySelector('#details .close').click()")
    first = name.replace("243", "0")
    page(large_plan(2000, 8), hash=f"#alike={first}")
    assert tab.run(PINNED) == alike
    tab.run("document.querySelectorAll('#details li a')[3].click()")
    until(tab, PINNED, name.replace("243", "3"))
    page(large_plan(2000, 8), hash="#layer=nobody&of=nothing&sort=-nothing")
    assert tab.run(PINNED) is None and tab.run(f"{ROWS}.length") == 8


def test_on_a_phone_an_address_leads_to_a_row_above_the_panel(tab: Tab, page: Any) -> None:
    url = page(large_plan(60, 3))
    tab.open("about:blank")
    tab.screen(390, 844, phone=True)
    tab.open(f"{url}#layer=model.decoder.layers.6.block.o_projection.weight")
    row = "document.querySelector('#layers-rows tr.looked').getBoundingClientRect()"
    panel = "document.querySelector('#details').getBoundingClientRect()"
    assert tab.run(f"{row}.top >= 0 && {row}.bottom <= {panel}.top")


def test_arrows_unfold_and_fold(tab: Tab, page: Any) -> None:
    page(large_plan(80, 8))
    n = tab.run(f"{ROWS}.length")
    tab.run(f"{ROWS}[1].querySelector('.pick').focus()")
    for key, rows in (("ArrowLeft", n), ("ArrowRight", n + 10), ("ArrowRight", n + 10)):
        tab.press(key)
        assert tab.run(f"{ROWS}.length") == rows, key
    assert tab.run(f"document.activeElement === {ROWS}[1].querySelector('.pick')")
    tab.press("ArrowDown")
    assert ".layers.0." in tab.run("document.activeElement.textContent")
    tab.press("ArrowUp")
    tab.press("ArrowLeft")
    assert tab.run(f"{ROWS}.length") == n


def test_a_layer_that_shares_is_one_click_away(tab: Tab, page: Any) -> None:
    layers = [layer(f"l{i}", "b0", 10, 5 * i, 0, 1) for i in range(30)]
    page(plan_of(layers, {"b0": 155}), hash="#layer=l20&find=l20")
    shared = (
        "[...document.querySelectorAll('#details .pair')].map(row => row.innerText.split('\\n'))"
    )
    assert [row[0].split()[0] for row in tab.run(shared)] == ["l19", "l21"]
    tab.run("document.querySelectorAll('#details .pair a')[1].click()")
    until(tab, PINNED, "l21")
    assert tab.run(f"{ROWS}.length") == 30, "the filter that hid it is gone"
    until(tab, "location.hash", "#layer=l21")


def test_long_lists_unfold(tab: Tab, page: Any) -> None:
    layers = [layer(f"l{i}", "b0", 10, 0, 0, 1) for i in range(40)]
    page(plan_of(layers, {"b0": 10}))
    items = "document.querySelectorAll('#details .pair').length"
    assert tab.run(items) == 12
    tab.run("document.querySelector('#details .unfold').click()")
    assert tab.run(items) == 39
    assert tab.run("document.activeElement.textContent") == "l13"


def test_hostile_names_in_an_address(tab: Tab, page: Any) -> None:
    page(hostile_plan())
    for i in range(len(HOSTILE)):
        tab.run(f"{ROWS}[{i}].querySelector('.pick').click()")
        name = tab.run(PINNED)
        until(tab, "new URLSearchParams(location.hash.slice(1)).get('layer')", name)
        tab.press("Escape")
        until(tab, "location.hash", "#layers")
        tab.run(f"location.hash = {json.dumps('#layer=' + quote(name))}")
        until(tab, PINNED, name)
    for text in HOSTILE:
        tab.run(f"location.hash = {json.dumps('#find=' + quote(text))}")
        until(tab, "document.querySelector('#layers-tools input').value", text)
    assert tab.run("document.querySelectorAll('img, [onload]').length") == 0
    assert not [e for e in tab.events if e.get("method") == "Page.javascriptDialogOpening"]


def test_names_that_look_the_same_have_addresses_of_their_own(tab: Tab, page: Any) -> None:
    long = "x" * 250 + "{}" + "x" * 250
    plan = plan_of([layer(long.format(i), "b0", 8, i, 0, 1) for i in range(3)], {"b0": 10})
    url = page(plan)
    tab.run(f"{ROWS}[2].querySelector('.pick').click()")
    until(tab, "location.hash.endsWith('&at=2')", True)
    kept = tab.run("location.hash")
    tab.open("about:blank")
    tab.open(url + kept)
    assert tab.run(f"{ROWS}[2].classList.contains('looked')")


def test_the_search_says_how_many_match(tab: Tab, page: Any) -> None:
    page(three())
    tab.run("document.querySelector('#layers-tools input').focus()")
    assert tab.run("document.querySelector('#layers-tools .clear').hidden")
    for letter in "1":
        tab.press(letter)
    told = "document.querySelector('#layers-tools .told')"
    assert tab.run(f"{told}.textContent") == "2 of 3 layers"
    assert tab.run(f"{told}.getAttribute('role')") == "status"
    tab.run("document.querySelector('#layers-tools .clear').click()")
    assert tab.run(f"{told}.textContent") == "3 layers"
    assert tab.run("document.querySelector('#layers-tools input').value") == ""


def test_pointing_and_focus_show_the_same(tab: Tab, page: Any) -> None:
    layers = [layer(f"l{i}", "b0", 10, 5 * i, 2, 3) for i in range(9)]
    page(plan_of(layers, {"b0": 54}))
    box = tab.run(f"JSON.parse(JSON.stringify({ROWS}[4].getBoundingClientRect()))")
    tab.run(f"{ROWS}[4].scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = tab.run(f"JSON.parse(JSON.stringify({ROWS}[4].getBoundingClientRect()))")
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box["x"] + 300, y=box["y"] + 9)
    shown = "document.querySelector('#details').innerText"
    pointed = tab.run(shown)
    assert pointed.startswith("l4\n") and "3 learned" in pointed and "20 to 30" in pointed
    assert "Shares elements with" in pointed
    tab.run(f"{ROWS}[0].querySelector('.pick').focus()")
    assert tab.run(shown) != pointed
    tab.run(f"{ROWS}[4].querySelector('.pick').focus()")
    assert tab.run(shown) == pointed
    assert "coefficients: 3 learned" in tab.run("document.querySelector('#spoken').textContent")


def test_no_table_is_wider_than_its_place(tab: Tab, page: Any) -> None:
    plain = plan_of([layer("a", "b0", 8, 0, 0, 1), layer("b", "b0", 9, 0, 0, 1)], {"b0": 9})
    page(hostile_plan(), plain)
    over = (
        "[...document.querySelectorAll('.rows, .legend, pre')].filter(found => "
        "found.getBoundingClientRect().right > 1 + "
        "found.parentElement.getBoundingClientRect().right).map(found => found.innerText)"
    )
    for width in WIDTHS:
        tab.screen(width, 900, phone=width <= 760)
        assert tab.run("document.documentElement.scrollWidth") == width, width
        assert tab.run(over) == [], width


def test_a_phone_sorts_from_a_list(tab: Tab, page: Any) -> None:
    page(three())
    tab.screen(390, 844, phone=True)
    choice = "document.querySelector('#layers-rows .sort-by select')"
    assert tab.run(f"getComputedStyle({choice}.parentElement).display") == "block"
    names = tab.run(f"[...{choice}.options].map(option => option.text)")
    assert "Elements, most first" in names and "Layer, backwards" in names
    at = names.index("Elements, fewest first")
    tab.run(f"{choice}.selectedIndex = {at}, {choice}.dispatchEvent(new Event('change'))")
    assert tab.run(NAMES) == ["l.1.w", "l.10.w", "l.2.w"]


def test_nothing_moves_for_who_asks_for_that(tab: Tab, page: Any) -> None:
    page(three())
    scrolling = "getComputedStyle(document.documentElement).scrollBehavior"
    for asked, found in (("reduce", "auto"), ("no-preference", "smooth")):
        wanted = [{"name": "prefers-reduced-motion", "value": asked}]
        tab.ask("Emulation.setEmulatedMedia", media="", features=wanted)
        assert tab.run(scrolling) == found


def test_on_paper_there_is_nothing_to_press(tab: Tab, page: Any, tmp_path: Path) -> None:
    page(large_plan(600, 3))
    tab.run("dispatchEvent(new Event('beforeprint'))")
    tab.ask("Emulation.setEmulatedMedia", media="print")
    seen = "[...document.querySelectorAll('{}')].filter(e => e.checkVisibility()).length"
    for gone in (".top", ".tools", "#details", ".pages button", "summary", ".sort-by", ".sort"):
        assert tab.run(seen.format(gone)) == 0, gone
    assert tab.run(seen.format("#kept-rows details tbody tr")) == 500, "names are unfolded"
    tab.ask(
        "Emulation.setDeviceMetricsOverride",
        width=718,
        height=1000,
        deviceScaleFactor=1,
        mobile=False,
    )  # A4 with the browser's margins
    words = "getComputedStyle(document.querySelector('#layers-rows th'), '::before').content"
    assert tab.run(words) == '"Layer"', "a head that is no button is repeated on each page"
    over = "[...document.querySelectorAll('.rows, pre')].map(e => e.getBoundingClientRect().right)"
    assert max(tab.run(over)) <= 718
    tab.ask("Emulation.setEmulatedMedia", media="")
    tab.run("dispatchEvent(new Event('afterprint'))")
    assert not tab.run("document.querySelector('#kept-rows details').open")
    assert tab.run(seen.format("#kept-rows details tbody tr")) == 0


def test_a_diff_draws_windows_before_and_after(tab: Tab, page: Any) -> None:
    before = plan_of([layer("a", "b0", 8, 0, 0, 1), layer("b", "b0", 8, 8, 0, 1)], {"b0": 20})
    after = plan_of([layer("a", "b0", 8, 12, 0, 1), layer("c", "b0", 8, 0, 4, 3)], {"b0": 20})
    page(after, before)
    rows = "[...document.querySelectorAll('#changes-rows tbody tr')]"
    found = tab.run(
        f"{rows}.map(row => [row.querySelector('bdi, .of-bank').textContent, "
        "row.querySelector('.state').textContent, row.querySelectorAll('svg.bar').length])"
    )
    assert sorted(row for row in found if row[0] != "b0") == [
        ["a", "changed", 2],
        ["b", "removed", 1],
        ["c", "added", 1],
    ]
    tab.run("[...document.querySelectorAll('#changes-rows a')].find(a => a.text === 'a').click()")
    until(tab, PINNED, "a")
