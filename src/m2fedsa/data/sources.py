"""The embedded data sets by name."""

from m2fedsa.config import Data
from m2fedsa.data.samples import FederatedData
from m2fedsa.errors import ConfigError


def load_data(settings: Data, seed: int) -> FederatedData:
    """The data set that the settings name."""
    raise ConfigError(f"data.source = {settings.source!r} is not known.")
