"""Connector processes on a real broker: order in, report out, through kills, repeats, poison and another system's orders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from connectors.sdk.loader import build_standin
from connectors.sdk.standin import Fault, serve
from connectors.systems.hubspot.standin import TOKEN

sys.path.insert(0, str(Path(__file__).parent.parent / "connectors"))
from sdk_world import ROOT, an_order, request_id, yielded_in

from schemas.reports import FulfilmentReport
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right
from schemas.wire import encode, headers_of
from tests.key_desk_kit import desk_for_all

pytestmark = pytest.mark.kafka

OUTSIDE = Path(__file__).parent / "outside_author"
EMAIL = "ada.lovelace@example.org"


class Process:
    """`dsr-connector run`, as an operator starts it."""

    system = "crm"

    def __init__(self, name, fresh_kafka, folder, **settings):
        self.name, self.folder = name, folder
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith("DSR_")}
            | {
                "PYTHONPATH": str(OUTSIDE),
                "DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap,
                "DSR_TOPIC_PREFIX": fresh_kafka.topics.prefix,
                "DSR_KEYS_URL": fresh_kafka.keys_url,
                "DSR_SIGNATURES": "off",
                "DSR_STATE_DIR": str(folder / "state"),
                "DSR_GROUP_INSTANCE_ID": "one",
                "DSR_POLL_BASE_SECONDS": "0.2",
                "DSR_POLL_MAX_SECONDS": "0.5",
                "DSR_BACKOFF_BASE_SECONDS": "0.2",
                "DSR_BACKOFF_MAX_SECONDS": "0.5",
            }
            | settings
        )
        self.log = folder / "process.log"
        self.process = None

    def start(self):
        code = "from connectors.sdk.cli import main; main()"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "run", self.name, "--system", self.system],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self):
        self.process.terminate()
        return self.process.wait(30)

    @property
    def health_url(self):
        ports = [json.loads(line)["port"] for line in self.log.read_text().splitlines() if '"event": "health"' in line]
        return f"http://127.0.0.1:{ports[-1]}"


@contextlib.contextmanager
def running(*arguments, **settings):
    process = Process(*arguments, **settings)
    process.start()
    try:
        yield process
    except TimeoutError:
        # Somebody waited in vain for what this process was to do; its log is gone with the test's folder.
        print(f"connector, exit status {process.process.poll()}:\n{process.log.read_text()[-3_000:]}")
        raise
    finally:
        if process.process.poll() is None:
            process.kill()


class Wire:
    """The orchestrator's end: publishes orders, reads reports and quarantine."""

    def __init__(self, bootstrap, topics):
        self.bootstrap, self.topics = bootstrap, topics
        self.reports, self.quarantine = [], []

    async def __aenter__(self):
        self.producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        self.consumer = AIOKafkaConsumer(
            self.topics.reports, self.topics.quarantine, bootstrap_servers=self.bootstrap, auto_offset_reset="earliest"
        )
        await self.producer.start()
        await self.consumer.start()
        return self

    async def __aexit__(self, *_):
        await self.consumer.stop()
        await self.producer.stop()

    async def put(self, key, value, headers=()):
        await self.producer.send_and_wait(self.topics.orders("crm"), value, key=key, headers=list(headers))

    async def send(self, *orders):
        await asyncio.gather(*(self.put(o.subject_request_id.encode(), encode(o), headers_of(o)) for o in orders))

    async def until(self, condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            for partition, batch in (await self.consumer.getmany(timeout_ms=50)).items():
                for record in batch:
                    if partition.topic == self.topics.reports:
                        self.reports.append(FulfilmentReport.model_validate_json(record.value))
                    else:
                        self.quarantine.append(record)

    def final(self):
        return [report for report in self.reports if report.outcome.code is not OutcomeCode.ACCEPTED]


@pytest.fixture
async def wire(fresh_kafka):
    topics = await fresh_kafka.create("crm")
    async with desk_for_all(ROOT, prefix=topics.prefix) as desk, Wire(fresh_kafka.bootstrap, topics) as wire:
        fresh_kafka.keys_url = desk.url
        wire.desk = desk
        yield wire


@pytest.fixture
def hubspot():
    standin = build_standin("hubspot")
    with serve(standin) as standin.base_url:
        yield standin


@pytest.fixture
def acme(monkeypatch):
    monkeypatch.syspath_prepend(str(OUTSIDE))
    standin = build_standin("acme")
    with serve(standin) as standin.base_url:
        yield standin


def on_disk(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_order_in_report_out(wire, fresh_kafka, hubspot, tmp_path):
    """HubSpot: the contact is erased, its identifiers are yielded to the orchestrator, and nothing written down names her."""
    hubspot.add(email=EMAIL, lastname="Lovelace-Testcase", ga_client_id="1357.2468")
    settings = {"DSR_HUBSPOT_BASE_URL": hubspot.base_url, "DSR_HUBSPOT_TOKEN": TOKEN}
    with running("hubspot", fresh_kafka, tmp_path, **settings) as process:
        await wire.send(an_order(1, right=Right.ACCESS), an_order(2))
        await wire.until(lambda: len(wire.final()) == 2)
        async with httpx.AsyncClient(base_url=process.health_url) as client:
            metrics = (await client.get("/metrics")).text
            assert (await client.get("/healthz")).status_code == (await client.get("/readyz")).status_code == 200
        assert process.terminate() == 0
    by_request = {report.subject_request_id: report for report in wire.final()}
    erased = by_request[request_id(2)]
    assert erased.outcome.code is OutcomeCode.FULFILLED
    assert yielded_in(erased)[IdentifierKind.GA_CLIENT_ID] == ("1357.2468",)
    assert not hubspot.holding(EMAIL)
    assert 'dsr_connector_orders_total{right="erasure",system="crm"} 1.0' in metrics
    assert not [word for word in (b"ada.lovelace", b"Lovelace-Testcase", b"1357.2468") if word in on_disk(tmp_path)]


async def test_its_pages_know_its_token(wire, fresh_kafka, hubspot, tmp_path):
    """What is set reaches the pages; where others reach them and nothing is set, nobody is shown metrics, as the log says."""
    (tmp_path / "token").write_text("t" * 32 + "\n")
    host = "127.0.0.2"  # no name of this machine that we know, and yet nobody else reaches it
    settings = {"DSR_HUBSPOT_BASE_URL": hubspot.base_url, "DSR_HUBSPOT_TOKEN": TOKEN, "DSR_HEALTH_HOST": host}
    for more, status in (({"DSR_METRICS_TOKEN_FILE": str(tmp_path / "token")}, 200), ({}, 401)):
        folder = tmp_path / f"to-{status}"
        folder.mkdir()
        with running("hubspot", fresh_kafka, folder, **settings, **more) as process:
            await wire.until(lambda process=process: '"event": "health"' in process.log.read_text())
            async with httpx.AsyncClient(base_url=process.health_url.replace("127.0.0.1", host)) as client:
                assert (await client.get("/metrics")).status_code == 401
                shown = await client.get("/metrics", headers={"authorization": f"Bearer {'t' * 32}"})
                assert shown.status_code == status
                assert (await client.get("/healthz")).status_code == 200
            assert process.terminate() == 0
            assert ('"event": "metrics_refused"' in process.log.read_text()) is (status == 401)


async def test_kill_while_the_vendor_works(wire, fresh_kafka, acme, tmp_path):
    """Kill -9 between two polls: one distinct report in the end, and the vendor was asked to start one job, once."""
    with running("acme", fresh_kafka, tmp_path, DSR_ACME_BASE_URL=acme.base_url) as process:
        await wire.send(an_order(1))
        await wire.until(lambda: wire.reports and acme.counts["GET /jobs/{job}"] >= 1)
        process.kill()
        acme.release = True
        process.start()
        await wire.until(wire.final)
        assert process.terminate() == 0
    assert acme.counts["POST /jobs"] == 1
    assert [report.outcome.code for report in wire.reports] == ["accepted", "fulfilled"]


async def test_kill_in_the_middle_of_a_call(wire, fresh_kafka, hubspot, tmp_path):
    """Kill -9 while the system is silent: the next process does the work again and reports once, with the first one's finds."""
    hubspot.add(email=EMAIL, ga_client_id="1357.2468")
    hubspot.fail(Fault("none", path="gdpr-delete"), Fault("hang", seconds=60, path="/contacts/5"))
    settings = {"DSR_HUBSPOT_BASE_URL": hubspot.base_url, "DSR_HUBSPOT_TOKEN": TOKEN}
    with running("hubspot", fresh_kafka, tmp_path, **settings) as process:
        await wire.send(an_order(1))
        await wire.until(lambda: not hubspot.holding(EMAIL))
        process.kill()
        assert not wire.reports
        process.start()
        await wire.until(wire.final)
        assert process.terminate() == 0
    (report,) = wire.reports
    assert report.outcome.code is OutcomeCode.NOTHING_HELD
    assert yielded_in(report)[IdentifierKind.GA_CLIENT_ID] == ("1357.2468",)


async def test_redelivered_reordered_foreign_and_poison(wire, fresh_kafka, acme, tmp_path):
    """Repeats and lower attempts add nothing, foreign orders and poison are set aside with their bytes, the rest is done."""
    acme.release = True
    with running("acme", fresh_kafka, tmp_path, DSR_ACME_BASE_URL=acme.base_url) as process:
        await wire.send(an_order(1, attempt=2))
        await wire.send(an_order(1, attempt=1), an_order(1, attempt=2))
        await wire.put(request_id(2).encode(), b"\xffnot an order")
        await wire.put(request_id(3).encode(), encode(an_order(3, system="newsletter")))
        await wire.send(an_order(4))
        await wire.until(lambda: len(wire.final()) == 2 and len(wire.quarantine) == 2)
        await wire.send(an_order(1, attempt=3))
        await wire.until(lambda: len(wire.final()) == 3)
        assert process.terminate() == 0
    answers = sorted((report.subject_request_id, report.attempt) for report in wire.final())
    assert answers == [(request_id(1), 2), (request_id(1), 3), (request_id(4), 1)]
    assert acme.counts["POST /jobs"] == 2
    reasons = {dict(record.headers)["dsr-reason"].decode(): record for record in wire.quarantine}
    assert reasons["not_json"].value == b"\xffnot an order"
    assert set(reasons) == {"not_json", "foreign_system"}
    assert dict(reasons["not_json"].headers)["dsr-origin-topic"] == wire.topics.orders("crm").encode()


async def test_kills_at_every_stage_lose_and_double_nothing(wire, fresh_kafka, acme, tmp_path):
    """150 orders, a kill -9 whenever so many reports are out: one distinct final report each, one vendor's job each."""
    acme.release = True
    orders = [an_order(number) for number in range(1, 151)]
    with running("acme", fresh_kafka, tmp_path, DSR_ACME_BASE_URL=acme.base_url) as process:
        await wire.send(*orders)
        for reports in (1, 40, 90, 160, 230):
            await wire.until(lambda count=reports: len(wire.reports) >= count)
            process.kill()
            process.start()
        await wire.until(lambda: len({report.order_id for report in wire.final()}) == len(orders))
        await wire.send(*(an_order(number, attempt=1) for number in range(1, 151)))
        assert process.terminate() == 0
    meanings = {encode(report) for report in wire.final()}
    assert len(meanings) == len(orders)
    assert Counter(report.outcome.code for report in wire.final()).keys() == {OutcomeCode.FULFILLED}
    assert len(acme.started) == len(orders)


def most_within(moments, seconds):
    """Return the largest number of moments in any window of that length."""
    times = sorted(moments)
    return max(sum(start <= at < start + seconds for at in times[first:]) for first, start in enumerate(times))


def taken_by(journal):
    """Return how many orders stand in a journal."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        return connection.execute("SELECT count(*) FROM orders").fetchone()[0]


@pytest.mark.slow
async def test_two_processes_share_what_the_system_allows(wire, fresh_kafka, acme, tmp_path):
    """Two processes of one system, one killed and started again: together they call as often as one may, and lose nothing."""
    acme.release = True
    per_second, orders = 30.0, [an_order(number) for number in range(1, 121)]
    rest = iter(orders)
    shared = {
        "DSR_ACME_BASE_URL": acme.base_url,
        "DSR_ACME_CALLS_PER_SECOND": str(per_second),
        "DSR_QUOTA_URL": f"sqlite:///{tmp_path / 'quota.sqlite'}",
    }
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()

    def shares() -> list[int]:
        return [taken_by(folder / "state" / "crm.journal.sqlite") for folder in folders]

    with (
        running("acme", fresh_kafka, folders[0], **shared, DSR_GROUP_INSTANCE_ID="one") as first,
        running("acme", fresh_kafka, folders[1], **shared, DSR_GROUP_INSTANCE_ID="two") as second,
    ):
        await wire.until(lambda: all('"event": "health"' in process.log.read_text() for process in (first, second)))
        # Until the group has given each of them a partition: before that there is nothing to share.
        async with asyncio.timeout(40):
            while min(shares()) == 0:
                await wire.send(next(rest))
                await asyncio.sleep(0.5)
        await wire.send(*rest)
        await wire.until(lambda: len(wire.final()) >= 20)
        first.kill()
        first.start()
        await wire.until(lambda: len({report.order_id for report in wire.final()}) == len(orders))
        assert second.terminate() == 0
        assert first.terminate() == 0
    assert len({encode(report) for report in wire.final()}) == len(orders)
    assert len(acme.started) == len(orders)
    # One call stands at either end of a window, and a busy machine may push a few calls into the next one.
    assert most_within(acme.called_at, 1.0) <= per_second + 5
    assert sum(shares()) >= len(orders)


async def test_a_broker_that_is_not_there_is_a_wrong_setting(fresh_kafka, acme, tmp_path):
    """Exit code 2 and a line that names the variable, not a traceback."""
    settings = {"DSR_ACME_BASE_URL": acme.base_url, "DSR_KAFKA_BOOTSTRAP": "127.0.0.1:9"}
    with running("acme", fresh_kafka, tmp_path, **settings) as process:
        assert await asyncio.to_thread(process.process.wait, 60) == 2
    assert "DSR_KAFKA_BOOTSTRAP" in process.log.read_text()


async def test_a_topic_full_of_poison_ends_the_process_with_70(wire, fresh_kafka, acme, tmp_path):
    """The exit code says "start again"; the last bad batch is not committed and the message names the remedy."""
    settings = {"DSR_ACME_BASE_URL": acme.base_url, "DSR_QUARANTINED_IN_A_ROW": "3"}
    for _ in range(3):
        await wire.put(b"key", b"poison")
    with running("acme", fresh_kafka, tmp_path, **settings) as process:
        assert await asyncio.to_thread(process.process.wait, 60) == 70
    assert "DSR_QUARANTINED_IN_A_ROW" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()
