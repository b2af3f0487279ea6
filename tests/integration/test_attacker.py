"""What can be made of a closed request with everything on disk and every long-lived key: nothing.

The keys: the key-encryption key, every signing key and what is derived from it, the operators' key for quarantine, the portal's
key for results. What two of them were made to open is an exception that is looked at, as is what was published in clear.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from test_connector_runtime import running
from worker_kit import INTAKE, KEY, REGISTRY, SPEAKERS, SYSTEMS, World, answer, request, settings_for, signing

from connectors.sdk.blobs import FolderOfBlobs
from connectors.sdk.loader import build_standin
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.adapters.topics import apply
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.stage import free_port
from orchestrator.settings import Settings
from schemas.blobs import BlobSecret
from schemas.ids import order_id
from schemas.intake import seal_intake
from schemas.order_keys import PATH as DESK
from schemas.order_keys import KeyAnswers, WantedKey, WantedKeys, assertion, audience_of
from schemas.subject import SubjectData
from schemas.topics import Topics, manifest
from schemas.vocabulary import IdentifierKind, Right
from schemas.wire import encode
from tests.conftest import FreshKafka
from tests.privacy.attacker import WITHOUT_KEY, Attacker, Loot, Way

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

RIGHTS = {
    "ada": Right.ERASURE,
    "ben": Right.RECTIFICATION,
    "cleo": Right.OBJECTION,
    "dina": Right.UNSUBSCRIBE,
    "eli": Right.ACCESS,
    "mira": Right.OBJECTION,
}
CLOSED = {name: f"{name}.forgotten@example.org" for name in RIGHTS}
OPEN, REFUSED, CLEAR = "olga.waiting@example.org", "rita.refused@example.org", "carl.in.clear@example.org"
#: Whose data was exported, and whose portal repeats its seals by a secret: for each of them something is left for a while.
EXPORTED, REPEATED = CLOSED["eli"], CLOSED["mira"]
CLIENT = "1357.2468"
#: All orders to the systems that the test plays; `accounts` is asked once the real connector of `crm` has answered.
PLAYED, ORDERS = ("newsletter", "accounts"), 10
PORTAL, OPERATORS = BlobSecret.generate("website-1"), BlobSecret.generate("operators-1")
PORTAL_KEY, OPERATORS_KEY, KEK = "portal's key for results", "operators' key for quarantine", "key-encryption key"
#: A portal that is in no registry, with a key that is trusted all the same.
STRANGER = "portal:nobody"
#: By what the portal repeats its seals, as a mailbox or a federation does: it follows from its signing key.
REPEATING = "signing key of portal:website, derived for mailbox"


def registry() -> str:
    """Return a registry in which the portal gets results, and the real connector takes every right of this test."""
    key = PORTAL.public
    blob = f"blob_key: {{kty: {key.kty}, crv: {key.crv}, x: {key.x}, kid: {key.kid}}}"
    text = REGISTRY.replace("rights: [access, rectification, erasure, objection]", f"rights: [{', '.join({*RIGHTS.values()})}]")
    return text.replace("owner: Web team}", f"owner: Web team, {blob}}}")


def disks(folder: Path) -> dict[str, bytes]:
    """Return every byte that broker, store, journals, results and logs have on disk, by place; the vendor's own is not ours."""
    found: dict[str, bytes] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_blocks):
        place = path.relative_to(folder)
        # All partitions of a topic are one place.
        name = (
            place.parts[2].rpartition("-")[0] if place.parts[:2] == ("broker", "data") and len(place.parts) > 3 else str(place)
        )
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


def secrets_of(keyring: Keyring) -> dict[str, bytes]:
    """Return every long-lived key of the installation; what is not here lies wrapped in the store, for the attacker to find."""
    found = {KEK: base64.b64decode(KEY)}  # the product names it after itself, and wraps under the very key
    for name, secret in ((PORTAL_KEY, PORTAL), (OPERATORS_KEY, OPERATORS)):
        found[name] = _decoded(secret.unsafe_jwk()["d"])
    for principal in (*SPEAKERS, STRANGER):
        key = keyring.key(principal)
        seed = _decoded(json.loads(key.to_json())["d"])
        found[f"signing key of {principal}"] = seed
        # RFC 8032, section 5.1.5: the scalar behind an Ed25519 seed is one of X25519 as well.
        found[f"signing key of {principal}, on the other curve"] = hashlib.sha512(seed).digest()[:32]
        for purpose in ("mailbox", "federation"):
            found[f"signing key of {principal}, derived for {purpose}"] = key.derived(purpose)
    return found


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(f"{text}=")


def attack(found: dict[str, bytes], secrets: dict[str, bytes]) -> Loot:
    """Attack with these keys everything that was found."""
    repeating = [name for name in secrets if ", derived for " in name]
    attacker = Attacker(found, secrets, SYSTEMS, intake=[INTAKE.public], repeating=repeating)
    return attacker.attack([*CLOSED.values(), OPEN, REFUSED, CLEAR])


