"""Jobs whose files are behind URLs: fetch, do what is done with local files, store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from segfix.errors import SegfixError
from segfix.files.provenance import record_path
from segfix.jobs.run import Skipped
from segfix.jobs.urls import Stage, fetched, moved

_Job = TypeVar("_Job")


def work_remotely(
    job: _Job,
    out: Path,
    *,
    stage: Stage,
    work: Callable[[_Job, Path], dict[str, Any]],
    result: Callable[[_Job, Path], Path],
    overwrite: bool,
) -> dict[str, Any]:
    """Do a job, with no more on the disk than its own files, and these only meanwhile.

    Args:
        job: See `fetched`.
        out: Folder of the result; within the stage, it goes to that URL.
        stage: Where the files were listed.
        work: Does the job with local files.
        result: Where it puts the result.
        overwrite: Whether to replace an existing result, which is fetched if not: what it was
            made from is in it.

    Returns:
        What `work` reports, with URLs.

    Raises:
        Skipped: The result is there already.
        SegfixError: As `work`; or a file can't be fetched or stored.
    """
    try:
        with fetched(stage, job) as (near, own):
            folder, away = moved(out, stage, own), stage.holds(out)
            path = result(near, folder)
            # What isn't PNG has its record beside it, which is stored first, as on a disk.
            files = [path] if path.suffix.lower() == ".png" else [record_path(path), path]
            try:
                if away and not overwrite:
                    for file in files:
                        own.fetch(file, if_there=True)
                row: dict[str, Any] = own.told(work(near, folder))
                if away:
                    for file in files:
                        own.put(file)
            except (Skipped, SegfixError) as error:
                raise type(error)(own.told(str(error))) from error
            except OSError as error:
                name = own.told(str(error.filename or "input/output"))
                raise SegfixError(f"{name}: {error.strerror or error}.") from error
    except (Skipped, SegfixError) as error:
        raise type(error)(stage.told(str(error))) from error
    return stage.told(row)  # type: ignore[no-any-return]
