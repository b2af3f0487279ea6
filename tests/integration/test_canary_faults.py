"""Canaries through trouble: whatever goes wrong with a request, its person can be read nowhere but in the systems that hold it.

Every right, with a vendor that fails and repeats the person in its errors, a task for people, a denial, a withdrawal, records
that end in quarantine, portals and systems that publish people in clear, and kill -9 of the worker and of a connector. Then
every byte that is left is searched, and whatever the commands and pages say. What was published in clear stands in the topics
that it was published on until their retention ends, and nowhere else: that is the search's control too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import life
from test_connector_runtime import Process
from typer.testing import CliRunner
from worker_kit import KEY, REGISTRY, World, request, settings_for

from connectors.sdk.loader import build_standin
from connectors.sdk.standin import Fault, serve
from connectors.systems.hubspot.standin import TOKEN
from connectors.systems.manual.connector import ManualSettings
from connectors.systems.manual.standin import ManualStandIn
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.adapters.topics import apply
from orchestrator.cli import app
from orchestrator.demo.stage import free_port
from schemas.blobs import BlobSecret
from schemas.commands import Deny, Retry
from schemas.requests import SubmitRequest, WithdrawRequest
from schemas.set_aside import SEALED_HEADER, open_original
from schemas.subject import FieldChange
from schemas.topics import Topics, manifest
from schemas.vocabulary import RefusalGround, Right
from schemas.wire import encode
from tests.conftest import FreshKafka
from tests.privacy.canary import contents, disguises, hashes, leaks_in, leaks_in_records, records_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

SYSTEMS = ("crm", "newsletter", "accounts")
ALL_RIGHTS = ", ".join(right.value for right in Right)
PORTAL, OPERATORS = BlobSecret.generate("website-1"), BlobSecret.generate("operators-1")
POINTS = ("after_decode", "before_save", "mid_publish", "after_publish", "before_commit")
MARKER, CLEAR = f"canary{secrets.token_hex(6)}", f"magpie{secrets.token_hex(6)}"
OPERATOR = {"actor": "ops:privacy", "reason": "as the test wants"}


def registry() -> str:
    """Return a registry whose systems take every right: one is HubSpot, one people, one the test."""
    offered = "rights: [access, rectification, completion, erasure, objection, unsubscribe]"
    text = REGISTRY.replace("rights: [access, rectification, erasure, objection]", offered)
    text = text.replace("rights: [access, erasure, unsubscribe, objection]", f"rights: [{ALL_RIGHTS}]")
    text = text.replace("yields: [crm_contact_id]", "yields: [crm_contact_id, ga_client_id]")
    key = PORTAL.public
    blob = f"blob_key: {{kty: {key.kty}, crv: {key.crv}, x: {key.x}, kid: {key.kid}}}"
    return text.replace("owner: Web team}", f"owner: Web team, {blob}}}")


class Manual(Process):
    """The connector that asks people, for the newsletter."""

    system = "newsletter"


def address(name: str) -> str:
    """Return somebody's address, with the marker in both of its halves."""
    return f"{name}.{MARKER}@{MARKER}.example.org"


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that must be looked at."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "the condition never came true"
        await asyncio.sleep(0.1)


def asked_for() -> dict[str, SubmitRequest]:
    """Return a request for every right, and those that end another way."""
    changed = (FieldChange(field="last_name", new=f"Van {MARKER.title()}"),)
    alters = (Right.RECTIFICATION, Right.COMPLETION)
    named = {
        right.value: request(right, email=address(right.value), changes=changed if right in alters else ()) for right in Right
    }
    others = {name: request(Right.ERASURE, email=address(name)) for name in ("failing",)}
    ended = {name: request(Right.ERASURE, email=address(name), verification=None) for name in ("denied", "withdrawn")}
    return {**named, **others, **ended}


