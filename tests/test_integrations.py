"""The lines of docs/integrations.md, run with the libraries, or with stand-ins for them.

The libraries run in processes of their own: they change settings of NumPy and torch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import segfix
from tests import library_predictions
from tests.library_process import run_with_library

PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
PHOTOGRAPH = Path(segfix.__file__).parent / "demo" / "images" / "coffee.jpg"


def adapters() -> dict[str, Any]:
    """What the page defines, by name, where mmengine has what its hook is made of."""
    found: dict[str, Any] = {}
    text = PAGE.read_text(encoding="utf-8")
    registry = SimpleNamespace(register_module=lambda: lambda kind: kind)
    with pytest.MonkeyPatch.context() as patch:
        for name, content in (("hooks", {"Hook": object}), ("registry", {"HOOKS": registry})):
            module = ModuleType(f"mmengine.{name}")
            vars(module).update(content)
            patch.setitem(sys.modules, module.__name__, module)
        for block in re.findall(r"```(?:python|py)\n(.*?)```", text, re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)
    return found


@pytest.fixture(scope="module")
def adapter() -> dict[str, Any]:
    return adapters()


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return photograph()


@pytest.fixture(scope="module")
def masks() -> NDArray[np.bool_]:
    return discs()


@pytest.fixture(scope="module")
def fixed(image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = segfix.fix(image, masks)
    assert 0 < (found != masks).mean() < 0.1
    return found


def photograph() -> NDArray[np.uint8]:
    """(96, 128, 3)."""
    with Image.open(PHOTOGRAPH) as picture:
        return np.array(picture.convert("RGB").resize((128, 96)))


def discs() -> NDArray[np.bool_]:
    """(2, 96, 128), which overlap."""
    y, x = np.mgrid[:96, :128]
    return np.stack([np.hypot(y - 48, x - centre) < 30 for centre in (40, 80)])


# With the libraries


def run_transformers() -> None:
    from transformers import pipeline

    processor, model = library_predictions.make_segformer()
    segment = pipeline("image-segmentation", model=model, image_processor=processor)
    image = Image.fromarray(photograph())
    segments = segment(image)
    before = np.stack([np.asarray(one["mask"]) for one in segments])
    assert len(before) > 1
    adapters()["fix_segments"](image, segments)
    after = np.stack([np.asarray(one["mask"]) for one in segments])
    assert (after.shape, after.dtype) == (before.shape, before.dtype)
    assert np.array_equal(after.sum(0), before.sum(0)), "each pixel is still in one"
    assert 0 < (before != after).mean() < 0.2
    library_predictions.check_transformers(photograph())


def run_ultralytics() -> None:
    from ultralytics import YOLO
    from ultralytics.engine.results import Results

    image = photograph()[..., ::-1].copy()
    boxes = torch.tensor([[10.0, 18, 70, 78, 0.9, 0], [50.0, 18, 110, 78, 0.8, 0]])
    masks = torch.as_tensor(discs().astype(np.float32))
    result = Results(image, "coffee.jpg", {0: "cup"}, boxes=boxes, masks=masks)
    empty = Results(image, "coffee.jpg", {0: "cup"}, boxes=boxes[:0])
    fix_results = adapters()["fix_results"]
    fix_results(SimpleNamespace(results=[result, empty]))
    assert np.array_equal(result.masks.data.numpy(), segfix.fix(photograph(), discs()))
    assert len(result.masks.xy) == 2, "polygons, as plot() draws them"
    assert empty.masks is None
    # That the callback is called in time: a network without training, which finds whatever.
    torch.manual_seed(0)
    model = YOLO("yolov8n-seg.yaml", verbose=False)
    settings: dict[str, Any] = {"conf": 1e-9, "max_det": 3, "imgsz": 128, "verbose": False}
    (before,) = model(image, retina_masks=True, **settings)
    model.add_callback("on_predict_postprocess_end", fix_results)
    (after,) = model(image, retina_masks=True, **settings)
    expected = segfix.fix(photograph(), before.masks.data > 0.5)
    assert torch.equal(after.masks.data > 0.5, expected)
    library_predictions.check_ultralytics(photograph())


def run_torchvision() -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=96,
        box_score_thresh=0.0,
        box_detections_per_img=3,
    ).eval()
    image = torch.as_tensor(photograph()).permute(2, 0, 1) / 255
    with torch.no_grad():
        (output,) = model([image])
    assert output["masks"].shape[1:] == (1, 96, 128)
    fix_output = adapters()["fix_output"]
    assert fix_output(image, output)["masks"].shape == output["masks"].shape
    output["masks"] = torch.as_tensor(discs())[:, None] * 0.9
    found = fix_output(image, output)
    assert found["boxes"] is output["boxes"]
    assert np.array_equal(found["masks"][:, 0].numpy(), segfix.fix(photograph(), discs()))
    nothing = fix_output(image, {"masks": output["masks"][:0]})
    assert nothing["masks"].shape == (0, 1, 96, 128)


@pytest.mark.parametrize("library", ["transformers", "ultralytics", "torchvision"])
def test_the_lines_run_with_the_library(library: str, tmp_path: Path) -> None:
    run_with_library(__file__, library, tmp_path)


# With stand-ins


def test_detections_of_supervision(
    adapter: dict[str, Any],
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
) -> None:
    detections = SimpleNamespace(xyxy=np.zeros((2, 4)), mask=masks.copy())
    adapter["fix_detections"](image, detections)
    assert np.array_equal(detections.mask, fixed)
    adapter["fix_detections"](image, SimpleNamespace(mask=None))
    none = SimpleNamespace(mask=masks[:0])
    adapter["fix_detections"](image, none)
    assert none.mask.shape == (0, 96, 128)


def test_instances_of_detectron2(
    adapter: dict[str, Any],
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
) -> None:
    instances = SimpleNamespace(pred_masks=torch.as_tensor(masks))
    adapter["fix_instances"](image[..., ::-1], instances)
    assert instances.pred_masks.dtype == torch.bool
    assert np.array_equal(instances.pred_masks.numpy(), fixed)


def test_masks_of_segment_anything(
    adapter: dict[str, Any],
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
) -> None:
    records = [{"segmentation": mask, "area": 0, "predicted_iou": 0.9} for mask in masks]
    adapter["fix_masks"](image, records)
    assert np.array_equal([one["segmentation"] for one in records], fixed)
    assert [one["area"] for one in records] == [int(mask.sum()) for mask in fixed]
    assert records[0]["predicted_iou"] == 0.9


class Sample(SimpleNamespace):
    """mmengine's data elements know what they hold by `in`."""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


