"""Signatures on a real broker: a request goes its way when all sign, and what others say for them changes nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worker_kit import SPEAKERS, SYSTEMS, World, answer, request, settings_for, signing, worker

from orchestrator.cli import app
from orchestrator.commands.reading import read_receipts
from orchestrator.demo.keyring import Keyring
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


async def test_only_genuine_words_count(fresh_kafka, tmp_path: Path) -> None:
    """Forged reports and withdrawals are set aside, each by its reason, counted and told; the genuine ones lead to the end."""
    topics = await fresh_kafka.create(*SYSTEMS)
    keyring = Keyring(tmp_path / "keys", SPEAKERS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, **signing(keyring))
    async with World(fresh_kafka.bootstrap, topics).running() as world, worker(settings) as running:
        world.keyring = keyring
        world.respond = lambda order: None
        asked = request()
        await world.publish(asked)
        await world.until(lambda: len(world.orders) >= 2)
        crm = next(order for order in world.orders if order.system == "crm")
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