async def publish_in_clear(world: World) -> int:
    """Publish as broken portals and systems do; return how many records must end in quarantine."""
    person = f"{CLEAR}@example.org"
    topics = world.topics
    whole = json.loads(encode(request(email=person)))
    open_request = json.dumps({**whole, "sealed": person, CLEAR: {CLEAR: person}}).encode()
    as_header = [("dsr-type", person.encode()), (CLEAR, person.encode()), ("dsr-version", CLEAR.encode())]
    for topic in (topics.requests, topics.commands, topics.reports, topics.orders("crm")):
        for value, headers in ((open_request, []), (person.encode(), []), (open_request, as_header), (None, as_header)):
            await world._producer.send_and_wait(topic, value, key=person.encode(), headers=headers)
    return 16


async def publish_broken(world: World) -> int:
    """Publish sealed requests that cannot be taken; return how many."""
    moved, changed, refused = (request(email=address(name)) for name in ("moved", "changed", "refused"))
    torn = changed.sealed[:-30] + ("A" if changed.sealed[-30] != "A" else "B") + changed.sealed[-29:]
    other = request(email=address("moved")).model_copy(update={"sealed": moved.sealed})
    await world.publish(other)
    await world.publish(changed.model_copy(update={"sealed": torn}))
    await world.publish(refused.model_copy(update={"portal": "nobody"}))
    return 3


async def said_by_pages(folder: Path, urls: tuple[str, ...]) -> None:
    """Keep what the pages of worker and connectors say."""
    async with httpx.AsyncClient() as client:
        for number, url in enumerate(urls):
            for page in ("metrics", "healthz", "readyz", "v1/intake-keys"):
                body = (await client.get(f"{url}/{page}")).content
                (folder / f"{number}-{page.replace('/', '-')}.page").write_bytes(body)


async def said_by_commands(folder: Path, bootstrap: str, prefix: str, requests: list[str]) -> None:
    """Keep what the commands print, in plain and as JSON."""
    env = {"DSR_KAFKA_BOOTSTRAP": bootstrap, "DSR_TOPIC_PREFIX": prefix}
    commands = [["list", "--json"], ["audit"], ["quarantine", "list"], ["quarantine", "list", "--json"], ["confirmations"]]
    commands += [["quarantine", "show", "0-0"], ["show", requests[0]], ["show", requests[0], "--json"]]
    for number, arguments in enumerate(commands):
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=env)
        assert done.output, arguments
        (folder / f"{number}-{arguments[0]}.out").write_text(f"{done.output}{done.exception!r}")


@pytest.mark.parametrize("point", ["after_save", *(pytest.param(point, marks=pytest.mark.long) for point in POINTS)])
async def test_nobody_can_be_read_whatever_goes_wrong(tmp_path: Path, point: str) -> None:
    """The scenario, the search, and a leak of each kind, planted and found."""
    await _tried(tmp_path, point)


@pytest.mark.postgres
async def test_nobody_can_be_read_in_the_files_of_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """The same with a store on PostgreSQL: its tables, its log of changes and everything else in its folder."""
    await _tried(tmp_path, "after_save", postgres_url)


