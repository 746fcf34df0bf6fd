"""A tiny scene, one tiny training on it and its export, shared by the tests of the trainer."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from timm.models import hrnet
from torch import Tensor

from segfix.training import hrnet_lite, loop, offset_training
from segfix.training.datasets import CropDataset
from segfix.training.encoders import replace_convolutions
from segfix.training.export import export_onnx
from segfix.training.offset_training import train_segfix
from segfix.training.settings import (
    CropSettings,
    DataFolder,
    Optimization,
    RunSettings,
    SegFixSettings,
)

COLOURS = np.array([[200, 60, 40], [40, 180, 80], [60, 70, 210]], np.uint8)

WritePair = Callable[..., None]
FillFolder = Callable[[Path], object]
MakeOnce = Callable[[str, FillFolder], Path]


class Trained(NamedTuple):
    """A folder that `train_segfix` has filled, and the scores it returned."""

    out: Path
    scores: dict[str, float]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    """Commands set torch's threads; two in each of two processes wait for each other."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate remembers the first precision of a process and refuses any other."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _listening_to_ctrl_c() -> Iterator[None]:
    """A process started in the background ignores Ctrl-C; some tests press it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Fill a folder of this name; of several processes of pytest, the first one does."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill: FillFolder) -> Path:
        folder, begun = root / name, root / f"{name}-begun"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                shutil.rmtree(begun, ignore_errors=True)
                begun.mkdir()
                fill(begun)
                begun.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def blobs() -> NDArray[np.uint8]:
    """(160, 160) label map of three classes in winding blobs."""
    noise = ndimage.gaussian_filter(np.random.default_rng(2).random((160, 160)), 6)
    classes = np.digitize(noise, np.quantile(noise, [0.4, 0.7]))
    return np.asarray(classes, np.uint8)


@pytest.fixture(scope="session")
def write_pair() -> WritePair:
    """Write a label map and a photograph, by default each class in its colour."""

    def write(
        folder: Path, name: str, labels: NDArray[Any], image: NDArray[np.uint8] | None = None
    ) -> None:
        for kind, pixels in (
            ("labels", labels),
            ("images", COLOURS[labels % 3] if image is None else image),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{name}.png")

    return write


@pytest.fixture(scope="session")
def data(make_once: MakeOnce, write_pair: WritePair, blobs: NDArray[np.uint8]) -> Path:
    """A data set of one photograph whose colours show its labels; its size is odd."""
    return make_once("data", lambda folder: write_pair(folder, "blobs", blobs[:101, :131]))


class TwoCrops(CropDataset):
    """The same two crops again and again."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return super().__getitem__(index % 2)


def train_on_two_crops(
    data: Path, out: Path, settings: SegFixSettings, run: RunSettings, **options: Any
) -> Trained:
    """A tiny training of a small network, with every step logged."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch, small_hrnet(), small_lite():
        patch.setattr(loop, "LOG_EVERY", 1)
        patch.setattr(offset_training, "CropDataset", TwoCrops)
        scores = train_segfix([DataFolder(data)], out, settings, val=[data], run=run, **options)
    return Trained(out, scores)


def train_once(make_once: MakeOnce, name: str, train: Callable[[Path], Trained]) -> Trained:
    """A training and its scores, from the process that has trained."""

    def fill(folder: Path) -> None:
        scores = train(folder / "out").scores
        (folder / "scores.json").write_text(json.dumps(scores))

    folder = make_once(name, fill)
    return Trained(folder / "out", json.loads((folder / "scores.json").read_text()))


@pytest.fixture(scope="session")
def trained(make_once: MakeOnce, data: Path) -> Trained:
    """That of hrnet_w18_small; what loads its checkpoint needs `_small_hrnet`."""
    settings = SegFixSettings(
        boundary_width=3,
        crops=CropSettings(crop_size=64),
        optimization=Optimization(40, 2, learning_rate=5e-3, warmup=5, ema=0.8),
    )
    run = RunSettings("cpu", workers=0, evaluate_every=30, quiet=True)
    return train_once(
        make_once, "trained", lambda out: train_on_two_crops(data, out, settings, run)
    )


def shorten_encoder(encoder: Any) -> None:
    """Keep the first block of each stage of an EfficientNet-Lite."""
    for place, stage in enumerate(encoder.blocks):
        encoder.blocks[place] = stage[:1]
    replace_convolutions(encoder)


@contextmanager
def small_lite() -> Iterator[None]:
    """Networks on EfficientNet-Lite with all their kinds of layers, but few, to export sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hrnet_lite, "FUSION_MODULES", 1)
        patch.setattr(hrnet_lite, "BLOCKS", 1)
        patch.setattr(hrnet_lite, "replace_convolutions", shorten_encoder)
        yield


