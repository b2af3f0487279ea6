"""A portal: file one request, and print what is said of it until it is confirmed or set aside.

With DSR_SIGNING_KEY_FILE and DSR_TRUST_FILE set: python docs/examples/portal.py someone@example.org
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from schemas.intake import IntakePublicKey
from schemas.portal import build_request, intake_key, record_of
from schemas.requests import SubmitRequest, Verification
from schemas.topics import Topics
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import AssuranceLevel, Right

BOOTSTRAP = os.environ.get("DSR_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
#: The portal's own key, from `dsr keys new portal:website`; the orchestrator has its public half.
SIGNER = SigningKey.from_json(Path(os.environ["DSR_SIGNING_KEY_FILE"]).read_bytes())
#: Where a worker shows the keys to seal to, and whose signature on them is believed; without, whoever answers there.
KEYS_URL = os.environ.get("DSR_INTAKE_KEYS", "http://127.0.0.1:9464/v1/intake-keys")
TRUST = Trust.from_json(Path(os.environ["DSR_TRUST_FILE"]).read_bytes()) if "DSR_TRUST_FILE" in os.environ else None
TOPICS = Topics(prefix=os.environ.get("DSR_TOPIC_PREFIX", "dsr"))


def key_now() -> IntakePublicKey:
    """Return the key to seal to. A portal that runs for long asks again every hour."""
    form = "application/jwk-set+jwt" if TRUST else "application/jwk-set+json"
    answer = httpx.get(KEYS_URL, headers={"accept": form}).raise_for_status()
    return intake_key(answer.text, trust=TRUST, at=datetime.now(UTC))


def erasure(email: str) -> SubmitRequest:
    """Return a request of somebody who has logged in at the website. Store it before you publish it."""
    now = datetime.now(UTC)
    return build_request(
        Right.ERASURE,
        {"email": [email]},
        portal="website",
        key=key_now(),
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
        await producer.send_and_wait(TOPICS.requests_for(request.right), record.value, key=record.key, headers=record.headers)
        async for answer in answers:
            if answer.key == record.key:
                print(answer.topic, answer.value.decode())
                # What was set aside is never confirmed: correct it, and publish it again.
                if answer.topic == TOPICS.confirmations or json.loads(answer.value)["code"] == "rejected":
                    break


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
