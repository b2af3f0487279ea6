"""The alerts, each with an owner, a sentence and a page in the runbook; `generate` writes them as Prometheus rules.

Labels of an alert: `severity` (`page` wakes somebody, `ticket` is the next working day's work) and `owner`, who gets it; where
that is a system's owner, `team` is the registry's name for them.

Room rules: data; metric names come from `schemas.metrics`, numbers from `thresholds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploy.observability import thresholds as at
from schemas import metrics as m
from schemas.metric_labels import KeyRefusal, KeyState, QuestionRefusal
from schemas.metrics import MetricSpec
from schemas.vocabulary import EscalationReason, OrderPhase, OutcomeCode, Phase, QuarantineReason

__all__ = ["ALERTS", "Alert", "growth", "rules"]

Owner = Literal["privacy_officer", "system_owner", "sre"]
RUNBOOK = "docs/runbook.md"


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    `expr`: PromQL, fires for every series it returns. `wait`: how long it must hold. `summary`: one sentence for the owner,
    with Prometheus' template fields. The runbook has a heading of the alert's name.
    """

    name: str
    owner: Owner
    severity: Literal["page", "ticket"]
    expr: str
    wait: str
    summary: str


def growth(spec: MetricSpec[..., Any], window: str, by: str, selector: str = "") -> str:
    """Return PromQL for how much a counter grew within the window, the first value of a new series included.

    `increase` alone starts counting at a series' second sample, so the first quarantined record of a topic would go unnoticed.
    """
    series = f"{spec.name}{{{selector}}}" if selector else spec.name
    return f"sum by ({by}) (({series} unless {series} offset {window}) or increase({series}[{window}]))"


def told(reason: EscalationReason, by: str) -> str:
    """Return PromQL for how often a person was told of this within the window of new facts."""
    return growth(m.ESCALATIONS, at.NEW_FACT_WINDOW, by, f'reason="{reason}"') + " > 0"


#: Reasons of a record whose signature is missing, or is not one that is believed.
_UNBELIEVED = 'reason=~"signature_.*|signer_unknown"'

#: A key that is asked for too late is daily business; the others are not.
_NOT_ITS_OWN = f'reason!~"{KeyRefusal.CLOSED}|{KeyRefusal.UNREADABLE}"'

#: Who does not say who he is, or asks without end. Most other reasons are of a worker that is busy or away.
_STRANGERS = f'reason=~"{QuestionRefusal.UNAUTHORISED}|{QuestionRefusal.TOO_MANY}"'

