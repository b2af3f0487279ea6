"""Who is shown what the pages for machines tell: the header, the token, and how both sides read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connectors.sdk.process import page_readers as connectors_readers
from connectors.sdk.settings import RuntimeSettings
from connectors.sdk.settings import read as read_connectors
from orchestrator.bootstrap import page_readers as workers_readers
from orchestrator.settings import load_settings
from schemas.errors import ConfigurationError
from schemas.page_readers import PageReaders

TOKEN = "hush-hush." * 4
HEADER = f"Bearer {TOKEN}"
#: How either process finds out who its readers are, and where it says on which host it listens.
SIDES = [
    pytest.param(lambda: workers_readers(load_settings()), "DSR_HTTP_HOST", id="worker"),
    pytest.param(lambda: connectors_readers(read_connectors(RuntimeSettings)), "DSR_HEALTH_HOST", id="connector"),
]


@pytest.fixture(autouse=True)
def keys_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a connector must be told."""
    monkeypatch.setenv("DSR_KEYS_URL", "http://127.0.0.1:9464")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_token_alone_lets_in_where_there_is_one(host: str) -> None:
    """The scheme's case is of no matter (RFC 9110 section 11.1); the token's is, and so is each character."""
    readers = PageReaders(TOKEN, host)
    assert readers.include(HEADER) and readers.include(HEADER.replace("Bearer", "bEARER")) and not readers.nobody
    for sent in (
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        HEADER[:-1],
        f"{HEADER}x",
        HEADER.upper(),
        "Bearer \xff",
    ):
        assert not readers.include(sent)


@pytest.mark.parametrize(("host", "all_"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("", False), ("::", False)])
def test_without_a_token_the_address_decides(host: str, all_: bool) -> None:
    """Whatever is sent: an address that others reach shows nothing to anybody."""
    readers = PageReaders(None, host)
    assert {readers.include(sent) for sent in (None, "Bearer ", "Bearer None", HEADER)} == {all_}
    assert readers.nobody is not all_


@pytest.mark.parametrize("token", ["", "short", "a" * 31, "a" * 31 + "=", "a b" * 20, "é" * 40, TOKEN + "\n"])
def test_a_token_of_no_use_is_refused(token: str) -> None:
    """An empty one above all: it is not the same as none. What it was is not said."""
    with pytest.raises(ConfigurationError, match="DSR_METRICS_TOKEN_FILE: a token has 32") as refused:
        PageReaders(token, "127.0.0.1")
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize(("made", "_host"), SIDES)
@pytest.mark.parametrize("in_file", [True, False])
def test_both_sides_read_the_same_variables(monkeypatch, tmp_path: Path, made, _host, in_file: bool) -> None:
    """In the environment or in a file, whose last line's end does not belong to it."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    variable, value = ("DSR_METRICS_TOKEN_FILE", str(tmp_path / "token")) if in_file else ("DSR_METRICS_TOKEN", TOKEN)
    monkeypatch.setenv(variable, value)
    readers = made()
    assert readers.include(HEADER) and not readers.include(None)
    assert TOKEN not in repr(load_settings()) + repr(read_connectors(RuntimeSettings))


@pytest.mark.parametrize(("made", "_host"), SIDES)
def test_no_process_starts_with_an_empty_file_or_none(monkeypatch, tmp_path: Path, made, _host) -> None:
    """A token that was meant and is missing does not open the pages."""
    monkeypatch.setenv("DSR_METRICS_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ConfigurationError, match="DSR_METRICS_TOKEN_FILE cannot be read"):
        made()
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigurationError, match="DSR_METRICS_TOKEN_FILE: "):
        made()


@pytest.mark.parametrize(("made", "host"), SIDES)
def test_pages_that_refuse_everybody_are_said_once_with_the_remedy(monkeypatch, made, host: str) -> None:
    """On an address that others reach, without a token; not on this machine's own, and not with one."""
    with capture_logs() as lines:
        made()
        monkeypatch.setenv(host, "0.0.0.0")
        readers = made()
        monkeypatch.setenv("DSR_METRICS_TOKEN", TOKEN)
        made()
    assert readers.nobody
    (line,) = lines
    assert (line["event"], line["log_level"], line["setting"]) == ("metrics_refused", "warning", "DSR_METRICS_TOKEN_FILE")
    assert "openssl rand -hex 32" in line["remedy"] and line["host"] == "0.0.0.0"
