"""The closed vocabulary of metrics, as data: what both sides count, and nothing else.

A metric is a constant here and its labels are a `NamedTuple` of `schemas.metric_labels`, so a misspelt metric, a missing
label or a member of the wrong enum is a type error: `metrics.count(ORDERS_SENT, system="crm", right=Right.ERASURE)`. Label
values are enum members or names from the registry and the topic manifest, never an id of a request, an order or a person: a
metric outlives the request it counted, and whoever reads a dashboard must learn nothing about one person.

Names follow https://prometheus.io/docs/practices/naming/ (base units, `_total` on counters).

Room rules: data and one Protocol; the Prometheus library lives in the two classes that implement it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, ParamSpec, Protocol, TypeVar, cast

from schemas.metric_labels import (
    Build,
    ByKeyState,
    ByOperation,
    ByPhase,
    ByQuestionRefusal,
    ByRight,
    BySystem,
    ByType,
    NoLabels,
    PhaseRight,
    PortalRight,
    ReasonSystem,
    RightDaysLeft,
    RightResult,
    SystemCancelResult,
    SystemFailure,
    SystemKeyRefusal,
    SystemOutcome,
    SystemOwner,
    SystemPhase,
    SystemQuarantine,
    SystemRight,
    SystemRightOutcome,
    TopicPartition,
    TopicReason,
)

__all__ = [
    "BATCH_RECORDS",
    "BATCH_SECONDS",
    "BUILD_INFO",
    "BY_NAME",
    "CHECKPOINT_AT",
    "CHECKPOINT_METRICS",
    "COMMITS_REFUSED",
    "COMMIT_AGE",
    "CONNECTOR_CALL_SECONDS",
    "CONNECTOR_CANCELLED",
    "CONNECTOR_JOBS_OPEN",
    "CONNECTOR_KEYS_UNAVAILABLE",
    "CONNECTOR_LAG",
    "CONNECTOR_METRICS",
    "CONNECTOR_ORDERS",
    "CONNECTOR_ORDERS_LATE",
    "CONNECTOR_ORDERS_WAITING",
    "CONNECTOR_OUTCOMES",
    "CONNECTOR_PAUSE_SECONDS",
    "CONNECTOR_QUARANTINED",
    "CONNECTOR_QUOTA_REMAINING",
    "CONNECTOR_RETRIES",
    "ESCALATIONS",
    "EXTENSION_INVALID",
    "IGNORED",
    "INTAKE_KEYS_OVERDUE",
    "INTAKE_KEY_AGE",
    "KEYS_LISTENING",
    "KEYS_REFUSED",
    "KEYS_RELEASED",
    "KEY_QUESTIONS_REFUSED",
    "LAG",
    "ORDERS_OPEN",
    "ORDERS_RESENT",
    "ORDERS_SENT",
    "ORDER_DURATION",
    "OUTBOX",
    "PUBLISH_SECONDS",
    "QUARANTINED",
    "REPORTS_RECEIVED",
    "REQUESTS_CLOSED",
    "REQUESTS_OLDEST_AGE",
    "REQUESTS_OPEN",
    "REQUESTS_OPEN_BY_DAYS_LEFT",
    "REQUESTS_RECEIVED",
    "REQUEST_DURATION",
    "REQUEST_KEYS",
    "ROWS_DAMAGED",
    "STORE_CONFLICTS",
    "STORE_SECONDS",
    "SWEEP_DUE",
    "SWEEP_SECONDS",
    "SYSTEM_INFO",
    "TRUST_FILE_REFUSED",
    "WAKES_FAILED",
    "WORKER_METRICS",
    "CounterSpec",
    "GaugeSpec",
    "HistogramSpec",
    "MetricKind",
    "MetricSpec",
    "Metrics",
]

P = ParamSpec("P")
L = TypeVar("L", bound=tuple[Any, ...])

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class MetricSpec(Generic[P, L]):
    """One metric: its full name, what it means, and its labels.

    `labels` is the `NamedTuple` of its labels; `buckets` are upper bounds of a histogram, in the unit of the name, without
    +Inf, and empty for the other kinds. `shared`: every worker counts the same number in the one store, so whoever reads it
    takes `max` over the processes, never `sum`.
    """

    name: str
    help: str
    labels: Callable[P, L]
    buckets: tuple[float, ...] = ()
    shared: bool = False
    kind: ClassVar[MetricKind]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the names of the labels, in the order of their values."""
        return cast("type[Any]", self.labels)._fields  # type: ignore[no-any-return]


