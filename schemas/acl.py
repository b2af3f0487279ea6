"""Who may do what on Kafka: the access rules of an installation, generated from its registry.

Every rule allows; nothing is denied by a rule, because the broker denies what no rule allows
(`allow.everyone.if.no.acl.found=false`). Names of principals are those under which keys are registered, with `-` for `:`.

What rules on topics cannot do: all connectors write one topic of reports and all portals the same topics of requests, so the
broker cannot tell whether a report or a request is its writer's own. Signatures tell that.

Source: Apache Kafka, "Authorization and ACLs", table of protocols, operations and resources.

Room rules: data and pure functions; `orchestrator.adapters.acl` asks and changes a broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints

from schemas.base import Record
from schemas.errors import ConfigurationError
from schemas.topics import Topics

__all__ = [
    "PRINCIPAL_FORM",
    "AclDifference",
    "AclRule",
    "Holder",
    "Operation",
    "Pattern",
    "PrincipalKind",
    "ResourceType",
    "as_markdown",
    "difference",
    "holders",
    "principal_name",
    "rules",
]

#: How a principal's name becomes Kafka's principal. With mutual TLS and no mapping rules it is `User:CN={name},O=...`.
PRINCIPAL_FORM = "User:{name}"
_CLUSTER = "kafka-cluster"


class PrincipalKind(StrEnum):
    """Who speaks to the broker."""

    ORCHESTRATOR = "orchestrator"
    SYSTEM = "system"
    PORTAL = "portal"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ARCHIVE = "archive"


class Operation(StrEnum):
    """What is done, in Kafka's words. Read and Write allow Describe as well."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    ALTER = "Alter"
    DESCRIBE = "Describe"
    CLUSTER_ACTION = "ClusterAction"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"
    IDEMPOTENT_WRITE = "IdempotentWrite"
    CREATE_TOKENS = "CreateTokens"
    DESCRIBE_TOKENS = "DescribeTokens"
    TWO_PHASE_COMMIT = "TwoPhaseCommit"
    ALL = "All"


class ResourceType(StrEnum):
    """To what it is done."""

    TOPIC = "Topic"
    GROUP = "Group"
    CLUSTER = "Cluster"
    TRANSACTIONAL_ID = "TransactionalId"
    DELEGATION_TOKEN = "DelegationToken"  # noqa: S105 - a kind of resource
    USER = "User"


class Pattern(StrEnum):
    """Whether a rule means one resource or all whose names begin so."""

    LITERAL = "Literal"
    PREFIXED = "Prefixed"


class AclRule(Record):
    """One rule as a broker keeps it."""

    principal: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]+:.+$")]
    operation: Operation
    resource: ResourceType
    name: str
    pattern: Pattern = Pattern.LITERAL
    permission: Annotated[str, StringConstraints(pattern="^(Allow|Deny)$")] = "Allow"
    host: Annotated[str, Field(description="From where; * is from everywhere")] = "*"

    def __str__(self) -> str:
        where = f"{self.name}*" if self.pattern is Pattern.PREFIXED else self.name
        said = "" if self.permission == "Allow" else " must not"
        return f"{self.principal}{said} {self.operation} {self.resource} {where}"


class _Grant(NamedTuple):
    """One row of the table: `name` makes the resource's name from the topics and the principal's id."""

    operation: Operation
    resource: ResourceType
    name: Callable[[Topics, str], str]
    why: str
    pattern: Pattern = Pattern.LITERAL


def _everything(topics: Topics, _ident: str) -> str:
    return f"{topics.prefix}."


def _read(name: Callable[[Topics, str], str], why: str) -> _Grant:
    return _Grant(Operation.READ, ResourceType.TOPIC, name, why)


def _write(name: Callable[[Topics, str], str], why: str) -> _Grant:
    return _Grant(Operation.WRITE, ResourceType.TOPIC, name, why)


def _group(name: Callable[[Topics, str], str]) -> _Grant:
    return _Grant(Operation.READ, ResourceType.GROUP, name, "goes on where it stopped")


