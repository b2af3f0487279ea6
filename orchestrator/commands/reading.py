"""Reading the log for operators: one request's records, or the whole journal, as far as it goes now.

A request's records stand in the one partition of each topic that its id hashes to, so that is all that is read first.

Room rules: joins the log with the fold; waits for nothing, commits nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError

from orchestrator.commands.folding import RequestView
from orchestrator.commands.kafka import current_connection, progress
from schemas.base import Message
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.ids import SubjectRequestId
from schemas.journal import JournalEntry
from schemas.order_keys import KeysReleased
from schemas.receipts import receipt_of
from schemas.signatures import signature_in
from schemas.status import StatusEvent
from schemas.topics import Topics

if TYPE_CHECKING:
    from orchestrator.audit.kafka_log import KafkaLog
    from orchestrator.audit.records import Extent, LogRecord
    from orchestrator.shell.restored import Head

__all__ = [
    "Bootstrap",
    "Dossier",
    "JsonOutput",
    "Prefix",
    "RequestArgument",
    "counted",
    "fold_journal",
    "fold_record",
    "print_json",
    "read_confirmations",
    "read_heads",
    "read_releases",
    "read_request",
    "request_id",
]

Prefix = Annotated[str, typer.Option(help="First word of every topic", envvar="DSR_TOPIC_PREFIX")]
Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of the broker", envvar="DSR_KAFKA_BOOTSTRAP", show_default="the one `dsr kafka up` started"),
]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]
RequestArgument = Annotated[str, typer.Argument(metavar="ID", help="The request's subject_request_id")]

_TELL_EVERY = 20_000
M = TypeVar("M", bound=Message)


@dataclass(slots=True)
class Dossier:
    """Everything that was read of one request."""

    view: RequestView
    entries: list[JournalEntry] = field(default_factory=list)
    statuses: list[StatusEvent] = field(default_factory=list)

    @property
    def is_known(self) -> bool:
        """Tell whether anything was said of it, be it that it was rejected."""
        return self.view.is_known or bool(self.statuses) or self.view.confirmation is not None


def request_id(text: str) -> str:
    """Return the id. Raises `ConfigurationError` if it cannot be one."""
    try:
        return TypeAdapter[str](SubjectRequestId).validate_python(text.strip().lower())
    except ValidationError:
        raise ConfigurationError(
            "ID: give the subject_request_id that the portal or `dsr submit` named, a UUID; `dsr list` shows the open ones"
        ) from None


def fold_record(dossier: Dossier, topics: Topics, topic: str, value: bytes | None) -> None:
    """Fold one record of the topics journal, status or confirmations; any other says nothing."""
    if value is None:
        return
    if topic == topics.journal:
        entry = _read(JournalEntry, value, topic)
        if entry.sequence > dossier.view.sequence:
            dossier.entries.append(entry)
        dossier.view.journal(entry)
    elif topic == topics.status:
        event = _read(StatusEvent, value, topic)
        dossier.statuses.append(event)
        dossier.view.status(event)
    elif topic == topics.confirmations:
        dossier.view.confirm(_read(Confirmation, value, topic))


def _read(model: type[M], value: bytes, topic: str) -> M:
    try:
        return model.model_validate_json(value)
    except ValidationError:
        raise OrchestratorError(f"{topic} holds a record that is no {model.__name__}: find it with `dsr audit`") from None


async def read_request(bootstrap: str, topics: Topics, request: str) -> Dossier:
    """Return what the log tells of one request now."""
    from orchestrator.audit.kafka_log import connected

    names = (topics.journal, topics.status, topics.confirmations)
    dossier = Dossier(RequestView(request))
    async with connected(bootstrap, topics, only=names, connection=current_connection()) as log:
        extent = await log.extent()
        near = _near(extent, request)
        await _fold_all(dossier, topics, log, near)
        if not dossier.is_known:
            # Somebody may have changed the number of partitions after this request began.
            await _fold_all(dossier, topics, log, {place: span for place, span in extent.items() if place not in near})
    return dossier


async def _fold_all(dossier: Dossier, topics: Topics, log: KafkaLog, extent: Extent) -> None:
    key = dossier.view.subject_request_id.encode()
    async for record in log.read(extent):
        if record.key == key:
            fold_record(dossier, topics, record.place.topic, record.value)


def _near(extent: Extent, request: str) -> Extent:
    """Return the part of the extent that the request's id hashes to."""
    from aiokafka.partitioner import DefaultPartitioner

    partition_of = DefaultPartitioner()
    partitions: dict[str, list[int]] = {}
    for topic, number in extent:
        partitions.setdefault(topic, []).append(number)
    home = {topic: partition_of(request.encode(), sorted(numbers), sorted(numbers)) for topic, numbers in partitions.items()}
    return {(topic, number): span for (topic, number), span in extent.items() if home[topic] == number}


