"""`dsr mailbox` on a real IMAP server: what is listed, set apart and refused; nothing that is printed names anybody."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from connectors.systems.mailbox.standin import PASSWORD, USERNAME, MailboxStandIn, mail
from orchestrator.cli import app
from orchestrator.commands.mail_reading import Guess, parsed
from orchestrator.commands.mailbox import _derived_id, _Draft
from schemas.vocabulary import Language

PERSON = "someone@example.org"
WIDE = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}


@pytest.fixture
def mailbox():
    with closing(MailboxStandIn()) as standin:
        yield standin


@pytest.fixture
def dsr(mailbox):
    """Run a command against the mailbox, and a broker that does not answer."""
    env = {
        "DSR_MAILBOX_HOST": "127.0.0.1",
        "DSR_MAILBOX_PORT": str(mailbox.ports["plaintext"]),
        "DSR_MAILBOX_SECURITY": "plaintext",
        "DSR_MAILBOX_USERNAME": USERNAME,
        "DSR_MAILBOX_PASSWORD": PASSWORD,
        "DSR_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "DSR_INTAKE_KEYS": str(Path(__file__).with_name("intake-keys.json")),
        "DSR_SIGNATURES": "off",
    }

    def run(*arguments, code=0, **changed):
        done = CliRunner().invoke(app, ["mailbox", *arguments], env={**env, **WIDE, **changed})
        assert done.exit_code == code, (done.output, done.exception)
        assert PERSON not in done.output
        assert "Secret subject" not in done.output
        return done.output

    return run


def request(**values):
    return mail({"from": f"Some One <{PERSON}>", "subject": "Secret subject", "text": "Please delete my data", **values})


def handles(listed):
    return [draft["handle"] for draft in json.loads(listed)]


def test_messages_are_listed_with_a_guess_and_stay_as_they_are(mailbox, dsr):
    """Handle, moment and guess, marked as one; unread messages stay unread, where they are."""
    mailbox.put(request())
    mailbox.put(request(text="Ik wil graag inzage in mijn gegevens"))
    mailbox.put(request(headers={"Auto-Submitted": "auto-replied"}))
    listed = json.loads(dsr("list", "--json"))
    assert [(draft["guess"], draft["language"], draft["automatic"]) for draft in listed] == [
        ("erasure", "en", None),
        ("access", "nl", None),
        ("erasure", "en", "auto_reply"),
    ]
    now = datetime.fromisoformat(listed[0]["received_at"])
    assert now.utcoffset() == timedelta(0)
    text = dsr("list")
    assert "erasure?, en" in text
    assert "guesses from words" in text
    with mailbox.opened() as box:
        box.folder.set("INBOX")
        assert len(box.uids("UNSEEN")) == 3
    assert json.loads(dsr("list", "--limit", "1", "--json")) == listed[-1:]


@pytest.mark.parametrize(
    "harm",
    [
        f"From: a@example.org {'(' * 5000}",
        "From: a@example.org\r\nContent-Type: text/plain; name*0*=utf-8''a; name*=b",
        "From: a@example.org\r\nContent-Type: multipart/mixed; boundary=x; name*0*=utf-8''a; name*=b",
    ],
    ids=["comments", "text", "parts"],
)
def test_a_message_that_is_sent_to_do_harm_is_listed_among_the_others(mailbox, dsr, harm):
    """It is neither moved nor left out, and keeps no other from being listed or set apart."""
    mailbox.put(f"{harm}\r\n\r\nPlease delete my data\r\n".encode())
    mailbox.put(request(headers={"List-Id": "<news.example.org>"}))
    mailbox.put(request())
    assert "1 moved" in dsr("sort")
    assert len(handles(dsr("list", "--json"))) == 2


def test_a_message_without_an_id_is_the_same_request_however_often_it_is_read():
    """Also where its header holds bytes beyond ASCII."""
    draft = partial(_Draft, "1-1", datetime(2026, 3, 5, tzinfo=UTC), None, Guess(None, Language.EN))
    first, again = (draft(parsed(b"From: someone@example.org\r\nSubject: \xfc\r\n\r\nHello\r\n")) for _ in range(2))
    assert _derived_id(first, PERSON, "web", "erasure") == _derived_id(again, PERSON, "web", "erasure")


def test_what_machines_wrote_is_set_apart(mailbox, dsr):
    """Into a folder that is made; what a person wrote stays, and a second time there is nothing to do."""
    mailbox.put(request(headers={"List-Id": "<news.example.org>"}))
    mailbox.put(request())
    assert "mailing_list" in dsr("sort")
    assert [len(held) for _, held in sorted(mailbox.messages().items())] == [1, 0, 1, 0]
    assert dsr("sort").strip() == "0 moved to Set apart"
    assert json.loads(dsr("sort", "--json")) == {}


def test_nothing_is_moved_before_the_broker_has_it(mailbox, dsr):
    """Without a broker the message stays in the inbox, to be filed again."""
    mailbox.put(request())
    (handle,) = handles(dsr("list", "--json"))
    assert "No Kafka broker answers" in dsr("file", handle, "--right", "erasure", code=2)
    assert len(mailbox.messages()["INBOX"]) == 1


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        ({"headers": {"Auto-Submitted": "auto-replied"}}, (), "--anyway"),
        ({"from": f"a@example.org, {PERSON}"}, (), "dsr submit"),
        ({}, ("--right", "rectification"), "--set FIELD=VALUE"),
        ({}, ("--portal", "Web Site"), "portal"),
        ({}, ("--actor", PERSON), "filed_by"),
        ({}, ("--folder", "Nowhere"), "folder"),
    ],
)
def test_what_cannot_be_filed_says_why(mailbox, dsr, values, options, says):
    """Exit 2 with the remedy, and the message stays where it is."""
    mailbox.put(request(**values))
    (handle,) = handles(dsr("list", "--json"))
    assert says in dsr("file", handle, "--right", "erasure", *options, code=2)
    assert len(mailbox.messages()["INBOX"]) == 1


@pytest.mark.parametrize(("handle", "says"), [("103", "for instance"), ("1-103", "numbered anew"), (PERSON, "for instance")])
def test_a_handle_of_another_folder_is_refused(mailbox, dsr, handle, says):
    """A number alone may mean another message tomorrow."""
    mailbox.put(request())
    assert says in dsr("file", handle, "--right", "erasure", code=2)


def test_a_message_that_is_gone_is_said_so(mailbox, dsr):
    """Two people at one mailbox: the second hears that it is filed."""
    mailbox.put(request())
    (handle,) = handles(dsr("list", "--json"))
    with mailbox.opened() as box:
        box.folder.set("INBOX")
        box.move(box.uids(), "Trash")
    assert "not in INBOX any more" in dsr("file", handle, "--right", "erasure", code=2)


def test_settings_and_logins_that_fail_are_one_sentence(mailbox, dsr):
    """The variable is named, no value repeated."""
    assert "DSR_MAILBOX_HOST" in dsr("list", code=2, DSR_MAILBOX_HOST="")
    assert "refused" in dsr("list", code=2, DSR_MAILBOX_PASSWORD="wrong")


@pytest.mark.parametrize("command", ["list", "sort", "file"])
def test_every_command_shows_an_example(command):
    """`--help` ends in a line that can be copied."""
    done = CliRunner().invoke(app, ["mailbox", command, "--help"], env=WIDE)
    assert f"Example: dsr mailbox {command}" in done.output
    assert "--json" in done.output
