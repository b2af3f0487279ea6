"""Eventbrite: find a person among attendees and buyers, show what is there, and see whether people have done the rest.

No call of the API changes or deletes an attendee or an order. Whatever is to change, the organiser does by hand; the connector
finds what it concerns, stays `accepted` meanwhile, and reads each back until it is done.

Room rules: decisions only, HTTP lives in `client`; nothing here calls a task of a person's done before the API shows it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import SettingsConfigDict

from connectors.sdk.amending import rectifies
from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.eventbrite.client import EventbriteClient, Kind, Registration
from schemas.errors import SystemRejected
from schemas.outcomes import Accepted, Fulfilled, NothingHeld
from schemas.subject import FieldChange
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["EventbriteConnector", "EventbriteSettings", "build"]

_Id = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,20}$")]
#: Our field -> the vendor's, in an attendee's profile; an order has all but the last.
_FIELDS = {"first_name": "first_name", "last_name": "last_name", "email": "email", "phone": "cell_phone"}
_BY_HAND = "registrations_changed_by_hand"


class EventbriteSettings(ConnectorSettings):
    """Which organisations, and how long people may take: `DSR_EVENTBRITE_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_EVENTBRITE_")

    base_url: str = "https://www.eventbriteapi.com/v3"
    token: Annotated[SecretStr, Field(description="Private or OAuth token of a member of the organisation")]
    organization_ids: Annotated[
        tuple[_Id, ...], Field(description="Organisations by id; empty: all that the token may see")
    ] = ()
    list_by: Annotated[
        Literal["organization", "event"],
        Field(description="Read attendees and orders of a whole organisation, or event by event"),
    ] = "organization"
    orders: Annotated[bool, Field(description="Look among the buyers too: whoever buys need not attend")] = True
    by_hand_days: Annotated[int, Field(ge=1, le=60, description="Within so many days the organiser should have acted")] = 10
    calls_per_second: Annotated[float, Field(gt=0, description="The vendor allows about 1000 calls an hour")] = 0.25
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0


class _Item(BaseModel):
    """One attendee or order that the organiser is to change. Never shown."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Kind
    id: str = Field(repr=False)
    event: str = Field(repr=False)


class _Task(BaseModel):
    """The handle: what the organiser is to change, and by when."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    expected_by: datetime
    items: tuple[_Item, ...] = Field(repr=False, min_length=1)


class EventbriteConnector:
    """The organisations of one Eventbrite account."""

    name: ClassVar[str] = "eventbrite"
    rights: ClassVar[frozenset[Right]] = frozenset({Right.ACCESS, Right.RECTIFICATION, Right.ERASURE})
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset({IdentifierKind.EMAIL})
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: EventbriteSettings) -> None:
        self._settings = settings
        self._client = EventbriteClient(
            settings.base_url, settings.token.get_secret_value(), timeout_seconds=settings.timeout_seconds
        )
        self.throttle = Throttle(concurrent=2, per_second=settings.calls_per_second)

    async def check(self) -> str:
        """List the organisations, which proves the token. Raises `CredentialsRefused`.

        That it may read attendees is proven by the first order only.
        """
        count = len(await self._organizations())
        return f"{count} organisation{'' if count == 1 else 's'}, read by {self._settings.list_by}; changes by hand"

    async def access(self, job: Job) -> Result:
        """Export every attendee and order that carries the address (GDPR Art. 15), without links into the API."""
        found = await self._find(job)
        if not found:
            return Result(NothingHeld())
        exports = tuple(
            Exported(f"{kind.value}s", [_without_links(one) for one in found if one.kind is kind])
            for kind in Kind
            if any(one.kind is kind for one in found)
        )
        return Result(Fulfilled(count=len(found)), exports=exports)

    async def erase(self, job: Job) -> Result:
        """Find what the organiser is to delete by hand (GDPR Art. 17); `nothing_held` if there is nothing.

        `Accepted` promises nothing on the vendor's part: the date is when the organiser should have acted.
        """
        return self._by_hand(job, await self._find(job))

    async def rectify(self, job: Job) -> Result:
        """Find what the organiser is to correct by hand (GDPR Art. 16); see `erase`.

        Raises `SystemRejected` if a field holds another value than the person called wrong.
        """
        found = await self._find(job)
        changes = _known(job)
        notes = ("some_fields_not_held",) if len(changes) < len(job.changes) else ()
        if not found or not changes:
            return Result(NothingHeld(), notes=notes)
        wrong = [one for one in found if _wrong_fields(one, changes)]
        return self._by_hand(job, wrong, notes) if wrong else Result(Fulfilled(count=len(found)), notes=notes)

    async def poll(self, job: Job, handle: str) -> Result:
        """Read each back: done when all are deleted or no longer carry the address, or hold the new values.

        Until then `Accepted` with the date given first; once it is past, the orchestrator tells the owner.
        """
        task = _read_task(handle)
        is_done = self._is_corrected(job) if job.right is Right.RECTIFICATION else self._is_gone(job)
        notes = ("some_fields_not_held",) if len(_known(job)) < len(job.changes) else ()
        for item in task.items:
            one = await self._client.registration(item.kind, item.id, item.event)
            if one is not None and not is_done(one):
                return Result(Accepted(expected_by=task.expected_by), handle=handle, notes=(_BY_HAND, *notes))
        return Result(Fulfilled(count=len(task.items)), notes=(_BY_HAND, *notes))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _by_hand(self, job: Job, found: list[Registration], notes: tuple[str, ...] = ()) -> Result:
        if not found:
            return Result(NothingHeld(), notes=notes)
        expected_by = job.now + timedelta(days=self._settings.by_hand_days)
        items = tuple(_Item(kind=one.kind, id=one.id, event=one.event_id) for one in found)
        handle = _Task(expected_by=expected_by, items=items).model_dump_json()
        return Result(Accepted(expected_by=expected_by), handle=handle, notes=(_BY_HAND, *notes))

    @staticmethod
    def _is_gone(job: Job) -> Callable[[Registration], bool]:
        wanted = _wanted(job)
        return lambda one: _normal(one.text("email")) not in wanted

    @staticmethod
    def _is_corrected(job: Job) -> Callable[[Registration], bool]:
        changes = _known(job)
        return lambda one: all(_held(one, change) in {None, change.new} for change in changes)

    async def _organizations(self) -> list[str]:
        listed = await self._client.organization_ids()
        unknown = set(self._settings.organization_ids) - set(listed)
        if unknown:
            raise SystemRejected("DSR_EVENTBRITE_ORGANIZATION_IDS: the token may not see one of them")
        return list(self._settings.organization_ids) or listed

    async def _find(self, job: Job) -> list[Registration]:
        """Return every attendee and order with one of the addresses. There is no search: all are read."""
        wanted = _wanted(job)
        found: dict[tuple[Kind, str], Registration] = {}
        async for one in self._every():
            if _normal(one.text("email")) in wanted:
                found[one.kind, one.id] = one
        return list(found.values())

    async def _every(self) -> AsyncIterator[Registration]:
        kinds = tuple(Kind) if self._settings.orders else (Kind.ATTENDEE,)
        for organization in await self._organizations():
            if self._settings.list_by == "organization":
                for kind in kinds:
                    async for one in self._client.of_organization(organization, kind):
                        yield one
                continue
            for event in await self._client.event_ids(organization):
                for kind in kinds:
                    async for one in self._client.of_event(event, kind):
                        yield one


def _normal(value: str) -> str:
    return unicodedata.normalize("NFC", value.strip()).casefold()


def _wanted(job: Job) -> frozenset[str]:
    return frozenset(_normal(value) for value in job.every(IdentifierKind.EMAIL)) - {""}


def _known(job: Job) -> list[FieldChange]:
    return [change for change in job.changes if change.field in _FIELDS]


def _held(one: Registration, change: FieldChange) -> str | None:
    """Return what a registration holds for a field, None if it has none of that name."""
    name = _FIELDS[change.field]
    return one.text(name) if name in one.profile else None


def _wrong_fields(one: Registration, changes: list[FieldChange]) -> list[str]:
    held = [(change, _held(one, change)) for change in changes]
    return [change.field for change, value in held if value is not None and rectifies(value, change)]


def _without_links(one: Registration) -> dict[str, Any]:
    return {key: value for key, value in one.body.items() if key != "resource_uri"}


def _read_task(handle: str) -> _Task:
    try:
        return _Task.model_validate_json(handle)
    except ValidationError:
        raise SystemRejected("eventbrite: the handle of the task cannot be read: retry the order") from None


def build(settings: EventbriteSettings | None = None) -> EventbriteConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return EventbriteConnector(settings or read(EventbriteSettings))
