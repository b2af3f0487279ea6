"""What a file may say about a system: calls, where results stand in answers, what errors mean, what is promised.

Room rules: shapes and the checks that concern one field; what concerns several is checked in `loading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag

from connectors.sdk.protocol import METHODS
from connectors.systems.declarative.template import Template, compiled
from schemas.errors import SystemRejected
from schemas.vocabulary import IdentifierKind, Right

__all__ = [
    "ApiKey",
    "Auth",
    "Basic",
    "Bearer",
    "Choice",
    "CursorPages",
    "Declaration",
    "Export",
    "Expression",
    "Fields",
    "Find",
    "ForEach",
    "LinkPages",
    "OAuth",
    "OffsetPages",
    "Pages",
    "Poll",
    "Procedure",
    "Request",
    "Rule",
    "Setting",
    "Step",
]


class Expression:
    """A JMESPath expression (jmespath.org), compiled once."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled = jmespath.compile(text)
        except JMESPathError as error:
            raise ValueError(f"no JMESPath expression: {type(error).__name__}") from None

    def find(self, value: Any) -> Any:
        """Return what stands there, None if nothing does. Raises `SystemRejected` where the value is of a wrong type."""
        is_defect = False
        try:
            return self._compiled.search(value)
        except JMESPathError:
            is_defect = True
        # Raised outside the handler: the library's error quotes the value.
        assert is_defect
        raise SystemRejected("the answer has another shape than the file says")

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _expression(value: Any) -> Any:
    return Expression(value) if isinstance(value, str) else value


def _template(value: Any) -> Any:
    return Template.parse(value) if isinstance(value, str) else value


Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
_Environment = Annotated[str, StringConstraints(pattern=r"^DSR_[A-Z0-9_]{1,60}$")]
_Path = Annotated[Expression, BeforeValidator(_expression)]
_Text = Annotated[Template, BeforeValidator(_template)]
_Document = Annotated[Any, AfterValidator(compiled)]
_Statuses = Annotated[tuple[Annotated[int, Field(ge=100, le=599)], ...], BeforeValidator(_listed), Field(min_length=1)]
_Scalar = bool | int | str


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True)


class Call:
    """A method and a path, written as `GET /contacts/{identifier}`."""

    METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

    def __init__(self, text: str) -> None:
        self.method, _, path = text.partition(" ")
        if self.method not in self.METHODS or not path.startswith("/") or "?" in path or "#" in path:
            raise ValueError("write a method and a path, as in `GET /contacts/{identifier}`; query values stand under `query`")
        self.path = Template.parse(path)


def _call(value: Any) -> Any:
    return Call(value) if isinstance(value, str) else value


class Rule(_Model):
    """What an answer means: the first rule that fits counts, a call's own before the file's.

    `code` says where the body holds a code: one of `equals`, or any if that is empty. `gone`: the record is not there, or not
    any more. `done`: what was asked is already so.
    """

    status: _Statuses
    code: _Path | None = None
    equals: Annotated[tuple[_Scalar, ...], BeforeValidator(_listed)] = ()
    means: Literal["throttled", "gone", "done", "rejected", "credentials", "unavailable"]


class Request(_Model):
    """One call. `query` values that are None or empty after filling are left out."""

    call: Annotated[Call, BeforeValidator(_call)]
    query: Mapping[str, _Document] = {}
    body: _Document = None
    text: _Text | None = None
    headers: Mapping[str, str] = {}
    expect: _Statuses = (200,)
    errors: tuple[Rule, ...] = ()


class _Bounded(_Model):
    max_pages: Annotated[int, Field(ge=1, le=100_000)] = 1000


class CursorPages(_Bounded):
    """The answer names a cursor, which goes into a query parameter or into a field of the body."""

    kind: Literal["cursor"]
    next: _Path
    query: str | None = None
    body: str | None = None


class OffsetPages(_Bounded):
    """Counted from the start. A page shorter than `size` is the last."""

    kind: Literal["offset"]
    offset: str = "offset"
    limit: str = "limit"
    size: Annotated[int, Field(ge=1, le=10_000)]


class LinkPages(_Bounded):
    """The answer holds the next page's address: in the body where `next` says, else in the `Link` header (RFC 8288)."""

    kind: Literal["link"]
    next: _Path | None = None


Pages = Annotated[CursorPages | OffsetPages | LinkPages, Field(discriminator="kind")]


class Find(Request):
    """How people are found by one kind of identifier. One of `match` and `exact` must be given.

    `match`: where a hit holds what was searched for; a hit without it is somebody else and is left alone. `exact`: the system
    finds by key and by nothing like it.
    """

    by: IdentifierKind
    kind: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")] = "record"
    items: _Path
    id: _Path
    match: tuple[_Path, ...] = ()
    exact: bool = False
    values: Mapping[Code, _Path] = {}
    yields: Mapping[IdentifierKind, _Path] = {}
    pages: Pages | None = None
    rights: tuple[Right, ...] | None = None


class ForEach(Request):
    """Things that hang on a record; the step is done for each of them, as `{item.id}`."""

    items: _Path
    id: _Path
    pages: Pages | None = None


class Export(_Model):
    """What of a step's answer goes into the person's copy."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
    items: _Path
    pages: Pages | None = None


class JobStart(_Model):
    """The step starts a job of the vendor's: its id, and the poll that asks after it."""

    id: _Path | None = None
    poll: Code


