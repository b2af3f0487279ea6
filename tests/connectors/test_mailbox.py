"""The mailbox connector on a real IMAP server: whose messages are found, what is exported, what goes, and what never does."""

from __future__ import annotations

import asyncio
import base64
import gc
import traceback
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from connectors.sdk.perform import perform
from connectors.sdk.standin import closed_port_url
from connectors.sdk.testing import ADA, BOB, NOW, ConnectorContract, job_for, traces_in
from connectors.systems.mailbox.addresses import normal, read_addresses
from connectors.systems.mailbox.connector import MailboxConnector, MailboxSettings, _shown, build
from connectors.systems.mailbox.standin import PASSWORD, TOKEN, USERNAME, MailboxStandIn, mail
from schemas.errors import ConfigurationError, CredentialsRefused, SystemRejected, SystemUnavailable
from schemas.vocabulary import IdentifierKind, OutcomeCode, Right


def connect(standin, **settings):
    security = settings.get("security", "plaintext")
    given = {"host": "127.0.0.1", "port": standin.ports[security], "security": security, "username": USERNAME}
    defaults = {"password": PASSWORD, "timeout_seconds": 10.0, "page_size": 2}
    return build(MailboxSettings(**{**given, **defaults, **settings}))


def whole(person):
    return f'"{person.last_name}, {person.first_name}" <{person.email}>'


def letters(standin, person, *, but=()):
    held = [raw for folder, messages in standin.messages().items() if folder not in but for raw in messages]
    return [raw for raw in held if read_addresses(raw.split(b"\n\n")[0]).are_of(frozenset({normal(person.email)}))]


class MailboxMixin(ConnectorContract):
    settings: ClassVar[dict[str, Any]] = {"restricted_folder": "Restricted"}
    left: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self._ca_file = tmp_path / "ca.pem"

    def open_system(self, clock):
        standin = MailboxStandIn(clock)
        with standin.opened() as box:
            box.folder.create("Restricted")
        return closing(standin)

    def connect(self, system):
        self._ca_file.write_bytes(system.server.authority)
        return connect(system, ca_file=self._ca_file, **self.settings)

    def plant(self, system, person, *, records=1):
        ways = ({"from": whole(person)}, {"from": USERNAME, "to": whole(person), "folder": "Sent"}, {"cc": whole(person)})
        for n in range(records):
            text = f"I am {person.first_name} {person.last_name}, {person.phone}"
            system.seed({"messages": [{"text": text, **ways[n % 3]}]})

    def holds(self, system, person):
        return bool(letters(system, person, but=self.left))


class TestMailboxContract(MailboxMixin):
    """The whole contract, found by the server's search and expunged."""


class TestMailboxContractOtherwise(MailboxMixin):
    """The whole contract over TLS, found by reading all headers and moved to the trash."""

    settings: ClassVar[dict[str, Any]] = {
        "restricted_folder": "Restricted",
        "security": "ssl",
        "search_by": "headers",
        "erase_by": "trash",
        "trash_folder": "Trash",
        "trash_purged_after_days": 30,
    }
    left: ClassVar[tuple[str, ...]] = ("Trash",)


@pytest.fixture(scope="module")
def server():
    with closing(MailboxStandIn()) as standin:
        yield standin


@pytest.fixture
def mailbox(server):
    with server.opened() as box:
        for folder in box.folder.list():
            if folder.name in {"INBOX", "Sent", "Trash"}:
                box.folder.set(folder.name)
                box.delete(box.uids())
            else:
                box.folder.delete(folder.name)
    server.commands.clear()
    server.server.fault = None
    return server


def job(right=Right.ERASURE, email=ADA.email):
    return job_for(right, {IdentifierKind.EMAIL: (email,)})


async def do(standin, right=Right.ERASURE, email=ADA.email, **settings):
    return await perform(connect(standin, **settings), job(right, email))


