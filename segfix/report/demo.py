"""The demo: bundled photographs and coarse label maps, refined and drawn."""

from __future__ import annotations

from pathlib import Path

from segfix.errors import SegfixError
from segfix.files import list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES, OFFSET_SUFFIXES
from segfix.jobs.run import Batch, Summary
from segfix.network.offset_model import load
from segfix.refinement.apply import RefineSettings
from segfix.report.show import ShowSettings, pair_maps, show_file
from segfix.tasks.predict_offsets import predict_file
from segfix.tasks.refine import refine_file


def run_demo(
    out: Path, *, device: str = "auto", overwrite: bool = False, quiet: bool = False
) -> list[Path]:
    """Predict offsets, refine, and draw before and after.

    Args:
        out: Folder that receives `offsets/`, `refined/` and `overlays/`.
        device: See `segfix.load`.
        overwrite: Whether to replace results that exist.
        quiet: No progress bars.

    Returns:
        The overlays: before, after and the changed pixels side by side.

    Raises:
        SegfixError: A file could not be made.
    """
    source = Path(__file__).parents[1] / "demo"
    images = list_entries(source / "images", IMAGE_SUFFIXES, what="images")
    preds = list_entries(source / "preds", LABEL_SUFFIXES, what="label maps")
    model = load(device=device)
    settings = RefineSettings()
    shown = ShowSettings(("preds", "refined", "changes"))
    offsets_out, refined_out, overlays_out = out / "offsets", out / "refined", out / "overlays"
    whole(
        Batch(
            images,
            lambda entry: predict_file(model, entry, offsets_out, overwrite=overwrite),
            "image",
        ).run(quiet=quiet)
    )
    offsets = list_entries(offsets_out, OFFSET_SUFFIXES, what="offset maps")
    whole(
        Batch(
            pair_entries(preds, offsets),
            lambda p: refine_file(p.entry, p.partner, refined_out, settings, overwrite=overwrite),
            "map",
        ).run(quiet=quiet)
    )
    refined = list_entries(refined_out, LABEL_SUFFIXES, what="label maps")
    return whole(
        Batch(
            pair_maps(images, {"preds": preds, "refined": refined}),
            lambda job: show_file(job, overlays_out, shown, overwrite=overwrite),
            "picture",
        ).run(quiet=quiet)
    )


def whole(summary: Summary) -> list[Path]:
    """All files of a run, sorted; `SegfixError` if one could not be made."""
    if summary.failed:
        raise SegfixError("; ".join(summary.failed))
    return sorted(
        Path(path) for path in (*(row["output"] for row in summary.done), *summary.skipped)
    )
