"""The same inputs give the same bytes, whatever the number of workers and the order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from segfix.cli import main


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("inputs", "command"),
    [
        ("images", ("predict-offsets", "{}")),
        ("preds", ("refine", "{}")),
        ("preds", ("refine", "{}", "--iterate", "--argmax")),
        ("labels", ("targets", "{}")),
        ("offsets", ("convert", "{}", "--format", "mat")),
        ("offsets", ("convert", "{}", "--format", "npz")),
        ("images", ("show", "{}", "--labels", "labels", "--offsets", "offsets")),
    ],
)
def test_neither_workers_nor_order_change_a_byte(
    faults: ModuleType, scene: Path, tiny_onnx: Path, inputs: str, command: tuple[str, ...]
) -> None:
    if "--argmax" in command:
        for path in [*Path("preds").iterdir()]:
            if path.stem not in ("02", "03"):
                path.unlink()
    more = ("--weights", tiny_onnx) if command[0] == "predict-offsets" else ()

    def make(out: str, source: Path, *options: object) -> None:
        run(*(part.format(source) for part in command), *more, "-q", "-o", out, *options)

    make("one", Path(inputs), "--workers", 1)
    make("four", Path(inputs), "--workers", 4)
    for path in sorted(Path(inputs).iterdir(), reverse=True):
        if not path.name.startswith("."):
            make("backwards", path)
    expected = faults.files_in(Path("one"))
    assert expected
    assert faults.files_in(Path("four")) == expected
    assert faults.files_in(Path("backwards")) == expected


@pytest.mark.parametrize("name", ["coco/results.json", "panoptic/p.json"])
def test_workers_change_no_instance(faults: ModuleType, scene: Path, name: str) -> None:
    for workers in (1, 4):
        run("refine", name, "-q", "-o", f"out{workers}", "--workers", workers)
    assert faults.files_in(Path("out1")) == faults.files_in(Path("out4"))


@pytest.mark.parametrize("form", ["--json", "--csv", "--errors"])
def test_scores_are_the_same_with_any_number_of_workers(scene: Path, form: str) -> None:
    Path("preds/06.webp").unlink()
    Path("labels/06.png").unlink()
    run("refine", "preds", "-q")
    command = ("evaluate", "preds", "labels", "--against", "refined=refined", form, "-q")
    texts = {run(*command, "--workers", workers) for workers in (1, 3, 4)}
    assert len(texts) == 1
    if form == "--json":
        assert json.loads(texts.pop())["images"] == 6


def test_the_report_is_the_same_with_any_number_of_workers(scene: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra: pip install 'segfix-refine[report]'")
    Path("preds/06.webp").unlink()
    Path("labels/06.png").unlink()
    for workers in (1, 4):
        command = ("report", "preds", "labels", "--images", "images", "--against", "again=preds")
        run(*command, "-q", "-o", f"{workers}.html", "--workers", workers)
    # Each says when and by which command it was made.
    own = re.compile(r"-o \d\.html|--workers \d|\d{4}-\d\d-\d\d \d\d:\d\d")
    one, four = (own.sub("", Path(f"{n}.html").read_text(encoding="utf-8")) for n in (1, 4))
    assert one == four
