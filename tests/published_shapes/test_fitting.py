"""The check itself: a request that fits is silent, and each way not to fit is named without a value."""

from __future__ import annotations

import json

import pytest

from tests.published_shapes.fitting import Shapes

SEARCH = {"filterGroups": [], "properties": ["email"], "limit": 10, "sorts": [], "after": "0"}
JSON = {"content-type": "application/json"}


def faults(method, path, *, query="", headers=JSON, body=None):
    shapes = Shapes("hubspot")
    shapes.witness(method, path, query, headers, b"" if body is None else json.dumps(body).encode())
    return shapes.faults


def test_what_fits_is_silent():
    """A search, and a read with parameters."""
    assert faults("POST", "/crm/v3/objects/contacts/search", body=SEARCH) == []
    assert faults("GET", "/crm/v3/objects/contacts/ada%40example.org", query="idProperty=email&archived=false") == []


@pytest.mark.parametrize(
    ("method", "path", "given", "said"),
    [
        ("POST", "/crm/v3/objects/contacts/find", {"body": SEARCH}, "path that is not described"),
        ("PATCH", "/crm/v3/objects/contacts/search", {"body": SEARCH}, "not with this method"),
        ("POST", "/crm/v3/objects/contacts/search", {"body": SEARCH | {"limit": "ada"}}, "body limit: type"),
        ("POST", "/crm/v3/objects/contacts/search", {"body": SEARCH | {"filter": []}}, "not described: filter"),
        ("POST", "/crm/v3/objects/contacts/search", {"body": {**SEARCH, "sorts": None}}, "body sorts: type"),
        ("POST", "/crm/v3/objects/contacts/search", {}, "body: required"),
        ("POST", "/crm/v3/objects/contacts/search", {"body": {"limit": 1}}, "required: after, filterGroups, properties, sorts"),
        ("POST", "/crm/v3/objects/contacts/search", {"body": SEARCH, "headers": {"content-type": "text/plain"}}, "text/plain"),
        ("GET", "/crm/v3/objects/contacts/7", {"query": "archived=ada"}, "query archived: not as described"),
        ("GET", "/crm/v3/objects/contacts/7", {"query": "id_property=email"}, "query id_property: not described"),
    ],
)
def test_each_way_not_to_fit_is_named(method, path, given, said):
    """One fault each, and none of the values."""
    (fault,) = faults(method, path, **given)
    assert said in fault and "ada" not in fault
