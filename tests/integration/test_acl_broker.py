"""A real broker that denies whatever no rule allows: who is refused what, and that the rules are enough to work with.

What rules cannot tell apart, because it is written to one topic, is whose report or request it is: signatures do.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError, TopicAuthorizationFailedError
from secured_kafka import ADMIN, SecuredKafka, password_of, secured_kafka
from test_connector_runtime import running
from token_issuer import FAULTS, Issuer
from typer.testing import CliRunner
from worker_kit import SPEAKERS, request, settings_for, signing, worker

from connectors.sdk.kafka import KafkaBus
from connectors.sdk.kafka import connection_to as kit_connection_to
from connectors.sdk.loader import build_standin
from connectors.sdk.settings import RuntimeSettings
from connectors.sdk.standin import serve
from connectors.systems.hubspot.standin import TOKEN
from orchestrator.adapters import acl
from orchestrator.adapters.broker import connection_to
from orchestrator.adapters.local_kafka import answers, cache_dir
from orchestrator.adapters.local_kafka.jars import find_java
from orchestrator.adapters.topics import apply
from orchestrator.cli import app
from orchestrator.demo.keyring import Keyring
from schemas.acl import AclRule, Operation, Pattern, ResourceType, holders, principal_name, rules
from schemas.broker import BrokerReach
from schemas.confirmations import Confirmation
from schemas.errors import ConfigurationError, OrchestratorError
from schemas.portal import record_of
from schemas.topics import Topics, manifest
from schemas.trust import SigningKey
from schemas.vocabulary import RequestResult

pytestmark = pytest.mark.kafka

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
SYSTEMS, PORTALS = ("crm", "newsletter"), ("website",)
NAMED = {"operators": ("alice",), "auditors": ("inspector",), "archives": ("vault",)}
WHO = holders(systems=SYSTEMS, portals=PORTALS, **NAMED)
USERS = [principal_name(holder) for holder in WHO]
TABLE = Topics(prefix="table")
NAMES = {
    "requests": TABLE.requests,
    "urgent requests": TABLE.urgent_requests,
    "commands": TABLE.commands,
    "reports": TABLE.reports,
    "status": TABLE.status,
    "confirmations": TABLE.confirmations,
    "journal": TABLE.journal,
    "quarantine": TABLE.quarantine,
    "releases": TABLE.releases,
    "crm's orders": TABLE.orders("crm"),
    "newsletter's orders": TABLE.orders("newsletter"),
}
#: Said once more, in words of this test: whatever is not here must be refused.
MAY_WRITE = {
    "orchestrator": {"crm's orders", "newsletter's orders", "status", "confirmations", "journal", "quarantine", "releases"},
    "system-crm": {"reports", "quarantine"},
    "system-newsletter": {"reports", "quarantine"},
    "portal-website": {"requests", "urgent requests"},
    "operator-alice": {"commands", "requests", "urgent requests"},
    "auditor-inspector": set(),
    "archive-vault": set(),
    "nobody": set(),
}
MAY_READ = {
    "orchestrator": {"requests", "urgent requests", "commands", "reports", "journal"},
    "system-crm": {"crm's orders"},
    "system-newsletter": {"newsletter's orders"},
    "portal-website": {"status", "confirmations"},
    "operator-alice": {"journal", "status", "confirmations", "quarantine", "releases"},
    "auditor-inspector": set(NAMES),
    "archive-vault": {"confirmations"},
    "nobody": set(),
}
GROUPS = {
    "orchestrator": (TABLE.requests, "orchestrator"),
    "system-crm": (TABLE.orders("crm"), "connector.crm"),
    "system-newsletter": (TABLE.orders("newsletter"), "connector.newsletter"),
    "portal-website": (TABLE.status, "portal.website"),
    "archive-vault": (TABLE.confirmations, "archive.vault"),
}


async def prepared(kafka: SecuredKafka, topics: Topics, *, partitions: int = 4) -> None:
    """Make topics and rules, as a super user."""
    root = kafka.connection(ADMIN)
    await apply(kafka.sasl, manifest(SYSTEMS, partitions=partitions, prefix=topics.prefix), **root)
    await acl.add(kafka.sasl, rules(WHO, topics), **root)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    """Give an identity provider."""
    made = Issuer(password_of)
    with serve(made.app) as made.url:
        yield made


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[SecuredKafka]:
    """Give a broker with the users of all principals and the rules of the table's topics."""
    kafka = secured_kafka(tmp_path_factory.mktemp("secured"), USERS, issuer.url)
    with kafka.broker:
        asyncio.run(prepared(kafka, TABLE, partitions=1))
        yield kafka


