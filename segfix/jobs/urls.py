"""Files behind URLs, by fsspec: their names at once, their contents while somebody needs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from segfix.errors import FileFormatError, MissingExtraError
from segfix.files.pairing import Entry, Pair
from segfix.files.provenance import record_path

PACKAGES = {"s3": "segfix-refine[remote]", "gs": "gcsfs", "memory": "segfix-refine[remote]"}
"""What each kind of URL needs. All of them take a file whole or not at all."""

CREDENTIALS = {
    "s3": "AWS's own (aws configure, AWS_PROFILE, AWS_ENDPOINT_URL) are taken",
    "gs": "Google's own (gcloud auth application-default login) are taken",
}

_Job = TypeVar("_Job")


@dataclass(frozen=True)
class Stage:
    """A temporary folder in which s3://bucket/a.png has its place at s3/bucket/a.png.

    What works on files works there, and never sees a URL: files that are listed are empty,
    `fetch` fills them, and `told` turns the places in its messages into URLs again.

    Attributes:
        folder: Absolute, links resolved.
    """

    folder: Path

    def place(self, url: str) -> Path:
        """The place of a URL; nothing is made or asked.

        Raises:
            FileFormatError: It is of another kind, or no plain path.
        """
        protocol, _, rest = url.partition("://")
        parts = rest.rstrip("/").split("/")
        if protocol not in PACKAGES:
            raise FileFormatError(f"{url}: not read; expected s3://, gs://, file:// or a path.")
        if not all(map(_is_name, parts)):
            raise FileFormatError(
                f"{url}: expected {protocol}://BUCKET/FOLDER, without empty parts, . and .."
            )
        return self.folder.joinpath(protocol, *parts)

    def holds(self, path: Path) -> bool:
        """Whether a path is the place of a URL."""
        return path.is_relative_to(self.folder)

    def url(self, path: Path) -> str:
        """The URL of a place."""
        protocol, *parts = path.relative_to(self.folder).parts
        return f"{protocol}://{'/'.join(parts)}"

    def told(self, value: Any) -> Any:
        """A text, or lists and dictionaries of texts, with URLs instead of places."""
        if isinstance(value, str):
            return re.sub(rf"{re.escape(str(self.folder))}[/\\](\w+)[/\\]", r"\1://", value)
        if isinstance(value, list):
            return [self.told(item) for item in value]
        if isinstance(value, dict):
            return {key: self.told(item) for key, item in value.items()}
        return value

    def list(self, path: Path, *, recursive: bool) -> None:
        """Make an empty file for every file of a URL, be it a file or a folder.

        Raises:
            FileFormatError: It can't be listed. (Of what isn't there, nothing is made.)
        """
        url = self.url(path)
        system, root = connect(url)
        with told_faults(url, "listed"):
            if recursive:
                found = system.find(root, detail=True).values()
            else:
                try:
                    found = system.ls(root, detail=True)
                except FileNotFoundError:
                    found = []
        files = []
        for item in found:
            parts = item["name"].removeprefix(root).strip("/")
            where = path.joinpath(*parts.split("/")) if parts else path
            # A bucket is no file system: what a name leads out with is passed over.
            if parts and not all(map(_is_name, parts.split("/"))):
                continue
            if item["type"] == "directory" or item["name"].endswith("/"):
                where.mkdir(parents=True, exist_ok=True)
            else:
                where.parent.mkdir(parents=True, exist_ok=True)
                files.append(where)
        for where in files:
            # s3://b/a beside s3://b/a/b.png can't be files both.
            if not where.is_dir():
                where.touch()

    def fetch(self, path: Path, *, if_there: bool = False) -> None:
        """Fetch a file to its place.

        Args:
            path: The place.
            if_there: Whether it may be missing.

        Raises:
            FileFormatError: It can't be read, or is missing.
        """
        url = self.url(path)
        system, where = connect(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with told_faults(url, "read"):
            try:
                system.get_file(where, str(path))
            except FileNotFoundError as error:
                path.unlink(missing_ok=True)
                # S3's words. Before a result is made that can't be kept.
                if not if_there or "specified bucket" in str(error):
                    raise

    def put(self, path: Path) -> None:
        """Store a file, whole or not at all, and replace what is there.

        Raises:
            FileFormatError: It can't be written.
        """
        url = self.url(path)
        system, where = connect(url)
        with told_faults(url, "written"):
            system.put_file(str(path), where)


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and not re.search(r"[\\\0]", part)


def connect(url: str) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the file.

    Raises:
        MissingExtraError: A package isn't installed.
        FileFormatError: The settings found for it are broken.
    """
    try:
        from fsspec.core import url_to_fs

        with told_faults(url, "read"):
            # Other machines write, too: no listing is true for long.
            system, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = PACKAGES[url.partition("://")[0]]
        raise MissingExtraError(
            f"{url}: {error.name or error} isn't installed; pip install '{package}'"
        ) from error
    return system, str(path).rstrip("/")


@contextmanager
def told_faults(url: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into a `FileFormatError` that says what can't be done."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        reason = "no such bucket" if "specified bucket" in str(error) else "no such file"
        raise FileFormatError(f"{url}: can't be {what}: {reason}.") from error
    except Exception as error:
        # Those of botocore, aiohttp and Google's have no common base but Exception.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        advice = CREDENTIALS.get(url.partition("://")[0])
        raise FileFormatError(
            f"{url}: can't be {what} ({reason})"
            + (f"; check the network and the credentials: {advice}." if advice else ".")
        ) from error


def replace_entries(job: _Job, change: Callable[[Entry], Entry]) -> _Job:
    """A job, or part of one, with every `Entry` in it changed."""
    changed: Any = job
    if isinstance(job, Entry):
        changed = change(job)
    elif isinstance(job, Pair):
        changed = Pair(change(job.entry), job.partner and change(job.partner))
    elif isinstance(job, tuple):
        changed = tuple(replace_entries(item, change) for item in job)
    elif isinstance(job, dict):
        changed = {key: replace_entries(item, change) for key, item in job.items()}
    return changed  # type: ignore[no-any-return]


@contextmanager
def fetched(stage: Stage, job: _Job) -> Iterator[tuple[_Job, Stage]]:
    """The files of a job, fetched into a stage of its own as long as the block lasts.

    Args:
        stage: Where they were listed; other files stay where they are.
        job: An `Entry`, a `Pair`, or tuples and dictionaries of them.

    Yields:
        The job with the files' places, and the stage of these.

    Raises:
        FileFormatError: A file can't be read.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="segfix-") as folder:
        own = Stage(Path(folder).resolve())

        def fetch(entry: Entry) -> Entry:
            if entry.problem or not stage.holds(entry.path):
                return entry
            path = moved(entry.path, stage, own)
            if not path.exists():
                own.fetch(path)
                # What made it, if a run of ours did.
                if (beside := record_path(entry.path)).exists():
                    own.fetch(moved(beside, stage, own), if_there=True)
            return replace(entry, path=path)

        yield replace_entries(job, fetch), own


def moved(path: Path, stage: Stage, own: Stage) -> Path:
    """The place of a URL in another stage; any other path stays."""
    return own.folder / path.relative_to(stage.folder) if stage.holds(path) else path
