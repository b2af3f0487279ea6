"""How far this machine's clock is from the broker's.

Room rules: one question, one answer; what is too far is decided by whoever asks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from orchestrator.ports import Clock
from schemas.errors import ConfigurationError, OrchestratorError

__all__ = ["skew"]

_ANSWERS_WITHIN_SECONDS = 30.0


async def skew(bootstrap: str, topic: str, clock: Clock, **connection: Any) -> timedelta:
    """Return by how much `clock` is at least ahead of the leader's of `topic`; negative if it is behind.

    Writes one record of a byte to a topic with `message.timestamp.type=LogAppendTime`: the broker answers with its own time, in
    milliseconds. That moment lies between the sending and the answer, so whatever falls in between is no difference, and a
    slow network makes the answer smaller, never larger. Other brokers of the cluster are not asked. `connection` goes to
    aiokafka's producer.
    Raises `OrchestratorError` if the broker does not answer, `ConfigurationError` if it answers with the writer's own time.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", request_timeout_ms=int(_ANSWERS_WITHIN_SECONDS * 1000), **connection
    )
    try:
        await producer.start()
        await producer.partitions_for(topic)
        before = clock.now()
        written = await producer.send_and_wait(topic, b"?")
        after = clock.now()
    except KafkaError as error:
        raise OrchestratorError(f"{topic}: the broker did not tell the time ({type(error).__name__}): try again") from None
    finally:
        await producer.stop()
    if written.timestamp_type != 1:
        raise ConfigurationError(f"{topic}: the broker answers with the writer's time: run `dsr topics apply`")
    there = datetime.fromtimestamp(written.timestamp / 1000, UTC)
    if before - there > timedelta(milliseconds=1):
        return before - there
    return min(after - there, timedelta(0))
