"""Hotjar's user lookup, the one call that finds and deletes, and what its answer says.

Sources: help.hotjar.com, "Hotjar API Reference" and "User Lookup"; api-evangelist/hotjar `openapi/hotjar-rest-api-openapi.yml`
for the fields of the body. The answer's exact shape is published nowhere: `Reading` says which one is expected.

Room rules: HTTP shapes only; no token and no identity in an error, a log or a `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.sdk.http import Answer, Policy, new_client, segment
from connectors.sdk.oauth import Grant, GrantedToken, send_as
from schemas.errors import SystemRejected

__all__ = ["Credentials", "HotjarClient", "Lookup", "Query", "Reading"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key's two halves, and where they become a token."""

    token_path: str
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Query:
    """Whom to look for: an address, or one user id on each of some sites.

    Never both: whether Hotjar then finds what fits both or what fits either is not documented.
    """

    email: str | None = field(default=None, repr=False)
    user_ids: Mapping[str, str] = field(default_factory=dict, repr=False)

    def body(self, *, is_deletion: bool) -> dict[str, Any]:
        """Return the body of the call."""
        whom = (
            {"data_subject_site_id_to_user_id_map": dict(self.user_ids)}
            if self.email is None
            else {"data_subject_email": self.email}
        )
        return {**whom, "delete_all_hits": is_deletion}


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer must look like.

    `hits_field` names the list of what was found, None where hits travel elsewhere (a report to the account's admins).
    `status_field` names a text that must be there, empty if the HTTP status is enough; a text in `refusals` is none.
    `unknown_is_404`: 404 means that the person is unknown, and not the organisation.
    """

    hits_field: str | None
    status_field: str
    refusals: frozenset[str]
    unknown_is_404: bool


@dataclass(frozen=True, slots=True)
class Lookup:
    """What one lookup was answered with.

    `hits` is None where the answer does not carry them: taken, and nothing said about what was there.
    """

    hits: tuple[Mapping[str, Any], ...] | None = field(repr=False)
    has_unread_list: bool = False


class HotjarClient:
    """One organisation. Both calls are safe to repeat: a second deletion finds what the first has left."""

    def __init__(
        self, base_url: str, organization_id: str, credentials: Credentials, reading: Reading, *, timeout_seconds: float
    ) -> None:
        self._http = new_client(base_url, timeout_seconds=timeout_seconds)
        self._policy = Policy(total_seconds=2 * timeout_seconds)
        self._path = f"/v1/organizations/{segment(organization_id)}/user-lookup"
        self._reading = reading
        grant = Grant(credentials.client_id, credentials.client_secret)
        self._token = GrantedToken(self._http, credentials.token_path, grant, policy=self._policy)

    async def prove_credentials(self) -> None:
        """Get a token. Raises `CredentialsRefused`; success does not imply that the key may look anybody up."""
        await self._token.current()

    async def look_up(self, query: Query) -> Lookup:
        """Ask what is held about one person."""
        return await self._call(query, "user.lookup", is_deletion=False)

    async def delete(self, query: Query) -> Lookup:
        """Delete everything a lookup finds. Success implies that users no longer see it, not that it is purged."""
        return await self._call(query, "user.delete", is_deletion=True)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, query: Query, operation: str, *, is_deletion: bool) -> Lookup:
        expect = {200, 201, 202, 204} | ({404} if self._reading.unknown_is_404 else set())
        body = query.body(is_deletion=is_deletion)
        answer = await send_as(
            self._token, self._http, "POST", self._path, operation=operation, expect=expect, policy=self._policy, json=body
        )
        return Lookup(hits=()) if answer.status == 404 else self._read(answer)

    def _read(self, answer: Answer) -> Lookup:
        reading = self._reading
        body = answer.object() if answer.content.strip() or reading.hits_field or reading.status_field else {}
        if reading.status_field:
            status = body.get(reading.status_field)
            if not isinstance(status, str) or not status.strip():
                raise SystemRejected(f"{answer.operation}: the answer has no {reading.status_field}: nothing was promised")
            if status.strip().lower() in reading.refusals:
                raise SystemRejected(f"{answer.operation}: the answer's {reading.status_field} is a refusal")
        if reading.hits_field is None:
            return Lookup(hits=None, has_unread_list=any(isinstance(value, list) for value in body.values()))
        hits = body.get(reading.hits_field)
        if not isinstance(hits, list) or not all(isinstance(hit, dict) for hit in hits):
            raise SystemRejected(
                f"{answer.operation}: the answer has no list {reading.hits_field}: set DSR_HOTJAR_MODE=report, or HITS_FIELD"
            )
        return Lookup(hits=tuple(hits))
