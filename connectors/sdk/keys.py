"""Which key opens an order, and which one seals what the connector writes down.

Room rules: no key is logged or shown; purposes and contexts are separated here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from schemas.orders import FulfilmentOrder
from schemas.sealed import SealingKey

__all__ = ["DevelopmentKeys", "OrderKeys", "Purpose"]


class Purpose(StrEnum):
    """What a key is for."""

    #: Opens the order's identity: derived exactly so by the orchestrator.
    ORDER = "order"
    #: Seals the identifiers that a report yields: the orchestrator opens it.
    REPORT = "report"
    #: Seals the vendor's job id and remembered finds in the connector's own journal.
    JOURNAL = "journal"


class OrderKeys(Protocol):
    """Where keys come from."""

    def key_for(self, order: FulfilmentOrder, purpose: Purpose = Purpose.ORDER) -> SealingKey:
        """Return the order's key of one purpose. Raises `ProtocolViolation(identity_unreadable)` once it is destroyed."""
        ...


class DevelopmentKeys:
    """Every key derived from one shared secret: for development. Nothing can be crypto-shredded under it."""

    def __init__(self, root: SealingKey) -> None:
        self._root = root

    def key_for(self, order: FulfilmentOrder, purpose: Purpose = Purpose.ORDER) -> SealingKey:
        """Return the derived key, the order's own."""
        return self._root.derive(purpose.value, order.subject_request_id, order.system, order.order_id)
