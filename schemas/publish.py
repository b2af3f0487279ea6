"""The schemas in the form others read: JSON Schema for each message, one AsyncAPI 3.0 document for the topics.

`dsr schemas publish` writes what stands here to `schemas/published/`; `dsr schemas check` and a test compare the two.
Sources: JSON Schema draft 2020-12, AsyncAPI 3.0.0 with the Kafka bindings 0.5.0.

Room rules: pure functions from models to text; no file is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from schemas import __version__
from schemas.base import Message
from schemas.confirmations import Confirmation
from schemas.journal import JournalEntry
from schemas.order_keys import KeysReleased
from schemas.registry import Registry
from schemas.reports import FulfilmentReport
from schemas.status import StatusEvent
from schemas.subject import SubjectData
from schemas.topics import COMMANDS as COMMANDS_TOPIC
from schemas.topics import (
    CONFIRMATIONS,
    DEFAULT_PREFIX,
    JOURNAL,
    PROMPT_RIGHTS,
    QUARANTINE,
    RELEASES,
    REPORTS,
    REQUESTS,
    STATUS,
    URGENT_REQUESTS,
    TopicSpec,
    manifest,
    orders_topic,
)
from schemas.wire import COMMANDS, MESSAGES, ORDER_MESSAGES, PORTAL_MESSAGES, TYPE_HEADER, VERSION_HEADER

__all__ = ["ASYNCAPI_FILE", "published"]

ASYNCAPI_FILE = "asyncapi.json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Stands in the address of the orders channel for a system's id.
_SYSTEM = "{system}"

#: Topic -> name of its channel, and what travels there; quarantined records are bytes of any kind.
_CHANNELS: Mapping[str, tuple[str, str, Sequence[type[Message]]]] = {
    REQUESTS: ("requests", "What portals ask for", PORTAL_MESSAGES),
    URGENT_REQUESTS: (
        "urgent_requests",
        f"What portals ask for and say later of requests for these rights: {', '.join(sorted(PROMPT_RIGHTS))}",
        PORTAL_MESSAGES,
    ),
    COMMANDS_TOPIC: ("commands", "What operators decide", COMMANDS),
    orders_topic(_SYSTEM): (
        "orders",
        "What one system's connector must do, or leave undone; one topic per system",
        ORDER_MESSAGES,
    ),
    REPORTS: ("reports", "What connectors answer, signed", (FulfilmentReport,)),
    STATUS: ("status", "What portals hear while a request is open", (StatusEvent,)),
    CONFIRMATIONS: ("confirmations", "The one final answer per request, signed", (Confirmation,)),
    JOURNAL: ("journal", "Every transition, hash-chained per request, without identity", (JournalEntry,)),
    RELEASES: ("releases", "Which order's key was given to which system, and when; signed", (KeysReleased,)),
    QUARANTINE: ("quarantine", "Records that could not be processed, as they came, with why and where from", ()),
}


def published() -> dict[str, str]:
    """Return every published file by its name: canonical JSON text that ends in a newline."""
    files: dict[str, Any] = {f"{name}.v1.json": _schema(model, f"{name}.v1") for name, model in MESSAGES.items()}
    files["Registry.json"] = _schema(Registry, "Registry")
    files["SubjectData.json"] = _schema(SubjectData, "SubjectData")
    files[ASYNCAPI_FILE] = _asyncapi()
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in sorted(files.items())}


def _schema(model: type[BaseModel], name: str) -> dict[str, Any]:
    return {"$schema": _DIALECT, "$id": f"urn:dsr:schema:{name}", **model.model_json_schema()}


def _asyncapi() -> dict[str, Any]:
    # A topic that nobody reads carries no message: it is there for the broker's answer.
    topics = [topic for topic in manifest([_SYSTEM]) if topic.readers]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Data-subject request orchestrator",
            "version": __version__,
            "description": (
                "One request of a data subject goes in, every system is told, one confirmation comes out. Every record's key "
                "is its subject_request_id, but for released keys, where it is the system; delivery is at least once, and a "
                "repeated record is harmless. Operations are "
                "named after who does them: portals, operators, connectors, auditors, the archive, the orchestrator itself. "
                f"Addresses begin with the installation's prefix, `{DEFAULT_PREFIX}` unless it has set another."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {_CHANNELS[topic.name][0]: _channel(topic) for topic in topics},
        "operations": {name: operation for topic in topics for name, operation in _operations(topic).items()},
        "components": {
            "messages": {name: _message(name, model) for name, model in MESSAGES.items()} | {"Quarantined": _quarantined()},
            "messageTraits": {"recorded": _trait()},
        },
    }


def _message_names(topic: TopicSpec) -> list[str]:
    return [model.__name__ for model in _CHANNELS[topic.name][2]] or ["Quarantined"]


def _channel(topic: TopicSpec) -> dict[str, Any]:
    _, description, _ = _CHANNELS[topic.name]
    configuration: dict[str, Any] = {
        "cleanup.policy": topic.cleanup.split(","),
        "retention.ms": topic.retention_ms,
        "max.message.bytes": topic.max_message_bytes,
    }
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_names(topic)},
        "bindings": {
            "kafka": {"partitions": topic.partitions, "topicConfiguration": configuration, "bindingVersion": "0.5.0"},
        },
    }
    if _SYSTEM in topic.name:
        channel["parameters"] = {"system": {"description": "Id of a system in the registry", "examples": ["crm", "newsletter"]}}
    return channel


def _operations(topic: TopicSpec) -> dict[str, dict[str, Any]]:
    name = _CHANNELS[topic.name][0]
    channel = {"$ref": f"#/channels/{name}"}
    messages = [{"$ref": f"#/channels/{name}/messages/{message}"} for message in _message_names(topic)]

    def operation(who: str, action: str) -> dict[str, Any]:
        verb = "publish" if action == "send" else "read"
        return {"action": action, "channel": channel, "summary": f"{who}: {verb} {name}", "messages": messages}

    sides = ((topic.writers, "send"), (topic.readers, "receive"))
    roles = [(_role(who), action) for everybody, action in sides for who in everybody]
    return {f"{who}.{action}.{name}": operation(who, action) for who, action in roles}


def _role(who: str) -> str:
    return "connectors" if who.startswith("connector:") else who


def _message(name: str, model: type[Message]) -> dict[str, Any]:
    return {
        "name": name,
        "title": name,
        "summary": (model.__doc__ or "").strip().partition("\n")[0],
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/recorded"}],
        "headers": _headers(name),
        "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": {"$ref": f"{name}.v1.json"}},
    }


def _headers(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [TYPE_HEADER, VERSION_HEADER],
        "properties": {
            TYPE_HEADER: {"type": "string", "const": name, "description": "May be left out if the value's `type` says it"},
            VERSION_HEADER: {"type": "string", "const": "1"},
            "traceparent": {
                "type": "string",
                "description": "W3C Trace Context",
                "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            },
        },
    }


def _quarantined() -> dict[str, Any]:
    return {
        "name": "Quarantined",
        "title": "Quarantined",
        "summary": "The original key and value, byte for byte, of a record that changed nothing.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }


def _trait() -> dict[str, Any]:
    return {
        "bindings": {
            "kafka": {
                "key": {"type": "string", "format": "uuid", "description": "The message's subject_request_id"},
                "bindingVersion": "0.5.0",
            }
        }
    }
