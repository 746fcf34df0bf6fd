"""Some of the files of `make fuzz`; and that its driver notices what it is there to notice."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from segfix.errors import SegfixError
from tests.fuzz import run as driver
from tests.fuzz.readers import READERS, text_reader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks /proc")


# What is imported for these takes longer than all others' files.
LATER = {"checkpoint", "state"}


@pytest.mark.parametrize("name", sorted(READERS.keys() - LATER))
def test_broken_files_give_a_value_or_our_error(name: str) -> None:
    for module in READERS[name].imports:
        pytest.importorskip(module.partition(".")[0])
    result = driver.fuzz(name, 40, seed=1)
    assert result.findings == []
    assert sum(result.counts.values()) == 40


def test_equal_seeds_make_equal_files() -> None:
    for name in ("labels-npz", "coco", "image"):
        samples = READERS[name].files()
        first, again = (
            [driver.make_files(samples, Random(f"{seed}")) for seed in range(20)] for _ in range(2)
        )
        assert first == again


def raises_another(path: Path) -> None:
    raise KeyError(path)


def warns(path: Path) -> None:
    warnings.warn("odd", stacklevel=1)


def names_nothing(path: Path) -> None:
    raise SegfixError("something is wrong")


def writes(path: Path) -> None:
    path.with_suffix(".tmp").touch()


def writes_elsewhere(path: Path) -> None:
    Path(path.parents[1], "elsewhere").write_text("a")


def takes_memory(path: Path) -> None:
    bytearray(2 * driver.MEMORY)


def never_ends(path: Path) -> None:
    while True:
        pass


def crashes(path: Path) -> None:
    os.abort()


def connects(path: Path) -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def unpickles(path: Path) -> None:
    pickle.loads(b"cos\nsystem\n.")


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (raises_another, "KeyError at test_fuzz.py:"),
        (warns, "UserWarning at test_fuzz.py:"),
        (names_nothing, "names no file: something is wrong"),
        (writes, "wrote ["),
        (writes_elsewhere, "ended by SIGXFSZ"),
        (takes_memory, "MemoryError at test_fuzz.py:"),
        (never_ends, "ended by SIGPROF"),
        (crashes, "ended by SIGABRT"),
        (connects, "ended by SIGUSR1"),
        (unpickles, "ended by SIGUSR1"),
    ],
)
def test_what_no_reader_may_do_is_found_and_kept(
    read: Callable[[Path], None], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "SECONDS", 0.5)
    monkeypatch.setitem(READERS, "faulty", text_reader("a b\n", read))
    ((number, text),) = driver.fuzz("faulty", 1, keep=tmp_path).findings
    assert (number, text[: len(told)]) == (0, told)
    assert {path.name for path in (tmp_path / "faulty").iterdir()} == {"0", "0.txt"}
