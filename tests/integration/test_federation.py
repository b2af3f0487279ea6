"""A parent and a subsidiary with an orchestrator each, on one broker: only Kafka between them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from process_kit import life
from worker_kit import World, answer, intake_file, request, settings_for, signing, worker

from connectors.sdk.protocol import Job
from connectors.systems.federation.connector import child_request_id
from orchestrator.adapters.topics import apply
from orchestrator.demo.keyring import Keyring
from orchestrator.settings import Settings
from schemas.commands import Deny
from schemas.orders import FulfilmentOrder
from schemas.reports import FulfilmentReport
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.topics import Topics, manifest
from schemas.vocabulary import AssuranceLevel, OutcomeCode, RefusalGround, RequestResult

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PARENT_REGISTRY = """
version: parent-1
controller: {title: Example parent, zone: Europe/Amsterdam, calendar: NL, regime: eu.gdpr}
portals: [{id: website, title: Website, owner: Web team}]
systems:
  - {id: crm, title: CRM, role: processor, owner: Sales, connector: test,
     rights: [erasure], irreversible: [], needs: [{kind: email}]}
  - {id: daughter, title: Example daughter, role: controller, owner: Privacy office, connector: federation,
     rights: [erasure], irreversible: [], needs: [{kind: email}]}
"""
CHILD_REGISTRY = """
version: child-1
controller: {title: Example daughter, zone: Europe/Amsterdam, calendar: NL, regime: eu.gdpr}
portals: [{id: parent, title: Parent company, owner: Parent}]
systems:
  - {id: shop, title: Shop, role: processor, owner: Shop, connector: test,
     rights: [erasure], irreversible: [], needs: [{kind: email}]}
  - {id: mail, title: Mail, role: processor, owner: Mail, connector: test,
     rights: [erasure], irreversible: [], needs: [{kind: email}]}
"""
CONNECTOR = ("-c", "from connectors.sdk.cli import main; main()", "run", "federation", "--system", "daughter")


@dataclass
class Companies:
    """The two installations: what was read from each, and how to start the parts."""

    parent: World
    child: World
    parent_settings: object
    child_settings: object
    folder: object
    keyring: Keyring
    is_open: bool = False
    keys_url: str = ""

    async def ask(self, count):
        """File so many erasures at the parent, of a person each; return them."""
        asked = [request(email=f"person-{secrets.token_hex(4)}@example.org") for _ in range(count)]
        for one in asked:
            await self.parent.publish(one)
        return asked

    def connector(self):
        child = self.child.topics
        environment = {
            "DSR_STATE_DIR": str(self.folder / "state"),
            "DSR_GROUP_INSTANCE_ID": "one",
            "DSR_POLL_BASE_SECONDS": "0.2",
            "DSR_POLL_MAX_SECONDS": "0.5",
            "DSR_BACKOFF_BASE_SECONDS": "0.2",
            "DSR_BACKOFF_MAX_SECONDS": "0.5",
            "DSR_KEYS_URL": self.keys_url,
            "DSR_FEDERATION_KAFKA_BOOTSTRAP": self.child.bootstrap,
            "DSR_FEDERATION_TOPIC_PREFIX": child.prefix,
            "DSR_FEDERATION_PORTAL": "parent",
            "DSR_FEDERATION_INTAKE_KEYS": intake_file(self.folder),
            **self.signatures(),
            "DSR_FEDERATION_ACKNOWLEDGED_WITHIN_SECONDS": "1",
        }
        return life(self.parent_settings.model_copy(update={"worker_id": "connector"}), *CONNECTOR, **environment)

    def signatures(self):
        """Return how the connector signs and what it believes: the child has signatures on, unlike the parent here."""
        keyring, portal = self.keyring, "portal:parent"
        return {
            "DSR_FEDERATION_SIGNING_KEY_FILE": str(keyring.file(portal)),
            "DSR_FEDERATION_TRUST_FILE": str(keyring.trust_file),
        }

    def child_worker(self):
        return life(self.child_settings)

    async def child_answers(self):
        """Let the child's systems answer, those that were asked before as well."""
        self.is_open = True
        for order in list(self.child.orders):
            await self.child.publish(answer(order))


