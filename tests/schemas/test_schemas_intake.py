"""Intake seals: what is sealed to the public key opens for its request with the private key, and in no other way."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey
from pydantic import TypeAdapter, ValidationError

from schemas import intake
from schemas.errors import ConfigurationError, ProtocolViolation
from schemas.intake import IntakeKey, IntakeKeySet, IntakePublicKey, SealedIntake, intake_kid, open_intake, seal_intake
from schemas.trust import ORCHESTRATOR, SigningKey, Trust
from schemas.vocabulary import QuarantineReason

CANARY = b'{"identifiers":{"email":["canary.jansen@example.org"]}}'
ID = "6f0e4a3c-1b2d-4c3e-8f4a-5b6c7d8e9f00"
#: Alice's key of RFC 7748 section 6.1, which RFC 8037 appendix A.6 uses as well.
KEY = IntakeKey("intake-fixture", base64.urlsafe_b64decode("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo="))
OTHER = IntakeKey("intake-fixture", bytes(range(32)))
KEYS = {KEY.kid: KEY}
SECRET = b"s" * 32
SEALED = seal_intake(CANARY, KEY.public, ID, secret=SECRET)
NOW = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
ON_THE_WIRE: TypeAdapter[str] = TypeAdapter(SealedIntake)


def refused(sealed: str, field: str | None = None, *, keys: dict[str, IntakeKey] = KEYS, request: str = ID) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        open_intake(sealed, keys, request)
    assert caught.value.code == QuarantineReason.IDENTITY_UNREADABLE
    assert field is None or caught.value.field == field, caught.value
    assert caught.value.remedy
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def header_of(sealed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(sealed.partition(".")[0] + "=="))
    return found


def sealed_with(header: dict[str, Any] | str, ephemeral: bytes = b"e" * 32, nonce: bytes = bytes(12)) -> str:
    """Return a seal that is right in everything but the header, which is authenticated as it stands there."""
    raw = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    protected = text(raw.encode())
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    agreed = private.exchange(X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(KEY.public.x + "=")))
    box = intake.AESGCM(intake._content_key(agreed, ID.encode())).encrypt(nonce, CANARY, protected.encode())
    return f"{protected}..{text(nonce)}.{text(box[:-16])}.{text(box[-16:])}"


def own_header(**changes: Any) -> dict[str, Any]:
    public = X25519PrivateKey.from_private_bytes(b"e" * 32).public_key().public_bytes_raw()
    return {**header_of(SEALED), "epk": {"kty": "OKP", "crv": "X25519", "x": text(public)}, **changes}


# --- what it is for ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.uuids().map(str), st.none() | st.binary(min_size=32, max_size=32))
def test_opens_for_its_request_with_its_key(plaintext: bytes, request: str, secret: bytes | None):
    """Whatever is sealed opens for the same request with the private key, and looks on the wire as the schema says."""
    sealed = seal_intake(plaintext or b"x", KEY.public, request, secret=secret)
    assert open_intake(sealed, KEYS, request) == (plaintext or b"x")
    assert ON_THE_WIRE.validate_python(sealed) == sealed
    assert intake_kid(sealed) == KEY.kid
    refused(sealed, "sealed.apu", request=ID[:-1] + "1")
    refused(sealed, "sealed", keys={OTHER.kid: OTHER}, request=request)
    refused(sealed, "sealed.kid", keys={}, request=request)


def test_without_a_secret_no_two_seals_are_alike_and_with_one_all_are():
    """A portal that stores nothing repeats itself by a secret; key, request, content and secret all go into it."""
    assert seal_intake(CANARY, KEY.public, ID) != seal_intake(CANARY, KEY.public, ID)
    assert seal_intake(CANARY, KEY.public, ID, secret=SECRET) == SEALED
    others = (
        seal_intake(CANARY, OTHER.public, ID, secret=SECRET),
        seal_intake(CANARY, KEY.public, ID[:-1] + "1", secret=SECRET),
        seal_intake(CANARY + b" ", KEY.public, ID, secret=SECRET),
        seal_intake(CANARY, KEY.public, ID, secret=b"t" * 32),
    )
    points = {json.dumps(header_of(sealed)["epk"]) for sealed in (SEALED, *others)}
    assert len(points) == 5, "a nonce is used once under a content key, because no two contents share a point"
    assert len({sealed.split(".")[2] for sealed in (SEALED, *others)}) == 5


# --- other implementations --------------------------------------------------------------------------------------------


def test_vectors_of_the_rfcs():
    """X25519 of RFC 8037 appendix A.6, Concat KDF of RFC 7518 appendix C."""
    assert KEY.public.x == "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"
    bob = X25519PublicKey.from_public_bytes(base64.urlsafe_b64decode("3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08="))
    agreed = X25519PrivateKey.from_private_bytes(KEY.unsafe_bytes()).exchange(bob)
    assert agreed.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    z = bytes.fromhex("9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4")
    assert text(intake._content_key(z, b"Alice", b"Bob", enc=b"A128GCM", bits=128)) == "VqqN6vgjbSBcIijNcacQGg"


def test_joserfc_opens_ours_and_we_open_its():
    """Sealing here and joserfc's are two implementations of one format."""
    private = OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": KEY.public.x, "d": text(KEY.unsafe_bytes())})
    found = jwe.decrypt_compact(seal_intake(CANARY, KEY.public, ID), private, algorithms=["ECDH-ES", "A256GCM"])
    assert found.plaintext == CANARY
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "typ": "dsr-intake", "kid": KEY.kid, "apu": text(ID.encode())}
    assert open_intake(jwe.encrypt_compact(header, CANARY, private, algorithms=["ECDH-ES", "A256GCM"]), KEYS, ID) == CANARY


