"""A main server that knows after a restart what was in force: `in_force.json` names the round and its checkpoint.

The fed server's manifest stays the judge: it commits or restores what it names. This file only lets a main server that was started anew
answer evaluations at once, and say where it stands.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from m2fedsa.deploy.drawing import read_json
from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError
from m2fedsa.main_server import MainServer
from m2fedsa.messages import Acceptance, Averaged, RoundPlan

IN_FORCE = "in_force.json"


@dataclass
class Lasting:
    """See `coordination.port.Coordination`."""

    server: MainServer
    folder: Path
    _prepared: dict[int, str] = field(default_factory=dict)

    def recover(self) -> int:
        """Take what was in force when the process ended; the round. `RunDirectoryError` if its checkpoint is missing or was altered."""
        path = self.folder / IN_FORCE
        if path.exists():
            found = read_json(path)
            try:
                self.server.restore(int(found["round"]), str(found["file"]))
            except (KeyError, TypeError, ValueError) as error:
                raise RunDirectoryError(
                    f"{path}: was altered ({error}). Restore it from a copy, or remove it: the fed server knows."
                ) from error
        return self.server.rounds[0]

    @property
    def rounds(self) -> tuple[int, int | None, int | None]:
        """See `MainServer.rounds`."""
        return self.server.rounds

    def begin(self, plan: RoundPlan) -> None:
        """See `Coordination.begin`."""
        self.server.begin(plan)

    def end(self, acceptance: Acceptance) -> Averaged:
        """See `Coordination.end`."""
        averaged = self.server.end(acceptance)
        if averaged.file is not None:
            self._prepared = {averaged.round: averaged.file}
        return averaged

    def commit(self, round_number: int) -> None:
        """See `Coordination.commit`. The file first: what was in force before is removed with the commit."""
        if self.server.rounds[2] == round_number and round_number in self._prepared:
            self._write(round_number, self._prepared[round_number])
        self.server.commit(round_number)

    def abort(self, round_number: int) -> None:
        """See `Coordination.abort`."""
        self.server.abort(round_number)

    def fingerprints(self) -> Mapping[str, list[object]]:
        """See `Coordination.fingerprints`."""
        return self.server.fingerprints()

    def restore(self, round_number: int, file: str | None) -> None:
        """See `Coordination.restore`. The file first, once the checkpoint was found good; none names the tensors of the seed."""
        if file is None:
            (self.folder / IN_FORCE).unlink(missing_ok=True)
        else:
            assert self.server.store is not None
            self.server.store.read(round_number, file)
            self._write(round_number, file)
        self.server.restore(round_number, file)

    def _write(self, round_number: int, file: str) -> None:
        write_atomically(self.folder / IN_FORCE, json.dumps({"round": round_number, "file": file}).encode())
