"""`dsr kafka` and `dsr topics` as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.adapters.local_kafka import LocalKafka, cache_dir
from schemas.topics import Topics


class Shell:
    """Runs `dsr` with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("DSR_")}
        self.environment |= {"XDG_STATE_HOME": str(home), "XDG_CACHE_HOME": str(cache_dir().parents[1])}

    def __call__(self, *arguments: str, exits: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", *arguments],
            env=self.environment | environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == exits, done.stdout + done.stderr
        return done

    def json(self, *arguments: str, exits: int = 0, **environment: str) -> Any:
        return json.loads(self(*arguments, "--json", exits=exits, **environment).stdout)


@pytest.fixture
def dsr(tmp_path: Path) -> Iterator[Shell]:
    """Give the command line; what it started is stopped afterwards."""
    yield Shell(tmp_path)
    LocalKafka(tmp_path / "dsr" / "kafka").stop()


@pytest.mark.kafka
def test_broker_outlives_the_command_and_is_found_by_the_others(dsr: Shell) -> None:
    """`up` leaves a broker behind; `status` and `topics` find it; a second `up` starts none; `down` ends it."""
    assert dsr.json("kafka", "status", exits=3)["answers"] is False
    up = dsr("kafka", "up")
    first = dsr.json("kafka", "status")
    assert first["answers"] is True
    assert f"export DSR_KAFKA_BOOTSTRAP={first['bootstrap']}" in up.stdout
    assert "dsr kafka down" in up.stdout
    assert "starting Apache Kafka" in up.stderr
    again = dsr.json("kafka", "up")
    assert (again["pid"], again["started"]) == (first["pid"], False)
    assert dsr.json("topics", "apply", "--system", "crm")["findings"] == []

    assert dsr.json("kafka", "down") == {"stopped": True, "data_deleted": False, "data_dir": first["data_dir"]}
    dsr("kafka", "status", exits=3)
    assert dsr.json("kafka", "up")["bootstrap"] == first["bootstrap"]
    assert dsr.json("topics", "check", "--system", "crm")["findings"] == []
    dsr("kafka", "down", "--delete-data")
    assert not Path(first["data_dir"]).exists()


@pytest.mark.kafka
def test_given_broker_is_used_and_never_stopped(dsr: Shell, kafka_bootstrap: str) -> None:
    """With DSR_KAFKA_BOOTSTRAP, `up` starts nothing, `status` looks there, `down` leaves it."""
    given = {"DSR_KAFKA_BOOTSTRAP": kafka_bootstrap}
    assert dsr.json("kafka", "up", **given)["started"] is False
    assert dsr.json("kafka", "down", **given)["stopped"] is False
    assert dsr.json("kafka", "status", **given) == {
        "bootstrap": kafka_bootstrap,
        "from": "DSR_KAFKA_BOOTSTRAP",
        "answers": True,
    }


def test_silent_broker_is_told_by_exit_code_and_sentence(dsr: Shell, unused_tcp_port: int) -> None:
    """Where nothing answers, `status` exits 3 and the others say in one sentence what to do."""
    silent = {"DSR_KAFKA_BOOTSTRAP": f"127.0.0.1:{unused_tcp_port}"}
    assert "does not answer" in dsr("kafka", "status", exits=3, **silent).stdout
    for command in (("kafka", "up"), ("topics", "check"), ("topics", "apply")):
        said = dsr(*command, exits=1, **silent).stderr
        assert said.startswith("dsr: No Kafka broker answers")
        assert len(said.splitlines()) == 1
    assert "dsr kafka up" in dsr("topics", "check", exits=1).stderr


@pytest.mark.kafka
def test_topics_are_applied_checked_and_the_remedy_is_shown(dsr: Shell, kafka_bootstrap: str, topics: Topics) -> None:
    """`check` fails and names the remedy, `apply` follows it, `check` is content."""
    options = ("--prefix", topics.prefix, "--system", "crm", "--bootstrap", kafka_bootstrap)
    missing = dsr("topics", "check", *options, exits=1).stdout
    assert topics.orders("crm") in missing
    assert "missing: Run `dsr topics apply`." in missing
    assert f"created {topics.orders('crm')}" in dsr("topics", "apply", *options).stdout
    assert "as the manifest says" in dsr("topics", "check", *options).stdout
    assert dsr.json("topics", "check", *options, "--connectors")["findings"] == []
    assert "nothing to do" in dsr("topics", "apply", *options).stdout
    assert {found["kind"] for found in dsr.json("topics", "check", *options, "--partitions", "2", exits=1)["findings"]} == {
        "partitions"
    }


@pytest.mark.kafka
def test_the_whole_company_is_held_against_what_the_broker_has(dsr: Shell, kafka_bootstrap: str, topics: Topics) -> None:
    """Without `--system`, a topic of a system that the registry does not have is told; with it, the others' are not."""
    options = ("--prefix", topics.prefix, "--bootstrap", kafka_bootstrap)
    dsr("topics", "apply", *options)
    assert "as the manifest says" in dsr("topics", "check", *options).stdout
    dsr("topics", "apply", *options, "--system", "removed")
    assert dsr.json("topics", "check", *options, "--system", "removed")["findings"] == []
    (stray,) = dsr.json("topics", "check", *options, exits=1)["findings"]
    assert (stray["subject"], stray["kind"]) == (topics.orders("removed"), "stray")


def test_topics_are_shown_without_a_broker(dsr: Shell) -> None:
    """`show` needs no broker; the order topics are those of the registry's systems with a connector, or the named ones."""
    assert "dsr.orders.crm.v1" in dsr("topics", "show", "--system", "crm").stdout
    names = [spec["name"] for spec in dsr.json("topics", "show")]
    assert "dsr.requests.v1" in names
    assert any(name.startswith("dsr.orders.") for name in names)


@pytest.mark.parametrize(("options", "named"), [(("--prefix", "Not.Good"), "--prefix"), (("--system", "Not Good"), "--system")])
def test_impossible_names_are_refused_with_the_rule(dsr: Shell, options: tuple[str, ...], named: str) -> None:
    """A prefix or system that cannot be part of a topic name is refused with the letters that can."""
    said = dsr("topics", "show", *options, exits=1).stderr
    assert said.startswith(f"dsr: {named}")
    assert "lower-case letters" in said


def test_every_command_explains_itself_with_an_example(dsr: Shell) -> None:
    """`--help` of each command shows an example."""
    for group, commands in (("kafka", ("up", "down", "status")), ("topics", ("apply", "check", "show"))):
        for command in commands:
            assert f"dsr {group} {command}" in dsr(group, command, "--help", COLUMNS="200", TERM="dumb").stdout


def test_machine_with_nothing_on_it_is_told_what_to_install(dsr: Shell, tmp_path: Path) -> None:
    """Without Maven, without its jars and without Docker, `up` says what to install and what else helps."""
    said = dsr("kafka", "up", exits=1, PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path)).stderr
    for word in ("Maven (mvn) is not on PATH", "Install Maven", "Docker", "DSR_KAFKA_BOOTSTRAP"):
        assert word in said


