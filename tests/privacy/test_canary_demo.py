"""Canaries: after the demo no planted person can be read anywhere but in the systems that hold them."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.demo.people import Person, people

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

#: The vendors' own data in clear: the company's database and its web servers' logs.
VENDORS = ("vendors/accounts", "vendors/web-logs")


def needles(known: Iterable[Person], marker: str) -> dict[bytes, str]:
    """Return every form in which somebody could be read, and what it is: plain, encoded, hashed."""
    found: dict[bytes, str] = {marker.encode(): "the marker", marker.title().encode(): "the marker"}
    for person in known:
        for value in person.secrets:
            plain = value.encode()
            forms = {plain, plain.upper(), plain.hex().encode(), quote(value, safe="").encode(), *_base64(plain)}
            found |= dict.fromkeys(forms, f"{person.alias}: {value}")
        found |= {value.encode(): f"{person.alias}: a hash of the address" for value in person.hashes}
    return found


def _base64(plain: bytes) -> Iterator[bytes]:
    """Yield what is certain of the value's base64 at each of the three alignments, in both alphabets."""
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + plain)
        inner = coded[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6]
        if len(inner) >= 10:
            yield inner
            yield inner.replace(b"+", b"-").replace(b"/", b"_")


def leaks_in_files(folder: Path, wanted: dict[bytes, str]) -> set[str]:
    """Return where in a folder somebody can be read; the vendors' data is left out."""
    found = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.relative_to(folder).as_posix()
        with contextlib.suppress(FileNotFoundError):
            # Kafka lays out its indexes as megabytes of nothing.
            written = path.read_bytes().rstrip(b"\0") if path.stat().st_blocks else b""
            content = written + place.encode()
            if not place.startswith(VENDORS):
                found |= {f"{place}: {what}" for needle, what in wanted.items() if needle in content}
    return found


async def records_of(bootstrap: str, prefix: str) -> list[tuple[str, bytes]]:
    """Return every record of the installation, whole: key, value, headers."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        topics = [topic for topic in await consumer.topics() if topic.startswith(f"{prefix}.")]
        consumer.subscribe(topics)
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=100)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[tuple[str, bytes]] = []
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    headers = b"".join(name.encode() + b"=" + value for name, value in record.headers)
                    found.append((record.topic, b"|".join((record.key or b"", record.value or b"", headers))))
        return found


def leaks_in_records(records: Iterable[tuple[str, bytes]], wanted: dict[bytes, str]) -> set[str]:
    """Return in which topic somebody can be read."""
    return {f"{topic}: {what}" for topic, record in records for needle, what in wanted.items() if needle in record}


@contextlib.contextmanager
def played(folder: Path, bootstrap: str, marker: str) -> Iterator[Path]:
    """Run the demo and keep it: databases with their write-ahead logs are looked at while their processes live."""
    said = folder.with_name("said")
    env = {key: value for key, value in os.environ.items() if not key.startswith("DSR_")}
    command = [sys.executable, "-m", "orchestrator.cli", "demo", "--keep", "--folder", str(folder), "--canary", marker]
    with said.open("wb") as out:
        demo = subprocess.Popen(command, env={**env, "DSR_KAFKA_BOOTSTRAP": bootstrap}, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 150
        while "still running" not in said.read_text():
            assert demo.poll() is None and time.monotonic() < deadline, said.read_text()[-3000:]
            time.sleep(0.1)
        yield said
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


async def test_nobody_can_be_read_outside_the_systems(tmp_path: Path) -> None:
    """Searched: records, the broker's files, store, journals, blobs, logs, outboxes, the demo's own words.

    Then a leak of each kind is planted, and the same search finds it.
    """
    marker = f"canary{secrets.token_hex(5)}"
    wanted = needles(people(marker).values(), marker)
    folder, broker = tmp_path / "demo", tmp_path / "broker"
    with LocalKafka(broker) as kafka, played(folder, kafka.bootstrap, marker) as said:
        environment = (folder / "env.sh").read_text()
        prefix = environment.partition("DSR_TOPIC_PREFIX=")[2].split()[0]
        records = await records_of(kafka.bootstrap, prefix)
        assert {topic.rpartition(".v1")[0].removeprefix(f"{prefix}.") for topic, _ in records} >= {
            "requests", "commands", "reports", "status", "confirmations", "journal", "quarantine", "orders.crm",
        }  # fmt: skip
        assert (folder / "store.sqlite-wal").stat().st_size > 0
        assert list(folder.glob("connectors/*.journal.sqlite")) and list(folder.glob("connectors/*.results/**/*.sealed"))
        assert leaks_in_records(records, wanted) == set()
        assert leaks_in_files(folder, wanted) == set()
        assert leaks_in_files(broker, wanted) == set()
        assert not any(needle in said.read_bytes() for needle in wanted)
        # The search reaches what it should: the vendors' own data holds everybody, under other names of files.
        assert marker.encode() in (folder / "vendors/accounts/company.db").read_bytes()
        await _plant(folder, kafka.bootstrap, f"{prefix}.status.v1", people(marker)["Ada"])
        found = leaks_in_records(await records_of(kafka.bootstrap, prefix), wanted) | leaks_in_files(folder, wanted)
        found |= {f"broker: {leak}" for leak in leaks_in_files(broker, wanted)}
    ada = people(marker)["Ada"]
    for leak in (
        f"{prefix}.status.v1: Ada: {ada.phone}",
        f"logs/worker.log: Ada: {ada.email}",
        "logs/crm.log: Ada: a hash of the address",
        f"planted.sqlite-wal: Ada: {ada.last_name}",
    ):
        assert leak in found
    assert any(leak.startswith("broker: data/") and ada.phone in leak for leak in found)


async def _plant(folder: Path, bootstrap: str, topic: str, person: Person) -> None:
    """Leak: a number in a record's header, an address in base64 in a log, a hash in another, a name in a write-ahead log."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, b"{}", headers=[("leak", person.phone.encode())])
    with (folder / "logs/worker.log").open("ab") as log:
        log.write(base64.b64encode(b"x" + person.email.encode()) + b"\n")
    with (folder / "logs/crm.log").open("a") as log:
        log.write(person.hashes[0])
    leaking = sqlite3.connect(folder / "planted.sqlite")
    leaking.execute("PRAGMA journal_mode=WAL")
    leaking.execute("CREATE TABLE t (v)")
    leaking.execute("INSERT INTO t VALUES (?)", (person.last_name,))
    leaking.commit()
    _OPEN.append(leaking)


#: An open connection keeps its write-ahead log.
_OPEN: list[sqlite3.Connection] = []