@dataclass(frozen=True)
class CounterSpec(MetricSpec[P, L]):
    """A number that only grows while the process lives."""

    kind: ClassVar[MetricKind] = "counter"


@dataclass(frozen=True)
class GaugeSpec(MetricSpec[P, L]):
    """A number that goes up and down."""

    kind: ClassVar[MetricKind] = "gauge"


@dataclass(frozen=True)
class HistogramSpec(MetricSpec[P, L]):
    """A distribution, counted in buckets."""

    kind: ClassVar[MetricKind] = "histogram"


class Metrics(Protocol):
    """What code that measures is given. Labels are keyword arguments, checked by the type checker against the metric.

    Every method raises `ValueError` for a metric of the other room, and for a label value that is no enum member, number or
    plain name (see `metric_labels.label_texts`). None of them waits or sends: the monitoring system comes and reads.
    """

    def count(self, spec: CounterSpec[P, L], amount: float = 1, /, *args: P.args, **labels: P.kwargs) -> None:
        """Add `amount` (at least 0) to a counter."""
        ...

    def set(self, spec: GaugeSpec[P, L], value: float, /, *args: P.args, **labels: P.kwargs) -> None:
        """Set a gauge."""
        ...

    def replace(self, spec: GaugeSpec[P, L], values: Mapping[L, float], /) -> None:
        """Set a gauge for exactly these labels; series with other labels end. Use it for what was counted as a whole."""
        ...

    def observe(self, spec: HistogramSpec[P, L], value: float, /, *args: P.args, **labels: P.kwargs) -> None:
        """Add one observation to a histogram, in the unit of its name."""
        ...


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_CALL = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_RECORDS = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
#: 30 days is about the month of GDPR Art. 12(3), 90 about its extension by two more.
_REQUEST = (_MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, *(d * _DAY for d in (1, 3, 7, 14, 21, 30, 45, 60, 90)))
_ORDER = (1.0, 10.0, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, *(d * _DAY for d in (1, 3, 7, 14, 30)))

# Requests, as a privacy officer counts them.
REQUESTS_OPEN = GaugeSpec("dsr_requests_open", "Requests that are not closed.", PhaseRight, shared=True)
REQUESTS_OLDEST_AGE = GaugeSpec(
    "dsr_requests_oldest_age_seconds", "Age of the oldest request in the phase.", ByPhase, shared=True
)
REQUESTS_OPEN_BY_DAYS_LEFT = GaugeSpec(
    "dsr_requests_open_by_days_left",
    "Requests that are not closed, by whole days until the legal due date.",
    RightDaysLeft,
    shared=True,
)
REQUEST_KEYS = GaugeSpec(
    "dsr_request_keys",
    "Keys of requests in the store; old: beyond policy, left_over: of a closed request, which must be none.",
    ByKeyState,
    shared=True,
)
REQUESTS_RECEIVED = CounterSpec(
    "dsr_requests_received_total", "Requests accepted from a portal, repeats left out.", PortalRight
)
REQUESTS_CLOSED = CounterSpec("dsr_requests_closed_total", "Requests closed with a confirmation.", RightResult)
REQUEST_DURATION = HistogramSpec(
    "dsr_request_duration_seconds", "From the request's receipt to its confirmation.", ByRight, _REQUEST
)

# Orders and reports, as the owner of a system counts them.
ORDERS_SENT = CounterSpec("dsr_orders_sent_total", "Orders sent to a system for the first time.", SystemRight)
ORDERS_RESENT = CounterSpec("dsr_orders_resent_total", "Orders sent again: by a timer or by an operator.", BySystem)
ORDERS_OPEN = GaugeSpec("dsr_orders_open", "Orders that are not settled.", SystemPhase, shared=True)
REPORTS_RECEIVED = CounterSpec("dsr_reports_received_total", "Reports taken in, repeats left out.", SystemOutcome)
ORDER_DURATION = HistogramSpec(
    "dsr_order_duration_seconds", "From the first sending of an order to its final report.", BySystem, _ORDER
)
ESCALATIONS = CounterSpec("dsr_escalations_total", "Times a person was told.", ReasonSystem)
EXTENSION_INVALID = CounterSpec(
    "dsr_extension_invalid_total", "Extensions refused because they came too late or gave no lawful reason.", NoLabels
)

