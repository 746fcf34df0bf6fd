"""Polygons of a label map: exact along the pixels' edges, then with as few vertices as allowed.

Needs shapely (extra `polygons`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


LEAST = 0.25
"""Of tolerances, pixels: below, hardly a vertex is saved."""


def trace_regions(labels: NDArray[np.integer[Any]], tolerance: float = 0.5) -> dict[int, Any]:
    """Trace the outlines of all regions of a label map.

    Regions that touch have the same vertices along their border, so that neither gaps nor overlaps
    come about.

    Args:
        labels: (H, W) ids, 0 where there is none.
        tolerance: How far, in pixels, an outline may leave the pixels' edges; 0: not at all. Where
            a region would be lost, distorted, or cross another's border, it is less for that one.

    Returns:
        By id a shapely `MultiPolygon` of x and y in pixels, whose holes and parts are those of the
        region; parts may meet in a vertex.

    Raises:
        ModuleNotFoundError: shapely isn't installed.

    Example:
        >>> trace_regions(np.array([[0, 7, 7, 0]]))[7].normalize().wkt
        'MULTIPOLYGON (((1 0, 1 1, 3 1, 3 0, 1 0)))'
    """
    import shapely

    ids, counts = np.unique(labels[labels != 0], return_counts=True)
    paths, sides = _trace_borders(labels)
    free = _are_rings(paths)
    lines, allowed = list(paths), np.full(len(paths), float(tolerance))
    stale = allowed > 0
    while True:
        for one in np.flatnonzero(stale):
            path, most = paths[one], float(allowed[one])
            lines[one] = simplify_path(path, most, ring=bool(free[one])) if most else path
        faces, inside = _find_faces(lines, sides)
        found = np.array([shapely.multipolygons(faces[inside == one]) for one in ids], object)
        faulty = ~shapely.is_valid(found) | (abs(shapely.area(found) - counts) > counts / 8)
        if not faulty.any() and len(ids) > 1 and not shapely.coverage_is_valid(found):
            faulty = ~shapely.is_empty(shapely.coverage_invalid_edges(found))
        if not allowed.any() or not faulty.any():
            return dict(zip(ids.tolist(), found, strict=True))
        stale = np.isin(sides, ids[faulty]).any(axis=1) & (allowed > 0)
        if not stale.any():
            # What is wrong with them is others' borders.
            stale = allowed > 0
        allowed[stale] = np.where(allowed[stale] > LEAST, allowed[stale] / 2, 0)


def list_rings(polygons: Any) -> list[Points]:
    """List an outline of each part of a shapely geometry; holes hang on theirs by a cut.

    Returns:
        (N, 2) x and y each, not closed. Filled by the even-odd rule they are the parts.
    """
    import shapely

    return [
        join_rings([np.array(ring.coords)[:-1] for ring in (part.exterior, *part.interiors)])
        for part in shapely.get_parts(polygons)
    ]


def join_rings(rings: Sequence[Points]) -> Points:
    """Join rings to one by cuts of no width between nearest vertices.

    Args:
        rings: (N, 2) x and y each, not closed.

    Returns:
        (M, 2), which filled by the even-odd rule is the same area.
    """
    from scipy.spatial import KDTree

    joined = rings[0]
    for ring in rings[1:]:
        distances, nearest = KDTree(ring).query(joined)
        here = int(distances.argmin())
        there = int(nearest[here])
        around = [ring[there:], ring[: there + 1]]
        joined = np.concatenate([joined[: here + 1], *around, joined[here:]])
    return joined


def _trace_borders(labels: NDArray[np.integer[Any]]) -> tuple[list[Points], NDArray[np.int64]]:
    """Trace the borders between regions, from one point where three or more meet to the next.

    Returns:
        (N, 2) x and y of each border's ends and turns, and (borders, 2) the ids on the side to
        which x turns when it is turned to y, and on the other one.
    """
    import shapely

    padded = np.pad(labels, 1).astype(np.int64)
    across = _find_runs(padded[:-1, 1:-1], padded[1:, 1:-1])
    down = _find_runs(padded.T[:-1, 1:-1], padded.T[1:, 1:-1])
    segments = np.concatenate([across[:, :, ::-1], down])
    if not len(segments):
        return [], np.zeros((0, 2), np.int64)
    merged = shapely.line_merge(shapely.multilinestrings(segments.astype(np.float64)))
    paths = [shapely.get_coordinates(line) for line in shapely.get_parts(merged)]
    begin, end = (np.array([path[place] for path in paths]) for place in (0, 1))
    beside = np.sign(end - begin)[:, ::-1] * (-0.5, 0.5)
    # In the padded map, a pixel's place is one more than its corner.
    pixels = (np.floor((begin + end) / 2 + way) + 1 for way in (beside, -beside))
    sides = [padded[tuple(pixel.astype(np.int64).T[::-1])] for pixel in pixels]
    return paths, np.stack(sides, axis=1)


def _find_faces(
    lines: Sequence[Points], sides: NDArray[np.int64]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Find the polygons between borders, and the id inside of each; 0 where nobody knows."""
    import shapely

    faces = shapely.get_parts(shapely.polygonize([shapely.linestrings(line) for line in lines]))
    shells = shapely.get_exterior_ring(faces)
    edges = dict[tuple[Any, Any], int]()
    for line, (one, other) in zip(lines, sides.tolist(), strict=True):
        points = list(map(tuple, line.tolist()))
        edges |= dict.fromkeys(itertools.pairwise(points), one)
        edges |= dict.fromkeys(itertools.pairwise(points[::-1]), other)
    starts, ends = (shapely.get_coordinates(shapely.get_point(shells, at)) for at in (0, 1))
    turned = ~shapely.is_ccw(shells)[:, None]
    starts, ends = np.where(turned, ends, starts), np.where(turned, starts, ends)
    firsts = zip(map(tuple, starts.tolist()), map(tuple, ends.tolist()), strict=True)
    return faces, np.array([edges.get(first, 0) for first in firsts], np.int64)


