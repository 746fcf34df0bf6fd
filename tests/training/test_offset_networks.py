from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save as encode_weights

from segfix.errors import FileFormatError, SegfixError
from segfix.training import hrnet2x
from segfix.training.checkpoints import load_state, read_checkpoint, write_checkpoint
from segfix.training.heads import HEAD_CHANNELS, head
from segfix.training.offset_networks import (
    BACKBONES,
    KEPT_METADATA,
    SegFixNet,
    load_checkpoint,
    make_network,
    read_normalization,
    start_from,
)


@pytest.mark.parametrize("num_directions", [4, 8, 16])
def test_logits_have_full_size_and_one_channel_per_sector(num_directions: int) -> None:
    network = SegFixNet(num_directions=num_directions).eval()
    for height, width in ((32, 64), (96, 32)):
        with torch.inference_mode():
            boundary, direction = network(torch.zeros(2, 3, height, width))
        assert boundary.shape == (2, 1, height, width)
        assert direction.shape == (2, num_directions, height, width)


def test_heads_take_all_branches_at_strides_4_to_32() -> None:
    network = SegFixNet().eval()
    with torch.inference_mode():
        branches = network.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(b.shape[2:]) for b in branches] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    widths = [b.shape[1] for b in branches]
    assert widths == [widths[0] * 2**i for i in range(4)]
    for first in (network.boundary_head[0], network.direction_head[0]):
        assert isinstance(first, torch.nn.Conv2d)
        assert first.in_channels == sum(widths) == 15 * widths[0]
        assert first.out_channels == HEAD_CHANNELS


def test_a_head_is_a_perceptron_per_pixel() -> None:
    perceptron = head(3, 5, 2).eval()
    pixels = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = perceptron(pixels)
    assert whole.shape == (1, 2, 4, 4)
    torch.testing.assert_close(perceptron(pixels[:, :, 1:2, 2:3]), whole[:, :, 1:2, 2:3])


def test_both_heads_and_the_backbone_receive_a_gradient() -> None:
    network = SegFixNet()
    boundary, direction = network(torch.randn(2, 3, 64, 64))
    torch.autograd.backward(boundary.square().mean() + direction.square().mean())
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


def test_normalization_is_what_the_backbone_was_trained_with() -> None:
    assert read_normalization(SegFixNet()) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("backbone", ["hrnet_w19", "resnet18", ""])
def test_an_unknown_backbone_is_refused_in_one_line_that_lists_the_known(backbone: str) -> None:
    with pytest.raises(SegfixError) as caught:
        make_network(backbone, 8)
    text = str(caught.value)
    assert text.startswith(f"backbone {backbone!r}: ")
    assert all(name in text for name in BACKBONES)
    assert "\n" not in text


