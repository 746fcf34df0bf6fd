from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file

from segfix.errors import FileFormatError, SegfixError
from segfix.training.checkpoints import write_checkpoint
from segfix.training.segmentation_networks import (
    NETWORKS,
    SEGMENTER_METADATA,
    Segmenter,
    load_segmenter,
    picture_statistics,
    start_segmenter_from,
)

BACKBONES = {"hrnet": "hrnet_w18_small", "segformer": "resnet10t"}
SLOW = ("unetplusplus", "manet", "upernet", "deeplabv3", "pan")
"""Built, but not run here: they differ from the others in their layers alone."""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_logits_of_the_size_of_the_picture(name: str) -> None:
    network = Segmenter(name, BACKBONES.get(name, "resnet10t"), 3).eval()
    if name in SLOW:
        return
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 45, 70))
    assert logits.shape == (1, 3, 45, 70)
    assert logits.isfinite().all()


def test_padding_goes_on_at_the_edge_and_is_cut_off() -> None:
    network = Segmenter("fcn16s", "resnet10t", 2).eval()
    image = torch.randn(1, 3, 40, 64)
    by_hand = torch.cat([image, image[:, :, -1:].expand(-1, -1, 24, -1)], dim=2)
    with torch.inference_mode():
        assert torch.equal(network(image), network.network(by_hand)[:, :, :40])


def test_fcn_adds_up_the_scores_of_its_branches() -> None:
    network = Segmenter("fcn8s", "resnet10t", 2).eval()
    fcn: Any = network.network
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        branches = fcn.backbone(image)
        assert [b.shape[-1] for b in branches] == [8, 4, 2]
        for score in fcn.scores[:2]:
            for parameter in score.parameters():
                parameter.zero_()
        only_coarsest = torch.nn.functional.interpolate(
            torch.nn.functional.interpolate(
                torch.nn.functional.interpolate(
                    fcn.scores[2](branches[2]),
                    scale_factor=2,
                    mode="bilinear",
                ),
                scale_factor=2,
                mode="bilinear",
            ),
            scale_factor=8,
            mode="bilinear",
        )
        assert torch.allclose(network(image), only_coarsest, atol=1e-5)


def test_large_fov_looks_at_stride_8() -> None:
    network = Segmenter("deeplab-largefov", "resnet10t", 2).eval()
    with torch.inference_mode():
        (features,) = network.network.backbone(torch.randn(1, 3, 64, 96))  # type: ignore[operator]
    assert features.shape[-2:] == (8, 12)


@pytest.mark.parametrize(
    ("name", "backbone", "message"),
    [
        ("enet", "resnet18", "network 'enet': expected one of unet, "),
        ("fpn", "resnet18000", "backbone 'resnet18000': timm has no such model"),
        ("hrnet", "resnet18", "backbone 'resnet18': expected one of hrnet_w18_small"),
        ("fcn8s", "vit_tiny_patch16_224", "backbone vit_tiny_patch16_224"),
        ("deeplab-largefov", "vgg11", "deeplab-largefov can't be built on backbone vgg11"),
    ],
)
def test_what_can_not_be_built_is_one_line(name: str, backbone: str, message: str) -> None:
    with pytest.raises(SegfixError) as caught:
        Segmenter(name, backbone, 2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_are_asked_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = timm.create_model

    def spy(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    for name in ("fpn", "fcn32s", "deeplab-largefov"):
        asked.clear()
        Segmenter(name, "resnet10t", 2, pretrained=True)
        assert ("resnet10t", True) in asked


@pytest.mark.parametrize("form", ["ours.safetensors", "whole.safetensors", "packaged.pth"])
@pytest.mark.parametrize(
    ("name", "backbone"), [("fcn16s", "resnet10t"), ("deeplabv3plus", "tf_efficientnet_lite0")]
)
def test_a_file_of_weights_starts_the_backbone(
    tmp_path: Path, name: str, backbone: str, form: str
) -> None:
    torch.manual_seed(0)
    whole = timm.create_model(backbone, features_only=True).state_dict()
    whole["fc.weight"] = torch.zeros(3)
    path = tmp_path / form
    ends = [key.rpartition(".")[2] for key in whole]
    if form == "packaged.pth":  # by other names, in the same order
        renamed = zip(ends, whole.values(), strict=True)
        torch.save({"model": {f"_x.{i}.{k}": v for i, (k, v) in enumerate(renamed)}}, path)
    elif form == "whole.safetensors":  # in no order, of a model that holds it
        save_file({f"backbone.{key.replace('_', '.')}": v for key, v in whole.items()}, path)
    else:
        save_file(whole, path)
    torch.manual_seed(1)
    network: Any = Segmenter(name, backbone, 2, pretrained=path).network
    encoder = network.encoder.model if name == "deeplabv3plus" else network.backbone
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, whole[key])


def test_lite_is_computed_as_timm_does_but_can_be_exported() -> None:
    torch.manual_seed(0)
    network: Any = Segmenter("deeplabv3plus", "tf_efficientnet_lite0", 2).eval().network
    torch.manual_seed(0)
    expected = smp.create_model(
        "deeplabv3plus", "tu-tf_efficientnet_lite0", encoder_weights=None, classes=2
    ).eval()
    assert not any(type(m).__name__ == "Conv2dSame" for m in network.modules())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), expected(image), rtol=1e-4, atol=1e-4)


