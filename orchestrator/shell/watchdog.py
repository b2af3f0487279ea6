"""The watchdog: per partition, lag without commit progress for too long is a reason to fail the health check.

Faust's own detectors only log, and look at fetch positions instead of commits.

Room rules: reads the consumer and the broker's end offsets; changes nothing but metrics and its own verdict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from schemas.metric_labels import TopicPartition
from schemas.metrics import COMMIT_AGE, LAG, Metrics

__all__ = ["Watchdog"]


class Watchdog:
    """Follows end and committed offsets of the assigned partitions."""

    def __init__(self, metrics: Metrics, *, limit_seconds: float) -> None:
        self._metrics = metrics
        self._limit_seconds = limit_seconds
        self._lag: dict[tuple[str, int], int] = {}
        self._offsets: dict[tuple[str, int], int] = {}
        self._progress_at: dict[tuple[str, int], float] = {}

    def observe(self, committed: Mapping[Any, int], ends: Mapping[Any, int]) -> None:
        """Take in committed and end offsets by partition; whatever is absent is not ours now."""
        now = time.monotonic()
        seen: dict[tuple[str, int], int] = {}
        for tp, end in ends.items():
            partition = (tp.topic, tp.partition)
            offset = max(committed.get(tp, 0), 0)
            lag = max(0, end - offset)
            if lag == 0 or offset != self._offsets.get(partition):
                self._progress_at[partition] = now
            self._offsets[partition] = offset
            seen[partition] = lag
        self._lag = seen
        self._progress_at = {partition: at for partition, at in self._progress_at.items() if partition in seen}
        self._offsets = {partition: offset for partition, offset in self._offsets.items() if partition in seen}
        self._metrics.replace(LAG, {TopicPartition(*p): lag for p, lag in seen.items()})
        self._metrics.replace(
            COMMIT_AGE, {TopicPartition(*p): (now - self._progress_at[p] if lag else 0.0) for p, lag in seen.items()}
        )

    def stalled(self) -> str | None:
        """Return why the worker is stuck, or None."""
        if not self._limit_seconds:
            return None
        now = time.monotonic()
        for partition, lag in self._lag.items():
            age = now - self._progress_at[partition]
            if lag and age > self._limit_seconds:
                topic, number = partition
                return f"{topic}-{number}: {lag} records wait and nothing was committed for {age:.0f} s"
        return None