def test_pretrained_weights_that_cannot_be_had_are_an_error_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        SegfixError, match=r"can't load .* hrnet_w18_small .*--pretrained"
    ) as caught:
        SegFixNet(pretrained=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def plain() -> SegFixNet:
    """A network whose norms have seen something."""
    network = SegFixNet()
    for _ in range(3):
        network(torch.randn(2, 3, 64, 64))
    return network.eval()


def save(network: SegFixNet, folder: Path, backbone: str, num_directions: int = 8) -> Path:
    metadata: dict[str, Any] = {
        "kind": "segfix",
        "backbone": backbone,
        "num_directions": num_directions,
        "boundary_width": 5,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "data": {},
        "step": 0,
        "scores": {},
    }
    assert metadata.keys() >= set(KEPT_METADATA)
    write_checkpoint(folder, network, metadata)
    return folder / "model.safetensors"


def test_a_branch_at_stride_2_starts_as_the_network_it_was_added_to(
    plain: SegFixNet, tmp_path: Path
) -> None:
    network = SegFixNet("hrnet_w18_small_2x").eval()
    start_from(network, "hrnet_w18_small_2x", 8, save(plain, tmp_path, "hrnet_w18_small"))
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for found, expected in zip(network(image), plain(image), strict=True):
            assert torch.equal(found, expected)


def test_the_branch_at_stride_2_adds_to_both_logits() -> None:
    network = SegFixNet("hrnet_w18_small_2x", 4)
    assert network.detail_head is not None
    weight, _ = network.detail_head.logits[-1].parameters()
    torch.nn.init.normal_(weight)
    network.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        whole = network(image)
        weight.zero_()
        without = network(image)
    for one, other in zip(whole, without, strict=True):
        assert (one != other).float().mean() > 0.9


def test_a_network_with_a_branch_at_stride_2_trains_from_its_zeros(tmp_path: Path) -> None:
    network = SegFixNet("hrnet_w18_small_2x")
    assert network.detail_head is not None
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before = {name: p.clone() for name, p in network.detail_head.named_parameters()}
    image = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        boundary, direction = network(image)
        optimizer.zero_grad()
        torch.autograd.backward(boundary.square().mean() + direction.square().mean())
        optimizer.step()
    same = [n for n, p in network.detail_head.named_parameters() if torch.equal(p, before[n])]
    assert same == []
    loaded, _ = load_checkpoint(save(network, tmp_path, "hrnet_w18_small_2x"))
    with torch.inference_mode():
        assert torch.equal(loaded(image)[1], network.eval()(image)[1])


@pytest.mark.parametrize(
    ("backbone", "num_directions"), [("hrnet_w18", 8), ("hrnet_w18_small_2x", 4)]
)
def test_no_network_starts_from_one_it_did_not_grow_from(
    plain: SegFixNet, tmp_path: Path, backbone: str, num_directions: int
) -> None:
    checkpoint = save(plain, tmp_path, "hrnet_w18_small")
    network = SegFixNet("hrnet_w18_small_2x", num_directions)
    with pytest.raises(SegfixError, match="hrnet_w18_small with 8 directions") as caught:
        start_from(network, backbone, num_directions, checkpoint)
    assert str(caught.value).startswith(f"{checkpoint}: ")


@pytest.mark.parametrize(("backbone", "width"), [("hrnet_w18_2x", 18), ("hrnet_w20_2x", 20)])
def test_hrnet_2x_has_five_branches_from_stride_2(backbone: str, width: int) -> None:
    with torch.device("meta"):
        network = SegFixNet(backbone).eval()
        image = torch.zeros(1, 3, 64, 96)
        branches = network.backbone(image)
        boundary, direction = network(image)
    assert [tuple(b.shape[1:]) for b in branches] == [
        (width * 2**i, 32 // 2**i, 48 // 2**i) for i in range(5)
    ]
    assert network.boundary_head[0].in_channels == 31 * width
    assert (boundary.shape, direction.shape) == ((1, 1, 64, 96), (1, 8, 64, 96))


def test_every_parameter_of_hrnet_2x_receives_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hrnet2x, "BLOCKS", 1)
    monkeypatch.setattr(hrnet2x, "STAGES", tuple((block, 1) for block, _ in hrnet2x.STAGES))
    network = SegFixNet("hrnet_w18_2x")
    boundary, direction = network(torch.randn(2, 3, 64, 64))
    torch.autograd.backward(boundary.square().mean() + direction.square().mean())
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("backbone", "width"), [("hrnet_w32", 32), ("hrnet_w48", 48)])
def test_wide_networks_can_be_built(backbone: str, width: int) -> None:
    with torch.device("meta"):
        assert SegFixNet(backbone).boundary_head[0].in_channels == 15 * width


def test_pretrained_weights_are_asked_for_where_timm_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, asked = timm.create_model, []

    def record(name: str, *, pretrained: bool, **options: Any) -> Any:
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", record)
    SegFixNet("hrnet_w18_small_2x", pretrained=True)
    assert asked == [("hrnet_w18_small", True)]
    with pytest.raises(SegfixError, match=r"^timm has no .* hrnet_w20_2x: train --from-scratch"):
        SegFixNet("hrnet_w20_2x", pretrained=True)


@pytest.mark.parametrize("key", ["boundary_width", "mean"])
def test_numbers_beyond_all_floats_are_refused(plain: SegFixNet, tmp_path: Path, key: str) -> None:
    path = save(plain, tmp_path, "hrnet_w18_small")
    weights, metadata = read_checkpoint(path, "segfix", KEPT_METADATA)
    metadata[key] = 10**400 if key == "boundary_width" else [10**400] * 3
    path.write_bytes(encode_weights(weights, {"segfix": json.dumps(metadata)}))
    with pytest.raises(FileFormatError, match="a safetensors file, but not of a SegFix network"):
        load_checkpoint(path)


def test_an_unknown_backbone_is_told_with_the_file(plain: SegFixNet, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"model\.safetensors: backbone 'none': expected one"):
        load_checkpoint(save(plain, tmp_path, "none"))


@pytest.fixture
def impatient() -> Iterator[None]:
    """Whatever waits is interrupted."""

    def end(*_: object) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there, pipes aren't files")
@pytest.mark.usefixtures("impatient")
def test_a_pipe_in_a_checkpoints_place_is_refused(tmp_path: Path) -> None:
    for name in ("state.pt", "model.safetensors"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(FileFormatError, match=r"state\.pt: can't be read \(a folder, a pipe"):
        load_state(tmp_path, {})
    with pytest.raises(FileFormatError, match=r"safetensors: can't be read \(a folder, a pipe"):
        load_checkpoint(tmp_path / "model.safetensors")