#: What `dsr topics check`, and with it every start of a worker, looks at.
_LOOKS_AT_SETTINGS = (
    _Grant(Operation.DESCRIBE_CONFIGS, ResourceType.TOPIC, _everything, "are the topics as they must be", Pattern.PREFIXED),
    _Grant(Operation.DESCRIBE_CONFIGS, ResourceType.CLUSTER, lambda _t, _i: _CLUSTER, "does the broker create misspelt topics"),
)
_GRANTS: dict[PrincipalKind, tuple[_Grant, ...]] = {
    PrincipalKind.ORCHESTRATOR: (
        _read(lambda t, _i: t.requests, "requests, withdrawals, confirmed identities"),
        _read(lambda t, _i: t.urgent_requests, "the same for urgent rights"),
        _read(lambda t, _i: t.commands, "operators' commands"),
        _read(lambda t, _i: t.reports, "connectors' reports"),
        _read(lambda t, _i: t.journal, "is the store as new as what was published from it"),
        _group(lambda t, _i: t.group("orchestrator")),
        # All of them, not the registry's: the order of a frozen plan goes to a system that has left the registry since.
        _Grant(
            Operation.WRITE, ResourceType.TOPIC, lambda t, _i: f"{t.prefix}.orders.", "orders to any system", Pattern.PREFIXED
        ),
        _write(lambda t, _i: t.status, "acknowledgements, progress, notices"),
        _write(lambda t, _i: t.confirmations, "confirmations"),
        _write(lambda t, _i: t.journal, "every transition"),
        _write(lambda t, _i: t.releases, "every key given out"),
        _write(lambda t, _i: t.quarantine, "records that it does not understand"),
        _write(lambda t, _i: t.clock, "a question for the broker's time when it starts"),
        *_LOOKS_AT_SETTINGS,
    ),
    PrincipalKind.SYSTEM: (
        _read(lambda t, i: t.orders(i), "its own orders"),
        _group(lambda t, i: t.group(f"connector.{i}")),
        _write(lambda t, _i: t.reports, "its reports"),
        _write(lambda t, _i: t.quarantine, "orders that it does not understand"),
    ),
    PrincipalKind.PORTAL: (
        _write(lambda t, _i: t.requests, "requests, withdrawals, confirmed identities"),
        _write(lambda t, _i: t.urgent_requests, "the same for urgent rights"),
        _read(lambda t, _i: t.status, "acknowledgements, progress, notices: of all portals, without identities"),
        _read(lambda t, _i: t.confirmations, "confirmations: of all portals, without identities"),
        _group(lambda t, i: t.group(f"portal.{i}")),
    ),
    PrincipalKind.OPERATOR: (
        _write(lambda t, _i: t.commands, "commands"),
        _write(lambda t, _i: t.requests, "what is filed by hand, and who is vouched for (`dsr submit`, `dsr identity`)"),
        _write(lambda t, _i: t.urgent_requests, "the same for urgent rights"),
        _read(lambda t, _i: t.journal, "what became of a command"),
        _read(lambda t, _i: t.status, "what the portal was told"),
        _read(lambda t, _i: t.confirmations, "how a request ended"),
        _read(lambda t, _i: t.releases, "who was given the key to a request's orders, and when (`dsr show --keys`)"),
        _read(lambda t, _i: t.quarantine, "what was set aside"),
        *_LOOKS_AT_SETTINGS,
    ),
    PrincipalKind.AUDITOR: (
        _Grant(Operation.READ, ResourceType.TOPIC, _everything, "the whole log; identities in it are sealed", Pattern.PREFIXED),
        *_LOOKS_AT_SETTINGS,
        _Grant(Operation.DESCRIBE, ResourceType.CLUSTER, lambda _t, _i: _CLUSTER, "these very rules (`dsr acl check`)"),
    ),
    PrincipalKind.ARCHIVE: (
        _read(lambda t, _i: t.confirmations, "confirmations"),
        _group(lambda t, i: t.group(f"archive.{i}")),
    ),
}  # fmt: skip


class Holder(Record):
    """One principal: its kind, and its id where there may be several of a kind."""

    kind: PrincipalKind
    ident: str = ""

    @property
    def key_name(self) -> str:
        """Return the name under which its key is registered, for instance `system:crm`."""
        return f"{self.kind}:{self.ident}" if self.ident else str(self.kind)


