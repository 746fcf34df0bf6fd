from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import segfix
from segfix.errors import FileFormatError
from segfix.files.provenance import is_whole, read_record
from segfix.formats import OFFSET_SUFFIXES, OffsetMap, read_offset_map, write_offset_map
from segfix.formats.offset_maps import metadata_record
from segfix.geometry import NUM_DIRECTIONS, unit_offsets

Fuzzed = Callable[[bytes], st.SearchStrategy[bytes]]
each_m = pytest.mark.parametrize("m", NUM_DIRECTIONS)
whole = pytest.mark.parametrize("suffix", [".png", ".mat", ".npz"])
MAT_DTYPES = ("i1", "i2", "i4", "i8", "f4", "f8")


def random_map(m: int = 8, shape: tuple[int, int] = (11, 17)) -> OffsetMap:
    rng = np.random.default_rng(m)
    return OffsetMap.encode(
        rng.random(shape) < 0.6,
        rng.integers(0, m, shape, np.uint8),
        rng.random(shape),
        num_directions=m,
        lowest_confidence=0.25,
        boundary_width=3.5,
        confidence="probability · γ",
        source={"weights": "w18", "nested": [1, None]},
    )


def assert_same(one: OffsetMap, other: OffsetMap) -> None:
    assert np.array_equal(one.codes, other.codes)
    assert one.codes.dtype == other.codes.dtype == np.uint8
    assert metadata_record(one) == metadata_record(other)


def check_error(path: Path, text: str) -> None:
    with pytest.raises(FileFormatError) as caught:
        read_offset_map(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# Ours


@each_m
@whole
def test_a_file_gives_the_same_map_back(tmp_path: Path, suffix: str, m: int) -> None:
    path = tmp_path / f"map{suffix}"
    write_offset_map(path, random_map(m))
    assert_same(read_offset_map(path), random_map(m))


@whole
@given(data=st.data())
def test_maps_of_every_size_come_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    m = data.draw(st.sampled_from(NUM_DIRECTIONS))
    num_levels = data.draw(st.integers(1, 255 // m))
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, m * num_levels)))
    offset_map = OffsetMap(codes, num_directions=m, num_levels=num_levels)
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    write_offset_map(path, offset_map)
    assert_same(read_offset_map(path), offset_map)


@each_m
def test_flow_gives_the_same_vectors_back(tmp_path: Path, m: int) -> None:
    path = tmp_path / "map.flo"
    write_offset_map(path, random_map(m))
    again = read_offset_map(path)
    assert np.array_equal(again.vectors(), random_map(m).vectors())
    assert (again.confidence_map()[again.codes > 0] == 1).all()
    # By hand: x comes first.
    flow = np.frombuffer(path.read_bytes()[12:], "<f4").reshape(11, 17, 2)
    assert np.array_equal(flow[..., 0], random_map(m).vectors()[1])
    assert path.read_bytes()[:4] == struct.pack("<f", 202021.25)


@each_m
def test_the_released_code_reads_our_mat_and_npz(tmp_path: Path, m: int) -> None:
    write_offset_map(tmp_path / "map.mat", random_map(m))
    write_offset_map(tmp_path / "map.npz", random_map(m))
    for loaded in (scipy.io.loadmat(tmp_path / "map.mat"), np.load(tmp_path / "map.npz")):
        vectors = loaded["mat"]
        assert vectors.shape == (11, 17, 2)
        offset = vectors.astype(np.float32).transpose(2, 0, 1) * 2
        assert np.array_equal(offset, random_map(m).vectors() * 2), "rows first"
        assert json.loads(str(np.squeeze(loaded["segfix"])))["kind"] == "offset map"


@each_m
@pytest.mark.parametrize("suffix", OFFSET_SUFFIXES)
@pytest.mark.parametrize("scale", [None, 1, 2])
def test_every_format_refines_alike(
    tmp_path: Path, suffix: str, m: int, scale: float | None
) -> None:
    label_map = np.random.default_rng(3).integers(0, 5, (11, 17)).astype(np.uint8)
    path = tmp_path / f"map{suffix}"
    write_offset_map(path, random_map(m))
    again, expected = read_offset_map(path), random_map(m)
    if suffix == ".flo":
        expected = OffsetMap.encode(
            expected.boundary_mask(),
            expected.direction_map(),
            num_directions=m,
            lowest_confidence=1.0,
            num_levels=1,
        )
    assert np.array_equal(
        segfix.refine(label_map, again, scale=scale),
        segfix.refine(label_map, expected, scale=scale),
    )


