"""`dsr doctor`: each unsafe setting is found, by its name, and a safe configuration is left in peace."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from orchestrator.adapters import registry_file
from orchestrator.cli import app
from orchestrator.commands.doctor import DANGER, NOTICE, Premises, findings
from orchestrator.settings import DEPLOY, Settings
from schemas.blobs import BlobSecret
from schemas.trust import SigningKey, Trust

NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
REGISTRY = registry_file.load(DEPLOY / "registry" / "example-company.yaml")
OURS = SigningKey.new("orchestrator")
OPERATORS = BlobSecret.generate("operators-1")
NAMES = [
    "orchestrator",
    *(f"system:{one.id}" for one in REGISTRY.active()),
    *(f"portal:{one.id}" for one in REGISTRY.portals),
]


@pytest.fixture
def safe(tmp_path: Path) -> Settings:
    """A configuration without a danger."""
    datadir = tmp_path / "data"
    datadir.mkdir(mode=0o700)
    trust = tmp_path / "trust.json"
    trust.write_text("{}")
    trust.chmod(0o644)
    registry = tmp_path / "registry.yaml"
    registry.write_text("")
    registry.chmod(0o644)
    key = tmp_path / "secrets" / "kek.txt"
    key.parent.mkdir()
    key.write_text("")
    key.chmod(0o600)
    signing = tmp_path / "secrets" / "orchestrator.jwk"
    signing.write_text(OURS.to_json())
    signing.chmod(0o600)
    quarantine = tmp_path / "quarantine-public.jwk"
    quarantine.write_text(OPERATORS.public.model_dump_json())
    return Settings(
        kafka_bootstrap="kafka.example.org:9093",
        security_protocol="SASL_SSL",
        replication_factor=3,
        store_url="postgresql+psycopg://dsr@db.example.org/dsr?sslmode=verify-full",
        datadir=datadir,
        key_encryption_key_file=key,
        trust_file=trust,
        signing_key_file=signing,
        quarantine_key_file=quarantine,
        registry=registry,
    )


def trusted(**more: int) -> Trust:
    """Trust in everybody whom the registry names."""
    keys = [OURS, *map(SigningKey.new, NAMES[1:])]
    return Trust.from_json(json.dumps({"keys": [{**key.public(), **more} for key in keys]}))


def found(settings: Settings, trust: Trust | None = None) -> dict[str, list[str]]:
    """Return what is wrong by setting, dangers only."""
    wrong: dict[str, list[str]] = {}
    for finding in findings(Premises(settings, REGISTRY, trust or trusted(), NOW)):
        if finding.severity == DANGER:
            wrong.setdefault(finding.setting, []).append(finding.wrong)
    return wrong


def test_a_safe_configuration_has_no_danger(safe: Settings) -> None:
    """Nothing is called a danger where nothing is one."""
    assert found(safe) == {}


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"security_protocol": "PLAINTEXT"}, "DSR_SECURITY_PROTOCOL"),
        ({"security_protocol": "SASL_PLAINTEXT"}, "DSR_SECURITY_PROTOCOL"),
        ({"security_protocol": "SSL"}, "DSR_SECURITY_PROTOCOL"),
        ({"store_url": "postgresql+psycopg://dsr@db.example.org/dsr"}, "DSR_STORE_URL"),
        ({"store_url": "postgresql+psycopg://dsr@db.example.org/dsr?sslmode=require"}, "DSR_STORE_URL"),
        ({"key_encryption_key_file": None}, "DSR_KEY_ENCRYPTION_KEY_FILE"),
        ({"key_encryption_key_file": Path("not-there")}, "DSR_KEY_ENCRYPTION_KEY_FILE"),
        ({"http_host": "0.0.0.0"}, "DSR_HTTP_HOST"),
        ({"fault_point": "after_save:3"}, "DSR_FAULT_POINT"),
        ({"signatures": "off"}, "DSR_SIGNATURES"),
        ({"quarantine_key_file": None}, "DSR_QUARANTINE_KEY_FILE"),
        ({"quarantine_key_file": Path("not-there")}, "DSR_QUARANTINE_KEY_FILE"),
        ({"signing_key_file": None}, "DSR_SIGNING_KEY_FILE"),
        ({"signing_key_file": Path("not-there")}, "DSR_SIGNING_KEY_FILE"),
        ({"signing_key": SecretStr(SigningKey.new("system:crm").to_json())}, "DSR_SIGNING_KEY_FILE"),
        ({"signing_key": SecretStr(SigningKey.new("orchestrator").to_json())}, "DSR_SIGNING_KEY_FILE"),
    ],
)
def test_a_dangerous_setting_is_named(safe: Settings, change: dict[str, object], setting: str) -> None:
    """Each danger is found alone, under the name of the variable to change."""
    assert list(found(safe.model_copy(update=change))) == [setting]


def test_the_private_half_is_no_key_to_seal_quarantine_to(safe: Settings) -> None:
    """Whoever reads the worker's files could open what is sealed: the worker does not start, and the doctor says so before."""
    assert safe.quarantine_key_file is not None
    safe.quarantine_key_file.write_text(json.dumps(OPERATORS.unsafe_jwk()))
    ((wrong,),) = found(safe).values()
    assert wrong.startswith("no worker starts: DSR_QUARANTINE_KEY_FILE: this is the private half")


