"""Keys that are given before they are asked for: what a connector hears as its orders are sent, and how an order says so.

    POST /v1/order-keys/ahead
    Authorization: Bearer <client assertion, as for `POST /v1/order-keys`>
    {"system": "crm", "orders": []}

The answer has no end of its own: a line of JSON (`KeysAhead`) for every publication that holds orders for the system. The first
line comes at once and has no keys, and so has one every few seconds, by which a connector sees that the worker is there. A
worker ends the answer after some minutes; the connector asks anew, and so shows again who it is.

An order whose key is given ahead has the header `dsr-key-ahead`, `<life>.<number>`: it is waited for by whoever hears that life
of that worker and has not heard the number yet. Everybody else asks, as if there were no header. It is a hint about the way,
not about the order: an order that is published again by a later life has it still, and nobody hears that life any more.

Room rules: shapes; who is told what is decided in `orchestrator.shell.keys_ahead`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from schemas.base import Record
from schemas.order_keys import KeyAnswer

__all__ = ["AHEAD_HEADER", "BEAT_SECONDS", "LINES", "PATH", "AheadMark", "KeysAhead", "mark_in"]

PATH = "/v1/order-keys/ahead"
LINES = "application/x-ndjson"
AHEAD_HEADER = "dsr-key-ahead"
#: A worker that has nothing to say says so this often.
BEAT_SECONDS = 10.0

_LIFE = r"[0-9a-f]{16}"
_MARK = re.compile(rf"({_LIFE})\.([0-9]{{1,18}})".encode())


class AheadMark(NamedTuple):
    """Which publication of which life of a worker brings an order's key."""

    life: str
    number: int

    def header(self) -> tuple[str, bytes]:
        """Return the header of an order."""
        return AHEAD_HEADER, f"{self.life}.{self.number}".encode()


def mark_in(headers: Iterable[tuple[str, bytes]]) -> AheadMark | None:
    """Return the mark of an order; None if it has none that can be read: then its key is asked for."""
    given = next((value for name, value in headers if name == AHEAD_HEADER), b"")
    found = _MARK.fullmatch(given)
    return None if found is None else AheadMark(found[1].decode(), int(found[2]))


class KeysAhead(Record):
    """One line. All keys of this life up to `number` have been given by it and those before, to whoever was listening then."""

    life: Annotated[str, StringConstraints(pattern=f"^{_LIFE}$")]
    number: Annotated[int, Field(ge=0)]
    keys: tuple[KeyAnswer, ...] = ()