@pytest.mark.parametrize("search_by", ["server", "headers"])
@pytest.mark.parametrize(
    ("headers", "is_theirs"),
    [
        ({"from": "ADA.Lovelace@Example.ORG"}, True),
        ({"from": '"ada.lovelace@example.org" <bob@example.org>'}, False),
        ({"from": "xada.lovelace@example.org"}, False),
        ({"from": "ada.lovelace@example.org.invalid"}, False),
        ({"from": "ada.lovelace+news@example.org"}, False),
        ({"to": "Somebody <b@example.org>, Ada <ada.lovelace@example.org>"}, True),
        ({"cc": "team: b@example.org, ada.lovelace@example.org;"}, True),
        ({"headers": {"Reply-To": "ada.lovelace@example.org"}}, True),
        ({"headers": {"Bcc": "ada.lovelace@example.org"}}, True),
        ({"subject": "ada.lovelace@example.org", "text": "From: ada.lovelace@example.org"}, False),
    ],
)
async def test_a_message_is_theirs_by_a_whole_address_in_its_headers(mailbox, headers, is_theirs, search_by):
    """In any case, in any address header, in groups and lists; never as a part, a display name, a subject or a text."""
    mailbox.put(mail(headers))
    found = await do(mailbox, Right.ACCESS, search_by=search_by)
    assert found.outcome.code is (OutcomeCode.FULFILLED if is_theirs else OutcomeCode.NOTHING_HELD)
    assert found.notes == ("texts_of_messages_not_searched",)


@pytest.mark.parametrize("stored", ["zoë.čapková@bücher.example", "ZOË.ČAPKOVÁ@xn--bcher-kva.example"])
@pytest.mark.parametrize("asked", ["Zoë.Čapková@BÜCHER.example", "zoe\u0308.c\u030capkova\u0301@xn--bcher-kva.example"])
async def test_letters_outside_ascii_and_both_spellings_of_a_domain_find_the_person(mailbox, stored, asked):
    """Composed or not, in letters or in xn--, the address is one; other people stay."""
    mailbox.put(mail({"from": stored}))
    mailbox.put(mail({"from": "zoe@xn--bcher-kva.example"}))
    assert (await do(mailbox, email=asked)).outcome.count == 1
    assert [len(held) for held in mailbox.messages().values()] == [1, 0, 0]


async def test_an_address_in_an_encoded_word_is_read(mailbox):
    """Senders encode what RFC 2047 forbids to encode; reading all headers finds it."""
    mailbox.put(b"From: =?utf-8?q?ada=2Elovelace=40example=2Eorg?=\r\nTo: b@example.org\r\n\r\nHello\r\n")
    assert (await do(mailbox, Right.ACCESS, search_by="headers")).outcome.count == 1


async def test_an_export_holds_whole_messages_of_all_folders(mailbox):
    """Readable, with the names of attachments, and every byte in Base64; what was unread stays unread."""
    mailbox.put(mail({"from": ADA.email, "text": "Grüße", "attachment": "a,b", "subject": "Grüße aus Delft"}))
    mailbox.put(mail({"from": USERNAME, "to": ADA.email, "html": "<p>Hello</p>"}), "Sent")
    mailbox.put(mail({"from": BOB.email}), "Trash")
    result = await do(mailbox, Right.ACCESS)
    first, second = result.exports[0].content
    assert (first["folder"], first["subject"], first["text"].strip()) == ("INBOX", "Grüße aus Delft", "Grüße")
    assert first["attachments"] == [{"name": "attachment.txt", "type": "text/plain", "bytes": 3}]
    assert b"attachment.txt" in base64.b64decode(first["message"])
    assert second["folder"] == "Sent"
    assert not traces_in(str(result.exports[0].content), BOB)
    with mailbox.opened() as box:
        box.folder.set("INBOX")
        assert len(box.uids("UNSEEN")) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"From: ada.lovelace@example.org\r\nContent-Type: text/plain; charset=nonsense\r\n\r\n\xff\xfe\r\n",
        b"From: ada.lovelace@example.org\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\nno part\r\n",
        b"From: ada.lovelace@example.org\r\nSubject: =?utf-8?b?////?=\r\nDate: never\r\n\r\n",
        b"From: \xe4 <ada.lovelace@example.org>\r\nTo: \xff\r\n\r\nHello\r\n",
        b"From: ada.lovelace@example.org, =?n\x01pe?q?b=40x?=\r\nSubject: =?utf-8?b?A?=\r\n\r\nHello\r\n",
        b"From: ada.lovelace@example.org\r\nContent-Type: text/plain; name*0*=utf-8''a; name*=b\r\n\r\nHello\r\n",
        b"From: ada.lovelace@example.org\r\nContent-Type: multipart/mixed; boundary=x; name*0*=utf-8''a; name*=b\r\n\r\n",
    ],
)
async def test_a_malformed_message_is_exported_as_it_is(mailbox, raw):
    """Nobody has to write well to get their messages."""
    mailbox.put(raw)
    result = await do(mailbox, Right.ACCESS)
    assert base64.b64decode(result.exports[0].content[0]["message"]) == raw


