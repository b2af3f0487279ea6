"""What is fuzzed: everything that turns bytes from outside the process into values.

A target may refuse with the errors it promises and with nothing else; where the bytes may come from a person, the refusal may
not repeat them.

Room rules: each target is the shipped function; no decoder is wrapped in anything that swallows.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
from starlette.applications import Starlette

from connectors.systems.declarative.loading import SHIPPED, parse
from connectors.systems.weblogs.columns import Columns
from orchestrator.adapters import registry_file
from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys, rewrapped
from orchestrator.audit.dump import DumpLog
from orchestrator.gateway.order_keys import order_keys_route
from orchestrator.settings import DEPLOY
from schemas.errors import ConfigurationError, NotVerified, ProtocolViolation
from schemas.ids import order_id
from schemas.intake import IntakeKey, IntakeKeySet, open_intake, seal_intake
from schemas.keys_ahead import AHEAD_HEADER, AheadMark, KeysAhead, mark_in
from schemas.order_keys import (
    PATH,
    KeyAnswer,
    WantedKey,
    WantedKeys,
    assertion,
    audience_of,
    checked_assertion,
    root_from_text,
    root_to_text,
)
from schemas.receipts import verify_receipt
from schemas.sealed import SealingKey
from schemas.signatures import Verifier, sign_all
from schemas.subject import SubjectData
from schemas.trust import ORCHESTRATOR, SigningKey, Trust, system_principal
from schemas.vocabulary import IdentifierKind
from schemas.wire import MESSAGES, TYPE_HEADER, decode
from tests.fuzz.kept import kept_targets, with_header
from tests.fuzz.received import received_targets
from tests.fuzz.target import Target
from tests.key_desk_kit import guard_for

__all__ = ["targets"]

_GOLDEN = Path(__file__).resolve().parent.parent / "schemas" / "golden"


def _message(name: str) -> Callable[[bytes], object]:
    model = MESSAGES[name]

    def run(data: bytes) -> object:
        """Read it as this message, with the header and, as a client without headers would, from its own type field."""
        decode(data, [(TYPE_HEADER, name.encode())], (model,))
        return decode(data, [], MESSAGES.values())

    return run


def _through_a_file(data: bytes, read: Callable[[Path], object], suffix: str) -> object:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        return read(Path(file.name))


def _dump(path: Path) -> int:
    async def count() -> int:
        log = DumpLog(path)
        return len([record async for record in log.read(await log.extent())])

    return asyncio.run(count())


_DUMPED = (
    b'{"format":"dsr-dump","version":1,"prefix":"dsr","captured_at":"2026-03-05T09:00:00+00:00","extent":[["dsr.requests.v1",0,0,1]]}\n'
    b'{"at":["dsr.requests.v1",0,0],"ms":1772701200000,"key":"a2V5","value":"e30=","headers":[["dsr-type","QWRk"]]}\n'
    b'{"records":1}\n'
)
_LOG_LINES = (
    b'192.0.2.7 - - [05/Mar/2026:09:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "agent"',
    b'2001:db8::7 - user1 [05/Mar/2026:09:00:00 +0000] "GET /a\\"b HTTP/1.1" 404 - "-" "-"',
)


def _columns(data: bytes) -> object:
    columns = Columns(("ip_address", "ident", "account_id", "time", "request", "status", "size"), "%d/%b/%Y:%H:%M:%S %z")
    return columns.parse(data.decode("utf-8", "surrogateescape"))


def targets() -> Iterable[Target]:
    """Yield every target."""
    for name in MESSAGES:
        yield Target(f"wire:{name}", ((_GOLDEN / f"{name}.json").read_bytes(),), _message(name), (ProtocolViolation,))
    registry = (DEPLOY / "registry" / "example-company.yaml").read_bytes()
    yield Target(
        "registry", (registry,), lambda data: _through_a_file(data, registry_file.load, ".yaml"), (ConfigurationError,), False
    )
    declared = tuple(path.read_bytes() for path in sorted(SHIPPED.glob("*/connector.yaml")))
    yield Target(
        "declarative", declared, lambda data: parse(data.decode("utf-8", "replace"), "f"), (ConfigurationError,), False
    )
    yield Target("dump", (_DUMPED,), lambda data: _through_a_file(data, _dump, ".jsonl"), (ConfigurationError,))
    yield Target("weblogs", _LOG_LINES, _columns, ())
    yield from _proofs()
    yield from _order_keys()
    yield from kept_targets()
    yield from received_targets()


def _proofs() -> Iterable[Target]:
    """Yield what reads keys and signatures; an input that is taken was not damaged where it counts."""
    receipts = _GOLDEN.parent.parent / "receipts"
    jwks = (receipts / "jwks.json").read_bytes()
    trust = Trust.from_json(jwks)
    genuine = tuple((receipts / f"{name}.json").read_bytes() for name in ("genuine", "genuine-alone"))
    yield Target("trust", (jwks,), Trust.from_json, (ConfigurationError,))
    yield Target("receipt", genuine, lambda data: verify_receipt(data, trust), (NotVerified,))
    key = SigningKey.new(ORCHESTRATOR)
    yield Target("signing key", (key.to_json().encode(),), SigningKey.from_json, (ConfigurationError,))
    verifier, leaves = Verifier(Trust.of(key)), [bytes([number]) * 32 for number in range(5)]

    def signature(data: bytes) -> object:
        return verifier.verify(leaves[0], data, principal=ORCHESTRATOR, at=datetime(2026, 3, 5, tzinfo=UTC))

    signed = sign_all(leaves, key)[0]
    yield Target("signature", (signed,), signature, (ProtocolViolation,))
    signed_header, put_header = with_header(signed.decode())
    yield Target(
        "signature, its header", (signed_header,), lambda data: signature(put_header(data).encode()), (ProtocolViolation,)
    )

    intake, request = IntakeKey.new("fuzzed"), "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"

    def opened(data: bytes) -> object:
        return open_intake(data.decode("utf-8", "replace"), {intake.kid: intake}, request)

    sealed = seal_intake(b"{}", intake.public, request)
    yield Target("intake seal", (sealed.encode(),), opened, (ProtocolViolation,))
    header, put = with_header(sealed)
    yield Target("intake seal, its header", (header,), lambda data: opened(put(data).encode()), (ProtocolViolation,))
    key_set = IntakeKeySet(keys=(intake.public,)).model_dump_json().encode()
    yield Target("intake keys", (key_set,), IntakeKeySet.from_json, (ConfigurationError,))


_REQUEST = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
_AT = datetime(2026, 3, 5, tzinfo=UTC)


def _order_keys() -> Iterable[Target]:
    """Yield what stands between a connector and an order's key, and between the store and a request's."""
    wanted = WantedKeys(system="crm", orders=(WantedKey(subject_request_id=_REQUEST, order_id=order_id(_REQUEST, "crm")),))
    yield Target("order keys question", (wanted.model_dump_json().encode(),), _asked, (_RefusedAtTheDoor,))
    given = KeyAnswer(order_id=order_id(_REQUEST, "crm"), status=200, key="A" * 43 + "=")
    line = KeysAhead(life="0" * 16, number=7, keys=(given,)).model_dump_json().encode()
    # Whoever listens shows the class of such an error alone.
    yield Target("keys ahead, a line", (line,), KeysAhead.model_validate_json, (ValueError,), False)
    mark = AheadMark("0" * 16, 7).header()[1]
    yield Target("keys ahead, a mark", (mark,), lambda data: mark_in([(AHEAD_HEADER, data)]), ())
    key = SigningKey.new(system_principal("crm"))
    trust, audience = Trust.of(key), audience_of("dsr")

    def checked(data: bytes) -> object:
        return checked_assertion(data.decode("utf-8", "replace"), trust, audience, _AT)

    yield Target("order keys assertion", (assertion(key, audience, _AT)[0].encode(),), checked, (ProtocolViolation,))
    root = SealingKey("request", bytes(range(32)))
    yield Target(
        "order key", (root_to_text(root).encode(),), lambda data: root_from_text(data.decode("utf-8", "replace")), (ValueError,)
    )
    old, both = (KeyEncryption.from_text(text) for text in (_base64(1), f"{_base64(2)} {_base64(1)}"))
    keys = RequestKeys(old, intake={}, grouping=root)
    data = SubjectData(identifiers={IdentifierKind.EMAIL: ("person@example.org",)})
    stored = keys.seal_stored(_REQUEST, root, [data, data])
    yield Target("stored envelope", (stored,), lambda data: keys.open_stored(_REQUEST, data), (ConfigurationError,))
    yield Target("stored envelope anew", (stored,), lambda data: rewrapped(both, _REQUEST, data), (ConfigurationError,))


class _RefusedAtTheDoor(Exception):
    """What the door answered, as the caller reads it."""


def _asked(data: bytes) -> object:
    """Ask the door for keys, as a connector does over HTTP."""

    async def release(_system: str, _kid: str, wanted: Sequence[WantedKey]) -> list[KeyAnswer]:
        return [KeyAnswer(order_id=one.order_id, status=404) for one in wanted]

    async def ask() -> httpx.Response:
        app = Starlette(routes=[order_keys_route(release, guard_for(None))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.post(PATH, content=data)

    answer = asyncio.run(ask())
    if answer.status_code in {400, 413}:
        raise _RefusedAtTheDoor(answer.text)
    assert answer.status_code in {200, 404}, answer.status_code
    return answer


def _base64(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()
