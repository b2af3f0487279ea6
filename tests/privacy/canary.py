"""Looking for people where nobody may be readable: records, files, and every disguise that an identity may have put on.

Room rules: bytes in, findings out; knows no process and no scenario.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from aiokafka import AIOKafkaConsumer

__all__ = ["contents", "disguises", "hashes", "in_base64", "leaks_in", "leaks_in_records", "records_of"]


def disguises(marker: str) -> dict[bytes, str]:
    """Return the forms in which a text that holds the marker can be read, and what each is.

    `marker` is a word of at least nine letters in lower case; what stands around it does not matter.
    """
    found: dict[bytes, str] = {}
    for name, text in {"": marker, "in capitals": marker.upper(), "as a title": marker.title()}.items():
        plain = text.encode()
        found |= {plain: name or "in clear", quote(text, safe="").encode(): name or "in clear"}
        for coding in ("utf-16-le", "utf-16-be"):
            wide = text.encode(coding)
            found |= {wide: f"{coding} {name}", wide.hex().encode(): f"{coding} in hex {name}"}
            found |= dict.fromkeys(in_base64(wide), f"{coding} in base64 {name}")
        found |= {plain.hex().encode(): f"hex {name}", plain.hex().upper().encode(): f"hex {name}"}
        found |= dict.fromkeys(in_base64(plain), f"base64 {name}")
        found[b"".join(b"\\u%04x" % ord(letter) for letter in text)] = f"escaped {name}"
    return {needle: what.strip() for needle, what in found.items()}


def hashes(values: Iterable[str]) -> dict[bytes, str]:
    """Return the usual hashes of these values as they are, in lower case, and of what stands before an @: raw, hex, base64."""
    found: dict[bytes, str] = {}
    for value in values:
        for text in {value, value.lower(), value.partition("@")[0], value.lower().partition("@")[0]}:
            for name in ("md5", "sha1", "sha256"):
                hashed = hashlib.new(name, text.encode(), usedforsecurity=False).digest()
                forms = (hashed, hashed.hex().encode(), hashed.hex().upper().encode(), *in_base64(hashed))
                found |= dict.fromkeys(forms, f"{name} of a value")
    return found


def in_base64(plain: bytes) -> Iterator[bytes]:
    """Yield what is certain of the value's base64 at each of the three alignments, in both alphabets."""
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + plain)
        inner = coded[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6]
        if len(inner) >= 10:
            yield inner
            yield inner.replace(b"+", b"-").replace(b"/", b"_")


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, with its name: files come and go while their processes live."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.relative_to(folder).as_posix()
        with contextlib.suppress(FileNotFoundError):
            # Kafka lays out its indexes as megabytes of nothing.
            written = path.read_bytes().rstrip(b"\0") if path.stat().st_blocks else b""
            found[place] = written + place.encode()
    return found


def leaks_in(found: Mapping[str, bytes], wanted: Mapping[bytes, str], *, but: tuple[str, ...] = ()) -> set[str]:
    """Return where somebody can be read; places that begin with one of `but` are left out."""
    return {
        f"{place}: {what}"
        for place, content in found.items()
        if not place.startswith(but)
        for needle, what in wanted.items()
        if needle in content
    }


async def records_of(bootstrap: str, prefix: str) -> list[tuple[str, bytes]]:
    """Return every record of the installation, whole: key, value, headers."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    async with consumer:
        topics = [topic for topic in await consumer.topics() if topic.startswith(f"{prefix}.")]
        consumer.subscribe(topics)
        while not consumer.assignment():
            await consumer.getmany(timeout_ms=100)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(consumer.assignment())
        found: list[tuple[str, bytes]] = []
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    headers = b"".join(name.encode() + b"=" + value for name, value in record.headers)
                    found.append((record.topic, b"|".join((record.key or b"", record.value or b"", headers))))
        return found


def leaks_in_records(records: Iterable[tuple[str, bytes]], wanted: Mapping[bytes, str]) -> set[str]:
    """Return in which topic somebody can be read."""
    return {f"{topic}: {what}" for topic, record in records for needle, what in wanted.items() if needle in record}
