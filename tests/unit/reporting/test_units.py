import pytest

from m2fedsa.reporting.units import duration, listing, operations, percent, plural, size, spread


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_994, "9.99 kB"), (9_996, "10.0 kB"), (12_400_000, "12.4 MB"), (999_600, "1.00 MB")],
)
def test_bytes_have_three_digits(count, text):
    assert size(count) == text


def test_operations():
    assert operations(2.5e9) == "2.50 GFLOP"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.13, "2.1 s"), (9.97, "10 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_never_show_sixty(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0731, "7.3 %"), (0.02, "2 %"), (0.0011, "0.11 %"), (0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")]
)
def test_percent(fraction, text):
    assert percent(fraction) == text


def test_words():
    assert plural(1, "client") == "1 client"
    assert plural(1500, "client") == "1,500 clients"
    assert listing(["a"]) == "a"
    assert listing(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (20690.0, 3110.0, "20,700 ± 3,100"),
        (6.154, 3.62, "6.2 ± 3.6"),
        (-0.0123, 0.00456, "-0.0123 ± 0.0046"),
        (152.3, 12.4, "152 ± 12"),
        (7.5, 0.0, "7.5 ± 0.0"),
        (0.0, 0.0, "0 ± 0"),
    ],
)
def test_a_deviation_has_two_digits_and_its_mean_as_many_places(mean, deviation, text):
    assert spread(mean, deviation) == text
