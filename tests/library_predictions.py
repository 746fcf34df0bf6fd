"""The predictions of other people's libraries, refined; run by test_integrations.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import segfix

# Hugging Face transformers


def refined_segmentation(
    image: NDArray[np.uint8], processor: Any, model: Any, network: segfix.OffsetModel
) -> NDArray[np.integer[Any]]:
    """(H, W) class ids of a semantic segmentation model."""
    import torch

    with torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
    (label_map,) = processor.post_process_semantic_segmentation(outputs, [image.shape[:2]])
    refined: NDArray[np.integer[Any]] = segfix.refine(label_map.numpy(), network.offsets(image))
    return refined


def refined_probabilities(
    image: NDArray[np.uint8], processor: Any, model: Any, network: segfix.OffsetModel
) -> NDArray[np.float32]:
    """(C, H, W) probabilities of a semantic segmentation model that gives logits."""
    import torch

    with torch.no_grad():
        logits = model(**processor(images=image, return_tensors="pt")).logits
        logits = torch.nn.functional.interpolate(logits, image.shape[:2], mode="bilinear")
    probabilities: NDArray[np.float32] = logits[0].softmax(0).numpy()
    return segfix.refine(probabilities, network.offsets(image))


def make_segformer() -> tuple[Any, Any]:
    """Make a small processor and model that have learnt nothing."""
    import torch
    from transformers import (
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessor,
    )

    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=4,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    model = SegformerForSemanticSegmentation(config).eval()
    processor = SegformerImageProcessor(size={"height": 96, "width": 128})
    return processor, model


def check_transformers(image: NDArray[np.uint8]) -> None:
    processor, model = make_segformer()
    network = segfix.load()
    boundary = network.offsets(image).boundary_mask()
    refined = refined_segmentation(image, processor, model, network)
    soft = refined_probabilities(image, processor, model, network)
    assert refined.shape == (96, 128)
    assert set(np.unique(refined)) <= set(range(4))
    assert soft.shape == (4, 96, 128)
    assert np.allclose(soft.sum(axis=0), 1, atol=1e-5), "looked up, not mixed"
    assert np.mean(soft.argmax(axis=0) == refined) > 0.99, "the same but for ties"
    assert boundary.any()


# Ultralytics


def refine_result(result: Any, network: segfix.OffsetModel) -> None:
    """Refine the masks of a result of `model(image, retina_masks=True)`, in place."""
    import torch

    if result.masks is None:
        return
    offset_map = network.offsets(result.orig_img[..., ::-1])  # BGR to RGB
    masks = segfix.refine_masks(result.masks.data.cpu().numpy(), offset_map)
    result.update(masks=torch.as_tensor(masks))


def check_ultralytics(image: NDArray[np.uint8]) -> None:
    import torch
    from ultralytics.engine.results import Results

    network = segfix.load()
    y, x = np.mgrid[:96, :128]
    discs = [np.hypot(y - 48, x - centre) < 30 for centre in (40, 80)]
    masks = torch.as_tensor(np.stack(discs).astype(np.float32))
    boxes = torch.tensor([[10.0, 18, 70, 78, 0.9, 0], [50.0, 18, 110, 78, 0.8, 0]])
    result = Results(image[..., ::-1].copy(), "coffee.jpg", {0: "cup"}, boxes=boxes, masks=masks)
    refine_result(result, network)
    refined = result.masks.data.numpy()
    assert refined.shape == (2, 96, 128)
    assert set(np.unique(refined)) == {0, 1}
    boundary = network.offsets(image).boundary_mask()
    moved = refined != masks.numpy()
    assert moved.any()
    assert not moved[:, ~boundary].any()
    assert len(result.masks.xy) == 2, "polygons, as plot() draws them"
    empty = Results(image, "coffee.jpg", {0: "cup"}, boxes=boxes[:0])
    refine_result(empty, network)
    assert empty.masks is None
