"""The checkpoints of a run: what of it survives the process, and how every party goes back to one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from m2fedsa.checkpoint import LocalFiles, Manifest
from m2fedsa.errors import RunDirectoryError
from m2fedsa.fed_server.server import State
from m2fedsa.figures import Accounts
from m2fedsa.parties import Company
from m2fedsa.reporting.records import Metrics, RoundRecord
from m2fedsa.state import digest, fingerprints
from m2fedsa.stopping import best_round, metric_of
from m2fedsa.storage import Store


class Keeping:
    """The fed server's part of the checkpoints, and the manifest that puts a round in force."""

    def __init__(self, parties: Company) -> None:
        """Nothing is kept before it is opened."""
        self._parties, self._config = parties, parties.blueprint.config
        self._directory: Path | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        self.accounts = Accounts(parties.fed_server.clients)
        self.locals = LocalFiles(parties.fed_server.clients)
        self.best: Manifest | None = None
        """of the best round so far, where the settings ask for it to be kept"""

    def open(self, directory: Path | None) -> None:
        """Keep checkpoints in a directory, each party its part; None keeps none but what going back to the best round needs."""
        self._directory = directory
        if directory is None and self._config.evaluation.keep_best:
            self._scratch = TemporaryDirectory(prefix="m2fedsa-")
            self._directory = Path(self._scratch.name)
        if self._directory is not None:
            self._parties.keep_in(self._directory)

    def close(self) -> None:
        """Forget the checkpoints of a run without a directory."""
        if self._scratch is not None:
            self._scratch.cleanup()

    @property
    def best_number(self) -> int | None:
        """The round whose checkpoint everybody keeps beside the last one."""
        return None if self.best is None else self.best.round

    def write(
        self,
        history: Sequence[RoundRecord],
        start: Metrics | None,
        main_server: str | None,
        prints: Mapping[str, list[object]] | None = None,
    ) -> None:
        """After a round. history: all rounds so far, start: what round 0 is judged by. main_server: SHA-256 of its file, prints: of its
        tensors where they are not yet in force."""
        if self._directory is None:
            return
        state = self._parties.fed_server.state
        file = self._store.write(state.round, {**state.filed(), **self.accounts.filed(), **self.locals.filed()})
        manifest = Manifest(state.round, file, main_server, self.digest(prints), {"fed_server": state.facts()})
        if self._config.evaluation.keep_best and best_round(history, metric_of(self._config), start) == state.round:
            self.best = manifest
        replace(manifest, best=None if self.best is None else asdict(self.best)).write(self._directory)
        self._store.keep(state.round, self.best_number)

    def restore(self, manifest: Manifest) -> None:
        """Go on from a checkpoint. `RunDirectoryError` if its files are not those that it names."""
        self._take(manifest, self.accounts, self.locals)
        self.best = None if manifest.best is None else manifest.chosen
        self._store.keep(manifest.round, self.best_number)

    def settle(self) -> None:
        """At the end of a run: let the best round be in force with every party, where it is kept; accounts stay as they are."""
        if self.best is not None and self.best.round != self._parties.fed_server.state.round:
            clients = self._parties.fed_server.clients
            self._take(self.best, Accounts(clients), LocalFiles(clients))

    def digest(self, prints: Mapping[str, list[object]] | None = None) -> str:
        """SHA-256 over every global trainable tensor; `prints`: of the main server's, where they are not yet in force."""
        return digest({**fingerprints(self._parties.fed_server.state.tensors), **(prints or self._parties.coordination.fingerprints())})

    @property
    def _store(self) -> Store:
        assert self._directory is not None
        return Store(self._directory / "fed_server")

    def _take(self, manifest: Manifest, accounts: Accounts, locals_: LocalFiles) -> None:
        """Put a checkpoint in force with every party."""
        flat = locals_.restore(accounts.restore(self._store.read(manifest.round, manifest.fed_server)))
        self._parties.fed_server.restore(State.from_filed(manifest.round, flat, manifest.state["fed_server"]))
        self._parties.coordination.restore(manifest.round, manifest.main_server)
        self._parties.federation.restore(locals_.plain())
        found = self.digest()
        if found != manifest.digest:
            raise RunDirectoryError(
                f"{self._directory}: the tensors have the digest {found[:16]}…, but the manifest names "
                f"{manifest.digest[:16]}…. Files of several checkpoints were mixed; restore them from one copy."
            )
