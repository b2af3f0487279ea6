"""The vocabulary of metrics, and the two classes that expose it."""

import re
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from prometheus_client import CollectorRegistry

from connectors.sdk.metrics import ConnectorMetrics
from orchestrator.adapters.metrics import WorkerMetrics
from schemas import metrics as vocabulary
from schemas.metric_labels import NOT_SHOWN, BySystem, DaysLeft, NoLabels, TopicPartition, team_of
from schemas.metrics import BY_NAME, CONNECTOR_METRICS, WORKER_METRICS, Metrics, MetricSpec
from schemas.vocabulary import Right

ROOT = Path(__file__).parents[2]
ROOMS: list[tuple[Callable[[CollectorRegistry], Any], tuple[MetricSpec[..., Any], ...]]] = [
    (WorkerMetrics, WORKER_METRICS),
    (ConnectorMetrics, CONNECTOR_METRICS),
]
both_rooms = pytest.mark.parametrize(("room", "specs"), ROOMS, ids=["worker", "connector"])
every_metric = pytest.mark.parametrize("spec", BY_NAME.values(), ids=BY_NAME)


def a_value(kind: type) -> Any:
    return next(iter(kind)) if issubclass(kind, StrEnum) else 3 if kind is int else "a_name"


def a_label_set(spec: MetricSpec[..., Any]) -> dict[str, Any]:
    return {name: a_value(kind) for name, kind in get_type_hints(spec.labels).items() if name in spec.label_names}


def texts(labels: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in labels.items()}


@both_rooms
def test_every_metric_can_be_written_and_read_back(room, specs):
    """Each metric of the vocabulary is exposed under its own name, with its own labels."""
    registry = CollectorRegistry()
    metrics: Metrics = room(registry)
    for spec in specs:
        labels = a_label_set(spec)
        if spec.kind == "counter":
            metrics.count(spec, 2, **labels)
            metrics.count(spec, **labels)
            assert registry.get_sample_value(spec.name, texts(labels)) == 3
        elif spec.kind == "gauge":
            metrics.set(spec, 7, **labels)
            assert registry.get_sample_value(spec.name, texts(labels)) == 7
        else:
            metrics.observe(spec, spec.buckets[0], **labels)
            assert registry.get_sample_value(f"{spec.name}_bucket", texts(labels) | {"le": str(spec.buckets[0])}) == 1


@both_rooms
def test_nothing_else_is_exposed(room, specs):
    """A room exposes exactly its part of the vocabulary."""
    registry = CollectorRegistry()
    room(registry)
    exposed = {f"{family.name}_total" if family.type == "counter" else family.name for family in registry.collect()}
    assert exposed == {spec.name for spec in specs}


@both_rooms
def test_metrics_without_labels_start_at_zero(room, specs):
    """What has one series is there from the start, so that its first increase is seen."""
    registry = CollectorRegistry()
    room(registry)
    for spec in specs:
        if not spec.label_names and spec.kind != "histogram":
            assert registry.get_sample_value(spec.name) == 0


@both_rooms
def test_replace_ends_the_series_that_were_not_named(room, specs):
    """A gauge counted as a whole keeps no series of a partition that was given away, and can take it back."""
    registry = CollectorRegistry()
    metrics: Metrics = room(registry)
    lag = vocabulary.LAG if room is WorkerMetrics else vocabulary.CONNECTOR_LAG
    first, second = TopicPartition("dsr.requests.v1", 0), TopicPartition("dsr.requests.v1", 1)

    def seen(one: TopicPartition) -> float | None:
        return registry.get_sample_value(lag.name, texts(one._asdict()))

    metrics.replace(lag, {first: 5, second: 6})
    metrics.replace(lag, {second: 7})
    assert (seen(first), seen(second)) == (None, 7)
    metrics.replace(lag, {first: 8})
    assert (seen(first), seen(second)) == (8, None)