def test_opens_what_a_browser_sealed():
    """Made in Node 20 by `sealed` of docs/examples/portal.mjs (jose 6), for this key and request."""
    made = (
        "eyJhbGciOiJFQ0RILUVTIiwiZW5jIjoiQTI1NkdDTSIsInR5cCI6ImRzci1pbnRha2UiLCJraWQiOiJpbnRha2UtZml4dHVyZSIsImVwayI6ey"
        "J4IjoiTnZRRl9XQlFFNE1XNTBraWRyVUdzTmhpaTNwajlzXzFodW1tcGNxMm9VQSIsImNydiI6IlgyNTUxOSIsImt0eSI6Ik9LUCJ9LCJhcHUi"
        "OiJObVl3WlRSaE0yTXRNV0l5WkMwMFl6TmxMVGhtTkdFdE5XSTJZemRrT0dVNVpqQXcifQ..TzYwtSt8o8T4rcvl.KiU0PHuMJW3JkRA5XFDje"
        "DZUtSfrFe-dhihnuf9wcjLU9zdmyMCmAP58kWdXL9v0dg.aDJxPe3Gz2Necpou2wBRxw"
    )
    assert open_intake(made, KEYS, ID) == b'{"identifiers":{"email":["someone@example.org"]}}'


# --- what is refused --------------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_refused():
    """One changed bit of any part, as bytes, does not open; nothing but the promised error comes out."""
    parts = SEALED.split(".")
    for number in (0, 2, 3, 4):
        raw = base64.urlsafe_b64decode(parts[number] + "=" * (-len(parts[number]) % 4))
        for position in range(len(raw) * 8):
            changed = bytearray(raw)
            changed[position // 8] ^= 1 << (position % 8)
            refused(".".join((*parts[:number], text(bytes(changed)), *parts[number + 1 :])))


def test_every_changed_character_and_every_prefix_is_refused():
    """No two spellings of one seal exist, and no part of one is enough."""
    for position, character in enumerate(SEALED):
        for new in {"A", "B", "-", "=", ".", "!", "é", "\n"} - {character}:
            refused(SEALED[:position] + new + SEALED[position + 1 :])
        refused(SEALED[:position])
    for more in ("!", "\n", "=", ".", "A"):
        refused(SEALED + more)
    parts = SEALED.split(".")
    refused(".".join((parts[0], text(b"k" * 32), *parts[2:])), "sealed")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"alg": "ECDH-ES+A256KW"}, "sealed.alg"),
        ({"alg": "dir"}, "sealed.alg"),
        ({"alg": "none"}, "sealed.alg"),
        ({"alg": ["ECDH-ES"]}, "sealed.alg"),
        ({"enc": "A128GCM"}, "sealed.enc"),
        ({"enc": "A256CBC-HS512"}, "sealed.enc"),
        ({"typ": "dsr-blob"}, "sealed.typ"),
        ({"kid": 7}, "sealed.kid"),
        ({"kid": "intake-1970"}, "sealed.kid"),
        ({"apu": text(b"another")}, "sealed.apu"),
        ({"apu": text(ID.encode()) + "="}, "sealed.apu"),
        ({"apu": None}, "sealed.apu"),
        ({"zip": "DEF"}, "sealed"),
        ({"crit": ["exp"], "exp": 1}, "sealed"),
        ({"apv": text(b"x")}, "sealed"),
        ({"jku": "https://keys.example.org"}, "sealed"),
        ({"epk": {"kty": "OKP", "crv": "X448", "x": "A" * 43}}, "sealed.epk"),
        ({"epk": {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}}, "sealed.epk"),
        ({"epk": {"kty": "OKP", "crv": "X25519", "x": "A" * 42}}, "sealed.epk"),
        ({"epk": {"kty": "OKP", "crv": "X25519", "x": "A" * 42 + "B"}}, "sealed.epk"),
        ({"epk": {"kty": "OKP", "crv": "X25519", "x": 7}}, "sealed.epk"),
        ({"epk": {"kty": "OKP", "crv": "X25519", "x": text(b"e" * 32), "d": text(b"e" * 32)}}, "sealed.epk"),
        ({"epk": "AAAA"}, "sealed.epk"),
        ({"kid": "k" * 2000}, "sealed"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(changes: dict[str, Any], field: str):
    """Authenticated or not: other algorithms, curves, members and sizes are refused, naming the member."""
    assert open_intake(sealed_with(own_header()), KEYS, ID) == CANARY, "the way these are made is right"
    refused(sealed_with(own_header(**changes)), field)


def test_a_member_that_is_missing_or_stands_there_twice_is_refused():
    """Readers differ in which of two members counts, so neither does."""
    whole = own_header()
    for name in whole:
        refused(sealed_with({key: value for key, value in whole.items() if key != name}), "sealed")
    raw = json.dumps(whole)
    refused(sealed_with(raw[:-1] + f', "kid": "{KEY.kid}"}}'), "sealed")
    for odd in ("[]", "null", '"x"', "{", "[" * 700, "{}", "é"):
        refused(sealed_with(odd), "sealed")


#: Points whose order divides the cofactor, and their other spellings (RFC 7748 section 7; as in Wycheproof's X25519 tests).
LOW_ORDER = (
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ec" + "ff" * 30 + "7f"),
    bytes.fromhex("ed" + "ff" * 30 + "7f"),
    bytes.fromhex("ee" + "ff" * 30 + "7f"),
    bytes(31) + bytes([0x80]),
)


@pytest.mark.parametrize("point", LOW_ORDER, ids=range(len(LOW_ORDER)))
def test_points_of_low_order_are_refused_on_both_sides(point: bytes):
    """With such a point the agreed secret is zero whoever has which key: neither sealed to nor opened with."""
    header = own_header(epk={"kty": "OKP", "crv": "X25519", "x": text(point)})
    protected = text(json.dumps(header, separators=(",", ":")).encode())
    box = intake.AESGCM(intake._content_key(bytes(32), ID.encode())).encrypt(bytes(12), CANARY, protected.encode())
    refused(f"{protected}..{text(bytes(12))}.{text(box[:-16])}.{text(box[-16:])}", "sealed")
    with pytest.raises(ValidationError):
        IntakePublicKey(kid="k", x=text(point))


def test_another_curve_altogether_is_refused():
    """A JWE that a library makes for a P-256 key of the same name."""
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "typ": "dsr-intake", "kid": KEY.kid, "apu": text(ID.encode())}
    foreign = jwe.encrypt_compact(header, CANARY, ECKey.generate_key("P-256"), algorithms=["ECDH-ES", "A256GCM"])
    refused(foreign, "sealed.epk")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.lists(st.text("ABab01-_=", max_size=60), min_size=3, max_size=7).map(".".join))
