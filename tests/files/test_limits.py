from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from segfix.errors import FileFormatError
from segfix.files.limits import Limits, check_bytes, check_pixels, current_limits, limit_reading
from segfix.jobs.pool import Threads


def test_limits_end_with_their_block() -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert current_limits() == Limits(2 * before, 1 << 30)
    with limit_reading(max_pixels=100, max_bytes=10):
        assert current_limits() == Limits(100, 10)
        with limit_reading(max_bytes=20):
            assert current_limits() == Limits(100, 20)
        with pytest.raises(FileFormatError, match=r"a\.npy: of shape \(3, 50\), more than 100 pix"):
            check_pixels((3, 50), "a.npy")
        with pytest.raises(FileFormatError, match="a: 11 bytes once unpacked, more than the 10"):
            check_bytes(11, "a")
    with pytest.raises(KeyError), limit_reading(max_pixels=100, max_bytes=10):
        raise KeyError
    assert current_limits() == Limits(2 * before, 1 << 30)


def test_threads_of_ours_have_the_limits_of_who_submits() -> None:
    with limit_reading(max_bytes=10):
        with Threads(1) as pool:
            assert pool.submit(current_limits).result().max_bytes == 10
        with ThreadPoolExecutor(1) as others:
            assert others.submit(current_limits).result().max_bytes == 1 << 30
