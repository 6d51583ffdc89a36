"""What a client keeps of a run that has ended: the tensors on its side, and the token with which the main server answers it.

state/predict.json                 token, round, which of its local tensors count, SHA-256 of the other file
state/predict/round-….safetensors  the global tensors of its modalities
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from m2fedsa.deploy.drawing import read_json
from m2fedsa.durable import write_atomically
from m2fedsa.errors import RunDirectoryError
from m2fedsa.messages import GlobalView
from m2fedsa.storage import Store

FILE, TENSORS = "predict.json", "predict"
_PRIOR, _WEIGHTS = "log_prior", "weights"


@dataclass(frozen=True)
class Keepsake:
    """See the head of this file."""

    view: GlobalView
    token: str
    local: tuple[int, str] | None
    """of this round, with this SHA-256; None: it has no local tensors"""

    def write(self, state: Path) -> None:
        """Both files; the one that names the other last, for its owner alone."""
        store = Store(state / TENSORS)
        file = store.write(self.view.round, {**self.view.tensors, _PRIOR: self.view.log_prior, _WEIGHTS: self.view.weights})
        values = {"round": self.view.round, "file": file, "local": self.local, "token": self.token}
        write_atomically(state / FILE, json.dumps(values).encode(), private=True)
        store.keep(self.view.round)

    @classmethod
    def read(cls, state: Path) -> Self:
        """`RunDirectoryError` if there is none yet, or if a file was altered."""
        path = state / FILE
        if not path.exists():
            raise RunDirectoryError(
                f"{path}: is not there. A client can predict once its run has ended; if it has, and this client was away, start "
                "`m2fedsa client` here and `m2fedsa fed-server` once more at the fed server, which then hands it over."
            )
        values = read_json(path)
        try:
            tensors = Store(state / TENSORS).read(int(values["round"]), str(values["file"]))
            view = GlobalView(
                {name: value for name, value in tensors.items() if name not in (_PRIOR, _WEIGHTS)},
                tensors[_PRIOR],
                tensors[_WEIGHTS],
                int(values["round"]),
            )
            local = None if values["local"] is None else (int(values["local"][0]), str(values["local"][1]))
            return cls(view, str(values["token"]), local)
        except (KeyError, TypeError, ValueError) as error:
            raise RunDirectoryError(f"{path}: was altered ({error}). Start `m2fedsa fed-server` once more, which hands it over.") from error
