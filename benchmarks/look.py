"""Open pages that `npas report` wrote: pictures of them, and what they say, ask for and take.

    python -m benchmarks.look plan.html --out build/look
    python -m benchmarks.look --docs docs/report   # the pictures of docs/how_to/report.md

Fails if a page says anything in the console, asks for anything but itself, is wider than a phone,
or takes longer than three seconds to its first rows.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.browser import Tab, browser, find_browser

MOST_MS = 3000
DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of the documentation.

    Attributes:
        name: of its file.
        page: ``wrn-28-10``, ``wrn-28-10-at-50`` (against the former) or ``decoder-70b``.
        address: what is looked at, as the page itself says it after ``#``.
        scheme: ``light`` or ``dark``.
        phone: whether it is one.
        top: what stands at the top of the picture, as a selector of CSS.
    """

    name: str
    page: str
    address: str = ""
    scheme: str = "light"
    phone: bool = False
    top: str = ""


_LAYER, _ALIKE = "group2.1.conv1.weight", "model.layers.0.mlp.up_proj.weight"
#: The pictures of docs/how_to/report.md.
PICTURES = (
    Shot("wrn-28-10.webp", "wrn-28-10"),
    Shot("wrn-28-10-layer.webp", "wrn-28-10", f"layer={_LAYER}", top="#layers-tools"),
    Shot("wrn-28-10-dark.webp", "wrn-28-10", f"layer={_LAYER}", scheme="dark", top="#layers-tools"),
    Shot("wrn-28-10-phone.webp", "wrn-28-10", phone=True),
    Shot("wrn-28-10-phone-layer.webp", "wrn-28-10", f"layer={_LAYER}", phone=True),
    Shot("wrn-28-10-changes.webp", "wrn-28-10-at-50", top="#changes"),
    Shot("decoder-70b.webp", "decoder-70b", f"alike={_ALIKE}", top="#layers-tools"),
)


@dataclass(frozen=True, slots=True)
class Look:
    """What was found of one page.

    Attributes:
        page: its file name.
        n_bytes: of the file.
        rows_ms: from the start of loading to the first rows.
        rows: of layers in the document.
        said: lines in the console.
        asked: addresses that were asked for beside the page and its data.
        wide: width of the page on a phone of 390, in the unit that it has.
        keyboard: the layer that the arrow keys came to, and whether Enter pinned it.
    """

    page: str
    n_bytes: int
    rows_ms: int
    rows: int
    said: list[str]
    asked: list[str]
    wide: int
    keyboard: tuple[str, bool]

    @property
    def wrong(self) -> list[str]:
        """What is not as it must be."""
        found = {
            f"{len(self.said)} lines in the console: {self.said[:3]}": bool(self.said),
            f"asked for {self.asked[:3]}": bool(self.asked),
            f"{self.wide} wide on a phone of {PHONE[0]}": self.wide > PHONE[0],
            f"{self.rows_ms} ms to the first rows": self.rows_ms > MOST_MS,
            "no rows": not self.rows,
            "Enter did not pin a layer": not self.keyboard[1],
        }
        return [text for text, holds in found.items() if holds]


def look(tab: Tab, page: Path, out: Path) -> Look:
    """Open a page as a desktop, a phone and a dark one show it, and use it by keyboard."""
    url, stem = page.absolute().as_uri(), page.stem
    said: list[str] = []
    asked: list[str] = []
    tab.screen(*DESKTOP)
    tab.open(url)
    rows_ms = int(tab.run("document.documentElement.dataset.rowsMs") or MOST_MS + 1)
    rows = tab.run("document.querySelectorAll('#layers-rows tbody tr').length")
    tab.picture(out / f"{stem}-desktop.png")
    _tall(tab, out / f"{stem}-desktop-full.png", DESKTOP[0])
    tab.screen(*DESKTOP)
    keyboard = _keyboard(tab)
    tab.picture(out / f"{stem}-desktop-layer.png")
    tab.printed(out / f"{stem}.pdf")
    said += tab.said()
    asked += tab.requested()
    tab.screen(*DESKTOP, scheme="dark")
    tab.open(url)
    tab.picture(out / f"{stem}-dark.png")
    _keyboard(tab)
    tab.picture(out / f"{stem}-dark-layer.png")
    said += tab.said()
    asked += tab.requested()
    tab.screen(*PHONE, phone=True)
    tab.open(url)
    tab.picture(out / f"{stem}-phone.png")
    wide = tab.run("document.documentElement.scrollWidth")
    _tall(tab, out / f"{stem}-phone-full.png", PHONE[0], phone=True)
    tab.screen(*PHONE, phone=True)
    tab.run("document.querySelector('#layers-rows tbody').scrollIntoView({behavior: 'instant'})")
    tab.run("document.querySelectorAll('#layers-rows .pick')[1].click()")
    tab.picture(out / f"{stem}-phone-layer.png")
    said += tab.said()
    asked += tab.requested()
    asked = [found for found in asked if found != url and not found.startswith("data:")]
    return Look(page.name, page.stat().st_size, rows_ms, rows, said, asked, wide, keyboard)


