"""The trust file under a running worker: what is taken over, what is not, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from orchestrator.adapters.metrics import WorkerMetrics
from orchestrator.shell.trust_file import LOOK_SECONDS, TrustFile
from schemas.errors import ConfigurationError
from schemas.trust import SigningKey, Trust

US, CRM, MAIL = (SigningKey.new(name) for name in ("orchestrator", "system:crm", "system:mail"))


def content(*keys: SigningKey) -> bytes:
    return json.dumps({"keys": [key.public() for key in keys]}).encode()


def must_know_us(trust: Trust) -> None:
    if trust.key(US.kid) is None:
        raise ConfigurationError("our own key is not there")


class Folder:
    """Where the file is, and who looks at it."""

    def __init__(self, *keys: SigningKey) -> None:
        self.bytes: bytes | Exception = content(*keys)
        self.changes = 0
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.file = TrustFile(self.read, must_know_us)

    def read(self) -> bytes:
        if isinstance(self.bytes, Exception):
            raise self.bytes
        return self.bytes

    def changed(self) -> None:
        self.changes += 1

    async def look(self) -> list[dict]:
        """Look once; return what was logged."""
        with capture_logs() as logs:
            await self.file.look(self.metrics, self.changed)
        return list(logs)

    @property
    def known(self) -> set[str]:
        return {key.principal for key in self.file()}

    @property
    def refused(self) -> float | None:
        return self.registry.get_sample_value("dsr_trust_file_refused")


async def test_other_keys_count_as_soon_as_the_file_was_looked_at() -> None:
    """Told as a number: an operator's key has its owner's name."""
    folder = Folder(US, CRM)
    before = folder.file()
    folder.bytes = content(US, MAIL, SigningKey.new("operator:ops:alice"))
    assert folder.file() is before
    assert await folder.look() == [{"event": "trust_file_read", "log_level": "info", "count": 3}]
    assert folder.known == {"orchestrator", "system:mail", "operator:ops:alice"}
    assert (folder.changes, folder.refused) == (1, 0)


async def test_an_unchanged_file_changes_nothing() -> None:
    """The set stays the same object, so nothing that was remembered with it is forgotten."""
    folder = Folder(US, CRM)
    before = folder.file()
    assert await folder.look() == []
    assert folder.file() is before and folder.changes == 0


BAD: list[bytes | Exception] = [
    b"",
    b'{"keys": [',
    content(CRM),
    json.dumps({"keys": [json.loads(US.to_json())]}).encode(),
    ConfigurationError("DSR_TRUST_FILE cannot be read (FileNotFoundError)"),
]


@pytest.mark.parametrize("bad", BAD, ids=["empty", "half written", "without our key", "a private key", "gone"])
async def test_a_file_of_no_use_leaves_the_last_good_one_in_force(bad: bytes | Exception) -> None:
    """It is said once, with the remedy, and counted until it is mended, be it by the very bytes that were there before."""
    folder = Folder(US, CRM)
    good, before = folder.bytes, folder.file()
    folder.bytes = bad
    (line,) = await folder.look()
    assert (line["event"], line["log_level"]) == ("trust_file_refused", "error") and line["reason"]
    assert (folder.file(), folder.changes, folder.refused) == (before, 0, 1)
    assert (await folder.look(), folder.refused) == ([], 1)
    folder.bytes = good
    assert (await folder.look(), folder.refused, folder.changes) == ([], 0, 0)
    folder.bytes = bad
    assert len(await folder.look()) == 1
    folder.bytes = content(US)
    await folder.look()
    assert (folder.known, folder.refused, folder.changes) == ({"orchestrator"}, 0, 1)


@pytest.mark.parametrize("bad", BAD)
def test_a_worker_does_not_start_with_one(bad: bytes | Exception) -> None:
    """It has nothing to fall back on."""

    def read() -> bytes:
        if isinstance(bad, Exception):
            raise bad
        return bad

    with pytest.raises(ConfigurationError):
        TrustFile(read, must_know_us)


async def test_our_own_key_may_end_without_a_change() -> None:
    """The file says so from its first day on; it is told when it has come."""
    folder = Folder(US, CRM)
    ended = False

    def check(_: Trust) -> None:
        if ended:
            raise ConfigurationError("our own key has ended")

    folder.file = TrustFile(folder.read, check)
    assert (await folder.look(), folder.refused) == ([], 0)
    ended = True
    (line,) = await folder.look()
    assert (line["event"], folder.refused) == ("trust_file_refused", 1)


async def test_a_file_system_that_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch goes on, and the keys stay."""
    folder, go_on = Folder(US, CRM), threading.Event()
    before = folder.file()
    monkeypatch.setattr("orchestrator.shell.trust_file._READ_SECONDS", 0.05)
    monkeypatch.setattr(folder.file, "_read", lambda: bytes(go_on.wait(10)))
    (line,) = await folder.look()
    go_on.set()
    assert (line["event"], folder.refused) == ("trust_file_refused", 1)
    assert folder.file() is before


async def test_it_is_looked_at_again_and_again() -> None:
    """At its interval, for as long as the worker lives; the gauge is there from the beginning, by itself."""
    folder, slept = Folder(US), list[float]()

    class Clock:
        now: Callable[[], None]

        async def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            assert folder.refused is not None
            if len(slept) == 4:
                raise asyncio.CancelledError
            folder.bytes = content(US, *[CRM] * (len(slept) == 2))

    with contextlib.suppress(asyncio.CancelledError):
        await folder.file.watch(Clock(), folder.metrics, folder.changed)  # type: ignore[arg-type] # nobody asks for the time
    assert slept == [LOOK_SECONDS] * 4
    assert folder.changes == 2
