"""Fix predictions in one go: look at each photograph and its prediction, and refine that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segfix.errors import ArgumentError, PairingError, require_extra, tell_some
from segfix.files import Entry, Pair, pair_entries
from segfix.files.provenance import NOT_TAKEN
from segfix.instances.listing import holds_instances
from segfix.instances.photographs import InstanceEntry
from segfix.instances.refine_files import refine_instance_files
from segfix.instances.refine_images import Form, InstanceSettings
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.sources import (
    check_folders,
    check_results,
    list_both,
    list_unpaired,
    refuse_problems,
)
from segfix.jobs.task import Job, Task, name_png
from segfix.jobs.urls import stage_urls
from segfix.network.offset_model import load
from segfix.refinement.apply import RefineSettings
from segfix.tasks.fixing import Fixing, fix_file
from segfix.tasks.predict_offsets import list_photographs, predict_task
from segfix.tasks.predictions import FileSettings
from segfix.tasks.refine import name_result

FOLDER, ENDING = "fixed", "_fixed"
"""Results of a folder go to this one, that of a file has this behind its stem."""


def fix_folder(
    images: Path | str,
    preds: Path | str,
    out: Path | str | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    settings: RefineSettings = RefineSettings(),
    reading: FileSettings = FileSettings(),
    annotations: Path | None = None,
    form: Form | None = None,
    simplify: float = 0.5,
    passes: int = 1,
    max_side: int | None = None,
    bands: Sequence[int] | None = None,
    offsets: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    **run: Any,
) -> Summary:
    """Fix a prediction or a folder of them, as `segfix fix` does.

    Args:
        images: A photograph or a folder of them; may be a URL, as `preds` and `out`.
        preds: A prediction of any kind that `refine_folder` takes, or a folder of them.
        out: Folder of the results, by default `fixed`; where `preds` is a file, the result's file,
            by default `mask_fixed.png` of any `mask.png`, here.
        weights: See `segfix.load`.
        device: See `segfix.load`.
        settings: How to refine.
        reading: How predictions are read, and what of them is written.
        annotations: COCO JSON with the file names of image ids, for instances.
        form: See `refine_folder`.
        simplify: See `refine_folder`.
        passes: How often a prediction is looked at and refined, each time what is left by the last;
            of instances, once.
        max_side: See `OffsetModel.offsets`.
        bands: See `segfix.formats.read_image`.
        offsets: Folder in which the offset maps are kept; None: they aren't.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        As `refine_folder`.

    Raises:
        ValueError: `passes` is no number from 1 on.
        SegfixError: There is nothing to fix or to pair, or the weights can't be used.
        DeviceError: The device isn't there.

    Example:
        >>> summary = fix_folder("images", "preds", "fixed")  # doctest: +SKIP
        >>> sum(row["changed"] for row in summary.done)  # doctest: +SKIP
        20812
    """
    spread = RunSettings(**run)
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    with stage_urls(images, preds, out=out or ".", recursive=recursive) as found:
        photographs, maps, place = found
        folder, name = place_results(maps, None if out is None else place, argmax=reading.argmax)
        opening = partial(load, weights, device=device)
        fixing = Fixing(
            opening, settings, reading, max_side, offsets, bands, form, simplify, passes
        )
        return fix_files(
            photographs, maps, folder, name, fixing, spread, annotations=annotations, **listed
        )


def place_results(
    preds: Path, out: Path | None, *, argmax: bool = False
) -> tuple[Path, str | None]:
    """Choose where results go.

    Args:
        preds: A prediction or a folder of them.
        out: As the user has given it; where `preds` is a file, a file or a folder.
        argmax: Whether scores become PNG files.

    Returns:
        The folder, and the name of the one result; None: results are named as their predictions.

    Raises:
        ArgumentError: The result would be of another kind than `out` says, or that is a file, and
            results need a folder.
    """
    if not preds.is_file():
        if out is not None and out.is_file():
            raise ArgumentError(
                "a file, but results go to a folder", path=f"{out}", advice="choose another with -o"
            )
        return out or Path(FOLDER), None
    ending = ".png" if argmax else preds.suffix
    if out is None:
        path = Path(preds.stem + ENDING + ending)
    elif out.is_dir() or not out.suffix:
        path = out / (preds.stem + ending)
    elif out.suffix.lower() == ending.lower():
        path = out
    else:
        raise ArgumentError(
            f"the result is a {ending} file",
            path=f"{out}",
            advice=f"results keep the kind of their prediction; name it {out.stem}{ending}, or "
            "give a folder",
        )
    return path.parent, path.name


def fix_files(
    images: Path,
    preds: Path,
    out: Path,
    name: str | None,
    fixing: Fixing,
    spread: RunSettings = RunSettings(),
    *,
    annotations: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    announce: Callable[[Sequence[Pair]], None] | None = None,
) -> Summary:
    """Fix a prediction or a folder of them, of any kind.

    Args:
        images: A photograph or a folder of them.
        preds: A prediction or a folder of them.
        out: Folder of the results.
        name: See `place_results`.
        fixing: How.
        spread: How the work is spread.
        annotations: COCO JSON with the file names of image ids, for instances.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.
        announce: Receives the pairs of label maps with their photographs before the work begins.

    Raises:
        SegfixError: There is nothing to fix or to pair.
    """
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    sources = {"PHOTO": images, "MASK": preds, "--keep-offsets": fixing.offsets}
    if name is None:
        check_folders(sources, out)
    if fixing.offsets is not None:
        check_folders({"PHOTO": images, "MASK": preds}, fixing.offsets)
    if holds_instances(preds, recursive=recursive, images=images):
        return fix_instances(
            images, preds, out, name, fixing, spread, annotations=annotations, **listed
        )
    passed = Counter[str]()
    pairs, unpaired = list_predictions(
        images, preds, out, name, argmax=fixing.reading.argmax, passed_over=passed, **listed
    )
    if announce:
        announce(pairs)
    summary = run_task(fix_task(fixing, name), pairs, out, spread, passed_over=passed)
    return replace(summary, unpaired_names=unpaired)


def list_predictions(
    images: Path,
    preds: Path,
    out: Path,
    name: str | None = None,
    *,
    argmax: bool = False,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
    passed_over: Counter[str] | None = None,
) -> tuple[list[Pair], list[str] | None]:
    """List label maps, soft predictions and arrays of masks, each with its photograph.

    Files of other kinds are counted in `passed_over`, see `list_both`.

    Returns:
        The pairs and, of folders, the photographs that are left, see `list_unpaired`.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input.
    """
    entries, photographs = list_both(
        *(images, preds, out),
        recursive=recursive,
        one_per_stem=argmax,
        naming=naming,
        passed_over=passed_over,
    )
    check_results(
        (out / (name or name_result(entry, argmax=argmax)) for entry in entries),
        (entry.path for entry in (*entries, *photographs)),
    )
    leave = NOT_TAKEN["photograph"]
    pairs = pair_entries(entries, refuse_problems(photographs), leave=leave, **(naming or {}))
    return pairs, None if preds.is_file() else list_unpaired(photographs, pairs)


def fix_task(fixing: Fixing, name: str | None = None) -> Task[Pair]:
    """Make the task of fixing label maps, soft predictions and arrays of masks.

    Args:
        fixing: How.
        name: See `place_results`.
    """

    def name_fixed(job: Job) -> str:
        return name or name_result(job, argmax=fixing.reading.argmax)

    work = partial(fix_file, fixing=fixing, model=fixing.model)
    return Task(work, "map", name_fixed, network=True, takes="label map")


def fix_instances(
    images: Path,
    preds: Path,
    out: Path,
    name: str | None,
    fixing: Fixing,
    spread: RunSettings,
    *,
    annotations: Path | None = None,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
) -> Summary:
    """Fix files of instances: all photographs are looked at before the first file is refined.

    Args:
        images: A photograph or a folder of them.
        preds: What `holds_instances` knows.
        out: Folder of the results.
        name: See `place_results`.
        fixing: How.
        spread: How the work is spread.
        annotations: COCO JSON with the file names of image ids.
        recursive: Whether to go into folders within.
        naming: Of `pair_entries`.

    Returns:
        As `refine_instance_files`; photographs that could not be looked at are failures, too. Of
        one photograph, files may hold instances of others, which stay as they are.

    Raises:
        SegfixError: There is nothing to fix or to pair, or only a share is to be fixed, or that
            several times.
    """
    if fixing.passes > 1:
        raise ArgumentError(
            "--passes is for label maps and arrays; of instances, fix the results once more."
        )
    if spread.shard:
        raise ArgumentError(
            "--shard is for label maps and arrays; of instances, share predict-offsets among "
            "machines, and refine them in the end."
        )
    listed: dict[str, Any] = {"annotations": annotations, "recursive": recursive, "naming": naming}
    place = TemporaryDirectory() if fixing.offsets is None else nullcontext(fixing.offsets)
    with place as folder, require_extra("eval"):
        offsets = Path(folder)
        looked, found, others = look_at_instances(images, preds, offsets, fixing, spread, **listed)
        if spread.max_failures and len(looked.failed) >= spread.max_failures:
            return Summary(failed=looked.failed, left=looked.left)
        drop = fixing.reading.drop_empty
        masks = InstanceSettings(fixing.refining, drop, fixing.form, fixing.simplify)
        photographs = {row["output"]: row["input"] for row in looked.done}
        listed |= {"photographs": photographs, "looked": found, "others": others}
        summary = refine_instance_files(preds, offsets, out, masks, spread, name=name, **listed)
    return replace(
        summary,
        # A file that can't be read was told before.
        failed=list(dict.fromkeys([*looked.failed, *summary.failed])),
        passed_over=summary.passed_over + looked.passed_over,
        looked=looked.done,
        unpaired_names=looked.unpaired_names,
    )


def look_at_instances(
    images: Path, preds: Path, offsets: Path, fixing: Fixing, spread: RunSettings, **listed: Any
) -> tuple[Summary, dict[str, Entry | None], Set[str]]:
    """Look at each photograph with its instances, once for each file of them.

    Args:
        images: See `fix_instances`.
        preds: See `fix_instances`.
        offsets: Folder of the offset maps.
        fixing: See `fix_instances`.
        spread: See `fix_instances`.
        listed: `annotations`, `recursive`, `naming`, see `fix_instances`.

    Returns:
        What became of the photographs, and the offset maps by `where` of their `InstanceEntry`,
        None where there is none. What has no instance is left out, and of whatever else is wrong,
        the refinement of its file tells. Last, where `images` is a photograph, the `where` of what
        is of others.

    Raises:
        PairingError: There is none to look at, and nothing is wrong either.
    """
    passed = Counter[str]()
    # What else lies in their folder, if it is the same, the refinement of the files counts.
    counted = None if images.resolve() == preds.resolve() else passed
    asked: dict[str, Path] = {}
    missing: dict[str, str] = {}
    unpaired: list[Entry] = []
    faulty = False

    def list_jobs() -> Iterator[Pair]:
        nonlocal faulty
        how: dict[str, Any] = {**listed, "passed_over": counted, "share": True, "missing": missing}
        for job in list_photographs(images, offsets, preds, **how):
            if isinstance(job.partner, InstanceEntry) and job.partner.items:
                asked[job.partner.where] = offsets / name_png(job)
                yield job if fixing.seen else Pair(job.entry, None)
            elif job.entry.problem and InstanceEntry in map(type, (job.entry, job.partner)):
                faulty = True
            elif job.entry.problem:
                unpaired.append(job.entry)

    how: dict[str, Any] = {"max_side": fixing.max_side, "bands": fixing.bands}
    task = predict_task(fixing.model, reading=fixing.seen, **how)
    looked = run_task(task, list_jobs(), offsets, spread)
    if missing and not (looked.done or looked.skipped or looked.failed or faulty):
        raise PairingError(
            f"no photograph in {images} has instances in {preds}, which has those of "
            f"{tell_some(missing.values())}; names must be equal up to a known suffix (--suffix "
            "adds one, --map pairs any names, --annotations has the file names of image ids)."
        )
    looked.passed_over += passed
    looked.unpaired_names = None if images.is_file() else list_unpaired(unpaired, ())
    made = {*(row["output"] for row in looked.done), *looked.skipped}
    found = {
        where: Entry(path, path.stem) if f"{path}" in made else None
        for where, path in asked.items()
    }
    return looked, found, missing.keys() if images.is_file() else frozenset()