async def every_record(bootstrap, *topics):
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50)
    async with consumer:
        ends = await consumer.end_offsets(consumer.assignment())
        left, found = sum(ends.values()) - sum((await consumer.beginning_offsets(list(ends))).values()), []
        while len(found) < left:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
    return found


async def say_again(bootstrap, records):
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for record in records:
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=list(record.headers))


@pytest.fixture
async def companies(fresh_kafka, tmp_path):
    bootstrap, names = fresh_kafka.bootstrap, fresh_kafka.topics
    parent_topics, child_topics = names, Topics(prefix=f"{names.prefix}-child")
    await fresh_kafka.create("crm", "daughter")
    await apply(bootstrap, manifest(("shop", "mail"), partitions=4, prefix=child_topics.prefix))
    folders = {name: tmp_path / name for name in ("parent", "child")}
    settings = {}
    for (name, folder), topics, registry in zip(
        folders.items(), (parent_topics, child_topics), (PARENT_REGISTRY, CHILD_REGISTRY), strict=True
    ):
        folder.mkdir()
        settings[name] = settings_for(folder, bootstrap, topics)
        settings[name].registry.write_text(registry)
    parent = World(bootstrap, parent_topics, ("crm", "daughter"))
    child = World(bootstrap, child_topics, ("shop", "mail"))
    keyring = Keyring(tmp_path / "keys", ["orchestrator", "portal:parent", "system:shop", "system:mail"])
    ours = signing(keyring)
    child.keyring, settings["child"] = keyring, Settings(**{**settings["child"].model_dump(exclude_unset=True), **ours})
    made = Companies(parent, child, settings["parent"], settings["child"], tmp_path, keyring)
    parent.respond = lambda order: answer(order) if order.system == "crm" else None
    child.respond = lambda order: answer(order) if made.is_open else None
    async with contextlib.AsyncExitStack() as stack:
        for world in (parent, child):
            await stack.enter_async_context(world.running())
        running = await stack.enter_async_context(worker(settings["parent"]))
        made.keys_url = running.http.url
        yield made


async def the_child_was_asked_once_each(companies, asked):
    """Check that the child took one request for each of the parent's orders, and return its ids by the parent's."""
    said = defaultdict(set)
    for record in await every_record(companies.child.bootstrap, companies.child.topics.requests):
        said[record.key.decode()].add(record.value)
    assert {len(values) for values in said.values()} == {1}, "the same id with other bytes"
    orders = [one for one in companies.parent.orders if one.system == "daughter"]
    assert {one.subject_request_id for one in orders} == {one.subject_request_id for one in asked}
    ids = {one.subject_request_id: child_request_id(job_of(one)) for one in orders}
    assert set(said) == set(ids.values()) == {one.subject_request_id for one in companies.child.orders}
    by_id = {one.subject_request_id: one for one in asked}
    for parent_id, child_id in ids.items():
        filed = SubmitRequest.model_validate_json(next(iter(said[child_id])))
        assert filed.submitted_at == by_id[parent_id].submitted_at
        assert filed.verification.level is AssuranceLevel.SUBSTANTIAL
    return ids


def job_of(order: FulfilmentOrder) -> Job:
    """Return what the id of the child's request is derived from."""
    at = order.received_at
    return Job(order.order_id, order.subject_request_id, order.right, order.attempt, at, at, order.due_on, {})


async def reported(companies, code):
    """Return the daughter's reports to the parent with this outcome."""
    found = await every_record(companies.parent.bootstrap, companies.parent.topics.reports)
    reports = [FulfilmentReport.model_validate_json(record.value) for record in found]
    return [report for report in reports if report.system == "daughter" and report.outcome.code is code]


