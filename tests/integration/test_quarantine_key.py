"""Quarantine that is sealed: what is shown without its key, what with it, and a record that is published again."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from typer.testing import CliRunner
from worker_kit import SYSTEMS, World, request, settings_for, worker

from orchestrator.cli import app
from schemas.wire import encode

pytestmark = pytest.mark.kafka
PERSON = "lost.and.found@example.org"


async def test_a_record_that_lacked_a_portal_is_opened_and_published_again(fresh_kafka, tmp_path: Path) -> None:
    """The command line from the key to the confirmation; without the key, or with another, it says which key it wants."""
    topics = await fresh_kafka.create(*SYSTEMS)
    env = {"DSR_KAFKA_BOOTSTRAP": fresh_kafka.bootstrap, "DSR_TOPIC_PREFIX": topics.prefix}

    async def run(*arguments: object) -> tuple[int, str]:
        done = await asyncio.to_thread(CliRunner().invoke, app, list(map(str, arguments)), env=env)
        return done.exit_code, done.output

    private, other, public = (tmp_path / name for name in ("private.jwk", "other.jwk", "public.jwk"))
    code, said = await run("keys", "quarantine", "--out", private)
    assert code == 0 and stat.S_IMODE(private.stat().st_mode) == 0o600
    secret = json.loads(private.read_text())
    assert secret["d"] not in said
    public.write_text(next(line for line in said.splitlines() if line.startswith("{")))
    await run("keys", "quarantine", "--out", other)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics, quarantine_key_file=public)
    registry = settings.registry.read_text()
    late = request(email=PERSON, portal="latecomer")
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        async with worker(settings):
            await world.publish(late)
            await world.until(lambda: bool(world.records[topics.quarantine]))
        place = "0-0"
        code, said = await run("quarantine", "show", place, "--json")
        assert code == 0 and json.loads(said)["sealed_to"] == secret["kid"]
        for wrong, why in (((), "name its private half with --key"), (("--key", other), "does not open")):
            code, said = await run("quarantine", "show", place, "--unsafe-value", tmp_path / "no.bin", *wrong)
            assert code != 0 and why in said and secret["kid"] in said
        assert not (tmp_path / "no.bin").exists()
        code, said = await run("quarantine", "show", place, "--key", private, "--unsafe-value", tmp_path / "record.bin")
        assert code == 0 and (tmp_path / "record.bin").read_bytes() == encode(late)
        settings.registry.write_text(
            registry.replace("portals: [", "portals: [{id: latecomer, title: Latecomer, owner: Web team}, ")
        )
        async with worker(settings):
            code, said = await run("quarantine", "replay", place, "--key", private, "--wait", 20)
            assert code == 0 and "taken in" in said
            await world.until(lambda: late.subject_request_id in world.confirmations)
        assert len(world.records[topics.quarantine]) == 1
    world.confirmation(late.subject_request_id)
