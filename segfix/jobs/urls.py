"""Files behind URLs, by fsspec: their names at once, their contents while somebody needs them.

What is behind a URL has its place in a temporary folder, see `StagedPath`. What works on files
works there, and never sees a URL: files that are listed are empty, and fetched for a job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from segfix.errors import FileFormatError, MissingExtraError
from segfix.files import Entry
from segfix.files.places import StagedPath, open_stage
from segfix.files.provenance import record_path

PACKAGES = {"s3": "segfix-refine[remote]", "gs": "gcsfs", "memory": "segfix-refine[remote]"}
"""What each kind of URL needs. All of them take a file whole or not at all."""

CREDENTIALS = {
    "s3": "AWS's own (aws configure, AWS_PROFILE, AWS_ENDPOINT_URL) are taken",
    "gs": "Google's own (gcloud auth application-default login) are taken",
}

_Job = TypeVar("_Job")


def place_url(url: str, folder: Path) -> StagedPath:
    """Find the place of a URL in a folder of `open_stage`; nothing is made or asked.

    Raises:
        FileFormatError: It is of another kind, or no plain path.
    """
    protocol, _, rest = url.partition("://")
    parts = rest.rstrip("/").split("/")
    if protocol not in PACKAGES:
        raise FileFormatError(
            "not read", path=url, advice="expected s3://, gs://, file:// or a path"
        )
    if not all(map(_is_name, parts)):
        raise FileFormatError(
            f"{url}: expected {protocol}://BUCKET/FOLDER, without empty parts, . and .."
        )
    return StagedPath(folder.joinpath(protocol, *parts))


@contextmanager
def stage_urls(
    *sources: str | Path | None, out: str | Path, recursive: bool = False
) -> Iterator[list[Any]]:
    """Turn paths and URLs into local paths as long as the block lasts.

    Args:
        sources: Files and folders that are read; of URLs, what is behind them is listed.
        out: Folder of the results.
        recursive: Whether folders within are read.

    Yields:
        The paths of the sources, None for None, and of the results.

    Raises:
        FileFormatError: A URL is of another kind, or can't be listed.
    """
    with open_stage() as stage:

        def place(given: str | Path) -> Path:
            return place_url(str(given), stage) if "://" in str(given) else Path(given)

        found = [None if source is None else place(source) for source in sources]
        for path in found:
            if isinstance(path, StagedPath):
                list_url(path, recursive=recursive)
        yield [*found, place(out)]


def list_url(path: StagedPath, *, recursive: bool) -> None:
    """Make an empty file for every file of a URL, be it a file or a folder.

    Raises:
        FileFormatError: It can't be listed. (Of what isn't there, nothing is made.)
    """
    system, root = connect(f"{path}")
    with name_faults(f"{path}", "listed"):
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


def fetch_file(path: StagedPath, *, if_there: bool = False) -> None:
    """Fetch a file to its place.

    Args:
        path: The place.
        if_there: Whether it may be missing.

    Raises:
        FileFormatError: It can't be read, or is missing.
    """
    system, where = connect(f"{path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with name_faults(f"{path}", "read"):
        try:
            system.get_file(where, str(path))
        except FileNotFoundError as error:
            path.unlink(missing_ok=True)
            # S3's words. Before a result is made that can't be kept.
            if not if_there or "specified bucket" in str(error):
                raise


def store_file(path: StagedPath) -> None:
    """Store a file, whole or not at all, and replace what is there.

    Raises:
        FileFormatError: It can't be written.
    """
    system, where = connect(f"{path}")
    with name_faults(f"{path}", "written"):
        system.put_file(str(path), where)


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and not re.search(r"[\\\0]", part)


def connect(url: str) -> tuple[Any, str]:
    """Find the file system of a URL, and what it calls the file.

    Raises:
        MissingExtraError: A package isn't installed.
        FileFormatError: The settings found for it are broken.
    """
    try:
        from fsspec.core import url_to_fs

        with name_faults(url, "read"):
            # Other machines write, too: no listing is true for long.
            system, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = PACKAGES[url.partition("://")[0]]
        raise MissingExtraError(
            f"{url}: {error.name or error} isn't installed; pip install '{package}'"
        ) from error
    return system, str(path).rstrip("/")


@contextmanager
def name_faults(url: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into a `FileFormatError` that says what can't be done."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        reason = "no such bucket" if "specified bucket" in str(error) else "no such file"
        raise FileFormatError(f"can't be {what}: {reason}", path=url) from error
    except Exception as error:
        # Those of botocore, aiohttp and Google's have no common base but Exception.
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        advice = CREDENTIALS.get(url.partition("://")[0])
        raise FileFormatError(
            f"can't be {what} ({reason})",
            path=url,
            advice=f"check the network and the credentials: {advice}" if advice else "",
        ) from error


def replace_entries(job: Any, change: Callable[[Entry], Entry]) -> Any:
    """Change every `Entry` in a job: an entry, or dataclasses, tuples and dictionaries of them."""
    if isinstance(job, Entry):
        return change(job)
    if isinstance(job, tuple):
        return tuple(replace_entries(item, change) for item in job)
    if isinstance(job, dict):
        return {key: replace_entries(item, change) for key, item in job.items()}
    if is_dataclass(job) and not isinstance(job, type):
        values = {field.name: getattr(job, field.name) for field in fields(job)}
        return replace(job, **{name: replace_entries(one, change) for name, one in values.items()})
    return job


def is_staged(job: object) -> bool:
    """Tell whether a file of a job is behind a URL."""
    staged = False

    def look(entry: Entry) -> Entry:
        nonlocal staged
        staged = staged or isinstance(entry.path, StagedPath)
        return entry

    replace_entries(job, look)
    return staged


@contextmanager
def fetch_job(job: _Job) -> Iterator[_Job]:
    """Fetch the files of a job into a folder of their own as long as the block lasts.

    Args:
        job: See `replace_entries`; local files stay where they are.

    Raises:
        FileFormatError: A file can't be read.
    """
    with open_stage() as stage:

        def fetch(entry: Entry) -> Entry:
            if entry.problem or not isinstance(entry.path, StagedPath):
                return entry
            path = place_url(f"{entry.path}", stage)
            if not path.exists():
                fetch_file(path)
                # What made it, if a run of ours did.
                if record_path(entry.path).exists():
                    fetch_file(place_url(f"{record_path(entry.path)}", stage), if_there=True)
            return replace(entry, path=path)

        yield replace_entries(job, fetch)


@contextmanager
def bring_here(job: _Job, path: Path, *, overwrite: bool) -> Iterator[tuple[_Job, Path]]:
    """Fetch what a job needs and store what it makes, where these are behind URLs.

    No more is on the disk than the job's own files, and these only meanwhile.

    Args:
        job: See `fetch_job`.
        path: Where its result goes.
        overwrite: Whether to replace an existing result, which is fetched if not: what it was made
            from is in it.

    Raises:
        FileFormatError: A file can't be fetched or stored.
    """
    with fetch_job(job) if is_staged(job) else nullcontext(job) as near:
        if not isinstance(path, StagedPath):
            yield near, path
            return
        with open_stage() as stage:
            result = place_url(f"{path}", stage)
            files = [result]
            if result.suffix.lower() != ".png":
                # What isn't PNG has its record beside it, which is stored first, as on a disk.
                files.insert(0, place_url(f"{record_path(path)}", stage))
            if not overwrite:
                for file in files:
                    fetch_file(file, if_there=True)
            yield near, result
            for file in files:
                store_file(file)
