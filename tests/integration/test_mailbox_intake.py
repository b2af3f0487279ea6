"""From a message in the contact mailbox to a confirmation: a real IMAP server, a real broker, a real worker."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from worker_kit import World, intake_file, settings_for, worker

from connectors.systems.mailbox.standin import PASSWORD, USERNAME, MailboxStandIn, mail
from orchestrator.cli import app
from schemas.requests import SubmitRequest
from schemas.status import StatusEvent
from schemas.vocabulary import StatusCode

pytestmark = pytest.mark.kafka
PERSON = "someone@example.org"


class Desk:
    """A terminal of the service desk."""

    def __init__(self, mailbox: MailboxStandIn, bootstrap: str, prefix: str, folder: Path) -> None:
        kept: dict[str, str | None] = {name: None for name in os.environ if name.startswith("DSR_")}
        self.env = kept | {
            "DSR_KAFKA_BOOTSTRAP": bootstrap,
            "DSR_TOPIC_PREFIX": prefix,
            "DSR_INTAKE_KEYS": intake_file(folder),
            "DSR_SIGNATURES": "off",
            "DSR_MAILBOX_HOST": "127.0.0.1",
            "DSR_MAILBOX_PORT": str(mailbox.ports["plaintext"]),
            "DSR_MAILBOX_SECURITY": "plaintext",
            "DSR_MAILBOX_USERNAME": USERNAME,
            "DSR_MAILBOX_PASSWORD": PASSWORD,
        }

    async def dsr(self, *arguments: str, code: int = 0) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=self.env)
        assert done.exit_code == code, (done.output, done.exception)
        assert PERSON not in done.output
        return done.stdout


async def published(bootstrap: str, topic: str) -> list[tuple[bytes, bytes]]:
    """Return what stands in a topic now."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = sum((await consumer.end_offsets(list(consumer.assignment()))).values())
        found: list[tuple[bytes, bytes]] = []
        while len(found) < ends:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += [(record.key, record.value) for record in records]
        return found
    finally:
        await consumer.stop()


async def test_a_message_becomes_one_unverified_request_however_often_it_is_filed(fresh_kafka: Any, tmp_path: Path) -> None:
    """A crash before the message is moved repeats the request, byte for byte; no system is asked before somebody vouches."""
    topics = await fresh_kafka.create("crm", "newsletter", "accounts")
    with closing(MailboxStandIn()) as mailbox:
        mailbox.put(mail({"from": f"Some One <{PERSON}>", "text": "Please delete all my personal data"}))
        desk = Desk(mailbox, fresh_kafka.bootstrap, topics.prefix, tmp_path)
        (draft,) = json.loads(await desk.dsr("mailbox", "list", "--json"))
        file = ("mailbox", "file", draft["handle"], "--right", draft["guess"], "--portal", "website")
        mailbox.imap_fail("UID MOVE", "drop")
        await desk.dsr(*file, code=2)
        assert len(mailbox.messages()["INBOX"]) == 1
        (filed,) = json.loads(await desk.dsr(*file, "--json"))
        assert [len(held) for _, held in sorted(mailbox.messages().items())] == [1, 0, 0, 0]
        await desk.dsr(*file, code=2)
    request_id = filed["subject_request_id"]
    first, second = await published(fresh_kafka.bootstrap, topics.requests)
    assert first == second
    assert PERSON.encode() not in first[1]
    request = SubmitRequest.model_validate_json(first[1])
    assert (request.subject_request_id, request.right.value, request.verification) == (request_id, "erasure", None)
    assert request.submitted_at.isoformat() == draft["received_at"]

    async with (
        World(fresh_kafka.bootstrap, topics).running() as world,
        worker(settings_for(tmp_path, fresh_kafka.bootstrap, topics)),
    ):

        def told() -> list[StatusCode]:
            return [StatusEvent.model_validate_json(record.value).code for record in world.records[topics.status]]

        await world.until(lambda: StatusCode.IDENTITY_AWAITED in told())
        assert world.orders == []
        await desk.dsr("identity", request_id, "--confirmed", "mail_link:substantial", "--portal", "website")
        await world.until(lambda: bool(world.confirmations[request_id]))
        assert world.confirmation(request_id).result.value == "fulfilled"
        assert not world.records[topics.quarantine]
