"""Scores of replicas: those of files in which the images stand as often as they count."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segfix.evaluation import evaluate_instances
from segfix.evaluation.instance_sets import compare_instances
from segfix.instances.replicas import draw_images
from tests.instances import blobs, scenes

pytest.importorskip("pycocotools", reason="needs the extra: pip install 'segfix-refine[eval]'")
pytest.importorskip(
    "cityscapesscripts", reason="needs the extra: pip install 'segfix-refine[eval]'"
)

REPLICAS = 4


def repeat_json(preds: Path, labels: Path, times: list[int], folder: Path) -> tuple[Path, Path]:
    """Results or panoptic tables in which image 1 + i stands `times[i]` times."""
    paths = []
    for path in (preds, labels):
        document = json.loads(path.read_text())
        items = document if isinstance(document, list) else document["annotations"]
        copies: list[Any] = []
        images: list[int] = []
        for image, number in enumerate(times, 1):
            for _ in range(number):
                images.append(len(images) + 1)
                copies += [
                    {**item, "image_id": images[-1], "id": len(copies) + k}
                    for k, item in enumerate((i for i in items if i["image_id"] == image), 1)
                ]
        if isinstance(document, dict):
            sizes = {image["id"]: image for image in document.get("images", [])}
            numbers = [image for image, number in enumerate(times, 1) for _ in range(number)]
            listed = [
                {**sizes.get(old, {}), "id": new} for old, new in zip(numbers, images, strict=True)
            ]
            copies = {**document, "annotations": copies, "images": listed}  # type: ignore[assignment]
        paths.append(scenes.write_json(folder / path.name, copies))
        if path.with_suffix("").is_dir():
            shutil.copytree(path.with_suffix(""), folder / path.stem)
    return paths[0], paths[1]


def repeat_cityscapes(
    preds: Path, labels: Path, times: list[int], folder: Path
) -> tuple[Path, Path]:
    for path in (preds, labels):
        shutil.copytree(path, folder / path.name)
    for image, number in enumerate(times, 1):
        pair = folder / f"preds/{image}_pred.txt", folder / f"labels/{image}_gtFine_instanceIds.png"
        for copy in range(number):
            for path in pair:
                shutil.copy(path, path.with_name(f"c{copy}_{path.name}"))
        for path in pair:
            path.unlink()
    return folder / "preds", folder / "labels"


KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "coco": (blobs.write_coco, repeat_json),
    "panoptic": (blobs.write_panoptic, repeat_json),
    "cityscapes": (blobs.write_cityscapes, repeat_cityscapes),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_scores_as_its_images_do(kind: str, seed: int, tmp_path: Path) -> None:
    write, repeat = KINDS[kind]
    files = write(tmp_path, seed)
    found = evaluate_instances(*files, boundary=True, replicas=REPLICAS)["replicas"]
    draws = draw_images(REPLICAS, len(blobs.SIZES)).astype(int).tolist()
    for replica, times in enumerate(draws):
        folder = tmp_path / f"{replica}"
        folder.mkdir()
        expected = evaluate_instances(*repeat(*files, times, folder), boundary=True)
        pairs = [(expected["mean"], found["mean"])]
        pairs += [(scores, found["class"][name]) for name, scores in expected["class"].items()]
        for scores, drawn in pairs:
            for key, score in scores.items():
                got = drawn[key][replica] if key in drawn else score
                if score is None or (drawn is not found["mean"] and np.isnan(drawn[key]).all()):
                    assert np.isnan(got) or score is None
                else:
                    assert got == pytest.approx(score, abs=1e-12), (key, times)


@scenes.every_format
def test_intervals_hold_the_difference_and_need_two_images(kind: str, tmp_path: Path) -> None:
    images = range(12)
    truth = [(image, scenes.CAR, scenes.LEFT) for image in images]
    truth.append((0, scenes.PERSON, scenes.RIGHT))
    shifted = (5, 9, 20, 20)
    coarse = [(image, scenes.CAR, shifted if image % 3 else scenes.LEFT, 0.9) for image in images]
    fine = [(*item, 0.9) for item in truth]
    write: scenes.Write = scenes.FORMATS[kind]
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    preds, labels = write(tmp_path / "first", truth, [*coarse, fine[-1]])
    better, _ = write(tmp_path / "second", truth, fine)
    results = {
        name: evaluate_instances(path, labels, replicas=200)
        for name, path in {"PREDS": preds, "better": better}.items()
    }
    changes = compare_instances(results, "PREDS")
    assert list(changes) == ["better"]
    key = next(iter(changes["better"]["mean"]))
    difference, low, high = changes["better"]["mean"][key]
    assert 0 < low < difference < high
    assert difference == results["better"]["mean"][key] - results["PREDS"]["mean"][key]
    assert changes["better"]["class"]["car"][key][1] > 0
    # One image alone holds a person; none a truck.
    assert changes["better"]["class"]["person"][key] == [0, None, None]
    assert changes["better"]["class"]["truck"][key] == [None, None, None]
    json.dumps([results, changes], allow_nan=False)
    assert compare_instances({"better": results["better"]}, "PREDS") == {}
