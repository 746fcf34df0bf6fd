"""The commands together: from photographs to scores, interruptions, shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segfix.cli import COMMANDS
from tests.cli.commands import pixels, run


def test_the_main_job_needs_no_option(work: Path, tiny_onnx: Path) -> None:
    predicted = run("predict-offsets", "images", "--weights", tiny_onnx)
    assert predicted.exit_code == 0
    assert "offsets: 3 written" in predicted.stdout
    assert "weights tiny on cpu" in predicted.stderr
    refined = run("refine", "preds", "--offsets")
    assert refined.exit_code == 0
    assert "refined: 3 written; 5.00% of the pixels changed" in refined.stdout
    for stem in "abc":
        truth = pixels(work / "labels" / f"{stem}.png")
        assert np.array_equal(pixels(work / "refined" / f"{stem}.png"), truth)
    scored = run("evaluate", "preds", "labels", "--against", "refined")
    assert scored.exit_code == 0
    assert "100.00 +9.55 [+9.55 +9.55]" in scored.stdout


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["refine", "preds"], "interrupted; the same command does the rest."),
        (["evaluate", "preds", "labels"], "interrupted."),
    ],
)
def test_an_interruption_says_how_to_go_on(
    offsets: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], advice: str
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for room in ("files", "tasks.refine"):
        monkeypatch.setattr(f"segfix.{room}.list_entries", stop)
    result = run(*arguments)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"segfix: {advice}\n")


def test_shares_of_a_folder_and_of_a_video_make_the_whole(clip: Path, tiny_onnx: Path) -> None:
    for source, whole in (("images", ["a", "b", "c"]), (clip, [f"{n:06d}" for n in range(1, 6)])):
        made: list[str] = []
        for share in ("1/2", "2/2"):
            out = f"{Path(source).stem}-{share[0]}"
            result = run(
                *("predict-offsets", source, "-o", out, "--weights", tiny_onnx, "--shard", share)
            )
            assert result.exit_code == 0
            made += [path.stem for path in Path(out).iterdir()]
        assert sorted(made) == whole
    last = run("predict-offsets", "images", "-o", "n", "--weights", tiny_onnx, "--shard", "9/9")
    assert (last.exit_code, last.stdout) == (0, "n: 0 written\n")


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b"])
def test_a_share_that_is_none_is_refused(work: Path, share: str) -> None:
    result = run("refine", "preds", "--shard", share)
    assert result.exit_code == 2
    assert "expected I/N with I from 1 to N" in " ".join(result.stderr.split())


def test_only_commands_that_take_videos_speak_of_them() -> None:
    for command in COMMANDS:
        told = " ".join(run(command, "--help").stdout.split())
        assert ("of videos on a CPU" in told) == (command == "predict-offsets")
