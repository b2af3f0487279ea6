"""A request's key and all that is sealed under what follows from it: whoever changes, moves or cuts anything is refused."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters.key_encryption import KeyEncryption
from orchestrator.adapters.keys import RequestKeys, rewrapped
from orchestrator.adapters.sql import schema
from orchestrator.adapters.sql.store import SqlStore, make_engine
from orchestrator.shell.service_keys import GROUPING, grouping_key
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.ids import order_id
from schemas.order_keys import Purpose, order_root
from schemas.orders import order_binding
from schemas.sealed import Sealed, SealingKey, seal, unsafe_reveal
from schemas.subject import SubjectData
from schemas.vocabulary import IdentifierKind, QuarantineReason
from tests.keys_kit import request_keys

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
ROOT = SealingKey("dev", bytes(range(32)))
KEYS = request_keys(ROOT)
ONE, OTHER = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2))
CANARY = "canary.jansen@example.org"
PERSON = SubjectData(identifiers={IdentifierKind.EMAIL: (CANARY,)})
KEY, OTHER_KEY = KEYS.new_request_key(), KEYS.new_request_key()
CRM = order_id(ONE, "crm")
#: What an order's seal is bound to, and one thing of it changed at a time.
PLACE = (ONE, "crm", CRM)
OTHER_PLACES = [
    (OTHER, "crm", CRM),
    (ONE, "mail", CRM),
    (ONE, "crm", order_id(ONE, "mail")),
    (OTHER, "crm", order_id(OTHER, "crm")),
    (ONE, "mail", order_id(ONE, "mail")),
]


@contextmanager
def refused(kind: type[Exception]) -> Iterator[None]:
    """The documented error, and nothing of the person in it nor behind it."""
    with pytest.raises(kind) as caught:
        yield
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)
    if isinstance(caught.value, ProtocolViolation):
        assert caught.value.code == QuarantineReason.IDENTITY_UNREADABLE


def open_as_connector(sealed: Sealed, place: tuple[str, str, str] = PLACE, key: SealingKey = KEY) -> SubjectData:
    """Open an order's seal with nothing but the root that the desk gives for the place."""
    plain = unsafe_reveal(sealed, order_root(key, *place).derive(Purpose.ORDER), associated=order_binding(*place))
    return SubjectData.model_validate_json(plain)


def yielded(place: tuple[str, str, str] = PLACE, key: SealingKey = KEY, data: SubjectData = PERSON) -> Sealed:
    """Seal finds as a connector does."""
    return seal(data.to_bytes(), order_root(key, *place).derive(Purpose.REPORT), associated=order_binding(*place))


def open_yielded(sealed: Sealed, place: tuple[str, str, str] = PLACE, key: SealingKey = KEY) -> SubjectData:
    return KEYS.open_yielded(*place, key, sealed)


ORDER = KEYS.seal_order(*PLACE, order_root(KEY, *PLACE), PERSON, terms="")
YIELDED = yielded()
STORED = KEYS.seal_stored(ONE, KEY, [PERSON])
Open = Callable[..., SubjectData]
SEALS = pytest.mark.parametrize(
    ("sealed", "opened"), [(ORDER, open_as_connector), (YIELDED, open_yielded)], ids=["order", "yield"]
)


def changed(sealed: Sealed, field: str, data: bytes) -> Sealed:
    return sealed.model_copy(update={field: base64.urlsafe_b64encode(data).decode()})


@SEALS
def test_a_flipped_bit_anywhere_is_refused(sealed: Sealed, opened: Open) -> None:
    """Every bit of nonce, ciphertext and tag counts; the key's name counts for nothing: it opens to the same or not at all."""
    assert opened(sealed) == PERSON
    for field in ("nonce", "ciphertext"):
        raw = base64.urlsafe_b64decode(getattr(sealed, field))
        for at, bit in itertools.product(range(len(raw)), range(8)):
            flipped = raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]
            with refused(ProtocolViolation):
                opened(changed(sealed, field, flipped))
    assert opened(sealed.model_copy(update={"kid": "another"})) == PERSON


@SEALS
def test_a_flipped_bit_of_the_text_as_it_travels_changes_nothing_or_is_refused(sealed: Sealed, opened: Open) -> None:
    """Of the JSON, only the name of the key, which nothing depends on, can be written otherwise."""
    text = sealed.model_dump_json().encode()
    start = text.index(b'"kid":"') + len(b'"kid":"')
    name = range(start, text.index(b'"', start))
    for at, bit in itertools.product(range(len(text)), range(8)):
        flipped = text[:at] + bytes([text[at] ^ (1 << bit)]) + text[at + 1 :]
        try:
            found = opened(Sealed.model_validate_json(flipped))
        except (ProtocolViolation, ValueError):
            continue
        assert at in name and found == PERSON