@pytest.mark.parametrize("suffix", OFFSET_SUFFIXES)
def test_a_record_lies_in_the_file_or_beside_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map{suffix}"
    write_offset_map(path, random_map(), record={"converted_from": "digest"})
    assert json.loads(read_record(path) or "")["converted_from"] == "digest"
    assert is_whole(path)
    if suffix != ".flo":
        assert_same(read_offset_map(path), random_map())


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_changed_vectors_are_not_passed_over(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"map{suffix}"
    write_offset_map(path, random_map())
    loaded = scipy.io.loadmat(path) if suffix == ".mat" else dict(np.load(path))
    arrays = {name: value for name, value in loaded.items() if not name.startswith("__")}
    arrays["mat"] = -arrays["mat"]
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    check_error(path, "its vectors have changed")
    arrays["mat"] = -arrays["mat"]
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    assert_same(read_offset_map(path), random_map())
    record = json.loads(str(np.squeeze(arrays["segfix"]))) | {"num_levels": 3}
    arrays["segfix"] = np.array(json.dumps(record))
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    check_error(path, "damaged offset map")
    arrays["segfix"] = np.array("text")
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    check_error(path, "arrays, but not an offset map")


# Those of others


def save(path: Path, vectors: NDArray[Any], name: str = "mat", *, compressed: bool = True) -> None:
    if path.suffix == ".mat":
        scipy.io.savemat(path, {name: vectors}, do_compression=compressed)
    else:
        write: Any = np.savez_compressed if compressed else np.savez
        write(path, **{name: vectors})


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".mat", d) for d in MAT_DTYPES] + [(".npz", d) for d in (*MAT_DTYPES, "f2", ">i4")],
)
@each_m
def test_vectors_of_any_type_come_back(
    tmp_path: Path, m: int, suffix: str, dtype: str, compressed: bool, first: bool
) -> None:
    expected = random_map(m).vectors()
    path = tmp_path / f"foreign{suffix}"
    vectors = (expected if first else np.moveaxis(expected, 0, 2)).astype(dtype)
    save(path, vectors, compressed=compressed)
    offset_map = read_offset_map(path)
    assert np.array_equal(offset_map.vectors(), expected)
    assert offset_map.num_directions == (16 if m == 16 else 8)
    assert np.array_equal(offset_map.boundary_mask(1.0), expected.any(axis=0))
    assert offset_map.confidence == "1 everywhere"


def test_unsigned_vectors_hold_steps_down_and_right_alone(tmp_path: Path) -> None:
    steps = np.array([[[0, 1], [1, 1], [1, 0], [0, 0]]])
    save(tmp_path / "a.npz", steps.astype(np.uint8))
    assert np.array_equal(read_offset_map(tmp_path / "a.npz").vectors()[0], steps[..., 0])
    save(tmp_path / "a.npz", (-steps).astype(np.uint8))
    check_error(tmp_path / "a.npz", "no offsets of SegFix")


@pytest.mark.parametrize("m", [4, 8])
def test_vectors_twice_as_long_come_back_as_they_are(tmp_path: Path, m: int) -> None:
    twice = random_map(m).vectors() * 2
    save(tmp_path / "a.mat", np.moveaxis(twice, 0, 2))
    assert np.array_equal(read_offset_map(tmp_path / "a.mat").vectors(), twice)


def test_a_single_array_needs_no_name_and_the_last_index_goes_first(tmp_path: Path) -> None:
    expected = random_map(8, (2, 5)).vectors()
    for suffix in (".mat", ".npz"):
        save(tmp_path / f"a{suffix}", np.moveaxis(expected, 0, 2), "mine")
        assert np.array_equal(read_offset_map(tmp_path / f"a{suffix}").vectors(), expected)


def test_no_boundary_at_all_is_an_offset_map(tmp_path: Path) -> None:
    save(tmp_path / "a.mat", np.zeros((3, 4, 2)))
    assert not read_offset_map(tmp_path / "a.mat").codes.any()