def _find_runs(one: NDArray[np.integer[Any]], other: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Find the longest runs of edges with the same two ids on their sides.

    Args:
        one: (N, M) ids on one side of N lines of M edges.
        other: On the other side.

    Returns:
        (runs, 2, 2): begin and end, each a line and a place along it.
    """
    edge = one != other
    joined = edge[:, 1:] & (one[:, 1:] == one[:, :-1]) & (other[:, 1:] == other[:, :-1])
    begins, ends = edge.copy(), edge.copy()
    begins[:, 1:] &= ~joined
    ends[:, :-1] &= ~joined
    begin, end = np.argwhere(begins), np.argwhere(ends)
    end[:, 1] += 1
    return np.stack([begin, end], axis=1)


def _are_rings(paths: Sequence[Points]) -> NDArray[np.bool_]:
    """Tell which borders are closed and meet no other."""
    if not paths:
        return np.zeros(0, bool)
    ends = np.array([path[[0, -1]] for path in paths])
    _, place, counts = np.unique(
        ends.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True
    )
    shared = counts[place.reshape(-1, 2)]
    return np.asarray((ends[:, 0] == ends[:, 1]).all(axis=1) & (shared[:, 0] == 2))


def simplify_path(path: Points, tolerance: float, *, ring: bool = False) -> Points:
    """Take as few vertices as stay near a path along pixels' edges.

    Vertices are the path's own sharp corners, and between the steps of slanted lines the middles of
    edges: a line through corners would be farther from the others than half a pixel.

    Args:
        path: (N, 2) turns, and the two ends, which are kept.
        tolerance: Largest distance of a turn from the result, pixels.
        ring: Whether it may begin elsewhere.

    Returns:
        (M, 2); of a ring with less than three vertices, the path itself.

    Reference:
        Douglas and Peucker, 1973, with distances of the turns, not of the vertices chosen from.
    """
    turns = _start_ring(path, tolerance) if ring else path
    legs = np.abs(np.diff(turns, axis=0)).sum(axis=1)
    sharp = np.flatnonzero(_cut(legs[:-1], legs[1:]) > tolerance) + 1
    last = len(turns) - 1
    # Places along the path: whole numbers are turns.
    places = np.unique(np.concatenate([[0, last], sharp, np.arange(last) + 0.5]))
    whole = places.astype(np.int64)
    ahead = turns[np.minimum(whole + 1, last)]
    vertices = turns[whole] + (places - whole)[:, None] * (ahead - turns[whole])
    chosen, waiting = [0, len(places) - 1], [(0, len(places) - 1)]
    while waiting:
        begin, end = waiting.pop()
        split = _find_split(turns, places, vertices, begin, end, tolerance)
        if split:
            chosen.append(split)
            waiting += [(begin, split), (split, end)]
    chosen.sort()
    kept = chosen[:1]
    for here, after in itertools.pairwise(chosen[1:]):
        if _find_split(turns, places, vertices, kept[-1], after, tolerance):
            kept.append(here)
    kept.append(chosen[-1])
    closed = bool((path[0] == path[-1]).all())
    return path if closed and len(kept) < 4 else vertices[kept]


def _find_split(
    turns: Points,
    places: NDArray[np.float64],
    vertices: Points,
    begin: int,
    end: int,
    tolerance: float,
) -> int:
    """Find where a line between two vertices must be split; 0: nowhere."""
    first = int(np.floor(places[begin])) + 1
    between = turns[first : int(np.ceil(places[end]))]
    if end - begin < 2 or not len(between):
        return 0
    start, along = vertices[begin], vertices[end] - vertices[begin]
    length = float(along @ along)
    share = np.clip((between - start) @ along / length, 0, 1) if length else np.zeros(len(between))
    distances = np.hypot(*(start + share[:, None] * along - between).T)
    worst = int(distances.argmax())
    if distances[worst] <= tolerance + 1e-9:
        return 0
    after = int(np.searchsorted(places, first + worst))
    if places[after] == first + worst:
        return after
    candidates: Iterable[int] = (one for one in (after - 1, after) if begin < one < end)
    return max(candidates, key=lambda one: _distance(vertices[one], start, along))


def _distance(point: Points, start: Points, along: Points) -> float:
    """Measure how far a point lies from a line, or from a point, times the line's length."""
    x, y = point - start
    return float(abs(x * along[1] - y * along[0]) if along.any() else np.hypot(x, y))


def _cut(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure how far a corner lies from the line between the middles of its two legs."""
    return np.asarray(one * other / 2 / np.hypot(one, other))


def _start_ring(path: Points, tolerance: float) -> Points:
    """Let a ring begin at a sharp corner, or in the middle of its longest leg."""
    turns = path[:-1]
    legs = np.abs(np.diff(path, axis=0)).sum(axis=1)
    cuts = _cut(np.roll(legs, 1), legs)
    if cuts.max() > tolerance:
        turns = np.roll(turns, -int(cuts.argmax()), axis=0)
        return np.concatenate([turns, turns[:1]])
    longest = int(legs.argmax())
    middle = (path[longest : longest + 1] + path[longest + 1 : longest + 2]) / 2
    return np.concatenate([middle, np.roll(turns, -longest - 1, axis=0), middle])
