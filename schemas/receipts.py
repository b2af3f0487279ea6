"""Receipts: a confirmation with its signature, in one file that anybody can check without us.

A receipt is a JSON object: `format` is `dsr-receipt`, `version` 1, `key` and `value` are the record's key and value as text,
byte for byte, and `signature` is its header `dsr-signature`. What is needed to check it is the public keys of the orchestrator
and nothing else: no database, no broker, none of the keys that once opened the person's data.

Room rules: bytes in, nothing out or an error; no file, no clock.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from schemas.confirmations import Confirmation
from schemas.errors import NotVerified, ProtocolViolation
from schemas.ids import confirmation_id
from schemas.signatures import TREE_TYP, included, leaf_of, read_signature, tree_in
from schemas.trust import ORCHESTRATOR, Trust, kid_of

__all__ = ["receipt_of", "verify_receipt"]

_FORMAT = "dsr-receipt"
_FIELDS = ("key", "value", "signature")
_LONGEST = 4 * 1024 * 1024


def receipt_of(key: bytes, value: bytes, signature: bytes) -> bytes:
    """Return the receipt of a confirmation's record. That it can be made does not imply that it verifies."""
    parts = {"key": key.decode(), "value": value.decode(), "signature": signature.decode("ascii")}
    return json.dumps({"format": _FORMAT, "version": 1, **parts}, ensure_ascii=False, indent=2).encode() + b"\n"


def verify_receipt(data: bytes, trust: Trust) -> None:
    """Return nothing if the receipt is genuine. Raises `NotVerified` that names the first step which failed.

    1. The file is a receipt: a JSON object of this format and version with key, value and signature, all text.
    2. The value is one confirmation that this release reads.
    3. The signature has the form of one: a JWS, an index and an inclusion path.
    4. The key it names stands in the given keys.
    5. That key belongs to the orchestrator.
    6. The JWS is that key's over the root and size of a tree.
    7. The key was valid when the request was closed.
    8. This very confirmation, under this very key, is a leaf of that tree (RFC 9162, 2.1.3.2).
    9. The confirmation agrees with itself: its id and its key are those of its request, no system stands there twice, and
       `in_time` says what its dates say.

    Success does not imply that the systems did what they reported, that this is the last word (a ground for keeping data may
    have ended since), or that the orchestrator's key was in nobody else's hands.
    """
    key, value, header = _step_1_receipt(data)
    confirmation = _step_2_confirmation(value)
    try:
        signature = read_signature(header)
        kid = kid_of(signature.jws)
    except ProtocolViolation as violation:
        raise NotVerified(3, "signature_malformed", f"the signature is none: {violation.remedy}") from None
    signer = trust.key(kid)
    if signer is None:
        raise NotVerified(4, "key_unknown", "the signing key is not among the given keys: get them from the controller itself")
    if signer.principal != ORCHESTRATOR:
        raise NotVerified(5, "key_foreign", f"the signing key is that of {signer.principal}, not of the orchestrator")
    try:
        root, size = tree_in(signer.payload_of(signature.jws, typ=TREE_TYP))
    except ProtocolViolation:
        raise NotVerified(6, "signature_broken", "the key did not sign this: signature or signed root were changed") from None
    if not signer.valid_at(confirmation.closed_at):
        raise NotVerified(7, "key_expired", "the signing key was not valid on the day on which the request was closed")
    leaf = leaf_of(Confirmation.__name__, "confirmations", key, value)
    if not included(leaf, signature.index, size, signature.path, root):
        raise NotVerified(8, "not_what_was_signed", "the confirmation, its key or its path are not those that were signed")
    _step_9_agreement(confirmation, key)


def _step_1_receipt(data: bytes) -> tuple[bytes, bytes, bytes]:
    fault = NotVerified(1, "no_receipt", "the file is no receipt: take one that `dsr confirmations --receipts` wrote")
    if len(data) > _LONGEST:
        raise fault
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise fault from None
    if not isinstance(found, dict) or found.get("format") != _FORMAT or found.get("version") != 1:
        raise fault
    if set(found) != {"format", "version", *_FIELDS} or not all(isinstance(found[name], str) for name in _FIELDS):
        raise fault
    try:
        key, value, signature = (found[name].encode() for name in _FIELDS)
    except UnicodeEncodeError:
        raise fault from None
    return key, value, signature


def _step_2_confirmation(value: bytes) -> Confirmation:
    try:
        confirmation = Confirmation.model_validate_json(value)
    except ValidationError:
        confirmation = None
    if confirmation is None or confirmation.version != 1:
        raise NotVerified(2, "no_confirmation", "the value is no confirmation of version 1") from None
    return confirmation


def _step_9_agreement(said: Confirmation, key: bytes) -> None:
    systems = [one.system for one in said.systems]
    if (
        key != said.subject_request_id.encode()
        or said.confirmation_id != confirmation_id(said.subject_request_id)
        or len(set(systems)) != len(systems)
        or said.in_time != (said.closed_at <= said.due.due_at)
    ):
        raise NotVerified(9, "disagrees_with_itself", "it was signed, but its parts contradict each other: ask the controller")
