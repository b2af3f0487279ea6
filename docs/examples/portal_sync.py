"""Publishing from code without asyncio (a Django or Flask view): one function that returns when the broker has the request.

A process that files many requests keeps one producer open instead, as `portal.py` does.
"""

from __future__ import annotations

import asyncio
import sys

from aiokafka import AIOKafkaProducer
from portal import BOOTSTRAP, SIGNER, TOPICS, erasure

from schemas.portal import record_of
from schemas.requests import SubmitRequest


def publish(request: SubmitRequest) -> None:
    """Return when the broker has acknowledged the request. Raises `KafkaError`: call it again with the very same request."""
    asyncio.run(_publish(request))


async def _publish(request: SubmitRequest) -> None:
    record = record_of(request, SIGNER)
    async with AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True) as producer:
        await producer.send_and_wait(TOPICS.requests_for(request.right), record.value, key=record.key, headers=record.headers)


if __name__ == "__main__":
    made = erasure(sys.argv[1])
    publish(made)
    print(made.subject_request_id)
