"""Reads a broker's access rules, adds to them and takes some away.

aiokafka has the messages of Kafka's ACL protocol but no calls for them; they are sent here, many rules at once.

Source: Apache Kafka protocol guide, DescribeAcls (29), CreateAcls (30) and DeleteAcls (31), version 1; the codes are those of
`org.apache.kafka.common.acl` and `org.apache.kafka.common.resource`.

Room rules: speaks Kafka's admin protocol through aiokafka; who may do what stands in `schemas.acl`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    SecurityDisabled,
    for_code,
)
from aiokafka.protocol.admin import CreateAclsRequest_v1, DeleteAclsRequest_v1, DescribeAclsRequest
from aiokafka.protocol.api import Request

from schemas.acl import AclRule, Operation, Pattern, ResourceType
from schemas.broker import not_reached
from schemas.errors import ConfigurationError, OrchestratorError

__all__ = ["add", "describe", "remove"]

_SEEN_WITHIN_SECONDS = 30.0
_ANY = 1
_OPERATIONS: Mapping[Operation, int] = {
    Operation.ALL: 2,
    Operation.READ: 3,
    Operation.WRITE: 4,
    Operation.CREATE: 5,
    Operation.DELETE: 6,
    Operation.ALTER: 7,
    Operation.DESCRIBE: 8,
    Operation.CLUSTER_ACTION: 9,
    Operation.DESCRIBE_CONFIGS: 10,
    Operation.ALTER_CONFIGS: 11,
    Operation.IDEMPOTENT_WRITE: 12,
    Operation.CREATE_TOKENS: 13,
    Operation.DESCRIBE_TOKENS: 14,
    Operation.TWO_PHASE_COMMIT: 15,
}
_RESOURCES: Mapping[ResourceType, int] = {
    ResourceType.TOPIC: 2,
    ResourceType.GROUP: 3,
    ResourceType.CLUSTER: 4,
    ResourceType.TRANSACTIONAL_ID: 5,
    ResourceType.DELEGATION_TOKEN: 6,
    ResourceType.USER: 7,
}
_PATTERNS: Mapping[Pattern, int] = {Pattern.LITERAL: 3, Pattern.PREFIXED: 4}
_PERMISSIONS: Mapping[str, int] = {"Deny": 2, "Allow": 3}
_OPERATION_OF = {code: word for word, code in _OPERATIONS.items()}
_RESOURCE_OF = {code: word for word, code in _RESOURCES.items()}
_PATTERN_OF = {code: word for word, code in _PATTERNS.items()}
_PERMISSION_OF = {code: word for word, code in _PERMISSIONS.items()}


async def describe(bootstrap: str, **connection: Any) -> frozenset[AclRule]:
    """Return every rule of the broker. `connection` goes to aiokafka's admin client (security_protocol and the like).

    Raises `ConfigurationError` when no broker answers, when it keeps no rules, or when we may not see them.
    """
    async with _admin(bootstrap, connection) as admin:
        return await _rules(admin)


async def add(bootstrap: str, rules: Sequence[AclRule], **connection: Any) -> None:
    """Add rules, and return when the broker shows them; one that is there already stays. Raises as `describe` does."""
    if not rules:
        return
    async with _admin(bootstrap, connection) as admin:
        answer = await admin._send_request(_Create(rules))  # noqa: SLF001 - no public way to send a request of one's own
        for rule, (code, message) in zip(rules, answer.creation_responses, strict=True):
            _taken(rule, code, message)
        await _shows(admin, present=frozenset(rules))


async def remove(bootstrap: str, rules: Sequence[AclRule], **connection: Any) -> None:
    """Take rules away, and return when the broker shows them no more; one that is gone already is no error."""
    if not rules:
        return
    async with _admin(bootstrap, connection) as admin:
        answer = await admin._send_request(_Delete(rules))  # noqa: SLF001 - no public way to send a request of one's own
        for rule, (code, message, _gone) in zip(rules, answer.filter_responses, strict=True):
            _taken(rule, code, message)
        await _shows(admin, absent=frozenset(rules))


def _row(rule: AclRule) -> tuple[int, str, int, str, str, int, int]:
    return (
        _RESOURCES[rule.resource],
        rule.name,
        _PATTERNS[rule.pattern],
        rule.principal,
        rule.host,
        _OPERATIONS[rule.operation],
        _PERMISSIONS[rule.permission],
    )


class _Create(Request[CreateAclsRequest_v1]):  # type: ignore[misc] # aiokafka has no types
    """Many rules in one request; aiokafka's own class carries one."""

    API_KEY = CreateAclsRequest_v1.API_KEY

    def __init__(self, rules: Iterable[AclRule]) -> None:
        self._rows = [_row(rule) for rule in rules]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._rows)


class _Delete(Request[DeleteAclsRequest_v1]):  # type: ignore[misc] # aiokafka has no types
    """Many filters in one request, each of which fits one rule."""

    API_KEY = DeleteAclsRequest_v1.API_KEY

    def __init__(self, rules: Iterable[AclRule]) -> None:
        self._rows = [_row(rule) for rule in rules]

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(self._rows)


def _taken(rule: AclRule, code: int, message: str | None) -> None:
    if code == 0:
        return
    error = for_code(code)
    if error is ClusterAuthorizationFailedError:
        raise error
    raise ConfigurationError(f"{rule}: the broker does not take it: {error.__name__}: {message}")


async def _rules(admin: Any) -> frozenset[AclRule]:
    everything = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
    answer = await admin._send_request(everything)  # noqa: SLF001 - no public way to send a request of one's own
    if answer.error_code:
        raise for_code(answer.error_code)
    return frozenset(
        AclRule(
            principal=principal,
            operation=_OPERATION_OF[operation],
            resource=_RESOURCE_OF[resource],
            name=name,
            pattern=_PATTERN_OF[pattern],
            permission=_PERMISSION_OF[permission],
            host=host,
        )
        for resource, name, pattern, acls in answer.resources
        for principal, host, operation, permission in acls
    )


async def _shows(admin: Any, *, present: frozenset[AclRule] = frozenset(), absent: frozenset[AclRule] = frozenset()) -> None:
    """Wait for what the controller has written to reach the broker that is asked."""
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    while not (present <= (found := await _rules(admin)) and not absent & found):
        if time.monotonic() > deadline:
            raise OrchestratorError(
                f"After {_SEEN_WITHIN_SECONDS:.0f} s the rules are not as written: look at the broker's log"
            )
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _admin(bootstrap: str, connection: Mapping[str, Any]) -> AsyncIterator[Any]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, **connection)
    try:
        await admin.start()
        yield admin
    except KafkaConnectionError:
        raise not_reached(bootstrap, connection) from None
    except SecurityDisabled:
        raise ConfigurationError(
            f"The broker at {bootstrap} keeps no access rules, so everybody may do everything: set authorizer.class.name on it"
        ) from None
    except ClusterAuthorizationFailedError:
        raise ConfigurationError(
            f"The broker at {bootstrap} does not let us do that: to see its rules takes Describe on the cluster "
            "(an auditor has it), to change them takes Alter (a super user has it)"
        ) from None
    except (KafkaError, TimeoutError) as error:
        raise OrchestratorError(f"The broker at {bootstrap} did not do it ({type(error).__name__}): try again") from error
    finally:
        await admin.close()
