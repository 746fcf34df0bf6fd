"""Run the demo: bundled photographs and coarse label maps, refined and drawn."""

from __future__ import annotations

from pathlib import Path

from segfix.errors import SegfixError
from segfix.files import list_entries, pair_entries
from segfix.formats import IMAGE_SUFFIXES, LABEL_SUFFIXES, OFFSET_SUFFIXES
from segfix.jobs.run import Summary, run_task
from segfix.jobs.run_settings import RunSettings
from segfix.network.offset_model import load
from segfix.report.show import ShowSettings, pair_maps, show_task
from segfix.tasks.predict_offsets import predict_task
from segfix.tasks.predictions import FileSettings
from segfix.tasks.refine import refine_task


def run_demo(
    out: Path, *, device: str = "auto", overwrite: bool = False, quiet: bool = False
) -> list[Path]:
    """Predict offsets that fit the predictions, refine, and draw before and after.

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
    spread = RunSettings(workers=1, overwrite=overwrite, quiet=quiet)
    demo = Path(__file__).parents[1] / "demo"
    images = list_entries(demo / "images", IMAGE_SUFFIXES, what="images")
    preds = list_entries(demo / "preds", LABEL_SUFFIXES, what="label maps")
    task = predict_task(load(device=device), reading=FileSettings())
    collect_files(run_task(task, pair_entries(images, preds), out / "offsets", spread))
    offsets = list_entries(out / "offsets", OFFSET_SUFFIXES, what="offset maps")
    pairs = pair_entries(preds, offsets)
    collect_files(run_task(refine_task(), pairs, out / "refined", spread))
    refined = list_entries(out / "refined", LABEL_SUFFIXES, what="label maps")
    sheets = pair_maps(images, {"preds": preds, "refined": refined})
    shown = show_task(ShowSettings(("preds", "refined", "changes")))
    return collect_files(run_task(shown, sheets, out / "overlays", spread))


def collect_files(summary: Summary) -> list[Path]:
    """List all files of a run, sorted; `SegfixError` if one could not be made."""
    if summary.failed:
        raise SegfixError("; ".join(summary.failed))
    return sorted(
        Path(path) for path in (*(row["output"] for row in summary.done), *summary.skipped)
    )
