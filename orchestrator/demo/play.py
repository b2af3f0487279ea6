"""The whole evening: processes up, people planted, requests published, answers awaited, vendors asked, verdict.

Room rules: joins the other modules; every wait has an end and says what it waits for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from orchestrator.adapters import registry_file
from orchestrator.adapters import topics as topics_adapter
from orchestrator.adapters.clock import SystemClock
from orchestrator.adapters.local_kafka import LocalKafka
from orchestrator.demo.audience import Audience, Score
from orchestrator.demo.cast import Place, Role
from orchestrator.demo.keyring import Keyring
from orchestrator.demo.package import pack
from orchestrator.demo.parts import ROLES
from orchestrator.demo.people import STRANGER, Person, people
from orchestrator.demo.portal_keys import with_keys
from orchestrator.demo.proof import Act, Holdings, Proof, compare, look, ratings
from orchestrator.demo.show import Screen
from orchestrator.demo.stage import DemoFailed, Stage, free_port, said, script, shows_address
from orchestrator.demo.story import OPERATOR, Story, faults, written_story
from orchestrator.settings import DEPLOY
from schemas.blobs import EXPORTING
from schemas.errors import ConfigurationError
from schemas.intake import KEY_SET_TYP, IntakePublicKey
from schemas.portal import intake_key
from schemas.registry import Registry
from schemas.topics import Topics, manifest
from schemas.trust import ORCHESTRATOR, Trust, operator_principal, portal_principal, system_principal
from schemas.vocabulary import RequestResult

__all__ = ["Evening", "Verdict", "perform"]

REGISTRY = DEPLOY / "registry" / "example-company.yaml"
_WORKER = "worker"
_ALL_SECONDS = 75.0
_PURGED_SECONDS = 12.0


@dataclass(frozen=True, slots=True)
class Evening:
    """What is wanted. `kills` are names of processes that are killed once some requests are confirmed."""

    folder: Path
    screen: Screen
    bootstrap: str | None = None
    marker: str = "demo"
    kills: tuple[str, ...] = ()
    keep: bool = False
    registry: Path = REGISTRY


@dataclass(slots=True)
class Verdict:
    """How it went: all that the last line, the table and the exit code say."""

    story: Story
    score: Score
    roles: Mapping[str, Role]
    proof: Proof
    prefix: str
    wrong: list[str] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _House:
    """What the parts of one run share."""

    evening: Evening
    stage: Stage
    registry: Registry
    roles: dict[str, Role]
    people: dict[str, Person]
    topics: Topics
    key: str
    #: Where connectors get their keys: the same address in each of the worker's lives.
    worker_port: int
    keyring: Keyring
    bootstrap: str = ""
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def urls(self) -> dict[str, str]:
        return {system: place.url for system, place in self.places.items()}

    def say(self, line: str) -> None:
        self.evening.screen.say(line)


async def perform(evening: Evening, then: Callable[[Verdict, Mapping[str, str]], Any]) -> Verdict:
    """Run it all and return the verdict, after everything is stopped.

    With `keep`, `then` is called and it runs on until it is cancelled. Raises `DemoFailed` or
    `ConfigurationError` when it could not be played to the end.
    """
    registry, path = with_keys(registry_file.load(evening.registry), evening.folder)
    evening = replace(evening, registry=path)
    roles = _roles(registry)
    with contextlib.ExitStack() as stack:
        kafka = LocalKafka(evening.folder / "kafka")
        stack.callback(kafka.stop)  # after the others: who commits while it stops needs the broker
        stage = stack.enter_context(Stage(evening.folder, evening.screen.say))
        stack.callback(evening.screen.rest)
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        topics = Topics(prefix=f"demo-{secrets.token_hex(4)}")
        keyring = Keyring(evening.folder / "keys", _speakers(registry))
        house = _House(evening, stage, registry, roles, people(evening.marker), topics, key, free_port(), keyring)
        verdict = await _played(house, kafka)
        evening.screen.rest()
        if evening.keep:
            then(verdict, _environment(house))
            async with _working(house):
                await asyncio.Event().wait()
    return verdict


def _speakers(registry: Registry) -> Iterator[str]:
    yield from (ORCHESTRATOR, operator_principal(OPERATOR))
    yield from (system_principal(system.id) for system in registry.active())
    yield from (portal_principal(portal) for portal in sorted(registry.portal_ids))


def _roles(registry: Registry) -> dict[str, Role]:
    missing = [system.id for system in registry.active() if system.id not in ROLES]
    if missing:
        raise ConfigurationError(
            f"the registry has active systems without a part in the demo ({', '.join(missing)}): "
            "add an entry for each in orchestrator/demo/parts.py"
        )
    return {system.id: ROLES[system.id] for system in registry.active()}


async def _played(house: _House, kafka: LocalKafka) -> Verdict:
    await asyncio.gather(_broker(house, kafka), _vendors(house))
    house.say(f"applying {len(_manifest(house))} topics")
    await topics_adapter.apply(house.bootstrap, _manifest(house))
    await _ours(house)
    known = list(house.people.values())
    house.say(f"{len(known) - 1} people planted in {len(house.roles)} systems; asking each what it holds")
    before = await look(house.roles, house.urls, known)
    story = written_story(house.people, await _portals_key(house))
    audience = Audience(house.bootstrap, house.topics, story, house.evening.screen.hears, house.keyring.key)
    # Before anything is published: the first answers may come while the last requests are still on their way.
    house.evening.screen.follow(story)
    async with _working(house), audience.connected():
        await audience.publish_all()
        house.say(f"published {len(story.requests)} requests and a record that is none")
        await _killed(house, audience)
        await audience.until(lambda: not audience.score.lost and bool(audience.score.quarantined), _ALL_SECONDS)
        acts = _acts(story, audience.score)
        proof = await _proven(house, before, acts)
    wrong = [*_unanswered(story, audience.score), *ratings(house.roles, acts), *proof.deviations, *await _packed(house, acts)]
    return Verdict(story, audience.score, house.roles, proof, house.topics.prefix, wrong, house.stage.revived)


async def _portals_key(house: _House) -> IntakePublicKey:
    """Return the key that portals seal to, as a portal has it: from the worker's page, with the orchestrator's signature."""
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(f"{_worker_url(house)}/v1/intake-keys", headers={"accept": f"application/{KEY_SET_TYP}"})
    trust = Trust.from_json(house.keyring.trust_file.read_bytes())
    return intake_key(answer.raise_for_status().text, trust=trust, at=SystemClock().now())


def _worker_url(house: _House) -> str:
    return f"http://127.0.0.1:{house.worker_port}"


def _manifest(house: _House) -> tuple[Any, ...]:
    return manifest(house.roles, prefix=house.topics.prefix)


async def _broker(house: _House, kafka: LocalKafka) -> None:
    if house.evening.bootstrap:
        house.bootstrap = house.evening.bootstrap
        house.say(f"using the broker at {house.bootstrap}, topics {house.topics.prefix}.*")
        return
    await asyncio.to_thread(kafka.start, house.say)
    house.bootstrap = kafka.bootstrap


async def _vendors(house: _House) -> None:
    """Start a stand-in for each system, and plant the people."""
    hosts = [system for system, role in house.roles.items() if role.partner is None]
    house.say(f"starting {len(hosts)} stand-ins for the company's systems")
    for system in hosts:
        folder = house.evening.folder / "vendors" / system
        folder.mkdir(parents=True)
        role, place = house.roles[system], Place("", folder, base64.b64encode(secrets.token_bytes(32)).decode())
        command = [script("dsr-connector"), "standin", role.connector]
        house.stage.start(_vendor(system), command, role.standin_settings(place), shows_address)
        house.places[system] = place
    await house.stage.ready(*map(_vendor, hosts))
    for system in hosts:
        place = house.places[system]
        house.places[system] = Place(house.stage.parts[_vendor(system)].ready or "", place.folder, place.key)
    async with httpx.AsyncClient(timeout=30) as client:
        for system in hosts:
            await _plant(client, house.roles[system], house.places[system], house.people.values())
    for system, role in house.roles.items():
        if role.partner is not None:
            house.places[system] = house.places[role.partner]


def _vendor(system: str) -> str:
    return f"vendor-{system}"


async def _plant(client: httpx.AsyncClient, role: Role, place: Place, known: Iterable[Person]) -> None:
    held = [person for person in known if person.alias != STRANGER and role.holds(person)]
    for path, body in (("/__control__", {"switches": dict(role.switches)}), ("/__seed__", role.seed(held))):
        (await client.post(f"{place.url}{path}", json=body)).raise_for_status()
    for path, name in role.fetches.items():
        (place.folder / name).write_bytes((await client.get(f"{place.url}{path}")).raise_for_status().content)


async def _ours(house: _House) -> None:
    """Start the worker and a connector for each system."""
    house.say(f"starting the worker and {len(house.roles)} connectors, a process each, with {len(house.keyring)} signing keys")
    async with httpx.AsyncClient(timeout=10) as client:
        for system, wrong in faults(house.people).items():
            if system in house.roles:
                (await client.post(f"{house.urls[system]}/__control__", json={"faults": wrong})).raise_for_status()
    worker = {
        "DSR_STORE_URL": f"sqlite:///{house.evening.folder / 'store.sqlite'}",
        "DSR_DATADIR": str(house.evening.folder / "worker"),
        "DSR_WORKER_ID": "demo-worker",
        "DSR_HTTP_PORT": str(house.worker_port),
        "DSR_KEY_ENCRYPTION_KEY": base64.b64encode(secrets.token_bytes(32)).decode(),
        "DSR_SWEEP_INTERVAL_SECONDS": "0.2",
        "DSR_COMMIT_INTERVAL_SECONDS": "0.5",
        "DSR_LOG_FORMAT": "json",
        "DSR_SIGNING_KEY_FILE": str(house.keyring.file(ORCHESTRATOR)),
    }
    house.stage.start(_WORKER, [script("dsr"), "worker"], _environment(house) | worker, said("worker_ready", "port"))
    for system, role in house.roles.items():
        own = {
            "DSR_SIGNING_KEY_FILE": str(house.keyring.file(system_principal(system))),
            "DSR_STATE_DIR": str(house.evening.folder / "connectors"),
            "DSR_KEYS_URL": f"http://127.0.0.1:{house.worker_port}",
            "DSR_GROUP_INSTANCE_ID": f"demo-{system}",
            "DSR_POLL_BASE_SECONDS": "0.3",
            "DSR_POLL_MAX_SECONDS": "1",
            "DSR_BACKOFF_BASE_SECONDS": "0.3",
            "DSR_BACKOFF_MAX_SECONDS": "2",
        }
        command = [script("dsr-connector"), "run", role.connector, "--system", system]
        env = _environment(house) | own | role.settings(house.places[system])
        house.stage.start(system, command, env, said("health", "port"))
    await house.stage.ready(_WORKER, *house.roles)


def _environment(house: _House) -> dict[str, str]:
    """Return what worker, connectors and a person who looks around have in common."""
    return {
        "DSR_KAFKA_BOOTSTRAP": house.bootstrap,
        "DSR_TOPIC_PREFIX": house.topics.prefix,
        "DSR_REGISTRY": str(house.evening.registry),
        "DSR_KEY_ENCRYPTION_KEY": house.key,
        "DSR_INTAKE_KEYS": f"{_worker_url(house)}/v1/intake-keys",
        "DSR_TRUST_FILE": str(house.keyring.trust_file),
        "DSR_SIGNING_KEY_FILE": str(house.keyring.file(portal_principal("website"))),
        "DSR_SESSION_TIMEOUT_SECONDS": "6",
    }


@contextlib.asynccontextmanager
async def _working(house: _House) -> Any:
    """Let the staff of the systems work, and start again what died, while the block runs."""
    desks = [f"{house.urls[system]}{role.staff}" for system, role in house.roles.items() if role.staff]
    block = asyncio.current_task()
    assert block is not None
    failures: list[DemoFailed] = []

    async def work() -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while True:
                try:
                    house.stage.revive()
                except DemoFailed as failure:
                    failures.append(failure)
                    block.cancel()
                    return
                for desk in desks:
                    with contextlib.suppress(httpx.HTTPError):  # a stand-in that was killed is up again in a moment
                        await client.post(desk)
                await asyncio.sleep(0.3)

    task = asyncio.create_task(work())
    try:
        yield
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        raise
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _killed(house: _House, audience: Audience) -> None:
    for number, name in enumerate(house.evening.kills, 1):
        if name not in house.stage.parts:
            raise ConfigurationError(f"no process {name!r} here; there are {', '.join(sorted(house.stage.parts))}")
        await audience.until(partial(_has, audience.score, number * 2), _ALL_SECONDS)
        house.stage.kill(name)


def _has(score: Score, confirmed: int) -> bool:
    return score.confirmed >= confirmed


def _acts(story: Story, score: Score) -> list[Act]:
    told = ((scene, score.confirmation(request)) for request, scene in story.scenes.items())
    return [Act(scene, confirmation) for scene, confirmation in told if confirmation is not None]


async def _proven(house: _House, before: Mapping[str, Holdings], acts: list[Act]) -> Proof:
    """Ask until all is as it must be, for as long as the slowest purge takes."""
    house.say("asking every system what it holds now")
    known = list(house.people.values())
    deadline = asyncio.get_running_loop().time() + _PURGED_SECONDS
    while True:
        after = await look(house.roles, house.urls, known)
        proof = compare(house.registry, house.roles, house.people, before=before, after=after, acts=acts)
        if not proof.deviations or asyncio.get_running_loop().time() > deadline:
            return proof
        await asyncio.sleep(0.3)


async def _packed(house: _House, acts: list[Act]) -> tuple[str, ...]:
    """Make the access package of the first who asked for one, if the evening's keys are our own."""
    for act in acts:
        told = act.confirmation
        is_ours = (house.evening.folder / "portal-keys" / f"{told.portal}.jwk").exists()
        if is_ours and told.right in EXPORTING and told.result is not RequestResult.WITHDRAWN:
            packed = await pack(told, house.people[act.scene.alias], house.evening.folder)
            house.say(packed.line)
            return packed.wrong
    return ()


def _unanswered(story: Story, score: Score) -> Iterator[str]:
    for request in score.lost:
        yield f"{request[:8]} {story.scenes[request].alias}: no confirmation after {_ALL_SECONDS:.0f} s"
    for request in score.doubled:
        yield f"{request[:8]}: more than one distinct confirmation"
    if len(score.quarantined) != 1:
        found = "; ".join(score.quarantined.values())
        yield f"{len(score.quarantined)} records in quarantine, 1 must be there ({found}): see `dsr quarantine list`"
