"""What a message may be: guesses from words in two languages, and what machines write."""

from __future__ import annotations

import time

import pytest

from orchestrator.commands.mail_reading import automatic, guess, new_text, parsed, sender_of, subject_of, text_of
from schemas.vocabulary import Language, Right


@pytest.mark.parametrize(
    ("subject", "text", "right", "language"),
    [
        ("My data", "Please delete all my personal data.", Right.ERASURE, Language.EN),
        ("Gegevens", "Ik wil graag dat u mijn gegevens verwijdert.", Right.ERASURE, Language.NL),
        ("Inzageverzoek", "Graag ontvang ik een kopie van mijn gegevens.", Right.ACCESS, Language.NL),
        ("Request", "I would like a copy of my data.", Right.ACCESS, Language.EN),
        ("Name", "My name is wrong, please correct my record.", Right.RECTIFICATION, Language.EN),
        ("Adres", "Mijn adres klopt niet meer.", Right.RECTIFICATION, Language.NL),
        ("Please", "My phone number is missing, complete my record", Right.COMPLETION, Language.EN),
        ("Art. 18", "Ik vraag om beperking van de verwerking van mijn gegevens", Right.RESTRICTION, Language.NL),
        ("Portability", "in a machine-readable form, please", Right.PORTABILITY, Language.EN),
        ("Bezwaar", "Ik maak bezwaar en wil geen reclame.", Right.OBJECTION, Language.NL),
        ("Newsletter", "Please unsubscribe me", Right.UNSUBSCRIBE, Language.EN),
        ("Hello", "Where is my order?", None, Language.EN),
        ("Both", "Send a copy of my data and then delete my data", None, Language.EN),
        ("", "", None, Language.EN),
    ],
)
def test_words_speak_for_a_right_and_a_language(subject, text, right, language):
    """One right with most words is the guess; none, or several alike, is unclear."""
    found = guess(subject, text)
    assert (found.right, found.language) == (right, language)


def test_what_is_quoted_does_not_count():
    """Our own footer in a quoted message is not the person's request."""
    text = "Thank you.\n> To unsubscribe click here\n-----Original Message-----\nWe delete your data"
    assert new_text(text) == "Thank you."
    assert guess("Re: hello", text).right is None


def test_other_rights_are_named_beside_the_guess():
    """A person sees what else it may be."""
    found = guess("Erasure", "Please delete my data and remove my account, and unsubscribe me")
    assert (found.right, found.others) == (Right.ERASURE, (Right.UNSUBSCRIBE,))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("From: a@example.org", None),
        ("From: a@example.org\nAuto-Submitted: no", None),
        ("From: a@example.org\nPrecedence: first-class", None),
        ("From: no-reply@example.org " + "(" * 5000, None),
        ("From: a@example.org\nContent-Type: multipart/mixed; boundary=x; name*0*=utf-8''a; name*=b", None),
        ("From: a@example.org\nAuto-Submitted: auto-replied; owner-email=x", "auto_reply"),
        ("From: a@example.org\nAuto-Submitted: Auto-Generated", "auto_reply"),
        ("Return-Path: <>\nFrom: a@example.org", "bounce"),
        ("From: a@example.org\nContent-Type: multipart/report; report-type=delivery-status; boundary=x", "bounce"),
        ("From: a@example.org\nList-Id: <news.example.org>", "mailing_list"),
        ("From: a@example.org\nList-Unsubscribe: <https://example.org/u>", "mailing_list"),
        ("From: a@example.org\nPrecedence: Bulk", "mailing_list"),
        ("From: MAILER-DAEMON@example.org", "nobody_reads_there"),
        ("From: Shop <no-reply@example.org>", "nobody_reads_there"),
    ],
)
def test_what_machines_write_is_recognised(header, why):
    """By RFC 3834, empty return paths, reports and lists; a person's message is not."""
    assert automatic(parsed(f"{header}\n\nHello".encode())) == why


@pytest.mark.parametrize(
    ("header", "sender"),
    [
        ("From: Somebody <Some.Body@example.org>", "Some.Body@example.org"),
        ("From: a@example.org, b@example.org", None),
        ("To: a@example.org", None),
        ("From: nobody at all", None),
        ("From: a@example.org\nFrom: b@example.org", None),
        ("From: a@example.org " + "(" * 5000, None),
    ],
)
def test_one_sender_or_none(header, sender):
    """Two addresses are for a person to choose from."""
    assert sender_of(parsed(f"{header}\n\nHello".encode())) == sender


def deep(parts):
    """Return a message that is nested without end."""
    boundaries = (f"Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n" for n in range(parts))
    return f"From: a@example.org\r\nAuto-Submitted: auto-replied\r\n{''.join(boundaries)}\r\nHello\r\n".encode()


@pytest.mark.parametrize(
    ("raw", "subject", "text"),
    [
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\nHello", "Grüße", "Hello"),
        (b"Subject: =?utf-8?b?A?=\n\nHello", "=?utf-8?b?A?=", "Hello"),
        (b"Subject: =?nonsense?q?x?=\n\nHello", "=?nonsense?q?x?=", "Hello"),
        (b"Content-Type: text/plain; charset=nonsense\n\nGr\xc3\xbc\xc3\x9fe", "", "Grüße"),
        (b"Content-Type: text/plain; charset=a\x00b\n\nHello", "", "Hello"),
        (b"Content-Type: text/plain; charset*=a\x00b''utf-8\n\nHello", "", "Hello"),
        (b"Content-Type: text/plain; charset=latin-1; name*0*=utf-8''a; name*=b\nSubject: Hi\n\nGr\xfc\xdfe", "Hi", "Grüße"),
        (b"Content-Type: text/plain; name*" + b"9" * 5000 + b"=b\n\nHello", "", "Hello"),
        (b"Content-Type: multipart/mixed; boundary=x; name*0*=utf-8''a; name*=b\n\n--x\n\nHello\n--x--\n", "", "Hello"),
        (b"Content-Type: multipart/mixed; boundary*=a\x00b''x\nSubject: Hi\n\n--x\n\nHello\n--x--\n", "Hi", ""),
        (b"Content-Type: text/html\n\n<p>Hello</p>", "", "<p>Hello</p>"),
        (b"Content-Type: image/png\n\nHello", "", ""),
        (b"", "", ""),
    ],
)
def test_a_malformed_message_is_read_as_far_as_it_goes(raw, subject, text):
    """Nobody has to write well, and nothing malformed raises."""
    message = parsed(raw)
    assert (subject_of(message), text_of(message)) == (subject, text)


def test_a_message_nested_without_end_is_read_by_its_header():
    """A message that is sent to do harm does not keep the others from being listed."""
    message = parsed(deep(5000))
    assert automatic(message) == "auto_reply"
    assert guess(subject_of(message), text_of(message)).right is None


def test_a_text_that_is_written_to_cost_time_costs_none():
    """Words without end are looked at for a bounded length."""
    begun = time.process_time()
    guess("", "delet" * 50_000)
    assert time.process_time() - begun < 2