@SEALS
def test_truncated_lengthened_and_swapped_parts_are_refused(sealed: Sealed, opened: Open) -> None:
    """Any shorter ciphertext, one byte more, none at all, and nonce or ciphertext of the seal beside it."""
    raw = base64.urlsafe_b64decode(sealed.ciphertext)
    for cut in (*(raw[:length] for length in range(len(raw))), raw[1:], raw + b"\0", b"\0" + raw, raw + raw):
        with refused(ProtocolViolation):
            opened(changed(sealed, "ciphertext", cut))
    nonce = base64.urlsafe_b64decode(sealed.nonce)
    for other_nonce in (b"", nonce[:-1], nonce + b"\0", bytes(12)):
        with refused(ProtocolViolation):
            opened(changed(sealed, "nonce", other_nonce))
    other = YIELDED if sealed is ORDER else ORDER
    for field in ("nonce", "ciphertext"):
        with refused(ProtocolViolation):
            opened(sealed.model_copy(update={field: getattr(other, field)}))


@SEALS
@pytest.mark.parametrize("place", OTHER_PLACES)
def test_a_seal_opens_in_its_own_place_only(sealed: Sealed, opened: Open, place: tuple[str, str, str]) -> None:
    """Replayed under another request, another system or another order: refused, whosever key is tried."""
    for key in (KEY, OTHER_KEY):
        with refused(ProtocolViolation):
            opened(sealed, place, key)
    with refused(ProtocolViolation):
        opened(sealed, PLACE, OTHER_KEY)


@pytest.mark.parametrize("place", OTHER_PLACES)
def test_the_right_root_does_not_open_what_says_it_is_elsewhere(place: tuple[str, str, str]) -> None:
    """The binding counts beside the key: a seal is refused under its own root if the header around it names another place."""
    root = order_root(KEY, *PLACE)
    for sealed, purpose in ((ORDER, Purpose.ORDER), (YIELDED, Purpose.REPORT)):
        unsafe_reveal(sealed, root.derive(purpose), associated=order_binding(*PLACE))
        with refused(ProtocolViolation):
            unsafe_reveal(sealed, root.derive(purpose), associated=order_binding(*place))


def test_swapped_orders_and_swapped_directions_are_refused() -> None:
    """Two orders of one request do not open in each other's place, nor an order as a yield, nor a yield as an order."""
    mail = (ONE, "mail", order_id(ONE, "mail"))
    for_mail = KEYS.seal_order(*mail, order_root(KEY, *mail), PERSON, terms="")
    assert open_as_connector(for_mail, mail) == PERSON
    for attempt in (
        lambda: open_as_connector(for_mail),
        lambda: open_as_connector(ORDER, mail),
        lambda: open_yielded(yielded(mail)),
        lambda: open_yielded(ORDER),
        lambda: open_as_connector(YIELDED),
    ):
        with refused(ProtocolViolation):
            attempt()
    for purpose in Purpose:
        if purpose is not Purpose.ORDER:
            with refused(ProtocolViolation):
                unsafe_reveal(ORDER, order_root(KEY, *PLACE).derive(purpose), associated=order_binding(*PLACE))


def test_a_flipped_bit_anywhere_in_what_is_stored_is_refused() -> None:
    """The wrapped key, what parts the two, and the sealed identity; only the inner seal's name for its key is not looked at."""
    key, (found,) = KEYS.open_stored(ONE, STORED)
    assert (key.unsafe_bytes(), found) == (KEY.unsafe_bytes(), PERSON)
    inner = STORED.index(b"\n")
    start = STORED.index(b'"kid":"', inner) + len(b'"kid":"')
    name = range(start, STORED.index(b'"', start))
    for at, bit in itertools.product(range(len(STORED)), range(8)):
        flipped = STORED[:at] + bytes([STORED[at] ^ (1 << bit)]) + STORED[at + 1 :]
        if at in name:
            continue
        with refused(ConfigurationError):
            KEYS.open_stored(ONE, flipped)
        if at <= inner:
            with refused(ConfigurationError):
                KEYS.request_key(PLACE[0], flipped)