@contextmanager
def small_hrnet() -> Iterator[None]:
    """hrnet_w18_small with one block instead of two in each branch, to be exported sooner."""
    whole: dict[str, Any] = hrnet.cfg_cls["hrnet_w18_small"]
    small = {
        name: {**stage, "num_blocks": (1,) * stage["num_branches"]}
        for name, stage in whole.items()
        if name != "stem_width"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hrnet.cfg_cls, "hrnet_w18_small", {**whole, **small})
        yield


@pytest.fixture
def _small_hrnet() -> Iterator[None]:
    with small_hrnet():
        yield


@pytest.fixture
def _small_lite() -> Iterator[None]:
    with small_lite():
        yield


@pytest.fixture(scope="session")
def train_lite() -> Callable[..., Trained]:
    """`train_conditioned`, for tests that train anew."""
    return train_conditioned


def train_conditioned(
    data: Path, out: Path, *, steps: int = 60, resume: bool = False, **options: Any
) -> Trained:
    """A tiny training of a network that looks at predictions, too."""
    settings = SegFixSettings(
        "hrnet_lite0",
        boundary_width=3,
        predicted=1,
        crops=CropSettings(crop_size=64),
        optimization=Optimization(steps, 2, learning_rate=3e-3, warmup=5, ema=0.8),
    )
    run = RunSettings("cpu", workers=0, resume=resume, quiet=True)
    return train_on_two_crops(data, out, settings, run, **options)


@pytest.fixture(scope="session")
def trained_lite(make_once: MakeOnce, data: Path) -> Trained:
    """That training; what loads its checkpoint needs `_small_lite`."""
    return train_once(make_once, "trained-lite", lambda out: train_conditioned(data, out))


@pytest.fixture(scope="session")
def exported_lite(make_once: MakeOnce, trained_lite: Trained) -> Path:
    """Its ONNX file."""
    checkpoint = trained_lite.out / "model.safetensors"
    with small_lite():
        return export_once(make_once, "lite.onnx", checkpoint)


def export_once(make_once: MakeOnce, name: str, checkpoint: Path, **options: Any) -> Path:
    """An ONNX file of this name, alone in its folder."""
    folder = make_once(
        f"exported-{name}", lambda folder: export_onnx(checkpoint, folder / name, **options)
    )
    return folder / name


@pytest.fixture(scope="session")
def checkpoint(trained: Trained) -> Path:
    """`model.safetensors` of that training."""
    return trained.out / "model.safetensors"


@pytest.fixture(scope="session")
def exported(make_once: MakeOnce, checkpoint: Path) -> Path:
    """Its ONNX file, alone in its folder."""
    notes = {"license": "CC0", "terms": "none"}
    with small_hrnet():
        return export_once(make_once, "tiny.onnx", checkpoint, notes=notes)


@pytest.fixture(scope="session")
def flipping(make_once: MakeOnce, checkpoint: Path) -> Path:
    """The same network, which looks at the mirrored image, too."""
    with small_hrnet():
        return export_once(make_once, "flip.onnx", checkpoint, flip=True)
