"""Mailchimp Marketing API 3.0, as far as one person's rights need it.

Room rules: a member is addressed by hash, never by address; no error names a member; one method is one vendor operation,
pages included.

Source: the vendor's client library (PyPI mailchimp-marketing) and its OpenAPI description; see README.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from connectors.sdk.http import Answer, Policy, new_client, segment, send
from schemas.errors import SystemRejected
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm

__all__ = [
    "GONE",
    "ComplianceState",
    "MailchimpClient",
    "MemberExists",
    "MemberPart",
    "subscriber_hash",
]

#: What the vendor answers for a member it does not hold: 404 (410 from proxies and older versions).
GONE = frozenset({404, 410})
_HASH = re.compile(r"[0-9a-f]{32}")


class MemberPart(StrEnum):
    """What hangs on a member, each with its own path and its own list in the answer."""

    ACTIVITY = "activity"
    EVENTS = "events"
    NOTES = "notes"
    TAGS = "tags"

    @property
    def path(self) -> str:
        """Return the path's last segment."""
        return "activity-feed" if self is MemberPart.ACTIVITY else self.value


class ComplianceState(SystemRejected):
    """The address unsubscribed or bounced by itself: the vendor lets nobody change its status by API."""


class MemberExists(SystemRejected):
    """The audience already has a member with the new address: a person must merge the two."""


#: Titles of problem documents (RFC 9457) that decide something here; no other part of an error body is looked at.
_TITLES: Mapping[str, type[SystemRejected]] = {
    "Member In Compliance State": ComplianceState,
    "Member Exists": MemberExists,
}


def subscriber_hash(address: str) -> str:
    """Return the id under which an audience keeps a member: MD5 of the lower-cased address.

    An order may carry that hash in the place of the address (`form: md5` in the registry); it is returned as it is.
    """
    plain = address.strip()
    return plain if _HASH.fullmatch(plain) else in_form(plain, IdentifierForm.MD5)


def _is_throttled(answer: Answer) -> bool:
    """Tell throttling from a refusal: at high volume the vendor answers 429, or 403 without a problem document."""
    return answer.status == 429 or (answer.status == 403 and _problem(answer) is None)


def _problem(answer: Answer) -> Mapping[str, Any] | None:
    try:
        value = json.loads(answer.content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class MailchimpClient:
    """One account. Raises `ConnectorError` as `connectors.sdk.http` says, and its two subclasses above."""

    def __init__(self, base_url: str, api_key: str, *, page_size: int, timeout_seconds: float, connections: int) -> None:
        self._page_size = page_size
        self._policy = Policy(throttled=_is_throttled, total_seconds=2 * timeout_seconds)
        # Basic authentication with any user name and the key as password.
        self._http = new_client(base_url, auth=("dsr", api_key), timeout_seconds=timeout_seconds, connections=connections)

    async def ping(self) -> None:
        """Return if the key is good; touches nobody."""
        answer = await self._call("GET", "/ping", "ping")
        if "health_status" not in answer.object():
            raise SystemRejected("ping: the answer has no health_status: is base_url the API's?")

    async def list_ids(self) -> tuple[str, ...]:
        """Return the ids of all audiences of the account, in the vendor's order."""
        pages = await self._pages("/lists", "lists", "lists", {"fields": "lists.id,total_items"})
        return tuple(_text(page, "id", "lists") for page in pages)

    async def member(self, list_id: str, member: str) -> dict[str, Any] | None:
        """Return one member, archived ones included, or None if the audience does not hold it."""
        answer = await self._call("GET", _member_path(list_id, member), "member.read", {200, *GONE})
        return None if answer.status in GONE else _member(answer)

    async def part(self, list_id: str, member: str, part: MemberPart) -> list[dict[str, Any]]:
        """Return all of a member's activity, events, notes or tags; empty for a member that is gone."""
        path = f"{_member_path(list_id, member)}/{part.path}"
        return await self._pages(path, part.value, f"member.{part.value}", {}, {200, *GONE})

    async def update(self, list_id: str, member: str, change: Mapping[str, Any]) -> dict[str, Any] | None:
        """Change a member (PATCH) and return it; None if the audience does not hold it: PATCH never creates one.

        A repetition with the same values is a no-op. Raises `ComplianceState`, `MemberExists`.
        """
        path = _member_path(list_id, member)
        answer = await self._call("PATCH", path, "member.update", {200, 400, *GONE}, json=change)
        if answer.status == 400:
            title = (_problem(answer) or {}).get("title")
            known = _TITLES.get(title, SystemRejected) if isinstance(title, str) else SystemRejected
            raise known(f"member.update: answered 400{f' ({title})' if known is not SystemRejected else ''}")
        return None if answer.status in GONE else _member(answer)

    async def delete_permanently(self, list_id: str, member: str) -> bool:
        """Delete a member with all its data from one audience; False if it was gone already.

        Afterwards the vendor refuses to import the address again. Campaign statistics are anonymised later.
        """
        path = f"{_member_path(list_id, member)}/actions/delete-permanent"
        answer = await self._call("POST", path, "member.delete_permanently", {204, *GONE})
        return answer.status not in GONE

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _pages(
        self,
        path: str,
        key: str,
        operation: str,
        params: Mapping[str, Any],
        expect: Collection[int] = frozenset({200}),
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = {**params, "count": self._page_size, "offset": len(found)}
            answer = await self._call("GET", path, operation, expect, params=page)
            if answer.status in GONE:
                return found
            body = answer.object()
            rows = body.get(key)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise SystemRejected(f"{operation}: the answer has no list of {key}")
            found.extend(rows)
            total = body.get("total_items")
            # Not every list states its total; a short page ends those.
            if not rows or (len(found) >= total if isinstance(total, int) else len(rows) < self._page_size):
                return found

    async def _call(
        self,
        method: str,
        path: str,
        operation: str,
        expect: Collection[int] = frozenset({200}),
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
    ) -> Answer:
        return await send(
            self._http, method, path, operation=operation, expect=expect, policy=self._policy, params=params, json=json
        )


def _member_path(list_id: str, member: str) -> str:
    return f"/lists/{segment(list_id)}/members/{segment(member)}"


def _member(answer: Answer) -> dict[str, Any]:
    value = answer.object()
    _text(value, "status", answer.operation)
    _text(value, "email_address", answer.operation)
    if not isinstance(value.get("merge_fields"), dict):
        raise SystemRejected(f"{answer.operation}: the answer has no merge_fields")
    return value


def _text(value: Mapping[str, Any], key: str, operation: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text:
        raise SystemRejected(f"{operation}: the answer has no {key}")
    return text
