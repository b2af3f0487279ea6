"""A key desk for connectors that are tested without an orchestrator: the door as it ships, and behind it one key for all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from connectors.sdk import testing_tls
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.gateway.door import Guard
from orchestrator.gateway.health import Tls, serve
from orchestrator.gateway.order_keys import order_keys_route
from orchestrator.ports import Clock
from schemas.order_keys import KeyAnswer, KeyStatus, WantedKey, order_root, root_to_text
from schemas.sealed import SealingKey
from schemas.trust import Trust

__all__ = ["DeskForAll", "desk_for_all", "guard_for", "self_signed"]


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


def guard_for(trust: Trust | None, prefix: str = "dsr", clock: Clock | None = None) -> Guard:
    """Return a guard that lets in whom the trust knows, however often, and whose metrics nobody reads."""
    known = None if trust is None else lambda: trust
    return Guard(known, prefix, clock or _SystemClock(), WorkerMetrics(CollectorRegistry()), per_second=1e6)


@dataclass
class DeskForAll:
    """Gives every order's key to whoever asks for its system; `refused` says, by order id, which not."""

    root: SealingKey
    url: str = ""
    refused: dict[str, KeyStatus] = field(default_factory=dict)
    #: What was asked for: system, the key that signed, order ids.
    asked: list[tuple[str, str, list[str]]] = field(default_factory=list)

    async def release(self, system: str, kid: str, wanted: Sequence[WantedKey]) -> list[KeyAnswer]:
        """Answer."""
        self.asked.append((system, kid, [one.order_id for one in wanted]))
        return [self._answer(system, one) for one in wanted]

    def _answer(self, system: str, one: WantedKey) -> KeyAnswer:
        status = self.refused.get(one.order_id)
        if status is not None:
            return KeyAnswer(order_id=one.order_id, status=status, error="order_refused", remedy="as the test wants")
        root = order_root(self.root, one.subject_request_id, system, one.order_id)
        return KeyAnswer(order_id=one.order_id, status=200, key=root_to_text(root))


@contextlib.asynccontextmanager
async def desk_for_all(
    root: SealingKey, *, prefix: str = "dsr", trust: Trust | None = None, clock: Clock | None = None, tls: Tls | None = None
) -> AsyncIterator[DeskForAll]:
    """Serve a desk while the block runs."""
    desk = DeskForAll(root)
    route = order_keys_route(desk.release, guard_for(trust, prefix, clock))
    async with serve(Starlette(routes=[route]), "127.0.0.1", 0, tls=tls) as at:
        desk.url = at.url
        yield desk


def self_signed(folder: Path) -> Tls:
    """Make a certificate for 127.0.0.1 that vouches for itself: who is to trust it takes its file as CA."""
    own = testing_tls.self_signed(IPv4Address("127.0.0.1"))
    tls = Tls(folder / "keys-cert.pem", folder / "keys-key.pem")
    tls.certificate.write_bytes(own.certificate)
    tls.key.write_bytes(own.key)
    return tls
