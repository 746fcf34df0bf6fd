"""`segfix predict-offsets` on the frames of videos and on standard input."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from segfix.cli import predict_offsets
from segfix.cli.predict_offsets import choose_video_weights
from segfix.formats import read_offset_map
from segfix.network.weights import DEFAULT_WEIGHTS, shipped_weights
from tests.cli.commands import pixels, run, run_json


def test_each_frame_of_a_video_gets_an_offset_map(clip: Path, tiny_onnx: Path) -> None:
    result = run("predict-offsets", clip, "--weights", tiny_onnx)
    assert (result.exit_code, result.stdout) == (0, "offsets: 5 written\n")
    names = [f"{number:06d}.png" for number in range(1, 6)]
    assert sorted(path.name for path in Path("offsets").iterdir()) == names
    run("predict-offsets", "images", "--weights", tiny_onnx, "-o", "still")
    still = read_offset_map(Path("still/a.png"))
    for number, name in enumerate(names, 1):
        offset_map = read_offset_map(Path("offsets", name))
        assert np.array_equal(offset_map.codes, still.codes)
        assert offset_map.source["frame"] == number
        shutil.copy("preds/a.png", f"preds/{name}")
    for stem in "abc":
        Path(f"preds/{stem}.png").unlink()
    assert run("refine", "preds").exit_code == 0
    assert np.array_equal(pixels(Path("refined/000005.png")), pixels(Path("labels/a.png")))


def test_frames_that_are_done_are_skipped(clip: Path, tiny_onnx: Path) -> None:
    run("predict-offsets", clip, "--weights", tiny_onnx)
    Path("offsets/000003.png").unlink()
    again = run_json("predict-offsets", clip, "--weights", tiny_onnx)
    assert [row["output"] for row in again["done"]] == ["offsets/000003.png"]
    assert len(again["skipped"]) == 4
    clip.write_bytes(clip.read_bytes() + bytes(9))
    result = run("predict-offsets", clip, "--weights", tiny_onnx, "--max-failures", 2)
    assert result.exit_code == 1
    assert "offsets/000001.png: exists and is not what this run would make" in result.stderr
    assert (
        len(run_json("predict-offsets", clip, "--weights", tiny_onnx, "--overwrite")["done"]) == 5
    )


def test_a_broken_video_keeps_the_frames_before(clip: Path, tiny_onnx: Path) -> None:
    content = clip.read_bytes()
    Path("cut.mkv").write_bytes(content[: len(content) * 3 // 4])
    result = run("predict-offsets", "cut.mkv", "--weights", tiny_onnx, "-q")
    assert result.exit_code == 1
    count = len(list(Path("offsets").iterdir()))
    assert 0 < count < 5
    assert result.stderr.startswith(f"failed: cut.mkv: broken after frame {count} (cut off)")
    assert result.stderr.count("\n") == 1
    Path("text.mp4").write_text("no video")
    result = run("predict-offsets", "text.mp4", "--weights", tiny_onnx, "-o", "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("segfix: text.mp4: not a readable video (")
    assert not Path("none").exists()


def test_a_video_without_the_extra_is_advised(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    result = run("predict-offsets", clip)
    assert result.exit_code == 1
    assert "pip install 'segfix-refine[video]'" in result.stderr


def test_a_video_is_looked_at_in_8_bits_on_a_cpu(clip: Path) -> None:
    result = run("predict-offsets", clip, "--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, f"weights {DEFAULT_WEIGHTS}_int8 on cpu\n")
    source = read_offset_map(Path("offsets/000001.png")).source
    assert source["weights"] == f"{DEFAULT_WEIGHTS}_int8"
    run("predict-offsets", "images", "--weights", f"{DEFAULT_WEIGHTS}_int8", "-o", "still")
    still = read_offset_map(Path("still/a.png"))
    assert np.array_equal(read_offset_map(Path("offsets/000001.png")).codes, still.codes)


def test_a_video_is_looked_at_as_exactly_as_may_be_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert choose_video_weights("cuda:1") is None
    monkeypatch.setattr("segfix.network.session.has_nvidia_driver", lambda: True)
    assert choose_video_weights("auto") is None
    assert choose_video_weights("cpu") in shipped_weights()


def test_large_frames_are_told_what_makes_them_faster(
    clip: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict-offsets", clip, "--weights", tiny_onnx, "--overwrite")
    assert "--max-side" not in run(*command).stderr
    monkeypatch.setattr(predict_offsets, "LARGE_FRAME", 900)
    lines = run(*command).stderr.splitlines()
    assert len(lines) == 2
    assert "frames of 40×24 take seconds each on a CPU; --max-side 20 takes a quarter" in lines[1]
    for options in (("-q",), ("--max-side", 20)):
        assert "--max-side" not in run(*command, *options).stderr


def test_a_video_is_not_for_ray(clip: Path) -> None:
    result = run("predict-offsets", clip, "--engine", "ray")
    assert result.exit_code == 2
    assert "share it among machines with --shard" in " ".join(result.stderr.split())


def run_stream(content: bytes, *arguments: object) -> Result:
    return run("predict-offsets", "-", *arguments, stdin=content)


def test_a_photograph_streams_through(offsets: Path, tiny_onnx: Path) -> None:
    result = run_stream(Path("images/a.png").read_bytes(), "--weights", tiny_onnx)
    assert (result.exit_code, result.stderr) == (0, "weights tiny on cpu\n")
    assert result.stdout_bytes == (offsets / "a.png").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_stream_gives_one_line_and_no_output(
    work: Path, tiny_onnx: Path, content: bytes
) -> None:
    result = run_stream(content, "--weights", tiny_onnx, "-q")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert result.stderr.startswith("segfix: standard input: ")
    assert result.stderr.count("\n") == 1


def test_a_photograph_beyond_the_limit_of_bytes_is_told(work: Path, tiny_onnx: Path) -> None:
    result = run_stream(bytes(101), "--weights", tiny_onnx, "-q", "--max-bytes", "100")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")
    assert result.stderr == (
        "segfix: standard input: more than 100 bytes; --max-bytes allows more.\n"
    )


def test_a_stream_has_no_folder_and_no_json(work: Path, tiny_onnx: Path) -> None:
    for arguments in (("-o", "out"), ("--json",)):
        result = run_stream(b"", "--weights", tiny_onnx, *arguments)
        assert (result.exit_code, result.stdout_bytes) == (2, b"")
        assert f"{arguments[0]} has no use with -" in result.stderr


def test_frames_and_streams_are_reduced_too(clip: Path, tiny_onnx: Path) -> None:
    options = ("--weights", tiny_onnx, "--max-side", 20)
    assert run("predict-offsets", clip, *options).exit_code == 0
    run("predict-offsets", "images", *options, "-o", "still")
    frame, still = (read_offset_map(Path(name)) for name in ("offsets/000002.png", "still/a.png"))
    assert np.array_equal(frame.codes, still.codes)
    assert frame.source["max_side"] == still.source["max_side"] == 20
    assert len(run_json("predict-offsets", clip, *options)["skipped"]) == 5
    streamed = run_stream(Path("images/a.png").read_bytes(), *options)
    assert streamed.stdout_bytes == Path("still/a.png").read_bytes()
