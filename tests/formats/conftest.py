"""Bytes of broken files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st


@pytest.fixture(scope="session")
def fuzzed() -> Callable[[bytes], st.SearchStrategy[bytes]]:
    """For the content of a file: random bytes, or it cut short, or with some bytes changed."""

    def strategy(content: bytes) -> st.SearchStrategy[bytes]:
        place = st.integers(0, len(content) - 1)

        def change(changes: list[tuple[int, int]]) -> bytes:
            changed = bytearray(content)
            for where, value in changes:
                changed[where] = value
            return bytes(changed)

        return (
            st.binary(max_size=300)
            | place.map(lambda end: content[:end])
            | st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8).map(change)
        )

    return strategy
