"""The dashboard, as data: a row for a privacy officer, one for a system's owner, one for whoever is on call.

`generate` writes it as Grafana's JSON; the shape is Grafana's dashboard model, schema version 39
(https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/).

Room rules: data and the few lines that turn it into Grafana's shape; metric names come from `schemas.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from deploy.observability import thresholds as at
from schemas import metrics as m
from schemas.metrics import HistogramSpec, MetricSpec
from schemas.vocabulary import Phase

__all__ = ["PANELS", "Panel", "Query", "dashboard"]

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT = 8, 8
_SYSTEM = 'system=~"$system"'
_RATE = "$__rate_interval"

Unit = Literal["short", "s", "ops", "none"]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and what its lines are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `bad_above`: the value from which it is shown in red, None where no value is bad by itself."""

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "bargauge"] = "timeseries"
    bad_above: float | None = None


def _total(spec: MetricSpec[..., Any], by: str, selector: str = "") -> str:
    """Sum a gauge that every worker counts alike: once per label set, not once per worker."""
    inner = ", ".join(spec.label_names)
    series = f"{spec.name}{{{selector}}}" if selector else spec.name
    once = f"max by ({inner}) ({series})"
    return f"sum by ({by}) ({once})" if by else f"sum({once}) or vector(0)"


def _per_second(spec: MetricSpec[..., Any], by: str, selector: str = "") -> str:
    return f"sum by ({by}) (rate({spec.name}{{{selector}}}[{_RATE}]))"


def _within(spec: MetricSpec[..., Any], window: str, by: str, selector: str = "") -> str:
    return f"sum by ({by}) (increase({spec.name}{{{selector}}}[{window}]))"


def _quantile(spec: HistogramSpec[..., Any], share: float, window: str = _RATE, by: str = "", selector: str = "") -> str:
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({groups}) (rate({spec.name}_bucket{{{selector}}}[{window}])))"


_PRIVACY_OFFICER = (
    Panel("Past the due date", "Open requests whose legal due date has passed. Must be 0.", "none",
          (Query(_total(m.REQUESTS_OPEN_BY_DAYS_LEFT, "", 'days_left="overdue"'), "overdue"),), "stat", 1),
    Panel("Days left", "Open requests by the whole days left until the legal due date.", "none",
          (Query(_total(m.REQUESTS_OPEN_BY_DAYS_LEFT, "days_left"), "{{days_left}}"),), "bargauge"),
    Panel("Oldest request", "Age of the oldest request in each phase: verifying waits for the portal, active for systems.", "s",
          (Query(f"max by (phase) ({m.REQUESTS_OLDEST_AGE.name})", "{{phase}}"),), "bargauge", at.VERIFICATION_SECONDS),
    Panel("Open requests", "Requests that are not closed, by right.", "short",
          (Query(_total(m.REQUESTS_OPEN, "right"), "{{right}}"),)),
    Panel("Waiting for identity", "Requests whose portal has not yet said who is asking.", "short",
          (Query(_total(m.REQUESTS_OPEN, "right", f'phase="{Phase.VERIFYING}"'), "{{right}}"),)),
    Panel("Received and closed, per day", "Requests accepted from portals and requests confirmed, over the last day.", "short",
          (Query(_within(m.REQUESTS_RECEIVED, "1d", "portal"), "received: {{portal}}"),
           Query(_within(m.REQUESTS_CLOSED, "1d", "result"), "closed: {{result}}"))),
    Panel("Time to confirmation", "From receipt to the signed confirmation, of requests closed in the last 30 days: half are"
          " faster than p50, one in twenty is slower than p95.", "s",
          (Query(_quantile(m.REQUEST_DURATION, 0.5, "30d", "right"), "p50 {{right}}"),
           Query(_quantile(m.REQUEST_DURATION, 0.95, "30d", "right"), "p95 {{right}}"))),
    Panel("How requests ended", "Results of the requests closed in the last 30 days.", "short",
          (Query(_within(m.REQUESTS_CLOSED, "30d", "right, result"), "{{right}}: {{result}}"),), "bargauge"),
    Panel("People told", "Escalations by reason, and extensions refused as unlawful, over the last day.", "short",
          (Query(_within(m.ESCALATIONS, "1d", "reason"), "{{reason}}"),
           Query(f"sum(increase({m.EXTENSION_INVALID.name}[1d]))", "extension refused"))),
)  # fmt: skip

