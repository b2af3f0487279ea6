"""The access package: one archive that answers a person who asked for their data (GDPR Art. 15 and 20).

| file | what it is |
| --- | --- |
| `index.html` | everything in tables, for people; no script, nothing is loaded |
| `data/<system>/<n>-<name>.json` | each document as the system gave it |
| `confirmation.json` | the confirmation, byte for byte |
| `manifest.json` | SHA-256 and size of each of the others |

Equal input gives equal bytes: fixed times, fixed order, no compression (whose output differs between releases of zlib).

Room rules: pure; what is not in the confirmation, digest for digest, does not come in.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from schemas.access_page import Page, Shown, page_of
from schemas.blobs import EXPORTING, BlobPlace, BlobSecret, open_result
from schemas.confirmations import Confirmation
from schemas.errors import ProtocolViolation
from schemas.ids import digest, order_id
from schemas.reports import ResultReference
from schemas.vocabulary import Language, QuarantineReason

__all__ = ["build_package", "results_of"]

_FIRST_MOMENT = (1980, 1, 1, 0, 0, 0)


def results_of(confirmation: Confirmation) -> Iterator[tuple[str, ResultReference]]:
    """Yield system and reference of every file that the confirmation lists."""
    for system in confirmation.systems:
        yield from ((system.system, result) for result in system.results)


def build_package(
    confirmation: bytes, files: Mapping[tuple[str, str], bytes], secret: BlobSecret, *, language: Language = Language.EN
) -> bytes:
    """Return the archive. `files` are the sealed files as they are stored, by system and reference.

    Raises `ProtocolViolation` naming system and what differs: a file that is missing, is not the one that was confirmed, or
    does not open; a confirmation of a request for something else. Success does not imply that the confirmation is genuine.
    """
    told = _read(confirmation)
    shown = list(_opened(told, files, secret))
    contents = {"index.html": page_of(Page(told, shown, language)).encode(), "confirmation.json": confirmation}
    contents |= {document.path: _json(document.content) for document in shown}
    listed = {name: {"sha256": digest(data), "size": len(data)} for name, data in sorted(contents.items())}
    contents["manifest.json"] = _json({"subject_request_id": told.subject_request_id, "files": listed})
    return _archive(contents)


def _read(confirmation: bytes) -> Confirmation:
    try:
        told = Confirmation.model_validate_json(confirmation)
    except ValidationError:
        raise ProtocolViolation(
            QuarantineReason.NOT_JSON, field="confirmation", remedy="give the value of the record, unchanged"
        ) from None
    if told.right not in EXPORTING:
        remedy = f"{told.right.value} is not answered with data: there is nothing to pack"
        raise ProtocolViolation(QuarantineReason.INVALID_FIELD, field="right", remedy=remedy)
    return told


def _opened(told: Confirmation, files: Mapping[tuple[str, str], bytes], secret: BlobSecret) -> Iterator[Shown]:
    for system in told.systems:
        place = BlobPlace(told.subject_request_id, system.system, order_id(told.subject_request_id, system.system))
        for number, result in enumerate(system.results, 1):
            stored = files.get((system.system, result.reference))
            where = f"{system.system}.results.{number}"
            if stored is None:
                expiry = result.expires_at.date().isoformat()
                raise _refused(where, f"the file is not there; it is kept until {expiry}: fetch it, or have the order retried")
            try:
                document: dict[str, Any] = json.loads(open_result(stored, result, secret, place))
            except ProtocolViolation as violation:
                raise _refused(f"{where}.{violation.field}", violation.remedy) from None
            name, content = str(document["name"]), document["content"]
            path = f"data/{system.system}/{number}-{_plain(name)}.json"
            yield Shown(system.system, system.title, name, path, content)


def _refused(field: str, remedy: str) -> ProtocolViolation:
    return ProtocolViolation(QuarantineReason.IDENTITY_UNREADABLE, field=field, remedy=remedy)


def _plain(name: str) -> str:
    """Return a name that is a file's on any system, and never a path."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "document"


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _archive(contents: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents, key=lambda name: (name != "index.html", name)):
            entry = zipfile.ZipInfo(name, _FIRST_MOMENT)
            entry.create_system = 3
            entry.external_attr = 0o100600 << 16
            archive.writestr(entry, contents[name])
    return written.getvalue()
