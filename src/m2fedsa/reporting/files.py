"""A run as its directory tells it: what the reports read."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from m2fedsa.config import Config
from m2fedsa.reporting.records import Facts, ResultRecord, RoundRecord, WarmStartRecord
from m2fedsa.reporting.run_directory import CLIENTS, RESULT, WARM_START, read_config, read_json, read_rounds


@dataclass(frozen=True)
class RunFiles:
    """Everything that a run directory says; what a run has not reached yet is None or empty."""

    path: Path
    config: Config
    rounds: list[RoundRecord]
    facts: Facts | None
    warm_start: WarmStartRecord | None
    result: ResultRecord | None

    @classmethod
    def read(cls, path: Path | str) -> "RunFiles":
        """`RunDirectoryError` if there is no run, or a file of it is broken."""
        path = Path(path)
        config = read_config(path)
        return cls(
            path,
            config,
            read_rounds(path),
            cast(Facts | None, read_json(path / CLIENTS)),
            cast(WarmStartRecord | None, read_json(path / WARM_START)),
            cast(ResultRecord | None, read_json(path / RESULT)),
        )

    @property
    def modalities(self) -> list[str]:
        """In the run's order."""
        return list(self.config.modalities)

    def confusion(self) -> list[list[float]] | None:
        """Of the fused model on test samples; None where no file tells."""
        return self.result.get("confusion", {}).get("fused") if self.result else None

    def tested(self, subset: str = "fused") -> int | None:
        """Number of test samples that have this subset of the modalities; None where no file tells."""
        scores = self.result["metrics"].get(subset) if self.result else None
        return scores.get("samples") if scores else None

    def transfer_since(self) -> int | None:
        """The first round of the transfer phase."""
        return next((record["round"] for record in self.rounds if record["phase"] == "transfer"), None)

    def traffic(self) -> dict[str, int]:
        """Bytes of the four messages over the whole run: `warm start up`, `warm start down`, `rounds up`, `rounds down`."""
        found: dict[str, int] = {}
        if self.warm_start:
            found |= {"warm start up": self.warm_start["bytes"]["up"], "warm start down": self.warm_start["bytes"]["down"]}
        found["rounds up"] = sum(record["bytes"]["up"] for record in self.rounds)
        found["rounds down"] = sum(record["bytes"]["down"] for record in self.rounds)
        return {name: value for name, value in found.items() if value}