@pytest.mark.kafka
def test_docker_is_the_fallback(dsr: Shell, tmp_path: Path) -> None:
    """Without Maven and jars, `docker compose up` is asked for the broker, at a port that is remembered.

    The engine is a program that understands the four compose commands we use and runs the jars: no image is needed.
    """
    program = f"""\
        #!{sys.executable}
        import os, sys
        from pathlib import Path
        from orchestrator.adapters.local_kafka import LocalKafka
        os.environ.update(PATH={os.environ["PATH"]!r}, XDG_CACHE_HOME={str(cache_dir().parents[1])!r})
        if sys.argv[1:] in (["info"], ["compose", "version"]):
            sys.exit(0)
        kafka = LocalKafka(Path({str(tmp_path / "engine")!r}), int(os.environ["DSR_KAFKA_PORT"]))
        assert sys.argv[1:3] == ["compose", "-p"] and sys.argv[4] == "-f" and Path(sys.argv[5]).name == "compose.yaml"
        match sys.argv[6:]:
            case ["up", "--detach"]:
                kafka.start(survives_owner=True)
            case ["stop"]:
                kafka.stop()
            case ["ps", "--quiet", "--status", "running"]:
                print(kafka.pid or "")
            case ["down", "--volumes"]:
                kafka.delete()
        """
    (tmp_path / "bin").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.write_text(textwrap.dedent(program))
    docker.chmod(0o755)
    bare = {"PATH": str(docker.parent), "XDG_CACHE_HOME": str(tmp_path / "empty")}
    try:
        up = dsr.json("kafka", "up", **bare)
        assert dsr.json("kafka", "status", **bare)["bootstrap"] == up["bootstrap"]
        dsr("kafka", "down", "--delete-data", **bare)
        dsr("kafka", "status", exits=3, **bare)
        assert not (tmp_path / "engine").exists()
    finally:
        LocalKafka(tmp_path / "engine").stop()


def test_container_is_configured_like_the_jars() -> None:
    """The compose file says every setting of server.properties, but for the listeners of a container."""
    deploy = Path(__file__).parents[2] / "deploy" / "local"
    container = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["kafka"]["environment"]
    lines = (deploy / "server.properties").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    own = {"inter.broker.listener.name", "listener.security.protocol.map"}
    assert {key: str(container.get("KAFKA_" + key.upper().replace(".", "_"))) for key in settings.keys() - own} == {
        key: value for key, value in settings.items() if key not in own
    }
