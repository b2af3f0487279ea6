"""Whose turn it is: the one place that says in which order waiting orders begin.

Orders stand in three queues at once, and turns go round them:

| queue | who is in it | first comes |
| --- | --- | --- |
| prompt | `PROMPT_RIGHTS`: every further mailing is one too many (GDPR Art. 21(3)) | who waits longest |
| due | every order | the earliest legal due date |
| oldest | every order | who waits longest |

An empty `prompt` passes its turn on. So an order with `k` others before it in any one of its queues begins within `3 * (k + 1)`
turns, whatever stands in the other two: no flood of urgent orders starves an old one, no backlog keeps an urgent one waiting.
Nobody who comes later stands before an order in `prompt` or `oldest`, so there the bound only shrinks.

Room rules: the choice, no storage; the page is given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, TypeVar

__all__ = ["Lane", "Turns", "sequence", "upcoming"]


class Lane(StrEnum):
    """A queue, in the order in which turns go round."""

    PROMPT = "prompt"
    DUE = "due"
    OLDEST = "oldest"


class _Ordered(Protocol):
    @property
    def order_id(self) -> str: ...


E_co = TypeVar("E_co", bound=_Ordered, covariant=True)


class _Queues(Protocol[E_co]):
    def due(self, now: datetime, limit: int, lane: Lane, *, but: Collection[str] = ()) -> Sequence[E_co]: ...

    def next_due_at(self) -> datetime | None: ...


def sequence(ages: Sequence[Any], dues: Sequence[Any], prompt: Sequence[bool]) -> list[int]:
    """Return the places of orders, 0 and up, as `Turns` would take them if nobody came, and all their moments had come.

    `ages` and `dues` are what the queues are sorted by; `prompt` says who stands in the first one as well.
    """
    everybody = range(len(ages))
    by_age = sorted(everybody, key=ages.__getitem__)
    lanes: list[Iterator[int]] = [
        iter([number for number in by_age if prompt[number]]),
        iter(sorted(everybody, key=dues.__getitem__)),
        iter(by_age),
    ]
    taken: dict[int, None] = {}
    while len(taken) < len(ages):
        for lane in lanes:
            number = next((one for one in lane if one not in taken), None)
            if number is not None:
                taken[number] = None
    return list(taken)


def upcoming(queues: _Queues[E_co], now: datetime, limit: int, *, but: Collection[str] = ()) -> list[E_co]:
    """Return up to `limit` orders whose moment has come, the first of each queue, none of those named in `but`."""
    found: dict[str, E_co] = {}
    for lane in Lane:
        # Every order stands in the last queue: it fills what the others leave.
        share = limit // len(Lane) if lane is not Lane.OLDEST else limit - len(found)
        found |= {entry.order_id: entry for entry in queues.due(now, share, lane, but=(*but, *found))}
    return list(found.values())


class Turns:
    """Goes round the queues. In memory only: a restart begins with the first one."""

    def __init__(self) -> None:
        self._lanes = list(Lane)

    def claim(self, queues: _Queues[E_co], now: datetime, limit: int, *, but: Collection[str] = ()) -> list[E_co]:
        """Return up to `limit` orders whose moment has come, in the order of their turns, none of those named in `but`."""
        first = queues.next_due_at()
        if first is None or first > now:  # thousands that wait for tomorrow need not be looked through
            return []
        chosen: list[E_co] = []
        while len(chosen) < limit:
            found = self._next(queues, now, (*but, *(entry.order_id for entry in chosen)))
            if not found:
                break
            chosen.extend(found)
        return chosen

    def _next(self, queues: _Queues[E_co], now: datetime, but: Collection[str]) -> Sequence[E_co]:
        for number, lane in enumerate(self._lanes, 1):
            found = queues.due(now, 1, lane, but=but)
            if found:
                self._lanes = self._lanes[number:] + self._lanes[:number]
                return found
            if lane is not Lane.PROMPT:  # every order stands in the others: then there is none
                break
        return []