async def until(condition, seconds=30.0):
    """Wait for something that must be asked for."""
    ends_at = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < ends_at, "the condition never came true"
        await asyncio.sleep(0.1)


async def test_the_parent_confirms_after_the_child(companies):
    """The child is killed in the middle and started again, its topics are said twice: one request and one answer for each."""
    parent, child = companies.parent, companies.child
    async with companies.connector():
        async with companies.child_worker() as first_life:
            asked = await companies.ask(3)
            await child.until(lambda: len(child.orders) >= 2)
            first_life.process.kill()
            first_life.process.wait()
        asked += await companies.ask(2)
        async with companies.child_worker():
            await child.until(lambda: len({one.order_id for one in child.orders}) == 10)
            await until(lambda: all_accepted(companies, asked))
            assert not child.confirmations
            assert not parent.confirmations
            await companies.child_answers()
            await parent.until(lambda: len(parent.confirmations) == 5)
            ids = await the_child_was_asked_once_each(companies, asked)
            for one in asked:
                theirs = child.confirmation(ids[one.subject_request_id])
                ours = parent.confirmation(one.subject_request_id)
                (daughter,) = [system for system in ours.systems if system.system == "daughter"]
                assert ours.result is theirs.result is RequestResult.FULFILLED
                assert daughter.outcome.count == 2
                assert daughter.notes == ("confirmed_there",)
                assert daughter.settled_at >= theirs.closed_at
                assert theirs.portal == "parent"
            before = {key: set(values) for world in (parent, child) for key, values in world.confirmations.items()}
            topics = child.topics
            said = await every_record(child.bootstrap, topics.requests, topics.reports, topics.status, topics.confirmations)
            await say_again(child.bootstrap, said)
            asked += await companies.ask(1)
            await parent.until(lambda: len(parent.confirmations) == 6)
    after = {key: set(values) for world in (parent, child) for key, values in world.confirmations.items()}
    assert {key: values for key, values in after.items() if key in before} == before
    assert len(after) == 12
    await the_child_was_asked_once_each(companies, asked)
    assert not parent.records[parent.topics.quarantine]
    assert not child.records[child.topics.quarantine]
    assert len(await reported(companies, OutcomeCode.FULFILLED)) == 6


async def all_accepted(companies, asked):
    return len({report.order_id for report in await reported(companies, OutcomeCode.ACCEPTED)}) == len(asked)


async def test_a_child_that_is_away_loses_and_doubles_nothing(companies):
    """The child is away for longer than its topic keeps records, the connector dies meanwhile: it is asked again, the same."""
    parent, child = companies.parent, companies.child
    requests = child.topics.requests

    async def waiting():
        return {record.key for record in await every_record(child.bootstrap, requests)}

    async def all_are_waiting():
        return len(await waiting()) == len(asked)

    async with companies.connector() as first_life:
        asked = await companies.ask(4)
        await until(lambda: all_accepted(companies, asked))
        first_life.process.kill()
        first_life.process.wait()
    assert await all_are_waiting()
    await forget(child.bootstrap, requests)
    assert not await waiting()
    async with companies.connector():
        await until(all_are_waiting)
        assert not parent.confirmations
        companies.is_open = True
        async with companies.child_worker():
            await parent.until(lambda: len(parent.confirmations) == 4)
    ids = await the_child_was_asked_once_each(companies, asked)
    assert set(child.confirmations) == set(ids.values())
    for one in asked:
        assert parent.confirmation(one.subject_request_id).result is RequestResult.FULFILLED
        assert child.confirmation(ids[one.subject_request_id]).result is RequestResult.FULFILLED
    dues = {parent.confirmation(one.subject_request_id).due.due_on for one in asked}
    assert {report.outcome.expected_by.date() for report in await reported(companies, OutcomeCode.ACCEPTED)} == dues
    assert not child.records[child.topics.quarantine]


