"""Open pages that `npas report` wrote: pictures of them, and what they say, ask for and take.

    python -m benchmarks.look plan.html --out build/look

Fails if a page says anything in the console, asks for anything but itself, is wider than a phone,
or takes longer than three seconds to its first rows.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.browser import Tab, browser, find_browser

MOST_MS = 3000
DESKTOP, PHONE = (1280, 900), (390, 844)


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


def main() -> int:
    """Run the command line; 0 if every page is as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/look"))
    arguments = parser.parse_args()
    path = find_browser()
    if path is None:
        parser.error("there is no Chromium: apt-get install chromium, or put one on the path")
    arguments.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with browser(path) as tab:
        for page in arguments.pages:
            found = look(tab, page, arguments.out)
            print(json.dumps(asdict(found) | {"wrong": found.wrong}))
            wrong += len(found.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
