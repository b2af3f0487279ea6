"""Alerts, dashboard and tables: what is generated is what its source says, and nothing speaks of a metric that is not there."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from deploy.observability import generate, promtool, thresholds
from deploy.observability.alerts import ALERTS, rules
from deploy.observability.dashboards import PANELS, dashboard
from schemas.metrics import BY_NAME, ESCALATIONS
from schemas.vocabulary import EscalationReason

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
TESTS = sorted((FOLDER / "tests").glob("*.test.yaml"))
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
#: Fetching the tool may build it from source, once per machine.
may_fetch = pytest.mark.timeout(2000)

EXPRESSIONS = {alert.name: alert.expr for alert in ALERTS} | {
    f"{panel.title}: {query.legend}": query.expr for panels in PANELS.values() for panel in panels for query in panel.queries
}
every_expression = pytest.mark.parametrize("expr", EXPRESSIONS.values(), ids=EXPRESSIONS)


@pytest.fixture(scope="module")
def tool() -> Path:
    """Return promtool; a machine that cannot have it fails these tests with the sentence that says how to get it."""
    return promtool.find("promtool")


def told(command: list[str | Path]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def metrics_in(expr: str) -> Iterator[tuple[str, str]]:
    """Yield (metric, series name) for every series of ours in a PromQL text."""
    for series in re.findall(r"dsr_[a-z_]+", expr):
        yield re.sub(r"_(bucket|count|sum)$", "", series) if series not in BY_NAME else series, series


def test_generated_files_are_what_their_sources_say():
    """Whoever changes an alert, a panel or the vocabulary generates again, the table in operations.md included."""
    assert generate.outdated() == []


def test_a_stale_file_is_named(monkeypatch, tmp_path, capsys):
    """`--check` fails and names the file; without it the file is written."""
    copy = tmp_path / "deploy" / "observability"
    shutil.copytree(FOLDER / "generated", copy / "generated")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "operations.md", tmp_path / "docs")
    monkeypatch.setattr(generate, "_ROOT", tmp_path)
    monkeypatch.setattr(generate, "_ALERTS", copy / "generated" / "alerts.yaml")
    monkeypatch.setattr(generate, "_DASHBOARD", copy / "generated" / "dashboard.json")
    monkeypatch.setattr(generate, "_OPERATIONS", tmp_path / "docs" / "operations.md")
    assert generate.main(["--check"]) == 0
    (copy / "generated" / "alerts.yaml").write_text("groups: []\n")
    assert generate.main(["--check"]) == 1
    assert "deploy/observability/generated/alerts.yaml is not what" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


@every_expression
def test_every_series_is_in_the_vocabulary_with_its_labels(expr):
    """No alert and no panel waits for a metric or a label that nobody writes."""
    for metric, series in metrics_in(expr):
        spec = BY_NAME[metric]
        assert (spec.kind == "histogram") == (series != metric), f"{series}: ask for _bucket, _count or _sum"
        for selector in re.findall(rf"{series}\{{([^}}]*)\}}", expr):
            assert set(re.findall(r"(\w+)\s*=", selector)) <= set(spec.label_names), series
    known = {name for metric, _ in metrics_in(expr) for name in BY_NAME[metric].label_names}
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr):
        assert set(re.split(r",\s*", group)) <= known | {"le", "job"}


@every_expression
def test_numbers_every_worker_counts_are_not_summed_over_workers(expr):
    """A gauge counted in the one store goes through `max` first, else two workers make two of one request."""
    for metric, series in metrics_in(expr):
        if BY_NAME[metric].shared:
            assert re.search(rf"max(?: by \([a-z_, ]+\))? ?\({series}", expr), expr


@every_expression
def test_label_values_are_words_of_the_vocabulary(expr):
    """A comparison with a phase, an outcome or a reason that does not exist would never be true."""
    for metric, series in metrics_in(expr):
        kinds = get_type_hints(BY_NAME[metric].labels)
        for selector in re.findall(rf"{series}\{{([^}}]*)\}}", expr):
            for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
                assert issubclass(kinds[label], StrEnum)
                assert value in list(kinds[label])


@every_alert
def test_every_alert_has_a_runbook_entry_and_an_owner(alert):
    """Whoever is woken finds what it means for people, what to look at and what to do."""
    entries = (ROOT / "docs" / "runbook.md").read_text().split("\n## ")[1:]
    (entry,) = [text for text in entries if text.splitlines()[0] == alert.name]
    assert all(f"- **{part}:** " in entry for part in ("People", "Look at", "Do"))
    assert alert.summary.endswith(".")


#: Reasons whose cause lasts until a person acts: a gauge of what is open shows them.
SEEN_BY_GAUGE = {
    EscalationReason.ORDER_FAILED: "DsrEscalationsWaiting",
    EscalationReason.NO_ANSWER: "DsrEscalationsWaiting",
    EscalationReason.LATE_BEYOND_PROMISE: "DsrEscalationsWaiting",
    EscalationReason.DUE_SOON: "DsrRequestDueSoon",
}


@pytest.mark.parametrize("reason", EscalationReason)
def test_every_escalation_reaches_somebody(reason):
    """'A person is told' is true of a reason when an alert fires for it."""
    counted = [alert.name for alert in ALERTS if f'{ESCALATIONS.name}{{reason="{reason}"}}' in alert.expr]
    seen = [alert.name for alert in ALERTS if alert.name == SEEN_BY_GAUGE.get(reason)]
    assert len(counted + seen) == 1


def test_alerts_of_a_system_name_its_team():
    """Whatever a system's owner is told can be routed to the team; what is not of a system is nobody's in particular."""
    (group,) = rules()["groups"]
    named = {rule["alert"] for rule in group["rules"] if "team" in rule["labels"]}
    assert named == {
        "DsrEscalationsWaiting", "DsrConnectorFailing", "DsrConnectorSilent", "DsrBacklogLate", "DsrConnectorLeftAlone",
        "DsrConnectorQuarantineGrowing",
    }  # fmt: skip


def test_the_runbook_speaks_of_no_other_alert():
    """A heading without its alert is history."""
    headings = re.findall(r"^## (\S+)", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [alert.name for alert in ALERTS]


@every_alert
def test_every_alert_is_tested_both_ways(alert):
    """Promtool sees each alert fire, and sees it not fire."""
    cases = [
        case
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert.name
    ]
    assert any(case["exp_alerts"] for case in cases)
    assert any(not case["exp_alerts"] for case in cases)


def test_every_threshold_is_used():
    """A number that nothing compares with is a promise that nothing keeps."""
    source = (FOLDER / "alerts.py").read_text()
    assert [name for name in thresholds.__all__ if f"at.{name}" not in source] == []


@may_fetch
def test_promtool_accepts_the_rules(tool):
    """Prometheus' own checker reads the generated file."""
    assert f"{len(ALERTS)} rules found" in told([tool, "check", "rules", FOLDER / "generated" / "alerts.yaml"])


