"""What can be made of a closed request with everything on disk and every long-lived key: nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from test_connector_runtime import running
from worker_kit import INTAKE, KEY, SYSTEMS, World, answer, request, settings_for

from connectors.sdk.loader import build_standin
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.adapters.topics import apply
from orchestrator.demo.stage import free_port
from orchestrator.settings import Settings
from schemas.topics import Topics, manifest
from schemas.vocabulary import Right
from tests.conftest import FreshKafka
from tests.privacy.attacker import Attacker, Loot

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

CLOSED = {name: f"{name}.forgotten@example.org" for name in ("ada", "ben", "cleo")}
OPEN, REFUSED = "olga.waiting@example.org", "rita.refused@example.org"
RIGHTS = {"ada": Right.ERASURE, "ben": Right.RECTIFICATION, "cleo": Right.OBJECTION}
CLIENT = "1357.2468"


def disks(folder: Path) -> dict[str, bytes]:
    """Return every byte that broker, store, journals and logs have on disk, by place; the vendor's own is not ours."""
    found: dict[str, bytes] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_blocks):
        place = path.relative_to(folder)
        name = "/".join(place.parts[:2]) if place.parts[0] == "broker" else str(place)
        found[name] = found.get(name, b"") + path.read_bytes().rstrip(b"\0")
    return found


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that must be looked at."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "the condition never came true"
        await asyncio.sleep(0.2)


async def destroy_intake_key(settings: Settings) -> None:
    """Do what the schedule does once its last request has been read and the topic has let go of it."""
    store = SqlStore(make_engine(settings.store_url))
    await store.destroy_service_key(INTAKE.kid, datetime.now(UTC))
    await store.scrub()
    await store.aclose()


def attack(found: dict[str, bytes]) -> Loot:
    """Attack with the key-encryption key; whatever else is long-lived lies wrapped in the store."""
    secrets = {"key-encryption key": base64.b64decode(KEY)}
    # The product names a key-encryption key after itself, and wraps under the very key.
    return Attacker(found, secrets, SYSTEMS).attack([*CLOSED.values(), OPEN, REFUSED])


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_who_was_forgotten_can_be_found(tmp_path: Path, workers: int) -> None:
    """Three closed requests with a yield each, one open, one in quarantine; then the attack, and its control.

    The open request shows that the attack works: from the store by its wrapped key, from the topics by what follows from it.
    A backup of the store that was made while a request was open opens it as well, until the key-encryption key is changed
    and the old one thrown away: that is shown too. Two workers on one file wipe behind each other.
    """
    disk = tmp_path / "disk"
    topics = Topics(prefix="attacked")
    (disk / "worker").mkdir(parents=True)
    standin = build_standin("hubspot")
    with LocalKafka(disk / "broker") as kafka, serve(standin) as standin.base_url:
        await apply(kafka.bootstrap, manifest(SYSTEMS, prefix=topics.prefix))
        settings = settings_for(
            disk / "worker", kafka.bootstrap, topics, http_port=free_port(), datadir=disk / "worker" / "data"
        )
        for address in (*CLOSED.values(), OPEN):
            standin.add(email=address, ga_client_id=CLIENT)
        place = FreshKafka(kafka.bootstrap, topics, f"http://127.0.0.1:{settings.http_port}")
        own = {"DSR_HUBSPOT_BASE_URL": standin.base_url, "DSR_HUBSPOT_TOKEN": TOKEN}
        asked = {name: request(right, email=CLOSED[name]) for name, right in RIGHTS.items()}
        waiting = request(Right.ERASURE, email=OPEN)
        refused = request(Right.ERASURE, email=REFUSED, portal="nobody")
        world = World(kafka.bootstrap, topics, SYSTEMS)
        held = True
        world.respond = lambda order: answer(order) if order.system != "crm" and not _is_held(order, held, waiting) else None
        async with world.running(), contextlib.AsyncExitStack() as lives:
            await lives.enter_async_context(life(settings))
            for number in range(1, workers):
                beside = {"worker_id": f"beside-{number}", "http_port": free_port(), "datadir": disk / f"beside-{number}"}
                await lives.enter_async_context(life(settings.model_copy(update=beside)))
            (disk / "connector").mkdir()
            with running("hubspot", place, disk / "connector", **own) as connector:
                for one in (*asked.values(), waiting, refused):
                    await world.publish(one)
                await world.until(lambda: len({order.order_id for order in world.orders}) >= 7, 60)
                backup = disks(disk)
                held = False
                for order in list(world.orders):
                    if order.system != "crm" and order.subject_request_id != waiting.subject_request_id:
                        await world.publish(answer(order))
                closed = {one.subject_request_id for one in asked.values()}
                await world.until(lambda: closed <= world.confirmations.keys(), 60)
                assert len(world.records[topics.quarantine]) == 1
                await destroy_intake_key(settings)
                wrapped = [one for one in _wrapped(backup) if one in b"".join(backup.values())]
                assert len(wrapped) >= 4
                # One wrapped key is left: of the request that is open. Journals and store are wiped every 15 s.
                await until(lambda: sum(one in b"".join(disks(disk).values()) for one in wrapped) <= 1)
                found = disks(disk)
                assert connector.terminate() == 0
    loot = attack(found)
    print("\n" + "\n".join(f"{count:>8,} x {what}" for what, count in sorted(loot.tried.items())))
    assert min(loot.tried[what] for what in ("unwrapping a key", "opening a seal", "guessing who asked")) > 0
    assert loot.tried["opening what a portal sealed"] > 0
    for address in (*CLOSED.values(), REFUSED):
        assert loot.of(address) == [], address
        assert not [one for one in loot.recognised if one.startswith(address)]
    assert len(loot.of(OPEN)) >= 2, "the attack finds nobody: it proves nothing"
    assert any(one.startswith(OPEN) for one in loot.recognised)
    early = attack(backup)
    assert all(early.of(address) for address in (*CLOSED.values(), OPEN, REFUSED))


def _is_held(order: object, held: bool, waiting: object) -> bool:
    return held or order.subject_request_id == waiting.subject_request_id  # type: ignore[attr-defined] # an order, a request


def _wrapped(found: dict[str, bytes]) -> set[bytes]:
    """Return the ciphertexts of the keys that the store has wrapped."""
    import re  # noqa: PLC0415 - only here

    pattern = re.compile(rb'\{"kid":"kek-[0-9a-f]{8}","nonce":"[^"]+","ciphertext":"([^"]+)"\}\n')
    return {one for place, data in found.items() if "store.sqlite" in place for one in pattern.findall(data)}
