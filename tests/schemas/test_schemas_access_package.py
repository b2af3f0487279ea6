"""The access package: complete, checked, readable, harmless to open, and the same bytes for the same input."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from schema_examples import EXAMPLES

from schemas.access_package import build_package
from schemas.blobs import BlobPlace, BlobSecret, seal_blob
from schemas.confirmations import Confirmation, SystemResult
from schemas.errors import ProtocolViolation
from schemas.ids import digest, order_id
from schemas.outcomes import Fulfilled
from schemas.reports import ResultReference
from schemas.vocabulary import Language, Right, Role
from schemas.wire import encode

SECRET = BlobSecret.generate("website-2026")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"
DOCUMENTS = {
    "crm": [
        ("contact", {"email": "zoe@example.org", "first_name": "Zoë", "notes": EVIL, EVIL: "key", "opted_in": True}),
        ("../../etc/passwd", [{"at": "2026-01-02", "page": "/a"}, {"at": "2026-01-03", "referrer": None}]),
    ],
    "newsletter": [("deep", {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": [1, 2]}}}}}}}}), ("none", [])],
}


def made(secret: BlobSecret = SECRET) -> tuple[bytes, dict[tuple[str, str], bytes]]:
    """Return a confirmation of an access request and its sealed files."""
    base = EXAMPLES["Confirmation"]
    assert isinstance(base, Confirmation)
    files, systems = {}, []
    for system, documents in DOCUMENTS.items():
        place = BlobPlace(base.subject_request_id, system, order_id(base.subject_request_id, system))
        results = []
        for number, (name, content) in enumerate(documents):
            plaintext = json.dumps({"name": name, "content": content}).encode()
            stored = b"".join(seal_blob([plaintext], secret.public, place))
            reference = f"2026-04-04/{place.order_id}/1-{number}.sealed"
            files[system, reference] = stored
            results.append(
                ResultReference(
                    reference=reference,
                    sha256=digest(stored),
                    size=len(stored),
                    kid=secret.kid,
                    expires_at=datetime(2026, 4, 4, tzinfo=UTC),
                )
            )
        systems.append(
            SystemResult(
                system=system,
                title=f"The <{system}>",
                role=Role.PROCESSOR,
                outcome=Fulfilled(count=1),
                settled_at=base.closed_at,
                attempts=1,
                results=tuple(results),
            )
        )
    told = base.model_copy(update={"right": Right.ACCESS, "systems": tuple(systems)})
    return encode(told), files


def opened(package: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


class Tags(HTMLParser):
    """What a browser would see: tags, and every attribute that could fetch or act."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.acting: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name in {"src", "style", "action"}:
                self.acting.append(name)
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_package_holds_everything_under_its_digest():
    """Page, documents as exported, confirmation byte for byte, manifest with the digest of each."""
    told, files = made()
    inside = opened(build_package(told, files, SECRET))
    assert list(inside) == [
        "index.html", "confirmation.json", "data/crm/1-contact.json", "data/crm/2-etc-passwd.json",
        "data/newsletter/1-deep.json", "data/newsletter/2-none.json", "manifest.json",
    ]  # fmt: skip
    assert inside["confirmation.json"] == told
    assert json.loads(inside["data/crm/1-contact.json"]) == DOCUMENTS["crm"][0][1]
    manifest = json.loads(inside.pop("manifest.json"))["files"]
    assert manifest == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(inside.items())
    }


def test_equal_input_gives_equal_bytes():
    """Twice the same archive, whatever order the files came in."""
    told, files = made()
    assert build_package(told, files, SECRET) == build_package(told, dict(reversed(files.items())), SECRET)


@pytest.mark.parametrize("language", list(Language))
def test_the_page_is_harmless_and_whole(language: Language):
    """No script, nothing loaded, nothing of a record becomes a tag; every tag is closed; links lead into the package."""
    told, files = made()
    inside = opened(build_package(told, files, SECRET, language=language))
    page = inside["index.html"].decode()
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.acting
    assert not tags.tags & {"script", "img", "iframe", "link", "object", "form"}
    assert {link for link in tags.links if not link.startswith("#")} == {name for name in inside if name.startswith("data/")}
    assert "default-src 'none'" in page and f'<html lang="{language.value}">' in page
    assert "zoe@example.org" in page and "The &lt;crm&gt;" in page and "&lt;script&gt;" in page


def test_the_page_speaks_the_language_of_the_request():
    """English and Dutch, with the confirmation's own text in that language."""
    told, files = made()
    pages = {lang: opened(build_package(told, files, SECRET, language=lang))["index.html"].decode() for lang in Language}
    assert "Your personal data" in pages[Language.EN] and "Uw persoonsgegevens" in pages[Language.NL]


def test_what_is_not_as_confirmed_is_refused():
    """Missing, changed, exchanged, or sealed to another key: no package, and the field says which file and why."""
    told, files = made()
    first, second, *_ = files
    faults = {
        "crm.results.1": ({key: value for key, value in files.items() if key != first}, SECRET),
        "crm.results.1.size": ({**files, first: files[first] + b"x"}, SECRET),
        "crm.results.1.sha256": ({**files, first: bytes([files[first][0] ^ 1]) + files[first][1:]}, SECRET),
        "crm.results.1.results": (files, BlobSecret.generate(SECRET.kid)),
        "crm.results.1.kid": (files, BlobSecret.generate("other")),
    }
    for field, (given, secret) in faults.items():
        with pytest.raises(ProtocolViolation) as error:
            build_package(told, given, secret)
        assert error.value.field == field
        assert "zoe" not in str(error.value)
    with pytest.raises(ProtocolViolation):
        build_package(told, {**files, first: files[second], second: files[first]}, SECRET)


def test_only_a_confirmation_of_data_is_packed():
    """An erasure has no package, and other bytes are no confirmation."""
    with pytest.raises(ProtocolViolation, match="right"):
        build_package(encode(EXAMPLES["Confirmation"].model_copy(update={"right": Right.ERASURE})), {}, SECRET)
    with pytest.raises(ProtocolViolation, match="confirmation"):
        build_package(b"{}", {}, SECRET)
