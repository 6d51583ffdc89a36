"""What lies where in a deployment's directory, and in the folder of each party.

    DIR/
      deploy.toml          addresses, and what `m2fedsa deploy local` adds
      authority/           the key that signs certificates: stays with whoever set the deployment up
      fed-server/          fed-server.toml   registry.json   keys/   state/
      main-server/         main-server.toml   tails/<modality>/   keys/   state/
      clients/<name>/      client.toml   heads/<modality>/   data/   keys/   state/

Each folder has the settings and the blueprint besides (`drawing.py`). A party gets its own folder and nothing else.
"""

import hashlib
import os
import tempfile
from pathlib import Path

FED_SERVER, MAIN_SERVER, CLIENTS, AUTHORITY = "fed-server", "main-server", "clients", "authority"
DEPLOY_TOML, FED_SERVER_TOML, MAIN_SERVER_TOML, CLIENT_TOML = "deploy.toml", "fed-server.toml", "main-server.toml", "client.toml"
REGISTRY = "registry.json"
HEADS, TAILS, DATA, KEYS, STATE = "heads", "tails", "data", "keys", "state"
LOG = "log.jsonl"
_LONGEST_SOCKET = 100
"""Bytes of a Unix socket's path that every system takes."""


def client_folders(directory: Path) -> dict[str, Path]:
    """name -> folder, of the clients that have one here."""
    return {path.parent.name: path.parent for path in sorted((directory / CLIENTS).glob(f"*/{CLIENT_TOML}"))}


def socket_of(folder: Path) -> Path:
    """Where a resident client listens: in its folder, or where temporary files lie if that path is too long for a socket."""
    near = folder.resolve() / STATE / "client.sock"
    if len(os.fsencode(near)) <= _LONGEST_SOCKET:
        return near
    short = hashlib.sha256(os.fsencode(near)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"m2fedsa-{os.getuid()}-{short}" / "client.sock"