async def _tried(tmp_path: Path, point: str, postgres_url: str | None = None) -> None:
    disk, topics = tmp_path / "disk", Topics(prefix="canaries")
    folders = [disk / name for name in ("worker", "crm", "newsletter", "said")]
    for folder in folders:
        folder.mkdir(parents=True)
    keys = disk / "quarantine-public.jwk"
    keys.write_text(OPERATORS.public.model_dump_json())
    standin = build_standin("hubspot")
    with LocalKafka(disk / "broker") as kafka, serve(standin) as standin.base_url:
        await apply(kafka.bootstrap, manifest(SYSTEMS, prefix=topics.prefix))
        given = {"http_port": free_port(), "datadir": folders[0] / "data", "quarantine_key_file": keys}
        given |= {} if postgres_url is None else {"store_url": postgres_url}
        settings = settings_for(folders[0], kafka.bootstrap, topics, **given)
        settings.registry.write_text(registry())
        place = FreshKafka(kafka.bootstrap, topics, f"http://127.0.0.1:{settings.http_port}")
        own = {"DSR_HUBSPOT_BASE_URL": standin.base_url, "DSR_HUBSPOT_TOKEN": TOKEN, "DSR_QUARANTINE_KEY_FILE": str(keys)}
        papers = {"title": "Paper", "key": KEY, "outbox": str(folders[2] / "outbox"), "inbox": str(folders[2] / "inbox")}
        tasks = {f"DSR_MANUAL_{name.upper()}": value for name, value in papers.items()}
        crm, people = Process("hubspot", place, folders[1], **own), Manual("manual", place, folders[2], **tasks)
        asked, office = asked_for(), ManualStandIn(ManualSettings(**papers))
        office.cabinet = [{"email": address(name), "name": f"Van {MARKER.title()}"} for name in asked]
        for name in asked:
            known = {} if name == "completion" else {"lastname": MARKER}
            standin.add(email=address(name), ga_client_id=f"{MARKER}.1", **known)
        echo = {"status": "error", "message": f"{address('failing')} is not valid", "category": MARKER}
        # The vendor repeats the person in its errors, in bodies that are errors and in one that should be data.
        standin.fail(Fault(status=503, body=f"<html>{address('erasure')}</html>", times=2))
        standin.fail(Fault(status=400, json=echo, path="search", times=1), Fault(status=200, json=[MARKER], times=1))
        world = World(kafka.bootstrap, topics, ("accounts",))
        try:
            async with world.running():
                crm.start()
                people.start()
                async with life(settings, DSR_FAULT_POINT=f"{point}:2") as first:
                    in_quarantine = await publish_in_clear(world)
                    in_quarantine += await publish_broken(world)
                    for one in asked.values():
                        await world.publish(one)
                    assert await first.ended(60) == -9, first.last_words()
                async with life(settings) as second:
                    denied, withdrawn = asked["denied"].subject_request_id, asked["withdrawn"].subject_request_id
                    now = datetime.now(UTC)
                    await world.publish(WithdrawRequest(subject_request_id=withdrawn, portal="website", withdrawn_at=now))
                    given = {"subject_request_id": denied, "command_id": "deny-them", "issued_at": now, **OPERATOR}
                    await world.publish(Deny(ground=RefusalGround.MANIFESTLY_UNFOUNDED, **given))
                    # Not before both answers that fail an order came: they would meet the next life's look at its credentials.
                    await until(lambda: (folders[1] / "process.log").read_bytes().count(b'"event": "failed"') >= 2)
                    crm.kill()
                    crm.start()
                    numbers: dict[str, int] = {}
                    ends_at = time.monotonic() + 60
                    while not {one.subject_request_id for one in asked.values()} <= world.confirmations.keys():
                        assert time.monotonic() < ends_at, second.last_words()
                        office.work()
                        for request_id, system in failed(world):
                            if numbers.setdefault(f"{request_id}{system}", 0) < 5:
                                numbers[f"{request_id}{system}"] += 1
                                given = {
                                    "command_id": f"again-{secrets.token_hex(4)}",
                                    "issued_at": datetime.now(UTC),
                                    **OPERATOR,
                                }
                                await world.publish(Retry(subject_request_id=request_id, system=system, **given))
                        await asyncio.sleep(0.3)
                    await world.until(lambda: len(originals(world)) >= in_quarantine, 60)
                    await said_by_pages(folders[3], (place.keys_url, crm.health_url, people.health_url))
                    ids = [one.subject_request_id for one in asked.values()]
                    await said_by_commands(folders[3], kafka.bootstrap, topics.prefix, ids)
                    records = await records_of(kafka.bootstrap, topics.prefix)
                    server = await asyncio.to_thread(files_of, postgres_url) if postgres_url else {}
                    # Tables that hold these requests are among what is searched.
                    assert not server or {name for name, content in server.items() if ids[0].encode() in content} >= {
                        "table requests"
                    }
                    assert postgres_url or (disk / "worker" / "store.sqlite-wal").exists()
                    check(disk, topics, records, world, asked, server)
        finally:
            for process in (crm, people):
                if process.process is not None and process.process.poll() is None:
                    process.kill()


