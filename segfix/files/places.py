"""Local paths that texts call by another name: of files from a URL, and of standard input."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    from pathlib import WindowsPath as LocalPath
else:
    from pathlib import PosixPath as LocalPath

STAGE_SUFFIX = ".segfix-urls"


class StagedPath(LocalPath):
    """The local place of a file behind a URL; formatted into a text, it is that URL.

    /tmp/1234.segfix-urls/s3/bucket/a.png is the place of s3://bucket/a.png. To the system, and to
    `str`, it is the local file; paths made from it are such paths, too.

    Example:
        >>> path = StagedPath("/tmp/1234.segfix-urls/s3/bucket/a.png")
        >>> print(f"{path.with_suffix('.npy')}: broken.")
        s3://bucket/a.npy: broken.
    """

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        """Write the URL."""
        for place, part in enumerate(self.parts):
            if part.endswith(STAGE_SUFFIX) and len(self.parts) > place + 1:
                protocol, *rest = self.parts[place + 1 :]
                return format(f"{protocol}://{'/'.join(rest)}", spec)
        return format(str(self), spec)


class StandardInput(LocalPath):
    """A local copy of what came from standard input; texts call it so."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        """Write what it is."""
        return format("standard input", spec)


@contextmanager
def open_stage() -> Iterator[Path]:
    """Make a folder for `StagedPath`s that is removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="segfix-", suffix=STAGE_SUFFIX) as folder:
        # Links resolved: it is compared with paths that are.
        yield Path(folder).resolve()
