"""What is a checkpoint, and what isn't."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segfix.errors import FileFormatError
from segfix.training.offset_networks import load_checkpoint

pytestmark = pytest.mark.usefixtures("_small_hrnet")


def test_a_checkpoint_is_loaded_ready_to_predict(checkpoint: Path) -> None:
    network, metadata = load_checkpoint(checkpoint)
    assert not network.training
    assert metadata["kind"] == "segfix"
    saved = load_file(checkpoint)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_in_16_bits_is_loaded_in_32(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    save_file(
        {n: v.half() if v.is_floating_point() else v for n, v in load_file(checkpoint).items()},
        path,
        metadata,
    )
    half, whole = (load_checkpoint(p)[0].state_dict() for p in (path, checkpoint))
    for name, value in whole.items():
        assert half[name].dtype == value.dtype
        torch.testing.assert_close(half[name], value, rtol=1e-3, atol=1e-5)


def test_a_text_file_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("not a checkpoint")
    with pytest.raises(FileFormatError, match="not a safetensors file") as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="not a safetensors file") as caught:
        load_checkpoint(tmp_path / "missing.safetensors")
    assert str(tmp_path / "missing.safetensors") in str(caught.value)


def test_half_a_checkpoint_is_no_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "half.safetensors"
    content = checkpoint.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"segfix": '{"kind": "semeda"}'}, {"segfix": "no JSON"}]
)
def test_safetensors_of_something_else_are_no_checkpoint(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(FileFormatError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "segfix train" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_an_error_in_one_line(tmp_path: Path, checkpoint: Path) -> None:
    path = tmp_path / "unfit.safetensors"
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(checkpoint)
    weights["boundary_head.3.weight"] = torch.zeros(2, 256, 1, 1)
    save_file(weights, path, metadata)
    with pytest.raises(FileFormatError, match="don't fit hrnet_w18_small") as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
