"""The only place that joins things: adapters to ports, shell to gateway, all of it to a process.

Room rules: no decision and no loop of its own; whoever wants another store or clock passes it here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from orchestrator.adapters import broker_clock, registry_file, topics
from orchestrator.adapters.backlog import KafkaBacklog
from orchestrator.adapters.broker import check_group, connection_to
from orchestrator.adapters.clock import SystemClock
from orchestrator.adapters.journal_tail import newest
from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys, rewrapped
from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.adapters.producer import KafkaPublisher
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.adapters.vault import VaultTransit, is_wrapped
from orchestrator.core.deadlines import check_calendar, rules_for
from orchestrator.core.intake_keys import IntakePolicy
from orchestrator.gateway.door import Guard
from orchestrator.gateway.health import Check, Listening, Tls, health_app, serve
from orchestrator.gateway.intake_keys import intake_keys_route
from orchestrator.gateway.order_keys import keys_ahead_route, order_keys_route
from orchestrator.ports import Clock, Store
from orchestrator.settings import Settings
from orchestrator.shell.care import Care
from orchestrator.shell.consumer import end_process
from orchestrator.shell.faust_app import AppSettings, WorkerDeck, create_app
from orchestrator.shell.inbox import Fatal, Inbox, QuarantineLimit
from orchestrator.shell.intake_keys import IntakeKeys
from orchestrator.shell.key_desk import KeyDesk
from orchestrator.shell.keys_ahead import Listeners
from orchestrator.shell.points import KillPoint, Points
from orchestrator.shell.restored import check_not_behind
from orchestrator.shell.rewrapping import Rewrapped, rewrap
from orchestrator.shell.service_keys import check_identities, grouping_key
from orchestrator.shell.signing import Speakers
from orchestrator.shell.sweeper import Sweeper
from orchestrator.shell.translate import Translator
from orchestrator.shell.trust_file import TrustFile
from orchestrator.shell.watchdog import Watchdog
from orchestrator.shell.work import Ground
from schemas import __version__
from schemas.broker import LOCAL_HOSTS
from schemas.errors import ConfigurationError
from schemas.metric_labels import team_of
from schemas.metrics import BUILD_INFO, SYSTEM_INFO
from schemas.page_readers import HOW_TO_SET, TOKEN_VARIABLE, PageReaders
from schemas.registry import Registry
from schemas.topics import Topics, manifest
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import Right

__all__ = [
    "Worker",
    "key_encryption",
    "load_registry",
    "open_store",
    "page_readers",
    "rewrap_keys",
    "run_worker",
    "topic_manifest",
    "vault_of",
]

log = structlog.get_logger(__name__)


#: So many of each partition's newest journal records are looked for in the store; the last may be one published again.
_NEWEST = 20


async def _intake_keys(
    settings: Settings, store: Store, encryption: KeyEncryption, clock: Clock, metrics: WorkerMetrics
) -> IntakeKeys:
    topics = Topics(prefix=settings.topic_prefix).all_requests
    kept = max(spec.retention_ms for spec in manifest((), prefix=settings.topic_prefix) if spec.name in topics)
    intake = IntakeKeys(
        store,
        encryption,
        clock=clock,
        backlog=KafkaBacklog(settings.kafka_bootstrap, _group(settings), topics, **connection_to(settings)),
        metrics=metrics,
        # A record outlives its retention by up to a segment, and the broker looks every few minutes.
        policy=IntakePolicy(rotation=settings.intake_rotation, kept=timedelta(milliseconds=kept * 8 // 7) + timedelta(days=1)),
    )
    await intake.turn()
    return intake


def load_registry(settings: Settings) -> Registry:
    """Return the registry. Raises `ConfigurationError` with every mistake and its line."""
    registry = registry_file.load(settings.registry)
    check_calendar(registry.controller.calendar)
    rules_for(registry.controller.regime, Right.ACCESS)
    return registry


def topic_manifest(settings: Settings, registry: Registry) -> tuple[Any, ...]:
    """Return the topics that this installation needs."""
    return manifest([system.id for system in registry.active()], prefix=settings.topic_prefix)


def open_store(settings: Settings, *, upgrade: bool) -> SqlStore:
    """Return the store. SQLite is brought up to date by itself; PostgreSQL by `dsr store upgrade`, or refuses."""
    engine = make_engine(settings.store_url)
    if upgrade or engine.dialect.name == "sqlite":
        schema.upgrade(engine)
    schema.check(engine)
    return SqlStore(engine)


def vault_of(settings: Settings) -> VaultTransit:
    """Return the transit engine of the settings. Raises `ConfigurationError` if none is set."""
    if settings.vault_addr is None or not settings.vault_addr.startswith(("https://", "http://")):
        raise ConfigurationError("DSR_VAULT_ADDR is not set: a key of the key file is wrapped by Vault; give https://host:8200")
    return VaultTransit(
        settings.vault_addr,
        settings.vault_secret(),
        mount=settings.vault_mount,
        key=settings.vault_key,
        namespace=settings.vault_namespace,
        ca_file=settings.vault_ca_file,
    )


async def key_encryption(settings: Settings) -> KeyEncryption:
    """Return the key-encryption keys, those that Vault wrapped opened by it in one call.

    Raises `ConfigurationError`, and `StoreUnavailable` if Vault stays away.
    """
    lines = settings.wrapping_keys().split()
    wrapped = [line for line in lines if is_wrapped(line)]
    if not wrapped:
        return KeyEncryption.from_text(" ".join(lines))
    vault = vault_of(settings)
    try:
        opened = dict(zip(wrapped, await vault.unwrapped(wrapped), strict=True))
    finally:
        await vault.aclose()
    return KeyEncryption.from_text(" ".join(opened.get(line, line) for line in lines))


async def rewrap_keys(settings: Settings, tell: Callable[[int], None]) -> Rewrapped:
    """Wrap every stored key anew under the current key-encryption key. Raises as `orchestrator.shell.rewrapping.rewrap`."""
    encryption = await key_encryption(settings)
    store = open_store(settings, upgrade=False)
    try:
        await check_identities(store, encryption)
        return await rewrap(store, encryption, partial(rewrapped, encryption), tell=tell)
    finally:
        await store.aclose()


@dataclass(slots=True)
class Worker:
    """A running worker."""

    app: Any
    inbox: Inbox
    sweeper: Sweeper
    metrics: WorkerMetrics
    http: Listening
    deck: WorkerDeck


@contextlib.asynccontextmanager
async def run_worker(
    settings: Settings,
    *,
    die: Callable[[str], None] = end_process,
    upgrade_store: bool = False,
    clock: Clock | None = None,
) -> AsyncIterator[Worker]:
    """Run a worker in this loop while the block runs, by the system's clock unless another is given.

    Refuses to start on a wrong base (`ConfigurationError`): topics missing or wrong, store at another revision or older than
    the journal, registry
    unreadable, data folder not writable, clock far from the broker's, signatures required and no keys for them. Publishes
    first what an earlier life left in the outbox.
    """
    registry = load_registry(settings)
    clock = clock or SystemClock()
    signatures = _signatures(settings, clock)
    readers = page_readers(settings)
    await _check_base(settings, registry)
    await _check_clock(settings, clock)
    names = Topics(prefix=settings.topic_prefix)
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.set(BUILD_INFO, 1, version=__version__, registry=registry.version)
    for system in registry.active():
        metrics.set(SYSTEM_INFO, 1, system=system.id, owner=team_of(system.owner))
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(settings, upgrade=upgrade_store)
        stack.push_async_callback(store.aclose)
        await check_not_behind(store, await newest(settings.kafka_bootstrap, names.journal, _NEWEST, **connection_to(settings)))
        publisher = await _publisher(settings, stack)
        encryption = await key_encryption(settings)
        intake = await _intake_keys(settings, store, encryption, clock, metrics)
        grouping = await grouping_key(store, encryption, clock.now())
        await check_identities(store, encryption)
        keys = RequestKeys(encryption, intake=intake.private, grouping=grouping)
        listeners = Listeners(clock, metrics, topics=names, worker=settings.worker_id)
        translator = Translator(keys, names, signatures.speakers, settings.quarantine_key())
        ground = Ground(
            store=store,
            keys=keys,
            translator=translator,
            registry=registry,
            registries=await _registries(store, registry),
            policy=settings.policy(),
            worker=settings.worker_id,
            listeners=listeners,
        )
        limit = QuarantineLimit(clock, at_most=settings.quarantine_limit)
        points = _points(settings)
        care = Care(store, clock, settings.worker_id, lives=settings.defect_lives, after=settings.careful_after)
        inbox = Inbox(
            ground, publisher, clock, metrics, limit,
            points=points, signer=signatures.signer, learn_keys=intake.learn, lives=settings.defect_lives, care=care,
        )  # fmt: skip
        deck = WorkerDeck(metrics=metrics, end=die, batch_records=settings.batch_records, points=points)
        app = create_app(_app_settings(settings, translator), inbox, deck)
        sweeper = _sweeper(settings, ground, inbox, clock, metrics, intake=intake)
        watchdog = Watchdog(metrics, limit_seconds=settings.watchdog_seconds)
        await _recover(inbox)
        # A publisher of its own: behind a batch of the inbox whoever asks for a key would wait for all of it.
        releases = await _publisher(settings, stack)
        desk = KeyDesk(store, keys, releases, clock, metrics, topics=names, worker=settings.worker_id, signer=signatures.signer)
        guard = Guard(signatures.trust, settings.topic_prefix, clock, metrics, per_second=settings.key_questions_per_second)
        doors = [order_keys_route(desk.release, guard), keys_ahead_route(listeners.lines, guard)]
        portals = intake_keys_route(intake.published, clock, signatures.signer)
        ready = _ready(app, store, inbox)
        pages = health_app(metrics.registry, alive=_alive(watchdog), ready=ready, readers=readers, more=[*doors, portals])
        http = await stack.enter_async_context(serve(pages, settings.http_host, settings.http_port, tls=_tls(settings)))
        stack.callback(listeners.close)
        await stack.enter_async_context(_life(inbox, care, deck))
        belonging = _guarded(_belong(app, deck), "group", deck)
        stack.push_async_callback(_cancel, belonging)
        await stack.enter_async_context(_faust(app))
        tasks = (
            _guarded(sweeper.run(), "sweeper", deck),
            _guarded(_watch(app, inbox, watchdog, settings, deck), "watchdog", deck),
            _guarded(_follow(signatures.trust, clock, metrics, listeners), "trust_file", deck),
        )
        for task in tasks:
            stack.push_async_callback(_cancel, task)
        log.info("worker_ready", worker=settings.worker_id, registry=registry.version, port=http.port)
        yield Worker(app, inbox, sweeper, metrics, http, deck)


@dataclass(frozen=True, slots=True)
class _Signatures:
    """Both None: signatures are off."""

    speakers: Speakers | None = None
    signer: SigningKey | None = None
    trust: TrustFile | None = None


def _signatures(settings: Settings, clock: Clock) -> _Signatures:
    if settings.signatures == "off":
        if settings.http_host not in LOCAL_HOSTS:
            raise ConfigurationError(
                "DSR_SIGNATURES=off gives the keys of open orders to whoever asks: listen on this machine alone"
                " (DSR_HTTP_HOST=127.0.0.1), or turn signatures on (`dsr keys new`)"
            )
        log.warning("signatures_off", action="set DSR_SIGNATURES=required outside a laptop or a test")
        return _Signatures()
    signer = worker_signer(settings, None)
    trust = TrustFile(settings.trust_content, lambda found: _check_knows(signer, found, clock.now()))
    return _Signatures(Speakers(trust, clock), signer, trust)


async def _follow(trust: TrustFile | None, clock: Clock, metrics: WorkerMetrics, listeners: Listeners) -> None:
    if trust is not None:
        await trust.watch(clock, metrics, listeners.let_go)


def worker_signer(settings: Settings, trust: Trust | None) -> SigningKey:
    """Return the key that a worker signs with; without `trust` it is not looked up there. Raises `ConfigurationError`."""
    signer = settings.signer()
    if signer is None:
        raise ConfigurationError(
            "DSR_SIGNING_KEY_FILE is not set: make a key with `dsr keys new orchestrator`, or choose DSR_SIGNATURES=off"
        )
    if signer.principal != ORCHESTRATOR:
        raise ConfigurationError(f"DSR_SIGNING_KEY_FILE is the key of {signer.principal}: a worker signs as {ORCHESTRATOR}")
    if trust is not None:
        _check_knows(signer, trust, SystemClock().now())
    return signer


def _check_knows(signer: SigningKey, trust: Trust, now: datetime) -> None:
    known = trust.key(signer.kid)
    if known is None or known.principal != ORCHESTRATOR:
        raise ConfigurationError(
            "DSR_TRUST_FILE lacks the public half of DSR_SIGNING_KEY_FILE: add it, or nobody can check a confirmation"
        )
    if not known.valid_at(now):
        raise ConfigurationError(
            "DSR_TRUST_FILE says that DSR_SIGNING_KEY_FILE is not valid now: what it signs is not believed; give workers"
            " another key of the orchestrator's (`dsr keys new orchestrator`)"
        )


def page_readers(settings: Settings) -> PageReaders:
    """Return who is shown metrics and reasons; warn if that is nobody. Raises `ConfigurationError` for a token of no use."""
    readers = settings.page_readers()
    if readers.nobody:
        log.warning("metrics_refused", host=settings.http_host, setting=TOKEN_VARIABLE, remedy=HOW_TO_SET)
    return readers


def _tls(settings: Settings) -> Tls | None:
    certificate, key = settings.http_tls_cert_file, settings.http_tls_key_file
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigurationError("DSR_HTTP_TLS_CERT_FILE and DSR_HTTP_TLS_KEY_FILE: set both, or neither")
    return Tls(certificate, key)


def _points(settings: Settings) -> Points | None:
    if settings.fault_point is None:
        return None
    log.warning("fault_point_set", action="this process will kill itself", where=settings.fault_point)
    return KillPoint(settings.fault_point)


async def _check_base(settings: Settings, registry: Registry) -> None:
    settings.datadir.mkdir(parents=True, exist_ok=True)
    probe = settings.datadir / f".write-{settings.worker_id}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(f"DSR_DATADIR is not writable ({type(error).__name__}): name another folder") from None
    findings = await topics.check(
        settings.kafka_bootstrap,
        topic_manifest(settings, registry),
        replication=settings.replication_factor,
        **connection_to(settings),
    )
    if findings:
        raise ConfigurationError("topics are not as they must be: run `dsr topics apply`\n" + "\n".join(map(str, findings)))
    await check_group(settings.kafka_bootstrap, _group(settings), **connection_to(settings))


async def _check_clock(settings: Settings, clock: Clock) -> None:
    """Refuse a clock that would make due dates wrong: every moment in the journal is this machine's."""
    if not settings.clock_skew_seconds:
        return
    topic = Topics(prefix=settings.topic_prefix).clock
    ahead = await broker_clock.skew(settings.kafka_bootstrap, topic, clock, **connection_to(settings))
    if abs(ahead.total_seconds()) > settings.clock_skew_seconds:
        raise ConfigurationError(
            f"this machine's clock is {abs(ahead.total_seconds()):.0f} s {'ahead of' if ahead.days >= 0 else 'behind'} the"
            f" broker's, more than DSR_CLOCK_SKEW_SECONDS ({settings.clock_skew_seconds:g}): synchronise both (NTP)"
        )