ALERTS: tuple[Alert, ...] = (
    Alert(
        "DsrRequestOverdue", "privacy_officer", "page",
        f'max by (right) ({m.REQUESTS_OPEN_BY_DAYS_LEFT.name}{{days_left="overdue"}}) > 0', at.SETTLE,
        "{{ $value }} open {{ $labels.right }} request(s) are past the legal due date.",
    ),
    Alert(
        "DsrDueDatePassed", "privacy_officer", "ticket",
        told(EscalationReason.OVERDUE, "reason"), "0m",
        '{{ $value | printf "%.0f" }} request(s) passed the legal due date within a day, answered since or not.',
    ),
    Alert(
        "DsrRequestDueSoon", "privacy_officer", "ticket",
        f'max by (right) ({m.REQUESTS_OPEN_BY_DAYS_LEFT.name}{{days_left="0-2"}}) > 0', at.SETTLE,
        "{{ $value }} open {{ $labels.right }} request(s) are due within two days.",
    ),
    Alert(
        "DsrVerificationWaits", "privacy_officer", "ticket",
        f'max by (phase) ({m.REQUESTS_OLDEST_AGE.name}{{phase="{Phase.VERIFYING}"}}) > {at.VERIFICATION_SECONDS}', at.SETTLE,
        "A request has waited {{ $value | humanizeDuration }} for its portal to say who is asking.",
    ),
    Alert(
        "DsrApprovalAwaited", "privacy_officer", "ticket",
        told(EscalationReason.APPROVAL_AWAITED, "reason"), "0m",
        '{{ $value | printf "%.0f" }} request(s) began to wait for a second pair of eyes within a day.',
    ),
    Alert(
        "DsrHoldReview", "privacy_officer", "ticket",
        told(EscalationReason.HOLD_REVIEW, "reason"), "0m",
        '{{ $value | printf "%.0f" }} hold(s) came to the end of their review day within a day: none ends by itself.',
    ),
    Alert(
        "DsrEscalationsWaiting", "system_owner", "ticket",
        f'max by (system) ({m.ORDERS_OPEN.name}{{phase="{OrderPhase.ESCALATED}"}}) > 0', at.UNATTENDED,
        "{{ $value }} escalated order(s) of {{ $labels.system }} have waited a day for somebody to retry or waive them.",
    ),
    Alert(
        "DsrRetentionEnded", "privacy_officer", "ticket",
        told(EscalationReason.RETENTION_ENDED, "system"), "0m",
        "The reason {{ $labels.system }} gave for keeping data has ended: the data must be erased now.",
    ),
    Alert(
        "DsrRetentionReview", "privacy_officer", "ticket",
        told(EscalationReason.RETENTION_REVIEW, "system"), "0m",
        "{{ $labels.system }} has kept data for long without a date on which that ends: look whether the reason still holds.",
    ),
    Alert(
        "DsrLateReport", "privacy_officer", "ticket",
        told(EscalationReason.LATE_REPORT, "system"), "0m",
        "{{ $labels.system }} reported something else than what stands: what a person was told may be wrong.",
    ),
    Alert(
        "DsrConnectorFailing", "system_owner", "ticket",
        growth(m.REPORTS_RECEIVED, at.FAILED_WINDOW, "system", f'outcome="{OutcomeCode.FAILED}"')
        + f" >= {at.FAILED_REPORTS}", "0m",
        "{{ $labels.system }} reported {{ $value | humanize }} failures within " + at.FAILED_WINDOW + ".",
    ),
    Alert(
        "DsrConnectorSilent", "system_owner", "ticket",
        f'min_over_time(max by (system) ({m.ORDERS_OPEN.name}{{phase="{OrderPhase.SENT}"}})[{at.CONNECTOR_SILENT}:10m]) > 0'
        f' unless on (system) {growth(m.REPORTS_RECEIVED, at.CONNECTOR_SILENT, "system")} > 0', at.SETTLE,
        "{{ $labels.system }} has had orders for " + at.CONNECTOR_SILENT + " and reported nothing.",
    ),
    Alert(
        "DsrConnectorDown", "system_owner", "ticket",
        f'up{{job="{at.CONNECTOR_JOB}"}} == 0', at.CONNECTOR_DOWN,
        "The connector at {{ $labels.instance }} does not answer.",
    ),
    Alert(
        "DsrBacklogLate", "system_owner", "ticket",
        f"max by (system) ({m.CONNECTOR_ORDERS_LATE.name}) > 0", at.FORECAST_SETTLES,
        "{{ $value }} order(s) waiting for {{ $labels.system }} will be done after their legal due date.",
    ),
    Alert(
        "DsrConnectorLeftAlone", "system_owner", "ticket",
        f"max by (system) (max_over_time({m.CONNECTOR_PAUSE_SECONDS.name}[{at.PAUSE_PROBED}])) > 0", at.LEFT_ALONE,
        "{{ $labels.system }} has failed every probe for " + at.LEFT_ALONE + ": its orders wait.",
    ),
    Alert(
        "DsrClockDisagrees", "sre", "ticket",
        told(EscalationReason.CLOCK_DISAGREES, "reason"), "0m",
        '{{ $value | printf "%.0f" }} request(s) within a day say a time far from ours: their legal due dates are in doubt.',
    ),
    Alert(
        "DsrQuarantineGrowing", "sre", "ticket",
        growth(m.QUARANTINED, at.NEW_FACT_WINDOW, "topic, reason") + " > 0", "0m",
        "Records of {{ $labels.topic }} were set aside as {{ $labels.reason }}.",
    ),
    Alert(
        "DsrSignatureRefused", "sre", "page",
        growth(m.QUARANTINED, at.NEW_FACT_WINDOW, "topic, reason", _UNBELIEVED) + " > 0", "0m",
        "Somebody wrote to {{ $labels.topic }} what they may not say, or a key is wrong: {{ $labels.reason }}.",
    ),
    Alert(
        "DsrDefectSetAside", "sre", "page",
        growth(m.QUARANTINED, at.NEW_FACT_WINDOW, "topic", f'reason="{QuarantineReason.DEFECT}"') + " > 0", "0m",
        "The orchestrator's own code failed at records of {{ $labels.topic }}: they wait in quarantine for a mended release.",
    ),
    Alert(
        "DsrWakesFailing", "sre", "page",
        f"max({m.WAKES_FAILED.name}) > 0", at.SETTLE,
        "The orchestrator's own code fails at {{ $value }} request(s) whose moment has come: their timers do not fire.",
    ),
    Alert(
        "DsrConnectorQuarantineGrowing", "system_owner", "ticket",
        growth(m.CONNECTOR_QUARANTINED, at.NEW_FACT_WINDOW, "system, reason") + " > 0", "0m",
        "The connector of {{ $labels.system }} set orders aside as {{ $labels.reason }}.",
    ),
    Alert(
        "DsrKeyRefused", "sre", "page",
        growth(m.KEYS_REFUSED, at.NEW_FACT_WINDOW, "system, reason", _NOT_ITS_OWN) + " > 0", "0m",
        "The connector of {{ $labels.system }} asked for keys that are not its own to have: {{ $labels.reason }}.",
    ),
    Alert(
        "DsrKeyQuestionsRefused", "sre", "ticket",
        growth(m.KEY_QUESTIONS_REFUSED, at.NEW_FACT_WINDOW, "reason", _STRANGERS) + f" > {at.STRANGERS} or "
        + growth(m.KEY_QUESTIONS_REFUSED, at.NEW_FACT_WINDOW, "reason", f'reason="{QuestionRefusal.FOREIGN_SYSTEM}"') + " > 0",
        "0m",
        '{{ $value | printf "%.0f" }} questions about keys of orders were refused in a day: {{ $labels.reason }}.',
    ),
    Alert(
        "DsrTrustFileRefused", "sre", "ticket",
        f"max({m.TRUST_FILE_REFUSED.name}) > 0", at.SETTLE,
        "A worker cannot use its trust file as it is now: whom it believes is what the file said before.",
    ),
    Alert(
        "DsrKeysUnavailable", "sre", "page",
        f"sum by (system) (increase({m.CONNECTOR_KEYS_UNAVAILABLE.name}[{at.KEYS_AWAY}])) > {at.KEYS_AWAY_TIMES}", at.SETTLE,
        "The connector of {{ $labels.system }} gets no answer about keys: it takes no orders.",
    ),
    Alert(
        "DsrRequestKeysLeft", "privacy_officer", "ticket",
        f'max by (state) ({m.REQUEST_KEYS.name}{{state!="{KeyState.CURRENT}"}}) > 0', at.UNATTENDED,
        "{{ $value }} request key(s) are {{ $labels.state }}: what they seal can be opened for longer than policy allows.",
    ),
    Alert(
        "DsrWorkerDown", "sre", "page",
        f'absent(up{{job="{at.WORKER_JOB}"}} == 1)', at.WORKER_DOWN,
        "No worker answers: no request moves and no timer fires.",
    ),
    Alert(
        "DsrNoCommitProgress", "sre", "page",
        f"max by (topic, partition) ({m.COMMIT_AGE.name}) > {at.NO_COMMIT_SECONDS}", at.SETTLE,
        "{{ $labels.topic }}/{{ $labels.partition }}: records wait and none was taken for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "DsrSweeperStopped", "sre", "page",
        f"sum(increase({m.SWEEP_SECONDS.name}_count[{at.SWEEPER_STILL}])) == 0", at.SETTLE,
        "No worker has swept for " + at.SWEEPER_STILL + ": orders are not sent again and nobody is warned of due dates.",
    ),
    Alert(
        "DsrOutboxStuck", "sre", "page",
        f"min_over_time(max({m.OUTBOX.name})[{at.OUTBOX_STILL}:1m]) > 0"
        f" unless sum(increase({m.PUBLISH_SECONDS.name}_count[{at.OUTBOX_STILL}])) > 0", at.SETTLE,
        "{{ $value }} batch(es) of decided effects are saved and not published.",
    ),
    Alert(
        "DsrStoreConflicts", "sre", "ticket",
        f"sum(rate({m.STORE_CONFLICTS.name}[15m])) > {at.CONFLICTS_PER_SECOND}", "15m",
        "Workers collide on the same rows, {{ $value | humanize }} times a second.",
    ),
    Alert(
        "DsrRowDamaged", "sre", "page",
        f"sum(increase({m.ROWS_DAMAGED.name}[{at.NEW_FACT_WINDOW}])) > 0", "0m",
        "What the store keeps of a request does not open: that request stands still.",
    ),
    Alert(
        "DsrCommitsRefused", "sre", "ticket",
        f"sum(increase({m.COMMITS_REFUSED.name}[{at.NEW_FACT_WINDOW}])) > 0", "0m",
        "The commit guard refused an offset that was not yet safe to commit.",
    ),
    Alert(
        "DsrCheckpointOld", "sre", "ticket",
        f"time() - max({m.CHECKPOINT_AT.name}) > {at.CHECKPOINT_OLD_SECONDS}", at.SETTLE,
        "The journal's last checkpoint is {{ $value | humanizeDuration }} old: since then nobody can show that it only grew.",
    ),
    Alert(
        "DsrIntakeKeysOverdue", "sre", "ticket",
        f"max({m.INTAKE_KEYS_OVERDUE.name}) > 0", at.SETTLE,
        "{{ $value }} intake key(s) should have been replaced or destroyed for more than a day.",
    ),
)  # fmt: skip


