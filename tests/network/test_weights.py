from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segfix
from segfix.errors import SegfixError
from segfix.formats import read_image
from segfix.network import load, weights
from segfix.network.weights import (
    CHECKSUMS,
    DEFAULT_WEIGHTS,
    find_checkpoint,
    find_weights,
    shipped_weights,
)

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


# The share of pixels, and of directions, in which the two differ at most.
@pytest.mark.parametrize(
    ("name", "masks", "directions"),
    [(DEFAULT_WEIGHTS, 0.02, 0.08), ("hrnet_w18_small", 0.01, 0.05)],
)
def test_the_network_in_8_bits_finds_nearly_what_the_float_one_does(
    name: str, masks: float, directions: float
) -> None:
    whole, small = (load(weights, device="cpu") for weights in (name, f"{name}_int8"))
    assert (whole.metadata["precision"], small.metadata["precision"]) == ("fp32", "int8")
    for key in ("backbone", "num_directions", "boundary_width", "data", "step", "license", "terms"):
        assert small.metadata[key] == whole.metadata[key]
    for path in sorted((WEIGHTS.parent / "tests/data/camvid/images").iterdir()):
        image = read_image(path)
        expected, found = whole.offsets(image), small.offsets(image)
        mask, boundary = found.boundary_mask(), expected.boundary_mask()
        assert 0.05 < boundary.mean() < 0.5
        assert np.mean(mask != boundary) < masks
        both = mask & boundary
        assert np.mean((found.direction_map() != expected.direction_map())[both]) < directions


def test_the_checkpoint_of_the_network_in_8_bits_is_that_of_the_float_one() -> None:
    with pytest.raises(SegfixError, match=rf"take weights/{DEFAULT_WEIGHTS}\.safetensors from"):
        find_checkpoint(f"{DEFAULT_WEIGHTS}_int8")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with two networks in the package, one of them with its checkpoint."""
    folder = tmp_path / "segfix" / "weights"
    folder.mkdir(parents=True)
    for name in (DEFAULT_WEIGHTS, "strong"):
        shutil.copy(WEIGHTS / f"{DEFAULT_WEIGHTS}.onnx", folder / f"{name}.onnx")
    (folder / "strong.safetensors").write_bytes(b"weights")
    sums = ((hashlib.sha256(path.read_bytes()), path.name) for path in sorted(folder.iterdir()))
    lines = [f"{digest.hexdigest()}  {name}\n" for digest, name in sums]
    (folder / CHECKSUMS).write_text("".join(lines))
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "segfix" / "inference" / "weights.py"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_several_networks_are_found_by_name(package: Path) -> None:
    assert shipped_weights() == {
        name: package / f"{name}.onnx" for name in (DEFAULT_WEIGHTS, "strong")
    }
    assert find_weights() == package / f"{DEFAULT_WEIGHTS}.onnx"
    assert find_weights("strong") == package / "strong.onnx"
    assert segfix.load("strong", device="cpu").path == package / "strong.onnx"
    with pytest.raises(SegfixError, match=rf"weak: no such weights.*{DEFAULT_WEIGHTS}, strong"):
        find_weights("weak")


def test_checkpoints_are_found_by_name_and_path(package: Path, tmp_path: Path) -> None:
    assert find_checkpoint("strong") == package / "strong.safetensors"
    (tmp_path / "mine.safetensors").write_bytes(b"")
    assert find_checkpoint("mine.safetensors") == Path("mine.safetensors")
    with pytest.raises(SegfixError, match=r"take weights/hrnet_lite0\.safetensors from"):
        find_checkpoint(DEFAULT_WEIGHTS)
    with pytest.raises(SegfixError, match=r"weak: no such checkpoint; .* \(strong\)"):
        find_checkpoint("weak")


@pytest.mark.parametrize("name", ["strong", None])
def test_damaged_weights_are_refused_in_one_line(package: Path, name: str | None) -> None:
    path = package / f"{name or DEFAULT_WEIGHTS}.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        SegfixError, match=rf"^{path}: damaged, its SHA-256 .*; install .* again\.$"
    ):
        segfix.load(name, device="cpu")
    # Named by its path, it is a file like any other.
    assert find_weights(path) == path


def test_shipped_weights_are_read_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "file_digest", None)
    model = segfix.load("strong", device="cpu")
    assert model.digest == weights.shipped_digests(package)["strong.onnx"]


def test_a_damaged_checkpoint_is_refused(package: Path) -> None:
    (package / "strong.safetensors").write_bytes(b"Weights")
    with pytest.raises(SegfixError, match=r"strong\.safetensors: damaged"):
        find_checkpoint("strong")


@pytest.mark.parametrize("content", [None, b"\xff", b"one"])
def test_without_checksums_the_installation_is_damaged(
    package: Path, content: bytes | None
) -> None:
    if content is None:
        (package / CHECKSUMS).unlink()
    else:
        (package / CHECKSUMS).write_bytes(content)
    with pytest.raises(SegfixError, match=r"SHA256SUMS: missing or damaged; install segfix again"):
        find_weights()


def test_the_checkpoint_of_the_default_is_in_the_repository() -> None:
    assert find_checkpoint(DEFAULT_WEIGHTS) == WEIGHTS / f"{DEFAULT_WEIGHTS}.safetensors"


def test_the_figures_are_those_of_the_readme() -> None:
    page = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    told = {
        match[1]: tuple(row[2:6])
        for row in rows
        if len(row) == 7 and (match := re.match(r"`(\w+)`", row[0]))
    }
    assert told == weights.FIGURES
    assert set(weights.FIGURES) == set(shipped_weights())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of fetched weights, which isn't there yet."""
    monkeypatch.setenv(weights.HOME, str(tmp_path / "home"))
    return tmp_path / "home"