@pytest.fixture(scope="module")
def outcomes(secured: SecuredKafka) -> dict[tuple[str, str, str], bool]:
    """Try everything once, all users side by side: (user, operation, what) -> was it done."""
    return asyncio.run(_everything_tried(secured))


async def _everything_tried(kafka: SecuredKafka) -> dict[tuple[str, str, str], bool]:
    root = kafka.connection(ADMIN)
    async with AIOKafkaProducer(bootstrap_servers=kafka.sasl, **root) as producer:
        for topic in NAMES.values():
            await producer.send_and_wait(topic, b"something to read", key=b"k")
    users = {user: (kafka.sasl, kafka.connection(user)) for user in USERS} | {"nobody": (kafka.broker.bootstrap, {})}
    tried = await asyncio.gather(*(_tried(user, *how) for user, how in users.items()))
    return {key: done for found in tried for key, done in found.items()}


async def _tried(user: str, bootstrap: str, connection: dict) -> dict[tuple[str, str, str], bool]:
    found = {}
    # A broker gives the number that idempotence takes only to those who may write to some topic.
    sure = bool(MAY_WRITE[user])
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=sure, **connection) as producer:
        for name, topic in NAMES.items():
            found[user, "write", name] = await _done(
                producer.send_and_wait(topic, b"written", key=b"k"), TopicAuthorizationFailedError
            )
    for name, topic in NAMES.items():
        found[user, "read", name] = await _done(_one(topic, bootstrap, connection), TopicAuthorizationFailedError)
    for group_of, (topic, group) in GROUPS.items():
        if user != "nobody" and name_of(topic) in MAY_READ[user]:
            joined = _one(topic, bootstrap, connection, TABLE.group(group))
            found[user, "join", group_of] = await _done(joined, GroupAuthorizationFailedError)
    return found


def name_of(topic: str) -> str:
    """Return what this test calls a topic."""
    return next(name for name, one in NAMES.items() if one == topic)


async def _one(topic: str, bootstrap: str, connection: dict, group: str | None = None) -> None:
    more = {"group_id": group, "group_instance_id": "one", "enable_auto_commit": False} if group else {}
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", **more, **connection)
    try:
        await consumer.start()
        await consumer.getone()
        if group:
            await consumer.commit()
    finally:
        await consumer.stop()


async def _done(attempt: object, refusal: type[KafkaError]) -> bool:
    try:
        async with asyncio.timeout(20):
            await attempt  # type: ignore[misc]
    except refusal:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("user", MAY_WRITE)
def test_who_may_write_what(outcomes: dict, user: str, name: str) -> None:
    """Each principal writes what the table lets it write, by an idempotent producer, and is refused everything else."""
    assert outcomes[user, "write", name] is (name in MAY_WRITE[user])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("user", MAY_READ)
def test_who_may_read_what(outcomes: dict, user: str, name: str) -> None:
    """Each principal reads what the table lets it read, and is refused everything else."""
    assert outcomes[user, "read", name] is (name in MAY_READ[user])


def test_a_group_belongs_to_its_reader(outcomes: dict) -> None:
    """Whoever may read a topic may still not move the place of another reader of it."""
    joins = {(user, group): done for (user, kind, group), done in outcomes.items() if kind == "join"}
    assert {pair for pair, done in joins.items() if done} == {(user, user) for user in GROUPS}
    assert {("auditor-inspector", group) for group in GROUPS} <= joins.keys()