async def forget(bootstrap, topic):
    """Take a topic's records away, as its retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
        partitions = [TopicPartition(topic, one["partition"]) for one in described["partitions"]]
        await admin.delete_records({one: RecordsToDelete(before_offset=-1) for one in partitions})
    finally:
        await admin.close()


async def test_a_withdrawal_is_passed_on(companies):
    """Withdrawn or denied while the connector is dead: the child closes it as withdrawn, and tells its own systems."""
    parent, child = companies.parent, companies.child
    parent.respond = lambda order: None
    async with companies.child_worker():
        async with companies.connector() as first_life:
            asked, kept, denied = await companies.ask(3)
            await until(lambda: all_accepted(companies, [asked, kept, denied]))
            first_life.process.kill()
            first_life.process.wait()
        await parent.publish(withdrawal(asked))
        await parent.publish(denial(denied))
        await parent.until(lambda: len(parent.confirmations) == 2)
        assert parent.confirmation(asked.subject_request_id).result is RequestResult.WITHDRAWN
        ids = {one.subject_request_id: child_request_id(job_of(one)) for one in parent.orders if one.system == "daughter"}
        async with companies.connector():
            theirs = {ids[one.subject_request_id] for one in (asked, denied)}
            await child.until(lambda: set(child.confirmations) == theirs)
            assert {child.confirmation(one).result for one in theirs} == {RequestResult.WITHDRAWN}
            await child.until(lambda: len(child.cancelled) == 4)
            await child.until(lambda: {one.subject_request_id for one in child.cancelled} == theirs)
            await companies.child_answers()
            await child.until(lambda: len(child.confirmations) == 3)
        assert child.confirmation(ids[kept.subject_request_id]).result is RequestResult.FULFILLED
    assert {one.reason for one in parent.cancelled} == {"withdrawn", "denied"}
    assert not parent.records[parent.topics.quarantine]
    assert not child.records[child.topics.quarantine]
    filed = [record.key for record in await every_record(child.bootstrap, child.topics.requests)]
    assert len(set(filed)) == 3
    gone = {asked.subject_request_id, denied.subject_request_id}
    final = [one for code in (OutcomeCode.FULFILLED, OutcomeCode.FAILED) for one in await reported(companies, code)]
    assert not gone & {one.subject_request_id for one in final}, "of what was called off nothing more is reported"


def withdrawal(asked):
    return WithdrawRequest(subject_request_id=asked.subject_request_id, portal=asked.portal, withdrawn_at=datetime.now(UTC))


def denial(asked):
    return Deny(
        command_id=f"cmd-{secrets.token_hex(8)}",
        subject_request_id=asked.subject_request_id,
        actor="ops:privacy-office",
        reason="Asked for the fourth time this month",
        ground=RefusalGround.EXCESSIVE,
        issued_at=datetime.now(UTC),
    )


async def test_what_the_child_does_all_the_same_reaches_a_person_at_the_parent(companies):
    """The child has carried it out when the withdrawal comes: its answer is a late report, and a person is told of it."""
    parent, child = companies.parent, companies.child
    parent.respond = lambda order: None
    companies.is_open = True
    async with companies.connector() as connector:
        (asked,) = await companies.ask(1)
        await until(lambda: all_accepted(companies, [asked]))
        connector.process.kill()
        connector.process.wait()
    async with companies.child_worker():
        await child.until(lambda: len(child.confirmations) == 1)
    await parent.publish(withdrawal(asked))
    await parent.until(lambda: len(parent.confirmations) == 1)
    async with companies.connector():
        # The group waits for the connector that was killed before the next one is given its orders.
        await parent.until(
            lambda: any(b"late_report" in one.value for one in parent.records[parent.topics.status]), seconds=90.0
        )
    assert parent.confirmation(asked.subject_request_id).result is RequestResult.WITHDRAWN
    (late,) = await reported(companies, OutcomeCode.FULFILLED)
    assert late.outcome.count == 2
    assert not child.records[child.topics.quarantine]