def test_a_message_nested_without_end_is_exported_whole():
    """A message that is sent to do harm does not keep the others from the person."""
    raw = b"From: ada.lovelace@example.org\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 3000 + b"Hello\r\n"
    assert _shown(raw) == {"message": base64.b64encode(raw).decode()}


async def test_erasure_takes_only_the_persons_messages_and_not_what_others_have_marked(mailbox):
    """A message that somebody else marked as deleted stays: only numbers are expunged, never a folder."""
    for person in (ADA, BOB, BOB):
        mailbox.put(mail({"from": person.email}))
    with mailbox.opened() as box:
        box.folder.set("INBOX")
        box.client.uid("STORE", box.uids()[-1], "+FLAGS", r"(\Deleted)")
    assert (await do(mailbox)).outcome.count == 1
    assert len(letters(mailbox, BOB)) == 2
    assert "EXPUNGE" not in mailbox.commands


async def test_what_lies_in_the_trash_is_gone_by_a_date(mailbox):
    """Moved and not expunged: the outcome says until when the server keeps it, and a repetition finds nothing."""
    trash = {"erase_by": "trash", "trash_folder": "Trash", "trash_purged_after_days": 30}
    mailbox.put(mail({"from": ADA.email}))
    first = await do(mailbox, **trash)
    assert (first.outcome.count, first.outcome.effective_by) == (1, (NOW + timedelta(days=30)).date())
    assert len(mailbox.messages()["Trash"]) == 1
    assert (await do(mailbox, **trash)).outcome.code is OutcomeCode.NOTHING_HELD
    assert (await do(mailbox, Right.ACCESS, **trash)).outcome.count == 1


async def test_restricted_messages_lie_where_nobody_works(mailbox):
    """Moved from every folder but the kept ones, counted again when asked again, and still found for access and erasure."""
    with mailbox.opened() as box:
        box.folder.create("Restricted")
    for folder in ("INBOX", "Trash", "Sent"):
        mailbox.put(mail({"from": ADA.email}), folder)
    mailbox.put(mail({"from": BOB.email}))
    settings = {"restricted_folder": "Restricted", **KEPT}
    for _ in range(2):
        assert (await do(mailbox, Right.RESTRICTION, **settings)).outcome.count == 2
        held = {folder: len(messages) for folder, messages in mailbox.messages().items()}
        assert held == {"INBOX": 1, "Restricted": 2, "Sent": 1, "Trash": 0}
    assert (await do(mailbox, Right.ACCESS, **settings)).outcome.count == 3
    assert (await do(mailbox, **settings)).outcome.fulfilled == 2
    not_offered = await do(mailbox, Right.RESTRICTION)
    assert (not_offered.outcome.code, not_offered.outcome.reason) == (OutcomeCode.NOT_APPLICABLE, "right_not_offered")