def _tall(tab: Tab, path: Path, width: int, *, phone: bool = False) -> None:
    height = min(6000, tab.run("document.documentElement.scrollHeight"))
    tab.screen(width, height, phone=phone)
    tab.picture(path)


def _keyboard(tab: Tab) -> tuple[str, bool]:
    """Come to the third row of the layers by keys alone, and pin it."""
    tab.run("document.querySelector('#layers-tools input').focus()")
    for _ in range(16):  # over the filters and the heads that sort
        tab.press("Tab")
        if tab.run("document.activeElement.matches('.pick')"):
            break
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        tab.press(key)
    tab.run("document.querySelector('#layers-tools').scrollIntoView({behavior: 'instant'})")
    name = tab.run("document.activeElement.textContent")
    pinned = tab.run("document.querySelector('#details.pinned h3')?.textContent")
    return name, name == pinned


def take(tab: Tab, shots: Sequence[Shot], pages: Path, out: Path) -> None:
    """Take pictures of pages ``NAME.html`` in a folder.

    Raises:
        RuntimeError: if a page says anything in the console.
    """
    for shot in shots:
        tab.open("about:blank")  # another address alone would not load the page again
        tab.screen(*(PHONE if shot.phone else DESKTOP), phone=shot.phone, scheme=shot.scheme)
        url = (pages / f"{shot.page}.html").absolute().as_uri()
        tab.open(f"{url}#{shot.address}" if shot.address else url)
        if shot.top:
            tab.run(f"document.querySelector('{shot.top}').scrollIntoView({{behavior: 'instant'}})")
        tab.picture(out / shot.name)
        if tab.said():
            raise RuntimeError(f"{shot.name}: the console says {tab.said()[:3]}")


def write_pages(folder: Path) -> None:
    """Plan a WRN-28-10 at 10% and 50%, and a decoder of 70 billion, and write their pages."""
    import torch

    import npas
    from benchmarks.networks import network
    from benchmarks.scale.planning import CONFIGS
    from npas.html import write_report
    from npas.model_source import load_model

    with torch.device("meta"):
        wide = network("wrn-28-10").make()
        inputs = (torch.zeros(1, 3, 32, 32),)
    npas.plan(wide, "10%", example_inputs=inputs).save(folder / "wrn-28-10.json")
    npas.plan(wide, "50%", example_inputs=inputs).save(folder / "wrn-28-10-at-50.json")
    decoder = load_model(f"hf:{CONFIGS / 'decoder-70b'}.json", {})
    npas.plan(decoder, "10%").save(folder / "decoder-70b.json")
    write_report(folder / "wrn-28-10.json")
    write_report(folder / "wrn-28-10-at-50.json", against=folder / "wrn-28-10.json")
    write_report(folder / "decoder-70b.json")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; 0 if every page is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pages", nargs="*", type=Path, help="that npas report wrote")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="take the pictures of the docs")
    parser.add_argument("--out", type=Path, default=Path("build/look"))
    arguments = parser.parse_args(words)
    path = find_browser()
    if path is None:
        parser.error("there is no Chromium: apt-get install chromium, or put one on the path")
    if not arguments.pages and arguments.docs is None:
        parser.error("name a page, or a folder for the pictures of the documentation with --docs")
    for page in arguments.pages:
        if not page.is_file():
            parser.error(f"{page}: not there; npas report PLAN --out {page} writes one")
    arguments.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with browser(path) as tab:
        for page in arguments.pages:
            found = look(tab, page, arguments.out)
            print(json.dumps(asdict(found) | {"wrong": found.wrong}))
            wrong += len(found.wrong)
        if arguments.docs is not None:
            arguments.docs.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory() as scratch:
                write_pages(Path(scratch))
                take(tab, PICTURES, Path(scratch), arguments.docs)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
