"""Every error a person can meet.

    M2FedSAError
    ├── InputError              what was given cannot be used: the command line exits with 2
    │   ├── ConfigError         a setting: unknown, of the wrong type, out of range, in conflict
    │   ├── DataError           samples: missing, unreadable, labelled outside the classes
    │   ├── CutError            an encoder that cannot be cut, or not there
    │   ├── WeightsError        weights that are missing, broken or of another configuration
    │   ├── IdentityError       a key or certificate: missing, of another kind, readable by others
    │   └── RunDirectoryError   a directory of another run, a checkpoint that was altered
    └── RunError                a run that could not go on: the command line exits with 1
        ├── DivergedError       a loss, feature or gradient that is not finite
        ├── ProtocolError       a party said something that has no place at this point
        │   └── UnfinishedError a round cannot end with clients whose sessions did not close in order
        ├── RefusedError        a party is not let in: no token, an expired one, another's
        ├── LinkError           the way to another party broke, or it fell silent
        ├── RoundLostError      the main server was started anew within a round, which has to be repeated
        ├── StorageError        a file could not be written; nothing written earlier is lost
        └── Interrupted         stopped by a person, after a checkpoint

A message says in one sentence what is wrong and where, in another what to do.
"""

from collections.abc import Sequence


class M2FedSAError(Exception):
    """The root of the tree; its text is fit for a person."""


class InputError(M2FedSAError):
    """What was given cannot be used."""


class ConfigError(InputError):
    """A setting is unknown, of the wrong type, out of range or in conflict with another."""


class DataError(InputError):
    """Samples are missing, unreadable or do not fit the task."""


class CutError(InputError):
    """An encoder cannot be cut, or not at this block."""


class WeightsError(InputError):
    """Weights are missing, broken or belong to another configuration."""


class IdentityError(InputError):
    """A key, a certificate or who it belongs to cannot be used."""


class RunDirectoryError(InputError):
    """A run directory belongs to another run, or its checkpoint was altered."""


class RunError(M2FedSAError):
    """A run could not go on."""


class DivergedError(RunError):
    """A loss, a feature or a gradient is no longer finite."""


class ProtocolError(RunError):
    """A party said something that has no place at this point of the protocol."""


class UnfinishedError(ProtocolError):
    """A round cannot end with these clients: their sessions did not close in order. Without them it can."""

    def __init__(self, text: str, clients: Sequence[str] = ()) -> None:
        """`clients`: their names."""
        super().__init__(text)
        self.clients = tuple(clients)


class RefusedError(RunError):
    """A party is not let in."""


class LinkError(RunError):
    """The way to another party broke, or nothing was heard from it for too long."""


class RoundLostError(RunError):
    """The main server no longer knows of the round that is under way. Nothing of it counts; it can be repeated."""


class StorageError(RunError):
    """A file could not be written."""


class Interrupted(RunError):  # noqa: N818  (an event rather than a fault)
    """A person stopped the run; the last finished round is kept."""
