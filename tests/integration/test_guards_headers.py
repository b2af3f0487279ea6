"""A record with a header name that is no UTF-8 stands between good ones, and nothing stops at it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

sys.path.insert(0, str(Path(__file__).parent))
from process_kit import read_to_the_end
from test_guards import committed, eventually
from worker_kit import SYSTEMS, World, request, settings_for, worker

from schemas.wire import encode, headers_of

pytestmark = pytest.mark.kafka


class RawName(str):
    """A header's name that goes out as bytes which are no text."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:  # type: ignore[override] # what a careless client does
        return b"\xff\xfe" + str(self).encode()


async def test_a_header_name_that_is_no_text_stops_nothing(fresh_kafka, tmp_path: Path) -> None:
    """Good records before and after it in the same batch, and the record itself, are taken in; offsets are committed."""
    topics = await fresh_kafka.create(*SYSTEMS)
    settings = settings_for(tmp_path, fresh_kafka.bootstrap, topics)
    asked = [request() for _ in range(5)]
    async with World(fresh_kafka.bootstrap, topics).running() as world:
        producer = AIOKafkaProducer(bootstrap_servers=fresh_kafka.bootstrap)
        await producer.start()
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(
            magic=2, compression_type=0, is_transactional=False,
            producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=100_000,
        )  # fmt: skip
        for number, one in enumerate(asked):
            headers = [*headers_of(one), *([(RawName("x"), b"1"), ("none", None)] if number == 2 else [])]
            batch.append(key=one.subject_request_id.encode(), value=encode(one), timestamp=None, headers=headers)
        batch.close()
        await (await producer.send_batch(batch, topics.requests, partition=0))
        await producer.stop()
        async with worker(settings):
            await world.until(lambda: len(world.confirmations) == 5)

            async def all_committed() -> bool:
                return await committed(settings, topics.requests) == 5

            await eventually(all_committed)
        await read_to_the_end(world)
        assert not world.records[topics.quarantine]