_SYSTEM_OWNER = (
    Panel("Orders open", "Orders to the system that are not settled. Escalated ones wait for a person.", "short",
          (Query(_total(m.ORDERS_OPEN, "system, phase", _SYSTEM), "{{system}}: {{phase}}"),)),
    Panel("Answers, per day", "Reports by outcome over the last day. `failed` never closes a request.", "short",
          (Query(_within(m.REPORTS_RECEIVED, "1d", "system, outcome", _SYSTEM), "{{system}}: {{outcome}}"),)),
    Panel("Time to the final answer", "From the first sending of an order to its final report, one in twenty is slower.", "s",
          (Query(_quantile(m.ORDER_DURATION, 0.95, "7d", "system", _SYSTEM), "p95 {{system}}"),)),
    Panel("Orders sent", "Orders sent for the first time and sent again, over the last day.", "short",
          (Query(_within(m.ORDERS_SENT, "1d", "system, right", _SYSTEM), "{{system}}: {{right}}"),
           Query(_within(m.ORDERS_RESENT, "1d", "system", _SYSTEM), "{{system}}: again"))),
    Panel("At work in the connector", "Orders in the connector's journal that wait, and vendor's jobs that run.", "short",
          (Query(f"sum by (system) ({m.CONNECTOR_ORDERS_WAITING.name}{{{_SYSTEM}}})", "{{system}}: waiting"),
           Query(f"sum by (system) ({m.CONNECTOR_JOBS_OPEN.name}{{{_SYSTEM}}})", "{{system}}: vendor's job"))),
    Panel("Too late at this pace", "Waiting orders that the connector forecasts to be done after their due date.", "short",
          (Query(f"max by (system) ({m.CONNECTOR_ORDERS_LATE.name}{{{_SYSTEM}}})", "{{system}}"),)),
    Panel("Orders taken and answered", "Orders the connector took and reports it published, per second.", "ops",
          (Query(_per_second(m.CONNECTOR_ORDERS, "system", _SYSTEM), "{{system}}: taken"),
           Query(_per_second(m.CONNECTOR_OUTCOMES, "system, outcome", _SYSTEM), "{{system}}: {{outcome}}"))),
    Panel("Calls of the system", "Duration of one call, the throttle's wait left out; one in twenty is slower.", "s",
          (Query(_quantile(m.CONNECTOR_CALL_SECONDS, 0.95, by="system, right", selector=_SYSTEM), "{{system}}: {{right}}"),)),
    Panel("Tries again", "Attempts that did not work out and are repeated, by reason, per second.", "ops",
          (Query(_per_second(m.CONNECTOR_RETRIES, "system, reason", _SYSTEM), "{{system}}: {{reason}}"),)),
    Panel("Over before they were reported", "Orders called off, and what came of it, over the last day.", "short",
          (Query(_within(m.CONNECTOR_CANCELLED, "1d", "system, result", _SYSTEM), "{{system}}: {{result}}"),)),
    Panel("Quota left", "Calls left in the system's day. At 0 orders wait for tomorrow.", "short",
          (Query(f"min by (system) ({m.CONNECTOR_QUOTA_REMAINING.name}{{{_SYSTEM}}})", "{{system}}"),)),
    Panel("Left alone", "How long the system is still left alone after failures in a row.", "s",
          (Query(f"max by (system) ({m.CONNECTOR_PAUSE_SECONDS.name}{{{_SYSTEM}}})", "{{system}}"),)),
    Panel("Orders behind", "Orders in the log that the connector has not yet taken.", "short",
          (Query(f"sum by (topic) ({m.CONNECTOR_LAG.name})", "{{topic}}"),)),
    Panel("Keys not to be had", "Times the orchestrator gave the connector no answer about an order's key, per second.", "ops",
          (Query(_per_second(m.CONNECTOR_KEYS_UNAVAILABLE, "system", _SYSTEM), "{{system}}"),)),
    Panel("Keys given out", "Orders whose key the connector was given, and those it was refused, over the last day.", "short",
          (Query(_within(m.KEYS_RELEASED, "1d", "system", _SYSTEM), "{{system}}"),
           Query(_within(m.KEYS_REFUSED, "1d", "system, reason", _SYSTEM), "{{system}}: refused, {{reason}}"))),
    Panel("Questions refused", "Questions about keys that the workers refused as a whole, over the last day.", "short",
          (Query(_within(m.KEY_QUESTIONS_REFUSED, "1d", "reason"), "{{reason}}"),)),
    Panel("Listeners", "Processes of the system's connector that a worker gives keys unasked; the others ask.", "short",
          (Query(f"sum by (system) ({m.KEYS_LISTENING.name}{{{_SYSTEM}}})", "{{system}}"),)),
    Panel("Orders set aside", "Orders the connector could not read, over the last day.", "short",
          (Query(_within(m.CONNECTOR_QUARANTINED, "1d", "system, reason", _SYSTEM), "{{system}}: {{reason}}"),)),
    Panel("Who is told", "The team that the registry names for each active system.", "none",
          (Query(f"max by (system, owner) ({m.SYSTEM_INFO.name}{{{_SYSTEM}}})", "{{system}}: {{owner}}"),), "stat"),
)  # fmt: skip

