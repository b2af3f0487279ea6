"""The metrics of a process in a Prometheus registry; `schemas.metrics` says which exist.

Room rules: `prometheus_client` and nothing else; no metric is defined here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from schemas.metric_labels import label_texts
from schemas.metrics import CounterSpec, GaugeSpec, HistogramSpec, MetricSpec

__all__ = ["MetricBook"]

P = ParamSpec("P")
L = TypeVar("L", bound=tuple[Any, ...])


class MetricBook:
    """Every metric of one kind of process, registered once and typed by `schemas.metrics`.

    Metrics without labels are exposed as 0 from the start; a series with labels appears with its first value. Two instances
    need two registries: a second registration of a name raises `ValueError`.
    """

    def __init__(self, specs: Sequence[MetricSpec[..., Any]], registry: CollectorRegistry) -> None:
        self.registry: Final = registry
        self._families: dict[str, Any] = {spec.name: _register(spec, registry) for spec in specs}
        self._series: dict[str, dict[tuple[Any, ...], Any]] = {spec.name: {} for spec in specs}

    def count(self, spec: CounterSpec[P, L], amount: float = 1, /, *args: P.args, **labels: P.kwargs) -> None:
        """Add `amount` (at least 0) to a counter."""
        self._one(spec, spec.labels(*args, **labels)).inc(amount)

    def set(self, spec: GaugeSpec[P, L], value: float, /, *args: P.args, **labels: P.kwargs) -> None:
        """Set a gauge."""
        self._one(spec, spec.labels(*args, **labels)).set(value)

    def replace(self, spec: GaugeSpec[P, L], values: Mapping[L, float], /) -> None:
        """Set a gauge for exactly these labels; series with other labels end."""
        for labels, value in values.items():
            self._one(spec, labels).set(value)
        known = self._series[spec.name]
        for gone in [labels for labels in known if labels not in values]:
            self._families[spec.name].remove(*label_texts(gone))
            del known[gone]

    def observe(self, spec: HistogramSpec[P, L], value: float, /, *args: P.args, **labels: P.kwargs) -> None:
        """Add one observation to a histogram, in the unit of its name."""
        self._one(spec, spec.labels(*args, **labels)).observe(value)

    def _one(self, spec: MetricSpec[..., Any], labels: tuple[Any, ...]) -> Any:
        known = self._series.get(spec.name)
        if known is None:
            raise ValueError(f"{spec.name} is no metric of this process")
        series = known.get(labels)
        if series is None:
            family = self._families[spec.name]
            series = known[labels] = family.labels(*label_texts(labels)) if labels else family
        return series


def _register(spec: MetricSpec[..., Any], registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if spec.kind == "histogram":
        return Histogram(spec.name, spec.help, spec.label_names, registry=registry, buckets=spec.buckets)
    family = Counter if spec.kind == "counter" else Gauge
    return family(spec.name, spec.help, spec.label_names, registry=registry)
