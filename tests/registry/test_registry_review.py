"""What a registry means: stages, open ends, differences; and the commands that print them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands.registry import default_registry
from orchestrator.core.registry_review import changes, open_ends, stages
from schemas.registry import Registry

RUN = CliRunner()
ALL_RIGHTS = ["access", "rectification", "completion", "erasure", "restriction", "portability", "objection", "unsubscribe"]


def system(name: str, **given: object) -> dict[str, object]:
    return {
        "id": name,
        "title": f"System {name}",
        "role": "processor",
        "owner": "Team",
        "connector": "some",
        "rights": ALL_RIGHTS,
        **given,
    }


KEY = {"kty": "OKP", "crv": "X25519", "x": "AGy2CCsMh9a7OzHClfnUQmLzbjaMqx7gVOJ_ve9KX0c", "kid": "website-2026"}


def registry(*systems: dict[str, object], version: str = "1", **controller: object) -> Registry:
    return Registry.model_validate(
        {
            "version": version,
            "controller": {"title": "Example", "zone": "Europe/Amsterdam", "calendar": "NL", **controller},
            "portals": [{"id": "website", "title": "Website", "owner": "Web team", "blob_key": KEY}],
            "systems": list(systems),
        }
    )


def needs(*kinds: str) -> list[dict[str, str]]:
    return [{"kind": kind} for kind in kinds]


def test_stages_follow_after():
    """A system stands one stage behind the last of those it waits for."""
    found = stages(registry(system("d", after=["b", "c"]), system("a"), system("b", after=["a"]), system("c")))
    assert [[s.id for s in stage] for stage in found] == [["a", "c"], ["b"], ["d"]]


def test_stages_leave_out_what_is_not_planned():
    """Systems without a connector have no stage, and waiting for them counts for nothing."""
    found = stages(registry(system("a", connector=None), system("b", after=["a"]), system("c", status="planned")))
    assert [[s.id for s in stage] for stage in found] == [["b"]]
    assert stages(registry()) == ()


@pytest.mark.parametrize(
    ("systems", "field", "message"),
    [
        ([system("a"), system("b", connector=None)], "systems.b", "no connector in use"),
        ([system("a"), system("b", status="planned")], "systems.b", "no connector in use"),
        ([system("a"), system("b", rights=[])], "systems.b.rights", "lists no right"),
        ([system("a")], "systems.a.needs", "names none: every identifier"),
        ([system("a", rights=ALL_RIGHTS[1:])], "systems", "no system with a connector fulfils access"),
        ([system("a", needs=needs("ga_client_id"))], "systems.a.needs", "yielded by no system"),
        (
            [system("a", needs=needs("ga_client_id"), yields=["ga_client_id"])],
            "systems.a.needs",
            "yielded by no system",
        ),
        (
            [system("a", needs=needs("ga_client_id")), system("b", yields=["ga_client_id"])],
            "systems.a.after",
            "waits for none of b",
        ),
        (
            [system("a", needs=needs("ga_client_id"), after=["b"]), system("b", yields=["ga_client_id"], connector=None)],
            "systems.a.needs",
            "yielded only by b, which no request is sent to",
        ),
        ([system("a", after=["b"]), system("b", connector=None)], "systems.a.after", "names b, which no request is sent to"),
    ],
)
def test_open_ends_are_named(systems: list[dict[str, object]], field: str, message: str):
    """Whatever is lawful to leave open is named with its field and what follows."""
    assert any(place == field and message in text for place, text in open_ends(registry(*systems)))


def test_nothing_is_said_about_a_closed_registry():
    """A registry whose systems are connected, fed and complete has no open ends; a chain of waits is followed."""
    assert not list(
        open_ends(
            registry(
                system("crm", needs=needs("email"), yields=["ga_client_id"]),
                system("middle", needs=needs("email"), after=["crm"]),
                system("last", needs=needs("ga_client_id"), after=["middle"]),
            )
        )
    )


def test_same_content_in_another_order_is_no_difference():
    """Moving systems or the entries of a list changes nothing."""
    one = registry(system("a", rights=["access", "erasure"]), system("b"))
    other = registry(system("b"), system("a", rights=["erasure", "access"]))
    assert list(changes(one, other)) == []


@pytest.mark.parametrize(
    ("old", "new", "field", "change", "meaning"),
    [
        ([], [system("a")], "systems.a", "added, dsr.orders.a.v1 must exist", "the command Add"),
        ([], [system("a", connector=None)], "systems.a", "added, without a connector", "none"),
        ([system("a")], [], "systems.a", "removed", "still wait for it"),
        ([system("a", connector=None)], [], "systems.a", "removed", "none"),
        ([system("a")], [system("a", status="planned")], "systems.a", "no longer in use", "still wait for it"),
        ([system("a", connector=None)], [system("a")], "systems.a", "now in use", "the command Add"),
        (
            [system("a", rights=["access", "objection"])],
            [system("a", rights=["access", "erasure"])],
            "systems.a.rights",
            "-objection +erasure",
            "keep the plan",
        ),
        (
            [system("a", needs=needs("email"))],
            [system("a", needs=[{"kind": "email", "form": "sha256"}])],
            "systems.a.needs",
            "-email(raw) +email(sha256)",
            "keep the plan",
        ),
        (
            [system("a")],
            [system("a", patience="P9D")],
            "systems.a.patience",
            "3 days, 0:00:00 -> 9 days, 0:00:00",
            "keep the plan",
        ),
        ([system("a")], [system("a", connector="other")], "systems.a.connector", "some -> other", "already sent"),
    ],
)
def test_differences_say_what_they_mean_for_open_requests(old: list, new: list, field: str, change: str, meaning: str):
    """Each difference names its field, what changed, and what open requests notice of it."""
    found = list(changes(registry(*old), registry(*new)))
    assert any(c.field == field and c.change.startswith(change) and meaning in c.open_requests for c in found), found


def test_controller_and_portal_differences():
    """A new zone moves no date already told; a removed portal is refused from now on."""
    one = registry()
    other = registry(zone="Europe/Berlin").model_copy(update={"portals": ()})
    found = {c.field: c for c in changes(one, other)}
    assert found["controller.zone"].change == "Europe/Amsterdam -> Europe/Berlin"
    assert "do not move" in found["controller.zone"].open_requests
    assert "unknown_portal" in found["portals.website"].open_requests


# --- commands ---------------------------------------------------------------------------------------------------------


def _file(tmp_path: Path, replace: tuple[str, str] = ("", ""), name: str = "registry.yaml") -> Path:
    text = default_registry().read_text()
    assert replace[0] in text
    path = tmp_path / name
    path.write_text(text.replace(replace[0], replace[1], 1) if replace[0] else text)
    return path


def test_check_names_open_ends_and_topics(tmp_path: Path):
    """A valid registry exits 0, with warnings for what has no connector and the order topics of what has."""
    path = _file(tmp_path, ("connector: hubspot", "connector: null"))
    result = RUN.invoke(app, ["registry", "check", str(path)])
    assert result.exit_code == 0, result.output
    assert "warning: systems.crm: has no connector in use" in result.output
    assert "warning: systems.chat.after: names crm, which no request is sent to" in result.output
    assert "  dsr.orders.crm.v1" not in result.output.splitlines()
    assert "  dsr.orders.google-analytics.v1" in result.output.splitlines()


def test_check_fails_with_every_mistake(tmp_path: Path):
    """A registry with mistakes exits 1 and prints each with file, line and field; --json says the same."""
    path = _file(tmp_path, ("rights: [erasure]", "rights: [deletion, erase]"))
    result = RUN.invoke(app, ["registry", "check", str(path)])
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith(f"{path}:")]
    assert len(lines) == 2
    assert "systems.google-analytics.rights.0: 'deletion' is not a right" in lines[0]
    document = json.loads(RUN.invoke(app, ["registry", "check", str(path), "--json"]).output)
    assert document["valid"] is False
    assert [m["field"] for m in document["mistakes"]] == [f"systems.google-analytics.rights.{n}" for n in (0, 1)]
    assert path.read_text().splitlines()[document["mistakes"][0]["line"] - 1].strip() == "rights: [deletion, erase]"


def test_check_of_an_absent_file_names_the_setting(tmp_path: Path):
    """Without a file the message names the file and the setting, and there is no traceback."""
    result = RUN.invoke(app, ["registry", "check", str(tmp_path / "absent.yaml")])
    assert result.exit_code == 1
    assert "absent.yaml: cannot be read" in result.output
    assert "DSR_REGISTRY" in result.output


def test_the_setting_names_the_file(tmp_path: Path):
    """DSR_REGISTRY replaces the default file."""
    path = _file(tmp_path, ('version: "2026-11"', 'version: "of-the-setting"'))
    document = json.loads(RUN.invoke(app, ["registry", "show", "--json"], env={"DSR_REGISTRY": str(path)}).output)
    assert document["version"] == "of-the-setting"


def _rows(shown: str) -> dict[str, list[str]]:
    return {line.split()[1]: line.split() for line in shown.splitlines() if line[:1] in "123-" and len(line.split()) > 2}


def test_show_prints_rights_and_stages(tmp_path: Path):
    """The table has a row per system with its stage, none for a planned one; the JSON form has the stages as lists."""
    rows = _rows(RUN.invoke(app, ["registry", "show"], env={"DSR_REGISTRY": None}).output)
    planned = _file(tmp_path, ("connector: intercom", "connector: null"))
    assert _rows(RUN.invoke(app, ["registry", "show", str(planned)]).output)["chat"][0] == "-"
    assert rows["crm"][0] == "1"
    assert rows["google-analytics"][0] == "3"
    assert rows["google-analytics"][3:] == ["◆"]
    document = json.loads(RUN.invoke(app, ["registry", "show", "--json"], env={"DSR_REGISTRY": None}).output)
    assert document["stages"][1] == ["accounts", "cookies", "chat", "eventbrite", "authorities"]


def test_diff_warns_of_a_version_used_twice(tmp_path: Path):
    """Two files with one version and different content are noticed; equal ones say the same."""
    old = _file(tmp_path, name="old.yaml")
    new = _file(tmp_path, ("connector: mailchimp", "connector: brevo"), name="new.yaml")
    result = RUN.invoke(app, ["registry", "diff", str(old), str(new)])
    assert result.exit_code == 0
    assert "warning: version: both say 2026-11" in result.output
    assert "systems.newsletter.connector: mailchimp -> brevo" in result.output
    assert json.loads(RUN.invoke(app, ["registry", "diff", str(old), str(new), "--json"]).output)["version_reused"] is True
    assert "They say the same." in RUN.invoke(app, ["registry", "diff", str(old), str(old)]).output


def test_installed_command_runs(tmp_path: Path):
    """`dsr registry check` works as a process, from another folder, with its exit code."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DSR_")}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "registry", "check"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "is valid" in run.stdout