_ON_CALL = (
    Panel("Processes up", "Workers and connectors that answer the scrape.", "none",
          (Query(f'sum by (job) (up{{job=~"{at.WORKER_JOB}|{at.CONNECTOR_JOB}"}})', "{{job}}"),), "stat"),
    Panel("What runs", "Workers by version of product and registry. Two lines outside a roll-out are a mistake.", "none",
          (Query(f"count by (version, registry) ({m.BUILD_INFO.name})", "{{version}}, registry {{registry}}"),), "stat"),
    Panel("Records taken", "Records per second, all workers together.", "ops",
          (Query(f"sum(rate({m.BATCH_RECORDS.name}_sum[{_RATE}]))", "records"),
           Query(_per_second(m.IGNORED, "type"), "repeated: {{type}}"))),
    Panel("Records waiting", "Records in the log after the committed offset.", "short",
          (Query(f"sum by (topic) ({m.LAG.name})", "{{topic}}"),)),
    Panel("Without progress", "While records wait: how long ago their number last shrank.", "s",
          (Query(f"max by (topic) ({m.COMMIT_AGE.name})", "{{topic}}"),), bad_above=at.NO_COMMIT_SECONDS),
    Panel("Batch", "From fetch to acknowledgement, and the share of it that publishing takes.", "s",
          (Query(_quantile(m.BATCH_SECONDS, 0.5), "p50 batch"), Query(_quantile(m.BATCH_SECONDS, 0.99), "p99 batch"),
           Query(_quantile(m.PUBLISH_SECONDS, 0.99), "p99 publish"))),
    Panel("Store", "Duration of the store's calls; one in a hundred is slower.", "s",
          (Query(_quantile(m.STORE_SECONDS, 0.99, by="operation"), "p99 {{operation}}"),)),
    Panel("Collisions", "Rows another worker changed in between, and commits the guard refused, over the last hour.", "short",
          (Query(f"sum(increase({m.STORE_CONFLICTS.name}[1h]))", "conflicts"),
           Query(f"sum(increase({m.COMMITS_REFUSED.name}[1h]))", "commits refused"))),
    Panel("Rows damaged", "Times a request was stopped by its own row in the store, over the last day. Must be 0.", "none",
          (Query(f"sum(increase({m.ROWS_DAMAGED.name}[1d]))", "rows"),), "stat", 1),
    Panel("Outbox", "Batches of effects that are decided and saved, and not yet acknowledged by the broker.", "short",
          (Query(f"max({m.OUTBOX.name})", "batches"),)),
    Panel("Keys of requests", "Keys in the store. Old: open beyond policy. Left over: closed, which must be none.",
          "short", (Query(f"max by (state) ({m.REQUEST_KEYS.name})", "{{state}}"),)),
    Panel("Sweeper", "Requests whose moment to wake had come, at the last round; failing: our own code fails at them.", "short",
          (Query(f"max({m.SWEEP_DUE.name})", "due"), Query(f"max({m.WAKES_FAILED.name})", "failing"))),
    Panel("Sweep", "Duration of one round of the sweeper; one in twenty is slower.", "s",
          (Query(_quantile(m.SWEEP_SECONDS, 0.95), "p95"),)),
    Panel("Set aside", "Records in quarantine by topic and reason, over the last day.", "short",
          (Query(_within(m.QUARANTINED, "1d", "topic, reason"), "{{topic}}: {{reason}}"),)),
    Panel("Intake key", "Age of the key that portals seal to: it falls to 0 at each rotation.", "s",
          (Query(f"max({m.INTAKE_KEY_AGE.name})", "age"),)),
    Panel("Intake keys overdue", "Keys that should have been replaced or destroyed for more than a day. Must be 0.", "none",
          (Query(f"max({m.INTAKE_KEYS_OVERDUE.name})", "keys"),), "stat", 1),
)  # fmt: skip

#: The rows, in the order in which people read them.
PANELS: dict[str, tuple[Panel, ...]] = {
    "Requests (privacy officer)": _PRIVACY_OFFICER,
    "Systems (system owner)": _SYSTEM_OWNER,
    "The machine (on call)": _ON_CALL,
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's shape: import it, choose the Prometheus data source, nothing else to set."""
    return {
        "uid": "dsr",
        "title": "Data-subject requests",
        "description": "Requests, systems and the machine. Generated: change deploy/observability/dashboards.py.",
        "tags": ["dsr", "gdpr"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "browser",
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "templating": {"list": [_datasource_variable(), _system_variable()]},
        "panels": _placed(),
    }


def _datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _system_variable() -> dict[str, Any]:
    query = f"label_values({m.ORDERS_SENT.name}, system)"
    return {
        "name": "system",
        "label": "System",
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "systems"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".+",
        "multi": True,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed() -> list[dict[str, Any]]:
    """Give every panel an id and a place: rows of three."""
    numbers = count(1)
    placed: list[dict[str, Any]] = []
    top = 0
    for title, panels in PANELS.items():
        grid = {"h": 1, "w": 3 * _WIDTH, "x": 0, "y": top}
        placed.append({"id": next(numbers), "type": "row", "title": title, "collapsed": False, "gridPos": grid, "panels": []})
        top += 1
        for index, panel in enumerate(panels):
            row, column = divmod(index, 3)
            grid = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + row * _HEIGHT}
            placed.append({"id": next(numbers), "gridPos": grid, **_panel(panel)})
        top += -(-len(panels) // 3) * _HEIGHT
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        steps.append({"color": "red", "value": panel.bad_above})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    instant = panel.kind != "timeseries"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel.kind),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": instant,
                "range": not instant,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _options(kind: str) -> dict[str, Any]:
    if kind == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"reduceOptions": last, "orientation": "horizontal"}