# The worker, as whoever is on call counts it.
QUARANTINED = CounterSpec("dsr_quarantined_total", "Records that the worker set aside.", TopicReason)
IGNORED = CounterSpec("dsr_ignored_total", "Repeated facts: they changed nothing.", ByType)
BATCH_RECORDS = HistogramSpec("dsr_batch_records", "Records in one micro-batch.", NoLabels, _RECORDS)
BATCH_SECONDS = HistogramSpec("dsr_batch_seconds", "From a micro-batch's fetch to its acknowledgement.", NoLabels, _FAST)
STORE_SECONDS = HistogramSpec("dsr_store_seconds", "One call of the store.", ByOperation, _FAST)
PUBLISH_SECONDS = HistogramSpec(
    "dsr_publish_seconds", "From sending a batch's records to the last broker ack.", NoLabels, _FAST
)
STORE_CONFLICTS = CounterSpec("dsr_store_conflicts_total", "Rows another worker changed in between; decided again.", NoLabels)
ROWS_DAMAGED = CounterSpec(
    "dsr_store_rows_damaged_total", "Times a request was stopped by its own row in the store, which does not open.", NoLabels
)
COMMITS_REFUSED = CounterSpec("dsr_commits_refused_total", "Offset commits that the commit guard refused.", NoLabels)
KEYS_RELEASED = CounterSpec("dsr_order_keys_released_total", "Keys of orders given to a system's connector.", BySystem)
KEYS_REFUSED = CounterSpec("dsr_order_keys_refused_total", "Keys of orders that a connector was refused.", SystemKeyRefusal)
KEY_QUESTIONS_REFUSED = CounterSpec(
    "dsr_order_keys_questions_refused_total", "Questions about keys of orders that were refused as a whole.", ByQuestionRefusal
)
TRUST_FILE_REFUSED = GaugeSpec(
    "dsr_trust_file_refused", "1 while the trust file cannot be used: the keys that it held before stay in force.", NoLabels
)
KEYS_LISTENING = GaugeSpec(
    "dsr_order_keys_listening", "Connectors that are given the keys of their orders as these are sent.", BySystem
)
INTAKE_KEY_AGE = GaugeSpec("dsr_intake_key_age_seconds", "Age of the key that portals seal to.", NoLabels, shared=True)
INTAKE_KEYS_OVERDUE = GaugeSpec(
    "dsr_intake_keys_overdue",
    "Intake keys that should have been replaced or destroyed for more than a day.",
    NoLabels,
    shared=True,
)
LAG = GaugeSpec("dsr_lag_records", "Records in the log after the committed offset.", TopicPartition)
COMMIT_AGE = GaugeSpec(
    "dsr_commit_age_seconds", "While records wait: how long ago their number last shrank; 0 while none wait.", TopicPartition
)
OUTBOX = GaugeSpec(
    "dsr_outbox_records",
    "Batches of records saved with their states and not yet acknowledged by the broker.",
    NoLabels,
    shared=True,
)
SWEEP_SECONDS = HistogramSpec("dsr_sweep_seconds", "One round of the sweeper.", NoLabels, _FAST)
SWEEP_DUE = GaugeSpec("dsr_sweep_due", "Requests whose moment to wake had come at the last sweep.", NoLabels, shared=True)
WAKES_FAILED = GaugeSpec(
    "dsr_wakes_failed",
    "Requests whose moment came and at which our own code fails; tried again every minute.",
    NoLabels,
    shared=True,
)
BUILD_INFO = GaugeSpec("dsr_build_info", "1; the labels name what runs.", Build)
SYSTEM_INFO = GaugeSpec(
    "dsr_system_info",
    "1 for each active system; owner: the team that the registry names, which is no personal data, or not_shown.",
    SystemOwner,
)

