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
from aiokafka import AIOKafkaProducer

from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.demo.people import Person, people
from tests.privacy.canary import contents, in_base64, leaks_in, leaks_in_records, records_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

#: The vendors' own data in clear: the company's database and its web servers' logs.
VENDORS = ("vendors/accounts", "vendors/web-logs")


def needles(known: Iterable[Person], marker: str) -> dict[bytes, str]:
    """Return every form in which somebody could be read, and what it is: plain, encoded, hashed."""
    found: dict[bytes, str] = {marker.encode(): "the marker", marker.title().encode(): "the marker"}
    for person in known:
        for value in person.secrets:
            plain = value.encode()
            forms = {plain, plain.upper(), plain.hex().encode(), quote(value, safe="").encode(), *in_base64(plain)}
            found |= dict.fromkeys(forms, f"{person.alias}: {value}")
        found |= {value.encode(): f"{person.alias}: a hash of the address" for value in person.hashes}
    return found


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


@pytest.mark.long
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
        assert leaks_in(contents(folder), wanted, but=VENDORS) == set()
        assert leaks_in(contents(broker), wanted) == set()
        assert not any(needle in said.read_bytes() for needle in wanted)
        # The search reaches what it should: the vendors' own data holds everybody, under other names of files.
        assert marker.encode() in (folder / "vendors/accounts/company.db").read_bytes()
        await _plant(folder, kafka.bootstrap, f"{prefix}.status.v1", people(marker)["Ada"])
        found = leaks_in_records(await records_of(kafka.bootstrap, prefix), wanted)
        found |= leaks_in(contents(folder), wanted, but=VENDORS)
        found |= {f"broker: {leak}" for leak in leaks_in(contents(broker), wanted)}
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