async def asked_at_the_desk(url: str, keyring: Keyring, prefix: str, orders: set[tuple[str, str]]) -> dict[str, set[str]]:
    """Ask a worker that runs for the keys of all these orders (request, system), as everybody for everybody.

    Return for each status who was answered so: system and request, or as whom it was refused altogether.
    """
    answers: dict[str, set[str]] = {}
    async with httpx.AsyncClient(base_url=url) as client:
        for principal in (*SPEAKERS, STRANGER):
            token, _ = assertion(keyring.key(principal), audience_of(prefix), datetime.now(UTC))
            for system in SYSTEMS:
                wanted = [
                    WantedKey(subject_request_id=request, order_id=order_id(request, of)) for request, of in sorted(orders)
                ]
                answer = await client.post(
                    DESK,
                    content=WantedKeys(system=system, orders=tuple(wanted)).model_dump_json(),
                    headers={"authorization": f"Bearer {token}"},
                )
                if answer.status_code not in {200, 207, 403, 404, 410} or "keys" not in answer.json():
                    answers.setdefault(str(answer.status_code), set()).add(f"{principal} for {system}")
                    continue
                for (request, of), one in zip(sorted(orders), KeyAnswers.model_validate_json(answer.content).keys, strict=True):
                    assert (one.status == 200) is (one.key is not None)
                    if of == system or one.key is not None:
                        answers.setdefault(str(one.status), set()).add(f"{system} {request}")
    return answers


async def publish_in_clear(world: World) -> None:
    """Publish somebody as a broken portal does, and as something broken that writes orders."""
    whole = json.loads(encode(request(email=CLEAR)))
    for topic in (world.topics.requests, world.topics.orders("crm")):
        await world.publish_bytes(topic, json.dumps({**whole, "sealed": CLEAR}).encode(), CLEAR.encode())