def test_what_is_stored_of_one_request_opens_for_no_other() -> None:
    """Moved to another row, cut anywhere, or put together from two rows: refused as a broken store."""
    for cut in range(len(STORED)):
        with refused(ConfigurationError):
            KEYS.open_stored(ONE, STORED[:cut])
    with refused(ConfigurationError):
        KEYS.open_stored(OTHER, STORED)
    with refused(ConfigurationError):
        KEYS.request_key(OTHER, STORED)
    again = KEYS.seal_stored(ONE, OTHER_KEY, [PERSON])
    mixed = STORED.partition(b"\n")[0] + b"\n" + again.partition(b"\n")[2]
    with refused(ConfigurationError):
        KEYS.open_stored(ONE, mixed)
    stranger = request_keys(SealingKey("dev", bytes(reversed(range(32)))))
    with refused(ConfigurationError):
        stranger.open_stored(ONE, STORED)


def test_the_desk_and_the_seal_agree_on_the_root() -> None:
    """What the desk derives from the stored row opens what the orchestrator sealed, and no row shows the key."""
    root = order_root(KEYS.request_key(PLACE[0], STORED), *PLACE)
    assert unsafe_reveal(ORDER, root.derive(Purpose.ORDER), associated=order_binding(*PLACE)) == PERSON.to_bytes()
    for secret in (KEY.unsafe_bytes(), root.unsafe_bytes(), CANARY.encode()):
        assert secret not in STORED and base64.urlsafe_b64encode(secret)[:20] not in STORED


def _windows(data: bytes, length: int = 8) -> set[bytes]:
    return {data[at : at + length] for at in range(len(data) - length + 1)}


def _ciphertexts(request: str) -> set[bytes]:
    """Every run of eight bytes of everything that is sealed of one request of the person."""
    key = KEYS.new_request_key()
    place = (request, "crm", order_id(request, "crm"))
    stored = KEYS.seal_stored(request, key, [PERSON])
    seals = [
        KEYS.seal_order(*place, order_root(key, *place), PERSON, terms=""),
        yielded(place, key),
        *(Sealed.model_validate_json(part) for part in stored.split(b"\n")),
    ]
    raw = [base64.urlsafe_b64decode(text) for sealed in seals for text in (sealed.nonce, sealed.ciphertext)]
    return set().union(*map(_windows, raw))


def test_two_requests_of_one_person_have_nothing_in_common() -> None:
    """No eight bytes of any seal of one request stand in a seal of the other, or of the same request under a new key."""
    one, other, again = _ciphertexts(ONE), _ciphertexts(OTHER), _ciphertexts(ONE)
    assert not one & other
    assert not one & again


def test_every_request_has_fresh_randomness() -> None:
    """A key of a request is 32 bytes from the source that was given, asked for anew each time."""
    sizes = []

    def fresh(size: int) -> bytes:
        sizes.append(size)
        return bytes([len(sizes)]) * size

    keys = request_keys(ROOT, fresh)
    assert [keys.new_request_key().unsafe_bytes() for _ in range(2)] == [b"\1" * 32, b"\2" * 32]
    assert sizes == [32, 32]
    assert len({KEYS.new_request_key().unsafe_bytes() for _ in range(50)}) == 50


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30).filter(str.isprintable), min_size=1, max_size=5).map(tuple), st.uuids(), st.uuids())
def test_whatever_is_stored_comes_back_and_only_there(values: tuple[str, ...], request: object, other: object) -> None:
    """Finds of any text come back in their order, under their own request only."""
    finds = tuple(SubjectData(identifiers={IdentifierKind.ACCOUNT_ID: (value.strip() or "x",)}) for value in values)
    stored = KEYS.seal_stored(str(request), KEY, finds)
    assert KEYS.open_stored(str(request), stored)[1] == finds
    if request != other:
        with pytest.raises(ConfigurationError):
            KEYS.open_stored(str(other), stored)


def _encryption(*keks: bytes) -> KeyEncryption:
    return KeyEncryption.from_text("\n".join(base64.b64encode(kek * 32).decode() for kek in keks))


def _under(*keks: bytes) -> RequestKeys:
    return RequestKeys(_encryption(*keks), intake={}, grouping=ROOT)