KEPT = {"kept_folders": ("Sent",), "kept_ground": "art17_3_b", "kept_detail": "AWR art. 52"}


async def test_messages_of_kept_folders_stay_for_a_ground_until_a_date(mailbox):
    """The others go; what stays is counted with ground and day, shown for access, and goes when its time has passed."""
    mailbox.put(mail({"from": ADA.email}))
    mailbox.put(mail({"from": USERNAME, "to": ADA.email}), "Sent")
    received = datetime.now(UTC)
    connector = connect(mailbox, **KEPT, kept_days=2555)
    today = replace(job(), now=received)
    result = await perform(connector, today)
    outcome = result.outcome
    assert (outcome.code, outcome.ground, outcome.detail) == (OutcomeCode.RETAINED, "art17_3_b", "AWR art. 52")
    assert (outcome.count, outcome.fulfilled) == (1, 1)
    assert abs((outcome.until - received.date()).days - 2556) <= 1
    assert (await do(mailbox, Right.ACCESS, **KEPT)).outcome.count == 1
    assert (await perform(connect(mailbox, **KEPT), today)).outcome.until is None
    later = await perform(connector, replace(today, now=received + timedelta(days=2557)))
    assert (later.outcome.code, later.outcome.count) == (OutcomeCode.FULFILLED, 1)
    with pytest.raises(SystemRejected, match="KEPT_FOLDERS"):
        await do(mailbox, **KEPT | {"kept_folders": ("Archive",)})


