"""Files of a training: `model.safetensors` with its metadata, and `state.pt` to resume."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as encode_weights
from torch import Tensor, nn

from segfix.errors import FileFormatError, SegfixError
from segfix.files.atomic import atomic_path
from segfix.files.reading import check_regular
from segfix.geometry import NUM_DIRECTIONS
from segfix.network.session import METADATA_KEY, are_numbers

KINDS = {
    "segfix": ("a SegFix network", "segfix"),
    "segmentation": ("a segmentation network", "dice|level-set|…"),
    "edge": ("SEMEDA's edge network", "semeda"),
}
"""Of checkpoints: what they hold, and the --loss that makes them."""
MOST_CLASSES = 1 << 16
"""Of a segmentation network, in a checkpoint."""


def check_unused(out: Path) -> None:
    """Refuse a folder that holds a training.

    Raises:
        SegfixError: It does.
    """
    if holds_training(out):
        raise SegfixError(f"{out}: holds a training already; --resume goes on, -o goes elsewhere.")


def holds_training(out: Path) -> bool:
    """Tell whether a training has saved something in a folder."""
    return any((out / name).exists() for name in ("state.pt", "model.safetensors"))


def write_checkpoint(out: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write `model.safetensors`: weights, and `metadata` as JSON under "segfix"."""
    weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    # In memory first, here and below: of a full disk, Python alone says what it is.
    content = encode_weights(weights, {"segfix": json.dumps(metadata, sort_keys=True)})
    with atomic_path(out / "model.safetensors") as temporary:
        temporary.write_bytes(content)


def write_state(out: Path, state: dict[str, Any]) -> None:
    """Write `state.pt`: tensors and plain values only, so that no pickle is needed to read it."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(out / "state.pt") as temporary:
        temporary.write_bytes(content.getvalue())


def load_state(out: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Read `state.pt`, refusing one of another training."""
    path = out / "state.pt"
    if not path.exists():
        raise SegfixError(f"{path}: no such file; nothing to resume in {out}.")
    check_regular(path)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state["described"])
        before["settings"].keys()
    except Exception as error:
        raise SegfixError(
            f"{path}: not the state of a training, or not all of it ({type(error).__name__}); "
            "train into another folder (-o), with --init from the weights saved in this one."
        ) from error
    now = json.loads(json.dumps(described))
    differing = [
        name
        for name in sorted({**before, **now, **before["settings"], **now["settings"]})
        if name != "settings"
        and (before.get(name), before["settings"].get(name))
        != (now.get(name), now["settings"].get(name))
    ]
    if differing:
        raise SegfixError(
            f"{path}: made with other settings ({', '.join(differing)}); resume with the same "
            "ones, or train into another folder."
        )
    return state


def read_random_state(device: torch.device) -> dict[str, Any]:
    """Read where torch's random numbers are, on CPU and device: dropout goes on from there."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go back to what `read_random_state` has read."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def read_metadata(path: Path) -> Any:
    """Read what a training wrote about a checkpoint; None where it is none of ours.

    Raises:
        FileFormatError, OSError, SafetensorError, ValueError: The file is no safetensors file.
    """
    check_regular(path)
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY, "null")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its metadata is nested too deeply") from error


def describe_checkpoint(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself, as kind and backbone; {} if it is none of ours."""
    try:
        metadata = read_metadata(path)
    except (SegfixError, OSError, SafetensorError, ValueError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def read_checkpoint(
    path: Path, kind: str, keys: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and the metadata of a training.

    Args:
        path: `model.safetensors`.
        kind: What the metadata must say it is, a key of `KINDS`.
        keys: What else the metadata must have.

    Raises:
        FileFormatError: The file is not such a checkpoint of ours.
    """
    what, loss = KINDS[kind]
    made_by = f"expected the model.safetensors of 'segfix train --loss {loss}'"
    try:
        metadata = read_metadata(path)
        weights = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise FileFormatError(f"{path}: not a safetensors file ({error}); {made_by}.") from error
    known = isinstance(metadata, dict) and metadata.get("kind") == kind
    if not known or not metadata.keys() >= set(keys) or not is_usable(metadata):
        raise FileFormatError(f"{path}: a safetensors file, but not of {what}; {made_by}.")
    for name, value in weights.items():
        if not value.is_complex() and bool(value.isfinite().all()):
            continue
        raise FileFormatError(f"{path}: {name} holds what is no finite number; {made_by}.")
    return weights, metadata


def is_usable(metadata: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint's metadata can be used: who made it may be anybody."""
    ids = metadata.get("class_ids", [0])
    texts = (metadata.get(key, "") for key in ("network", "backbone"))
    counts = (metadata.get(key, 1) for key in ("step", "num_classes"))
    tables = (metadata.get(key, {}) for key in ("data", "scores"))
    triples = (metadata.get(key, [1, 1, 1]) for key in ("mean", "std"))
    return (
        all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts)
        and all(isinstance(table, dict) for table in tables)
        and all(isinstance(score, int | float) for score in metadata.get("scores", {}).values())
        and all(
            isinstance(three, list) and len(three) == 3 and are_numbers(three) for three in triples
        )
        and all(metadata.get("std", [1]))
        and type(metadata.get("num_directions", NUM_DIRECTIONS[0])) is int
        and metadata.get("num_directions", NUM_DIRECTIONS[0]) in NUM_DIRECTIONS
        and are_numbers([metadata.get("boundary_width", 1)])
        and metadata.get("boundary_width", 1) > 0
        and isinstance(ids, list)
        and 0 < len(ids) <= MOST_CLASSES
        and all(type(identity) is int and 0 <= identity < 256**4 for identity in ids)
    )
