"""Whether requests fit what a vendor has published of its API: method, path, parameters, and the fields of a body.

Stricter than the descriptions are: a field or parameter that they do not name is a fault, since a vendor drops it in silence.

    class TestAcmeContract(FitsPublished, AcmeMixin, HttpConnectorContract):
        published = "acme"
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote

import pytest
from jsonschema import Draft202012Validator

_FOLDER = Path(__file__).parent
_OURS = {"authorization", "content-type", "accept"}


class Shapes:
    """One vendor's excerpt."""

    def __init__(self, name: str, *, strip: str = "") -> None:
        """`strip` is what a connector's base URL adds before the described paths."""
        self._document = json.loads((_FOLDER / f"{name}.json").read_bytes())
        self._strip = strip
        templates = sorted(self._document["paths"], key=lambda path: path.count("{"))
        self._paths = [(re.compile(re.sub(r"\\\{[^}]*\\\}", "([^/]+)", re.escape(path))), path) for path in templates]
        self._schemas = {name: _strict(schema) for name, schema in self._document["components"]["schemas"].items()}
        #: Operations that were called, and what did not fit. No value of a request stands in either.
        self.called: set[str] = set()
        self.faults: list[str] = []

    def witness(self, method: str, raw_path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        """Note what does not fit."""
        found = self._find(method, raw_path.removeprefix(self._strip))
        if found is None:
            self.faults.append(f"{method} on a path that is not described, or not with this method")
            return
        path, operation, values = found
        self.called.add(f"{method} {path}")
        faults = [*self._parameters(operation, query, headers, values), *self._body(operation, headers, body)]
        self.faults += [f"{method} {path}: {fault}" for fault in faults]

    def _find(self, method: str, raw_path: str) -> tuple[str, Any, dict[str, str]] | None:
        for pattern, path in self._paths:
            match = pattern.fullmatch(raw_path)
            operation = self._document["paths"][path].get(method.lower())
            if match and operation is not None:
                names = re.findall(r"\{([^}]*)\}", path)
                return path, operation, dict(zip(names, map(unquote, match.groups()), strict=True))
        return None

    def _parameters(self, operation: Any, query: str, headers: dict[str, str], values: dict[str, str]) -> Iterator[str]:
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            given.setdefault(name, []).append(value)
        described = {
            (said["in"], said["name"].lower() if said["in"] == "header" else said["name"]): said
            for said in operation["parameters"]
        }
        for name in given:
            # OpenAPI's `deepObject` names its members in brackets.
            if ("query", name) not in described and ("query", name.partition("[")[0]) not in described:
                yield f"query {name}: not described"
        for (place, name), said in described.items():
            sent = {"query": given.get(name, []), "header": [headers[name]] if name in headers else []}.get(place)
            if sent is None:
                sent = [values[name]]
            if not sent and said.get("required") and name not in _OURS:
                yield f"{place} {name}: required"
            for value in sent:
                if not any(self._valid(said["schema"], each) for each in _readings(value, said["schema"])):
                    yield f"{place} {name}: not as described"

    def _valid(self, schema: Any, value: Any) -> bool:
        return not any(self._errors(schema, value))

    def _errors(self, schema: Any, value: Any) -> Iterator[Any]:
        whole = {**_strict(schema), "components": {"schemas": self._schemas}}
        return Draft202012Validator(whole).iter_errors(value)

    def _body(self, operation: Any, headers: dict[str, str], body: bytes) -> Iterator[str]:
        described = operation.get("requestBody")
        if not body:
            if described is not None and described["required"]:
                yield "body: required"
            return
        if described is None:
            yield "body: none is described"
            return
        kind = headers.get("content-type", "").partition(";")[0]
        if kind not in described["content"]:
            yield f"body: {kind} is not described"
        elif kind == "application/json":
            errors = self._errors(described["content"][kind]["schema"], json.loads(body))
            # One missing field is one error each, and all of them are said at once.
            yield from dict.fromkeys(f"body {'.'.join(map(str, error.absolute_path))}: {_rule(error)}" for error in errors)


def _rule(error: Any) -> str:
    """Return which rule is broken, without a value."""
    if error.validator == "additionalProperties":
        return f"not described: {', '.join(sorted(set(error.instance) - set(error.schema.get('properties', ()))))}"
    if error.validator == "required":
        return f"required: {', '.join(sorted(set(error.validator_value) - set(error.instance)))}"
    return str(error.validator)


def _readings(value: str, schema: Any) -> Iterator[Any]:
    """Yield what a parameter's text may stand for."""
    yield value
    if schema.get("type") == "array":
        yield value.split(",")
    with contextlib.suppress(ValueError):
        yield json.loads(value)
    if "$ref" in schema:
        yield value


def _strict(schema: Any, *, part: bool = False) -> Any:
    """Return JSON Schema out of OpenAPI's: `nullable` spelt out, and objects closed unless they are parts of a composite."""
    if isinstance(schema, list):
        return [_strict(each, part=part) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            made[key] = {name: _strict(each) for name, each in value.items()}
        elif key in {"allOf", "anyOf", "oneOf"}:
            made[key] = _strict(value, part=key == "allOf")
        elif key not in {"nullable", "format"}:
            made[key] = _strict(value)
    composite = {"allOf", "anyOf", "oneOf"} & made.keys()
    if made.get("properties") and "additionalProperties" not in made and not part and not composite:
        made["additionalProperties"] = False
    return {"anyOf": [made, {"type": "null"}]} if schema.get("nullable") else made


class FitsPublished:
    """A contract's requests are held against what the vendor has published; put it first among the bases."""

    # Without values here: those of the bases behind would not be seen.
    published: ClassVar[str]
    strip: ClassVar[str]
    #: Faults that are known, each with its reason beside it.
    known: ClassVar[frozenset[str]]

    @contextlib.contextmanager
    def open_system(self, clock):
        """Watch the stand-in."""
        shapes = Shapes(self.published, strip=getattr(self, "strip", ""))
        with super().open_system(clock) as standin:
            standin.witness = shapes.witness
            yield standin
        if faults := set(shapes.faults) - getattr(self, "known", frozenset()):
            pytest.fail("; ".join(sorted(faults)), pytrace=False)
