"""Do what a file describes for one job: find, look, act on every record, and conclude honestly.

Steps run one after the other, each for all records: whoever must be silenced before anything is deleted is silenced everywhere.

Room rules: no HTTP shapes (those are `client`'s), no right by name but copies and amendments, which return or change fields.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from connectors.sdk.amending import completes, rectifies
from connectors.sdk.opening import merged
from connectors.sdk.protocol import Exported, Job, Result
from connectors.sdk.work import remember
from connectors.systems.declarative.client import DeclarativeClient, Reply
from connectors.systems.declarative.declaration import Declaration, Expression, Fields, Find, Poll, Procedure, Setting, Step
from schemas.errors import SystemRejected, SystemUnavailable
from schemas.outcomes import Accepted, Fulfilled, NothingHeld
from schemas.vocabulary import FailureReason, IdentifierKind, Right

__all__ = ["Doing"]

_AMENDMENTS = {Right.RECTIFICATION: rectifies, Right.COMPLETION: completes}
_COPIES = frozenset({Right.ACCESS, Right.PORTABILITY})


@dataclass(frozen=True, slots=True)
class _Record:
    """One record of the person. `repr` shows the kind only."""

    kind: str
    id: str = field(repr=False)
    body: Any = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    yields: Mapping[IdentifierKind, tuple[str, ...]] = field(repr=False)


@dataclass(slots=True)
class _Course:
    """How far a procedure is: who is left, what was saved, which jobs run, what was copied."""

    records: list[_Record] = field(repr=False)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    saved: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    jobs: list[tuple[str, str]] = field(default_factory=list, repr=False)
    exports: list[Exported] = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class _Running:
    """What a handle holds: the jobs still to be asked after, and what is reported when they have ended."""

    jobs: list[tuple[str, str]] = field(repr=False)
    count: int
    since: datetime
    notes: list[str]

    @classmethod
    def read(cls, handle: str) -> _Running:
        kept = json.loads(handle)
        return cls(kept["jobs"], kept["count"], datetime.fromisoformat(kept["since"]), kept["notes"])

    def written(self) -> str:
        return json.dumps({"jobs": self.jobs, "count": self.count, "since": self.since.isoformat(), "notes": self.notes})


class Doing:
    """One job for one right, in one system."""

    def __init__(
        self, declaration: Declaration, procedure: Procedure, client: DeclarativeClient, settings: Mapping[str, str], job: Job
    ) -> None:
        self._declaration = declaration
        self._procedure = procedure
        self._client = client
        self._settings = settings
        self._job = job

    async def start(self) -> Result:
        """Do the procedure; `Accepted` with a handle while jobs of the vendor's run."""
        notes = list(self._procedure.notes)
        course = _Course(await self._find())
        if self._job.right in _AMENDMENTS and not self._amend(course, notes):
            moved = await self._already_moved()
            return Result(Fulfilled(count=moved) if moved else NothingHeld(), notes=tuple(notes))
        if not course.records:
            return Result(NothingHeld())
        yielded = merged(record.yields for record in course.records)
        if self._job.right is Right.ERASURE:
            await remember(yielded)
        self._copy(course)
        for step in self._procedure.steps:
            await self._step(step, course)
        if course.jobs:
            return self._accepted(_Running(course.jobs, len(course.records), self._job.now, notes), yielded)
        result = await self._ended(len(course.records), tuple(notes))
        return Result(result.outcome, yielded=yielded, exports=tuple(course.exports), notes=result.notes)

    async def ask(self, handle: str) -> Result:
        """Ask after every job that is not yet known to be done."""
        kept = _Running.read(handle)
        left = [(poll, job) for poll, job in kept.jobs if not await self._is_done(poll, job)]
        if left:
            return self._accepted(replace(kept, jobs=left), {})
        return await self._ended(kept.count, tuple(kept.notes))

    def _accepted(self, running: _Running, yielded: Mapping[IdentifierKind, tuple[str, ...]]) -> Result:
        seconds = max(self._declaration.polls[poll].expected_seconds for poll, _ in running.jobs)
        expected_by = running.since + timedelta(seconds=seconds)
        return Result(Accepted(expected_by=expected_by), yielded=yielded, handle=running.written())

    async def _ended(self, count: int, notes: tuple[str, ...]) -> Result:
        if self._procedure.verify and count and await self._find():
            name = self._declaration.name
            raise SystemUnavailable(f"{name}: still held after it was done", reason=FailureReason.VERIFICATION_FAILED)
        if not count:
            return Result(NothingHeld())
        days = self._procedure.effective_by_days
        assert not isinstance(days, Setting), "the connector has put in the figure"
        by = None if days is None else self._job.now.date() + timedelta(days=days)
        return Result(Fulfilled(count=count, effective_by=by), notes=notes)

    # Finding.

    async def _find(self) -> list[_Record]:
        found: dict[tuple[str, str], _Record] = {}
        for find in self._declaration.find:
            if find.rights is not None and self._job.right not in find.rights:
                continue
            for value in dict.fromkeys(text.strip() for text in self._job.every(find.by)):
                for record in await self._find_by(find, value):
                    found.setdefault((record.kind, record.id), record)
        return list(found.values())

    async def _already_moved(self) -> int:
        """Count records under the new address of a request to change it: an earlier attempt has moved them.

        They are not written to: that attempt changed address and fields in one call.
        """
        fields = self._declaration.fields
        new = [change.new for change in self._job.changes if change.field == "email" and fields and "email" in fields.names]
        finds = [find for find in self._declaration.find if find.by is IdentifierKind.EMAIL]
        found = [record for value in new for find in finds for record in await self._find_by(find, value)]
        return len({_key(record) for record in found})

    async def _find_by(self, find: Find, value: str) -> list[_Record]:
        values = {**self._settings, "identifier": value}
        operation = f"find_{find.kind.lower()}_by_{find.by.value}"
        # Every hit must be an entry before it may be left out: a list of something else is no absence.
        hits = [
            (item, self._record(find, item))
            async for page in self._client.pages(find, find.pages, find.items, values, operation)
            for item in page
        ]
        return [record for item, record in hits if find.exact or _matches(find, item, value)]

    def _record(self, find: Find, item: Any) -> _Record:
        yields = {kind: _texts(where.find(item)) for kind, where in find.yields.items()}
        return _Record(
            kind=find.kind,
            id=_id(find.id, item, self._declaration.name),
            body=item,
            values={f"record.{name}": where.find(item) for name, where in find.values.items()},
            yields={kind: values for kind, values in yields.items() if values},
        )

    # Copies and changes.

    def _copy(self, course: _Course) -> None:
        if self._job.right in _COPIES:
            course.exports += [
                Exported(f"{record.kind.lower()}-{number}", record.body) for number, record in enumerate(course.records, 1)
            ]

    def _amend(self, course: _Course, notes: list[str]) -> bool:
        """Work out all changes before anything is written; False if nothing here concerns the system."""
        fields = self._declaration.fields
        assert fields is not None, "loading has checked it"
        known = [change for change in self._job.changes if change.field in fields.names]
        if len(known) < len(self._job.changes):
            notes.append("some_fields_not_held")
        decide = _AMENDMENTS[self._job.right]
        for record in course.records:
            held = _held(fields, record, self._declaration.name)
            changes = {
                fields.names[change.field]: change.new
                for change in known
                if decide(_text(held.get(fields.names[change.field])), change)
            }
            if changes:
                course.changes[_key(record)] = {
                    name: held[name] for name in fields.always if held.get(name) is not None
                } | changes
        return bool(known and course.records)

    # Steps.

    async def _step(self, step: Step, course: _Course) -> None:
        concerned = [record for record in course.records if not step.only or record.kind in step.only]
        if self._job.right in _AMENDMENTS:
            concerned = [record for record in concerned if _key(record) in course.changes]
        if not concerned:
            return
        if step.each == "person":
            values = {**self._common(), "records.ids": ",".join(record.id for record in concerned)}
            await self._act(step, values, course, concerned[0])
            return
        for number, record in enumerate(concerned, 1):
            await self._on_record(step, record, number, course)

    async def _on_record(self, step: Step, record: _Record, number: int, course: _Course) -> None:
        values = {
            **self._common(),
            **record.values,
            "record.id": record.id,
            "record.kind": record.kind,
            **course.saved.get(_key(record), {}),
        }
        if _key(record) in course.changes:
            values["changes"] = course.changes[_key(record)]
        if step.for_each is None:
            content = await self._act(step, values, course, record)
        else:
            content = []
            for item in await self._items(step, values):
                part = await self._act(step, {**values, "item.id": item}, course, record)
                content.append({"of": item, "items": part})
        if step.export is not None:
            course.exports.append(Exported(f"{step.export.name}-{number}", content))

    async def _items(self, step: Step, values: Mapping[str, Any]) -> list[str]:
        """Return the ids of all things on a record, before the first is touched: deleting moves the pages of a list."""
        each = step.for_each
        assert each is not None
        pages = self._client.pages(each, each.pages, each.items, values, f"{step.name}_list")
        return [_id(each.id, item, self._declaration.name) async for page in pages for item in page]

    async def _act(self, step: Step, values: Mapping[str, Any], course: _Course, record: _Record) -> list[Any]:
        if step.export is not None:
            export = step.export
            pages = self._client.pages(step, export.pages, export.items, values, step.name)
            return [item async for page in pages for item in page]
        reply = await self._client.call(step, values, step.name)
        if reply.meaning == "gone":
            if step.for_each is None and step.each == "record":
                course.records.remove(record)
            return []
        if reply.meaning == "ok":
            self._note_answer(step, reply, course, record)
        return []

    def _note_answer(self, step: Step, reply: Reply, course: _Course, record: _Record) -> None:
        name = reply.answer.operation
        if step.confirm is not None and step.confirm.find(reply.answer.json()) is not True:
            raise SystemRejected(f"{name}: the answer does not confirm it: {step.confirm.text}")
        for saved, where in step.save.items():
            kept = course.saved.setdefault(_key(record), {})
            kept[f"saved.{saved}"] = _id(where, reply.answer.json(), name)
        if step.job is not None:
            job = record.id if step.job.id is None else _id(step.job.id, reply.answer.json(), name)
            course.jobs.append((step.job.poll, job))

    def _common(self) -> dict[str, Any]:
        return {**self._settings, "order_id": self._job.order_id, "today": self._job.now.date().isoformat()}

    # Jobs.

    async def _is_done(self, name: str, job: str) -> bool:
        poll = self._declaration.polls[name]
        reply = await self._client.call(poll, {**self._settings, "job": job}, f"poll_{name}")
        if reply.meaning == "done":
            return True
        where = f"{self._declaration.name}_poll_{name}"
        if reply.meaning == "gone":
            raise SystemRejected(f"{where}: the job is not known any more", reason=FailureReason.JOB_FAILED)
        return _judged(poll, reply.answer.json(), where)


