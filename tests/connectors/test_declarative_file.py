"""Files that describe systems: what is refused when loaded, what values may do, and how pages are walked."""

from __future__ import annotations

import copy
import time
from contextlib import asynccontextmanager

import pytest
import yaml
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.sdk.loader import build_connector, build_standin
from connectors.sdk.perform import perform
from connectors.sdk.standin import Fault, StandIn, serve
from connectors.sdk.testing import ADA, job_for
from connectors.systems.declarative.connector import connector_class
from connectors.systems.declarative.loading import load, parse
from connectors.systems.declarative.template import Template, compiled, rendered
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable, Throttled
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right

EMAIL = {IdentifierKind.EMAIL: (ADA.email,)}
#: The smallest file that erases.
SMALL = """\
name: desk
title: Desk
source: https://desk.invalid/docs
base_url: {env: DSR_DESK_URL}
auth: {kind: bearer, token_env: DSR_DESK_TOKEN}
settings:
  site: {env: DSR_DESK_SITE, default: main}
check: {call: GET /me}
find:
  - by: email
    call: GET /people
    query: {email: "{identifier|lower}"}
    items: people
    id: id
    match: [email]
rights:
  erasure:
    steps:
      - name: delete
        call: DELETE /people/{record.id}
        expect: 204
"""


def small(**changes):
    """Return the small file with parts replaced by path (`find.0.match`); None takes a part away."""
    data = copy.deepcopy(yaml.safe_load(SMALL))
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        at = data
        for part in parents:
            at = at[part]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return yaml.safe_dump(data, sort_keys=False)


