"""LinkedIn: take a person out of every matched audience, and say what only people can do.

Room rules: decisions only, HTTP lives in `client`; what LinkedIn cannot take out by API is never shown as done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints
from pydantic_settings import SettingsConfigDict

from connectors.sdk.grant_settings import GrantSettings
from connectors.sdk.oauth import StaticToken
from connectors.sdk.protocol import Job, Result, Throttle
from connectors.sdk.settings import read
from connectors.systems.linkedin.client import Audience, Dialect, LinkedInClient, RefreshGrant
from schemas.errors import ConnectorError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.outcomes import Fulfilled, NothingHeld, Notified
from schemas.subject import in_form
from schemas.vocabulary import IdentifierForm, IdentifierKind, Right

__all__ = ["LinkedInConnector", "LinkedInSettings", "build"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What no call of the API reaches, whatever is in the audiences.
_ALWAYS = ("insight_tag_by_consent", "later_uploads_not_covered")


class LinkedInSettings(GrantSettings):
    """Which accounts, which version, and what about the API no public page promises: `DSR_LINKEDIN_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_LINKEDIN_")

    base_url: str = "https://api.linkedin.com"
    api_version: Annotated[
        str, Field(pattern=r"^20\d{4}$", description="LinkedIn-Version, YYYYMM: each is switched off after about a year")
    ]
    account_ids: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^\d{1,20}$")], ...],
        Field(min_length=1, description="Advertising accounts (sponsoredAccount), digits only"),
    ]
    token_url: str = "https://www.linkedin.com/oauth/v2/accessToken"  # noqa: S105 - an address, not a secret
    id_type: Annotated[str, Field(description="Name of a hashed address in `userIds`")] = "SHA256_EMAIL"
    page_size: Annotated[int, Field(ge=1, le=1000, description="`count` of a page of audiences")] = 100
    list_upload_types: Annotated[
        tuple[str, ...], Field(description="Types filled from a file: only a new file takes a person out")
    ] = ("USER_LIST_UPLOAD",)
    list_upload_sources: Annotated[tuple[str, ...], Field(description="Values of sourcePlatform that mean the same")] = (
        "LIST_UPLOAD",
    )
    company_types: Annotated[tuple[str, ...], Field(description="Types that hold companies and no people")] = (
        "COMPANY",
        "COMPANY_LIST_UPLOAD",
        "COMPANY_STREAMING",
    )
    skipped_statuses: Annotated[
        tuple[str, ...], Field(description="Audiences that refuse removals in this status; they are left to a person")
    ] = ()
    absent_statuses: Annotated[tuple[int, ...], Field(description="Status of one person that means: was not in there")] = (404,)
    removal_horizon_seconds: Annotated[int, Field(ge=0, description="From a removal to the end of its matching: 48 hours")] = (
        48 * 3600
    )
    calls_per_second: Annotated[float, Field(gt=0, description="The vendor allows 600 a minute per member")] = 8.0
    calls_per_day: Annotated[int | None, Field(ge=1, description="As the developer portal shows it")] = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0

    @property
    def credentials(self) -> StaticToken | RefreshGrant:
        """Return how calls are authorised."""
        if self.access_token is not None:
            return StaticToken(self.access_token.get_secret_value())
        return RefreshGrant(self.grant, self.token_url)


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The audiences that may hold people, by what can be done about them."""

    streamed: list[Audience]
    uploaded: list[Audience]
    skipped: list[Audience]


class LinkedInConnector:
    """The matched audiences of some advertising accounts."""

    name: ClassVar[str] = "linkedin"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ERASURE, Right.OBJECTION})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: LinkedInSettings) -> None:
        self._settings = settings
        self._client = LinkedInClient(
            settings.base_url,
            settings.credentials,
            Dialect(settings.api_version, settings.id_type, settings.page_size),
            timeout_seconds=settings.timeout_seconds,
        )
        self.throttle = Throttle(concurrent=2, per_second=settings.calls_per_second, per_day=settings.calls_per_day)

    async def check(self) -> str:
        """List the audiences: proves token, permission, version and accounts. The role of the token's member shows later."""
        found = self._sort(await self._audiences())
        by_hand = len(found.uploaded) + len(found.skipped)
        return (
            f"version {self._settings.api_version}, {len(self._settings.account_ids)} account(s): "
            f"{len(found.streamed)} audience(s) by API, {by_hand} by hand"
        )

    async def erase(self, job: Job) -> Result:
        """Take the person out of every audience (GDPR Art. 17); see `object`."""
        return await self._remove(job)

    async def object(self, job: Job) -> Result:
        """Take the person out of every audience (GDPR Art. 21(2)-(3)).

        `Fulfilled` carries `effective_by`: every removal was taken, and is matched by the end of that date (UTC); `count`
        counts removals and does not imply membership, which nobody can read. `Notified` if some audience is filled from a
        file, or refuses removals: a person must upload a new file, and nothing calls it done.
        """
        return await self._remove(job)

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: LinkedIn offers no call to ask after a removal."""
        del job, handle
        raise SystemRejected("linkedin starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _remove(self, job: Job) -> Result:
        found = self._sort(await self._audiences())
        hashes = list(dict.fromkeys(_hashed(value) for value in job.every(IdentifierKind.EMAIL)))
        taken = await self._remove_from(found.streamed, hashes)
        notes = (
            *_ALWAYS,
            *(("membership_not_readable",) if taken else ()),
            *(("list_upload_audiences_by_hand",) if found.uploaded else ()),
            *(("inactive_audiences_by_hand",) if found.skipped else ()),
        )
        if found.uploaded or found.skipped:
            return Result(Notified(), notes=notes)
        if not taken:
            return Result(NothingHeld(), notes=notes)
        effective_by = (job.now + timedelta(seconds=self._settings.removal_horizon_seconds)).date()
        return Result(Fulfilled(count=taken, effective_by=effective_by), notes=notes)

    async def _remove_from(self, audiences: Iterable[Audience], hashes: list[str]) -> int:
        """Return how many removals were taken. One audience that refuses does not keep the person in the others."""
        taken, refusal = 0, None
        for audience in audiences:
            try:
                taken += await self._remove_from_one(audience, hashes)
            except SystemRejected as error:
                refusal = error
        if refusal is not None:
            raise refusal
        return taken

    async def _remove_from_one(self, audience: Audience, hashes: list[str]) -> int:
        statuses = await self._client.remove(audience.id, hashes)
        if statuses is None:
            if await self._client.has_audience(audience.id):
                raise SystemRejected("linkedin_users_remove: an audience that is there answers 404 to a removal")
            return 0
        for status in statuses:
            if not 200 <= status < 300 and status not in self._settings.absent_statuses:
                raise _refused(status)
        return len([status for status in statuses if 200 <= status < 300])

    async def _audiences(self) -> list[Audience]:
        return [one for account in self._settings.account_ids for one in await self._client.audiences(account)]

    def _sort(self, audiences: list[Audience]) -> _Sorted:
        settings, found = self._settings, _Sorted([], [], [])
        for audience in audiences:
            if audience.type in settings.company_types:
                continue
            if audience.type in settings.list_upload_types or audience.source in settings.list_upload_sources:
                found.uploaded.append(audience)
            elif audience.status in settings.skipped_statuses:
                found.skipped.append(audience)
            else:
                found.streamed.append(audience)
        return found


def _hashed(value: str) -> str:
    """Return the SHA-256 of an address; what already is one stays as it is."""
    plain = value.strip().lower()
    return plain if _SHA256.fullmatch(plain) else in_form(value, IdentifierForm.SHA256)


def _refused(status: int) -> ConnectorError:
    """Return the error for one person's status, as for a whole answer's."""
    text = f"linkedin_users_remove: one person's removal was answered {status}"
    if status == 429:
        return Throttled(text)
    if status in {401, 403}:
        return CredentialsRefused(f"{text}: renew the token, or the role of its member in the advertising account")
    if status >= 500 or status == 408:
        return SystemUnavailable(text)
    return SystemRejected(text)


def build(settings: LinkedInSettings | None = None) -> LinkedInConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return LinkedInConnector(settings or read(LinkedInSettings))
