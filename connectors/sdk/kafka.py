"""The bus on Kafka: one consumer group per system, an idempotent producer, every ack awaited.

Room rules: only this file, `conversation_kafka` and `broker_token` know aiokafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaConnectionError, KafkaError
from aiokafka.helpers import create_ssl_context

from connectors.sdk.broker_token import GrantedBrokerToken
from connectors.sdk.bus import AckLost, Inbound, Outbound
from connectors.sdk.settings import RuntimeSettings
from schemas import __version__, any_header
from schemas.broker import BrokerReach
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.wire import client_id_of_reader

__all__ = ["KafkaBus", "connection_to"]

_log = structlog.get_logger("dsr.connector")

_RECEIVE_MS = 500
_RECORDS_AT_ONCE = 500
_ACK_SECONDS = 30.0
#: Quarantine carries whole records with headers around them.
_MAX_REQUEST_BYTES = 2 * 1024 * 1024
#: So many refusals in a row mean that another process uses our instance id: both would process everything, unfenced.
_MOST_REFUSALS = 10


class KafkaBus:
    """Implements `connectors.sdk.bus.Bus`."""

    def __init__(self, settings: RuntimeSettings, *, topic: str, group: str) -> None:
        any_header.install()
        common = connection_to(settings)
        self._consumer = AIOKafkaConsumer(
            topic,
            group_id=group,
            group_instance_id=settings.group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=round(settings.session_timeout_seconds * 1000),
            heartbeat_interval_ms=round(settings.session_timeout_seconds * 1000 / 6),
            **common | {"client_id": client_id_of_reader(__version__)},
        )
        self._producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_request_size=_MAX_REQUEST_BYTES,
            linger_ms=5,
            **common,
        )
        self._received: dict[TopicPartition, int] = {}
        self._refusals = 0

    async def start(self) -> None:
        """Connect. Raises `ConfigurationError` if no broker answers at the address."""
        try:
            await self._producer.start()
            await self._consumer.start()
        except KafkaConnectionError:
            await self.stop()
            raise ConfigurationError(
                "no broker answers, or it does not let us in: "
                "check DSR_KAFKA_BOOTSTRAP, DSR_SECURITY_PROTOCOL and the DSR_SASL_ and DSR_SSL_ settings"
            ) from None
        except KafkaError as error:
            await self.stop()
            raise OrchestratorError(f"the broker refuses to let us join: {type(error).__name__}") from None

    async def stop(self) -> None:
        """Leave the group (a static member stays known for its session) and close: also what never started, and once only."""
        await self._consumer.stop()
        await self._producer.stop()

    async def receive(self) -> Sequence[Inbound]:
        """Return what has been fetched, from all partitions."""
        try:
            batches = await self._consumer.getmany(timeout_ms=_RECEIVE_MS, max_records=_RECORDS_AT_ONCE)
        except KafkaError as error:
            raise OrchestratorError(f"the broker gives no records: {type(error).__name__}") from None
        records = [record for batch in batches.values() for record in batch]
        for partition, batch in batches.items():
            if batch:
                self._received[partition] = batch[-1].offset + 1
        return [Inbound(r.topic, r.partition, r.offset, r.key, r.value, list(r.headers)) for r in records]

    async def publish(self, records: Sequence[Outbound]) -> None:
        """Send all, then await all acks."""
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                acks = [await self._producer.send(r.topic, r.value, key=r.key, headers=r.headers) for r in records]
                await asyncio.gather(*acks)
        except (KafkaError, TimeoutError) as error:
            raise AckLost(f"no broker ack for {len(records)} records: {type(error).__name__}") from None

    async def commit(self, records: Sequence[Inbound]) -> None:
        """Commit. After a rebalance the broker refuses: the new owner receives the records again."""
        offsets: dict[TopicPartition, int] = {}
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            offsets[partition] = max(offsets.get(partition, 0), record.offset + 1)
        try:
            await self._consumer.commit(offsets)
        except (KafkaError, IllegalStateError) as error:
            self._refusals += 1
            _log.warning("commit_refused", error_type=type(error).__name__, in_a_row=self._refusals)
            if self._refusals >= _MOST_REFUSALS:
                raise OrchestratorError("commits are refused again and again: is DSR_GROUP_INSTANCE_ID used twice?") from None
        else:
            self._refusals = 0

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Return the records behind the last received one."""
        ends = {partition: self._consumer.highwater(partition) for partition in self._consumer.assignment()}
        return {
            (partition.topic, partition.partition): max(0, end - self._received[partition])
            for partition, end in ends.items()
            if end is not None and partition in self._received
        }


def connection_to(reach: BrokerReach) -> dict[str, Any]:
    """Return what every client of aiokafka takes to reach the broker and to be let in. Raises `ConfigurationError`."""
    return {
        "bootstrap_servers": reach.kafka_bootstrap,
        "client_id": "dsr-connector",
        **reach.client_options(tls=_tls, read=_read, tokens=GrantedBrokerToken),
    }


def _tls(reach: BrokerReach) -> Any:
    return create_ssl_context(
        cafile=_text(reach.ssl_ca_file), certfile=_text(reach.ssl_cert_file), keyfile=_text(reach.ssl_key_file)
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
