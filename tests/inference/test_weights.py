from __future__ import annotations

import hashlib
from pathlib import Path

from segfix.inference.weights import DEFAULT_WEIGHTS, shipped_weights

WEIGHTS = Path(__file__).parents[2] / "weights"


def test_the_checksums_are_those_of_the_files() -> None:
    lines = [line.split() for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines()]
    listed = {name: digest for digest, name in lines}
    files = {path.name for path in WEIGHTS.iterdir() if path.suffix in (".onnx", ".safetensors")}
    assert set(listed) == files
    for name, digest in listed.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest, name


def test_all_shipped_networks_have_a_card_and_are_below_50_mb() -> None:
    assert DEFAULT_WEIGHTS in shipped_weights()
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    for name, path in shipped_weights().items():
        assert f"`{name}`" in card
        assert path.stat().st_size < 50e6
