"""`dsr quarantine`: which records were set aside, why, and what their writer should do; never what stands in them.

A record in quarantine is whatever somebody published, so its key, value and unknown headers may name a person. Shown is what we
wrote ourselves: the headers of `orchestrator.shell.translate` and of the connectors' kit.

Room rules: reads and prints; nothing is taken out of quarantine here. `replay` publishes copies, `allow` writes to the store.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.audit import topics_of, usage
from orchestrator.commands.kafka import current_bootstrap, current_connection, waiting
from orchestrator.commands.reading import counted
from schemas.blobs import BlobSecret
from schemas.errors import ConfigurationError, DsrError, ProtocolViolation
from schemas.set_aside import SEALED_HEADER, Original, open_original
from schemas.signatures import SIGNATURE_HEADER
from schemas.topics import DEFAULT_PREFIX, Topics
from schemas.vocabulary import QuarantineReason
from schemas.wire import MESSAGES, TYPE_HEADER, VERSION_HEADER

if TYPE_CHECKING:
    from orchestrator.audit.records import LogRecord

__all__ = ["quarantine_app"]

_WIDTH = 160
#: What of a record's own headers is published again with it; the others speak of its time in quarantine.
_GOES_AGAIN = {TYPE_HEADER, VERSION_HEADER, SIGNATURE_HEADER}

quarantine_app = typer.Typer(name="quarantine", help="Look at the records that were set aside.", no_args_is_help=True)

_Prefix = Annotated[str, typer.Option(help="First word of every topic", envvar="DSR_TOPIC_PREFIX")]
_Bootstrap = Annotated[
    str | None,
    typer.Option(help="host:port of the broker", envvar="DSR_KAFKA_BOOTSTRAP", show_default="the one `dsr kafka up` started"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead")]


_KeyFile = Annotated[
    Path | None, typer.Option("--key", help="The private JWK that the record is sealed to", envvar="DSR_QUARANTINE_PRIVATE_KEY")
]


class As(StrEnum):
    """How a value is written to a file."""

    TEXT = "text"
    HEX = "hex"


@quarantine_app.command("list")
def list_command(
    *,
    reason: Annotated[QuarantineReason | None, typer.Option(help="Only those set aside for this reason")] = None,
    topic: Annotated[str, typer.Option(help="Only those from this topic")] = "",
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    as_json: _Json = False,
) -> None:
    """List what was set aside: when, where from, why, the field, the remedy, the size; never the content.

    Example: dsr quarantine list --reason invalid_field
    """
    with usage():
        records = asyncio.run(_read(bootstrap or current_bootstrap(), topics_of(prefix)))
    rows = [row for row in map(_row, records) if reason in (None, row["reason"]) and topic in ("", row["topic"])]
    if as_json:
        _print_json(rows)
    elif not rows:
        print("Nothing is in quarantine" + (" that fits" if reason or topic else ""))
    else:
        _print_table(rows)


@quarantine_app.command()
def show(
    place: Annotated[str, typer.Argument(help="PARTITION-OFFSET in quarantine, as `list` shows it")],
    *,
    unsafe_value: Annotated[
        Path | None,
        typer.Option(
            "--unsafe-value", help="Write the original bytes to this new file: they may name a person", metavar="FILE"
        ),
    ] = None,
    key: _KeyFile = None,
    written_as: Annotated[As, typer.Option("--as", help="The bytes as they are, or in hexadecimal")] = As.TEXT,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
    as_json: _Json = False,
) -> None:
    """Show one record that was set aside: its headers, and its value only into a file that you name.

    Example: dsr quarantine show 0-17 --unsafe-value record.bin --key quarantine.jwk
    """
    with usage():
        record = asyncio.run(_one(bootstrap or current_bootstrap(), topics_of(prefix), place))
        row = _row(record)
        if unsafe_value is not None:
            _write(unsafe_value, _original(record, key).value or b"", written_as)
    if as_json:
        _print_json(row)
        return
    for name, value in row.items():
        print(f"{name.replace('_', ' '):<14} {value}")
    if unsafe_value is not None:
        print(f"value written to {unsafe_value}: it may name a person, delete it when you are done")


@quarantine_app.command()
def replay(
    places: Annotated[
        list[str] | None, typer.Argument(help="PARTITION-OFFSET in quarantine, as `list` shows them", show_default="none")
    ] = None,
    *,
    reason: Annotated[QuarantineReason | None, typer.Option(help="All that were set aside for this reason")] = None,
    key: _KeyFile = None,
    wait: Annotated[float, typer.Option(help="Wait so many seconds for what becomes of them")] = 30.0,
    prefix: _Prefix = DEFAULT_PREFIX,
    bootstrap: _Bootstrap = None,
) -> None:
    """Publish records again as they were, to the topics they came from: after a release that mends a defect, for instance.

    They are decided anew, in the order in which they were set aside. Doing it twice is harmless: what was taken in is a
    repetition then. Exit code 1 if one is set aside again. Whoever runs it must be let write to those topics.

    Example: dsr quarantine replay --reason defect
    """
    if not places and reason is None:
        typer.echo("dsr quarantine replay: name PLACEs as `dsr quarantine list` shows them, or a --reason", err=True)
        raise typer.Exit(2)
    topics = topics_of(prefix)
    with usage():
        records = asyncio.run(_read(bootstrap or current_bootstrap(), topics))
        rows = [(_row(record), record) for record in records]
        chosen = [(row, record) for row, record in rows if row["place"] in (places or ()) or row["reason"] == reason]
        missing = set(places or ()) - {row["place"] for row, _ in chosen}
        if missing:
            raise ConfigurationError(f"{min(missing)}: no such record in quarantine; `dsr quarantine list` shows what is there")
        for row, _ in chosen:
            if row["topic"] not in {*topics.all_requests, topics.commands, topics.reports}:
                raise ConfigurationError(f"{row['place']} came from {row['topic']}: send an order again with `dsr retry`")
        again = [(str(row["topic"]), _original(record, key)) for row, record in chosen]
        with waiting(f"waiting for what becomes of them, up to {wait:g} s"):
            answers = asyncio.run(_say_again(bootstrap or current_bootstrap(), topics, again, wait))
    for (row, _), answer in zip(chosen, answers, strict=True):
        print(f"{row['place']:<12} {row['topic']}-{row['partition']}-{row['offset']}  {answer}")
    print(f"{counted(len(chosen), 'record')} published again")
    if any(answer.startswith(_ASIDE) for answer in answers):
        raise typer.Exit(1)


_ASIDE = "set aside again"


async def _say_again(bootstrap: str, topics: Topics, again: list[tuple[str, Original]], seconds: float) -> list[str]:
    """Publish the records one after the other, and return what became of each within so many seconds."""
    from orchestrator.adapters.conversation import conversation
    from orchestrator.commands.acting import refusal_of
    from schemas.journal import JournalEntry

    if not again:
        return []
    answers: dict[str, str] = {}
    hears = (topics.journal, topics.quarantine)
    async with conversation(bootstrap, topics.requests, hears, current_connection()) as talk:
        for topic, original in again:
            headers = [(name, value) for name, value in original.headers if name in _GOES_AGAIN]
            place = await talk.say(topic, original.key or b"", original.value or b"", headers)
            answers[place] = "published; no answer yet, or it says nothing new"
        open_ = set(answers)
        async for heard in talk.hear(seconds):
            if heard.topic == topics.journal and heard.value is not None:
                source = JournalEntry.model_validate_json(heard.value).source
                if source in open_:
                    answers[source] = "taken in"
                    open_.discard(source)
            for place in tuple(open_) if heard.topic == topics.quarantine else ():
                violation = refusal_of(heard, place)
                if violation is not None:
                    answers[place] = f"{_ASIDE}: {violation}"
                    open_.discard(place)
            if not open_:
                break
    return list(answers.values())


@quarantine_app.command()
def allow(
    *,
    minutes: Annotated[int, typer.Option(min=1, max=24 * 60, help="So long any number of records may be set aside")] = 60,
) -> None:
    """Let the workers go on that stopped at DSR_QUARANTINE_LIMIT, after you have seen with `list` what is set aside.

    They look every two seconds and need no restart. Names the store as a worker does (DSR_STORE_URL).

    Example: DSR_STORE_URL=postgresql+psycopg://dsr@db/dsr dsr quarantine allow --minutes 30
    """
    from orchestrator.adapters.clock import SystemClock
    from orchestrator.bootstrap import open_store
    from orchestrator.ports import Gate
    from orchestrator.settings import load_settings

    async def open_gate() -> tuple[Gate, datetime]:
        store = open_store(load_settings(), upgrade=False)
        try:
            before, until = await store.gate(), SystemClock().now() + timedelta(minutes=minutes)
            await store.set_gate(Gate(open_until=until))
        finally:
            await store.aclose()
        return before, until

    try:
        before, until = asyncio.run(open_gate())
    except DsrError as error:
        typer.echo(f"dsr quarantine allow: {error}", err=True)
        raise typer.Exit(1) from None
    was = "open" if before.shut_at is None else f"shut since {before.shut_at:%Y-%m-%d %H:%M:%S} UTC"
    print(f"The gate was {was}; until {until:%Y-%m-%d %H:%M:%S} UTC any number of records may be set aside")


async def _read(bootstrap: str, topics: Topics, wanted: tuple[int, int] | None = None) -> list[LogRecord]:
    from orchestrator.audit.kafka_log import connected
    from orchestrator.audit.records import Span

    async with connected(bootstrap, topics, only=(topics.quarantine,), connection=current_connection()) as log:
        extent = dict(await log.extent())
        if wanted is not None:
            partition, offset = wanted
            whole = extent.get((topics.quarantine, partition), Span(0, 0))
            inside = whole.beginning <= offset < whole.end
            extent = {(topics.quarantine, partition): Span(offset, offset + 1)} if inside else {}
        return [record async for record in log.read(extent)]


async def _one(bootstrap: str, topics: Topics, place: str) -> LogRecord:
    found = re.fullmatch(r"(\d+)-(\d+)", place)
    if found is None:
        raise ConfigurationError(f"{place}: give PARTITION-OFFSET as `dsr quarantine list` shows it, for instance 0-17")
    records = await _read(bootstrap, topics, (int(found[1]), int(found[2])))
    if not records:
        raise ConfigurationError(f"{place}: no such record in quarantine; `dsr quarantine list` shows what is there")
    return records[0]


def _original(record: LogRecord, key: Path | None) -> Original:
    """Return the record that was set aside. Raises `ConfigurationError` if it is sealed, and not to this key."""
    headers = dict(record.headers)
    if SEALED_HEADER not in headers:
        kept = tuple((name, value) for name, value in record.headers if name in _GOES_AGAIN)
        return Original(key=record.key, value=record.value, headers=kept)
    named = headers[SEALED_HEADER].decode("ascii", "replace")[:80]
    if key is None:
        raise ConfigurationError(f"the record is sealed to the operators' key {named}: name its private half with --key")
    try:
        secret = BlobSecret.from_jwk(json.loads(key.read_bytes()))
    except OSError as error:
        raise ConfigurationError(f"--key: cannot be read ({type(error).__name__}): name a file that exists") from None
    except ValueError:
        raise ConfigurationError("--key: this is no JSON: name the file that `dsr keys quarantine` made") from None
    try:
        return open_original(record.value or b"", secret)
    except ProtocolViolation:
        raise ConfigurationError(f"--key: this is the key {secret.kid}, and does not open what is sealed to {named}") from None


def _row(record: LogRecord) -> dict[str, Any]:
    """Return what may be shown of a record: words of ours, places and sizes."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    kind = headers.get(TYPE_HEADER, "")
    set_aside_at = headers.get("dsr-at") or datetime.fromtimestamp(record.timestamp_ms / 1000, UTC).isoformat()
    return {
        "place": f"{record.place.partition}-{record.place.offset}",
        "set_aside_at": set_aside_at,
        "reason": headers.get("dsr-reason", ""),
        "field": headers.get("dsr-field", ""),
        "remedy": headers.get("dsr-remedy", ""),
        "topic": headers.get("dsr-origin-topic", ""),
        "partition": headers.get("dsr-origin-partition", ""),
        "offset": headers.get("dsr-origin-offset", ""),
        "type": kind if kind in MESSAGES else "",
        "key_bytes": len(record.key or b""),
        "value_bytes": len(record.value or b""),
        "sealed_to": headers.get(SEALED_HEADER, ""),
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("place", "set aside at", "reason", "field", "from", "bytes", "remedy"):
        table.add_column(heading, overflow="fold", no_wrap=heading in {"place", "reason"})
    for row in rows:
        origin = f"{row['topic']}-{row['partition']}-{row['offset']}"
        cells = (row["place"], row["set_aside_at"], row["reason"], row["field"], origin, str(row["value_bytes"]), row["remedy"])
        table.add_row(*cells)
    Console(width=_WIDTH, highlight=False, markup=False).print(table)
    print(f"{counted(len(rows), 'record')}; look closer with `dsr quarantine show PLACE`")


def _write(path: Path, value: bytes, written_as: As) -> None:
    """Write the bytes to a new file that only its owner can read; an existing one is not touched."""
    data = value.hex().encode() + b"\n" if written_as is As.HEX else value
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - only its owner may read
            file.write(data)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}): name a new file") from None


def _print_json(document: object) -> None:
    json.dump(document, sys.stdout, indent=2)
    print()
