"""Cut an excerpt out of a vendor's published description: the operations that are called, without prose.

It may be an OpenAPI description, or one of Google's discovery documents.

    python -m tests.published_shapes.excerpt NAME REPOSITORY COMMIT PATH=FILE... -- "GET /a/{id}" "POST /b"...

PATH is that in the repository at COMMIT, FILE the copy on this machine. Writes `NAME.json` beside this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

_PROSE = {"description", "example", "examples", "title", "externalDocs", "default", "deprecated", "summary"}
_SCHEMA = {
    *("type", "properties", "required", "items", "enum", "$ref", "allOf", "anyOf", "oneOf", "nullable", "additionalProperties"),
    *("minItems", "maxItems", "minLength", "maxLength", "pattern", "minimum", "maximum", "format"),
}


def _bare(node: Any, *, names: bool = False) -> Any:
    """Return without prose and extensions; `names`: the keys are names, not words of the language."""
    if isinstance(node, list):
        return [_bare(part) for part in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: _bare(value) for key, value in node.items()}
    kept = {key: value for key, value in node.items() if key in _SCHEMA}
    return {
        key: value if key in {"enum", "required"} else _bare(value, names=key == "properties") for key, value in kept.items()
    }


def _refs(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(_refs, node.values()))
    return set().union(*map(_refs, node)) if isinstance(node, list) else set()


def _at(document: Any, ref: str) -> Any:
    for part in ref.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def _parameter(document: Any, given: Any) -> dict[str, Any]:
    found = _at(document, given["$ref"]) if "$ref" in given else given
    said = {key: found[key] for key in ("name", "in", "required", "style", "explode") if key in found}
    return {**said, "schema": _bare(found.get("schema", {}))}


def _operation(document: Any, item: Any, operation: Any) -> dict[str, Any]:
    every = [_parameter(document, given) for given in [*item.get("parameters", ()), *operation.get("parameters", ())]]
    cut: dict[str, Any] = {"parameters": [given for given in every if given["in"] in {"path", "query", "header"}]}
    body = operation.get("requestBody")
    if body is not None:
        body = _at(document, body["$ref"]) if "$ref" in body else body
        content = {kind: {"schema": _bare(said.get("schema", {}))} for kind, said in body["content"].items()}
        cut["requestBody"] = {"required": body.get("required", False), "content": content}
    return cut


def _from_discovery(document: Any) -> Any:
    """Return a discovery document as OpenAPI has it (https://developers.google.com/discovery/v1/reference/apis)."""
    paths: dict[str, Any] = {}
    todo = list(document["resources"].values())
    while todo:
        resource = todo.pop()
        todo += resource.get("resources", {}).values()
        for method in resource.get("methods", {}).values():
            given = {**document["parameters"], **method.get("parameters", {})}
            operation: dict[str, Any] = {
                "parameters": [
                    {"name": name, "in": said["location"], "required": said.get("required", False), "schema": said}
                    for name, said in given.items()
                ]
            }
            if "request" in method:
                operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": method["request"]}}}
            path = f"/{document['servicePath']}{method.get('flatPath', method['path'])}"
            paths.setdefault(path, {})[method["httpMethod"].lower()] = operation
    return _with_pointers({"paths": paths, "components": {"schemas": document["schemas"]}})


def _with_pointers(node: Any) -> Any:
    """Return with references as OpenAPI writes them; a discovery document names the schema alone."""
    if isinstance(node, list):
        return [_with_pointers(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {
        key: f"#/components/schemas/{value}" if key == "$ref" and isinstance(value, str) else _with_pointers(value)
        for key, value in node.items()
    }


def excerpt(documents: list[Any], wanted: list[str]) -> dict[str, Any]:
    """Return paths and the schemas that they need. Raises `KeyError` for an operation that is not described."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for call in wanted:
        method, path = call.split()
        document = next(found for found in documents if method.lower() in found["paths"].get(path, {}))
        item = document["paths"][path]
        cut = _operation(document, item, item[method.lower()])
        paths.setdefault(path, {})[method.lower()] = cut
        todo = _refs(cut)
        while todo:
            ref = todo.pop()
            if ref not in schemas:
                schemas[ref] = _bare(_at(document, ref))
                todo |= _refs(schemas[ref])
    return {"paths": paths, "components": {"schemas": {ref.split("/")[-1]: schema for ref, schema in sorted(schemas.items())}}}


def main(arguments: list[str]) -> None:
    """Write an excerpt."""
    cut = arguments.index("--")
    name, repository, commit, *given = arguments[:cut]
    files = dict(text.split("=", 1) for text in given)
    read = [yaml.load(Path(file).read_bytes(), Loader=yaml.CSafeLoader) for file in files.values()]
    documents = [found if "paths" in found else _from_discovery(found) for found in read]
    source = {"repository": repository, "commit": commit, "files": list(files)}
    text = json.dumps({"source": source, **excerpt(documents, arguments[cut + 1 :])}, indent=1)
    Path(__file__).with_name(f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