def test_a_local_broker_may_be_plain(safe: Settings) -> None:
    """What never leaves the machine need not be hidden from the network."""
    assert found(safe.model_copy(update={"kafka_bootstrap": "127.0.0.1:9092", "security_protocol": "PLAINTEXT"})) == {}


def test_files_that_others_may_read_or_change_are_named(safe: Settings, tmp_path: Path) -> None:
    """The rights of every file that a setting names are looked at."""
    key = tmp_path / "key.json"
    key.write_text("{}")
    key.chmod(0o640)
    safe.registry.chmod(0o664)
    safe.datadir.chmod(0o755)
    store = tmp_path / "store" / "store.sqlite"
    store.parent.mkdir()
    store.write_bytes(b"")
    store.chmod(0o604)
    assert safe.key_encryption_key_file is not None
    safe.key_encryption_key_file.chmod(0o640)
    open_to_all = safe.model_copy(update={"signing_key_file": key, "http_tls_key_file": key, "store_url": f"sqlite:///{store}"})
    wrong = found(open_to_all)
    assert set(wrong) == {
        *("DSR_SIGNING_KEY_FILE", "DSR_HTTP_TLS_KEY_FILE", "DSR_KEY_ENCRYPTION_KEY_FILE"),
        *("DSR_REGISTRY", "DSR_DATADIR", "DSR_STORE_URL"),
    }
    assert wrong["DSR_KEY_ENCRYPTION_KEY_FILE"] == ["a secret can be read by other accounts of this machine"]
    remedies = {one.remedy for one in findings(Premises(open_to_all, REGISTRY, trusted(), NOW))}
    assert {f"chmod go-rwx {safe.key_encryption_key_file}", f"chmod go-w {safe.registry}"} <= remedies


