"""The published schemas: what others generate their code from says what this code does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from schema_examples import DATA, EXAMPLES
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands.schemas import published_folder
from schemas import topics
from schemas.publish import ASYNCAPI_FILE, published
from schemas.wire import MESSAGES, PORTAL_MESSAGES, encode

FOLDER = published_folder()
RUN = CliRunner()
DOCUMENT: dict[str, Any] = json.loads(published()[ASYNCAPI_FILE])


def test_published_files_are_the_generated_ones():
    """The folder holds exactly what the code generates; generating twice gives the same text."""
    files = published()
    assert files == published()
    assert {path.name for path in FOLDER.iterdir()} == set(files)
    for name, text in files.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: run `dsr schemas publish`"
    assert RUN.invoke(app, ["schemas", "check"]).exit_code == 0


def test_check_names_what_differs(tmp_path: Path):
    """`dsr schemas check` fails for a missing, a changed and a left-over file; `publish` mends all three."""
    folder = tmp_path / "published"
    assert RUN.invoke(app, ["schemas", "publish", "--folder", str(folder)]).exit_code == 0
    (folder / "Deny.v1.json").unlink()
    (folder / "Add.v1.json").write_text("{}")
    (folder / "Gone.v1.json").write_text("{}")
    result = RUN.invoke(app, ["schemas", "check", "--folder", str(folder)])
    assert result.exit_code == 1
    assert [line for line in result.output.splitlines() if ".json: " in line] == [
        "Gone.v1.json: no message stands behind it",
        "Add.v1.json: differs from the code",
        "Deny.v1.json: missing",
    ]
    RUN.invoke(app, ["schemas", "publish", "--folder", str(folder)])
    assert RUN.invoke(app, ["schemas", "check", "--folder", str(folder)]).exit_code == 0


@pytest.mark.parametrize("name", MESSAGES)
def test_message_schema_takes_the_example_and_nothing_else(name: str):
    """Each schema is a valid draft 2020-12 schema; it takes the encoded example and refuses unknown and missing fields."""
    schema = json.loads(published()[f"{name}.v1.json"])
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    example = json.loads(encode(EXAMPLES[name]))
    validator.validate(example)
    assert not validator.is_valid({**example, "extra": 1})
    assert not validator.is_valid({k: v for k, v in example.items() if k != _needed(name)})


def _needed(name: str) -> str:
    """Return a field that the message cannot be without."""
    return "orders" if name == "KeysReleased" else "subject_request_id"


def test_schemas_of_registry_and_person_take_theirs():
    """The registry's schema takes the example company's file, the person's schema takes a person."""
    registry = yaml.safe_load((FOLDER.parents[1] / "deploy" / "registry" / "example-company.yaml").read_text())
    jsonschema.Draft202012Validator(json.loads(published()["Registry.json"])).validate(registry)
    jsonschema.Draft202012Validator(json.loads(published()["SubjectData.json"])).validate(json.loads(DATA.to_bytes()))


# --- AsyncAPI 3.0 (the specification's required fields and its rules on references) -----------------------------------


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if set(part) == {"$ref"}:
            yield part["$ref"]
        for inner in part.values():
            yield from _references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _references(inner)


def _resolved(reference: str) -> Any:
    part: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        part = part[step]
    return part


def test_asyncapi_has_its_required_parts_and_no_others():
    """The document has the fields that AsyncAPI 3.0.0 requires and only those it knows."""
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(DOCUMENT["info"])
    assert set(DOCUMENT) <= {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    for channel in DOCUMENT["channels"].values():
        assert set(channel) <= {"address", "messages", "title", "summary", "description", "servers", "parameters", "bindings"}
    for operation in DOCUMENT["operations"].values():
        assert set(operation) <= {"action", "channel", "title", "summary", "description", "bindings", "traits", "messages"}
        assert operation["action"] in ("send", "receive")
        assert operation["channel"]


def test_every_reference_leads_somewhere():
    """References inside the document resolve; the others name a published file."""
    for reference in _references(DOCUMENT):
        if reference.startswith("#/"):
            assert _resolved(reference)
        else:
            assert reference in published()


def test_operations_use_messages_of_their_channel():
    """An operation's messages are references into its own channel, as AsyncAPI 3.0.0 demands."""
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


def test_channels_are_the_topics():
    """Each topic that somebody reads is one channel, with its limits; orders are one parameterised channel."""
    specs = {spec.name: spec for spec in topics.manifest(["{system}"]) if spec.readers}
    by_address = {channel["address"]: channel for channel in DOCUMENT["channels"].values()}
    assert set(by_address) == set(specs)
    for address, channel in by_address.items():
        assert set(channel.get("parameters", {})) == ({"system"} if "{system}" in address else set())
        kafka = channel["bindings"]["kafka"]
        assert kafka["partitions"] == specs[address].partitions
        assert ",".join(kafka["topicConfiguration"]["cleanup.policy"]) == specs[address].cleanup
        assert kafka["topicConfiguration"]["retention.ms"] == specs[address].retention_ms


def test_every_message_travels_on_one_channel():
    """Each message is on exactly one channel, a portal's on both of requests, with its headers and the request's id as key."""
    carried = [name for channel in DOCUMENT["channels"].values() for name in channel["messages"]]
    assert sorted(carried) == sorted([*MESSAGES, "Quarantined", *(model.__name__ for model in PORTAL_MESSAGES)])
    for name in MESSAGES:
        message = DOCUMENT["components"]["messages"][name]
        assert message["payload"]["schema"] == {"$ref": f"{name}.v1.json"}
        assert message["headers"]["properties"]["dsr-type"]["const"] == name
        assert {"dsr-type", "dsr-version", "traceparent"} <= set(message["headers"]["properties"])
        trait = _resolved(message["traits"][0]["$ref"])
        assert trait["bindings"]["kafka"]["key"]["description"] == "The message's subject_request_id"


def test_operations_are_the_writers_and_readers():
    """Whoever writes or reads a topic in the manifest has an operation on its channel, and nobody else."""
    expected = set()
    for spec in topics.manifest(["{system}"]):
        if not spec.readers:
            continue
        channel = next(name for name, channel in DOCUMENT["channels"].items() if channel["address"] == spec.name)
        for action, everybody in (("send", spec.writers), ("receive", spec.readers)):
            expected |= {f"{who.replace('connector:{system}', 'connectors')}.{action}.{channel}" for who in everybody}
    assert set(DOCUMENT["operations"]) == expected
