"""Access rules as data: they follow topics, registry and names of keys, and differences are told apart by whose they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.commands.acl import kafka_acls_command
from schemas.acl import (
    AclRule,
    Operation,
    Pattern,
    ResourceType,
    as_markdown,
    difference,
    holders,
    principal_name,
    rules,
)
from schemas.broker import BrokerReach
from schemas.errors import ConfigurationError
from schemas.topics import Topics, manifest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
TOPICS = Topics(prefix="acme")
WHO = holders(systems=["crm", "shop"], portals=["website"], operators=["alice"], auditors=["inspector"], archives=["vault"])
KINDS = {
    "portals": "portal-", "operators": "operator-", "orchestrator": "orchestrator", "connectors": "system-",
    "connector:crm": "system-crm", "connector:shop": "system-shop", "auditors": "auditor-", "archive": "archive-",
}  # fmt: skip


def allows(rule: AclRule, operation: Operation, topic: str) -> bool:
    named = topic.startswith(rule.name) if rule.pattern is Pattern.PREFIXED else topic == rule.name
    return rule.resource is ResourceType.TOPIC and rule.operation is operation and named


def who_may(operation: Operation, topic: str) -> set[str]:
    return {rule.principal.removeprefix("User:") for rule in rules(WHO, TOPICS) if allows(rule, operation, topic)}


def of_kinds(kinds: tuple[str, ...]) -> set[str]:
    return {principal_name(one) for one in WHO for kind in kinds if principal_name(one).startswith(KINDS[kind])}


@pytest.mark.parametrize("spec", manifest(["crm", "shop"], prefix="acme"), ids=lambda spec: spec.name)
def test_the_rules_are_the_manifests_writers_and_readers(spec):
    """Who writes and reads a topic by the manifest may do so; beyond it operators file by hand and look, auditors read all."""
    by_hand = {"operator-alice"} if spec.name in TOPICS.all_requests else set()
    assert who_may(Operation.WRITE, spec.name) == of_kinds(spec.writers) | by_hand
    looking = {"operator-alice"} & who_may(Operation.READ, spec.name)
    assert who_may(Operation.READ, spec.name) == of_kinds(spec.readers) | {"auditor-inspector"} | looking


def test_names_are_those_of_the_keys():
    """A principal is called as its key is, with a dash; workers share one name unless they are named."""
    assert [one.key_name for one in WHO] == [
        "orchestrator", "system:crm", "system:shop", "portal:website", "operator:alice", "auditor:inspector", "archive:vault",
    ]  # fmt: skip
    named = holders(systems=[], portals=[], workers=["two", "one", "one"])
    assert [principal_name(one) for one in named] == ["orchestrator-one", "orchestrator-two"]
    of_certificates = rules(named, TOPICS, principal_form="User:CN={name},O=Example")
    assert of_certificates[0].principal == "User:CN=orchestrator-one,O=Example"
    with pytest.raises(ConfigurationError, match="both be operator-ops-alice"):
        rules(holders(systems=[], portals=[], operators=["ops:alice", "ops-alice"]), TOPICS)
    for wrong in ("User:everybody", "{name}"):
        with pytest.raises(ConfigurationError, match="needs a type and"):
            rules(named, TOPICS, principal_form=wrong)


def test_another_installation_on_the_same_broker_is_left_alone():
    """Only what concerns our names is compared; what reaches them from outside is told but is not ours to take away."""
    wanted = rules(WHO, TOPICS)
    read = {"operation": Operation.READ, "resource": ResourceType.TOPIC}
    ours = AclRule(principal="User:mallory", name="acme.orders.crm.v1", **read)
    also_ours = AclRule(principal="User:system-crm", name="elsewhere", **read)
    wide = AclRule(principal="User:backup", name="*", **read)
    wide_too = AclRule(principal="User:backup", name="ac", pattern=Pattern.PREFIXED, **read)
    others = AclRule(principal="User:backup", name="acme2.requests.v1", **read)
    cluster = AclRule(principal="User:backup", operation=Operation.ALTER, resource=ResourceType.CLUSTER, name="kafka-cluster")
    found = difference(wanted, [*wanted[1:], ours, also_ours, wide, wide_too, others, cluster], TOPICS)
    assert found.missing == wanted[:1]
    assert set(found.surplus) == {ours, also_ours}
    assert set(found.wider) == {wide, wide_too}
    assert difference(wanted, wanted, TOPICS).is_empty


def test_the_commands_say_what_the_rules_say():
    """Kafka's own tool is told principal, operation, resource and pattern of each rule, quoted for a shell."""
    by_words = {kafka_acls_command(rule) for rule in rules(WHO, TOPICS)}
    begin = 'kafka-acls.sh --bootstrap-server "$BROKER" --command-config "$ADMIN" --add --allow-principal User:orchestrator'
    assert f"{begin} --operation Write --topic acme.orders. --resource-pattern-type prefixed" in by_words
    assert f"{begin} --operation Read --group acme.orchestrator" in by_words
    assert f"{begin} --operation DescribeConfigs --cluster" in by_words
    spaced = rules(WHO[:1], TOPICS, principal_form="User:CN={name},O=Two words")[0]
    assert "'User:CN=orchestrator,O=Two words'" in kafka_acls_command(spaced)


def test_the_pages_rules_are_the_codes():
    """The table of docs/security.md is the one that rules are made from."""
    between = re.search(r"<!-- access rules: generated by .+? -->\n\n(.+?)\n<!-- access rules: end -->", PAGE, re.DOTALL)
    assert between is not None
    assert between[1] == as_markdown()


def test_the_page_tells_every_setting_of_a_broker():
    """Each variable that says how to reach a broker has its row in docs/security.md, with its default, and no other has."""
    rows = re.findall(r"^\| (`DSR_\w+`(?:, `DSR_\w+`)*) \|(.*?)\|", PAGE, re.MULTILINE)
    told = {name.strip("`"): default.strip(" `") for names, default in rows for name in names.split(", ")}
    wanted = {f"DSR_{name.upper()}": str(field.default or "") for name, field in BrokerReach.model_fields.items()}
    assert told == wanted | {"DSR_SSL_CA_FILE": "the system's roots"}
