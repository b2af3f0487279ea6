"""The Faust app: one agent that drains the batch inbox, with the settings that lose nothing.

Room rules: settings and three lines of loop; each setting that is not Faust's default says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faust
import structlog
from faust.auth import OAuthCredentials
from faust.streams import _CStreamIterator
from faust.transport.drivers import TRANSPORTS

from orchestrator.shell.inbox import Fatal, Inbox
from orchestrator.shell.points import Points
from schemas import any_header
from schemas.errors import ConfigurationError
from schemas.metrics import BATCH_RECORDS, BATCH_SECONDS, Metrics

if TYPE_CHECKING:
    from orchestrator.shell.fair_queue import Batch

__all__ = ["AppSettings", "WorkerDeck", "create_app", "credentials"]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WorkerDeck:
    """What the consumer gets from its worker (`orchestrator.shell.consumer.Deck`)."""

    metrics: Metrics
    end: Callable[[str], None]
    ended: str | None = None
    queue_records: int = 20_000
    #: Some batches of ordinary records; without it 20,000 of the largest that the topics take would be 20 GB.
    queue_bytes: int = 16 * 1024 * 1024
    commits_refused_at_most: int = 20
    batch_records: int = 2_000
    #: With fewer waiting, the next batch begins when the one before is out: small batches cost more than the time they save.
    overlap_records: int = 200
    points: Points | None = None

    def die(self, reason: str) -> None:
        """End the process without a commit; whatever still runs until then commits nothing."""
        self.ended = reason
        self.end(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSettings:
    """What the app is built from."""

    bootstrap: str
    group: str
    topics: Sequence[str]
    datadir: Path
    #: Unique and stable per worker: a restart takes its partitions back in two seconds instead of a session timeout.
    instance_id: str | None = None
    #: aiokafka's options for TLS and SASL, without the address.
    connection: Mapping[str, Any] = field(default_factory=dict, repr=False)
    session_timeout_seconds: float = 20.0
    commit_interval_seconds: float = 1.0


def create_app(settings: AppSettings, inbox: Inbox, deck: WorkerDeck) -> faust.App:
    """Return an app that feeds the inbox. Start it in the running loop; build a new one for a new start."""
    if _CStreamIterator is None:
        # The pure-Python stream acknowledges events that it skipped.
        raise ConfigurationError("faust runs without its compiled streams: install the wheel, unset NO_CYTHON")
    any_header.install()
    TRANSPORTS.aliases["kafka"] = "orchestrator.shell.consumer:BatchTransport"
    app = faust.App(
        settings.group,
        broker=f"kafka://{settings.bootstrap.replace(',', ';')}",
        broker_credentials=credentials(settings.connection),
        autodiscover=False,
        datadir=settings.datadir,
        store="memory://",
        processing_guarantee="at_least_once",  # its exactly-once cannot send to topics that are not copartitioned
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance_id,
        consumer_max_fetch_size=1024 * 1024,  # so much stays in the client for each partition that has no room
        broker_max_poll_records=2_000,
        broker_commit_interval=settings.commit_interval_seconds,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_seconds / 3),
        broker_rebalance_timeout=60.0,
        broker_request_timeout=90.0,
        stream_wait_empty=True,
        stream_publish_on_commit=False,
        producer_threaded=False,
        table_standby_replicas=0,  # no tables: round-robin assignment
        topic_allow_declare=False,  # topics are made by `dsr topics apply`
        topic_disable_leader=True,
        web_enabled=False,
        reply_create_topic=False,
        worker_redirect_stdouts=False,
    )
    app.deck = deck
    channel = app.topic(*settings.topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    async def drain(_stream: Any) -> None:
        await _drain(app, inbox, deck)

    app.agent(channel, name=f"{settings.group}-inbox")(drain)
    return app


def credentials(connection: Mapping[str, Any]) -> faust.Credentials | None:
    """Return aiokafka's options for TLS and SASL as Faust takes them, so that both come from the same settings."""
    tls = connection.get("ssl_context")
    if "sasl_oauth_token_provider" in connection:
        return OAuthCredentials(oauth_cb=connection["sasl_oauth_token_provider"], ssl_context=tls)
    if "sasl_mechanism" in connection:
        return faust.SASLCredentials(
            username=connection["sasl_plain_username"],
            password=connection["sasl_plain_password"],
            mechanism=connection["sasl_mechanism"],
            ssl_context=tls,
        )
    return None if tls is None else faust.SSLCredentials(tls)


async def _drain(app: faust.App, inbox: Inbox, deck: WorkerDeck) -> None:
    """Take, process, acknowledge; what cannot be processed ends the process without a commit.

    The next batch is taken, and decoded, while the one before is saved, and decided while that is published.
    """
    loop = asyncio.get_running_loop()
    try:
        await inbox.until_open()
    except Fatal as error:
        deck.die(str(error))
        return
    taking: set[asyncio.Task[Awaitable[None]]] = set()
    acknowledging: set[asyncio.Task[None]] = set()
    try:
        while not app.should_stop and deck.ended is None:
            batches = await app.consumer.take(deck.batch_records)
            started, decided = loop.time(), asyncio.Event()
            records = [record for batch in batches for record in batch.as_records()]
            taken = asyncio.create_task(inbox.take_in(records, decided=decided), name="take-in")
            done = asyncio.create_task(_acknowledge(app, deck, batches, taken, started), name="acknowledge")
            taking.add(taken)
            taken.add_done_callback(taking.discard)
            acknowledging.add(done)
            done.add_done_callback(acknowledging.discard)
            await _first(decided, done)
            if app.consumer.records_waiting < deck.overlap_records:
                await asyncio.wait({done})
        if taking:
            await asyncio.wait(taking)
    except BaseException:
        # All at once: one that failed would be an error to the one behind it.
        for task in taking:
            task.cancel()
        raise


async def _first(decided: asyncio.Event, done: asyncio.Task[None]) -> None:
    """Return when a batch is decided, or has come to its end some other way."""
    waiting = asyncio.ensure_future(decided.wait())
    try:
        await asyncio.wait({waiting, done}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _acknowledge(
    app: faust.App, deck: WorkerDeck, batches: list[Batch], taking: asyncio.Task[Awaitable[None]], started: float
) -> None:
    """Acknowledge what is published. Batches are published one after the other, so they are acknowledged in order."""
    count = sum(len(batch.records) for batch in batches)
    try:
        await (await taking)
    except Exception as error:
        # Whatever it is, the process ends by it.
        log.exception("batch_failed", count=count)
        deck.die(str(error) if isinstance(error, Fatal) else type(error).__name__)
        return
    app.consumer.ack_batches(batches)
    if deck.points is not None:
        await deck.points.at("after_ack")
    deck.metrics.observe(BATCH_RECORDS, count)
    deck.metrics.observe(BATCH_SECONDS, asyncio.get_running_loop().time() - started)
