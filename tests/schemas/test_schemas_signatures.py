"""Signatures over batches: every record can be checked alone, and nothing else passes for it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ProtocolViolation
from schemas.signatures import Signature, Verifier, included, leaf_of, read_signature, root_of, sign_all
from schemas.trust import SigningKey, Trust
from schemas.vocabulary import QuarantineReason

CRM = SigningKey.new("system:crm")
OTHER = SigningKey.new("system:newsletter")
NOON = datetime(2026, 3, 5, 12, tzinfo=UTC)
VERIFIER = Verifier(Trust.of(CRM, OTHER))


def leaf(number: int) -> bytes:
    return leaf_of("FulfilmentReport", "reports", b"key-%d" % number, b"value-%d" % number)


def refused(code: QuarantineReason, header: bytes | None, of: bytes, verifier: Verifier = VERIFIER, who="system:crm") -> None:
    with pytest.raises(ProtocolViolation) as caught:
        verifier.verify(of, header, principal=who, at=NOON)
    assert caught.value.code == code, caught.value


def rfc_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, 2.1.1, as the text has it: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + rfc_root(leaves[:k]) + rfc_root(leaves[k:])).digest()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70))
def test_the_tree_is_that_of_rfc_9162_and_every_leaf_has_its_place(size: int):
    """Root and paths are those of the RFC; a leaf is found at its own index and at no other."""
    leaves = [leaf(number) for number in range(size)]
    root = root_of(leaves)
    assert root == rfc_root(leaves)
    for number, header in enumerate(sign_all(leaves, CRM)):
        signature = read_signature(header)
        assert signature.index == number
        assert [included(leaves[number], at, size, signature.path, root) for at in range(size)] == [
            at == number for at in range(size)
        ]
        assert VERIFIER.verify(leaves[number], header, principal="system:crm", at=NOON) == CRM.kid


def test_certificate_transparency_test_vector():
    """The root over the eight inputs that RFC 6962's implementations share is the published one."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [hashlib.sha256(b"\x00" + bytes.fromhex(one)).digest() for one in inputs]
    assert root_of(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_the_same_records_signed_again_give_the_same_bytes():
    """Signing is deterministic, so a batch that is published again after a crash is byte-identical."""
    leaves = [leaf(number) for number in range(5)]
    assert sign_all(leaves, CRM) == sign_all(leaves, CRM)
    assert sign_all([], CRM) == []


def test_a_batch_is_verified_once(monkeypatch: pytest.MonkeyPatch):
    """However many records a batch has, its signature is opened once."""
    trust, opened = Trust.of(CRM), []
    verifier = Verifier(trust)
    real = Trust.opened
    monkeypatch.setattr(Trust, "opened", lambda self, jws, *, typ: opened.append(jws) or real(self, jws, typ=typ))
    leaves = [leaf(number) for number in range(50)]
    for one, header in zip(leaves, sign_all(leaves, CRM), strict=True):
        verifier.verify(one, header, principal="system:crm", at=NOON)
    assert len(opened) == 1


def test_a_record_that_was_changed_or_moved_is_another():
    """Type, kind of topic, key and value are all signed, and where one ends and the next begins."""
    (header,) = sign_all([leaf_of("FulfilmentReport", "reports", b"key", b"value")], CRM)
    for moved in (
        leaf_of("SubmitRequest", "reports", b"key", b"value"),
        leaf_of("FulfilmentReport", "requests", b"key", b"value"),
        leaf_of("FulfilmentReport", "reports", b"keyv", b"alue"),
        leaf_of("FulfilmentReport", "reports", b"key", b"valuE"),
        leaf_of("FulfilmentReport", "reports", b"", b"value"),
    ):
        refused(QuarantineReason.SIGNATURE_BROKEN, header, moved)


def test_another_records_signature_does_not_fit():
    """Within one batch, a record cannot use its neighbour's header."""
    leaves = [leaf(number) for number in range(4)]
    headers = sign_all(leaves, CRM)
    refused(QuarantineReason.SIGNATURE_BROKEN, headers[1], leaves[0])


def test_a_node_is_no_leaf():
    """An inner node cannot be shown as a record: leaves and nodes are hashed apart."""
    leaves = [leaf(number) for number in range(4)]
    signature = read_signature(sign_all(leaves, CRM)[0])
    inner = root_of(leaves[:2])
    assert included(inner, 0, 2, signature.path[1:], root_of(leaves))  # as hashes they fit ...
    assert not included(inner, 0, 4, signature.path[1:], root_of(leaves))  # ... but the signed size forbids it


def test_missing_foreign_unknown_and_expired_have_codes_of_their_own():
    """What is wrong with a signature is told apart, because each asks for something else."""
    (header,) = sign_all([leaf(0)], CRM)
    for nothing in (None, b""):
        refused(QuarantineReason.SIGNATURE_MISSING, nothing, leaf(0))
    refused(QuarantineReason.SIGNATURE_FOREIGN, header, leaf(0), who="system:newsletter")
    refused(QuarantineReason.SIGNER_UNKNOWN, header, leaf(0), Verifier(Trust.of(OTHER)))
    for times in ({"exp": int(NOON.timestamp())}, {"nbf": int((NOON + timedelta(seconds=1)).timestamp())}):
        trust = Trust.from_json(json.dumps({"keys": [{**CRM.public(), **times}]}))
        refused(QuarantineReason.SIGNATURE_EXPIRED, header, leaf(0), Verifier(trust))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject):
    """A header in which any one byte is another is refused."""
    leaves = [leaf(number) for number in range(5)]
    header = bytearray(sign_all(leaves, CRM)[3])
    at = data.draw(st.integers(0, len(header) - 1))
    header[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != header[at]))
    with pytest.raises(ProtocolViolation):
        VERIFIER.verify(leaves[3], bytes(header), principal="system:crm", at=NOON)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_rubbish_is_refused_and_nothing_else_happens(rubbish: bytes):
    """Whatever stands in the header, the answer is a refusal with a code."""
    for header in (rubbish, b"~".join((rubbish, b"0", b"")), b"a.b.c~" + rubbish + b"~"):
        with pytest.raises(ProtocolViolation):
            VERIFIER.verify(leaf(0), header, principal="system:crm", at=NOON)


@pytest.mark.parametrize(
    "payload", ["[]", "{}", '{"root":"","size":1}', '{"root":5,"size":1}', "no", '{"root":"AA","size":true}']
)
def test_a_signed_payload_that_is_no_tree_is_broken(payload: str):
    """A valid signature over something that names no tree proves nothing."""
    jws = CRM.sign(payload.encode(), typ="dsr-tree")
    refused(QuarantineReason.SIGNATURE_BROKEN, f"{jws}~0~".encode(), leaf(0))


def test_a_signature_made_for_something_else_is_worth_nothing_here():
    """What the same key signed for another purpose, a token for instance, is no signature of records."""
    payload = json.dumps({"root": "A" * 43, "size": 1}).encode()
    refused(QuarantineReason.SIGNATURE_BROKEN, f"{CRM.sign(payload, typ='JWT')}~0~".encode(), leaf(0))


def test_a_header_is_read_strictly():
    """Index and path have one spelling each."""
    (header,) = sign_all([leaf(0)], CRM)
    assert read_signature(header) == Signature(header.decode().split("~")[0], 0, ())
    jws = header.split(b"~")[0]
    for wrong in (b"~-1~", b"~+0~", b"~0", b"~0~AAAA", b"~0~=", b"~0~~", b"~~", "~٣~".encode(), b"~0~" + b"A" * 5000):
        refused(QuarantineReason.SIGNATURE_BROKEN, jws + wrong, leaf(0))
