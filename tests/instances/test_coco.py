"""What is read of COCO's JSON."""

from __future__ import annotations

import math
from typing import Any

import pytest

from segfix.instances.coco import is_number


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), math.nan, math.inf, "1", [1]],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_finite_number_is_told_apart(value: Any) -> None:
    assert not is_number(value)
    assert is_number(None)
    assert is_number(10**300)
