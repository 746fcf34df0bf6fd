"""Write a file whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segfix.errors import FileFormatError

TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d{1,9})\.[0-9a-f]{12}\.tmp(\.[^.]+)?", re.DOTALL)
"""Names of our temporary files: whose machine's process makes them, and which process there."""

UNFINISHED: set[Path] = set()
"""Temporary files that this process is writing."""

LONGEST_WRITE = 24 * 3600
"""Seconds after which a temporary file of another machine is left over."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Args:
        path: The file to write; missing parent folders are made.

    Yields:
        The path to write to. Whatever happens, `path` is its old self or the whole new file.

    Raises:
        FileFormatError: The file can't be written; the message names it.
    """
    # Short, since names have at most 255 bytes; unique, since threads write side by side.
    unique = f"{machine()}-{os.getpid()}.{uuid.uuid4().hex[:12]}"
    temporary = path.with_name(f".{path.stem[:20]}.{unique}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        UNFINISHED.add(temporary)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            UNFINISHED.discard(temporary)
    except OSError as error:
        raise FileFormatError(f"{path}: can't be written ({error.strerror or error}).") from error


def check_writable(path: Path) -> None:
    """Raise early, before the work for a file is done, where it could not be written.

    Raises:
        FileFormatError: Its folder, or the one that it would be made in, can't be written to.
    """
    folder = next((folder for folder in path.parents if folder.exists()), path.parent)
    if os.access(folder, os.W_OK):
        return
    try:
        # Permissions are no more than a hint; this tells.
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileFormatError(f"{path}: can't be written ({error.strerror or error}).") from error


def remove_unfinished() -> None:
    """Remove the temporary files of this process, which ends while threads write them."""
    for temporary in tuple(UNFINISHED):
        with suppress(OSError):
            temporary.unlink()


@functools.lru_cache(maxsize=1024)
def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left in a folder; about once per process."""
    with suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if (name := TEMPORARY.fullmatch(file.name)) is None:
                continue
            with suppress(OSError):
                left = name[1] == machine() and not is_running(int(name[2]))
                if left or time.time() - file.stat().st_mtime > LONGEST_WRITE:
                    Path(file).unlink()


def machine() -> str:
    """Short digest of what tells apart machines, and containers that have their own processes."""
    name = platform.node()
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").readlink())
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=4).hexdigest()


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; True where that can't be asked."""
    if sys.platform == "win32":
        # There, signal 0 is Ctrl-C.
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