@both_rooms
@pytest.mark.parametrize(
    "value",
    ["canary@example.org", "+31612345678", "31612345678", "ord_" + "0" * 32, "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "a b", ""],
)
def test_a_label_that_is_an_id_or_an_address_is_refused(room, specs, value):
    """A person or a request cannot become a label, and the refusal does not repeat the value."""
    metrics: Metrics = room(CollectorRegistry())
    spec = vocabulary.ORDERS_RESENT if room is WorkerMetrics else vocabulary.CONNECTOR_JOBS_OPEN
    with pytest.raises(ValueError, match="label system: use an enum member") as refusal:
        metrics.count(spec, system=value) if room is WorkerMetrics else metrics.set(spec, 1, system=value)
    assert not value or value not in str(refusal.value)


@pytest.mark.parametrize(
    ("owner", "shown"),
    [
        ("CRM team (Utrecht)", True),
        ("Équipe marketing & ventes", True),
        ("2nd line", True),
        ("canary@example.org", False),
        ("Robin +31 6 12345678", False),
        ("Robin 06 12 34 56 78", False),
        ("3f2504e0-4f89-41d3-9a0c-0305e82c3301", False),
        ("Team\nX", False),
    ],
)
def test_an_owner_is_shown_if_it_is_a_teams_name(owner, shown):
    """What may be a person's address or number is no label; a worker with such a registry starts all the same."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    assert team_of(owner) == (owner if shown else NOT_SHOWN)
    if not shown:
        with pytest.raises(ValueError, match="label owner: use an enum member"):
            metrics.set(vocabulary.SYSTEM_INFO, 1, system="crm", owner=owner)
    metrics.set(vocabulary.SYSTEM_INFO, 1, system="crm", owner=team_of(owner))
    assert registry.get_sample_value("dsr_system_info", {"system": "crm", "owner": team_of(owner)}) == 1


def test_the_other_rooms_metric_is_refused():
    """Each process exposes its own room's metrics only."""
    with pytest.raises(ValueError, match="dsr_outbox_records is no metric of this process"):
        ConnectorMetrics(CollectorRegistry()).set(vocabulary.OUTBOX, 1)
    with pytest.raises(ValueError, match="dsr_connector_orders_total is no metric of this process"):
        WorkerMetrics(CollectorRegistry()).count(vocabulary.CONNECTOR_ORDERS, system="crm", right=Right.ACCESS)


@every_metric
def test_names_follow_the_convention(spec):
    """Counters end in `_total`, durations in `_seconds`, histograms alone have ascending buckets, help is a sentence."""
    assert re.fullmatch(r"dsr_[a-z_]+", spec.name)
    assert (spec.kind == "counter") == spec.name.endswith("_total")
    assert (spec.kind == "histogram") == bool(spec.buckets)
    assert list(spec.buckets) == sorted(set(spec.buckets))
    assert re.fullmatch(r"[A-Z0-9].*[.]|1;.*[.]", spec.help)


NAMES = {
    "system": str,
    "owner": str,
    "portal": str,
    "topic": str,
    "type": str,
    "partition": int,
    "version": str,
    "registry": str,
}


@every_metric
def test_labels_are_enums_or_registry_names(spec):
    """No label has a type or a name that could hold an id."""
    for name, kind in get_type_hints(spec.labels).items():
        if name in spec.label_names:
            assert issubclass(kind, StrEnum) or NAMES[name] is kind


def test_the_list_is_complete():
    """Every constant of the module is in the list of its room, and names are unique."""
    constants = [value for value in vars(vocabulary).values() if isinstance(value, MetricSpec)]
    assert {spec.name for spec in constants} == set(BY_NAME)
    assert len(constants) == len(BY_NAME)


@pytest.mark.parametrize(
    ("folder", "specs"), [("orchestrator", WORKER_METRICS), ("connectors", CONNECTOR_METRICS)], ids=["worker", "connector"]
)
def test_every_metric_is_written_by_its_room(folder, specs):
    """A metric that nothing writes would show an empty panel and an alert that never fires."""
    code = "\n".join(path.read_text() for path in (ROOT / folder).rglob("*.py"))
    constants = {value.name: name for name, value in vars(vocabulary).items() if isinstance(value, MetricSpec)}
    unwritten = [
        spec.name for spec in specs if not re.search(rf"\.(count|set|replace|observe)\(\s*{constants[spec.name]}\b", code)
    ]
    assert unwritten == []


EDGES = {-400: "overdue", -1: "overdue", 0: "0-2", 2: "0-2", 3: "3-7", 7: "3-7", 8: "8-14", 14: "8-14", 15: "15+", 90: "15+"}


@pytest.mark.parametrize(("days", "bucket"), EDGES.items())
def test_days_left_fall_into_buckets(days, bucket):
    """The due date itself is not overdue; the day after is."""
    assert DaysLeft.of(days) == DaysLeft(bucket)


MISTAKES = [
    "metrics.count(ORDERS_SENT, sistem='crm', right=Right.ERASURE)",
    "metrics.count(ORDERS_SENT, system='crm')",
    "metrics.count(ORDERS_SENT, system='crm', right='erasure')",
    "metrics.count(ORDERS_SENT, system='crm', right=Right.ERASURE, subject_request_id='x')",
    "metrics.count(OUTBOX)",
    "metrics.set(STORE_CONFLICTS, 1)",
    "metrics.observe(STORE_SECONDS, 0.1, operation='load')",
    "metrics.replace(LAG, {BySystem('crm'): 1})",
    "metrics.count(ORDERS_SEND, system='crm', right=Right.ERASURE)",
]
RIGHT_WAYS = [
    "metrics.count(ORDERS_SENT, system='crm', right=Right.ERASURE)",
    "metrics.count(STORE_CONFLICTS)",
    "metrics.set(OUTBOX, 3)",
    "metrics.observe(STORE_SECONDS, 0.1, operation=StoreOperation.LOAD)",
    "metrics.replace(LAG, {TopicPartition('dsr.requests.v1', 1): 1})",
]


def test_a_mistake_is_a_type_error(tmp_path):
    """Mypy refuses a misspelt metric, a misspelt, missing or surplus label, a wrong enum and a wrong kind; the rest passes."""
    head = [
        "from schemas.metric_labels import BySystem, StoreOperation, TopicPartition",
        "from schemas.metrics import LAG, ORDERS_SENT, OUTBOX, STORE_CONFLICTS, STORE_SECONDS, Metrics",
        "from schemas.vocabulary import Right",
        "def check(metrics: Metrics) -> None:",
    ]
    source = tmp_path / "snippet.py"
    source.write_text("\n".join(head + [f"    {line}" for line in RIGHT_WAYS + MISTAKES]) + "\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(source),
    ]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    wrong = {int(found[1]) for found in re.finditer(r"snippet\.py:(\d+): error", told.stdout)}
    first = len(head) + len(RIGHT_WAYS) + 1
    assert wrong == set(range(first, first + len(MISTAKES))), told.stdout + told.stderr


def test_label_sets_of_one_shape_and_two_meanings_stay_apart():
    """A label set is its own type, and the one without labels is empty."""
    assert BySystem("crm")._fields == ("system",)
    assert NoLabels() == ()
