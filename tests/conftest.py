"""Scenes shared by the tests, read-only, and one profile for all property tests."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

# The same examples on every machine, and no clock: other jobs may run beside the tests.
settings.register_profile("segfix", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("segfix")


SLOW = ("training", "test_integrations.py", "test_readme.py", "report", "serve", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that in the end no process works on one alone."""
    slow = [Path(__file__).with_name(name) for name in SLOW]
    items.sort(key=lambda item: not {item.path, *item.path.parents}.intersection(slow))


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Import a file that is no module of a package."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # for its dataclasses
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def half_plane() -> NDArray[np.uint8]:
    """(32, 40): class 1 in columns 0 … 19, class 2 from column 20."""
    scene = np.ones((32, 40), np.uint8)
    scene[:, 20:] = 2
    scene.flags.writeable = False
    return scene


@pytest.fixture(scope="session")
def disc() -> NDArray[np.uint8]:
    """(51, 51): class 7 within 17 px of (25, 25), on class 3."""
    y, x = np.mgrid[:51, :51] - 25
    scene = np.where(y * y + x * x <= 17 * 17, 7, 3).astype(np.uint8)
    scene.flags.writeable = False
    return scene


@pytest.fixture(scope="session")
def checkerboard() -> NDArray[np.uint8]:
    """(24, 24): classes 0 and 1 in cells of one pixel."""
    y, x = np.mgrid[:24, :24]
    scene: NDArray[np.uint8] = ((y + x) % 2).astype(np.uint8)
    scene.flags.writeable = False
    return scene


@pytest.fixture(scope="session")
def pixel_line() -> NDArray[np.uint8]:
    """(25, 30): class 2 in row 12, from frame to frame, on class 1."""
    scene = np.ones((25, 30), np.uint8)
    scene[12] = 2
    scene.flags.writeable = False
    return scene


def tiny_network(**metadata: object) -> onnx.ModelProto:
    """A network that reads its answers from the colours of the photograph.

    Red is the probability of boundary × 255, green the sector × 16, blue the certainty × 255. If
    it is conditioned, 255 - distance, where it shares bits with red, is the probability × 255 that
    a label is wrong.
    """
    conditioned = bool(metadata.get("conditioned"))
    nodes = [
        onnx.helper.make_node("Gather", ["image", name], [f"{name}_plane"], axis=1)
        for name in ("red", "green", "blue")
    ]
    nodes += [
        onnx.helper.make_node(
            "BitShift", ["green_plane", "four"], ["direction"], direction="RIGHT"
        ),
        onnx.helper.make_node("Identity", ["red_plane"], ["boundary"]),
        onnx.helper.make_node("Identity", ["blue_plane"], ["certainty"]),
    ]
    if conditioned:
        nodes += [
            onnx.helper.make_node("BitwiseNot", ["distance"], ["nearness"]),
            onnx.helper.make_node("BitwiseAnd", ["red_plane", "nearness"], ["wrong"]),
        ]
    uint8, int64 = onnx.TensorProto.UINT8, onnx.TensorProto.INT64
    constants = [
        onnx.helper.make_tensor(name, int64, [], [channel])
        for channel, name in enumerate(("red", "green", "blue"))
    ]
    constants.append(onnx.helper.make_tensor("four", uint8, [], [4]))
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [
            onnx.helper.make_tensor_value_info("image", uint8, ["n", 3, "h", "w"]),
            *(
                onnx.helper.make_tensor_value_info(name, uint8, ["n", "h", "w"])
                for name in ["distance"] * conditioned
            ),
        ],
        [
            onnx.helper.make_tensor_value_info(name, uint8, ["n", "h", "w"])
            for name in ("direction", "boundary", "certainty", *["wrong"] * conditioned)
        ],
        constants,
    )
    model = onnx.helper.make_model(
        graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    if metadata:
        model.metadata_props.add(key="segfix", value=json.dumps(metadata))
    return model


TINY_METADATA = {
    "kind": "segfix network",
    "version": 1,
    "name": "tiny",
    "backbone": "none",
    "num_directions": 8,
    "boundary_width": 5,
    "data": {},
    "step": 0,
    "scores": {},
}


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of `tiny_network`."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    onnx.save(tiny_network(**TINY_METADATA), str(path))
    return path


@pytest.fixture(scope="session")
def conditioned_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of `tiny_network` that looks at predictions, too."""
    path = tmp_path_factory.mktemp("onnx") / "conditioned.onnx"
    metadata = {**TINY_METADATA, "name": "conditioned", "conditioned": True}
    onnx.save(tiny_network(**metadata), str(path))
    return path


@pytest.fixture(scope="session")
def foreign_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file without our metadata."""
    path = tmp_path_factory.mktemp("onnx") / "foreign.onnx"
    onnx.save(tiny_network(), str(path))
    return path


def tiny_segmenter(**metadata: object) -> onnx.ModelProto:
    """A network of three classes: each colour of the pixel one to the right, as a probability."""
    nodes = [
        onnx.helper.make_node("Cast", ["image"], ["number"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node(
            "Conv", ["number", "kernel"], ["probability"], group=3, pads=[0, 0, 0, 1]
        ),
    ]
    kernel = np.repeat(np.array([[[[0, 1 / 255]]]], np.float32), 3, axis=0)
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["n", 3, "h", "w"])],
        [
            onnx.helper.make_tensor_value_info(
                "probability", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"]
            )
        ],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    model = onnx.helper.make_model(
        graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    model.metadata_props.add(key="segfix", value=json.dumps(metadata))
    return model


SEGMENTER_METADATA = {
    "kind": "segmentation network",
    "version": 1,
    "name": "colours",
    "network": "none",
    "backbone": "none",
    "class_ids": [1, 2, 200],
    "data": {},
    "step": 0,
    "scores": {},
}


@pytest.fixture(scope="session")
def segmenter_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of `tiny_segmenter`."""
    path = tmp_path_factory.mktemp("onnx") / "colours.onnx"
    onnx.save(tiny_segmenter(**SEGMENTER_METADATA), str(path))
    return path


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with `images`, `preds` and `labels`: a.png, b.png, c.png in each.

    The predictions' boundary lies 2 px right of the truth. The photographs tell the tiny network
    to send the columns 20 and 21, which the predictions give to class 1, to the right, to class 2.
    """
    monkeypatch.chdir(tmp_path)
    image = np.zeros((24, 40, 3), np.uint8)
    image[:, 20:22] = (255, 4 * 16, 255)
    truth = np.ones((24, 40), np.uint8)
    truth[:, 20:] = 2
    pred = np.ones((24, 40), np.uint8)
    pred[:, 22:] = 2
    for folder, array in (("images", image), ("preds", pred), ("labels", truth)):
        Path(folder).mkdir()
        for stem in "abc":
            Image.fromarray(array).save(Path(folder, f"{stem}.png"))
    return tmp_path


@pytest.fixture
def clip(work: Path) -> Path:
    """A video of five frames, each a photograph of `work`; nothing is lost in it."""
    import av

    image = np.array(Image.open("images/a.png"))
    with av.open("clip.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 40, 24, "bgr0"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return Path("clip.mkv")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server with an empty bucket `bucket`, which the environment names."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    _, port = running.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield environment["AWS_ENDPOINT_URL"]
    running.stop()
