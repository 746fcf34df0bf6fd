"""Fix one prediction: look at it and at its photograph, and refine it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segfix.errors import SegfixError
from segfix.files import Entry, Pair
from segfix.formats import read_offset_map
from segfix.instances.refine_images import Form
from segfix.jobs.task import Output, Row, Skipped, leave_own, name_png
from segfix.network.offset_model import OffsetModel
from segfix.refinement.apply import RefineSettings
from segfix.tasks.predict_offsets import predict_file
from segfix.tasks.predictions import RESIZE, FileSettings
from segfix.tasks.refine import Begun, check_passes, name_result, refine_file, start_record


@dataclass(frozen=True)
class Fixing:
    """How predictions are fixed.

    Attributes:
        load: Loads the network, once it is known what there is to do; one that looks at photographs
            alone does so.
        refining: How to refine.
        reading: How predictions are read, and what of them is written.
        max_side: See `OffsetModel.offsets`.
        offsets: Folder in which the offset maps are kept; None: they aren't.
        bands: See `segfix.formats.read_image`.
        form: Of `InstanceSettings`.
        simplify: Of `InstanceSettings`.
        passes: How often a prediction is looked at and refined, each time what is left by the last.
    """

    load: Callable[[], OffsetModel]
    refining: RefineSettings = RefineSettings()
    reading: FileSettings = FileSettings()
    max_side: int | None = None
    offsets: Path | None = None
    bands: Sequence[int] | None = None
    form: Form | None = None
    simplify: float = 0.5
    passes: int = 1

    def __post_init__(self) -> None:
        check_passes(self.passes)

    @cached_property
    def model(self) -> OffsetModel:
        """Return the network."""
        return self.load()

    @property
    def seen(self) -> FileSettings | None:
        """Return how the network's predictions are read; None: it looks at none."""
        return self.reading if self.model.conditioned else None


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


def fix_file(pair: Pair, output: Output, *, fixing: Fixing, model: OffsetModel) -> Row:
    """Fix one label map, soft prediction or array of masks.

    Args:
        pair: The prediction and its photograph.
        output: The refined file.
        fixing: How.
        model: The network, loaded.

    Returns:
        As `refine_file`, the `photograph` and the `passes`.
    """
    prediction, photograph = pair.entry, pair.partner
    if photograph is None:
        raise SegfixError(
            "no photograph of that name",
            path=prediction.path,
            advice="say with --map or --suffix which one it is",
        )
    leave_own(photograph, "photograph")
    record = start_record(prediction.path, fixing.refining, fixing.reading, fixing.passes)
    seen: dict[str, Any] = {"model": model, "max_side": fixing.max_side, "bands": fixing.bands}
    with ExitStack() as stack:
        folder = fixing.offsets or stack.enter_context(TemporaryDirectory())
        path = Path(folder, name_png(photograph))
        look = Look(path, output.overwrite, refined=output, record=record)
        job = Pair(photograph, prediction if fixing.seen else None)
        try:
            looked = predict_file(job, look, reading=fixing.seen, **seen)
        except Skipped as there:
            # A kept offset map is there already, not the refined file.
            if str(there) != f"{path}":
                raise
            looked = {}
        except SegfixError as error:
            if error.advice != RESIZE:
                raise
            # A look at the photograph alone tells which --fit would explain the size.
            path = Path(stack.enter_context(TemporaryDirectory()), "offsets.png")
            looked = predict_file(Pair(photograph, None), Output(path), **seen)
        like = f"photograph {photograph.path}"
        refining: dict[str, Any] = {"settings": fixing.refining, "like": like}
        looked_at = Pair(prediction, Entry(path, path.stem))
        begun = None
        if fixing.passes > 1:
            begun = Begun(prediction, {**record, "source": read_offset_map(path).source})
        for _ in range(fixing.passes - 1):
            between = Path(stack.enter_context(TemporaryDirectory()))
            looked_at = pass_once(looked_at, photograph, between, fixing, refining, seen)
        row = refine_file(looked_at, output, reading=fixing.reading, begun=begun, **refining)
    # With --fit, the network has seen it resized.
    scaling = {"scaling": looked["scaling"]} if "scaling" in looked else {}
    fixed = {"photograph": f"{photograph.path}", "passes": fixing.passes}
    return {**row, **scaling, **fixed, "other_prediction": False}


def pass_once(
    looked_at: Pair,
    photograph: Entry,
    folder: Path,
    fixing: Fixing,
    refining: Mapping[str, Any],
    seen: Mapping[str, Any],
) -> Pair:
    """Refine a prediction as a whole, and look at what is left.

    Args:
        looked_at: The prediction and its offset map.
        photograph: Its photograph.
        folder: Where what is made goes.
        fixing: How.
        refining: Of `refine_file`.
        seen: Of `predict_file`.

    Returns:
        The refined prediction, of the same kind, and its offset map.
    """
    whole = replace(fixing.reading, argmax=False, drop_empty=False)
    refined = folder / f"refined{Path(name_result(looked_at)).suffix}"
    refine_file(looked_at, Output(refined), reading=whole, **refining)
    left, offsets = Entry(refined, refined.stem), folder / "offsets.png"
    job = Pair(photograph, left if fixing.seen else None)
    predict_file(job, Output(offsets), reading=fixing.seen, **seen)
    return Pair(left, Entry(offsets, offsets.stem))