RIGHT = np.ones((3, 4, 2))


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
@pytest.mark.parametrize(
    ("vectors", "text"),
    [
        (RIGHT * 3, "no offsets of SegFix"),
        (RIGHT * 0.5, "no offsets of SegFix"),
        (RIGHT * np.nan, "no offsets of SegFix"),
        (RIGHT * np.inf, "no offsets of SegFix"),
        (np.full((3, 4, 2), -128, np.int8), "no offsets of SegFix"),
        (np.full((3, 4, 2), 2**63, np.uint64), "no offsets of SegFix"),
        (np.array([[[0, 1], [0, 2]]]), "no offsets of SegFix"),
        (np.ones((3, 4)), "(3, 4); expected offsets"),
        (np.ones((3, 4, 3)), "(3, 4, 3); expected offsets"),
        (np.ones((0, 4, 2)), "expected offsets"),
        (np.array("text"), "expected offsets"),
    ],
)
def test_what_is_no_offset_is_named(
    tmp_path: Path, suffix: str, vectors: NDArray[Any], text: str
) -> None:
    path = tmp_path / f"a{suffix}"
    save(path, vectors)
    check_error(path, text)


@pytest.mark.parametrize("suffix", [".mat", ".npz"])
def test_arrays_of_other_names_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    arrays: dict[str, Any] = {"dx": RIGHT[..., 0], "dy": RIGHT[..., 0]}
    scipy.io.savemat(path, arrays) if suffix == ".mat" else np.savez(path, **arrays)
    check_error(path, "it holds 'dx', 'dy'); name the vectors 'mat'")


def test_an_empty_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w"):
        pass
    check_error(tmp_path / "a.npz", "it holds nothing")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a .flo file"),
        (b"PIEH" + bytes(4), "not a .flo file"),
        (b"HEIP" + bytes(16), "not a .flo file"),
        (b"PIEH" + struct.pack("<ii", 2, 2) + bytes(31), "2×2 in 31 bytes"),
        (b"PIEH" + struct.pack("<ii", -2, -2) + bytes(32), "-2×-2 in 32 bytes"),
        (b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1), "truncated .flo file"),
        (b"PIEH" + struct.pack("<ii", 0, 5), "expected offsets"),
        (b"PIEH" + struct.pack("<iiff", 1, 1, 1e10, 1e10), "no offsets of SegFix"),
    ],
)
def test_broken_flow_is_named(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "a.flo"
    path.write_bytes(content)
    check_error(path, text)


def test_other_endings_are_named(tmp_path: Path) -> None:
    check_error(tmp_path / "map.jpg", "ending in .png, .mat, .npz, .flo")
    with pytest.raises(FileFormatError, match=r"ending in \.png, \.mat, \.npz, \.flo"):
        write_offset_map(tmp_path / "map.tif", random_map())
    write_offset_map(tmp_path / "MAP.NPZ", random_map())
    assert_same(read_offset_map(tmp_path / "MAP.NPZ"), random_map())


# Hostile files


def content_of(suffix: str, folder: Path, *, ours: bool) -> bytes:
    if ours:
        write_offset_map(folder / f"ours{suffix}", random_map(8, (4, 6)))
        return (folder / f"ours{suffix}").read_bytes()
    if suffix == ".flo":
        steps = unit_offsets(8)[np.arange(24).reshape(4, 6) % 8, ::-1]
        return b"PIEH" + struct.pack("<ii", 6, 4) + steps.astype("<f4").tobytes()
    file = io.BytesIO()
    vectors = unit_offsets(8)[np.arange(24).reshape(4, 6) % 8]
    if suffix == ".mat":
        scipy.io.savemat(file, {"mat": vectors})
    else:
        np.savez(file, mat=vectors)
    return file.getvalue()


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("suffix", [".mat", ".npz", ".flo"])
@given(data=st.data())
@settings(max_examples=200)
def test_any_bytes_give_an_offset_map_or_our_error(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    ours: bool,
    fuzzed: Fuzzed,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"fuzzed{suffix}"
    path.write_bytes(data.draw(fuzzed(content_of(suffix, folder, ours=ours))))
    try:
        offset_map = read_offset_map(path)
    except FileFormatError as error:
        message = str(error)
    else:
        assert offset_map.vectors().shape == (2, *offset_map.codes.shape)
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    zeros = zlib.compressobj(9)
    packed = zeros.compress(struct.pack("<II", 14, 48))
    packed += b"".join(zeros.compress(bytes(1 << 20)) for _ in range(64)) + zeros.flush()
    header = b"MATLAB 5.0".ljust(124) + b"\x00\x01IM"
    mat = tmp_path / "bomb.mat"
    mat.write_bytes(header + struct.pack("<II", 15, len(packed)) + packed)
    npz = tmp_path / "bomb.npz"
    with zipfile.ZipFile(npz, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mat.npy", bytes(64 << 20))
    tracemalloc.start()
    check_error(npz, "not a NumPy array")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    check_error(mat, "broken or truncated")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
