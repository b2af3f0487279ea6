"""Keys ahead: a worker that sends an order has its key at hand, and gives it to the connectors that listen, unasked.

It spares them the question: a call, a read of the store and a publication of its own for each batch of orders. What is given
out is in the log before it leaves, as at the key desk: its record goes with the orders in one publication. Nothing depends on
it: whoever does not listen, or has lost the line, asks the desk.

The desk's rule holds by itself: an order that is sent is the system's own, and open. Only what closes it in the same unit of
work has to be looked for; a later unit is saved when this one is out.

Room rules: waits for nobody: a connector that does not read is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import structlog

from orchestrator.core.effects import SendOrder
from orchestrator.ports import Clock, OutRecord
from orchestrator.shell.key_desk import Releases, granted
from schemas.keys_ahead import BEAT_SECONDS, AheadMark, KeysAhead
from schemas.metrics import KEYS_LISTENING, KEYS_RELEASED, Metrics
from schemas.order_keys import MOST_ORDERS, KeyAnswer, WantedKey
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.trust import TrustedKey

__all__ = ["LISTEN_SECONDS", "Listeners", "Parcel"]

log = structlog.get_logger(__name__)

#: Connectors of one system that may listen to one worker at a time.
_LISTENERS = 32
#: Keys that may wait for a connector to read them.
_UNREAD = 20_000
#: After so long a connector has to show again who it is.
LISTEN_SECONDS = 300.0


@dataclass(eq=False, slots=True)
class _Listener:
    system: str
    key: TrustedKey | None
    lines: list[KeysAhead] = field(default_factory=list)
    unread: int = 0
    has_lines: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    @property
    def kid(self) -> str:
        return "" if self.key is None else self.key.kid

    def add(self, line: KeysAhead) -> None:
        self.lines.append(line)
        self.unread += len(line.keys)
        if self.unread > _UNREAD:
            log.warning("keys_ahead_unread", system=self.system, action="let go: it asks for its keys until it listens again")
            self.end()
        self.has_lines.set()

    def take(self) -> list[KeysAhead]:
        lines, self.lines, self.unread = self.lines, [], 0
        self.has_lines.clear()
        return lines

    def end(self) -> None:
        self.is_over = True
        self.lines = []  # whoever does not read may hold the call open for a while: no keys wait with it
        self.has_lines.set()


class Listeners:
    """Connectors that listen to this life of this worker."""

    def __init__(self, clock: Clock, metrics: Metrics, *, topics: Topics, worker: str, life: str | None = None) -> None:
        """`life` names this life of the worker: 16 hex digits, made up unless given."""
        self.life = life or secrets.token_hex(8)
        self._clock = clock
        self._metrics = metrics
        self._releases = Releases(topics, worker, clock)
        self._listeners: dict[str, list[_Listener]] = defaultdict(list)
        self._numbered = 0
        self._given = 0
        self._is_closed = False
        #: How often everybody was let go.
        self._let_go = 0

    def are_there(self, system: str) -> bool:
        """Tell whether anybody hears of a system's orders."""
        return any(not one.is_over for one in self._listeners.get(system, ()))

    def next_mark(self) -> AheadMark:
        """Return the mark of a unit of work that begins."""
        self._numbered += 1
        return AheadMark(self.life, self._numbered)

    def lines(self, system: str, key: TrustedKey | None) -> AsyncGenerator[KeysAhead] | None:
        """Return what is given to a system from now on: a line without keys first, and one whenever nothing came for a while.

        It ends when its time is up, when the connector does not keep up, when its key is not valid any more, or with the
        worker; whoever stops reading before that closes it. None: there are enough who listen.
        """
        if len(self._listeners[system]) >= _LISTENERS or self._is_closed:
            return None
        return self._lines(_Listener(system, key), self._let_go)

    async def _lines(self, listener: _Listener, let_go: int) -> AsyncGenerator[KeysAhead]:
        if let_go != self._let_go:  # between the call and the first line
            return
        listeners, now = self._listeners[listener.system], asyncio.get_running_loop().time
        listeners.append(listener)
        self._metrics.set(KEYS_LISTENING, len(listeners), system=listener.system)
        try:
            until = now() + LISTEN_SECONDS
            yield self._beat()
            while not listener.is_over and (left := until - now()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(BEAT_SECONDS, left)):
                        await listener.has_lines.wait()
                if not listener.is_over:
                    for line in listener.take() or (self._beat(),):
                        yield line
        finally:
            listeners.remove(listener)
            self._metrics.set(KEYS_LISTENING, len(listeners), system=listener.system)

    def _beat(self) -> KeysAhead:
        return KeysAhead(life=self.life, number=self._given)

    def close(self) -> None:
        """End all answers, and give no more: a worker that stops must not wait for those who listen."""
        self._is_closed = True
        self.let_go()

    def let_go(self) -> None:
        """End all answers, those that have not begun as well: whoever may listen comes again, and shows again who it is."""
        self._let_go += 1
        for listener in [one for ones in self._listeners.values() for one in ones]:
            listener.end()

    def present(self, system: str) -> list[_Listener]:
        """Return who listens and may still: keys end, and answers go on."""
        found = []
        for listener in self._listeners.get(system, ()):
            if listener.key is not None and not listener.key.valid_at(self._clock.now()):
                listener.end()
            if not listener.is_over:
                found.append(listener)
        return found

    def written_down(self, system: str, kid: str, orders: Sequence[WantedKey]) -> list[OutRecord]:
        """Return the records of what is about to be given out."""
        return [
            self._releases.record(system, kid, tuple(orders[start : start + MOST_ORDERS]))
            for start in range(0, len(orders), MOST_ORDERS)
        ]

    def give(self, system: str, mark: AheadMark, keys: tuple[KeyAnswer, ...], to: Sequence[_Listener]) -> None:
        """Hand a system's keys to those of its connectors that are here still, in one line.

        Whoever has come meanwhile is told that there will be none: it may hold an order with this mark already.
        """
        for listener in self._listeners.get(system, ()):
            if not listener.is_over:
                mine = keys if listener in to else ()
                listener.add(KeysAhead.trusted(life=mark.life, number=mark.number, keys=mine))
        self._metrics.count(KEYS_RELEASED, len(keys), system=system)

    def is_out(self, mark: AheadMark) -> None:
        """Note that nothing of this number will be given any more."""
        self._given = mark.number