def test_samples_of_openmmlab(
    adapter: dict[str, Any],
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "photograph.png")
    Image.fromarray(image).save(path)
    label_map = torch.as_tensor(masks[0]).long()[None]
    samples = [
        Sample(img_path=path, pred_sem_seg=SimpleNamespace(data=label_map)),
        Sample(img_path=path, pred_instances=SimpleNamespace(masks=torch.as_tensor(masks))),
    ]
    runner = SimpleNamespace(model=SimpleNamespace(test_step=lambda data: samples[: len(data)]))
    adapter["FixPredictions"]().before_test(runner)
    semantic, instances = runner.model.test_step(["a", "b"])
    data = semantic.pred_sem_seg.data
    assert (data.shape, data.dtype) == (label_map.shape, label_map.dtype)
    assert np.array_equal(data.numpy(), segfix.fix(image, label_map.numpy()))
    assert np.array_equal(instances.pred_instances.masks.numpy(), fixed)


def test_fields_of_fiftyone(
    adapter: dict[str, Any], image: NDArray[np.uint8], masks: NDArray[np.bool_], tmp_path: Path
) -> None:
    class Fields(dict[str, Any]):
        filepath = str(tmp_path / "photograph.png")

    Image.fromarray(image).save(Fields.filepath)
    label_map = masks[0].astype(np.uint8) * 7
    sample = Fields(predictions=SimpleNamespace(mask=label_map))
    dataset = SimpleNamespace(iter_samples=lambda **_: [sample])
    adapter["fix_field"](dataset, "predictions")
    assert np.array_equal(sample["predictions"].mask, segfix.fix(image, label_map))
