"""Whatever only people can do: an order becomes a task, and nothing but a signed-off answer ends it.

Once an order is reported, or over, its task is forgotten: the task's key first, then every file of it (`sdk.protocol.Forgets`).

Room rules: nothing here is ever done by itself; silence is `accepted`, never `fulfilled`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from connectors.sdk.passing_on import PassesOn
from connectors.sdk.protocol import Job, Over, Result, Throttle
from connectors.sdk.settings import ConnectorSettings, read
from connectors.systems.manual.client import Inbox, Outbox, OutboxFolder, Webhook
from connectors.systems.manual.task import SignOff, Task, sealed_subject, task_id, unsafe_exports
from schemas.errors import ProtocolViolation, SystemUnavailable
from schemas.outcomes import Accepted
from schemas.sealed import SealingKey
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, Right

__all__ = ["ManualConnector", "ManualSettings", "build"]

_NOT_A_CODE = re.compile(r"[^a-z0-9]+")
#: By then a process has looked after each of its orders, however long it was away before.
_SETTLES_WITHIN = timedelta(hours=6)
_CLEARS_EVERY = timedelta(hours=1)


class ManualSettings(ConnectorSettings):
    """Who is asked, how, and for how long: `DSR_MANUAL_*`."""

    model_config = SettingsConfigDict(env_prefix="DSR_MANUAL_")

    title: Annotated[str, Field(min_length=2, max_length=80, description="Where it is to be done, for people to read")]
    instructions: Annotated[Mapping[Right, str], Field(description="What to do for each right, for people to read")] = {}
    key: Annotated[SecretStr, Field(description="Base64 of 32 bytes; whoever opens tasks and signs off needs it too")]
    outbox: Annotated[Path, Field(description="Folder for tasks, if there is no webhook")] = Path(".dsr/manual/outbox")
    inbox: Annotated[Path, Field(description="Folder from which sign-offs are read")] = Path(".dsr/manual/inbox")
    webhook_url: Annotated[str | None, Field(description="Post tasks there instead of writing them to the outbox")] = None
    webhook_hosts: Annotated[tuple[str, ...], Field(description="Hosts that tasks may be posted to, as a JSON list")] = ()
    webhook_private: Annotated[
        bool, Field(description="The webhook may be at a private address, and then http as well: a ticket system in house")
    ] = False
    webhook_token: Annotated[SecretStr | None, Field(description="Sent as a bearer token")] = None
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    done_within_days: Annotated[int, Field(ge=1, description="When people have promised to be done")] = 14
    remind_after_days: Annotated[int, Field(ge=1, description="A reminder goes out every so many days")] = 5
    kept_days: Annotated[int, Field(ge=2, description="How long a task stays that no order waits for: a journal was lost")] = 7

    @property
    def sealing_key(self) -> SealingKey:
        """Return the key, named `manual`. Raises `ConfigurationError`."""
        return SealingKey.from_base64("manual", self.key.get_secret_value())

    def open_outbox(self) -> Outbox:
        """Return the way out. Raises `ConfigurationError` for a webhook whose host is not allowed."""
        if self.webhook_url is None:
            return OutboxFolder(self.outbox)
        token = None if self.webhook_token is None else self.webhook_token.get_secret_value()
        return Webhook(
            self.webhook_url,
            hosts=self.webhook_hosts,
            token=token,
            timeout_seconds=self.timeout_seconds,
            private=self.webhook_private,
        )


class ManualConnector(PassesOn):
    """One place where people do the work."""

    name: ClassVar[str] = "manual"
    needs: ClassVar[frozenset[IdentifierKind]] = frozenset(IdentifierKind)
    yields: ClassVar[frozenset[IdentifierKind]] = frozenset()

    def __init__(self, settings: ManualSettings) -> None:
        self._settings = settings
        self._outbox = settings.open_outbox()
        self._inbox = Inbox(settings.inbox, settings.sealing_key)
        self._clears_at: datetime | None = None
        self.throttle = Throttle(concurrent=4)

    async def check(self) -> str:
        """Return one line on where tasks go. Whether anybody looks at them shows in the reminders."""
        await asyncio.to_thread(self._inbox.check)
        return await self._outbox.check()

    async def aclose(self) -> None:
        """Close the way out."""
        await self._outbox.aclose()

    async def poll(self, job: Job, handle: str) -> Result:
        """Look for the sign-off; until it is there, remind at each interval and stay `Accepted` with the first date."""
        number, asked_at, reminded = handle.split("|")
        first = datetime.fromisoformat(asked_at)
        if await asyncio.to_thread(self._inbox.keys.find, number) is None:
            # The task is forgotten and cannot be answered any more: it is asked anew, by the date that was promised first.
            return await self._asked(job, first, self._reminders_due(job, first))
        return await self._look(job, number, first, int(reminded))

    async def pass_on(self, job: Job) -> Result:
        """Write the task for people, or find what they said to it."""
        return await self._asked(job, job.now, 0)

    async def forget(self, over: Over) -> None:
        """Delete key, sign-off and task of every attempt. What went to a webhook stays with its receiver, and opens no more."""
        await self._forget([task_id(over.order_id, over.right, attempt) for attempt in range(1, over.attempt + 1)])

    async def expire(self, now: datetime) -> None:
        """Delete tasks that no order waits for: those of a lost journal, and sign-offs that came after the end."""
        if self._clears_at is None:
            self._clears_at = now + _SETTLES_WITHIN
        if now >= self._clears_at:
            moment = now - timedelta(days=self._settings.kept_days)
            await self._forget(await asyncio.to_thread(self._inbox.without_order, moment))
            self._clears_at = now + _CLEARS_EVERY

    async def _forget(self, numbers: Iterable[str]) -> None:
        wanted = list(numbers)
        await asyncio.to_thread(self._inbox.forget, wanted)
        for number in wanted:
            await self._outbox.withdraw(number)

    async def _asked(self, job: Job, asked_at: datetime, reminded: int) -> Result:
        number = task_id(job.order_id, job.right, job.attempt)
        key = await asyncio.to_thread(self._inbox.keys.keep, number, job.now)
        if await asyncio.to_thread(self._inbox.find, number, key) is None:
            await self._outbox.hand_over(self._task(job, number, key, asked_at))
        return await self._look(job, number, asked_at, reminded)

    async def _look(self, job: Job, number: str, asked_at: datetime, reminded: int) -> Result:
        key = await asyncio.to_thread(self._inbox.keys.keep, number, job.now)
        given = await asyncio.to_thread(self._inbox.find, number, key)
        if given is not None:
            result = self._answered(given, key)
            await self._outbox.withdraw(number)
            return result
        due = self._reminders_due(job, asked_at)
        if due > reminded:
            await self._outbox.hand_over(self._task(job, number, key, asked_at, due))
        notes = ("reminder_sent",) if due > reminded else ()
        handle = f"{number}|{asked_at.isoformat()}|{max(due, reminded)}"
        return Result(Accepted(expected_by=self._expected_by(asked_at)), handle=handle, notes=notes)

    def _reminders_due(self, job: Job, asked_at: datetime) -> int:
        return (job.now - asked_at) // timedelta(days=self._settings.remind_after_days)

    @staticmethod
    def _answered(given: SignOff, key: SealingKey) -> Result:
        try:
            exports = unsafe_exports(given, key)
        except ProtocolViolation:
            raise SystemUnavailable("manual: a document cannot be opened: sign again", reason="rejected") from None
        who = _NOT_A_CODE.sub("_", given.by)
        return Result(given.outcome, exports=exports, notes=(f"evidence_{given.evidence}", f"signed_by_{who}"))

    def _expected_by(self, asked_at: datetime) -> datetime:
        return asked_at + timedelta(days=self._settings.done_within_days)

    def _task(self, job: Job, number: str, key: SealingKey, asked_at: datetime, reminder: int = 0) -> Task:
        who = SubjectData(identifiers=dict(job.identifiers), changes=job.changes)
        return Task(
            task_id=number,
            title=self._settings.title,
            right=job.right,
            instructions=self._settings.instructions.get(job.right, ""),
            requested_at=job.received_at,
            expected_by=self._expected_by(asked_at),
            due_on=job.due_on,
            reminder=reminder,
            sealed=sealed_subject(number, who, key),
        )


def build(settings: ManualSettings | None = None) -> ManualConnector:
    """Build the connector, from the environment unless settings are given. Raises `ConfigurationError`."""
    return ManualConnector(settings or read(ManualSettings))