def test_any_text_is_refused_and_crashes_nothing(sealed: str):
    """Nothing but the promised error comes out of anything."""
    refused(sealed)


@pytest.mark.parametrize(
    "wrong",
    [
        "canary.jansen@example.org",
        SEALED + "\n",
        SEALED.replace("..", ".QUJD.", 1),
        "A" * 1025 + "..AAAAAAAAAAAAAAAA.AA.AAAAAAAAAAAAAAAAAAAAAA",
        "A..AAAAAAAAAAAAAAAA." + "A" * 100_000 + ".AAAAAAAAAAAAAAAAAAAAAA",
        {"kid": "k"},
    ],
    ids=range(6),
)
def test_the_wire_takes_the_shape_of_a_seal_only(wrong: object):
    """What cannot be a seal is refused while the message is read."""
    with pytest.raises(ValidationError):
        ON_THE_WIRE.validate_python(wrong)


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, format, "{!r}".format, "%s".__mod__], ids=range(5))
def test_a_private_key_shows_itself_nowhere(show: Callable[[object], str]):
    """No way of showing a private key shows it."""
    for value in (KEY, [KEY], KEYS):
        assert KEY.kid in show(value)
        assert KEY.unsafe_bytes().hex() not in show(value)
        assert text(KEY.unsafe_bytes()) not in show(value)
    with pytest.raises(ConfigurationError) as caught:
        IntakeKey("k", b"private")
    assert "private" not in str(caught.value)
    assert IntakeKey.new("a").public != IntakeKey.new("a").public


