"""`segfix refine --keep`, and what the summary says of kept ids and of little change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.formats import OffsetMap, write_offset_map
from tests.cli.commands import flat, pixels, run, run_json


@pytest.fixture
def void(offsets: Path) -> None:
    """Void beside the boundary of a.png, where it would move; b.png has 0, 1, 2."""
    ids = pixels(Path("preds/a.png"))
    ids[:8, 22:] = 255
    ids[20:] = 0
    Image.fromarray(ids).save("preds/a.png")
    ids[:8, 22:] = 2
    Image.fromarray(ids).save("preds/b.png")


@pytest.mark.usefixtures("void")
@pytest.mark.parametrize(
    ("keep", "note", "moved"),
    [
        ((), "; kept 255 in 1 of 3 (--keep none lets such ids move)", 0),
        (("--keep", "none"), "", 16),
        (("--keep", "0,255"), "; kept 0 in 2, 255 in 1 of 3 (", 0),
        (("--keep", "7"), "; nothing holds 7 of --keep", 16),
    ],
)
def test_what_is_kept_is_said(keep: tuple[str, ...], note: str, moved: int) -> None:
    before = pixels(Path("preds/a.png"))
    result = run("refine", "preds", *keep)
    assert (result.exit_code, note in result.stdout) == (0, True)
    assert ("kept" in result.stdout) == ("kept" in note)
    after = pixels(Path("refined/a.png"))
    assert ((before == 255) != (after == 255)).sum() == moved
    assert np.array_equal(pixels(Path("refined/c.png")), pixels(Path("labels/c.png")))
    # The same setting skips, another one is noticed.
    assert "3 already there" in run("refine", "preds", *keep).stdout
    other = ("--keep", "5") if not keep else ()
    assert "exists and is not what this run would make" in run("refine", "preds", *other).stderr


@pytest.mark.usefixtures("void")
def test_json_lists_what_is_kept() -> None:
    rows = run_json("refine", "preds")["done"]
    assert [row["kept"] for row in rows] == [[255], [], []]


@pytest.mark.usefixtures("offsets")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_may_be_kept(mode: str) -> None:
    colours = np.zeros((24, 40, 3), np.uint8)
    colours[:, 22:] = (224, 224, 192)
    Image.fromarray(colours).convert(mode).save("preds/a.png")
    for keep, moved in (("#E0E0c0", 0), (f"{224 + 224 * 256 + 192 * 65536}", 0), ("none", 48)):
        assert run("refine", "preds/a.png", "--keep", keep, "--overwrite").exit_code == 0
        after = pixels(Path("refined/a.png"))[..., :3]
        assert (after != colours).any(axis=2).sum() == moved


@pytest.mark.parametrize("keep", ["x", "", "1,", "#12345", "None", "1.5"])
def test_what_is_no_id_is_refused(offsets: Path, keep: str) -> None:
    result = run("refine", "preds", "--keep", keep)
    assert result.exit_code == 2
    assert "expected none, ids" in flat(result.stderr)


def test_almost_no_change_is_said_with_the_reason(offsets: Path) -> None:
    for stem in "abc":
        write_offset_map(Path(f"zero/{stem}.png"), OffsetMap(np.zeros((24, 40), np.uint8)))
    said = "; almost nothing changed in 3 of 3: the offset maps mark no boundary where"
    assert said in run("refine", "preds", "--offsets", "zero", "-o", "a").stdout
    assert "almost nothing" not in run("refine", "preds", "-o", "b").stdout
    rows = run_json("refine", "preds", "--offsets", "zero", "-o", "c")["done"]
    assert all("mark no boundary" in row["little"] for row in rows)
