"""What a log line may hold, tried with canaries: values that must never reach a line, on every way there is to one."""

import ast
import asyncio
import io
import json
import logging
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import structlog
from aiokafka import AIOKafkaProducer
from pydantic import BaseModel

from schemas import log_lines
from schemas.errors import ConfigurationError, SystemRejected
from schemas.log_fields import FIELDS, REFUSED, WITHHELD, safe
from schemas.vocabulary import Right

ROOT = Path(__file__).parents[2]
#: The name is in no address and no number: only the rules about literals and fields can keep it out.
NAME = "Canaria-Vogelsang"
MAIL = "canary@example.org"
PHONE = "+31 6 12345678"


class Written:
    """The lines of one configured process."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def last(self) -> dict:
        return self.lines[-1]

    def holds_no_canary(self) -> None:
        for canary in (NAME, "canary", "12345678", "%40"):
            assert canary not in self.text


@pytest.fixture
def written():
    """Configure logging on a stream, and put back what was set before."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook, threading.excepthook
    quiet = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.access", "aiokafka")}
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)  # a command that ran in this process may have silenced it
    stream = io.StringIO()
    log_lines.configure(level="DEBUG", stream=stream)
    yield Written(stream)
    root.handlers[:], root.level, sys.excepthook, threading.excepthook = before
    for name, level in quiet.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_json_with_its_place_and_its_fields(written):
    """Text, level, moment, the code that spoke, and the fields."""
    structlog.get_logger(__name__).info("order sent", system="crm", right=Right.ERASURE, attempt=2, due_on=date(2026, 12, 24))
    line = written.last
    assert datetime.fromisoformat(line.pop("at")).tzinfo is not None
    assert {line.pop(name) for name in ("event", "level", "logger")} == {"order sent", "info", __name__}
    assert line == {"system": "crm", "right": "erasure", "attempt": 2, "due_on": "2026-12-24"}


def test_ids_are_kept_whole(written):
    """Ids lead to a request through the store only, and are what the person on call searches for."""
    ids = {"subject_request_id": "12345678-1234-1234-1234-123456789012", "order_id": "ord_" + "12345678" * 4}
    structlog.get_logger().info("order sent", **ids)
    assert ids.items() <= written.last.items()


def test_a_field_that_is_not_on_the_list_is_left_out_and_named(written):
    """The value is gone; its name and type tell the developer what to do."""
    structlog.get_logger().info("order sent", email=MAIL, subject={"name": NAME}, **{MAIL: 1})
    assert written.last["dropped"] == ["?: int", "email: str", "subject: dict"]
    written.holds_no_canary()