def test_a_wrong_password_is_nobody(secured: SecuredKafka) -> None:
    """A principal that cannot prove itself is told so by every command, and nothing of the password is shown."""
    status, told = _dsr(secured, "system-crm", "topics", "check", DSR_SASL_PASSWORD="not-the-password")
    assert status == 1
    assert "does not let us in" in told and "not-the-password" not in told


def _dsr(kafka: SecuredKafka, user: str, *words: str, **more: str) -> tuple[int, str]:
    """Return the exit status of a command run as this user, and what it said."""
    settings = {
        "DSR_KAFKA_BOOTSTRAP": kafka.sasl,
        "DSR_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DSR_SASL_MECHANISM": "SCRAM-SHA-512",
        "DSR_SASL_USERNAME": user,
        "DSR_SASL_PASSWORD": password_of(user),
        **more,
    }
    told = CliRunner().invoke(app, words, env=settings)
    return told.exit_code, f"{told.output}{told.exception or ''}"


@pytest.fixture
def registry(tmp_path):
    path = tmp_path / "company.yaml"
    path.write_text(REGISTRY)
    return path


REGISTRY = """
version: test-1
controller: {title: Example company, zone: Europe/Amsterdam, calendar: NL, regime: eu.gdpr}
portals: [{id: website, title: Website, owner: Web team}]
systems:
  - {id: crm, title: CRM, role: processor, owner: Sales, connector: hubspot,
     rights: [access, erasure], needs: [{kind: email}]}
"""


def test_rules_are_made_checked_and_taken_away(secured, registry, topics, monkeypatch):
    """`dsr acl apply` makes what is missing and says what is too much; `--remove-surplus` takes that away; then all is well."""
    for name, value in {
        "DSR_KAFKA_BOOTSTRAP": secured.sasl,
        "DSR_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "DSR_SASL_USERNAME": ADMIN,
        "DSR_SASL_PASSWORD": password_of(ADMIN),
        "DSR_TOPIC_PREFIX": topics.prefix,
        "DSR_REGISTRY": str(registry),
        "DSR_ACL_PRINCIPAL": f"User:{topics.prefix}-{{name}}",
    }.items():
        monkeypatch.setenv(name, value)
    mallory = {"principal": "User:mallory", "operation": Operation.READ, "resource": ResourceType.TOPIC}
    surplus = AclRule(**mallory, name=topics.orders("crm"))
    wider = AclRule(**mallory, name=topics.prefix[:2], pattern=Pattern.PREFIXED)
    asyncio.run(acl.add(secured.sasl, [surplus, wider], **secured.connection(ADMIN)))
    run = CliRunner()
    try:
        before = run.invoke(app, ["acl", "check", "--json"])
        assert before.exit_code == 1
        told = json.loads(before.stdout)
        assert len(told["missing"]) == 15 + 4 + 5
        assert [rule["principal"] for rule in told["surplus"] + told["wider"]] == ["User:mallory"] * 2
        applied = run.invoke(app, ["acl", "apply"])
        assert applied.exit_code == 1 and "24 added, 0 removed" in applied.stdout, applied.output
        assert "surplus: somebody may do more" in applied.stdout
        cleaned = run.invoke(app, ["acl", "apply", "--remove-surplus"])
        assert cleaned.exit_code == 1 and "0 added, 1 removed" in cleaned.stdout, cleaned.output
        assert "wider: a rule of somebody else's" in cleaned.stdout
        asyncio.run(acl.remove(secured.sasl, [wider], **secured.connection(ADMIN)))
        clean = run.invoke(app, ["acl", "check"])
        assert clean.exit_code == 0 and "24 rules" in clean.stdout and "as the registry says" in clean.stdout
    finally:
        asyncio.run(acl.remove(secured.sasl, [surplus, wider], **secured.connection(ADMIN)))


def test_rules_are_not_everybodys_to_see(secured):
    """A connector may not even look at the rules; an auditor may, and may not change them."""
    words = ("--prefix", TABLE.prefix, "--auditor", "inspector", "--json")
    assert "Describe on the cluster" in _dsr(secured, "system-crm", "acl", "check", *words)[1]
    status, told = _dsr(secured, "auditor-inspector", "acl", "check", *words)
    assert status == 1 and '"missing": [' in told
    assert "to change them takes Alter" in _dsr(secured, "auditor-inspector", "acl", "apply", *words)[1]


