from __future__ import annotations

import pytest

from segfix.report.charts import change_chart, gain_chart, line_chart, tick_text, ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (0, 1e-9), (0, 0.013), (-3, 7), (0, 100), (-250, 4), (-1e-3, 0)]
)
def test_ticks_hold_the_values_and_are_few(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low + 1e-9
    assert marks[-1] >= high - 1e-9
    assert len(marks) <= 9
    assert marks == sorted(marks)


def test_a_missing_value_leaves_a_gap() -> None:
    line = line_chart([[1, 2, None, 4]], ["a", "b", "c", "d"]).lines[0]
    assert len(line.paths) == 2
    assert [mark.text for mark in line.marks] == ["a: 1.00", "b: 2.00", "d: 4.00"]


def test_larger_values_stand_higher() -> None:
    low, high = line_chart([[10, 90]], ["a", "b"]).lines[0].marks
    assert high.y < low.y
    assert high.x > low.x


def test_fixed_goes_up_and_broken_down_from_the_same_line() -> None:
    chart = change_chart([2.0], [1.0], ["1"], up=2.0, down=1.0)
    up, down = chart.bars
    assert chart.zero is not None
    assert up.y + up.height == pytest.approx(chart.zero)
    assert down.y == pytest.approx(chart.zero)
    assert up.height == pytest.approx(2 * down.height)


def test_gains_have_whiskers_where_there_is_an_interval() -> None:
    chart = gain_chart(
        ["a", "b", "c"], {"s": [[1.0, 0.5, 1.5], [-1.0, None, None], [None, None, None]]}
    )
    gain, loss = chart.bars
    assert gain.whisker is not None
    assert gain.whisker[0] < gain.x + gain.width < gain.whisker[1]
    assert loss.whisker is None
    assert loss.x + loss.width == pytest.approx(chart.zero)
    assert len(chart.y_ticks) == 3


def test_numbers_have_a_real_minus_sign() -> None:
    assert [tick_text(v, sign=True) for v in (-0.5, 0, 2)] == ["−0.5", "0", "+2"]
