"""Polygons and masks of annotation tools in, the same kind out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.tasks.refine import refine_folder
from tests.cli import commands

shapely = pytest.importorskip(
    "shapely", reason="needs the extra: pip install 'segfix-refine[polygons]'"
)

from tests.cli.refine_instances.instance_files import box, out_of, refined  # noqa: E402
from tests.cli.refine_instances.tool_files import (  # noqa: E402
    TOOLS,
    WITH_MASKS,
    Ring,
    Shape,
    corners,
    mask_of,
    read_shapes,
    rest_of,
    write_cvat,
    write_label_studio,
    write_labelme,
    write_text,
    write_yolo,
)

run = partial(commands.run, "refine")
every_tool = pytest.mark.parametrize("tool", TOOLS)
BOXES = [(9, 12, 16, 18), (6, 33, 20, 21)]
SHAPES: list[Shape] = [corners(*one) for one in BOXES]
MASKS: list[Shape] = [box(*one) for one in BOXES]
SIDE_BY_SIDE: list[Shape] = [corners(6, 4, 24, 22), corners(6, 26, 24, 26)]


@every_tool
def test_without_offsets_every_byte_stays(tool: str) -> None:
    shapes = [*SHAPES, *(MASKS if tool in WITH_MASKS else [])]
    path = TOOLS[tool](shapes)
    done = run(path, "--offsets", "zeros")
    assert (done.exit_code, done.stderr) == (0, done.stderr)
    assert f"0 of {len(shapes)} instances changed" in done.stdout
    assert out_of(path).read_bytes() == path.read_bytes()
    assert "1 already there" in run(path, "--offsets", "zeros").stdout


@every_tool
def test_polygons_are_refined_and_all_else_stays(tool: str) -> None:
    path = TOOLS[tool](SHAPES)
    assert run(path, "--simplify", 0).exit_code == 0
    after = read_shapes(out_of(path))
    for old, new in zip(SHAPES, after, strict=True):
        assert isinstance(new, list)
        assert np.array_equal(mask_of(new), refined(mask_of(old)))
        assert not np.array_equal(mask_of(new), mask_of(old))
    assert rest_of(out_of(path)) == rest_of(path)
    run(path, "-o", "few")
    for old, new in zip(after, read_shapes(Path("few", path.name)), strict=True):
        edges, line = (shapely.Polygon(ring).boundary for ring in (old, new))
        assert line.hausdorff_distance(edges) <= 0.5 + 1e-4
        assert len(new) <= len(old)


@pytest.mark.parametrize("tool", WITH_MASKS)
def test_masks_are_refined_and_all_else_stays(tool: str) -> None:
    path = TOOLS[tool]([*MASKS, *SHAPES])
    assert run(path, "--scale", "1").exit_code == 0
    after = read_shapes(out_of(path))
    assert [isinstance(shape, list) for shape in after] == [False, False, True, True]
    for old, new in zip(MASKS, after[:2], strict=True):
        assert np.array_equal(new, refined(mask_of(old), scale=1))
    before = rest_of(path)
    if tool == "cvat":  # whose boxes move
        assert len(rest_of(out_of(path))) == pytest.approx(len(before), abs=8)
    else:
        assert rest_of(out_of(path)) == before


@every_tool
def test_regions_that_touch_go_on_sharing_their_vertices(tool: str) -> None:
    path = TOOLS[tool](SIDE_BY_SIDE)
    done = run(path)
    assert "2 of 2 instances changed" in done.stdout
    rings = [np.round(ring, 3) for ring in read_shapes(out_of(path))]
    one, two = map(shapely.Polygon, rings)
    labels = sum(number * mask_of(shape) for number, shape in enumerate(SIDE_BY_SIDE, 1))
    assert one.intersection(two).area == pytest.approx(0, abs=1e-6)
    border = refined(np.asarray(labels))
    expected = int((border > 0).sum())
    assert one.union(two).area == pytest.approx(expected, rel=0.02)
    shared = {tuple(point) for point in rings[0].tolist()} & set(map(tuple, rings[1].tolist()))
    assert len(shared) >= 2


@every_tool
def test_holes_and_parts_survive(tool: str) -> None:
    # Joined by cuts of no width, as Ultralytics does.
    holed: Ring = [
        *corners(9, 12, 16, 18),
        [12, 9],
        [16, 13],
        [16, 20],
        [24, 20],
        [24, 13],
        [16, 13],
    ]
    path = TOOLS[tool]([[*holed, [12, 9]], corners(6, 33, 20, 21)])
    before = mask_of(read_shapes(path)[0])
    assert before.sum() == 16 * 18 - 7 * 8
    assert run(path, "--simplify", 0).exit_code == 0
    after = read_shapes(out_of(path))[0]
    assert np.array_equal(mask_of(after), refined(before))


@pytest.mark.parametrize("tool", ["labelme", "cvat"])
@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_all_areas_are_written_in_the_form_asked_for(tool: str, form: str) -> None:
    path = TOOLS[tool]([*SHAPES, *MASKS])
    assert run(path, "--as", form, "--simplify", 0, "--offsets", "zeros").exit_code == 0
    after = read_shapes(out_of(path))
    assert {isinstance(shape, list) for shape in after} == {form == "polygons"}
    for old, new in zip([*MASKS, *MASKS], after, strict=True):
        assert np.array_equal(mask_of(new), old)


@pytest.mark.parametrize(
    ("tool", "form", "text"),
    [
        ("yolo", "rle", "YOLO's labels are polygons alone; leave --as rle out"),
        ("label_studio", "rle", "belong to controls of their own; leave --as out"),
    ],
)
def test_a_form_that_a_tool_lacks_is_refused(tool: str, form: str, text: str) -> None:
    path = TOOLS[tool](SHAPES)
    done = run(path, "--as", form)
    assert done.exit_code == 1
    assert f"{path}: " in done.stderr
    assert text in done.stderr
    assert not out_of(path).exists()


def test_a_data_set_of_ultralytics_keeps_its_layout() -> None:
    write_yolo(SHAPES)
    write_text(Path("yolo/labels/classes.txt"), "car\nbus\n")
    write_text(Path("yolo/train.txt"), "images/a.jpg\n")
    done = run("yolo")
    assert done.exit_code == 0, done.stderr
    assert "2 written" in done.stdout
    assert Path("refined/labels/a.txt").is_file()
    assert Path("refined/labels/b.txt").read_bytes() == b""
    alone = run("yolo/labels", "-o", "alone")
    assert alone.exit_code == 0
    assert Path("alone/a.txt").read_bytes() == Path("refined/labels/a.txt").read_bytes()


def test_label_maps_beside_a_yaml_file_stay_label_maps() -> None:
    Path("set/labels").mkdir(parents=True)
    write_text(Path("set/data.yaml"), "names: {0: car}")
    Image.new("L", (60, 40)).save("set/labels/a.png")
    done = run("set", "-r")
    assert (done.exit_code, done.stderr) == (0, done.stderr), done.stderr
    assert Path("refined/labels/a.png").is_file()


def test_labelmes_photographs_may_lie_beside_their_files() -> None:
    path = write_labelme(SHAPES)
    Image.new("RGB", (60, 40)).save(path.with_suffix(".png"))
    done = run("labelme")
    assert "2 of 2 instances changed" in done.stdout
    assert sorted(one.name for one in Path("refined").iterdir() if one.suffix == ".png") == []


def test_instances_that_would_vanish_are_left_out_if_asked() -> None:
    thin = corners(8, 9, 16, 1)
    for tool, write in TOOLS.items():
        path = write([thin, *SHAPES])
        kept = json.loads(run(path, "--json", "-q", "-o", f"{tool}_kept").stdout)
        assert [one["place"] for one in kept["emptied"]] == [0]
        assert len(read_shapes(Path(f"{tool}_kept", path.name))) == 3
        run(path, "--empty", "drop", "-o", f"{tool}_left")
        assert len(read_shapes(Path(f"{tool}_left", path.name))) == 2


def replaced(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    return write_text(path, text.replace(old, new))


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>'


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            lambda: replaced(write_labelme(SHAPES), '"5.5.0"', '"9.0.0"'),
            "version '9.0.0' of LabelMe",
        ),
        (lambda: replaced(write_labelme(SHAPES), '"5.5.0"', '"new"'), "version 'new' of LabelMe"),
        (lambda: replaced(write_labelme(MASKS), "iVBOR", "iVBOS"), "shapes[1] is broken"),
        (lambda: replaced(write_labelme(SHAPES), "54,", "540,"), "outside of 60×40 pixels"),
        (lambda: replaced(write_labelme(SHAPES), "54,", "NaN,"), "shapes[2] is broken"),
        (lambda: replaced(write_cvat(SHAPES), "1.1<", "2.0<"), "version '2.0'"),
        (lambda: replaced(write_cvat(SHAPES), "<meta>", "<track/><meta>"), "tracks of videos"),
        (lambda: replaced(write_cvat(SHAPES), "</annotations>", ""), "not a whole XML file"),
        (lambda: replaced(write_cvat(MASKS), 'rle="', 'rle="1, '), "runs of"),
        (lambda: replaced(write_cvat(SHAPES), "12.00,", "x,"), "image 'val/a.jpg' is broken"),
        (
            lambda: replaced(write_label_studio(SHAPES), 'width": 60', 'width": 1e999'),
            "task 31 is broken (cannot convert",
        ),
        (lambda: replaced(write_cvat(MASKS), 'rle="', 'rle="9' + 30 * "9"), "is broken"),
        (lambda: write_text(Path("cvat/a.xml"), BOMB), "not a whole XML file"),
        (lambda: write_text(Path("voc/a.xml"), "<annotation/>"), "<annotation>, but only CVAT"),
        (
            lambda: replaced(
                write_label_studio(SHAPES), '"image_rotation": 0', '"image_rotation": 90'
            ),
            "turned in the editor",
        ),
        (
            lambda: replaced(
                write_label_studio(MASKS), '"original_width": 60', '"original_width": 61'
            ),
            "task 31 is broken (a brush of 9600 bytes, not 61×40 of RGBA)",
        ),
        (
            lambda: write_text(Path("yolo/labels/a.txt"), "0 0.1 0.2 x 0.3\n"),
            "line 1 is '0 0.1 0.2 x 0.3'",
        ),
        (lambda: write_text(Path("yolo/labels/a.txt"), "0 0.1\n"), "line 1 is '0 0.1'"),
        (
            lambda: write_text(Path("yolo/labels/a.txt"), "0 12 4 30 4 30 20\n"),
            "outside of 60×40 pixels",
        ),
    ],
)
def test_a_broken_file_is_named_and_the_rest_is_done(path: Callable[[], Path], text: str) -> None:
    broken = path()
    done = run(broken)
    assert done.exit_code == 1
    assert str(broken) in done.stderr
    assert text in done.stderr
    # Of a file with sound shapes beside one that lies outside, these are refined.
    alone = broken.parent.name != "labelme" or not text.startswith("outside")
    assert out_of(broken).exists() != alone
    other = broken.with_name(f"b{broken.suffix}")
    write = TOOLS[{"voc": "cvat", "labels": "yolo"}.get(broken.parent.name, broken.parent.name)]
    good = write(SHAPES)
    whole = good.read_bytes()
    broken = path()
    other.write_bytes(whole)
    done = run(broken.parent, "--overwrite")
    assert done.exit_code == 1
    assert text in done.stderr
    assert out_of(other).is_file()


def test_outlines_that_cross_themselves_are_filled_by_turns() -> None:
    bow: Shape = [[10.0, 8], [30, 25], [30, 8], [10, 25]]
    path = write_labelme([bow])
    assert run(path, "--simplify", 0).exit_code == 0
    (after,) = read_shapes(out_of(path))
    assert np.array_equal(mask_of(after), refined(mask_of(bow)))


def test_a_photograph_that_is_not_there_is_named() -> None:
    path = replaced(write_cvat(SHAPES), 'name="val/a.jpg"', 'name="val/lost.jpg"')
    done = run(path)
    assert done.exit_code == 1
    assert f"{path}: image 'val/lost.jpg': no offset map of that name" in done.stderr


def test_files_of_two_tools_in_one_folder_are_refused() -> None:
    write_labelme(SHAPES, Path("both"))
    write_cvat(SHAPES, Path("both"))
    done = run("both")
    assert done.exit_code != 0
    assert "both: 1 .json and 1 .xml files, which are different tools'" in done.stderr
    assert not Path("refined").exists()
    # JSON says whose it is.
    write_label_studio(SHAPES, Path("json"))
    write_labelme(SHAPES, Path("json"))
    assert "4 of 4 instances changed" in run("json").stdout


@every_tool
def test_without_the_extra_one_line_says_so(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TOOLS[tool](SHAPES)
    for name in ("shapely", "defusedxml", "defusedxml.ElementTree"):
        monkeypatch.setitem(sys.modules, name, None)
    done = run(path, "-q")
    assert done.exit_code != 0
    assert "this needs the extra 'polygons'" in done.stderr
    assert "Traceback" not in done.stderr


def test_options_for_polygons_are_not_for_label_maps() -> None:
    Path("preds").mkdir()
    Image.new("L", (60, 40)).save("preds/a.png")
    for option in (["--as", "rle"], ["--simplify", "1"]):
        done = run("preds", *option)
        assert done.exit_code == 2
        assert f"{option[0]} is not for label maps" in commands.flat(done.stderr)


def test_folders_of_polygons_are_refined_from_python() -> None:
    path = write_labelme(SHAPES)
    summary = refine_folder("labelme", "offsets", "python", form="rle", simplify=0)
    assert (summary.failed, len(summary.done)) == ([], 1)
    after = read_shapes(Path("python", path.name))
    for old, new in zip(SHAPES, after, strict=True):
        assert np.array_equal(new, refined(mask_of(old)))
