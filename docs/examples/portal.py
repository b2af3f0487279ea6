"""A portal: file one request, and print what is said of it until it is confirmed.

With DSR_KAFKA_BOOTSTRAP, DSR_DEVELOPMENT_KEY and DSR_SIGNING_KEY_FILE set: python docs/examples/portal.py someone@example.org
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from schemas.portal import build_request, intake_key, record_of
from schemas.requests import SubmitRequest, Verification
from schemas.sealed import SealingKey
from schemas.topics import Topics
from schemas.trust import SigningKey
from schemas.vocabulary import AssuranceLevel, Right

BOOTSTRAP = os.environ.get("DSR_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
#: The portal's own key, from `dsr keys new portal:website`; the orchestrator has its public half.
SIGNER = SigningKey.from_json(Path(os.environ["DSR_SIGNING_KEY_FILE"]).read_bytes())
TOPICS = Topics(prefix=os.environ.get("DSR_TOPIC_PREFIX", "dsr"))


def erasure(email: str) -> SubmitRequest:
    """Return a request of somebody who has logged in at the website. Store its id before you publish it."""
    now = datetime.now(UTC)
    return build_request(
        Right.ERASURE,
        {"email": [email]},
        portal="website",
        key=intake_key(SealingKey.from_base64("dev", os.environ["DSR_DEVELOPMENT_KEY"])),
        verification=Verification(method="login", level=AssuranceLevel.SUBSTANTIAL, verified_at=now),
        submitted_at=now,
        subject_request_id=str(uuid.uuid4()),
    )


async def main(email: str) -> None:
    """Publish, then read the topics of status and confirmations."""
    request = erasure(email)
    record = record_of(request, SIGNER)
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, enable_idempotence=True)
    # A portal that runs for long adds group_id=TOPICS.group("portal.website") and goes on where it stopped.
    answers = AIOKafkaConsumer(TOPICS.status, TOPICS.confirmations, bootstrap_servers=BOOTSTRAP, auto_offset_reset="earliest")
    async with producer, answers:
        await producer.send_and_wait(TOPICS.requests, record.value, key=record.key, headers=record.headers)
        async for answer in answers:
            if answer.key == record.key:
                print(answer.topic, answer.value.decode())
                if answer.topic == TOPICS.confirmations:
                    break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