async def fold_journal(bootstrap: str, topics: Topics) -> tuple[dict[str, RequestView], int]:
    """Return a view of every request in the journal, and how many records were read."""
    from orchestrator.audit.kafka_log import connected

    views: dict[str, RequestView] = {}
    count = 0
    async with connected(bootstrap, topics, only=(topics.journal,), connection=current_connection()) as log:
        async for record in _told(log, "journal records"):
            count += 1
            if record.value is not None:
                entry = _read(JournalEntry, record.value, topics.journal)
                request = entry.subject_request_id
                views.setdefault(request, RequestView(request)).journal(entry)
    return views, count


async def _told(log: KafkaLog, what: str) -> AsyncIterator[LogRecord]:
    """Yield all that is there, and tell how far it went."""
    extent = await log.extent()
    total = sum(span.end - span.beginning for span in extent.values())
    count = 0
    with progress() as tell:
        async for record in log.read(extent):
            count += 1
            if count % _TELL_EVERY == 0:
                tell(f"{count} of {total} {what} read")
            yield record


async def read_releases(bootstrap: str, topics: Topics, request: str) -> list[KeysReleased]:
    """Return when keys of one request's orders were given out, in the order of the log: records of several orders, whole.

    Every system's are looked through, because a record holds orders of many requests. It says that a key was about to be given,
    not that it arrived; what retention has deleted is not among it.
    """
    from orchestrator.audit.kafka_log import connected

    async with connected(bootstrap, topics, only=(topics.releases,), connection=current_connection()) as log:
        return [
            _read(KeysReleased, record.value, topics.releases)
            async for record in _told(log, "records of keys")
            # A request's id stands nowhere in such a record but at its orders; most records are of others, and not read.
            if record.value is not None and request.encode() in record.value
        ]


async def read_confirmations(bootstrap: str, topics: Topics) -> dict[str, Confirmation]:
    """Return the confirmation of every closed request; a repeated one is the same."""
    from orchestrator.audit.kafka_log import connected

    found: dict[str, Confirmation] = {}
    async with connected(bootstrap, topics, only=(topics.confirmations,), connection=current_connection()) as log:
        async for record in log.read(await log.extent()):
            if record.value is not None:
                confirmation = _read(Confirmation, record.value, topics.confirmations)
                found[confirmation.subject_request_id] = confirmation
    return found


async def read_heads(bootstrap: str, topics: Topics) -> tuple[dict[str, Head], dict[str, str]]:
    """Return every request's newest journal entry, and the published text of every confirmation."""
    from orchestrator.audit.kafka_log import connected
    from orchestrator.shell.restored import head_of

    heads: dict[str, Head] = {}
    said: dict[str, str] = {}
    async with connected(
        bootstrap, topics, only=(topics.journal, topics.confirmations), connection=current_connection()
    ) as log:
        async for record in log.read(await log.extent()):
            if record.value is None or record.key is None:
                continue
            request = record.key.decode("ascii", "replace")
            if record.place.topic == topics.journal:
                heads[request] = head_of(heads.get(request), record.value)
            else:
                said[request] = record.value.decode()
    return heads, said


async def read_receipts(bootstrap: str, topics: Topics) -> dict[str, bytes]:
    """Return the receipt of every confirmation that is signed, by request: the newest signature of the one value."""
    from orchestrator.audit.kafka_log import connected

    found: dict[str, bytes] = {}
    async with connected(bootstrap, topics, only=(topics.confirmations,), connection=current_connection()) as log:
        async for record in log.read(await log.extent()):
            signature = signature_in(record.headers)
            if record.key is not None and record.value is not None and signature:
                confirmation = _read(Confirmation, record.value, topics.confirmations)
                found[confirmation.subject_request_id] = receipt_of(record.key, record.value, signature)
    return found


def counted(number: int, noun: str) -> str:
    """Return `1 record`, `2 records`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_json(document: object) -> None:
    """Print one JSON document."""
    json.dump(document, sys.stdout, indent=2)
    print()
