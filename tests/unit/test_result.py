import math

import pytest
from tests.unit.reporting import invented

from m2fedsa.result import Result


def rounds():
    """Three, of which the second was not validated, and the third had no image."""
    first, second, third = (invented.record(number) for number in (1, 2, 3))
    second["metrics"] = None
    third["loss"]["image"] = None
    third["metrics"]["image"]["accuracy"] = None
    return [first, second, third]


@pytest.fixture
def result():
    return Result(invented.result(fused=0.8), rounds())


def test_a_table_with_gaps(result):
    frame = result.to_frame()
    assert list(frame["round"]) == [1, 2, 3]
    assert list(frame["clients"]) == [len(record["clients"]) for record in result.history]
    assert frame["fused_accuracy"].isna().tolist() == [False, True, False]
    assert frame["loss_image"].isna().tolist() == [False, False, True]
    assert frame["up"].sum() == sum(record["bytes"]["up"] for record in result.history)


def test_a_picture_with_gaps(result):
    (axes,) = result.plot().axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert [x for x, _ in curves["fused"]] == [1, 3]
    assert math.isnan(curves["image"][1][1])
    assert "+" not in "".join(curves)


def test_it_prints_in_a_line_per_subset(result):
    text = repr(result)
    assert text.count("\n") == len(result.metrics)
    assert "fused" in text.splitlines()[1]
    assert "accuracy 0.800" in text


def test_what_a_run_without_warm_start_lacks(result):
    record = {key: value for key, value in result.record.items() if key != "closed_form"}
    assert Result(record, []).closed_form is None
    assert Result(record, []).directory is None