def test_the_small_file_loads():
    """Nothing but what it needs."""
    declaration = parse(SMALL, "desk.yaml")
    assert (declaration.name, set(declaration.rights), declaration.needs) == (
        "desk",
        {Right.ERASURE},
        {IdentifierKind.EMAIL},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL.replace("GET /people", "FETCH /people"), "desk.yaml:11: find.0.call: write a method and a path"),
        (SMALL.replace("items: people", "items: 'people['"), "desk.yaml:13: find.0.items: no JMESPath expression"),
        (SMALL.replace("|lower}", "|rot13}"), "desk.yaml:12: find.0.query.email: no filter rot13; known are e164, lower"),
        (SMALL.replace("{record.id}", "{record.email}"), "desk.yaml:20: rights.erasure.steps.0.call: nothing is called"),
        (SMALL.replace("{record.id}", "{identifier}"), "desk.yaml:20: rights.erasure.steps.0.call: nothing is called"),
        (SMALL.replace("    match: [email]\n", ""), "desk.yaml:10: find.0: one of `match` and `exact: true`"),
        (SMALL.replace("kind: bearer", "kind: cookie"), "desk.yaml:5: auth: Input tag"),
        (SMALL.replace("DSR_DESK_TOKEN", "hunter2"), "desk.yaml:5: auth.token_env: String should match"),
        (SMALL.replace("by: email", "by: shoe"), "desk.yaml:10: find.0.by: Input should be"),
        (SMALL.replace("expect: 204", "expct: 204"), "desk.yaml:21: rights.erasure.steps.0.expct: Extra inputs"),
        (SMALL.replace("title: Desk\n", ""), "desk.yaml:1: title: Field required"),
        (SMALL + "name: twice\n", "desk.yaml:22: name: stands twice"),
        (SMALL + "errors: [{status: 404, means: gone}]\n", "desk.yaml:22: errors.0: for every call, a bare status"),
        (SMALL.replace('email: "{identifier|lower}"', "q: \"mail:'{identifier|lower}'\""), "find.0.query: identifier stands"),
        (small(**{"rights.erasure.steps": []}), "rights.erasure: has no steps"),
        (small(**{"rights.erasure.notes": ["odd"]}), "rights.erasure.notes: odd is not explained"),
        (small(**{"rights.erasure.steps.0.job": {"poll": "later"}}), "steps.0.job.poll: is not among `polls`"),
        (small(**{"rights.erasure.steps.0.only": ["Lead"]}), "steps.0.only: nothing of kind Lead is found"),
        (small(**{"find.0.pages": {"kind": "cursor", "next": "n"}}), "find.0.pages: the cursor goes into one of"),
        (small(**{"rights.rectification": {"steps": []}}), "rights.rectification: needs `fields`"),
        (small(polls={"p": {"call": "GET /j/{job}", "expected_seconds": 1}}), "polls.p: say when it is done"),
        (small(**{"rights.erasure": {"setting": "how", "variants": {}}}), "rights.erasure"),
        ("name: [", "desk.yaml:1: is no YAML"),
        ("- 1", "desk.yaml:1: file: Input should be"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_line_and_field(text, said):
    """Each mistake is named where it stands, with what to do; no secret that was written there by mistake is quoted."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "desk.yaml")
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_kind_that_is_found_must_be_touched():
    """Finding leads and deleting contacts would count leads as erased."""
    more = yaml.safe_load(SMALL)["find"][0] | {"kind": "lead"}
    data = yaml.safe_load(SMALL)
    data["find"].append(more)
    data["rights"]["erasure"]["steps"][0]["only"] = ["record"]
    with pytest.raises(ConfigurationError, match="lead is found and no step touches it"):
        parse(yaml.safe_dump(data), "desk.yaml")


def test_a_file_that_is_not_there():
    """The message names the variable and the shipped files."""
    with pytest.raises(ConfigurationError, match="DSR_DECLARATIVE_FILE: no file to be read; give a path, or one of brevo"):
        load("/nowhere/desk.yaml")


def test_a_connector_and_its_stand_in_are_built_by_the_variable(monkeypatch):
    """What `dsr-connector` does: the file by name, the account from the variables that the file names."""
    monkeypatch.setenv("DSR_DECLARATIVE_FILE", "brevo")
    monkeypatch.setenv("DSR_BREVO_API_KEY", "x")
    assert build_connector("declarative").name == "brevo"
    assert build_standin("declarative").name == "brevo"


# Values.


def test_a_value_in_a_path_is_one_segment():
    """Slashes, question marks and dots of a value do not reach another resource."""
    path = Template.parse("/people/{record.id}/notes")
    assert path.as_path({"record.id": "a/../b?c#d"}) == "/people/a%2F..%2Fb%3Fc%23d/notes"
    for value in ("", "..", ".", " "):
        with pytest.raises(SystemRejected):
            path.as_path({"record.id": value})


def test_whole_values_keep_their_type_and_texts_are_quoted():
    """A document stays a document, a literal is escaped, a brace is a brace."""
    body = compiled({"a": "{changes}", "q": "x = '{identifier|soql}'", "b": "{{literal}}", "n": [1, "{order_id}"]})
    filled = rendered(body, {"changes": {"city": "Delft"}, "identifier": "o'h\\\n", "order_id": "ord_1"})
    assert filled == {"a": {"city": "Delft"}, "q": r"x = 'o\'h\\\n'", "b": "{literal}", "n": [1, "ord_1"]}


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a b}", "{A}", "{a|nope}"])
def test_broken_places_are_refused(text):
    """A brace alone, an empty place, an unknown filter."""
    with pytest.raises(ValueError, match=r"brace|filter"):
        Template.parse(text)


def test_an_id_inside_a_text_must_be_plain():
    """An id with a quote in it cannot end the literal that it stands in."""
    with pytest.raises(SystemRejected, match=r"record\.id is not plain") as caught:
        Template.parse("ContactId = '{record.id}'").fill({"record.id": "1' OR '1'='1"})
    assert "OR" not in str(caught.value)


# Pages.


class Desk(StandIn):
    """Seven people of one address, in pages of two; a page after the last is empty."""

    name = "desk"

    def __init__(self, style):
        super().__init__()
        self.style = style
        self.people = [{"id": n, "email": ADA.email} for n in range(7)]
        self.tokens = set()

    def routes(self):
        return [Route("/people", self._page, methods=["GET", "POST"]), Route("/people/{id:int}", self._one, methods=["DELETE"])]

    async def _one(self, request):
        self.people = [person for person in self.people if person["id"] != request.path_params["id"]]
        return Response(status_code=204)

    async def _page(self, request):
        self.tokens.add(request.headers.get("authorization"))
        if self.style == "body":
            start = int((await request.json()).get("after", 0))
        else:
            start = int(request.query_params.get("from", 0))
        following = str(start + 2) if start + 2 < len(self.people) else None
        address = str(request.url.include_query_params(**{"from": following})) if following else None
        headers = {"link": f'<{address}>; rel="next"'} if self.style == "header" and address else {}
        return JSONResponse({"people": self.people[start : start + 2], "after": following, "next": address}, headers=headers)


STYLES = {
    "cursor": {"kind": "cursor", "next": "after", "query": "from"},
    "body": {"kind": "cursor", "next": "after", "body": "after"},
    "offset": {"kind": "offset", "offset": "from", "limit": "limit", "size": 2},
    "link": {"kind": "link", "next": "next"},
    "header": {"kind": "link"},
}


@asynccontextmanager
async def desk(style, *, given=None, **changes):
    standin = Desk(style)
    call = {"find.0.call": "POST /people", "find.0.body": {"n": 1}} if style == "body" else {}
    declaration = parse(small(**{"find.0.pages": STYLES[style], **call, **changes}), "desk.yaml")
    with serve(standin) as url:
        given = {"DSR_DESK_TOKEN": "t"} if given is None else given
        connector = connector_class(declaration)({"DSR_DESK_URL": url, **given}, timeout_seconds=5)
        try:
            yield standin, connector
        finally:
            await connector.aclose()


@pytest.mark.parametrize("style", STYLES)
async def test_pages_are_walked_to_the_end(style):
    """All seven are found and deleted, whichever way the system names its next page."""
    async with desk(style) as (standin, connector):
        result = await perform(connector, job_for(Right.ERASURE, EMAIL))
    assert result.outcome.count == 7
    assert standin.people == []
    assert standin.tokens == {"Bearer t"}


async def test_a_credential_may_lie_in_a_file(tmp_path):
    """As of any connector; where it is in neither place both are named."""
    file = tmp_path / "token"
    file.write_text("t\n")
    async with desk("offset", given={"DSR_DESK_TOKEN_FILE": str(file)}) as (standin, connector):
        await perform(connector, job_for(Right.ERASURE, EMAIL))
    assert standin.tokens == {"Bearer t"}
    with pytest.raises(ConfigurationError, match="DSR_DESK_TOKEN: set this variable; a secret may lie in a file"):
        async with desk("offset", given={}):
            pass


async def test_a_refresh_token_and_the_file_it_changes_in_are_two_settings(tmp_path):
    """Though the second is called as the first with `_FILE` behind it: both may be set."""
    auth = {
        "kind": "oauth2", "token_path": "/token", "client_id_env": "DSR_DESK_ID", "client_secret_env": "DSR_DESK_SECRET",
        "refresh_token_env": "DSR_DESK_REFRESH", "refresh_token_file_env": "DSR_DESK_REFRESH_FILE",
    }  # fmt: skip
    given = {
        "DSR_DESK_ID": "i",
        "DSR_DESK_SECRET": "s",
        "DSR_DESK_REFRESH": "first",
        "DSR_DESK_REFRESH_FILE": str(tmp_path / "r"),
    }
    declaration = parse(small(auth=auth), "desk.yaml")
    connector = connector_class(declaration)({"DSR_DESK_URL": "http://127.0.0.1:1", **given}, timeout_seconds=5)
    await connector.aclose()


@pytest.mark.parametrize("style", ["cursor", "link"])
async def test_a_page_that_names_itself_ends_the_walk(style):
    """A cursor that was seen before is refused: no endless loop."""
    async with desk(style) as (standin, connector):
        again = str(connector._client._http.base_url).rstrip("/") + "/people?from=2"
        page = {"people": [], "after": "2", "next": again}
        standin.fail(Fault(status=200, json=page, times=1000))
        with pytest.raises(SystemRejected, match="read already"):
            await perform(connector, job_for(Right.ERASURE, EMAIL))


async def test_more_pages_than_allowed_is_no_success():
    """Half of the records is not all of them."""
    async with desk("cursor", **{"find.0.pages": STYLES["cursor"] | {"max_pages": 2}}) as (_, connector):
        with pytest.raises(SystemRejected, match="more than 2 pages"):
            await perform(connector, job_for(Right.ERASURE, EMAIL))


async def test_a_page_that_vanishes_under_the_walk_is_no_absence():
    """404 on the second page, where 404 on the first means nobody: refused."""
    gone = [{"status": 404, "means": "gone"}]
    async with desk("cursor", **{"find.0.errors": gone}) as (standin, connector):
        standin.fail_nth(2, Fault(status=404))
        with pytest.raises(SystemRejected, match="page 2 is gone"):
            await perform(connector, job_for(Right.ERASURE, EMAIL))
        standin.fail(Fault(status=404))
        assert (await perform(connector, job_for(Right.ERASURE, EMAIL))).outcome.code is OutcomeCode.NOTHING_HELD


# Errors.


@pytest.mark.parametrize(
    ("means", "error"),
    [
        ("throttled", Throttled),
        ("rejected", SystemRejected),
        ("credentials", CredentialsRefused),
        ("unavailable", SystemUnavailable),
    ],
)
async def test_an_answer_means_what_the_file_says(means, error):
    """409 with this code is what the rule says; 409 with another is a refusal."""
    rule = {"status": 409, "code": "errors[].code", "equals": "E7", "means": means}
    async with desk("cursor", errors=[rule]) as (standin, connector):
        for code, expected in (("E7", error), ("E8", SystemRejected)):
            standin.fail(Fault(status=409, json={"errors": [{"code": code}]}))
            with pytest.raises(expected):
                await perform(connector, job_for(Right.ERASURE, EMAIL))


@pytest.mark.parametrize(("means", "count"), [("gone", 6), ("done", 7)])
async def test_gone_is_not_counted_and_already_done_is(means, count):
    """A record that is gone was not erased by us; one on which it is already so counts."""
    rule = [{"status": 410, "means": means}]
    async with desk("cursor", **{"rights.erasure.steps.0.errors": rule}) as (standin, connector):
        standin.fail(Fault(status=410, method="DELETE"))
        result = await perform(connector, job_for(Right.ERASURE, EMAIL))
    assert result.outcome.count == count


async def test_hits_that_are_no_entries_are_no_absence():
    """A list of something else is refused, not filtered down to nobody."""
    async with desk("cursor") as (standin, connector):
        standin.fail(Fault(status=200, json={"people": [17, "x"]}))
        with pytest.raises(SystemRejected, match="an entry has no id"):
            await perform(connector, job_for(Right.ERASURE, EMAIL))


@pytest.mark.parametrize("unit", ["seconds_left", "epoch_seconds"])
async def test_a_header_of_its_own_names_the_wait(unit):
    """The seconds left, or an epoch measured against the answer's own Date."""
    headers = {"x-reset": "30" if unit == "seconds_left" else str(int(time.time()) + 30)}
    limits = {"retry_after": {"header": "x-reset", "unit": unit}}
    async with desk("cursor", throttle=limits) as (standin, connector):
        standin.fail(Fault(status=429, headers=headers))
        with pytest.raises(Throttled) as caught:
            await perform(connector, job_for(Right.ERASURE, EMAIL))
    assert caught.value.retry_after_seconds == pytest.approx(30, abs=3)
