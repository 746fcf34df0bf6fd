"""The demo: bundled photographs and coarse label maps, refined and drawn."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from segfix.errors import SegfixError
from segfix.formats import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    list_entries,
    pair_entries,
    read_image,
    read_label_map,
)
from segfix.formats.files import atomic_path
from segfix.inference.batch import Batch, output_path
from segfix.inference.model import load
from segfix.inference.predict import predict_file
from segfix.inference.refine import RefineSettings, refine_file
from segfix.report.overlay import before_after


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
    offsets_out, refined_out = out / "offsets", out / "refined"
    predicted = Batch(
        images, lambda entry: predict_file(model, entry, offsets_out, overwrite=overwrite), "image"
    ).run(quiet=quiet)
    offsets = list_entries(offsets_out, LABEL_SUFFIXES, what="offset maps")
    refined = Batch(
        pair_entries(preds, offsets),
        lambda p: refine_file(p.entry, p.partner, refined_out, settings, overwrite=overwrite),
        "map",
    ).run(quiet=quiet)
    failed = predicted.failed + refined.failed
    if failed:
        raise SegfixError("; ".join(failed))
    drawn = []
    for pair in pair_entries(images, preds):
        if pair.partner is None:
            continue
        path = output_path(out / "overlays", pair.entry.stem)
        drawn.append(path)
        if path.exists() and not overwrite:
            continue
        before, after = (
            read_label_map(map_path).ids()
            for map_path in (pair.partner.path, output_path(refined_out, pair.partner.stem))
        )
        panels = before_after(read_image(pair.entry.path), before, after)
        with atomic_path(path) as temporary:
            Image.fromarray(panels).save(temporary)
    return drawn
