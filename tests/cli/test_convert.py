"""`segfix convert`: every format of offset maps there and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from segfix.formats import OffsetMap, read_offset_map, write_offset_map
from tests.cli.commands import pixels, run, run_json


def test_convert_goes_round_and_every_format_refines_alike(offsets: Path) -> None:
    assert run("refine", "preds", "-o", "expected").exit_code == 0
    source = "offsets"
    for file_format in ("mat", "npz", "png"):
        result = run("convert", source, "-o", file_format, "--format", file_format)
        assert (result.exit_code, result.stdout) == (0, f"{file_format}: 3 written\n")
        again = run_json("convert", source, "-o", file_format, "--format", file_format)
        assert (again["done"], len(again["skipped"])) == ([], 3)
        for options in (("-o", f"by-{file_format}"), ("-o", f"2-{file_format}", "--scale", 2)):
            assert run("refine", "preds", "--offsets", file_format, *options).exit_code == 0
        source = file_format
    for stem in "abc":
        before, after = offsets / f"{stem}.png", Path("png") / f"{stem}.png"
        assert np.array_equal(read_offset_map(after).codes, read_offset_map(before).codes)
        assert read_offset_map(after).source == read_offset_map(before).source
        for folder in ("by-mat", "by-npz", "by-png"):
            assert np.array_equal(
                pixels(Path(folder) / f"{stem}.png"), pixels(Path(f"expected/{stem}.png"))
            )
    assert run("show", "images", "--offsets", "mat").exit_code == 0
    assert run("convert", "npz", "-o", "flo", "--format", "flo").exit_code == 0
    assert run("refine", "preds", "--offsets", "flo", "--scale", 2, "-o", "2-flo").exit_code == 0
    assert np.array_equal(pixels(Path("2-flo/a.png")), pixels(Path("2-mat/a.png")))


def test_convert_redoes_what_changed_only_when_told(offsets: Path) -> None:
    run("convert", "offsets", "-o", "mat", "--format", "mat")
    shutil.copy(offsets / "a.png", "a.png")
    write_offset_map(offsets / "a.png", OffsetMap(np.zeros((24, 40), np.uint8)))
    result = run("convert", "offsets", "-o", "mat", "--format", "mat")
    assert result.exit_code == 1
    assert "failed: mat/a.mat: exists and is not what this run would make" in result.stderr
    assert run("convert", "offsets", "-o", "mat", "--format", "mat", "--overwrite").exit_code == 0
    assert not read_offset_map(Path("mat/a.mat")).codes.any()


def test_convert_names_what_is_broken_and_never_writes_where_it_reads(offsets: Path) -> None:
    (offsets / "b.png").rename(offsets / "b.mat")
    shutil.copy("labels/c.png", offsets / "c.png")
    result = run("convert", "offsets", "-o", "npz", "--format", "npz")
    assert result.exit_code == 1
    assert "failed: offsets/b.mat: not a .mat file" in result.stderr
    assert "failed: offsets/c.png: a picture, but not an offset map" in result.stderr
    assert sorted(path.name for path in Path("npz").iterdir()) == [".a.npz.segfix", "a.npz"]
    for arguments in (("-o", "offsets"), ("-o", "npz", "--format", "tiff")):
        assert run("convert", "offsets", *arguments).exit_code == 2
