"""A plan file, or the folder of a saved module, to a page beside it."""

import os
import tempfile
from pathlib import Path

from npas.errors import NpasError
from npas.html.page import report_html
from npas.plan import Plan
from npas.plan_json import plan_file


def write_report(
    plan: str | Path, out: str | Path | None = None, against: str | Path | None = None
) -> Path:
    """Write the page of a plan, whole or not at all.

    Args:
        plan: a plan's file, or a folder that `npas.save` wrote.
        out: the page; beside the plan and named as it is where None.
        against: an earlier plan, or a folder: what changed since is shown.

    Returns:
        Path of the page.

    Raises:
        PlanError: if a plan cannot be read or is not valid.
        NpasError: if the page would replace one of the plans, or something that is not a file.
        OSError: if it cannot be written.
    """
    source = plan_file(Path(plan))
    earlier = None if against is None else plan_file(Path(against))
    page = _page_file(source, out)
    for path in (source, earlier):
        if path is not None and page.exists() and path.exists() and page.samefile(path):
            raise NpasError(f"--out {page}: is the plan itself; give the page a name of its own")
    name = source.absolute().parent.name if Path(plan).is_dir() else source.stem
    before = None if earlier is None else Plan.load(earlier)
    text = report_html(Plan.load(source), before, name)
    _replace(page, text)
    return page


def _page_file(source: Path, out: str | Path | None) -> Path:
    if out is None and source.exists() and not source.is_file():
        raise NpasError(f"{source}: not a file to put a page beside; say where with --out FILE")
    page = source.with_suffix(".html") if out is None else Path(out)
    if page.exists() and not page.is_file():
        raise NpasError(f"--out {page}: is not a file; name one, such as {page / 'plan.html'}")
    if not page.absolute().parent.is_dir():
        raise NotADirectoryError(f"--out {page}: the folder is not there")
    return Path(os.path.realpath(page))  # a link stays a link


def _replace(page: Path, text: str) -> None:
    with tempfile.TemporaryDirectory(dir=page.parent, prefix=".npas-report-") as scratch:
        written = Path(scratch, "page.html")
        written.write_text(text, encoding="utf-8", newline="\n")
        os.replace(written, page)
