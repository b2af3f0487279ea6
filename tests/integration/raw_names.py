"""Batches with header names that are no text, as a careless or malicious client writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

__all__ = ["RawName", "write_batch"]


class RawName(str):
    """A header's name that goes out as bytes which are no text."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:  # type: ignore[override] # what a careless client does
        return b"\xff\xfe" + str(self).encode()


async def write_batch(bootstrap: str, topic: str, records: Sequence[tuple[bytes, bytes, list[Any]]]) -> None:
    """Write records (key, value, headers) as one batch to partition 0; only the client in Python writes such names."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        batch = producer.create_batch()
        batch._builder = _DefaultRecordBatchBuilderPy(
            magic=2, compression_type=0, is_transactional=False,
            producer_id=-1, producer_epoch=-1, base_sequence=-1, batch_size=100_000,
        )  # fmt: skip
        for key, value, headers in records:
            batch.append(key=key, value=value, timestamp=None, headers=headers)
        batch.close()
        await (await producer.send_batch(batch, topic, partition=0))
