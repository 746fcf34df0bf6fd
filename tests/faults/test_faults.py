"""A few moments of `faults.py`; `make faults` takes many, and kills trainings, too."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and process groups")


def undisturbed(faults: ModuleType, name: str, weights: Path = Path()) -> Any:
    (case,) = (case for case in faults.cases(str(weights)) if case.name == name)
    return faults.undisturbed(case)


@pytest.fixture(scope="module")
def usual_refine(faults: ModuleType, made_scene: Path) -> Any:
    """An undisturbed run of `refine`."""
    before = Path.cwd()
    os.chdir(made_scene)
    try:
        return undisturbed(faults, "refine")
    finally:
        os.chdir(before)


def test_refine_killed_and_run_again_gives_what_an_undisturbed_run_gives(
    faults: ModuleType, scene: Path, usual_refine: Any
) -> None:
    counts = faults.kill_at_random(usual_refine, 2)
    assert counts["killed"] >= 2
    assert counts["completed"] >= 1


def test_predict_offsets_killed_and_run_again_gives_what_an_undisturbed_run_gives(
    faults: ModuleType, scene: Path, tiny_onnx: Path
) -> None:
    usual = undisturbed(faults, "predict-offsets", tiny_onnx)
    assert faults.kill_at_random(usual, 1)["killed"] >= 1


def test_two_runs_at_once_give_what_one_gives(
    faults: ModuleType, scene: Path, usual_refine: Any
) -> None:
    assert faults.run_twice_at_once(usual_refine, 1) == {"ended well": 2}


def test_inputs_that_vanish_are_named_and_the_rest_is_done(
    faults: ModuleType, scene: Path, usual_refine: Any
) -> None:
    case = usual_refine.case
    slow = replace(case, arguments=(*case.arguments, "--workers", "1"))
    told = faults.take_inputs(replace(usual_refine, case=slow), Path("preds"))
    assert told.endswith("all after")


def test_results_cut_short_are_made_again(
    faults: ModuleType, scene: Path, usual_refine: Any
) -> None:
    assert faults.cut_results(usual_refine, 1)["cut"] > 0


def test_a_full_disk_is_told_and_what_is_there_is_whole(
    faults: ModuleType, scene: Path, usual_refine: Any
) -> None:
    import resource

    case = usual_refine.case
    sizes = sorted(map(len, usual_refine.files.values()))
    limit = sizes[len(sizes) * 2 // 3]

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = case.run(preexec_fn=limit_files)
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failures
    assert all(line.endswith("can't be written (File too large).") for line in failures)
    found = faults.files_in(Path(case.out))
    assert found
    assert not any(map(faults.is_temporary, found))
    faults.check_whole(case, found, usual_refine.files)
    case.complete()
    faults.check_equal(case, faults.files_in(Path(case.out)), usual_refine.files)