def _judged(poll: Poll, body: Any, where: str) -> bool:
    if poll.failed is not None and poll.failed.find(body) is True:
        raise SystemRejected(f"{where}: the job failed", reason=FailureReason.JOB_FAILED)
    if poll.within is not None:
        asked, answered = poll.within.asked.find(body), poll.within.answered.find(body)
        if isinstance(asked, list) and isinstance(answered, list):
            return bool(answered) and set(map(str, asked)) <= set(map(str, answered))
    elif poll.done is not None and poll.done.find(body) is True:
        return True
    if poll.running is not None and poll.running.find(body) is True:
        return False
    raise SystemRejected(f"{where}: the answer says neither that the job runs nor that it ended")


def _id(where: Expression, item: Any, name: str) -> str:
    value = where.find(item)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise SystemRejected(f"{name}: an entry has no {where.text}")
    return str(value)


def _key(record: _Record) -> str:
    return f"{record.kind}\x1f{record.id}"


def _held(fields: Fields, record: _Record, name: str) -> Mapping[str, Any]:
    held = record.body if fields.held_in is None else fields.held_in.find(record.body)
    if not isinstance(held, dict):
        raise SystemRejected(f"{name}: a record has no fields where the file says")
    return held


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _texts(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(str(item).strip() for item in listed if isinstance(item, str | int) and str(item).strip()))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip()).lower()


def _matches(find: Find, item: Any, value: str) -> bool:
    return any(_normal(text) == _normal(value) for where in find.match for text in _texts(where.find(item)))
