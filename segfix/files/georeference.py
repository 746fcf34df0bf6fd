"""Geo-references of photographs: in tags of GeoTIFF, or in a world file beside any picture."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from segfix.files.reading import read_text
from segfix.files.tiff_tags import Page, read_pages

SCALE, TIE_POINTS, MATRIX, KEYS = 33550, 33922, 34264, 34735
"""Tags of GeoTIFF."""

RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1025, 2048, 3072
"""Keys of GeoTIFF: what coordinates are of, and codes of the coordinate reference system."""

LARGEST_CODE = 32766
"""Of a system; the next one means that it is described by parameters."""


def read_georeference(path: Path) -> dict[str, Any] | None:
    """Read where a photograph's pixels lie.

    Args:
        path: The photograph. A world file beside it (`.tfw`, `.jgw`, `.wld`, …) counts where it has
            no tags of its own, and a `.prj` where these name no system by its code.

    Returns:
        `transform`, [a, b, c, d, e, f]: a stored pixel's corner in column x and row y lies at
        a·x + b·y + c, d·x + e·y + f; and `crs`, "EPSG:32633" or WKT, None where nobody says it.
        None where there is no geo-reference, or one by control points alone.
    """
    transform, crs = None, None
    with suppress(OSError, ValueError), path.open("rb") as file:
        for page in read_pages(file):
            transform, crs = _read_transform(page), _read_system(page)
            break
    if transform is None:
        transform = _read_world_file(path)
    if transform is None or not all(map(math.isfinite, transform)):
        return None
    if transform[0] * transform[4] == transform[1] * transform[3]:
        return None
    if crs is None:
        with suppress(OSError, ValueError):
            crs = read_text(path.with_suffix(".prj")).strip() or None
    return {"transform": transform, "crs": crs}


def _read_transform(page: Page) -> list[float] | None:
    matrix, scale = page.values(MATRIX), page.values(SCALE)
    ties = page.values(TIE_POINTS)
    if len(matrix) == 16:
        a, b, _, c, d, e, _, f = matrix[:8].tolist()
    elif len(scale) >= 2 and len(ties) == 6:
        (x, y, _, east, north, _), (a, down) = ties.tolist(), scale[:2].tolist()
        b, d, e = 0.0, 0.0, -down
        c, f = east - a * x, north + down * y
    else:
        return None
    if _read_keys(page).get(RASTER_TYPE) == 2:
        # Of pixels' centres, not of their corners.
        c, f = c - (a + b) / 2, f - (d + e) / 2
    return [a, b, c, d, e, f]


def _read_system(page: Page) -> str | None:
    keys = _read_keys(page)
    code = keys.get(PROJECTED) or keys.get(GEOGRAPHIC, 0)
    return f"EPSG:{code}" if 0 < code <= LARGEST_CODE else None


def _read_keys(page: Page) -> dict[int, int]:
    """Read the keys whose values are stored beside them."""
    entries = page.values(KEYS)
    rows = entries[4 : len(entries) // 4 * 4].reshape(-1, 4).tolist()
    return {key: value for key, place, _, value in rows if not place}


def _read_world_file(path: Path) -> list[float] | None:
    ending = path.suffix[1:]
    for suffix in (f".{ending[:1]}{ending[-1:]}w", f".{ending}w", ".wld"):
        with suppress(OSError, ValueError):
            a, d, b, e, east, north = map(float, read_text(path.with_suffix(suffix)).split())
            # World files give the first pixel's centre.
            return [a, b, east - (a + b) / 2, d, e, north - (d + e) / 2]
    return None
