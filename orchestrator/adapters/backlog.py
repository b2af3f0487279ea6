"""How far a consumer group has read a topic.

Room rules: two questions to the broker; what follows from the answer is for others to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from schemas.errors import OrchestratorError

__all__ = ["KafkaBacklog"]


class KafkaBacklog:
    """Implements `orchestrator.ports.Backlog`. Connects for each question: it is asked a few times a month."""

    def __init__(self, bootstrap: str, group: str, topic: str, **connection: Any) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._topic = topic
        self._connection = connection

    async def positions(self) -> tuple[Mapping[int, int], Mapping[int, int]]:
        """Return the ends, and how far the group has committed; what retention took away unread counts as read."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, **self._connection)
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, **self._connection)
        try:
            await consumer.start()
            await admin.start()
            found = await admin.describe_topics([self._topic])
            parts = [TopicPartition(self._topic, part["partition"]) for topic in found for part in topic["partitions"]]
            # Asked before the ends: what is committed meanwhile only makes the answer more careful.
            committed = await admin.list_consumer_group_offsets(self._group, partitions=parts)
            begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
        except (KafkaError, TimeoutError) as error:
            raise OrchestratorError(f"{self._topic}: the broker did not tell its offsets ({type(error).__name__})") from None
        finally:
            await admin.close()
            await consumer.stop()
        offsets = {part: entry.offset for part, entry in committed.items()}
        read = {part.partition: max(offsets.get(part, 0), begins[part]) for part in parts}
        return {part.partition: ends[part] for part in parts}, read
