from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segfix.evaluation.image_scores import score_image
from segfix.report.error_map import BROKEN, ERROR_COLOURS, FIXED, WRONG
from segfix.report.examples import Example, ImageRow, choose, draw_example, image_row, read_example
from segfix.report.layers import LONGEST_SIDE


def row(name: str, *miou: float | None) -> ImageRow:
    paths = tuple(Path(name) for _ in miou)
    return ImageRow(name, Path(name), paths, None, miou, (0,), (0,), 0 if None in miou else 10)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_groups_rank_by_the_images_own_change() -> None:
    rows = [row(f"r{n}", 0.5, 0.5 + n / 100) for n in range(-4, 5)] + [row("void", None, None)]
    groups = choose(rows, 3)
    assert [r.name for r in groups["Gained most"]] == ["r4", "r3", "r2"]
    assert [r.name for r in groups["Lost most"]] == ["r-4", "r-3", "r-2"]
    assert [r.name for r in groups["At random"]] == ["r-1", "r0", "r1"]


def test_what_did_not_change_neither_gained_nor_lost() -> None:
    groups = choose([row("a", 0.5, 0.5), row("b", 0.4, 0.4)], 5)
    assert list(groups) == ["At random"]


def test_no_image_is_shown_twice_and_the_seed_decides() -> None:
    rows = [row(f"r{n:03}", 0.5, 0.5 + (n - 50) / 1000) for n in range(100)]
    groups = choose(rows, 5, seed=1)
    names = [r.name for group in groups.values() for r in group]
    assert len(names) == len(set(names)) == 15
    assert groups == choose(rows, 5, seed=1)
    assert groups["At random"] != choose(rows, 5, seed=2)["At random"]
    assert choose(rows, 0) == {}


def test_one_set_shows_the_lowest_first() -> None:
    groups = choose([row("a", 0.5), row("b", 0.2), row("c", None), row("d", 0.9)], 1)
    assert [r.name for r in groups["Lowest mIoU"]] == ["b"]
    assert groups["At random"][0].name in {"a", "d"}


def test_a_row_holds_the_miou_of_the_image_over_its_own_classes() -> None:
    target = np.array([[0, 0, 1, 1, 255]], np.uint8)
    before = np.array([[0, 1, 1, 3, 3]], np.uint8)
    after = np.array([[0, 0, 3, 1, 3]], np.uint8)
    paths = (Path("t"), Path("b"), Path("a"))
    found = image_row("x", score_image(target, [before, after], paths=paths), None)
    # Class 3 is predicted, but not in the labels: it has no IoU.
    assert found.miou == pytest.approx(((1 / 2 + 1 / 3) / 2, (1 + 1 / 2) / 2))
    assert (found.fixed, found.broken, found.pixels) == ((2,), (1,), 4)
    assert found.maps == (Path("b"), Path("a"))
    assert found.gain == pytest.approx(1 / 3)


def drawn(row: ImageRow, class_names: dict[int, str] | None) -> tuple[Example, list[str]]:
    return draw_example(row, *read_example(row, 255), ignore_index=255, class_names=class_names)


@pytest.mark.parametrize("size", [(12, 16), (300, 2048)])
def test_layers_lie_on_each_other(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    target = np.zeros(size, np.uint8)
    target[:, width // 2 :] = 1
    before, after = np.zeros(size, np.uint8), target.copy()
    before[: height // 2, : width // 4] = after[: height // 2, : width // 4] = 1
    after[height // 2 :, : width // 4] = 1
    photograph = np.zeros((*size, 3), np.uint8)
    photograph[:, width // 2 :] = 255
    for name, array in (("t", target), ("b", before), ("a", after), ("p", photograph)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    found, failed = drawn(
        ImageRow(
            "x",
            tmp_path / "t.png",
            (tmp_path / "b.png", tmp_path / "a.png"),
            tmp_path / "p.png",
            (0.5, 0.6),
            (1,),
            (1,),
            height * width,
        ),
        class_names={1: "one"},
    )
    assert failed == []
    assert max(found.width, found.height) == min(LONGEST_SIDE, width)
    assert found.reduced == (width > LONGEST_SIDE)
    assert [swatch.name for swatch in found.classes] in (["0", "one"], ["one", "0"])
    assert found.photograph is not None
    (change,) = found.changes
    assert change.changes is not None
    assert decoded(found.photograph).size == (found.width, found.height)

    def pixel(uri: str, x: float, y: float) -> tuple[int, ...]:
        picture = decoded(uri).convert("RGBA")
        assert picture.size == (found.width, found.height)
        return tuple(picture.getpixel((int(x * found.width), int(y * found.height))))  # type: ignore[arg-type]

    clear = 0
    fixed, broken, wrong = ((*ERROR_COLOURS[code], 255) for code in (FIXED, BROKEN, WRONG))
    assert pixel(change.changes, 0.9, 0.5) == fixed
    assert pixel(change.changes, 0.1, 0.9) == broken
    assert pixel(change.changes, 0.1, 0.1) == wrong
    assert pixel(change.changes, 0.4, 0.5)[3] == clear
    first, second = change.errors
    assert [pixel(first, *place) for place in ((0.9, 0.5), (0.1, 0.1))] == [fixed, wrong]
    assert pixel(first, 0.1, 0.9)[3] == clear
    assert [pixel(second, *place) for place in ((0.1, 0.9), (0.1, 0.1))] == [broken, wrong]
    assert pixel(second, 0.9, 0.5)[3] == clear
    assert pixel(found.labels[1], 0.9, 0.5) == pixel(found.truth[0], 0.9, 0.5)
    assert pixel(found.labels[0], 0.9, 0.5) == pixel(found.truth[0], 0.3, 0.5)


def test_more_labels_than_a_palette_has_room_for_are_drawn(tmp_path: Path) -> None:
    ids = np.arange(400, dtype=np.uint16).reshape(20, 20).repeat(3, axis=0).repeat(3, axis=1)
    Image.fromarray(ids).save(tmp_path / "t.png")
    path = tmp_path / "t.png"
    found, _ = drawn(ImageRow("x", path, (path,), None, (1.0,), (), (), ids.size), None)
    assert len(found.classes) + found.more_classes == 399
    assert len(found.labels) == len(found.changes) == len(found.changes[0].errors) == 1
    assert found.changes[0].changes is None
    assert found.photograph is None
