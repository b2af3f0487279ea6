"""The newest records of a topic, without reading the others.

Room rules: one question to the broker; what follows from the answer is for others to say.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from schemas import any_header
from schemas.errors import ConfigurationError, OrchestratorError

__all__ = ["newest"]

_ANSWERS_WITHIN_SECONDS = 30.0


async def newest(bootstrap: str, topic: str, most: int, **connection: Any) -> list[bytes]:
    """Return the values of each partition's last `most` records, in order.

    Raises `OrchestratorError` without an answer, `ConfigurationError` if we may not read there and there is something to read.
    """
    any_header.install()
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=50, **connection
    )
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_SECONDS):
            await consumer.start()
            parts = sorted(consumer.assignment())  # without a group all partitions are ours
            begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
            left = {part for part in parts if ends[part] > begins[part]}
            if not left:
                return []
            for part in left:
                consumer.seek(part, max(begins[part], ends[part] - most))
            found: list[bytes] = []
            while left:
                for records in (await consumer.getmany(*left, timeout_ms=200)).values():
                    found += [record.value for record in records if record.value is not None]
                left = {part for part in left if await consumer.position(part) < ends[part]}
            return found
    except TopicAuthorizationFailedError:
        raise ConfigurationError(f"{topic}: the broker does not let us read it: run `dsr acl apply`") from None
    except (KafkaError, TimeoutError) as error:
        raise OrchestratorError(f"{topic}: the broker did not answer ({type(error).__name__}): try again") from None
    finally:
        await consumer.stop()
