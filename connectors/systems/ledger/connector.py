"""Recipients under GDPR Art. 19: who was given the person's data is told of its correction, erasure or restriction.

Room rules: nothing here is called done. A notification that lies in the outbox is `notified`; whether a recipient acts on it
is that recipient's answer to give.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.protocol import Exported, Job, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.ledger.client import Found, Ledger, Outbox, notification_id
from schemas.errors import SystemRejected
from schemas.outcomes import Fulfilled, NotApplicable, NothingHeld, Notified, Retained
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, NotApplicableReason, RetentionGround, Right

__all__ = ["LedgerConnector", "LedgerSettings", "build"]

_COURT_NOTE = "court_order_disclosures_noted"


class LedgerSettings(ConnectorSettings):
    """Where ledger and outbox lie, and the secret between them: `DSR_LEDGER_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_LEDGER_")

    path: Annotated[Path, Field(description="The SQLite file")] = Path(".dsr/ledger.sqlite")
    outbox: Annotated[Path, Field(description="Folder from which a courier collects notifications")] = Path(".dsr/outbox")
    key: Annotated[SecretStr, Field(description="Base64 of 32 bytes; whoever records disclosures needs it too")]
    court_orders_kept_days: Annotated[
        int | None, Field(ge=1, description="How long records of court-order disclosures must be kept; none: no date is named")
    ] = None

    @property
    def sealing_key(self) -> SealingKey:
        """Return the key, named `ledger`. Raises `ConfigurationError`."""
        return SealingKey.from_base64("ledger", self.key.get_secret_value())


class LedgerConnector:
    """One ledger and its outbox."""

    name: ClassVar[str] = "ledger"
    rights: ClassVar[frozenset[Right]] = frozenset(
        {Right.ACCESS, Right.RECTIFICATION, Right.COMPLETION, Right.ERASURE, Right.RESTRICTION}
    )
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(
        {IdentifierKind.EMAIL, IdentifierKind.CUSTOMER_ID, IdentifierKind.ACCOUNT_ID}
    )
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: LedgerSettings) -> None:
        self._settings = settings
        self._ledger = Ledger(settings.path, settings.sealing_key)
        self._outbox = Outbox(settings.outbox, settings.sealing_key)
        self.throttle = Throttle(concurrent=2)

    async def check(self) -> str:
        """Return one line on ledger and outbox. A growing number of waiting notifications means that no courier comes."""
        disclosures, receivers = await asyncio.to_thread(self._ledger.counts)
        waiting = await asyncio.to_thread(self._outbox.waiting)
        return f"{disclosures} disclosures to {receivers} receivers; {waiting} notifications wait in the outbox"

    async def access(self, job: Job) -> Result:
        """List who was given what, when and why (GDPR Art. 15(1)(c) and Art. 19, second sentence); tells no recipient."""
        found = await self._find(job)
        if not found:
            return Result(NothingHeld())
        rows = [{**row.disclosure.model_dump(mode="json"), "recorded_under": self._recorded_under(job, row)} for row in found]
        return Result(Fulfilled(count=len(rows)), exports=(Exported("recipients", rows),))

    async def rectify(self, job: Job) -> Result:
        """Tell every recipient which fields to correct (GDPR Art. 19)."""
        return await self._tell(job)

    async def complete(self, job: Job) -> Result:
        """Tell every recipient which fields to complete (GDPR Art. 19)."""
        return await self._tell(job)

    async def restrict(self, job: Job) -> Result:
        """Tell every recipient that the data may be kept and not used (GDPR Art. 19)."""
        return await self._tell(job)

    async def erase(self, job: Job) -> Result:
        """Tell every recipient to erase (GDPR Art. 19), then cut the ledger's own tie to the person.

        What stays of those disclosures is who was given which categories when: nobody can be found by it. Records of court
        orders keep their tie, as a legal obligation (GDPR Art. 17(3)(b)).
        """
        return await self._tell(job)

    async def poll(self, job: Job, handle: str) -> Result:
        """Refuse: no answer of a recipient is waited for here."""
        del job, handle
        raise SystemRejected("ledger starts no jobs that could be asked after")

    async def aclose(self) -> None:
        """Nothing stays open."""

    def _identifiers(self, job: Job) -> Mapping[IdentifierKind, tuple[str, ...]]:
        return {kind: job.every(kind) for kind in sorted(self.needs) if job.every(kind)}

    async def _find(self, job: Job) -> list[Found]:
        return await asyncio.to_thread(self._ledger.find, self._identifiers(job))

    def _recorded_under(self, job: Job, row: Found) -> dict[str, list[str]]:
        return {kind.value: list(job.every(kind)) for kind in sorted(row.found_by)}

    async def _tell(self, job: Job) -> Result:
        found = await self._find(job)
        told_before = await asyncio.to_thread(self._ledger.handed_over, job.order_id)
        court = [row for row in found if row.is_court_order]
        new = [row for row in found if not row.is_court_order and row.id not in told_before]
        await asyncio.to_thread(self._hand_over, job, new)
        await asyncio.to_thread(self._settle, job, found, new)
        notes = (_COURT_NOTE,) if court else ()
        recipients = {*told_before.values(), *(row.disclosure.recipient for row in new)}
        if recipients:
            return Result(Notified(recipients=tuple(sorted(recipients))), notes=notes)
        return Result(self._without_recipients(job, court), notes=notes)

    def _hand_over(self, job: Job, new: list[Found]) -> None:
        who = SubjectData(identifiers=dict(self._identifiers(job)), changes=job.changes)
        by_recipient: dict[str, list[Found]] = {}
        for row in new:
            by_recipient.setdefault(row.disclosure.recipient, []).append(row)
        for recipient, rows in by_recipient.items():
            number = notification_id(job.order_id, recipient, (row.id for row in rows))
            told = [row.disclosure for row in rows]
            self._outbox.hand_over(number, recipient, right=job.right, requested_at=job.received_at, told=told, who=who)

    def _settle(self, job: Job, found: list[Found], new: list[Found]) -> None:
        told = [row.id for row in new]
        is_erased = job.right is Right.ERASURE
        moved = [change.new for change in job.changes if change.field == "email" and job.right is Right.RECTIFICATION]
        # Found under the new address too: the next request will come from there.
        link = [row.id for row in found] if moved else []
        to = {IdentifierKind.EMAIL: moved}
        self._ledger.settle(job.order_id, told=told, unlink=told if is_erased else [], link=link, to=to)

    def _without_recipients(self, job: Job, court: list[Found]) -> NothingHeld | NotApplicable | Retained:
        if not court:
            return NothingHeld()
        if job.right is not Right.ERASURE:
            # Whoever received data in a particular inquiry is no recipient (GDPR Art. 4(9)): there is nobody to tell.
            return NotApplicable(reason=NotApplicableReason.RIGHT_NOT_OFFERED)
        kept = self._settings.court_orders_kept_days
        latest = max(row.disclosure.disclosed_on for row in court)
        until = latest + timedelta(days=kept) if kept is not None else None
        return Retained(ground=RetentionGround.LEGAL_OBLIGATION, until=until, count=len(court))


def build(settings: LedgerSettings | None = None) -> LedgerConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return LedgerConnector(settings or read(LedgerSettings))
