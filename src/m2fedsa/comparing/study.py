"""What is run: arms (methods, or points of a grid), candidates of each arm, and the same seeds for all.

Every arm gets the same candidates: the settings to search over. Which one counts is decided on validation samples, later.
"""

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2fedsa.baselines.methods import named
from m2fedsa.config import Config
from m2fedsa.errors import ConfigError

Grid = Mapping[str, tuple[str, ...]]
"""setting -> values, as `--set` takes them"""


@dataclass(frozen=True)
class Arm:
    """What one row of the table is about."""

    name: str
    candidates: Mapping[str, Config]
    """the settings that were searched over, in words -> all settings, but for the seed"""


@dataclass(frozen=True)
class Job:
    """One run."""

    arm: str
    candidate: str
    config: Config
    place: Path
    """its directory, below that of the study"""


@dataclass(frozen=True)
class Study:
    """Arms and seeds."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]

    def jobs(self) -> Iterator[Job]:
        """Every run, seed by seed, so that all arms know something early."""
        for seed in self.seeds:
            for arm in self.arms:
                for candidate, config in arm.candidates.items():
                    place = Path(arm.name, candidate or ".", f"seed-{seed}")
                    yield Job(arm.name, candidate, config.model_copy(update={"seed": seed}), place)


def of_methods(base: Config, methods: Sequence[str], search: Grid, seeds: int) -> Study:
    """A study of methods and ablations by name; `ConfigError` for an unknown one, or one named twice."""
    if len(set(methods)) < len(methods) or not methods:
        raise ConfigError(f"--methods {','.join(methods)}: name each method once, at least one.")
    arms = []
    for name in methods:
        candidates = {told: named(name).of(base.override(point, "--search")) for told, point in points(search).items()}
        arms.append(Arm(name, _different(_named_after(base, name, candidates))))
    return Study(tuple(arms), _seeds(base, seeds))


def of_grid(base: Config, grid: Grid, seeds: int) -> Study:
    """A study of every combination of the values of some settings."""
    if not grid:
        raise ConfigError("--grid is missing: give a setting and its values, e.g. --grid fusion.width=32,64.")
    arms = []
    for told, point in points(grid).items():
        arms.append(Arm(told, _named_after(base, told, {"": base.override(point, "--grid")})))
    return Study(tuple(arms), _seeds(base, seeds))


def points(grid: Grid) -> dict[str, list[str]]:
    """What sets a point of the grid apart, in words that can name a directory -> assignments; one point without words for no grid."""
    found: dict[str, list[str]] = {}
    for values in itertools.product(*grid.values()):
        assignments = [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
        words = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in zip(grid, values, strict=True))
        if words in found or not all(map(_writable, values)):
            words = f"point-{len(found) + 1}"
        found[words] = assignments
    return found


def _writable(value: str) -> bool:
    return not set(value) & set('/\\"{}\n')


def grid_of(texts: Sequence[str], option: str) -> dict[str, tuple[str, ...]]:
    """`federation.rounds=10,20` as a setting and its values; a comma within brackets separates nothing."""
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, found, values = text.partition("=")
        if not found or not key.strip() or not values.strip():
            raise ConfigError(f"{option} {text}: write key=value,value, e.g. {option} optimizer.learning_rate=0.005,0.01.")
        grid[key.strip()] = tuple(_split(values))
    return grid


def _split(values: str) -> Iterator[str]:
    try:
        tomllib.loads(f"value = [{values}]")
    except tomllib.TOMLDecodeError:
        yield from (value.strip() for value in values.split(","))
        return
    depth, piece = 0, ""
    for letter in values:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            yield piece.strip()
            piece = ""
        else:
            piece += letter
    yield piece.strip()


def _named_after(base: Config, arm: str, candidates: Mapping[str, Config]) -> dict[str, Config]:
    """Known by its arm; one thread each, because as many run at once as there are cores, and results shall not depend on their number."""
    changes = [f'name="{base.name} {arm}"', f"compute.threads={base.compute.threads or 1}"]
    return {told: config.override(changes, "the study's") for told, config in candidates.items()}


def _different(candidates: Mapping[str, Config]) -> dict[str, Config]:
    """Without those that are the same run: a method need not know every setting that is searched over."""
    found: dict[str, Config] = {}
    for told, config in candidates.items():
        if config not in found.values():
            found[told] = config
    return found if len(found) > 1 else {"": next(iter(found.values()))}


def _seeds(base: Config, number: int) -> tuple[int, ...]:
    return tuple(range(base.seed, base.seed + number))
