"""The stand-in of the system that `DSR_DECLARATIVE_FILE` names: each shipped file has one beside it.

Room rules: only finds it; how a system behaves stands in `shipped/<name>/standin.py`.
"""

from __future__ import annotations

import importlib

from connectors.sdk.clock import Clock
from connectors.sdk.settings import read
from connectors.sdk.standin import StandIn
from connectors.systems.declarative.connector import DeclarativeSettings
from connectors.systems.declarative.loading import load, shipped
from schemas.errors import ConfigurationError

__all__ = ["build"]


def build(clock: Clock | None = None) -> StandIn:
    """Build the stand-in. Raises `ConfigurationError` if the file's system has none."""
    name = load(read(DeclarativeSettings).file).name
    if name not in shipped():
        raise ConfigurationError(f"DSR_DECLARATIVE_FILE: {name} has no stand-in; those of {', '.join(shipped())} have one")
    standin: StandIn = importlib.import_module(f"connectors.systems.declarative.shipped.{name}.standin").build(clock)
    return standin