# A connector, counted in its own process.
CONNECTOR_ORDERS = CounterSpec("dsr_connector_orders_total", "Orders taken into the journal, repeats left out.", SystemRight)
CONNECTOR_OUTCOMES = CounterSpec("dsr_connector_outcomes_total", "Reports published.", SystemRightOutcome)
CONNECTOR_RETRIES = CounterSpec("dsr_connector_retries_total", "Attempts that are tried again.", SystemFailure)
CONNECTOR_CANCELLED = CounterSpec(
    "dsr_connector_orders_cancelled_total", "Orders that were over before they were reported.", SystemCancelResult
)
CONNECTOR_CALL_SECONDS = HistogramSpec(
    "dsr_connector_call_seconds", "One call of a connector's method, throttle wait left out.", SystemRight, _CALL
)
CONNECTOR_ORDERS_WAITING = GaugeSpec(
    "dsr_connector_orders_waiting", "Orders in the journal that nobody works on right now.", BySystem
)
CONNECTOR_ORDERS_LATE = GaugeSpec(
    "dsr_connector_orders_forecast_late",
    "Waiting orders that at the connector's pace, within what the system allows, will be done after their due date.",
    BySystem,
)
CONNECTOR_JOBS_OPEN = GaugeSpec("dsr_connector_jobs_open", "Vendor's jobs started and not finished.", BySystem)
CONNECTOR_KEYS_UNAVAILABLE = CounterSpec(
    "dsr_connector_keys_unavailable_total", "Times the orchestrator gave no answer about an order's key.", BySystem
)
CONNECTOR_QUOTA_REMAINING = GaugeSpec("dsr_connector_quota_remaining", "Calls left in the system's day.", BySystem)
CONNECTOR_PAUSE_SECONDS = GaugeSpec(
    "dsr_connector_pause_seconds",
    "How long the system is still left alone after failures in a row; 0 while it works or is probed.",
    BySystem,
)
CONNECTOR_QUARANTINED = CounterSpec(
    "dsr_connector_quarantined_total", "Records that the connector set aside.", SystemQuarantine
)
CONNECTOR_LAG = GaugeSpec("dsr_connector_lag_records", "Orders in the log after the committed offset.", TopicPartition)

CHECKPOINT_AT = GaugeSpec("dsr_checkpoint_at_seconds", "When the journal's last checkpoint was made, Unix time.", NoLabels)

#: Everything the orchestrator's worker exposes.
WORKER_METRICS: tuple[MetricSpec[..., Any], ...] = (
    REQUESTS_OPEN, REQUESTS_OLDEST_AGE, REQUESTS_OPEN_BY_DAYS_LEFT, REQUEST_KEYS, REQUESTS_RECEIVED, REQUESTS_CLOSED,
    REQUEST_DURATION,
    ORDERS_SENT, ORDERS_RESENT, ORDERS_OPEN, REPORTS_RECEIVED, ORDER_DURATION, ESCALATIONS, EXTENSION_INVALID,
    QUARANTINED, IGNORED, BATCH_RECORDS, BATCH_SECONDS, STORE_SECONDS, PUBLISH_SECONDS, STORE_CONFLICTS, COMMITS_REFUSED,
    ROWS_DAMAGED,
    KEYS_RELEASED, KEYS_REFUSED, KEY_QUESTIONS_REFUSED, KEYS_LISTENING, TRUST_FILE_REFUSED,
    LAG, COMMIT_AGE, OUTBOX, SWEEP_SECONDS, SWEEP_DUE, WAKES_FAILED, INTAKE_KEY_AGE, INTAKE_KEYS_OVERDUE, BUILD_INFO,
    SYSTEM_INFO,
)  # fmt: skip
#: Everything a connector exposes.
CONNECTOR_METRICS: tuple[MetricSpec[..., Any], ...] = (
    CONNECTOR_ORDERS, CONNECTOR_OUTCOMES, CONNECTOR_RETRIES, CONNECTOR_CANCELLED, CONNECTOR_CALL_SECONDS,
    CONNECTOR_ORDERS_WAITING,
    CONNECTOR_JOBS_OPEN, CONNECTOR_QUOTA_REMAINING, CONNECTOR_PAUSE_SECONDS, CONNECTOR_QUARANTINED, CONNECTOR_LAG,
    CONNECTOR_KEYS_UNAVAILABLE, CONNECTOR_ORDERS_LATE,
)  # fmt: skip
#: What `dsr checkpoint make` writes into a file for a collector of such files.
CHECKPOINT_METRICS: tuple[MetricSpec[..., Any], ...] = (CHECKPOINT_AT,)
#: Every metric of the product, by name.
BY_NAME: Mapping[str, MetricSpec[..., Any]] = {
    spec.name: spec for spec in (*WORKER_METRICS, *CONNECTOR_METRICS, *CHECKPOINT_METRICS)
}