def test_weights_that_are_none_or_of_another_backbone_are_one_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "text.safetensors").write_text("none")
    torch.save({"weight": Path()}, tmp_path / "code.pth")
    # Biases before weights: of the same shapes, but not in the same order.
    whole = timm.create_model("resnet10t", features_only=True).state_dict()
    ordered = sorted(whole.items(), key=lambda item: item[0].endswith("weight"))
    torch.save({f"x.{i}.{k}": v for i, (k, v) in enumerate(ordered)}, tmp_path / "order.pth")
    for name, message in (
        ("other.pth", r"other\.pth: these weights are not those of resnet10t; --init takes"),
        ("order.pth", r"order\.pth: these weights are not those of resnet10t"),
        ("text.safetensors", r"text\.safetensors: holds no weights that can be read"),
        ("code.pth", r"code\.pth: holds no weights that can be read without running code"),
    ):
        with pytest.raises(SegfixError, match=message):
            Segmenter("fcn16s", "resnet10t", 2, pretrained=tmp_path / name)


def test_statistics_are_those_of_the_backbone() -> None:
    assert picture_statistics("resnet18")[0] == pytest.approx([0.485, 0.456, 0.406])
    assert picture_statistics("inception_v4")[0] == pytest.approx([0.5, 0.5, 0.5])


def save(network: Segmenter, folder: Path, **described: object) -> Path:
    metadata = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "data": {},
        "step": 0,
        "scores": {},
        "kind": "segmentation",
        "network": "fcn32s",
        "backbone": "resnet10t",
        "class_ids": [0, 1, 5],
        **described,
    }
    assert metadata.keys() >= set(SEGMENTER_METADATA)
    write_checkpoint(folder, network, metadata)
    return folder / "model.safetensors"


def test_a_checkpoint_is_read_back(tmp_path: Path) -> None:
    network = Segmenter("fcn32s", "resnet10t", 3).eval()
    loaded, metadata = load_segmenter(save(network, tmp_path))
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))
    assert metadata["class_ids"] == [0, 1, 5]


def test_a_checkpoint_that_does_not_fit_names_itself(tmp_path: Path) -> None:
    network = Segmenter("fcn32s", "resnet10t", 3)
    with pytest.raises(FileFormatError, match=r"model\.safetensors: its weights don't fit fcn32s"):
        load_segmenter(save(network, tmp_path, class_ids=[0, 1]))
    with pytest.raises(FileFormatError, match="not of a segmentation network"):
        load_segmenter(save(network, tmp_path, kind="segfix"))
    with pytest.raises(FileFormatError, match=r"model\.safetensors: backbone 'none': timm has no"):
        load_segmenter(save(network, tmp_path, backbone="none"))


def test_a_start_for_other_classes_keeps_the_new_last_layer(tmp_path: Path) -> None:
    old = Segmenter("fcn32s", "resnet10t", 3)
    new = Segmenter("fcn32s", "resnet10t", 4)
    last = new.network.scores[0].weight.clone()  # type: ignore[union-attr,index]
    start_segmenter_from(new, "fcn32s", "resnet10t", save(old, tmp_path))
    old_state, new_state = old.state_dict(), new.state_dict()
    assert torch.equal(new_state["network.scores.0.weight"], last)
    assert torch.equal(
        new_state["network.backbone.conv1.0.weight"], old_state["network.backbone.conv1.0.weight"]
    )
    with pytest.raises(SegfixError, match="fcn32s on resnet10t; train the same network"):
        start_segmenter_from(new, "fcn16s", "resnet10t", tmp_path / "model.safetensors")
