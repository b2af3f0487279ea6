"""Signatures on a real broker: a request goes its way when all sign, and what others say for them changes nothing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from test_guards import eventually
from typer.testing import CliRunner
from worker_kit import SPEAKERS, SYSTEMS, World, answer, request, settings_for, signing, worker

from orchestrator.bootstrap import Worker
from orchestrator.cli import app
from orchestrator.commands.reading import read_receipts
from orchestrator.demo.keyring import Keyring
from orchestrator.shell import trust_file
from schemas import keys_ahead
from schemas.order_keys import PATH, assertion, audience_of
from schemas.orders import FulfilmentOrder
from schemas.receipts import verify_receipt
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.signatures import Verifier, leaf_of, sign_records, signature_in
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import RequestResult
from schemas.wire import TYPE_HEADER, encode, headers_of

pytestmark = pytest.mark.kafka


def _proven_in_the_journal(receipt: bytes, keyring: Keyring, bootstrap: str, prefix: str, folder: Path) -> None:
    """Make a checkpoint of the broker's journal, prove the receipt's entry in it and verify that without the broker."""
    env = {
        "DSR_SIGNING_KEY_FILE": str(keyring.file("orchestrator")),
        "DSR_TRUST_FILE": str(keyring.trust_file),
        "DSR_KAFKA_BOOTSTRAP": bootstrap,
        "DSR_TOPIC_PREFIX": prefix,
    }
    given, checkpoint, proof = (str(folder / name) for name in ("receipt.json", "checkpoint.json", "proof.json"))
    Path(given).write_bytes(receipt)
    for words in (
        ["checkpoint", "make", "--out", checkpoint],
        ["checkpoint", "prove", given, "--checkpoint", checkpoint, "--out", proof],
        ["verify", given, "--checkpoint", checkpoint, "--proof", proof],
    ):
        done = CliRunner().invoke(app, words, env=env)
        assert done.exit_code == 0, done.output


async def test_whoever_is_taken_out_of_the_trust_file_is_heard_no_more(fresh_kafka, tmp_path: Path, monkeypatch) -> None:
    """The worker runs on: by a key that is gone no report counts and no key is had; put back, it is heard again."""
    monkeypatch.setattr(trust_file, "LOOK_SECONDS", 0.1)
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, **signing(keyring))
    everybody = keyring.trust_file.read_bytes()
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        world.keyring = keyring
        asked, crm = await _out_and_unanswered(world)
        desk = _Desk(running, topics.prefix, crm, keyring.key("system:crm"))
        assert await desk.answers(200)
        listening = asyncio.create_task(desk.heard_to_the_end())
        await eventually(lambda: _counts(running, 1, "dsr_order_keys_listening", system="crm"))
        others = [member for member in json.loads(everybody)["keys"] if member["principal"] != "system:crm"]
        keyring.trust_file.write_text(json.dumps({"keys": others}))
        await eventually(lambda: desk.answers(401))
        assert "life" in (await asyncio.wait_for(listening, 15))[0]  # let go; by itself it would go on for minutes
        await world.publish(answer(crm))
        await world.until(lambda: world.records[topics.quarantine])
        assert dict(world.records[topics.quarantine][0].headers)["dsr-reason"] == b"signer_unknown"
        keyring.trust_file.write_bytes(b"half writ")
        await eventually(lambda: _counts(running, 1, "dsr_trust_file_refused"))
        keyring.trust_file.write_bytes(everybody)
        await eventually(lambda: desk.answers(200))
        world.respond = answer
        for order in list(world.orders):
            await world.publish(answer(order))
        await world.until(lambda: asked.subject_request_id in world.confirmations)
        assert await _counts(running, 0, "dsr_trust_file_refused")


async def _out_and_unanswered(world: World) -> tuple[SubmitRequest, FulfilmentOrder]:
    """File a request that no system answers by itself; return it, and its order to the CRM."""
    world.respond = lambda order: None
    asked = request()
    await world.publish(asked)
    await world.until(lambda: len(world.orders) >= 2)
    return asked, next(order for order in world.orders if order.system == "crm")


async def _counts(running: Worker, value: int, name: str, **labels: str) -> bool:
    return running.metrics.registry.get_sample_value(name, labels) == value


@dataclass
class _Desk:
    """The key desk of a worker, asked by one connector for one order, with one assertion."""

    running: Worker
    prefix: str
    order: FulfilmentOrder
    key: SigningKey

    def __post_init__(self) -> None:
        self._token = assertion(self.key, audience_of(self.prefix), datetime.now(UTC))[0]

    async def answers(self, status: int) -> bool:
        """Tell whether it answers so."""
        wanted = {"subject_request_id": self.order.subject_request_id, "order_id": self.order.order_id}
        async with self._client() as client:
            said = await client.post(PATH, json={"system": self.order.system, "orders": [wanted]})
        return said.status_code == status

    async def heard_to_the_end(self) -> list[str]:
        """Listen for keys that come ahead; return what was heard when the worker has ended it."""
        body = {"system": self.order.system, "orders": []}
        async with self._client() as client, client.stream("POST", keys_ahead.PATH, json=body, timeout=60) as said:
            return [line async for line in said.aiter_lines()]

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self._token}"}
        return httpx.AsyncClient(base_url=self.running.http.url, trust_env=False, headers=headers)


async def test_only_genuine_words_count(fresh_kafka, tmp_path: Path) -> None:
    """Forged reports and withdrawals are set aside, each by its reason, counted and told; the genuine ones lead to the end."""
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, **signing(keyring))
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        world.keyring = keyring
        asked, crm = await _out_and_unanswered(world)
        withdrawn = WithdrawRequest(
            subject_request_id=asked.subject_request_id, portal="website", withdrawn_at=asked.submitted_at
        )
        stranger, other = SigningKey.new("system:crm"), keyring.key("system:newsletter")
        for topic, message, key in (
            (topics.reports, answer(crm), None),
            (topics.reports, answer(crm), other),
            (topics.reports, answer(crm), stranger),
            (topics.requests, withdrawn, other),
        ):
            plain = (topic, asked.subject_request_id.encode(), encode(message), headers_of(message))
            headers = plain[3] if key is None else sign_records([plain], key)[0]
            await world._producer.send_and_wait(topic, plain[2], key=plain[1], headers=headers)
        await world.until(lambda: len(world.records[topics.quarantine]) >= 4)
        reasons = sorted(dict(one.headers)["dsr-reason"].decode() for one in world.records[topics.quarantine])
        assert reasons == ["signature_foreign", "signature_foreign", "signature_missing", "signer_unknown"]
        assert not world.confirmations
        world.respond = answer
        for order in list(world.orders):
            await world.publish(answer(order))
        await world.until(lambda: asked.subject_request_id in world.confirmations)
        counted = running.metrics.registry.get_sample_value(
            "dsr_quarantined_total", {"topic": topics.reports, "reason": "signature_foreign"}
        )
        assert counted == 1
        assert world.confirmation(asked.subject_request_id).result is RequestResult.FULFILLED
    trust = Trust.from_json(keyring.trust_file.read_bytes())
    receipts = await read_receipts(fresh_kafka.bootstrap, topics)
    assert set(receipts) == {asked.subject_request_id}
    verify_receipt(receipts[asked.subject_request_id], trust)
    receipt = receipts[asked.subject_request_id]
    await asyncio.to_thread(_proven_in_the_journal, receipt, keyring, fresh_kafka.bootstrap, topics.prefix, tmp_path)
    verifier, at = Verifier(trust), asked.submitted_at
    for topic, kind in ((topics.confirmations, "confirmations"), (topics.journal, "journal"), (topics.status, "status")):
        assert world.records[topic]
        for one in world.records[topic]:
            headers = list(one.headers)
            leaf = leaf_of(dict(headers)[TYPE_HEADER].decode(), kind, one.key, one.value)
            verifier.verify(leaf, signature_in(headers), principal="orchestrator", at=at)


async def test_a_system_changes_its_key_while_it_works(fresh_kafka, tmp_path: Path) -> None:
    """While both keys are trusted either is believed; once the old one is taken out, what it signs is set aside.

    The workers read the trust file when they start.
    """
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    old, new = keyring.key("system:crm"), SigningKey.new("system:crm")
    trusted = json.loads(keyring.trust_file.read_text())["keys"]
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, **signing(keyring))
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        world.keyring = keyring
        world.respond = lambda order: answer(order) if order.system != "crm" else None

        async def reported(key: SigningKey, asked: SubmitRequest) -> None:
            await world.until(lambda: any(_is_crms(order, asked) for order in world.orders))
            report = answer(next(order for order in world.orders if _is_crms(order, asked)))
            plain = (topics.reports, asked.subject_request_id.encode(), encode(report), headers_of(report))
            (headers,) = sign_records([plain], key)
            await world._producer.send_and_wait(plain[0], plain[2], key=plain[1], headers=headers)

        def confirmed(asked: SubmitRequest) -> bool:
            return asked.subject_request_id in world.confirmations

        keyring.trust_file.write_text(json.dumps({"keys": [*trusted, new.public()]}))
        async with worker(settings):
            for key in (old, new):
                asked = request(email=f"{key.kid[:8].lower()}@example.org")
                await world.publish(asked)
                await reported(key, asked)
                await world.until(lambda asked=asked: confirmed(asked))
        assert not world.records[topics.quarantine]
        keyring.trust_file.write_text(json.dumps({"keys": [*(one for one in trusted if one["kid"] != old.kid), new.public()]}))
        async with worker(settings):
            asked = request(email="late@example.org")
            await world.publish(asked)
            await reported(old, asked)
            await world.until(lambda: bool(world.records[topics.quarantine]))
            assert dict(world.records[topics.quarantine][0].headers)["dsr-reason"] == b"signer_unknown"
            assert not confirmed(asked)
            await reported(new, asked)
            await world.until(lambda: confirmed(asked))


def _is_crms(order: FulfilmentOrder, asked: SubmitRequest) -> bool:
    return order.system == "crm" and order.subject_request_id == asked.subject_request_id
