"""What several seeds say: means, intervals, and paired differences. The distribution is SciPy's, which loads where it is used."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """Mean of several runs, and half the width of its 95 % interval (Student); None for a single run."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ± {self.half:.3f}"


class Difference(NamedTuple):
    """Mean of paired differences, half its 95 % interval, and the p of the paired t-test; None where there is one pair alone."""

    mean: float
    half: float | None
    p: float | None

    @property
    def points(self) -> str:
        """In hundredths: `+3.8 ± 1.5`."""
        return f"{100 * self.mean:+.1f}" if self.half is None else f"{100 * self.mean:+.1f} ± {100 * self.half:.1f}"


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's interval; None without values."""
    if not values:
        return None
    if len(values) == 1:
        return Estimate(values[0], None)
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Ours less theirs over the seeds that both have; None where they have none."""
    both = sorted(set(ours) & set(theirs))
    return difference([ours[seed] for seed in both], [theirs[seed] for seed in both])


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """Ours less theirs, pair by pair, with the two-sided paired t-test; None without pairs.

    Where all differences are equal the test is undefined: p is 1 if they are zero, else 0, the limits of the test.
    """
    apart = [one - other for one, other in zip(ours, theirs, strict=True)]
    found = estimate(apart)
    if found is None or found.half is None:
        return None if found is None else Difference(found.mean, None, None)
    from scipy.special import stdtr

    error = statistics.stdev(apart) / math.sqrt(len(apart))
    if error == 0:
        return Difference(found.mean, 0.0, 1.0 if found.mean == 0 else 0.0)
    return Difference(found.mean, found.half, 2 * float(stdtr(len(apart) - 1, -abs(found.mean) / error)))