class Parcel:
    """The keys of the orders that one unit of work sends, for those who listen."""

    def __init__(self, listeners: Listeners | None) -> None:
        """Without `listeners` there are none."""
        self._listeners = listeners
        self._mark = None if listeners is None else listeners.next_mark()
        self._orders: dict[str, list[tuple[WantedKey, SealingKey]]] = defaultdict(list)
        self._dropped: set[str] = set()
        self._to: dict[str, list[_Listener]] = {}

    def add(self, record: OutRecord, order: SendOrder, root: SealingKey) -> OutRecord:
        """Return an order's record as it is to be sent: with the mark, if its root, the key, goes ahead."""
        if self._listeners is None or self._mark is None or not self._listeners.are_there(order.system):
            return record
        wanted = WantedKey.trusted(subject_request_id=order.subject_request_id, order_id=order.order_id)
        self._orders[order.system].append((wanted, root))
        return OutRecord(record.topic, record.key, record.value, [*record.headers, self._mark.header()])

    def drop(self, request: str) -> None:
        """Leave out the keys of a request that the same unit of work closes."""
        self._dropped.add(request)

    def written_down(self) -> list[OutRecord]:
        """Return the records that have to be acknowledged before `give`: who of those that listen now is given what."""
        records: list[OutRecord] = []
        if self._listeners is None:
            return records
        for system, orders in self._orders.items():
            orders[:] = [one for one in orders if one[0].subject_request_id not in self._dropped]
            self._to[system] = present = self._listeners.present(system)
            wanted = [one for one, _ in orders]
            for kid in sorted({one.kid for one in present}):
                records += self._listeners.written_down(system, kid, wanted)
        return records

    def give(self) -> None:
        """Give the keys away."""
        if self._listeners is None or self._mark is None:
            return
        for system, orders in self._orders.items():
            to = self._to.get(system, [])
            keys = tuple(granted(one, root) for one, root in orders) if to else ()
            self._listeners.give(system, self._mark, keys, to)
        self._listeners.is_out(self._mark)
