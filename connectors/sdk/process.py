"""Join the pieces to one connector process.

Room rules: composition only; every piece is built from settings here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

import structlog
from prometheus_client import CollectorRegistry

from connectors.sdk import health
from connectors.sdk.attempts import Limits
from connectors.sdk.blob_stores import BlobSettings, BlobStores
from connectors.sdk.blobs import BlobStore
from connectors.sdk.breaker import PauseRule
from connectors.sdk.clock import SystemClock
from connectors.sdk.journal import Journal
from connectors.sdk.kafka import KafkaBus
from connectors.sdk.keys import HttpOrderKeys, KeysUnavailable, order_keys_client
from connectors.sdk.loader import build_connector
from connectors.sdk.metrics import ConnectorMetrics
from connectors.sdk.protocol import Connector
from connectors.sdk.quota import SqlQuota
from connectors.sdk.retry import Backoff
from connectors.sdk.runtime import Runtime
from connectors.sdk.settings import RuntimeSettings, read
from connectors.sdk.speaking import signer_of
from schemas.errors import SystemUnavailable, Throttled
from schemas.page_readers import HOW_TO_SET, TOKEN_VARIABLE, PageReaders
from schemas.trust import SigningKey

__all__ = ["open_quota", "page_readers", "run_connector"]

_log = structlog.get_logger("dsr.connector")


async def run_connector(name: str, system: str) -> None:
    """Run a connector for a system until SIGTERM or SIGINT. Raises what the process must end with."""
    settings = read(RuntimeSettings)
    signer = signer_of(settings, system)
    readers = page_readers(settings)
    client = order_keys_client(None if settings.keys_ca_file is None else str(settings.keys_ca_file))
    keys = HttpOrderKeys(system, settings.keys_urls, client, SystemClock(), prefix=settings.topic_prefix, signer=signer)
    stores = BlobStores(read(BlobSettings), settings.state_dir, kept_days=settings.results_kept_days)
    blobs = stores.of(system)
    connector = build_connector(name)
    metrics = ConnectorMetrics(CollectorRegistry())
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal(settings.state_dir / f"{system}.journal.sqlite"))
        quota = stack.enter_context(open_quota(settings, system))
        bus = KafkaBus(settings, topic=settings.topics.orders(system), group=settings.topics.group(f"connector.{system}"))
        runtime = _runtime(
            settings,
            system=system,
            connector=connector,
            bus=bus,
            journal=journal,
            keys=keys,
            blobs=blobs,
            metrics=metrics,
            quota=quota,
            signer=signer,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, runtime.stop)
        try:
            await _checked(connector, system)
            await _kept_at(blobs, system)
            await _let_in(keys, system)
            application = health.app(metrics.registry, lambda: runtime.is_ready, readers)
            async with health.served(application, host=settings.health_host, port=settings.health_port) as port:
                _log.info("health", system=system, port=port)
                async with asyncio.TaskGroup() as group:
                    listening = group.create_task(keys.listen(), name="keys-ahead")
                    await runtime.run()
                    listening.cancel()
        finally:
            await bus.stop()
            await connector.aclose()
            await client.aclose()
            await stores.aclose()


def open_quota(settings: RuntimeSettings, system: str) -> SqlQuota:
    """Open the counts of a system's calls: those that all its processes share if a database is set, else our own."""
    if settings.quota_url is None:
        return SqlQuota.in_folder(settings.state_dir, system)
    return SqlQuota(settings.quota_url.get_secret_value(), system)


def page_readers(settings: RuntimeSettings) -> PageReaders:
    """Return who is shown the metrics, and warn if that is nobody. Raises `ConfigurationError` for a token of no use."""
    readers = settings.page_readers()
    if readers.nobody:
        _log.warning("metrics_refused", host=settings.health_host, setting=TOKEN_VARIABLE, remedy=HOW_TO_SET)
    return readers


async def _checked(connector: Connector, system: str) -> None:
    """Refuse to start with credentials that the system refuses: every order would fail and wait for a person.

    A system that does not answer is no reason: orders are taken, and tried again until it does.
    """
    try:
        await connector.check()
    except (SystemUnavailable, Throttled) as error:
        _log.warning("unchecked", system=system, reason=error.reason)


async def _kept_at(blobs: BlobStore, system: str) -> None:
    """Refuse to start where results could not be kept, or not be deleted. A store that does not answer is waited for."""
    try:
        await blobs.check()
    except SystemUnavailable as error:
        _log.warning("unchecked", system=system, reason="results", remedy=str(error))


async def _let_in(keys: HttpOrderKeys, system: str) -> None:
    """Refuse to start where the orchestrator will not have us. One that does not answer is waited for, order by order."""
    try:
        await keys.check()
    except KeysUnavailable as error:
        _log.warning("keys_unavailable", system=system, remedy=str(error))


def _runtime(
    settings: RuntimeSettings,
    *,
    system: str,
    connector: Connector,
    bus: KafkaBus,
    journal: Journal,
    keys: HttpOrderKeys,
    blobs: BlobStore,
    metrics: ConnectorMetrics,
    quota: SqlQuota,
    signer: SigningKey | None,
) -> Runtime:
    return Runtime(
        system=system,
        connector=connector,
        bus=bus,
        journal=journal,
        keys=keys,
        blobs=blobs,
        clock=SystemClock(),
        topics=settings.topics,
        metrics=metrics,
        quota=quota,
        signer=signer,
        quarantine_key=settings.quarantine_key(),
        limits=Limits(
            retry=Backoff(settings.backoff_base_seconds, settings.backoff_max_seconds),
            poll=Backoff(settings.poll_base_seconds, settings.poll_max_seconds),
            max_tries=settings.max_tries,
            quarantined_in_a_row=settings.quarantined_in_a_row,
            pause=PauseRule(settings.pause_after_failures, Backoff(settings.pause_base_seconds, settings.pause_max_seconds)),
        ),
    )
