"""The example company asks of each connector only what that connector can do."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from orchestrator.adapters.registry_file import load
from orchestrator.commands.registry import default_registry
from schemas.registry import System

ACTIVE = list(load(default_registry()).active())


def _connectors_of(system: System) -> list[Any]:
    module = importlib.import_module(f"connectors.systems.{system.connector}.connector")
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__dict__.get("name") == system.connector]
    assert found, f"no connector is named {system.connector}"
    return found


@pytest.mark.parametrize("system", ACTIVE, ids=lambda system: system.id)
def test_connector_offers_what_the_registry_says(system: System):
    """The rights, identifiers and yields of a system in the registry are among its connector's own."""
    connector = _connectors_of(system)[0]
    assert set(system.rights) <= connector.rights
    assert {need.kind for need in system.needs} <= connector.needs
    assert set(system.yields) <= connector.yields