async def _registries(store: SqlStore, registry: Registry) -> dict[str, Registry]:
    await store.keep_registry(registry.content_digest, registry.model_dump_json().encode())
    kept = {digest: Registry.model_validate_json(body) for digest, body in (await store.registries()).items()}
    return {**kept, registry.content_digest: registry}


def _group(settings: Settings) -> str:
    return Topics(prefix=settings.topic_prefix).group("orchestrator")


def _app_settings(settings: Settings, translator: Translator) -> AppSettings:
    return AppSettings(
        bootstrap=settings.kafka_bootstrap,
        group=_group(settings),
        topics=translator.inputs,
        datadir=settings.datadir,
        instance_id=settings.worker_id,
        connection=connection_to(settings),
        session_timeout_seconds=settings.session_timeout_seconds,
        commit_interval_seconds=settings.commit_interval_seconds,
    )


def _sweeper(
    settings: Settings, ground: Ground, inbox: Inbox, clock: Clock, metrics: WorkerMetrics, *, intake: IntakeKeys
) -> Sweeper:
    return Sweeper(
        ground,
        inbox,
        clock,
        metrics,
        interval_seconds=settings.sweep_interval_seconds,
        adopt_after_seconds=settings.adopt_after_seconds,
        keys_grow_old=settings.keys_grow_old,
        intake=intake,
    )


