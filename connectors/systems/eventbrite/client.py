"""Eventbrite's API v3 as typed calls: organisations, their attendees and orders, and one of them read back.

Sources: eventbrite/eventbrite-sdk-python `eventbrite/access_methods.py` and `client.py` (paths, which end in `/`, and which
methods exist); api-evangelist/eventbrite `openapi/eventbrite-attendees-api-openapi.yml`, marked partial by its author.

Room rules: HTTP shapes only, no decisions; no token and no identity in an error, a log or a `repr`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from connectors.sdk.http import Answer, Policy, new_client, segment, send
from schemas.errors import SystemRejected, SystemUnavailable

__all__ = ["EventbriteClient", "Kind", "Registration"]


class Kind(StrEnum):
    """What a person can be found in: a ticket's holder, or the buyer of tickets."""

    ATTENDEE = "attendee"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Registration:
    """One attendee or order. `profile` holds name and address: an attendee's own object, an order's own fields."""

    kind: Kind
    id: str = field(repr=False)
    event_id: str = field(repr=False)
    profile: Mapping[str, Any] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)

    def text(self, name: str) -> str:
        """Return a text of the profile, empty if it has none of that name."""
        value = self.profile.get(name)
        return value if isinstance(value, str) else ""


class EventbriteClient:
    """One account. Every method reads, and is safe to repeat: the API has no call that changes an attendee or an order."""

    def __init__(self, base_url: str, token: str, *, timeout_seconds: float) -> None:
        self._http = new_client(base_url, headers={"authorization": f"Bearer {token}"}, timeout_seconds=timeout_seconds)
        self._policy = Policy(total_seconds=2 * timeout_seconds)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def organization_ids(self) -> list[str]:
        """Return the organisations that the token may see."""
        return [id_ async for id_ in self._ids("/users/me/organizations/", "organizations")]

    async def event_ids(self, organization_id: str) -> list[str]:
        """Return all events of an organisation, past ones too."""
        return [id_ async for id_ in self._ids(f"/organizations/{segment(organization_id)}/events/", "events")]

    async def of_organization(self, organization_id: str, kind: Kind) -> AsyncIterator[Registration]:
        """Yield all attendees or orders of an organisation."""
        async for found in self._registrations(f"/organizations/{segment(organization_id)}/{kind.value}s/", kind):
            yield found

    async def of_event(self, event_id: str, kind: Kind) -> AsyncIterator[Registration]:
        """Yield all attendees or orders of an event."""
        async for found in self._registrations(f"/events/{segment(event_id)}/{kind.value}s/", kind):
            yield found

    async def registration(self, kind: Kind, id_: str, event_id: str) -> Registration | None:
        """Return one attendee or order as it is now, None if it is gone."""
        path = f"/orders/{segment(id_)}/"
        if kind is Kind.ATTENDEE:
            path = f"/events/{segment(event_id)}/attendees/{segment(id_)}/"
        answer = await self._read(path, f"{kind.value}_read", expect={200, 404, 410})
        return None if answer.status != 200 else _registration(answer, answer.object(), kind)

    async def _registrations(self, path: str, kind: Kind) -> AsyncIterator[Registration]:
        async for answer, item in self._walk(path, f"{kind.value}s"):
            yield _registration(answer, item, kind)

    async def _ids(self, path: str, key: str) -> AsyncIterator[str]:
        async for answer, item in self._walk(path, key):
            yield answer.text_of(item, "id")

    async def _walk(self, path: str, key: str) -> AsyncIterator[tuple[Answer, dict[str, Any]]]:
        """Yield a whole collection, page by page, as long as the server says that there is more."""
        params: dict[str, str] = {}
        seen: set[str] = set()
        while True:
            answer = await self._read(path, f"{key}_list", params=params)
            for item in answer.objects(key):
                yield answer, item
            continuation = _continuation(answer)
            if continuation is None:
                return
            if continuation in seen:
                raise SystemUnavailable(f"{answer.operation}: the list goes round in a circle")
            seen.add(continuation)
            params = {"continuation": continuation}

    async def _read(
        self, path: str, operation: str, *, expect: Collection[int] = frozenset({200}), params: Mapping[str, str] | None = None
    ) -> Answer:
        name = f"eventbrite_{operation}"
        return await send(self._http, "GET", path, operation=name, expect=expect, policy=self._policy, params=params)


def _continuation(answer: Answer) -> str | None:
    """Return the token of the next page, None on the last. Raises `SystemRejected` if the page does not say which it is."""
    pagination = answer.object().get("pagination")
    has_more = pagination.get("has_more_items") if isinstance(pagination, dict) else None
    if not isinstance(has_more, bool):
        raise SystemRejected(f"{answer.operation}: the page does not say whether more follow")
    if not has_more:
        return None
    continuation = pagination.get("continuation") if isinstance(pagination, dict) else None
    if not isinstance(continuation, str) or not continuation:
        raise SystemRejected(f"{answer.operation}: more follow, and no continuation says how to get them")
    return continuation


def _registration(answer: Answer, body: Mapping[str, Any], kind: Kind) -> Registration:
    profile = body.get("profile") if kind is Kind.ATTENDEE else body
    if not isinstance(profile, dict):
        raise SystemRejected(f"{answer.operation}: an entry has no profile")
    if profile.get("email") is not None and not isinstance(profile["email"], str):
        raise SystemRejected(f"{answer.operation}: an entry's email is no text")
    return Registration(kind, answer.text_of(body, "id"), answer.text_of(body, "event_id"), profile, body)
