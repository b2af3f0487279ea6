"""A ledger to plant in and look into: the real SQLite file and outbox, behind the control paths of a stand-in.

There is no vendor to imitate, so there are no routes: `POST /__seed__` records disclosures, `GET /__state__` shows what the
ledger and the outbox hold.

Room rules: nothing here is reachable from production code paths.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Any, ClassVar

from starlette.routing import Route

from connectors.sdk.clock import Clock
from connectors.sdk.settings import read
from connectors.sdk.standin import StandIn
from connectors.systems.ledger.client import Disclosure, DisclosureGround, Ledger
from connectors.systems.ledger.connector import LedgerSettings
from schemas.vocabulary import IdentifierKind

__all__ = ["LedgerStandIn", "build"]


class LedgerStandIn(StandIn):
    """The ledger at the settings' path."""

    name: ClassVar[str] = "ledger"

    def __init__(self, settings: LedgerSettings, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.ledger = Ledger(settings.path, settings.sealing_key)
        self._outbox = settings.outbox

    def routes(self) -> list[Route]:
        """Return none: the connector opens the file."""
        return []

    def seed(self, value: Any) -> None:
        """Record `{"disclosures": [...]}`: the fields of `Disclosure`, and `identifiers` by kind."""
        for given in value["disclosures"]:
            disclosure = Disclosure(
                recipient=given["recipient"],
                disclosed_on=date.fromisoformat(given["disclosed_on"]),
                categories=tuple(given["categories"]),
                ground=DisclosureGround(given["ground"]),
                reference=given.get("reference", ""),
            )
            self.ledger.record(disclosure, {IdentifierKind(kind): values for kind, values in given["identifiers"].items()})

    def state(self) -> Any:
        """Return the numbers of the ledger and every notification in the outbox, sealed as it lies there."""
        disclosures, receivers = self.ledger.counts()
        outbox = [json.loads(path.read_bytes()) for path in sorted(self._outbox.glob("ntf_*.json"))]
        return {"disclosures": disclosures, "receivers": receivers, "outbox": outbox}


def build(clock: Clock | None = None) -> LedgerStandIn:
    """Build the stand-in on the ledger of the environment's settings. Raises `ConfigurationError`."""
    return LedgerStandIn(read(LedgerSettings), clock)