def principal_name(holder: Holder) -> str:
    """Return the principal's name at the broker: user name, certificate's common name or token's subject.

    The name of its key with `-` for `:`, which neither JAAS nor HTTP Basic nor Kubernetes carry well.
    """
    return holder.key_name.replace(":", "-")


def holders(
    *,
    systems: Iterable[str],
    portals: Iterable[str],
    workers: Iterable[str] = (),
    operators: Iterable[str] = (),
    auditors: Iterable[str] = (),
    archives: Iterable[str] = (),
) -> tuple[Holder, ...]:
    """Return the principals. Without `workers` all workers are the one principal `orchestrator`."""
    named = {
        PrincipalKind.ORCHESTRATOR: list(workers) or [""],
        PrincipalKind.SYSTEM: systems,
        PrincipalKind.PORTAL: portals,
        PrincipalKind.OPERATOR: operators,
        PrincipalKind.AUDITOR: auditors,
        PrincipalKind.ARCHIVE: archives,
    }
    return tuple(Holder(kind=kind, ident=ident) for kind, idents in named.items() for ident in sorted(set(idents)))


def rules(who: Iterable[Holder], topics: Topics, *, principal_form: str = PRINCIPAL_FORM) -> tuple[AclRule, ...]:
    """Return the rules of these principals.

    Raises `ConfigurationError` if `principal_form` does not hold `{name}`, or if two principals would have one name.
    """
    who = tuple(who)
    names = [principal_name(holder) for holder in who]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two principals would both be {name}: give one of them another id")
    if "{name}" not in principal_form or ":" not in principal_form.split("{name}", maxsplit=1)[0]:
        raise ConfigurationError("the form of principals needs a type and {name}, for instance User:{name}")
    return tuple(
        AclRule(
            principal=principal_form.replace("{name}", principal_name(holder)),
            operation=grant.operation,
            resource=grant.resource,
            name=grant.name(topics, holder.ident),
            pattern=grant.pattern,
        )
        for holder in who
        for grant in _GRANTS[holder.kind]
    )


class AclDifference(Record):
    """How a broker's rules differ from the wanted ones.

    `missing` stop somebody from working. `surplus` are about our topics, groups or principals and allow what the table does
    not. `wider` reach our topics or groups from outside our prefix: they are somebody else's, so they are only told.
    """

    missing: tuple[AclRule, ...] = ()
    surplus: tuple[AclRule, ...] = ()
    wider: tuple[AclRule, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether the broker has what it must have and nothing else."""
        return not (self.missing or self.surplus or self.wider)


def difference(wanted: Iterable[AclRule], found: Iterable[AclRule], topics: Topics) -> AclDifference:
    """Compare; rules about other installations' topics are passed over."""
    needed, there = list(wanted), set(found)
    ours = {rule.principal for rule in needed}
    extra = sorted(there - set(needed), key=str)
    own = [rule for rule in extra if rule.principal in ours or _is_within(rule, topics)]
    wide = [rule for rule in extra if rule not in own and _reaches(rule, topics)]
    return AclDifference(missing=tuple(r for r in needed if r not in there), surplus=tuple(own), wider=tuple(wide))


def _is_within(rule: AclRule, topics: Topics) -> bool:
    return rule.resource in {ResourceType.TOPIC, ResourceType.GROUP} and rule.name.startswith(f"{topics.prefix}.")


def _reaches(rule: AclRule, topics: Topics) -> bool:
    if rule.resource not in {ResourceType.TOPIC, ResourceType.GROUP}:
        return False
    return rule.name == "*" or (rule.pattern is Pattern.PREFIXED and f"{topics.prefix}.".startswith(rule.name))


def as_markdown() -> str:
    """Return the table of `docs/security.md`, for the default prefix."""
    topics = Topics()
    lines = ["| principal | may | on | why |", "| --- | --- | --- | --- |"]
    for kind, grants in _GRANTS.items():
        who = "orchestrator" if kind is PrincipalKind.ORCHESTRATOR else f"{kind}-&lt;id&gt;"
        for grant in grants:
            name = grant.name(topics, "<id>") + ("*" if grant.pattern is Pattern.PREFIXED else "")
            lines.append(f"| {who} | {grant.operation} | {grant.resource.lower()} `{name}` | {grant.why} |")
    return "\n".join(lines) + "\n"