def test_weights_in_the_home_folder_are_found_by_name(home: Path, tiny_onnx: Path) -> None:
    assert weights.fetched_weights() == {}
    home.mkdir()
    for name in ("mine", DEFAULT_WEIGHTS):
        shutil.copy(tiny_onnx, home / f"{name}.onnx")
    assert find_weights("mine") == home / "mine.onnx"
    assert segfix.load("mine", device="cpu").metadata["name"] == "tiny"
    # The name of shipped weights is always theirs.
    assert find_weights(DEFAULT_WEIGHTS) == WEIGHTS / f"{DEFAULT_WEIGHTS}.onnx"
    with pytest.raises(SegfixError, match=r"weak: no such weights.*, mine\)"):
        find_weights("weak")


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "cache/segfix"),
        ("linux", None, "user/.cache/segfix"),
        ("darwin", None, "user/Library/Caches/segfix"),
        ("win32", "LOCALAPPDATA", "cache/segfix/Cache"),
    ],
)
def test_the_home_folder_is_in_the_platforms_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    variable: str | None,
    expected: str,
) -> None:
    for name in (weights.HOME, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "user")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", platform)
    assert weights.weights_home() == tmp_path / expected


@pytest.fixture
def server(tmp_path: Path, tiny_onnx: Path) -> Iterator[str]:
    """Address of a server of strong.onnx."""
    pytest.importorskip("pooch")
    (tmp_path / "served").mkdir()
    shutil.copy(tiny_onnx, tmp_path / "served" / "strong.onnx")
    handler = partial(QuietHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def test_weights_are_fetched_with_their_checksum_only(
    home: Path, server: str, tiny_onnx: Path
) -> None:
    digest = weights.file_digest(tiny_onnx)
    with pytest.raises(SegfixError, match=r"another file than that SHA-256 is of; nothing was"):
        weights.fetch_weights(f"{server}/strong.onnx", "0" * 64)
    assert list(home.glob("*")) == []
    path = weights.fetch_weights(f"{server}/strong.onnx", digest)
    assert path == find_weights("strong") == home / "strong.onnx"
    assert path.read_bytes() == tiny_onnx.read_bytes()
    # It is there: nothing is asked, and no other file of that name takes its place.
    assert weights.fetch_weights("http://127.0.0.1:9/strong.onnx", digest) == path
    with pytest.raises(SegfixError, match="there is another file of that name"):
        weights.fetch_weights(f"{server}/strong.onnx", "0" * 64)
    with pytest.raises(SegfixError, match=r"weak\.onnx: can't be fetched \(404 File not"):
        weights.fetch_weights(f"{server}/weak.onnx", digest)
    with pytest.raises(SegfixError) as unreached:
        weights.fetch_weights("http://127.0.0.1:9/weak.onnx", digest)
    assert str(unreached.value) == (
        "http://127.0.0.1:9/weak.onnx: can't be reached; check the address, or download it by "
        "other means and give the file (--weights)."
    )
    with pytest.raises(SegfixError, match="the name of shipped weights"):
        weights.fetch_weights(f"{server}/{DEFAULT_WEIGHTS}.onnx", digest)


@pytest.mark.parametrize("url", ["file:///tmp/a.onnx", "https://host/a.pth", "ftp://host/a.onnx"])
def test_other_urls_are_refused(home: Path, url: str) -> None:
    with pytest.raises(SegfixError, match=r"not fetched; expected https://HOST/…/NAME\.onnx"):
        weights.fetch_weights(url, "0" * 64)
