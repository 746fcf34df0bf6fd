"""The folders of offset maps that the commands find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segfix.formats import OffsetMap, write_offset_map
from segfix.geometry import make_targets


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with `offsets`, and with `zeros` that lead nowhere."""
    # It skips the tests that import it where the extra is absent; here it would end the run.
    from tests.cli.refine_instances.instance_files import IMAGES, SIZE, TRUE

    monkeypatch.chdir(tmp_path)
    labels = TRUE[0] + 2 * TRUE[1].astype(np.uint8)
    targets = make_targets(labels)
    offsets = OffsetMap.encode(targets.boundary_map == 1, targets.direction_map, 0.95)
    for stem in IMAGES.values():
        write_offset_map(Path("offsets", f"{stem}.png"), offsets)
        write_offset_map(Path("zeros", f"{stem}.png"), OffsetMap(np.zeros(SIZE, np.uint8)))
    return tmp_path
