"""Intercom's API as typed calls: contacts, conversations, subscriptions.

Sources: intercom/Intercom-OpenAPI, `descriptions/2.16/api.intercom.io.yaml`; Intercom's pages on deleting contacts and on rate
limits.

Room rules: HTTP shapes only, no decisions; no identity in an error (operations are codes).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx

from connectors.sdk.http import Answer, Policy, new_client, retry_after_header, segment, send
from schemas.errors import SystemRejected

__all__ = ["Contact", "Conversation", "IntercomClient", "Merged"]

_GONE = frozenset({404, 410})
_CANONICAL = re.compile(r'</contacts/([A-Za-z0-9_-]{1,64})>\s*;\s*rel="canonical"')
#: Lists beside a contact that belong to an access export, by the last part of their path.
_LISTS = ("notes", "tags", "segments", "companies", "subscriptions")
#: Lists whose answers have pages. How to ask for one stands in the description of 2.11 alone.
_PAGED = frozenset({"notes", "companies"})


@dataclass(frozen=True, slots=True)
class Contact:
    """One user or lead, as Intercom describes it. `repr` shows the class only."""

    id: str = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)

    def text(self, name: str) -> str:
        """Return a field's value, empty if there is none; `custom_attributes.x` names an attribute."""
        value: Any = self.body
        for part in name.split(".", 1):
            value = value.get(part) if isinstance(value, Mapping) else None
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Merged:
    """The contact was merged into another one (410, `contact_merged`)."""

    into: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation: who takes part, its opening and its parts."""

    id: str = field(repr=False)
    contacts: frozenset[str] = field(repr=False)
    source: Mapping[str, Any] = field(repr=False)
    parts: tuple[Mapping[str, Any], ...] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False)
    #: Parts it has; Intercom shows the newest 500.
    total_parts: int


def _retry_after(answer: Answer) -> float | None:
    """Return the seconds until `X-RateLimit-Reset` (an epoch second), measured against the answer's own `Date`."""
    said = retry_after_header(answer)
    if said is not None:
        return said
    try:
        until = int(answer.headers.get("x-ratelimit-reset", ""))
        return max(0.0, until - parsedate_to_datetime(answer.headers.get("date", "")).timestamp())
    except (ValueError, TypeError):
        return None


_POLICY = Policy(retry_after=_retry_after)