@pytest.mark.parametrize("folder", ["here", "here/below"])
def test_a_key_beside_the_store_that_it_wraps_is_a_danger(safe: Settings, tmp_path: Path, folder: str) -> None:
    """A backup of the store's folder would hold both; a key in a folder beside it is fine."""
    (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / folder / "kek.txt"
    file.touch(mode=0o600)
    near = safe.model_copy(update={"key_encryption_key_file": file, "store_url": f"sqlite:///{tmp_path}/here/store.sqlite"})
    assert found(near) == {
        "DSR_KEY_ENCRYPTION_KEY_FILE": ["the key lies in the store's folder: a backup of the folder opens itself"]
    }
    assert found(near.model_copy(update={"store_url": f"sqlite:///{tmp_path}/there/store.sqlite"})) == {}


def test_a_key_in_the_environment_is_noticed(safe: Settings) -> None:
    """It does wrap, and is inherited by every child."""
    inline = safe.model_copy(update={"key_encryption_key": SecretStr("hush-hush"), "key_encryption_key_file": None})
    told = findings(Premises(inline, REGISTRY, trusted(), NOW))
    assert [one.remedy for one in told if one.setting == "DSR_KEY_ENCRYPTION_KEY"] == ["use DSR_KEY_ENCRYPTION_KEY_FILE"]
    assert found(inline) == {} and "hush" not in repr(told)


def test_keys_served_with_tls_are_no_danger(safe: Settings, tmp_path: Path) -> None:
    """What is left to notice is that nobody may read the metrics."""
    served = safe.model_copy(update={"http_host": "0.0.0.0", "http_tls_cert_file": tmp_path / "cert.pem"})
    assert found(served) == {}


def test_pages_that_others_reach_want_a_token(safe: Settings, tmp_path: Path) -> None:
    """Without one the monitoring is refused too; with one nothing is said, and one of no use is a danger anywhere."""

    def told(settings: Settings) -> list[str]:
        all_ = findings(Premises(settings, REGISTRY, trusted(), NOW))
        return [one.severity for one in all_ if one.setting == "DSR_METRICS_TOKEN_FILE"]

    file = tmp_path / "metrics-token"
    file.touch(mode=0o600)
    file.write_text("t" * 32)
    served = safe.model_copy(update={"http_host": "0.0.0.0", "http_tls_cert_file": tmp_path / "cert.pem"})
    assert told(safe) == []
    assert told(served) == [NOTICE]
    assert told(served.model_copy(update={"metrics_token_file": file})) == []
    file.write_text("short")
    assert told(safe.model_copy(update={"metrics_token_file": file})) == [DANGER]
    file.write_text("t" * 32)
    file.chmod(0o640)
    assert told(served.model_copy(update={"metrics_token_file": file})) == [DANGER]


def test_signatures_may_be_off_where_nothing_leaves_the_machine(safe: Settings) -> None:
    """It is said all the same; with pages that others reach it is a danger on a laptop too."""
    laptop = safe.model_copy(
        update={"kafka_bootstrap": "127.0.0.1:9092", "security_protocol": "PLAINTEXT", "signatures": "off"}
    )
    assert found(laptop) == {}
    assert "DSR_SIGNATURES" in {finding.setting for finding in findings(Premises(laptop, REGISTRY, None, NOW))}
    assert "DSR_SIGNATURES" in found(laptop.model_copy(update={"http_host": "0.0.0.0"}))


def test_trust_without_a_file_is_a_danger(safe: Settings) -> None:
    """Nobody's signature is checked then."""
    wrong = findings(Premises(safe, REGISTRY, None, NOW))
    assert [finding.setting for finding in wrong if finding.severity == DANGER] == ["DSR_TRUST_FILE"]


def test_trust_in_somebody_unknown_is_a_danger(safe: Settings) -> None:
    """A system that left the registry must not be believed any more."""
    assert found(safe, Trust.of(OURS, SigningKey.new("system:gone-long-ago"))) == {
        "DSR_TRUST_FILE": ["system:gone-long-ago is trusted and not in the registry"]
    }


def test_keys_that_end_are_noticed_and_ended_ones_are_missed(safe: Settings) -> None:
    """A key in its last month is a notice; one past its end is as good as none."""
    soon = int((NOW + timedelta(days=3)).timestamp())
    wrong = {finding.wrong for finding in findings(Premises(safe, REGISTRY, trusted(exp=soon), NOW))}
    assert sum("ends in 3 days" in one for one in wrong) == len(NAMES)
    gone = {finding.wrong for finding in findings(Premises(safe, REGISTRY, trusted(exp=soon), NOW + timedelta(days=4)))}
    assert "orchestrator has no key that is valid now" in gone


def test_who_lacks_a_key_is_given_one_that_is_trusted(safe: Settings) -> None:
    """Made with the trust file beside it, or added to it: a public half that lies elsewhere is believed by nobody."""
    told = findings(Premises(safe, REGISTRY, Trust.of(OURS), NOW))
    (remedy,) = [one.remedy for one in told if one.wrong == "system:crm has no key that is valid now"]
    assert "`dsr keys new system:crm --trust FILE`" in remedy and "`dsr keys trust`" in remedy


def test_somebody_elses_shell_is_told_apart(safe: Settings) -> None:
    """An operator's key is no mistake where the operator is, and no new one is wanted: it is the wrong place to ask."""
    for principal, says in (("operator:ops:alice", "in the environment of `dsr worker`"), ("orchestrator", "dsr keys new")):
        key = SecretStr(SigningKey.new(principal).to_json())
        told = findings(Premises(safe.model_copy(update={"signing_key": key}), REGISTRY, trusted(), NOW))
        (remedy,) = [one.remedy for one in told if one.setting == "DSR_SIGNING_KEY_FILE"]
        assert says in remedy


def test_no_secret_is_shown(safe: Settings) -> None:
    """A finding about a secret names its variable."""
    told = findings(Premises(safe.model_copy(update={"sasl_password": SecretStr("hush-hush")}), REGISTRY, trusted(), NOW))
    assert any(finding.setting == "DSR_SASL_PASSWORD" for finding in told)
    assert "hush" not in repr(told)
    assert "hush" not in repr(safe.model_copy(update={"store_url": "postgresql+psycopg://dsr:hush@db.example.org/dsr"}))


def test_the_command_tells_people_and_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit 1 and the findings, as a table or as JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DSR_KAFKA_BOOTSTRAP", "kafka.example.org:9093")
    monkeypatch.setenv("COLUMNS", "160")
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "DSR_SECURITY_PROTOCOL" in shown.output
    document = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)
    assert document["dangers"] == sum(one["severity"] == "danger" for one in document["findings"]) > 0


def test_how_portals_get_their_key_is_looked_at(safe: Settings) -> None:
    """A key that lives for long is noticed; one that comes in clear and unsigned from elsewhere is a danger."""
    slow = findings(Premises(safe.model_copy(update={"intake_rotation": timedelta(days=365)}), REGISTRY, trusted(), NOW))
    assert "DSR_INTAKE_ROTATION" in {finding.setting for finding in slow}
    clear = safe.model_copy(update={"intake_keys": "http://worker.example.org/v1/intake-keys"})
    for trust, is_danger in ((None, True), (trusted(), False)):
        named = {finding.setting for finding in findings(Premises(clear, REGISTRY, trust, NOW)) if finding.severity == DANGER}
        assert ("DSR_INTAKE_KEYS" in named) is is_danger
    for place in ("https://worker.example.org/v1/intake-keys", "http://127.0.0.1:9464/v1/intake-keys", "keys.json", None):
        seen = findings(Premises(safe.model_copy(update={"intake_keys": place}), REGISTRY, None, NOW))
        assert not [finding for finding in seen if "INTAKE" in finding.setting]