@may_fetch
def test_the_configuration_to_start_from_is_one(tool, tmp_path):
    """Prometheus' own checker reads it, it loads our rules, its jobs are those the alerts ask for, and each sends the token."""
    (tmp_path / "generated").symlink_to(FOLDER / "generated")
    (tmp_path / "dsr-metrics-token").write_text("a" * 32)
    configuration = shutil.copy(FOLDER / "prometheus.yaml", tmp_path)
    assert f"{len(ALERTS)} rules found" in told([tool, "check", "config", configuration])
    jobs = {job["job_name"]: job for job in yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]}
    assert set(jobs) == {thresholds.WORKER_JOB, thresholds.CONNECTOR_JOB}
    for job in jobs.values():
        assert job["authorization"] == {"type": "Bearer", "credentials_file": "dsr-metrics-token"}


@may_fetch
def test_promtool_sees_the_alerts_fire_and_not_fire(tool):
    """Prometheus' own unit tests pass on the generated file."""
    told([tool, "test", "rules", *TESTS])


@may_fetch
def test_promtool_can_read_every_panel(tool, tmp_path):
    """Each panel's expression is PromQL once Grafana has put its variables in."""
    rules = [
        {"record": f"panel_{index}", "expr": expr.replace("$__rate_interval", "5m").replace("$system", ".+")}
        for index, expr in enumerate(EXPRESSIONS.values())
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    told([tool, "check", "rules", tmp_path / "panels.yaml"])


def panels() -> list[dict[str, Any]]:
    return json.loads((FOLDER / "generated" / "dashboard.json").read_text())["panels"]


@pytest.mark.parametrize("panel", [p for p in panels() if p["type"] != "row"], ids=lambda panel: panel["title"])
def test_every_panel_explains_itself(panel):
    """A stranger finds a title, a sentence, a unit, named lines and the data source they chose."""
    assert re.fullmatch(r"[A-Z].{3,50}", panel["title"])
    assert re.fullmatch(r"[A-Z].{10,}\.", panel["description"])
    assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "ops", "none"}
    assert panel["targets"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for target in panel["targets"]:
        assert target["legendFormat"]
        for name in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert re.search(rf"by \([^)]*\b{name}\b[^)]*\)", target["expr"]), f"{name} is not among the result's labels"
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        seconds = bool(re.match(r"(histogram_quantile|.*_seconds\b)", target["expr"]))
        assert seconds == (panel["fieldConfig"]["defaults"]["unit"] == "s")
        assert ("rate(" in target["expr"] and not seconds) == (panel["fieldConfig"]["defaults"]["unit"] == "ops")


def test_the_dashboard_has_a_row_for_each_reader_and_no_overlap():
    """Three rows, unique ids and titles, no panel on top of another, all variables defined."""
    shown = panels()
    assert [p["title"] for p in shown if p["type"] == "row"] == list(PANELS)
    assert len({p["id"] for p in shown}) == len({p["title"] for p in shown}) == len(shown)
    cells = [
        (x, y)
        for grid in (p["gridPos"] for p in shown)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(shown))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in dashboard()["templating"]["list"]}


def test_every_metric_is_shown_or_watched():
    """What is measured is looked at by somebody."""
    looked_at = {metric for expr in EXPRESSIONS.values() for metric, _ in metrics_in(expr)}
    assert set(BY_NAME) - looked_at == set()


def test_a_machine_without_the_tool_is_told_how_to_get_it(monkeypatch, tmp_path):
    """Without PATH, network and cache the sentence names the version and the ways that were tried."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(promtool.ToolMissing, match=r"promtool is not on PATH .* Install Prometheus 2\.42\.0 or newer"):
        promtool.find("promtool")
