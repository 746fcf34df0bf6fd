from __future__ import annotations

import math

import numpy as np

from segfix.geometry.boundary_lines import count_matches


def test_counts_of_matches_are_those_of_all_pairs_of_pixels() -> None:
    rng = np.random.default_rng(8)
    lines, others = (rng.random((2, 64, 9, 8)) < 0.04).astype(np.uint64)
    packed = [
        (np.uint64(1) << np.arange(64, dtype=np.uint64)) @ m.reshape(64, -1)
        for m in (lines, others)
    ]
    marked = [(np.flatnonzero(words), words[words > 0]) for words in packed]
    length, met = count_matches(marked[0], marked[1], (9, 8), (0, 1, 1.5, 3))
    for k in range(64):
        here, there = np.argwhere(lines[k]), np.argwhere(others[k])
        assert length[k] == len(here)
        for i, radius in enumerate((0, 1, 1.5, 3)):
            near = [any(math.dist(a, b) <= radius for b in there) for a in here]
            assert met[k, i] == sum(near)
