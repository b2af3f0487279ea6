"""Hotjar: what it found about a person, and the deletion of all of it.

Room rules: nothing here claims more than Hotjar promises: hidden from users now, purged by a date, and what no lookup can
find is named in a note.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SecretStr, StringConstraints
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.hotjar.client import Credentials, HotjarClient, Lookup, Query, Reading
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Fulfilled, NothingHeld, Notified
from schemas.vocabulary import FailureReason, IdentifierKind, Right

__all__ = ["HotjarConnector", "HotjarSettings", "build"]

_DAY = 86400
_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
#: What no lookup finds, whatever it answers.
_ALWAYS = ("recording_contents_not_searched", "unidentified_recordings_by_hand")


class HotjarSettings(ConnectorSettings):
    """Which organisation and sites, and what about the API no public page promises: `DSR_HOTJAR_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_HOTJAR_")

    base_url: str = "https://api.hotjar.io"
    token_path: str = "/v1/oauth/token"  # noqa: S105 - a path, not a secret
    organization_id: _Id
    client_id: Annotated[str, Field(min_length=1, description="Client id of the API key; keys end after a year")]
    client_secret: Annotated[SecretStr, Field(description="Client secret of the API key")]
    site_ids: Annotated[
        tuple[_Id, ...], Field(description="Sites that send user ids by the Identify API; empty: search by address only")
    ] = ()
    mode: Annotated[
        Literal["inline", "report"],
        Field(description="Whether a lookup answers with what it found, or has it reported to the account's admins"),
    ] = "report"
    hits_field: Annotated[str, Field(min_length=1, description="Inline: the list of what was found")] = "results"
    status_field: Annotated[str, Field(description="A text that every answer must have; empty: the HTTP status is enough")] = (
        "status"
    )
    refusing_statuses: Annotated[tuple[str, ...], Field(description="Values of that text, lower case, that are refusals")] = (
        "error",
        "failed",
    )
    unknown_person: Annotated[
        Literal["accepted", "not_found"],
        Field(description="not_found: 404 means an unknown person; a wrong organization_id then goes unnoticed"),
    ] = "accepted"
    verify_erasure: Annotated[bool, Field(description="Inline: look up again after a deletion; nothing may be found")] = True
    purge_horizon_seconds: Annotated[
        int, Field(ge=0, description="From a deletion to the end of its purge, backups included: 30 days")
    ] = 30 * _DAY
    calls_per_second: Annotated[float, Field(gt=0, description="The vendor allows 3000 a minute")] = 40.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0


class HotjarConnector:
    """One Hotjar organisation."""

    name: ClassVar[str] = "hotjar"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL, IdentifierKind.HOTJAR_USER_ID})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: HotjarSettings) -> None:
        self._settings = settings
        self._client = HotjarClient(
            settings.base_url,
            settings.organization_id,
            Credentials(settings.token_path, settings.client_id, settings.client_secret.get_secret_value()),
            Reading(
                hits_field=settings.hits_field if settings.mode == "inline" else None,
                status_field=settings.status_field,
                refusals=frozenset(settings.refusing_statuses),
                unknown_is_404=settings.unknown_person == "not_found",
            ),
            timeout_seconds=settings.timeout_seconds,
        )
        if not settings.site_ids:
            self.needs = frozenset({IdentifierKind.EMAIL})  # type: ignore[misc] # narrows the class's value for this instance
        self.throttle = Throttle(concurrent=4, per_second=settings.calls_per_second)

    async def check(self) -> str:
        """Get a token, which proves the API key. Raises `CredentialsRefused`.

        It does not imply that the key may look anybody up: the vendor has no harmless call that would show it.
        """
        await self._client.prove_credentials()
        count = len(self._settings.site_ids)
        ids = f"user ids on {count} site{'' if count == 1 else 's'}" if count else "addresses only, no site_ids set"
        return f"organisation {self._settings.organization_id}: token granted; {self._settings.mode} answers; {ids}"

    async def access(self, job: Job) -> Result:
        """Look the person up (GDPR Art. 15).

        Inline: one document for each identifier that found something. Report: `Notified`, since the account's admins get a
        report that a person must pass on; nothing is exported.
        """
        lookups = [await self._client.look_up(query) for query in self._queries(job)]
        notes = _notes(lookups)
        if any(lookup.hits is None for lookup in lookups):
            return Result(Notified(), notes=("report_to_be_passed_on", *notes))
        found = [hits for hits in _without_repeats(lookups) if hits]
        if not found:
            return Result(NothingHeld(), notes=notes)
        exports = tuple(Exported(f"lookup-{number}", list(hits)) for number, hits in enumerate(found, start=1))
        return Result(Fulfilled(count=sum(map(len, found))), exports=exports, notes=notes)

    async def erase(self, job: Job) -> Result:
        """Delete everything that lookups find (GDPR Art. 17).

        `Fulfilled` carries `effective_by`: hidden from users at once, purged with its backups by the end of that date (UTC),
        and nobody confirms it. In report mode `count` counts requests taken: it does not imply that anything was held.
        """
        queries = self._queries(job)
        lookups = [await self._client.delete(query) for query in queries]
        notes = _notes(lookups)
        is_silent = any(lookup.hits is None for lookup in lookups)
        # A lookup that was taken in silence counts as one request.
        count = sum(1 if lookup.hits is None else len(lookup.hits) for lookup in lookups)
        if not count:
            return Result(NothingHeld(), notes=notes)
        if not is_silent and self._settings.verify_erasure:
            await self._verify_gone(queries)
        effective_by = (job.now + timedelta(seconds=self._settings.purge_horizon_seconds)).date()
        silence = ("existence_not_confirmed",) if is_silent else ()
        return Result(Fulfilled(count=count, effective_by=effective_by), notes=(*silence, *notes))

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: Hotjar offers no call to ask after a deletion."""
        del job, handle
        raise SystemRejected("hotjar starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _queries(self, job: Job) -> list[Query]:
        """Return one query for each identifier: an address as given and in lower case, each user id on all sites."""
        emails = [form for value in job.every(IdentifierKind.EMAIL) for form in _forms(value)]
        by_email = [Query(email=email) for email in dict.fromkeys(emails)]
        if not self._settings.site_ids:
            return by_email
        users = dict.fromkeys(value.strip() for value in job.every(IdentifierKind.HOTJAR_USER_ID))
        return by_email + [Query(user_ids=dict.fromkeys(self._settings.site_ids, user)) for user in users]

    async def _verify_gone(self, queries: list[Query]) -> None:
        for query in queries:
            if (await self._client.look_up(query)).hits:
                raise SystemUnavailable("user.lookup: still found after deletion", reason=FailureReason.VERIFICATION_FAILED)


def _forms(email: str) -> tuple[str, str]:
    """Return an address as it was given and in lower case: whether Hotjar minds the case is not documented."""
    plain = unicodedata.normalize("NFC", email.strip())
    return plain, plain.lower()


def _notes(lookups: list[Lookup]) -> tuple[str, ...]:
    return ("answer_held_an_unread_list", *_ALWAYS) if any(lookup.has_unread_list for lookup in lookups) else _ALWAYS


def _without_repeats(lookups: list[Lookup]) -> list[list[Mapping[str, Any]]]:
    """Return the hits of each lookup, those left out that an earlier one has shown."""
    seen: list[Mapping[str, Any]] = []
    found: list[list[Mapping[str, Any]]] = []
    for lookup in lookups:
        new = [hit for hit in lookup.hits or () if hit not in seen]
        seen += new
        found.append(new)
    return found


def build(settings: HotjarSettings | None = None) -> HotjarConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return HotjarConnector(settings or read(HotjarSettings))
