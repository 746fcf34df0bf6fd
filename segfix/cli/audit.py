"""segfix audit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from segfix.cli import options
from segfix.cli.outcome import finish
from segfix.cli.predict_offsets import load_model


@click.command()
@click.argument("images", type=options.any_path)
@click.argument("labels", type=options.any_path)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("audit"),
    show_default=True,
    help="Folder for the page, the lists and the offset maps.",
)
@options.void
@click.option("--key", metavar="NAME", help="Array of .npz files. [default: the largest]")
@click.option(
    "--examples",
    type=click.IntRange(0, 500),
    default=24,
    show_default=True,
    metavar="N",
    help="Label maps that the page shows.",
)
@options.naming
@options.weights
@options.device
@options.bands
@options.batch
def audit(
    images: Path,
    labels: Path,
    out: Path,
    ignore_index: int,
    key: str | None,
    examples: int,
    naming: dict[str, Any],
    weights: str | None,
    device: str,
    bands: tuple[int, ...] | None,
    batch: options.BatchOptions,
) -> None:
    """Rank label maps by how surely their photographs contradict them.

    For those who clean a data set: LABELS are its label maps, IMAGES their photographs. The page
    audit.html shows where the worst are likely wrong, audit.csv and audit.json list all, with the
    regions in each. The offset maps in offsets/ are what 'segfix refine LABELS --offsets' takes to
    make the suspected corrections.

    Shifted maps, maps of another photograph and careless outlines come first; a wrong label within
    right boundaries is not found.
    """
    with options.missing_extra("report"):
        import jinja2  # noqa: F401
    from segfix.evaluation.checks import check_void_of
    from segfix.instances.listing import holds_instances
    from segfix.jobs.run import run_task
    from segfix.report.audit_page import check_files, write_audit
    from segfix.tasks.audit import OFFSETS, audit_task, pair_labels, rank_maps

    if holds_instances(labels, recursive=batch.recursive, images=images):
        raise click.UsageError(f"{labels} holds instances, and label maps are audited.")
    passed = Counter[str]()
    pairs, unpaired = pair_labels(
        images, labels, out, recursive=batch.recursive, naming=naming, passed_over=passed
    )
    maps = [pair.entry for pair in pairs if pair.partner]
    check_void_of(maps, labels, ignore_index, given=options.is_void_given(), key=key)
    check_files(out, overwrite=batch.overwrite)
    model = load_model(weights, device, batch)
    task = audit_task(model, ignore_index=ignore_index, key=key, bands=bands)
    summary = run_task(task, pairs, out / OFFSETS, batch, passed_over=passed)
    summary.unpaired_names = unpaired
    if batch.shard is not None:
        note = "; when all shares are done, the same command without --shard writes the page"
        finish(summary, out, batch, note=note, partner="label map")
        return
    ranked = rank_maps(pairs, summary, out / OFFSETS)
    sources = {"IMAGES": f"{images}", "LABELS": f"{labels}"}
    failed = list(summary.failed)
    if ranked:
        summary.failed += write_audit(
            out, ranked, sources=sources, failed=failed, examples=examples
        )
    note = f"; {out / 'audit.html'} shows the worst"
    finish(summary, out, batch, note=note, partner="label map", weights=model.source)