@pytest.mark.parametrize("count", [1, 2, 3, 7])
async def test_large_folders_are_read_in_pages(mailbox, count):
    """Pages of two: each message is found and taken once."""
    for _ in range(count):
        mailbox.put(mail({"from": ADA.email}))
    assert (await do(mailbox)).outcome.count == count
    assert mailbox.commands["UID FETCH"] == -(-count // 2)
    assert not letters(mailbox, ADA)


@pytest.mark.parametrize(
    ("command", "how"),
    [
        *((command, how) for command in ("UID FETCH", "UID STORE", "UID EXPUNGE") for how in ("drop", "lost", "hang")),
        *((command, "drop") for command in ("LOGIN", "LIST", "SELECT", "UID SEARCH")),
        ("LOGIN", "hang"),
    ],
)
async def test_a_connection_that_breaks_is_tried_again(mailbox, command, how):
    """Before, after or instead of any command: SystemUnavailable, and the repetition ends what was begun."""
    for person in (ADA, ADA, ADA, BOB):
        mailbox.put(mail({"from": person.email}))
    mailbox.imap_fail(command, how)
    with pytest.raises(SystemUnavailable) as caught:
        # Only silence is to be waited out; any other command may take its time on a busy machine.
        await do(mailbox, timeout_seconds=1.0 if how == "hang" else 10.0)
    assert not traces_in("".join(traceback.format_exception(caught.value)), ADA)
    result = await do(mailbox)
    assert result.outcome.code in {OutcomeCode.FULFILLED, OutcomeCode.NOTHING_HELD}
    assert (len(letters(mailbox, ADA)), len(letters(mailbox, BOB))) == (0, 1)


@pytest.mark.parametrize("command", ["UID SEARCH", "UID FETCH", "UID EXPUNGE"])
async def test_a_command_that_is_refused_is_for_a_person(mailbox, command):
    """NO with the search in it: SystemRejected that quotes nothing."""
    mailbox.put(mail({"from": ADA.email}))
    mailbox.imap_fail(command, "no")
    with pytest.raises(SystemRejected) as caught:
        await do(mailbox)
    assert not traces_in("".join(traceback.format_exception(caught.value)), ADA)


async def test_a_login_is_refused_for_good_or_for_now(mailbox):
    """A wrong password is the owner's; a server that cannot check it now is asked later."""
    with pytest.raises(CredentialsRefused):
        await do(mailbox, password="wrong")
    with pytest.raises(CredentialsRefused):
        await do(mailbox, password="wröng")
    mailbox.imap_fail("LOGIN", "no")
    with pytest.raises(SystemUnavailable):
        await do(mailbox)


async def test_a_token_logs_in_instead_of_a_password(mailbox):
    """XOAUTH2; a token that has ended is the owner's to renew."""
    mailbox.put(mail({"from": ADA.email}))
    assert (await do(mailbox, password=None, access_token=TOKEN)).outcome.count == 1
    assert mailbox.commands["AUTHENTICATE"] == 1
    with pytest.raises(CredentialsRefused, match="ACCESS_TOKEN"):
        await do(mailbox, password=None, access_token="ended")


async def test_nobody_listens(mailbox):
    """A closed port is SystemUnavailable."""
    with closed_port_url() as url, pytest.raises(SystemUnavailable):
        await do(mailbox, port=int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize("security", ["ssl", "starttls"])
async def test_a_certificate_is_checked_before_the_password_is_sent(mailbox, security, tmp_path):
    """An unknown authority ends it; with the right one it works; a server without TLS is never spoken to in plain text."""
    mailbox.put(mail({"from": ADA.email}))
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(mailbox.server.authority)
    with pytest.raises(SystemUnavailable, match="not trusted"):
        await do(mailbox, security=security)
    with pytest.raises(SystemUnavailable):
        await do(mailbox, security=security, port=mailbox.ports["plaintext"], ca_file=ca_file)
    assert not mailbox.commands["LOGIN"]
    assert (await do(mailbox, security=security, ca_file=ca_file)).outcome.count == 1


async def test_numbers_of_a_rebuilt_folder_are_not_believed(mailbox, monkeypatch):
    """UIDVALIDITY changed between search and deletion: nothing goes, and the repetition searches anew."""
    mailbox.put(mail({"from": ADA.email}))
    find = MailboxConnector._find

    def found(self, *given, **options):
        hits = find(self, *given, **options)
        mailbox.server.renumber("INBOX")
        return hits

    with monkeypatch.context() as patch:
        patch.setattr(MailboxConnector, "_find", found)
        with pytest.raises(SystemUnavailable, match="numbered"):
            await do(mailbox)
    assert letters(mailbox, ADA)
    assert (await do(mailbox)).outcome.count == 1


async def test_named_folders_only(mailbox):
    """Folders that are named or skipped; a name that names nothing is no absence."""
    mailbox.put(mail({"from": ADA.email}))
    with mailbox.opened() as box:
        box.folder.create("Büro 2026")
    mailbox.put(mail({"from": ADA.email}), "Büro 2026")
    assert (await do(mailbox, Right.ACCESS, folders=("Büro 2026",))).outcome.count == 1
    assert (await do(mailbox, Right.ACCESS, skip_folders=("INBOX",))).exports[0].content[0]["folder"] == "Büro 2026"
    assert (await do(mailbox, Right.ACCESS)).outcome.count == 2
    with pytest.raises(SystemRejected, match="DSR_MAILBOX_FOLDERS"):
        await do(mailbox, folders=("INBOX", "Archive"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"own_addresses": ("ADA.lovelace@example.org",)}, "mailbox itself"),
        ({"max_messages": 1}, "MAX_MESSAGES"),
    ],
)
async def test_what_cannot_be_one_persons_is_for_a_person_to_look_at(mailbox, settings, name):
    """The mailbox's own address, and more messages than one person writes: refused before anything goes."""
    for _ in range(2):
        mailbox.put(mail({"from": ADA.email}))
    with pytest.raises(SystemRejected, match=name):
        await do(mailbox, **settings)
    assert len(letters(mailbox, ADA)) == 2


async def test_a_large_export_is_handed_over_by_a_person(mailbox):
    """More bytes than the bound: refused before a message is fetched."""
    mailbox.put(mail({"from": ADA.email}))
    with pytest.raises(SystemRejected, match="MAX_EXPORT_BYTES"):
        await do(mailbox, Right.ACCESS, max_export_bytes=10)