SET = IntakeKeySet(keys=(KEY.public, IntakeKey("older", b"o" * 32).public))


def test_a_key_set_is_a_jwk_set():
    """The current key comes first; members that are not ours are passed over, a broken one of ours is named."""
    assert IntakeKeySet.from_json(SET.model_dump_json()) == SET
    assert SET.current == KEY.public
    ours = KEY.public.model_dump()
    mixed = {"keys": [{"kty": "EC", "use": "sig"}, 7, {**ours, "x5t": "later"}], "later": 1}
    assert IntakeKeySet.from_json(json.dumps(mixed)).keys == (KEY.public,)
    for wrong, what in (
        ("{", "no JWK set"),
        ("[]", "no JWK set"),
        ('{"keys": {}}', "no JWK set"),
        ('{"keys": []}', "none of them"),
        (json.dumps({"keys": [{**ours, "x": "A" * 43}]}), r"keys\[0\].x"),
        (json.dumps({"keys": [{**ours, "crv": "X448"}]}), r"keys\[0\].crv"),
        (json.dumps({"keys": [{**ours, "kid": ""}]}), r"keys\[0\].kid"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            IntakeKeySet.from_json(wrong)


def test_a_signed_key_set_is_believed_from_the_orchestrator_and_in_its_time():
    """A man in the middle who swaps, keeps back or signs it himself is refused."""
    signer, crm = SigningKey.new(ORCHESTRATOR), SigningKey.new("system:crm")
    trust = Trust.of(signer, crm)
    until = NOW + timedelta(days=1)
    signed = SET.signed(signer, at=NOW, until=until)
    assert IntakeKeySet.from_signed(signed, trust, at=NOW) == SET
    assert IntakeKeySet.from_signed(signed, trust, at=until - timedelta(seconds=1)) == SET
    stranger = SigningKey.new(ORCHESTRATOR)
    for broken, at, code in (
        (signed, until, QuarantineReason.SIGNATURE_EXPIRED),
        (SET.signed(crm, at=NOW, until=until), NOW, QuarantineReason.SIGNATURE_FOREIGN),
        (SET.signed(stranger, at=NOW, until=until), NOW, QuarantineReason.SIGNER_UNKNOWN),
        (signed[:-4] + "AAAA", NOW, QuarantineReason.SIGNATURE_BROKEN),
        (signer.sign(b'{"keys":[]}', typ="dsr-tree"), NOW, QuarantineReason.SIGNATURE_BROKEN),
        (signer.sign(b'{"keys":[]}', typ="jwk-set+jwt"), NOW, QuarantineReason.SIGNATURE_EXPIRED),
        (signer.sign(b"[]", typ="jwk-set+jwt"), NOW, QuarantineReason.SIGNATURE_EXPIRED),
        (signer.sign(b"\xff", typ="jwk-set+jwt"), NOW, QuarantineReason.SIGNATURE_EXPIRED),
        (signer.sign(b"[" * 5_000, typ="jwk-set+jwt"), NOW, QuarantineReason.SIGNATURE_EXPIRED),
        (SET.model_dump_json(), NOW, QuarantineReason.SIGNATURE_BROKEN),
    ):
        with pytest.raises(ProtocolViolation) as caught:
            IntakeKeySet.from_signed(broken, trust, at=at)
        assert caught.value.code == code


def test_parts_of_another_length_are_refused():
    """Where the tag begins is not for the sender to say, though GCM would take the same bytes; nor is a longer nonce ours."""
    head, _, nonce, body, tag = SEALED.split(".")
    raw = intake._bytes(body) + intake._bytes(tag)
    for at in (len(raw) - 17, len(raw) - 15, len(raw)):
        refused(f"{head}..{nonce}.{text(raw[:at])}.{text(raw[at:])}", "sealed")
    assert open_intake(sealed_with(own_header()), KEYS, ID) == CANARY
    refused(sealed_with(own_header(), nonce=bytes(16)), "sealed")


def test_idle_bits_at_the_end_of_a_part_are_refused():
    """A part whose last character carries bits that decode to nothing is another spelling of the same bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    parts = SEALED.split(".")
    changed = 0
    for number in (0, 3, 4):
        for other in alphabet:
            if other != parts[number][-1]:
                refused(".".join((*parts[:number], parts[number][:-1] + other, *parts[number + 1 :])))
                changed += len(parts[number]) % 4 != 0
    assert changed >= 63, "at least one part has idle bits"
