"""Unbounce: read every lead of the chosen pages, export or delete those of one person.

There is no search: each order reads all leads of its pages. The same connector serves two systems of a registry, landing pages
and event registration, as two processes that choose their pages by the same setting, one of them "all others".

Room rules: decisions only, HTTP lives in `client`; a deletion's id is handed to the runtime before the next one is started.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from connectors.sdk.oauth import Grant, RefreshTokenFile, StaticToken
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.unbounce.client import ApiKey, Credentials, Lead, OAuthGrant, Page, UnbounceClient
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Accepted, Fulfilled, NothingHeld
from schemas.vocabulary import FailureReason, IdentifierKind, Right

__all__ = ["UnbounceConnector", "UnbounceSettings", "build"]

_PageId = Annotated[str, StringConstraints(min_length=1, max_length=80)]
_ALWAYS = ("copies_in_integrations_stay",)


class UnbounceSettings(ConnectorSettings):
    """Which account, which of its pages, and what about the API no public page promises: `DSR_UNBOUNCE_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_UNBOUNCE_")

    base_url: str = "https://api.unbounce.com"
    api_key: Annotated[SecretStr | None, Field(description="Reads; by the vendor's page it may not delete")] = None
    access_token: Annotated[SecretStr | None, Field(description="A token that somebody else renews")] = None
    oauth_client_id: Annotated[str, Field(description="For the refresh grant, authorised by the account's owner")] = ""
    oauth_client_secret: Annotated[SecretStr | None, Field(description="For the refresh grant")] = None
    refresh_token: Annotated[SecretStr | None, Field(description="For the refresh grant")] = None
    redirect_uri: Annotated[str, Field(description="For the refresh grant: the one registered with the OAuth application")] = ""
    refresh_token_file: Annotated[
        Path | None, Field(description="Keeps the newest refresh token: the vendor issues another at each refresh")
    ] = None
    token_url: str = "https://api.unbounce.com/oauth/token"  # noqa: S105 - an address, not a secret
    accept: str = "application/vnd.unbounce.api.v0.4+json"
    page_ids: Annotated[
        tuple[_PageId, ...], Field(description="Pages by id, also pop-ups and sticky bars that the list does not show")
    ] = ()
    page_name_pattern: Annotated[
        re.Pattern[str] | None, Field(description="Pages whose whole name matches; with page_ids: either is enough")
    ] = None
    other_pages: Annotated[
        bool, Field(description="All pages but those named: for the second of two systems that share an account")
    ] = False
    page_size: Annotated[int, Field(ge=2, le=1000, description="`limit` of a list; the vendor allows 1000")] = 1000
    short_page_ends: Annotated[
        bool, Field(description="Trust that a list shorter than page_size is the last: half the calls")
    ] = False
    max_leads: Annotated[int, Field(ge=1, le=1000, description="More leads of one person are for a person to look at")] = 500
    verify_erasure: Annotated[bool, Field(description="Read each lead back after its deletion; it must be gone")] = True
    expected_seconds: Annotated[int, Field(ge=0, description="Within so long the vendor should have deleted")] = 86400
    calls_per_second: Annotated[float, Field(gt=0, description="The vendor allows 500 a minute per user and address")] = 8.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        grant = (self.oauth_client_id, self.oauth_client_secret, self.refresh_token)
        if any(grant) and not all(grant):
            raise ValueError("set all of oauth_client_id, oauth_client_secret and refresh_token, or none")
        if [self.api_key is not None, self.access_token is not None, all(grant)].count(True) != 1:
            raise ValueError("set one of api_key, access_token, and the refresh grant")
        if self.other_pages and not self.page_ids and self.page_name_pattern is None:
            raise ValueError("other_pages: name the pages to leave out, by page_ids or page_name_pattern")
        return self

    @property
    def credentials(self) -> Credentials:
        """Return how calls are authorised."""
        if self.api_key is not None:
            return ApiKey(self.api_key.get_secret_value())
        if self.access_token is not None:
            return StaticToken(self.access_token.get_secret_value())
        assert self.oauth_client_secret is not None
        assert self.refresh_token is not None
        refresh = self.refresh_token.get_secret_value()
        more = {"redirect_uri": self.redirect_uri} if self.redirect_uri else {}
        grant = Grant(self.oauth_client_id, self.oauth_client_secret.get_secret_value(), refresh, more)
        file = None if self.refresh_token_file is None else RefreshTokenFile(self.refresh_token_file, refresh)
        return OAuthGrant(grant, self.token_url, file)


class _Batch(BaseModel):
    """Leads of one page that are to go. Never shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    page: str = Field(repr=False)
    leads: tuple[str, ...] = Field(repr=False, min_length=1)


class _Progress(BaseModel):
    """The handle: the deletion that runs, what comes after it, and what is done. One deletion runs at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    expected_by: datetime
    deletion: str = Field(repr=False)
    now: _Batch
    later: tuple[_Batch, ...] = ()
    deleted: int = 0
    is_short: bool = False


class UnbounceConnector:
    """The chosen pages of one Unbounce account."""

    name: ClassVar[str] = "unbounce"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: UnbounceSettings) -> None:
        self._settings = settings
        self._client = UnbounceClient(
            settings.base_url,
            settings.credentials,
            accept=settings.accept,
            page_size=settings.page_size,
            short_page_ends=settings.short_page_ends,
            timeout_seconds=settings.timeout_seconds,
        )
        self.throttle = Throttle(concurrent=2, per_second=settings.calls_per_second)

    async def check(self) -> str:
        """List the pages, which proves the credentials. That they may delete is proven by the first erasure only."""
        pages = await self._pages()
        proof = "API key, which by the vendor's page may not delete" if self._settings.api_key is not None else "OAuth"
        return f"{len(pages)} page{'' if len(pages) == 1 else 's'} chosen; {proof}"

    async def access(self, job: Job) -> Result:
        """Export every lead of the person, with address of submission and cookies, grouped by page (GDPR Art. 15)."""
        found = await self._find(job)
        if not found:
            return Result(NothingHeld())
        content = [
            {"page_id": page.id, "page_name": page.name, "leads": [_without_links(lead) for lead in leads]}
            for page, leads in found
        ]
        count = sum(len(leads) for _, leads in found)
        return Result(Fulfilled(count=count), exports=(Exported("leads", content),), notes=_ALWAYS)

    async def erase(self, job: Job) -> Result:
        """Start the deletion of the person's leads, page by page (GDPR Art. 17).

        `Accepted`: nothing is deleted yet. The handle names the first page's deletion and what is left; `poll` goes on.
        """
        batches = [_Batch(page=page.id, leads=tuple(lead.id for lead in leads)) for page, leads in await self._find(job)]
        if not batches:
            return Result(NothingHeld())
        if sum(len(batch.leads) for batch in batches) > self._settings.max_leads:
            raise SystemRejected("unbounce_leads_list: more leads than DSR_UNBOUNCE_MAX_LEADS carry this address: look at them")
        expected_by = job.now + timedelta(seconds=self._settings.expected_seconds)
        deletion = await self._client.request_deletion(batches[0].page, batches[0].leads)
        return _waiting(_Progress(expected_by=expected_by, deletion=deletion.id, now=batches[0], later=tuple(batches[1:])))

    async def poll(self, job: Job, handle: str) -> Result:
        """Ask how far the deletion is; start the next page's when it is done.

        `SystemRejected(job_failed)` if Unbounce failed or lost it; `SystemUnavailable(verification_failed)` if a lead stays.
        """
        del job
        progress = _progress(handle)
        deletion = await self._client.deletion(progress.now.page, progress.deletion)
        if deletion is None or deletion.status == "failed":
            raise SystemRejected("unbounce_deletion_read: the deletion failed or is unknown", reason=FailureReason.JOB_FAILED)
        if deletion.status != "completed":
            return _waiting(progress)
        is_short = deletion.deleted < len(progress.now.leads)
        if is_short or self._settings.verify_erasure:
            await self._verify_gone(progress.now)
        done = {"deleted": progress.deleted + deletion.deleted, "is_short": progress.is_short or is_short}
        if not progress.later:
            return _ended(progress.model_copy(update=done))
        now, *later = progress.later
        started = await self._client.request_deletion(now.page, now.leads)
        return _waiting(progress.model_copy(update={**done, "deletion": started.id, "now": now, "later": tuple(later)}))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _pages(self) -> list[Page]:
        """Return the pages of this system. A name or id that names nothing would pass for absence: `SystemRejected`."""
        settings, listed = self._settings, await self._client.pages()
        if not settings.page_ids and settings.page_name_pattern is None:
            return listed
        named = [page for page in listed if self._is_named(page)]
        if settings.page_name_pattern is not None and not any(map(self._fits_pattern, named)):
            raise SystemRejected("DSR_UNBOUNCE_PAGE_NAME_PATTERN: matches no page of the account")
        if settings.other_pages:
            return [page for page in listed if page not in named]
        known = {page.id for page in listed}
        return named + [
            Page(page_id, "", is_listed=False) for page_id in dict.fromkeys(settings.page_ids) if page_id not in known
        ]

    def _is_named(self, page: Page) -> bool:
        return page.id in self._settings.page_ids or self._fits_pattern(page)

    def _fits_pattern(self, page: Page) -> bool:
        pattern = self._settings.page_name_pattern
        return pattern is not None and pattern.fullmatch(page.name) is not None

    async def _find(self, job: Job) -> list[tuple[Page, list[Lead]]]:
        """Return the person's leads of each page that has any."""
        wanted = frozenset(_normal(value) for value in job.every(IdentifierKind.EMAIL))
        found = []
        for page in await self._pages():
            leads = await self._matching(page, wanted)
            if leads:
                found.append((page, leads))
        return found

    async def _matching(self, page: Page, wanted: frozenset[str]) -> list[Lead]:
        """Return the leads of a page that carry a wanted value; a page that was deleted since it was listed has none."""
        try:
            # By id: whoever had to begin again sees leads twice.
            leads = {lead.id: lead async for lead in self._client.leads(page.id) if wanted & set(_values(lead.form))}
        except SystemRejected:
            if not page.is_listed or await self._client.has_page(page.id):
                raise
            return []
        return list(leads.values())

    async def _verify_gone(self, batch: _Batch) -> None:
        for lead in batch.leads:
            if await self._client.has_lead(batch.page, lead):
                raise SystemUnavailable(
                    "unbounce_lead_read: still held after its deletion", reason=FailureReason.VERIFICATION_FAILED
                )


def _normal(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip()).casefold()


def _values(value: Any) -> Iterator[str]:
    """Yield every text of a form in normal form: each form names its fields itself, and values are lists."""
    if isinstance(value, str):
        yield _normal(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _values(inner)


def _without_links(lead: Lead) -> dict[str, Any]:
    return {key: value for key, value in lead.body.items() if key != "metadata"}


def _progress(handle: str) -> _Progress:
    try:
        return _Progress.model_validate_json(handle)
    except ValidationError:
        raise SystemRejected("unbounce: the handle of the deletion cannot be read: retry the order") from None


def _waiting(progress: _Progress) -> Result:
    return Result(Accepted(expected_by=progress.expected_by), handle=progress.model_dump_json())


def _ended(progress: _Progress) -> Result:
    notes = ("fewer_deleted_than_asked", *_ALWAYS) if progress.is_short else _ALWAYS
    return Result(Fulfilled(count=progress.deleted) if progress.deleted else NothingHeld(), notes=notes)


def build(settings: UnbounceSettings | None = None) -> UnbounceConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return UnbounceConnector(settings or read(UnbounceSettings))
