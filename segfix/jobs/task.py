"""One file made of others: where it goes, whether it is there already, and who makes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from segfix.errors import FileFormatError, PassedOverError, SegfixError
from segfix.files import Entry
from segfix.files.atomic import check_writable
from segfix.files.provenance import NOT_TAKEN, is_whole, own_kind, read_record
from segfix.files.reading import check_regular
from segfix.jobs.urls import bring_here

Row = dict[str, Any]
"""What is reported of a file that was made."""


class Job(Protocol):
    """An `Entry`, or what has one: the file that is worked on, perhaps with others beside it."""

    @property
    def entry(self) -> Entry:
        """The file that the result is named after."""


_Job = TypeVar("_Job", bound=Job)


class Skipped(Exception):  # noqa: N818 - it reports, nothing failed
    """Raised by work on a file whose output is there already."""


@dataclass(frozen=True)
class Output:
    """The file that a job makes.

    Attributes:
        path: Where it goes.
        overwrite: Whether to replace whatever is there.
    """

    path: Path
    overwrite: bool = False

    def check(self, record: dict[str, Any], *, following: Iterable[str] = ()) -> None:
        """Decide whether it is to be made: it is missing, or one of ours cut short.

        Args:
            record: Entries of the record it will get, which settle that it was made from the same
                with the same settings.
            following: Of entries that are dictionaries, keys whose values follow from the others'.

        Raises:
            Skipped: It is there, whole, and made from the same input with the same settings.
            SegfixError: Something else is there, or it can't be written.
        """
        check_regular(self.path)
        try:
            missing = not self.path.exists() or not self.path.stat().st_size
        except OSError as error:
            raise FileFormatError(error.strerror or str(error), path=self.path) from error
        if self.overwrite or missing:
            check_writable(self.path)
            return
        try:
            found = json.loads(read_record(self.path) or "null")
            ours = all(key in found for key in record)
            same = ours and all(_without(found[key], following) == record[key] for key in record)
        except (TypeError, ValueError):
            ours = same = False
        whole = is_whole(self.path)
        if same and whole:
            raise Skipped(f"{self.path}")
        if not ours or whole:
            raise SegfixError(
                "exists and is not what this run would make",
                path=self.path,
                advice="--overwrite replaces it, -o writes elsewhere",
            )
        check_writable(self.path)


def _without(value: Any, keys: Iterable[str]) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if key not in keys}


def name_png(job: Job) -> str:
    """Name the PNG file that is made of a job, as a path below the folder of the results."""
    return f"{job.entry.stem}.png"


@dataclass(frozen=True)
class Task(Generic[_Job]):
    """What is done with every job of a run.

    Attributes:
        work: Makes the output of a job and reports it; checks first whether it is there.
        unit: What a job is, for the progress bar.
        name: Path of a job's result below the folder of the results.
        network: Whether one network does the work on all cores: two workers are enough, one of
            which reads and writes.
        processes: Whether work changes nothing in this process, so that others may do it.
        takes: What a job's file is, of `NOT_TAKEN`: other files of ours are left; "": none is.
    """

    work: Callable[[_Job, Output], Row]
    unit: str
    name: Callable[[_Job], str] = name_png
    network: bool = False
    processes: bool = False
    takes: str = ""

    def do(self, job: _Job, out: Path, *, overwrite: bool = False) -> Row:
        """Make the result of a job.

        Args:
            job: What is worked on; files behind URLs are fetched as long as it takes.
            out: Folder of the results; where it is one behind a URL, the result is stored there.
            overwrite: Whether to replace an existing result.

        Returns:
            Paths of the `input` and the `output`, and what the work reports.

        Raises:
            Skipped: The result is there already.
            PassedOverError: The file is a result of ours that this task doesn't take.
            SegfixError: A file is missing or broken, or can't be written.
        """
        if job.entry.problem:
            leave_own(job.entry, self.takes)
            raise SegfixError(job.entry.problem)
        with bring_here(job, out / self.name(job), overwrite=overwrite) as (near, path):
            leave_own(near.entry, self.takes)
            row = {"input": f"{job.entry.path}", "output": f"{path}"}
            return row | self.work(near, Output(path, overwrite))


def leave_own(entry: Entry, takes: str) -> None:
    """Refuse a file of ours that isn't what is taken; see `Task`.

    Raises:
        PassedOverError: It is such a file.
    """
    kind = own_kind(entry.path) if takes else None
    if kind in NOT_TAKEN.get(takes, ()):
        article = "an" if kind[0] in "aeiou" else "a"
        other = "an" if takes[0] in "aeiou" else "a"
        raise PassedOverError(
            f"{article} {kind}, not {other} {takes}",
            kind=kind,
            path=entry.path,
            advice="give another folder",
        )