class Step(Request):
    """One call of a procedure, for each record found, or once for the person (`{records.ids}` with commas)."""

    name: Code
    each: Literal["record", "person"] = "record"
    only: tuple[str, ...] = ()
    for_each: ForEach | None = None
    confirm: _Path | None = None
    save: Mapping[Code, _Path] = {}
    job: JobStart | None = None
    export: Export | None = None


class Within(_Model):
    """Done when everything in `asked` is also in `answered`."""

    asked: _Path
    answered: _Path


class Poll(Request):
    """How to ask after a job, as `{job}`. An answer that fits neither `done`, `failed` nor `running` is refused."""

    expected_seconds: Annotated[int, Field(ge=1)]
    done: _Path | None = None
    within: Within | None = None
    failed: _Path | None = None
    running: _Path | None = None


class Setting(_Model):
    """A variable of the environment, and what holds without it."""

    env: _Environment
    default: str | None = None


class Procedure(_Model):
    """What is done for one right. `verify`: look again afterwards; who is still found is not called erased."""

    steps: tuple[Step, ...] = ()
    verify: bool = False
    effective_by_days: Annotated[int, Field(ge=0)] | Setting | None = None
    notes: tuple[Code, ...] = ()


class Choice(_Model):
    """Procedures of which a setting names one."""

    setting: Code
    variants: Annotated[Mapping[Code, Procedure], Field(min_length=1)]


def _is_choice(value: Any) -> str:
    return "choice" if isinstance(value, Choice) or (isinstance(value, dict) and "variants" in value) else "procedure"


_Doing = Annotated[
    Annotated[Procedure, Tag("procedure")] | Annotated[Choice, Tag("choice")],
    Discriminator(_is_choice),
]


class Fields(_Model):
    """Our field -> the system's name of it. `held_in`: where in a record those stand. `always`: sent with every change."""

    names: Mapping[Code, str]
    held_in: _Path | None = None
    always: tuple[str, ...] = ()


class Bearer(_Model):
    """`Authorization: Bearer`."""

    kind: Literal["bearer"]
    token_env: _Environment


class Basic(_Model):
    """`Authorization: Basic`; `suffix` follows the user name."""

    kind: Literal["basic"]
    username_env: _Environment
    password_env: _Environment
    suffix: str = ""


class ApiKey(_Model):
    """A key in a header of its own."""

    kind: Literal["api_key"]
    header: str
    key_env: _Environment


class OAuth(_Model):
    """Client credentials; the refresh grant where a refresh token is named (RFC 6749)."""

    kind: Literal["oauth2"]
    token_path: str
    client_id_env: _Environment
    client_secret_env: _Environment
    refresh_token_env: _Environment | None = None
    refresh_token_file_env: _Environment | None = None
    stale: _Statuses = (401,)


Auth = Annotated[Bearer | Basic | ApiKey | OAuth, Field(discriminator="kind")]


class RetryAfter(_Model):
    """A header that says when to come back, where `Retry-After` is absent."""

    header: str
    unit: Literal["seconds_left", "epoch_seconds"]


class Limits(_Model):
    """What the system allows, as `connectors.sdk.protocol.Throttle`."""

    concurrent: Annotated[int, Field(ge=1, le=100)] = 4
    per_second: Annotated[float, Field(gt=0)] | Setting | None = None
    per_day: Annotated[int, Field(ge=1)] | None = None
    day_zone: str = "UTC"
    retry_after: RetryAfter | None = None


def _known(rights: Mapping[Right, Any]) -> Mapping[Right, Any]:
    if unknown := set(rights) - set(METHODS):
        raise ValueError(f"no method for {min(unknown)}")
    return rights


class Declaration(_Model):
    """One system."""

    name: Code
    title: str
    source: str
    base_url: Setting
    auth: Auth
    settings: Mapping[Code, Setting] = {}
    throttle: Limits = Limits()
    headers: Mapping[str, str] = {}
    errors: tuple[Rule, ...] = ()
    check: Request
    find: Annotated[tuple[Find, ...], Field(min_length=1)]
    polls: Mapping[Code, Poll] = {}
    fields: Fields | None = None
    rights: Annotated[Mapping[Right, _Doing], Field(min_length=1), AfterValidator(_known)]
    notes: Annotated[Mapping[Code, str], Field(description="What each audit note means")] = {}

    @property
    def needs(self) -> frozenset[IdentifierKind]:
        """Return the identifiers any one of which is enough."""
        return frozenset(find.by for find in self.find)

    @property
    def yields(self) -> frozenset[IdentifierKind]:
        """Return the identifiers it may find."""
        return frozenset(kind for find in self.find for kind in find.yields)

    def procedures(self, right: Right) -> Mapping[str, Procedure]:
        """Return the procedures of a right by the setting's value, by `""` if there is no choice."""
        doing = self.rights[right]
        return doing.variants if isinstance(doing, Choice) else {"": doing}

    @property
    def figures(self) -> tuple[Setting, ...]:
        """Return the settings that stand in the place of a number."""
        days = (way.effective_by_days for right in self.rights for way in self.procedures(right).values())
        return tuple(given for given in (self.throttle.per_second, *days) if isinstance(given, Setting))
