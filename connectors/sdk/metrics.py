"""The metrics of a connector, in a Prometheus registry.

Room rules: which metrics; what each is stands in `schemas.metrics`, how they are counted in `schemas.metric_book`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from schemas.metric_book import MetricBook
from schemas.metrics import CONNECTOR_METRICS

__all__ = ["ConnectorMetrics"]


class ConnectorMetrics(MetricBook):
    """Every metric of a connector."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(CONNECTOR_METRICS, registry)