class Person(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (MAIL, REFUSED),
        (f"no contact {MAIL}", REFUSED),
        ("canary%40example.org", REFUSED),
        (PHONE, REFUSED),
        ("0612345678", REFUSED),
        ("(06) 12 34 56 78 90", REFUSED),
        (Person(name=NAME), "<Person>"),
        ({"name": NAME}, "<dict>"),
        (NAME.encode(), "<bytes>"),
        (ValueError(NAME), "<ValueError>"),
        ([Right.ACCESS, MAIL, Person(name=NAME)], ["access", REFUSED, "<Person>"]),
        (datetime(2026, 3, 5, 10, 0, 0, 123456, tzinfo=UTC), "2026-03-05T10:00:00.123456+00:00"),
        (timedelta(minutes=2), 120),
        ("dsr.orders.crm.v1", "dsr.orders.crm.v1"),
        ("192.0.2.17:9092", "192.0.2.17:9092"),
        ("2026-11-24T18:00:00Z", "2026-11-24T18:00:00Z"),
        (1234567890123, 1234567890123),
        (None, None),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_values_are_numbers_words_and_types(value, shown):
    """A value that looks personal is refused, an object is its type, everything harmless stays."""
    assert safe(value) == shown


def test_a_text_put_together_at_run_time_is_withheld(written):
    """An f-string may hold anything; the line says where it was written instead."""
    log = structlog.get_logger()
    log.info(f"nothing held for {NAME}")  # noqa: G004 - the mistake under test
    log.info("nothing held for %s", NAME)
    for line in written.lines:
        assert line["event"] == WITHHELD
        assert line["where"].startswith("tests/privacy/test_logs.py:")
        assert line["where"].endswith(" test_a_text_put_together_at_run_time_is_withheld")
    written.holds_no_canary()


CLOSED_WORDS = {"order_sent", "escalated"}
opened = {NAME.lower()}


def test_closed_words_of_the_code_are_texts_too(written):
    """An enum member or a word from a module's constant may be an event; a word from a variable collection may not."""
    log = structlog.get_logger()
    listed = next(iter(CLOSED_WORDS - {"escalated"}))
    for text in (Right.ERASURE, listed, *opened):
        log.info(text)
    assert [line["event"] for line in written.lines] == ["erasure", "order_sent", WITHHELD]


def test_bound_context_goes_the_same_way(written):
    """What is bound for a whole request is held to the same list."""
    structlog.contextvars.bind_contextvars(system="crm", email=MAIL)
    structlog.get_logger().bind(phone=PHONE, attempt=1).info("order sent")
    assert written.last["dropped"] == ["email: str", "phone: str"]
    assert (written.last["system"], written.last["attempt"]) == ("crm", 1)
    written.holds_no_canary()


def fail(identity: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute(f"select * from '{identity}'")


def test_an_error_is_its_class_and_frames(written):
    """A library's message quotes what it was given: it is left out, and so are arguments, notes, locals and causes' words."""
    try:
        try:
            fail(NAME)
        except sqlite3.Error as error:
            error.add_note(NAME)
            raise LookupError(NAME, MAIL) from error
    except LookupError:
        structlog.get_logger().exception("store did not answer")
    told = written.last["error"]
    assert told["class"] == "builtins.LookupError"
    assert told["frames"][0].startswith("tests/privacy/test_logs.py:")
    assert told["cause"]["class"] == "sqlite3.OperationalError"
    assert told["cause"]["frames"][-1].endswith(" fail")
    assert "message" not in told
    written.holds_no_canary()


def test_our_own_errors_keep_their_remedy(written):
    """`schemas.errors` forbids identities in messages; one that looks personal all the same is refused."""
    log = structlog.get_logger()
    log.error("cannot start", exc_info=ConfigurationError("store.url: use postgresql:// or sqlite://"))
    assert written.last["error"]["message"] == "store.url: use postgresql:// or sqlite://"
    log.error("system rejected", exc_info=SystemRejected(f"no contact {MAIL}"))
    assert written.last["error"]["message"] == REFUSED
    written.holds_no_canary()


async def test_errors_of_a_group_are_all_told(written):
    """A task group's errors are described one by one."""

    async def broken() -> None:
        raise ValueError(NAME)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())
            group.create_task(broken())
    except* ValueError as errors:
        structlog.get_logger().error("connector stopped", exc_info=errors)
    assert [each["class"] for each in written.last["error"]["errors"]] == ["builtins.ValueError"] * 2
    written.holds_no_canary()


def test_a_librarys_line_keeps_its_literal_text_without_arguments(written):
    """The template is the library's own words; what is put into it may be anybody's."""
    log = logging.getLogger("some.library")
    log.warning("no offset for %s", NAME)
    assert (written.last["event"], written.last["logger"], written.last["level"]) == (
        "no offset for %s",
        "some.library",
        "warning",
    )
    log.warning(f"no offset for {NAME}")  # noqa: G004 - what libraries do
    assert written.last["event"] == WITHHELD
    log.error(ValueError(NAME))
    assert written.last["event"] == WITHHELD
    log.error("broken", exc_info=ValueError(NAME), extra={"email": MAIL})
    assert written.last["error"]["class"] == "builtins.ValueError"
    written.holds_no_canary()


async def test_httpx_does_not_tell_whom_it_asked_for(written):
    """Httpx writes the whole address, with the person in it, at INFO: neither that nor its DEBUG lines arrive."""
    transport = httpx.MockTransport(lambda _: httpx.Response(404))
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("https://crm.example.org/contacts", params={"email": MAIL, "name": NAME})
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    async with httpx.AsyncClient(transport=transport) as client:
        await client.get("https://crm.example.org/contacts", params={"email": MAIL, "name": NAME})
    assert [line["event"] for line in written.lines if line["logger"] == "httpx"] == ['HTTP Request: %s %s "%s %d %s"']
    written.holds_no_canary()


async def test_aiokafka_is_heard_without_its_arguments(written):
    """The broker client's own words arrive, through the same fields."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    producer = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{port}", client_id=NAME)
    with pytest.raises(Exception, match="Unable to bootstrap"):
        await producer.start()
    await producer.stop()
    heard = [line for line in written.lines if line["logger"].startswith("aiokafka")]
    assert heard
    assert any("Unable" in line["event"] for line in heard)
    written.holds_no_canary()


def test_fausts_prefix_does_not_hide_its_texts(written):
    """Faust's services write their place in the tree before the text; the text is still a literal."""
    from mode import Service  # noqa: PLC0415 - heavy, for this test only

    class Canary(Service):
        def say(self) -> None:
            self.log.warning("Records wait")
            self.log.warning("Key %r is odd", MAIL)

    Canary().say()
    assert [line["event"] for line in written.lines] == ["Records wait", "Key %r is odd"]
    written.holds_no_canary()


def test_warnings_and_threads_go_the_same_way(written):
    """A warning's text and an error in a thread do not reach standard error by themselves."""
    warnings.warn(f"{NAME} is deprecated", stacklevel=1)
    assert written.last["event"] == WITHHELD
    thread = threading.Thread(target=lambda: fail(NAME))
    thread.start()
    thread.join()
    assert written.last["error"]["class"] == "sqlite3.OperationalError"
    written.holds_no_canary()


def test_for_people_lines_are_readable_and_hold_no_more(written):
    """The console format is held to the same list."""
    stream = io.StringIO()
    log_lines.configure(stream=stream, console=True)
    try:
        fail(NAME)
    except sqlite3.Error:
        structlog.get_logger().exception("store did not answer", system="crm", email=MAIL)
    assert "store did not answer" in stream.getvalue()
    Written(stream).holds_no_canary()


@pytest.mark.parametrize(
    ("level", "console", "heard"),
    [
        ("INFO", True, ["odd"]),
        ("INFO", False, ["starting", "odd"]),
        ("DEBUG", True, ["detail", "starting", "odd"]),
        ("ERROR", True, []),
    ],
)
def test_libraries_tell_people_what_is_odd_and_machines_all(written, level, console, heard):
    """Their parts' comings and goings do not run over the answer in a terminal, unless somebody asks for them."""
    stream = io.StringIO()
    log_lines.configure(level=level, stream=stream, console=console)
    for name in ("aiokafka.consumer", "faust.app.base", "alembic.runtime.migration", "orchestrator.shell.consumer"):
        log = logging.getLogger(name)
        log.debug("detail")
        log.info("starting")
        log.warning("odd")
    structlog.get_logger().info("worker ready")
    told = [word for line in stream.getvalue().splitlines() for word in ("detail", "starting", "odd") if word in line]
    assert told == heard * 4
    assert ("worker ready" in stream.getvalue()) is (level != "ERROR")


def test_an_unknown_level_is_refused_by_name():
    """The message names the setting and the levels there are."""
    with pytest.raises(ValueError, match="level: use one of CRITICAL, DEBUG"):
        log_lines.configure(level="LOUD")


def test_an_error_nobody_caught_ends_the_process_without_its_words():
    """The interpreter's traceback, with message and source, is replaced; so is what asyncio says of lost tasks."""
    program = f"""
import asyncio, logging
from schemas import log_lines
log_lines.configure()
async def broken(name):
    raise ValueError(name)
async def main():
    task = asyncio.get_running_loop().create_task(broken("{NAME}"), name="{MAIL}")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    logging.getLogger("x").warning("count %d", "{NAME}")
asyncio.run(main())
asyncio.run(broken("{MAIL}"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} == {WITHHELD, "count %d", "nobody caught this error"}
    assert [line["error"]["class"] for line in lines if "error" in line] == ["builtins.ValueError"] * 2
    assert NAME not in done.stderr
    assert MAIL not in done.stderr


def test_the_list_of_fields_names_nothing_personal():
    """No field of a line is one that identifies a person."""
    personal = {
        "email",
        "mail",
        "phone",
        "name",
        "subject",
        "address",
        "identifier",
        "identifiers",
        "value",
        "body",
        "url",
        "path",
        "query",
    }
    assert not FIELDS & personal


LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "bind", "bind_contextvars"}


def logging_calls() -> list[tuple[str, ast.Call]]:
    """Return every call of a structlog logger in the product, with its place."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for room in ("orchestrator", "connectors")
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"log", "_log", "logger"}
    ]


def test_every_logging_call_of_the_product_uses_the_list_and_a_literal():
    """A field that would be dropped, or a text that would be withheld, is found here and not by the person on call."""
    wrong = [
        f"{place}: {keyword.arg}"
        for place, call in logging_calls()
        for keyword in call.keywords
        if keyword.arg is not None
        and (keyword.arg not in FIELDS - {"error"} | {"exc_info"} or isinstance(keyword.value, ast.JoinedStr | ast.BinOp))
    ]
    wrong += [
        f"{place}: the text is put together at run time"
        for place, call in logging_calls()
        for text in call.args
        if not isinstance(text, ast.Constant | ast.Attribute)
    ]
    assert wrong == []


def test_the_product_logs_with_structlog_only():
    """Whoever logs with the standard library's `logging` loses the fields; setting a library's level is no logging."""
    own = {ROOT / "schemas" / "log_lines.py"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for room in ("orchestrator", "connectors", "schemas")
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if path not in own
        and (
            (isinstance(node, ast.Assign) and "logging.getLogger" in ast.unparse(node.value))
            or (isinstance(node, ast.Call) and re.match(r"logging\.(basicConfig|log|[a-z]+)$", ast.unparse(node.func)))
        )
    ]
    assert found == []
