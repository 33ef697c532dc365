"""A tab of a browser, one for the tests of a file."""

from collections.abc import Iterator

import pytest

from benchmarks.browser import Tab, browser, find_browser


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """Open a browser's tab; the tests of a place without one are skipped before."""
    path = find_browser()
    assert path is not None
    with browser(path) as found:
        yield found