def test_without_an_authorizer_the_rules_are_said_to_mean_nothing(kafka_bootstrap):
    """A broker that keeps no rules is not called right."""
    told = CliRunner().invoke(app, ["acl", "check", "--bootstrap", kafka_bootstrap])
    assert "authorizer.class.name" in str(told.exception)


WAYS = ("scram", "scram_under_tls", "scram_256_under_tls", "plain_under_tls", "certificates", "bearer")


@pytest.fixture
def ways(secured, issuer, tmp_path):
    """Give, for each way of saying who one is, a function from a user to its settings."""

    def scram(user: str) -> dict[str, object]:
        return {**_open(secured.sasl, "SASL_PLAINTEXT"), "sasl_username": user, "sasl_password": password_of(user)}

    def scram_under_tls(user: str) -> dict[str, object]:
        secret = tmp_path / f"{user}.password"
        secret.write_text(password_of(user) + "\n")
        files = {"ssl_ca_file": secured.authority.roots, "sasl_password_file": secret}
        return {**_open(secured.sasl_tls, "SASL_SSL"), "sasl_username": user, **files}

    def scram_256_under_tls(user: str) -> dict[str, object]:
        return scram_under_tls(user) | {"sasl_mechanism": "SCRAM-SHA-256"}

    def plain_under_tls(user: str) -> dict[str, object]:
        return scram_under_tls(user) | {"sasl_mechanism": "PLAIN"}

    def certificates(user: str) -> dict[str, object]:
        certificate, key, _ = secured.authority.issue(user)
        files = {"ssl_ca_file": secured.authority.roots, "ssl_cert_file": certificate, "ssl_key_file": key}
        return {**_open(secured.tls, "SSL"), **files}

    def bearer(user: str) -> dict[str, object]:
        client = {"sasl_oauth_client_id": user, "sasl_oauth_client_secret": password_of(user)}
        endpoint = {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_url": f"{issuer.url}/token"}
        return {**_open(secured.bearer, "SASL_SSL"), "ssl_ca_file": secured.authority.roots, **endpoint, **client}

    made = (scram, scram_under_tls, scram_256_under_tls, plain_under_tls, certificates, bearer)
    return dict(zip(WAYS, made, strict=True))


def test_users_made_from_the_registry_are_let_in(secured, registry, tmp_path):
    """What `dsr acl users` prints makes the user, and the password that it wrote down is taken; again, it stays the same."""
    admin, folder = tmp_path / "admin.properties", tmp_path / "secrets"
    admin.write_text(secured.admin_properties())
    words = ["acl", "users", "--registry", str(registry), "--operator", "newcomer", "--out", str(folder)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert len(told.stdout.splitlines()) == len(list(folder.glob("*.password"))) > 3
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    passwords = {file.name: file.read_text() for file in folder.glob("*.password")}
    assert not any(password in told.output for password in passwords.values())
    command = next(line for line in told.stdout.splitlines() if "operator-newcomer" in line)
    script = tmp_path / "kafka-configs.sh"
    script.write_text(f'#!/bin/sh\nexec "{find_java()}" -cp "{cache_dir()}/*" kafka.admin.ConfigCommand "$@"\n')
    script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BROKER": secured.sasl_tls, "ADMIN": str(admin)}
    made = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert made.returncode == 0, made.stderr
    files = {"ssl_ca_file": secured.authority.roots, "sasl_password_file": folder / "operator-newcomer.password"}
    reach = BrokerReach(**_open(secured.sasl_tls, "SASL_SSL"), sasl_username="operator-newcomer", **files)
    deadline = time.monotonic() + 30
    while not answers(secured.sasl_tls, connection=connection_to(reach)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = CliRunner().invoke(app, [*words, "--json"])
    assert {one["new"] for one in json.loads(again.stdout)} == {False}
    assert {file.name: file.read_text() for file in folder.glob("*.password")} == passwords


def test_a_user_made_as_the_page_says_is_let_in(secured, tmp_path):
    """Kafka's own command makes a user from a file, as docs/security.md writes it, and the user's password is taken."""
    admin, scram = tmp_path / "admin.properties", tmp_path / "late.scram"
    admin.write_text(secured.admin_properties())
    scram.write_text("SCRAM-SHA-512=iterations=8192,password=pw-of-late\n")
    assert "SCRAM-SHA-512=iterations=8192,password=$(" in PAGE.read_text(encoding="utf-8")
    late = connection_to(secured.reach("late", tls=True))
    assert not answers(secured.sasl_tls, connection=late)
    command = [find_java(), "-cp", f"{cache_dir()}/*", "kafka.admin.ConfigCommand", "--bootstrap-server", secured.sasl_tls]
    command += ["--command-config", admin, "--alter", "--add-config-file", scram]
    command += ["--entity-type", "users", "--entity-name", "late"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    deadline = time.monotonic() + 30
    while not answers(secured.sasl_tls, connection=late):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _open(bootstrap: str, protocol: str) -> dict[str, object]:
    return {"kafka_bootstrap": bootstrap, "security_protocol": protocol}


def _environment(settings: dict[str, object]) -> dict[str, str]:
    return {f"DSR_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.mark.parametrize("name", WAYS)
async def test_both_sides_say_who_they_are(ways, name):
    """From the same settings, the orchestrator's clients and the connectors' are let in by each way there is."""
    reach = BrokerReach(**ways[name]("system-crm"))
    for connection in ({"bootstrap_servers": reach.kafka_bootstrap, **connection_to(reach)}, kit_connection_to(reach)):
        async with AIOKafkaConsumer(**connection) as consumer:
            # Describe comes with Write and Read: what is listed says as whom we were let in.
            seen = {topic for topic in await consumer.topics() if topic.startswith(f"{TABLE.prefix}.")}
            assert seen == {TABLE.orders("crm"), TABLE.reports, TABLE.quarantine}


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_token_lets_in_when_the_issuer_made_it_for_this_broker(ways, secured, issuer, fault):
    """Signed by the issuer, in time and for us: else nobody is let in, whatever name the token gives."""
    settings = ways["bearer"]("system-crm") | ({"sasl_oauth_scope": fault} if fault else {})
    asked = len(issuer.asked)
    assert answers(secured.bearer, connection=connection_to(BrokerReach(**settings))) is not bool(fault)
    assert issuer.asked[asked:]


async def test_a_worker_without_one_of_its_rules_refuses_to_start(secured, registry, topics, tmp_path):
    """Each of the orchestrator's rules is needed; where one is missing the worker says so instead of waiting for ever.

    But the one to write the journal: who may read that sees the topic, and is refused with the first record.
    """
    await prepared(secured, topics)
    reach = secured.reach("orchestrator").model_dump(exclude_unset=True)
    settings = settings_for(tmp_path, secured.sasl, topics, **{**reach, "registry": registry})
    root = secured.connection(ADMIN)
    async with AIOKafkaProducer(bootstrap_servers=secured.sasl, **root) as producer:
        await producer.send_and_wait(topics.journal, b"{}")  # of an empty topic nobody asks whether it may be read
    needed = [rule for rule in rules(WHO[:1], topics) if (rule.operation, rule.name) != (Operation.WRITE, topics.journal)]
    for rule in needed:
        await acl.remove(secured.sasl, [rule], **root)
        with pytest.raises(ConfigurationError) as caught:
            async with worker(settings):
                pass
        await acl.add(secured.sasl, [rule], **root)
        named = {"kafka-cluster": "Allow DescribeConfigs on the cluster"}.get(rule.name, rule.name)
        assert named in str(caught.value), rule


@pytest.mark.parametrize("group", ["connector.crm", "connector.newsletter"])
async def test_a_connector_with_anothers_name_ends_instead_of_waiting(secured, group):
    """A connector that may not read its orders, or not in its group, ends with what it was refused."""
    own = secured.reach("system-newsletter").model_dump(exclude_unset=True)
    settings = RuntimeSettings(**own, topic_prefix=TABLE.prefix, keys_url="http://127.0.0.1:1")
    system = "newsletter" if group == "connector.crm" else "crm"
    bus = KafkaBus(settings, topic=TABLE.orders(system), group=TABLE.group(group))

    async def run() -> None:
        await bus.start()
        while True:
            await bus.receive()

    try:
        with pytest.raises(OrchestratorError, match="AuthorizationFailed"):
            await asyncio.wait_for(run(), 20)
    finally:
        await bus.stop()


@pytest.mark.parametrize(
    ("worker_way", "connector_way", "portal_way"),
    [
        ("scram_under_tls", "bearer", "certificates"),
        ("bearer", "scram_under_tls", "scram"),
        ("certificates", "certificates", "certificates"),
    ],
)
async def test_a_request_is_completed_with_only_these_rules(
    worker_way, connector_way, portal_way, ways, secured, registry, topics, tmp_path
):
    """Portal, worker and a real connector, each with its own rules and nothing more, bring a request to its confirmation.

    With certificates everywhere all sign as well, as an installation does by default.
    """
    await prepared(secured, topics)
    own = ways[worker_way]("orchestrator")
    keyring = Keyring(tmp_path / "keys", SPEAKERS) if worker_way == "certificates" else None
    settings = settings_for(
        tmp_path, secured.sasl, topics, **{**own, "registry": registry, **(signing(keyring) if keyring else {})}
    )
    standin = build_standin("hubspot")
    system = {"DSR_HUBSPOT_TOKEN": TOKEN, "DSR_SIGNATURES": "off"}
    if keyring is not None:
        system |= {"DSR_SIGNATURES": "required", "DSR_SIGNING_KEY_FILE": str(keyring.file("system:crm"))}
    system |= _environment(ways[connector_way]("system-crm"))
    asked = request()
    with serve(standin) as standin.base_url:
        standin.add(email="person@example.org")
        system["DSR_HUBSPOT_BASE_URL"] = standin.base_url
        async with worker(settings) as at_work:
            place = Place(settings.kafka_bootstrap, topics, at_work.http.url)
            with running("hubspot", place, tmp_path, **system) as connector:
                reach, signer = BrokerReach(**ways[portal_way]("portal-website")), keyring and keyring.key("portal:website")
                confirmation = await _asked_as_a_portal(reach, topics, asked, signer)
                assert connector.terminate() == 0
    assert confirmation.subject_request_id == asked.subject_request_id
    assert confirmation.result is RequestResult.FULFILLED
    assert not standin.holding("person@example.org")
    if worker_way == "scram_under_tls":
        await _operators_and_auditors_see_it(secured, topics, asked.subject_request_id)


class Place:
    """Where a connector's process finds its orders."""

    def __init__(self, bootstrap: str, topics: Topics, keys_url: str) -> None:
        self.bootstrap, self.topics, self.keys_url = bootstrap, topics, keys_url


async def _asked_as_a_portal(reach: BrokerReach, topics: Topics, asked, signer: SigningKey | None) -> Confirmation:
    connection = {"bootstrap_servers": reach.kafka_bootstrap, **connection_to(reach)}
    group = topics.group("portal.website")
    async with (
        AIOKafkaProducer(acks="all", enable_idempotence=True, **connection) as producer,
        AIOKafkaConsumer(topics.confirmations, group_id=group, auto_offset_reset="earliest", **connection) as consumer,
    ):
        record = record_of(asked, signer)
        await producer.send_and_wait(topics.requests, record.value, key=record.key, headers=record.headers)
        async with asyncio.timeout(30):
            record = await consumer.getone()
        await consumer.commit()
    return Confirmation.model_validate_json(record.value)


async def _operators_and_auditors_see_it(secured: SecuredKafka, topics: Topics, asked: str) -> None:
    """With their own rules an operator looks a request up and an auditor finds the whole log in order."""
    for user, words in (("operator-alice", ("status", asked)), ("auditor-inspector", ("audit",))):
        status, told = await asyncio.to_thread(_dsr, secured, user, *words, "--prefix", topics.prefix)
        assert status == 0, told