async def _publisher(settings: Settings, stack: contextlib.AsyncExitStack) -> KafkaPublisher:
    publisher = KafkaPublisher(settings.kafka_bootstrap, security=connection_to(settings))
    await publisher.start()
    stack.push_async_callback(publisher.aclose)
    return publisher


async def _recover(inbox: Inbox) -> None:
    recovered = await inbox.recover()
    if recovered:
        log.info("recovered", count=recovered)


@contextlib.asynccontextmanager
async def _life(inbox: Inbox, care: Care, deck: WorkerDeck) -> AsyncIterator[None]:
    """Say that a life begins, and at its end that it ended in order, if it did.

    Before the store closes the last batch goes out and is forgotten, or the next life would publish it again. A worker that
    ends itself has something that it could not publish, and leaves it to the next life.
    """
    await care.begin()
    try:
        yield
    finally:
        if deck.ended is None:
            await inbox.finish()
            await care.end()
        else:
            await inbox.tidy()


#: A stop finishes the batch at work and commits; a supervisor should wait longer than this before it kills.
_STOP_SECONDS = 25.0


@contextlib.asynccontextmanager
async def _faust(app: Any) -> AsyncIterator[None]:
    from faust.contrib.asgi import faust_app_running  # noqa: PLC0415 - binds to the running loop when imported inside it

    running = faust_app_running(app, stop_timeout=_STOP_SECONDS)
    await running.__aenter__()
    try:
        yield
    finally:
        try:
            await running.__aexit__(None, None, None)
        except TimeoutError:  # of the stop only: one of the block itself is its own affair
            # A broker that is gone cannot take a commit: end without one, the next life replays.
            app.deck.die(f"could not stop within {_STOP_SECONDS:g} s")


