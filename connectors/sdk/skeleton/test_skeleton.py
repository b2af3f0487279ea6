"""The Skeleton connector against its stand-in."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from connectors.sdk.clock import Clock
from connectors.sdk.skeleton.connector import SkeletonConnector, SkeletonSettings
from connectors.sdk.skeleton.standin import TOKEN, SkeletonStandIn
from connectors.sdk.standin import StandIn
from connectors.sdk.testing import Person
from connectors.sdk.testing_http import HttpConnectorContract


class TestSkeletonContract(HttpConnectorContract):
    """Everything that every connector must do."""

    vanishing_paths = ("/people/",)

    def stand_in(self, clock: Clock) -> StandIn:
        """Return the stand-in."""
        return SkeletonStandIn(clock)

    def build(self, base_url: str, *, timeout_seconds: float) -> SkeletonConnector:
        """Build with the credentials that the stand-in takes."""
        settings = SkeletonSettings(base_url=base_url, token=SecretStr(TOKEN), timeout_seconds=timeout_seconds)
        return SkeletonConnector(settings)

    def plant(self, system: Any, person: Person, *, records: int = 1) -> None:
        """Make the system hold the person."""
        for _ in range(records):
            system.add(email=person.email, name=person.last_name, phone=person.phone)

    def holds(self, system: Any, person: Person) -> bool:
        """Tell whether the system still holds the person."""
        return bool(system.holding(person.email))