def failed(world: World) -> set[tuple[str, str]]:
    """Return which orders of which requests a person must look at, by the journal."""
    found: set[tuple[str, str]] = set()
    for record in world.records[world.topics.journal]:
        for fact in json.loads(record.value)["facts"]:
            if fact["fact"] == "order_failed":
                found.add((record.key.decode(), fact["details"]["system"]))
            elif fact["fact"] == "order_sent":
                found.discard((record.key.decode(), fact["details"]["system"]))
    return found


def originals(world: World) -> list[bytes]:
    """Return what the operators' key opens in quarantine: everything that is there."""
    found = []
    for record in world.records[world.topics.quarantine]:
        assert dict(record.headers)[SEALED_HEADER] == OPERATORS.kid.encode()
        original = open_original(record.value, OPERATORS)
        found.append(original.value or b"".join(value for _, value in original.headers))
    return found


def files_of(postgres_url: str) -> dict[str, bytes]:
    """Return everything in the folder of a PostgreSQL server, written out, and each table's rows: files may be compressed."""
    import psycopg  # noqa: PLC0415 - only tests of PostgreSQL pay for it

    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        (folder,) = connection.execute("SHOW data_directory").fetchone()
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        rows = {}
        for table in tables:
            found = connection.execute(psycopg.sql.SQL("SELECT * FROM {}").format(psycopg.sql.Identifier(table)))
            rows[f"table {table}"] = b"\n".join(
                bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode() for row in found for value in row
            )
    return {f"postgresql/{name}": content for name, content in contents(Path(folder)).items()} | rows


def check(
    disk: Path,
    topics: Topics,
    records: list[tuple[str, bytes]],
    world: World,
    asked: Mapping[str, SubmitRequest],
    server: Mapping[str, bytes],
) -> None:
    """Search everything for everybody; then plant one leak of each kind, and find it."""
    sealed = disguises(MARKER) | hashes(map(address, asked))
    clear = disguises(CLEAR) | hashes([f"{CLEAR}@example.org"])
    wanted = sealed | clear
    inputs = (topics.requests, topics.commands, topics.reports, topics.orders("crm"))
    segments = tuple(f"broker/data/{topic}-" for topic in inputs)
    assert leaks_in_records(records, sealed) == set()
    found = contents(disk) | server
    assert leaks_in(found, sealed) == set()
    assert leaks_in_records([one for one in records if one[0] not in inputs], wanted) == set()
    assert leaks_in(found, wanted, but=segments) == set()
    # What was published in clear is where it was published, and an operator who has the key sees it in quarantine.
    for topic in inputs:
        assert leaks_in_records([one for one in records if one[0] == topic], clear), topic
        assert leaks_in(found, clear, but=tuple(f"broker/data/{other}-" for other in inputs if other != topic)), topic
    assert sum(CLEAR.encode() in value for value in originals(world)) >= 16
    # All of it was there to be searched.
    assert {topic for topic, _ in records} >= {topics.confirmations, topics.journal, topics.releases, topics.status}
    assert list(disk.glob("crm/state/*.journal.sqlite")) and list(disk.glob("crm/state/**/*.sealed"))
    assert all(f'"event": "{word}"'.encode() in (disk / "crm" / "process.log").read_bytes() for word in ("retry", "failed"))
    for number, (name, form) in enumerate(sorted({what: needle for needle, what in wanted.items()}.items())):
        with_leak = {f"planted-{number}": b"a line of a log: " + form + b".\n"}
        assert leaks_in(with_leak, wanted) >= {f"planted-{number}: {name}"}
    planted = disk / "said" / "planted"
    planted.write_text(f"the person is {address('denied')}")
    assert leaks_in(contents(disk), sealed) == {"said/planted: in clear"}
    assert leaks_in_records([(topics.status, f"x|{address('denied')}".encode())], sealed)