#: Asked for beside the expression, which so fires as well where no worker tells whose a system is. It looks back, because a
#: label that goes and comes with a worker would make another alert of it each time.
_TEAM = (
    f'{{{{ with printf "max by (owner) (last_over_time({m.SYSTEM_INFO.name}{{system=%q}}[{at.TEAM_REMEMBERED}]))"'
    ' $labels.system | query }}{{ . | sortByLabel "owner" | first | label "owner" }}{{ end }}'
)


def _labels(alert: Alert) -> dict[str, str]:
    of_a_system = alert.owner == "system_owner" and "$labels.system" in alert.summary
    return {"owner": alert.owner, "severity": alert.severity} | ({"team": _TEAM} if of_a_system else {})


def rules() -> dict[str, Any]:
    """Return the alerts as one Prometheus rule group, in the shape of its rule files."""
    return {
        "groups": [
            {
                "name": "dsr",
                "rules": [
                    {
                        "alert": alert.name,
                        "expr": alert.expr,
                        **({} if alert.wait == "0m" else {"for": alert.wait}),
                        "labels": _labels(alert),
                        "annotations": {"summary": alert.summary, "runbook": f"{RUNBOOK}#{alert.name.lower()}"},
                    }
                    for alert in ALERTS
                ],
            }
        ]
    }
