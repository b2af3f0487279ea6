"""The metrics of the worker, in a Prometheus registry.

Room rules: which metrics; what each is stands in `schemas.metrics`, how they are counted in `schemas.metric_book`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from schemas.metric_book import MetricBook
from schemas.metrics import WORKER_METRICS

__all__ = ["WorkerMetrics"]


class WorkerMetrics(MetricBook):
    """Every metric of the worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(WORKER_METRICS, registry)