async def test_a_header_that_cannot_be_taken_apart_is_noted(mailbox, monkeypatch):
    """Where a library gives up on a header that names the person, a person must look; nothing goes."""
    mailbox.put(mail({"from": ADA.email}))
    monkeypatch.setattr("connectors.systems.mailbox.addresses.getaddresses", lambda _: [("", "")])
    result = await do(mailbox)
    assert result.outcome.code is OutcomeCode.NOTHING_HELD
    assert result.notes == ("unreadable_headers_by_hand", "texts_of_messages_not_searched")


@pytest.mark.parametrize(
    "header",
    [
        f"From: {ADA.email} {'(' * 5000}",
        f"From: {ADA.email} {'(' * 5000}\r\nContent-Type: multipart/mixed; boundary=x; name*0*=utf-8''a; name*=b",
    ],
    ids=["comments", "parts"],
)
def test_a_header_of_comments_without_end_is_for_a_person(header):
    """A message that is sent to do harm does not keep the others from being found; what stands in it is not passed over."""
    addresses = read_addresses(f"{header}\r\nTo: {BOB.email}\r\n\r\n".encode())
    assert addresses.are_of(frozenset({normal(BOB.email)}))
    assert not addresses.are_of(frozenset({normal(ADA.email)}))
    assert addresses.may_be_of(frozenset({normal(ADA.email)}))


async def test_a_search_cannot_be_broken_out_of(mailbox):
    """Quotes stay inside, and a line end is refused: an address never becomes a command."""
    mailbox.put(mail({"from": BOB.email}))
    quoted = await do(mailbox, email='" ALL FROM "@example.org')
    assert quoted.outcome.code is OutcomeCode.NOTHING_HELD
    with pytest.raises(SystemRejected, match="characters"):
        await do(mailbox, email="ada\r\nA1 LOGOUT@example.org")
    assert letters(mailbox, BOB)


async def test_without_uidplus_nothing_is_expunged(mailbox, monkeypatch):
    """A server that can only expunge whole folders: refused, with the setting to change; `check` says so before."""
    monkeypatch.setattr("connectors.systems.mailbox.client.Session.can_expunge", False)
    mailbox.put(mail({"from": ADA.email}))
    with pytest.raises(SystemRejected, match="DSR_MAILBOX_ERASE_BY"):
        await do(mailbox)
    assert "DSR_MAILBOX_ERASE_BY" in await connect(mailbox).check()
    assert letters(mailbox, ADA)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"HOST": None}, "DSR_MAILBOX_HOST"),
        ({"PASSWORD": None}, "PASSWORD"),
        ({"ACCESS_TOKEN": "x"}, "ACCESS_TOKEN"),
        ({"ERASE_BY": "trash"}, "TRASH_FOLDER"),
        ({"KEPT_FOLDERS": '["Sent"]'}, "KEPT_GROUND"),
        ({"SECURITY": "none"}, "DSR_MAILBOX_SECURITY"),
    ],
)
def test_a_wrong_setting_names_itself(monkeypatch, settings, name):
    """Each mistake is a configuration error before any connection."""
    good = {"HOST": "mail.example.org", "USERNAME": "someone", "PASSWORD": "x"}
    for key, value in (good | settings).items():
        if value is not None:
            monkeypatch.setenv(f"DSR_MAILBOX_{key}", value)
    with pytest.raises(ConfigurationError, match=name):
        build()


def test_the_stand_in_answers_whatever_is_collected_meanwhile():
    """An open connection is held by something: a collection between two commands takes nothing of it away."""

    async def collected():  # in the server's own loop, where every connection waits for its next command meanwhile
        gc.collect()

    with closing(MailboxStandIn()) as standin, standin.opened() as box:
        asyncio.run_coroutine_threadsafe(collected(), standin.server._loop).result(10)
        assert box.folder.exists("Trash")