class IntercomClient:
    """One workspace. Every method raises `schemas.errors.ConnectorError` and is safe to repeat."""

    def __init__(self, base_url: str, token: str, *, version: str, page_size: int, timeout_seconds: float) -> None:
        headers = {"authorization": f"Bearer {token}", "intercom-version": version, "accept": "application/json"}
        self._http: httpx.AsyncClient = new_client(base_url, headers=headers, timeout_seconds=timeout_seconds)
        self._page_size = page_size

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def me(self) -> str:
        """Return what kind of account the token belongs to."""
        answer = await self._send("GET", "/me", "token_read")
        return answer.text_of(answer.object(), "type")

    async def search_contacts(self, name: str, value: str) -> AsyncIterator[str]:
        """Yield the ids of contacts with this value, page by page.

        The index lags by minutes and leaves out merged contacts: absence here does not imply absence.
        """
        async for item, answer in self._search("/contacts/search", "data", "contacts_search", name, value):
            yield answer.text_of(item, "id")

    async def contact(self, contact_id: str) -> Contact | Merged | None:
        """Return a contact by id from the record itself: `Merged` if it is another one now, None if there is none."""
        answer = await self._send("GET", f"/contacts/{segment(contact_id)}", "contact_read", expect={200} | _GONE)
        if answer.status == 410:
            canonical = _CANONICAL.search(answer.headers.get("link", ""))
            return Merged(canonical[1]) if canonical else None
        return None if answer.status == 404 else _contact(answer)

    async def attached(self, contact_id: str) -> dict[str, list[dict[str, Any]]]:
        """Return what hangs on a contact: notes, tags, segments, companies, subscriptions."""
        return {name: await self._attached(contact_id, name) for name in _LISTS}

    async def _attached(self, contact_id: str, name: str) -> list[dict[str, Any]]:
        path, page = f"/contacts/{segment(contact_id)}/{name}", 1
        found: list[dict[str, Any]] = []
        while True:
            params = {"page": str(page), "per_page": str(self._page_size)} if name in _PAGED else None
            answer = await self._send("GET", path, f"contact_{name}", expect={200} | _GONE, params=params)
            if answer.status in _GONE:
                return found
            # Of companies the description's schema says `companies`, and its example `data`.
            found += answer.objects(name if name == "companies" and name in answer.object() else "data")
            if name not in _PAGED or page >= _total_pages(answer):
                return found
            page += 1

    async def update(self, contact_id: str, changes: Mapping[str, Any]) -> bool:
        """Set fields of a contact; False if it is gone. Custom attributes that are not named stay."""
        path = f"/contacts/{segment(contact_id)}"
        answer = await self._send("PUT", path, "contact_update", expect={200} | _GONE, json=dict(changes))
        if answer.status in _GONE:
            return False
        _contact(answer)
        return True

    async def opt_out(self, contact_id: str, subscription_id: str) -> bool:
        """Take a contact off one subscription type of the opt-out kind; False if the contact is gone."""
        path = f"/contacts/{segment(contact_id)}/subscriptions"
        body = {"id": subscription_id, "consent_type": "opt_out"}
        answer = await self._send("POST", path, "subscription_end", expect={200} | _GONE, json=body)
        if answer.status not in _GONE:
            answer.text_of(answer.object(), "id")
            return True
        if await self.contact(contact_id) is not None:
            raise SystemRejected("intercom_subscription_end: no such subscription type: check DSR_INTERCOM_NEWSLETTER_IDS")
        return False

    async def delete_contact(self, contact_id: str) -> bool:
        """Delete a contact for good; False if it was already gone.

        Success does not imply that the bytes are gone: Intercom can bring it back for 7 days, and has no call to ask.
        """
        answer = await self._send("DELETE", f"/contacts/{segment(contact_id)}", "contact_delete", expect={200} | _GONE)
        if answer.status in _GONE:
            return False
        if answer.object().get("deleted") is not True:
            raise SystemRejected("intercom_contact_delete: the answer does not say deleted")
        return True

    async def conversation_ids(self, contact_id: str) -> AsyncIterator[str]:
        """Yield the ids of the conversations in which a contact takes part."""
        search = self._search("/conversations/search", "conversations", "conversations_search", "contact_ids", contact_id)
        async for item, answer in search:
            yield answer.text_of(item, "id")

    async def conversation(self, conversation_id: str) -> Conversation | None:
        """Return a conversation with its newest 500 parts, None if there is none."""
        path = f"/conversations/{segment(conversation_id)}"
        answer = await self._send("GET", path, "conversation_read", expect={200} | _GONE, params={"display_as": "plaintext"})
        return None if answer.status in _GONE else _conversation(answer)

    async def delete_conversation(self, conversation_id: str) -> bool:
        """Delete a conversation for good, its metrics too; False if it was already gone."""
        path = f"/conversations/{segment(conversation_id)}"
        params = {"retain_metrics": "false"}
        answer = await self._send("DELETE", path, "conversation_delete", expect={200} | _GONE, params=params)
        if answer.status in _GONE:
            return False
        if answer.object().get("deleted") is not True:
            raise SystemRejected("intercom_conversation_delete: the answer does not say deleted")
        return True

    async def redact(self, conversation_id: str, *, part_id: str | None = None, source_id: str | None = None) -> None:
        """Blank one part, or the opening, of a conversation that stays. What is gone already is done."""
        what = {"type": "source", "source_id": source_id} if part_id is None else {"type": "conversation_part"}
        if part_id is not None:
            what["conversation_part_id"] = part_id
        body = {"conversation_id": conversation_id, **what}
        answer = await self._send("POST", "/conversations/redact", "part_redact", expect={200} | _GONE, json=body)
        if answer.status not in _GONE:
            answer.text_of(answer.object(), "id")

    async def _search(
        self, path: str, key: str, operation: str, name: str, value: str
    ) -> AsyncIterator[tuple[dict[str, Any], Answer]]:
        query = {"field": name, "operator": "=", "value": value}
        after: str | None = None
        while True:
            pagination: dict[str, Any] = {"per_page": self._page_size}
            if after is not None:
                pagination["starting_after"] = after
            answer = await self._send("POST", path, operation, json={"query": query, "pagination": pagination})
            for item in answer.objects(key):
                yield item, answer
            following = _next(answer)
            if following is None:
                return
            if following == after:
                raise SystemRejected(f"{answer.operation}: the next page is this page")
            after = following

    async def _send(
        self,
        method: Literal["GET", "POST", "PUT", "DELETE"],
        path: str,
        operation: str,
        *,
        expect: Iterable[int] = (200,),
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> Answer:
        name = f"intercom_{operation}"
        return await send(
            self._http, method, path, operation=name, expect=frozenset(expect), policy=_POLICY, params=params, json=json
        )


def _contact(answer: Answer) -> Contact:
    body = answer.object()
    return Contact(answer.text_of(body, "id"), body)


def _conversation(answer: Answer) -> Conversation:
    body = answer.object()
    contacts, parts = body.get("contacts"), body.get("conversation_parts")
    source = body.get("source")
    if not (isinstance(contacts, dict) and isinstance(parts, dict) and isinstance(source, dict)):
        raise SystemRejected(f"{answer.operation}: a conversation has no contacts, source or parts")
    shown, members = parts.get("conversation_parts"), contacts.get("contacts")
    if not (_are_objects(shown) and _are_objects(members)):
        raise SystemRejected(f"{answer.operation}: a conversation's contacts or parts are no lists")
    assert isinstance(shown, list) and isinstance(members, list)
    total = parts.get("total_count", len(shown))
    return Conversation(
        id=answer.text_of(body, "id"),
        contacts=frozenset(answer.text_of(member, "id") for member in members),
        source=source,
        parts=tuple(shown),
        body=body,
        total_parts=total if isinstance(total, int) else len(shown),
    )


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _next(answer: Answer) -> str | None:
    pages = answer.object().get("pages")
    following = pages.get("next") if isinstance(pages, dict) else None
    after = following.get("starting_after") if isinstance(following, dict) else None
    return None if after is None else str(after)


def _total_pages(answer: Answer) -> int:
    pages = answer.object().get("pages")
    total = pages.get("total_pages") if isinstance(pages, dict) else None
    return total if isinstance(total, int) else 1