@pytest.mark.parametrize("workers", [1, 2])
async def test_nobody_who_was_forgotten_can_be_found(tmp_path: Path, workers: int) -> None:
    """Six closed requests, one open, one refused, one published in clear; then the attack, and its control.

    The open request shows that the attack works: from the store by its wrapped key, from the topics by what follows from it.
    A backup of the store that was made while a request was open opens it as well, until the key-encryption key is changed
    and the old one thrown away: that is shown too. Two workers on one file wipe behind each other. Whatever may be left of
    somebody after the end is asserted at the end of this test, with the one key that opens it.
    """
    disk = tmp_path / "disk"
    topics = Topics(prefix="attacked")
    (disk / "worker").mkdir(parents=True)
    keyring = Keyring(tmp_path / "keys", (*SPEAKERS, STRANGER))
    secrets = secrets_of(keyring)
    operators = disk / "quarantine-public.jwk"
    operators.write_text(OPERATORS.public.model_dump_json())
    standin = build_standin("hubspot")
    with LocalKafka(disk / "broker") as kafka, serve(standin) as standin.base_url:
        await apply(kafka.bootstrap, manifest(SYSTEMS, prefix=topics.prefix))
        own = {"http_port": free_port(), "datadir": disk / "worker" / "data", "quarantine_key_file": operators}
        settings = settings_for(disk / "worker", kafka.bootstrap, topics, **own, **signing(keyring))
        settings.registry.write_text(registry())
        for address in (*CLOSED.values(), OPEN):
            standin.add(email=address, ga_client_id=CLIENT)
        desk = f"http://127.0.0.1:{settings.http_port}"
        place = FreshKafka(kafka.bootstrap, topics, desk)
        given = {
            "DSR_HUBSPOT_BASE_URL": standin.base_url,
            "DSR_HUBSPOT_TOKEN": TOKEN,
            "DSR_SIGNATURES": "required",
            "DSR_SIGNING_KEY_FILE": str(keyring.file("system:crm")),
            "DSR_QUARANTINE_KEY_FILE": str(operators),
        }
        asked = {name: request(right, email=CLOSED[name]) for name, right in RIGHTS.items()}
        person = SubjectData(identifiers={IdentifierKind.EMAIL: (REPEATED,)}).to_bytes()
        again = seal_intake(person, INTAKE.public, asked["mira"].subject_request_id, secret=secrets[REPEATING])
        asked["mira"] = asked["mira"].model_copy(update={"sealed": again})
        waiting = request(Right.ERASURE, email=OPEN)
        refused = request(Right.ERASURE, email=REFUSED, portal="nobody")
        closed = {one.subject_request_id for one in asked.values()}
        world = World(kafka.bootstrap, topics, PLAYED)
        world.keyring = keyring
        held = True
        world.respond = lambda order: None if _is_held(order, held, waiting) else answer(order)
        async with world.running(), contextlib.AsyncExitStack() as lives:
            await lives.enter_async_context(life(settings))
            for number in range(1, workers):
                beside = {"worker_id": f"beside-{number}", "http_port": free_port(), "datadir": disk / f"beside-{number}"}
                await lives.enter_async_context(life(settings.model_copy(update=beside)))
            (disk / "connector").mkdir()
            with running("hubspot", place, disk / "connector", **given) as connector:
                for one in (*asked.values(), waiting, refused):
                    await world.publish(one)
                await publish_in_clear(world)
                await world.until(lambda: len({order.order_id for order in world.orders}) >= ORDERS, 60)
                await world.until(lambda: len(world.records[topics.quarantine]) == 3)
                backup = disks(disk)
                held = False
                for order in list(world.orders):
                    if order.subject_request_id != waiting.subject_request_id:
                        await world.publish(answer(order))
                await world.until(lambda: closed <= world.confirmations.keys(), 60)
                assert len(world.records[topics.quarantine]) == 3
                await destroy_intake_key(settings)
                wrapped = [one for one in _wrapped(backup) if one in b"".join(backup.values())]
                assert len(wrapped) >= len(asked) + 1
                # One wrapped key is left: of the request that is open. Journals and store are wiped every 15 s.
                await until(lambda: sum(one in b"".join(disks(disk).values()) for one in wrapped) <= 1)
                everybody = {*closed, waiting.subject_request_id, refused.subject_request_id}
                orders = {(one, system) for one in everybody for system in SYSTEMS}
                told = await asked_at_the_desk(desk, keyring, topics.prefix, orders)
                found = disks(disk)
                assert connector.terminate() == 0
    loot = attack(found, secrets)
    ways = Counter[str]()
    for (way, _), count in loot.tried.items():
        ways[way] += count
    print("\n" + "\n".join(f"{count:>8,} x {way}" for way, count in sorted(ways.items())))
    print("\n".join(f"         with {name}" for name in (*secrets, "keys that were unwrapped")))
    # Every key in every way.
    usual = {(way, name) for way in Way if way is not Way.REPEAT for name in (*secrets, "keys that were unwrapped")}
    again = {(Way.REPEAT, name) for name in secrets if ", derived for " in name}
    assert loot.tried.keys() == usual | again | {(way, "no key") for way in WITHOUT_KEY}
    assert min(loot.tried.values()) > 0

    for address in {*CLOSED.values(), REFUSED} - {EXPORTED, REPEATED}:
        assert loot.of(address) == [], address
        assert loot.guessed(address) == set(), address
    assert len(loot.of(OPEN)) >= 2, "the attack finds nobody: it proves nothing"
    assert loot.guessed(OPEN)

    # The desk gives keys of the open request's open orders to their systems, and of nothing that is closed to anybody.
    assert told.pop("200") == {f"{system} {waiting.subject_request_id}" for system in PLAYED}
    settled = {f"crm {waiting.subject_request_id}"}
    assert told.pop("410") == {f"{system} {one}" for one in closed for system in SYSTEMS} | settled
    assert told.pop("404") == {f"{system} {refused.subject_request_id}" for system in SYSTEMS}
    foreign = {f"{who} for {system}" for who in (*SPEAKERS, STRANGER) for system in SYSTEMS if who != f"system:{system}"}
    assert told == {"403": foreign}

    # What was exported opens by the portal's own key, until it is thrown away as its day comes.
    results = FolderOfBlobs(disk / "connector" / "state" / "crm.results", kept_days=30)
    assert {(one.place.startswith("connector/state/crm.results/"), one.by) for one in loot.of(EXPORTED)} == {(True, PORTAL_KEY)}
    assert loot.guessed(EXPORTED) == set()
    assert await results.expire(datetime.now(UTC).date() + timedelta(days=31)) == 1
    left = {where: data for where, data in found.items() if ".results/" not in where or (disk / where).exists()}
    assert len(left) < len(found)
    assert attack(left, {PORTAL_KEY: secrets[PORTAL_KEY]}).of(EXPORTED) == []
    # Whose portal repeats its seals is opened by nobody, but whoever has that secret can check a guess at the whole person.
    assert loot.of(REPEATED) == []
    assert loot.guessed(REPEATED) == {(topics.urgent_requests, REPEATING)}
    # Whom something broken published in clear stands where it was published; in quarantine only the operators' key shows them.
    assert {(one.place, one.by) for one in loot.of(CLEAR)} == {(topics.quarantine, OPERATORS_KEY)}
    assert len(loot.of(CLEAR)) == 2
    assert loot.guessed(CLEAR) == {(topics.requests, "in clear"), (topics.orders("crm"), "in clear")}
    # The same key opens the refused record: sealed as the portal sealed it, to a key that is gone.
    assert {one.by for one in loot.of(refused.sealed)} == {OPERATORS_KEY}

    early = attack(backup, secrets)
    assert all(early.of(address) for address in (*CLOSED.values(), OPEN, REFUSED))


def _is_held(order: object, held: bool, waiting: object) -> bool:
    return held or order.subject_request_id == waiting.subject_request_id  # type: ignore[attr-defined] # an order, a request


def _wrapped(found: dict[str, bytes]) -> set[bytes]:
    """Return the ciphertexts of the keys that the store has wrapped."""
    import re  # noqa: PLC0415 - only here

    pattern = re.compile(rb'\{"kid":"kek-[0-9a-f]{8}","nonce":"[^"]+","ciphertext":"([^"]+)"\}\n')
    return {one for place, data in found.items() if "store.sqlite" in place for one in pattern.findall(data)}