def _guarded(work: Any, name: str, deck: WorkerDeck) -> asyncio.Task[None]:
    """Run a background loop; its failure ends the worker, because nobody else would notice that it is gone."""

    async def run() -> None:
        try:
            await work
        except Exception as error:
            log.exception("background_failed", task=name)
            deck.die(f"{name}: {error if isinstance(error, Fatal) else type(error).__name__}")

    return asyncio.create_task(run(), name=name)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _belong(app: Any, deck: WorkerDeck) -> None:
    """End the worker when its group will not have it: from the first moment, because Faust waits in its start for the group."""
    while True:
        await asyncio.sleep(1.0)
        if reason := app.consumer.refused_by_group():
            deck.die(reason)


async def _watch(app: Any, inbox: Inbox, watchdog: Watchdog, settings: Settings, deck: WorkerDeck) -> None:
    while True:
        await asyncio.sleep(2.0)
        if app.crashed:
            deck.die("a part of the consumer crashed")
        consumer = app.consumer
        if inbox.shut:  # whoever waits for a person makes no progress, and is not to be restarted for it
            continue
        assigned = consumer.assignment()
        ends = {tp: end for tp in assigned if (end := consumer.highwater(tp)) is not None}
        watchdog.observe(await consumer.committed_offsets(ends), ends)
        reason = watchdog.stalled()
        if reason and settings.watchdog_ends_process:
            deck.die(reason)


def _alive(watchdog: Watchdog) -> dict[str, Check]:
    return {"progress": watchdog.stalled}


def _ready(app: Any, store: SqlStore, inbox: Inbox) -> dict[str, Check]:
    async def store_answers() -> str | None:
        await store.ping()
        return None

    return {
        "group": lambda: None if app.started and not app.rebalancing else "joining the group",
        "store": store_answers,
        "quarantine": lambda: inbox.shut,
    }