def test_a_key_is_wrapped_anew_and_what_it_sealed_stays() -> None:
    """After a change of the key-encryption key the old one can go: same request key, same seal, another wrapping, once."""
    old, both, new = _under(b"1"), _encryption(b"2", b"1"), _under(b"2")
    stored = old.seal_stored(ONE, KEY, [PERSON])
    assert rewrapped(_encryption(b"1"), ONE, stored) is None
    again = rewrapped(both, ONE, stored)
    assert again is not None and again != stored
    assert again.partition(b"\n")[2] == stored.partition(b"\n")[2]
    assert rewrapped(both, ONE, again) is None
    key, finds = new.open_stored(ONE, again)
    assert (key.unsafe_bytes(), finds) == (KEY.unsafe_bytes(), (PERSON,))
    assert new.request_key(PLACE[0], again).unsafe_bytes() == KEY.unsafe_bytes()
    with refused(ConfigurationError):
        new.open_stored(ONE, stored)


def test_what_cannot_be_unwrapped_is_not_wrapped_anew() -> None:
    """Another row's, a changed one, none at all, or one under a key that is not given: refused, not passed over."""
    old, both = _under(b"1"), _encryption(b"2", b"1")
    stored = old.seal_stored(ONE, KEY, [PERSON])
    for request, given_bytes, encryption in (
        (OTHER, stored, both),
        (ONE, stored[:40] + b"x" + stored[41:], both),
        (ONE, b"", both),
        (ONE, b"nothing\n" + stored, both),
        (ONE, stored, _encryption(b"3")),
    ):
        with refused(ConfigurationError):
            rewrapped(encryption, request, given_bytes)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    return str(request.getfixturevalue("postgres_url"))


async def test_workers_that_start_at_once_have_one_grouping_key(url: str) -> None:
    """Whoever is first makes it; all others, now and later, have the same, and the database shows none of it."""
    schema.upgrade(engine := make_engine(url))
    engine.dispose()
    encryption = KeyEncryption([ROOT])
    stores = [SqlStore(make_engine(url)) for _ in range(4)]
    try:
        found = await asyncio.gather(*(grouping_key(store, encryption, NOW) for store in stores))
        found.append(await grouping_key(stores[0], encryption, NOW))
        assert len({key.unsafe_bytes() for key in found}) == 1
        (kept,) = [key for key in await stores[1].service_keys() if key.kid == GROUPING]
        assert kept.wrapped is not None and found[0].unsafe_bytes() not in kept.wrapped
        with refused(ConfigurationError):
            await grouping_key(stores[2], KeyEncryption([OTHER_KEY]), NOW)
        await stores[3].destroy_service_key(GROUPING, NOW)
        with refused(ConfigurationError):
            await grouping_key(stores[0], encryption, NOW)
    finally:
        for store in stores:
            await store.aclose()


async def test_a_worker_that_loses_the_race_takes_the_winner_s_key(url: str) -> None:
    """Between its look and its write another has written: the other's key counts, for both."""
    schema.upgrade(engine := make_engine(url))
    engine.dispose()
    encryption = KeyEncryption([ROOT])
    first, second = SqlStore(make_engine(url)), SqlStore(make_engine(url))
    won: list[SealingKey] = []
    looked = second.service_keys

    async def look():
        seen = await looked()
        if not won:
            won.append(await grouping_key(first, encryption, NOW))
        return seen

    second.service_keys = look
    try:
        lost = await grouping_key(second, encryption, NOW)
        assert lost.unsafe_bytes() == won[0].unsafe_bytes()
    finally:
        await first.aclose()
        await second.aclose()


def test_an_identity_is_all_that_was_named() -> None:
    """In any order and, of mail addresses, in any case; one value more, or of another kind, is another identity."""
    keys = request_keys(ROOT)
    both = {IdentifierKind.EMAIL: ("a@example.org", "B@example.org"), IdentifierKind.GA_CLIENT_ID: ("GA1.2",)}
    same = {IdentifierKind.GA_CLIENT_ID: ("GA1.2",), IdentifierKind.EMAIL: (" b@EXAMPLE.org", "a@example.org", "a@example.org")}
    assert keys.identity(both) == keys.identity(same)
    others = [
        {IdentifierKind.EMAIL: both[IdentifierKind.EMAIL]},
        {**both, IdentifierKind.GA_CLIENT_ID: ("ga1.2",)},
        {**both, IdentifierKind.EMAIL: ("a@example.org",)},
        {**both, IdentifierKind.GA_CLIENT_ID: (), IdentifierKind.COOKIE_ID: ("GA1.2",)},
    ]
    assert len({keys.identity(one) for one in (both, *others)}) == 5
    assert keys.identity({IdentifierKind.EMAIL: ("a@example.org",)}) != keys.person({IdentifierKind.EMAIL: ("a@example.org",)})
