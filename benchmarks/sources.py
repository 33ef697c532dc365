"""Where data sets are: the paths of ``--data``, and the folder that downloads are put in."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import DataError

DOWNLOADS = Path("build/downloads")
HELP = (
    "files or folders of data sets, as they are installed or downloaded; "
    f"{DOWNLOADS} is looked at besides"
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Files and folders that data sets are looked for in, the first that has one wins."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Sources":
        """Return the paths that a user named, and the folder of downloads.

        Raises:
            DataError: if a named path does not exist.
        """
        for path in paths:
            if not path.exists():
                raise DataError(f"--data {path}: there is no such file or folder")
        return cls((*(path.resolve() for path in paths), DOWNLOADS.resolve()))

    def find(self, *names: str) -> Path | None:
        """Return the first path that has one of these names, or a folder's entry of one of them."""
        for path in self.paths:
            for name in names:
                if path.name == name and path.exists():
                    return path
                if (path / name).exists():
                    return path / name
        return None
