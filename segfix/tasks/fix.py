"""Fix predictions in one go: look at each photograph and its prediction, and refine that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segfix.errors import ArgumentError, PairingError, SegfixError, require_extra
from segfix.files import Entry, Pair, list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES
from segfix.instances.listing import holds_instances
from segfix.instances.photographs import InstanceEntry
from segfix.instances.refine_files import refine_instance_files
from segfix.instances.refine_images import NO_OFFSETS, InstanceSettings
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.jobs.sources import check_folders, check_results, refuse_problems
from segfix.jobs.task import Job, Output, Row, Skipped, Task, name_png
from segfix.jobs.urls import stage_urls
from segfix.network.offset_model import OffsetModel, load
from segfix.refinement.apply import RefineSettings
from segfix.tasks.predict_offsets import RESIZE, list_photographs, predict_file, predict_task
from segfix.tasks.refine import FileSettings, name_result, refine_file, start_record

FOLDER, ENDING = "fixed", "_fixed"
"""Where results go: of a folder to this one, of a file beside it, with this behind its stem."""

NO_PHOTOGRAPH = (
    "no photograph of that name that could be looked at; say with --map or --suffix which one it is"
)

FIT = "--fit image enlarges or reduces the prediction to that, --fit labels keeps its size"


@dataclass(frozen=True)
class Fixing:
    """How predictions are fixed.

    Attributes:
        model: The network; one that looks at photographs alone does so.
        refining: How to refine.
        reading: How predictions are read, and what of them is written.
        max_side: See `OffsetModel.offsets`.
        offsets: Folder in which the offset maps are kept; None: they aren't.
    """

    model: OffsetModel
    refining: RefineSettings = RefineSettings()
    reading: FileSettings = FileSettings()
    max_side: int | None = None
    offsets: Path | None = None

    @property
    def seen(self) -> FileSettings | None:
        """Return how the network's predictions are read; None: it looks at none."""
        return self.reading if self.model.conditioned else None


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
    max_side: int | None = None,
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
            by default beside it (`mask_fixed.png` of `mask.png`).
        weights: See `segfix.load`.
        device: See `segfix.load`.
        settings: How to refine.
        reading: How predictions are read, and what of them is written.
        annotations: COCO JSON with the file names of image ids, for instances.
        max_side: See `OffsetModel.offsets`.
        offsets: Folder in which the offset maps are kept; None: they aren't.
        recursive: Whether to go into folders within.
        naming: `suffixes` and `name_map` of `segfix.files.pair_entries`.
        run: `workers`, `shard`, `overwrite`, `max_failures`, `quiet` of
            `segfix.jobs.run_settings.RunSettings`.

    Returns:
        As `refine_folder`.

    Raises:
        SegfixError: There is nothing to fix or to pair, or the weights can't be used.
        DeviceError: The device isn't there.

    Example:
        >>> summary = fix_folder("images", "preds", "fixed")  # doctest: +SKIP
        >>> sum(row["changed"] for row in summary.done)  # doctest: +SKIP
        20812
    """
    spread = RunSettings(**run)
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    # Beside a file behind a URL, results go there.
    beside = preds if out is None else out
    with stage_urls(images, preds, out=beside, recursive=recursive) as (photographs, maps, place):
        folder, name = place_results(maps, None if out is None else place, argmax=reading.argmax)
        fixing = Fixing(load(weights, device=device), settings, reading, max_side, offsets)
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
        ArgumentError: The result would be of another kind than `out` says.
    """
    if not preds.is_file():
        return out or Path(FOLDER), None
    ending = ".png" if argmax else preds.suffix
    if out is None:
        path = preds.with_name(preds.stem + ENDING + ending)
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

    Raises:
        SegfixError: There is nothing to fix or to pair.
    """
    listed: dict[str, Any] = {"recursive": recursive, "naming": naming}
    sources = {"IMAGES": images, "PREDS": preds, "--keep-offsets": fixing.offsets}
    if name is None:
        check_folders(sources, out)
    if fixing.offsets is not None:
        check_folders({"IMAGES": images, "PREDS": preds}, fixing.offsets)
    if holds_instances(preds, recursive=recursive):
        return fix_instances(
            images, preds, out, name, fixing, spread, annotations=annotations, **listed
        )
    pairs = list_predictions(images, preds, out, name, argmax=fixing.reading.argmax, **listed)
    return run_task(fix_task(fixing, name), pairs, out, spread)


def list_predictions(
    images: Path,
    preds: Path,
    out: Path,
    name: str | None = None,
    *,
    argmax: bool = False,
    recursive: bool = False,
    naming: Mapping[str, Any] | None = None,
) -> list[Pair]:
    """List label maps, soft predictions and arrays of masks, each with its photograph.

    Raises:
        PairingError: There is nothing to list or to pair.
        ArgumentError: A result would replace an input.
    """
    entries = list_entries(
        preds,
        LABEL_SUFFIXES,
        what="predictions",
        recursive=recursive,
        leave_out=[out, images],
        one_per_stem=argmax,
    )
    photographs = list_entries(
        images, IMAGE_SUFFIXES, what="images", recursive=recursive, leave_out=[out, preds]
    )
    check_results(
        (out / (name or name_result(entry, argmax=argmax)) for entry in entries),
        (entry.path for entry in (*entries, *photographs)),
    )
    return pair_entries(entries, refuse_problems(photographs), **(naming or {}))


def fix_task(fixing: Fixing, name: str | None = None) -> Task[Pair]:
    """Make the task of fixing label maps, soft predictions and arrays of masks.

    Args:
        fixing: How.
        name: See `place_results`.
    """

    def name_fixed(job: Job) -> str:
        return name or name_result(job, argmax=fixing.reading.argmax)

    return Task(partial(fix_file, fixing=fixing), "map", name_fixed, network=True)


@dataclass(frozen=True, kw_only=True)
class Look(Output):
    """The offset map on the way to a refined file: made if that is to be made.

    Attributes:
        refined: The refined file.
        record: Of the refined file, as far as it is known before anything was looked at.
    """

    refined: Output
    record: Mapping[str, Any]

    def check(self, record: dict[str, Any], *, following: Iterable[str] = ()) -> None:
        """Check the refined file first; see `Output.check`."""
        self.refined.check({**self.record, **record}, following=following)
        super().check(record, following=following)


def fix_file(pair: Pair, output: Output, *, fixing: Fixing) -> Row:
    """Fix one label map, soft prediction or array of masks.

    Args:
        pair: The prediction and its photograph.
        output: The refined file.
        fixing: How.

    Returns:
        As `refine_file`, and the `photograph`.
    """
    prediction, photograph = pair.entry, pair.partner
    if photograph is None:
        raise SegfixError(
            "no photograph of that name",
            path=prediction.path,
            advice="say with --map or --suffix which one it is",
        )
    record = start_record(prediction.path, fixing.refining, fixing.reading)
    place = TemporaryDirectory() if fixing.offsets is None else nullcontext(fixing.offsets)
    with place as folder:
        path = Path(folder, name_png(photograph))
        look = Look(path, output.overwrite, refined=output, record=record)
        job = Pair(photograph, prediction if fixing.seen else None)
        try:
            predict_file(
                job, look, model=fixing.model, max_side=fixing.max_side, reading=fixing.seen
            )
        except Skipped as there:
            # A kept offset map is there already, not the refined file.
            if str(there) != f"{path}":
                raise
        except SegfixError as error:
            if error.advice != RESIZE:
                raise
            raise SegfixError(
                error.found, path=error.path, expected=error.expected, advice=FIT
            ) from error
        job = Pair(prediction, Entry(path, photograph.stem))
        row = refine_file(job, output, settings=fixing.refining, reading=fixing.reading)
    # With --fit, the network has seen it resized.
    return {**row, "photograph": f"{photograph.path}", "other_prediction": False}


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
        As `refine_instance_files`; photographs that could not be looked at are failures, too.

    Raises:
        SegfixError: There is nothing to fix or to pair, or only a share is to be fixed.
    """
    if spread.shard:
        raise ArgumentError(
            "--shard is for label maps and arrays; of instances, share predict-offsets among "
            "machines, and refine them in the end."
        )
    listed: dict[str, Any] = {"annotations": annotations, "recursive": recursive, "naming": naming}
    place = TemporaryDirectory() if fixing.offsets is None else nullcontext(fixing.offsets)
    with place as folder, require_extra("eval"):
        offsets = Path(folder)
        # What has no instance is not to be refined, and of whatever else is wrong, the refinement
        # of its file tells.
        jobs = (
            job if fixing.seen else Pair(job.entry, None)
            for job in list_photographs(images, offsets, preds, **listed)
            if isinstance(job.partner, InstanceEntry) and job.partner.items
        )
        task = predict_task(fixing.model, max_side=fixing.max_side, reading=fixing.seen)
        looked = run_task(task, jobs, offsets, spread)
        if not (looked.done or looked.skipped):
            if looked.failed:
                return looked
            raise PairingError(
                f"no photograph in {images} has instances in {preds}; names must be equal up to a "
                "known suffix (--suffix adds one, --map pairs any names, --annotations has the "
                "file names of image ids)."
            )
        if spread.max_failures and len(looked.failed) >= spread.max_failures:
            return Summary(failed=looked.failed, left=looked.left)
        masks = InstanceSettings(fixing.refining, drop_empty=fixing.reading.drop_empty)
        summary = refine_instance_files(preds, offsets, out, masks, spread, name=name, **listed)
    failed = (text.replace(NO_OFFSETS, NO_PHOTOGRAPH) for text in summary.failed)
    return replace(summary, failed=[*looked.failed, *failed])
