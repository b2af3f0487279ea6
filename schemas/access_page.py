"""The page of an access package: what each system holds about a person, in tables that people can read, without a server.

Everything that comes from outside is escaped, attributes included; the page has no script, loads nothing and forbids both to
itself (Content-Security-Policy), so that a record that somebody else wrote cannot act in the reader's browser.

Room rules: pure; equal input gives equal text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from schemas.confirmations import Confirmation
from schemas.vocabulary import Language

__all__ = ["Page", "Shown", "page_of"]

#: Deeper than this a value is shown as JSON: tables in tables help nobody any more.
_DEEPEST = 6

_WORDS: Mapping[Language, Mapping[str, str]] = {
    Language.EN: {
        "title": "Your personal data",
        "intro": "This is the answer to your request. Below stand the data that each system holds about you.",
        "request": "Request",
        "received": "Received on",
        "closed": "Answered on",
        "answer": "The answer in short",
        "data": "Your data",
        "contents": "Contents",
        "none": "No system gave data.",
        "empty": "empty",
        "yes": "yes",
        "no": "no",
        "raw": "The same as a file for computers",
        "files": "The other files",
        "files_text": "manifest.json lists every file with its SHA-256 digest; confirmation.json is the confirmation itself.",
    },
    Language.NL: {
        "title": "Uw persoonsgegevens",
        "intro": "Dit is het antwoord op uw verzoek. Hieronder staan de gegevens die elk systeem over u heeft.",
        "request": "Verzoek",
        "received": "Ontvangen op",
        "closed": "Beantwoord op",
        "answer": "Het antwoord in het kort",
        "data": "Uw gegevens",
        "contents": "Inhoud",
        "none": "Geen enkel systeem gaf gegevens.",
        "empty": "leeg",
        "yes": "ja",
        "no": "nee",
        "raw": "Hetzelfde als bestand voor computers",
        "files": "De andere bestanden",
        "files_text": "manifest.json noemt elk bestand met zijn SHA-256; confirmation.json is de bevestiging zelf.",
    },
}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem }
body { margin: 2rem auto; padding: 0 1rem }
h1, h2, h3, h4 { line-height: 1.25 } h2 { margin-top: 2.5rem; border-bottom: 2px solid #ddd } h3 { margin-top: 2rem }
table { border-collapse: collapse; margin: .5rem 0; width: 100% } td table { margin: 0 }
th, td { border: 1px solid #ccc; padding: .35rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th { background: #f3f3f3; font-weight: 600 } th[scope=row] { width: 14rem } .wide { overflow-x: auto }
.quiet { color: #595959 } pre { white-space: pre-wrap; margin: 0 } @media print { body { margin: 0 } a { color: inherit } }
"""


class Shown(NamedTuple):
    """One document: which system it is from, its name, its file in the package, its content."""

    system: str
    title: str
    name: str
    path: str
    content: Any


class Page(NamedTuple):
    """What a page is made from."""

    confirmation: Confirmation
    documents: Sequence[Shown]
    language: Language


def page_of(page: Page) -> str:
    """Return the whole page as HTML."""
    words, told = _WORDS[page.language], page.confirmation
    text = told.text.get(page.language) or next(iter(told.text.values()), "")
    facts = {
        words["request"]: told.subject_request_id,
        words["received"]: told.received_at.date().isoformat(),
        words["closed"]: told.closed_at.date().isoformat(),
    }
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items())
    lines = "".join(f"<p>{escape(line)}</p>\n" for line in text.splitlines() if line.strip())
    return f"""<!DOCTYPE html>
<html lang="{page.language.value}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{words["title"]}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{words["title"]}</h1>
<p>{words["intro"]}</p>
<table>{rows}</table>
<h2>{words["answer"]}</h2>
{lines}{_contents(page, words)}<h2>{words["data"]}</h2>
{_sections(page, words)}<h2>{words["files"]}</h2>
<p>{words["files_text"]}</p>
</body>
</html>
"""  # noqa: E501 - a policy is one line


def _contents(page: Page, words: Mapping[str, str]) -> str:
    titles = dict.fromkeys((shown.system, shown.title) for shown in page.documents)
    if len(titles) < 2:
        return ""
    items = "".join(f'<li><a href="#{escape(system)}">{escape(title)}</a></li>' for system, title in titles)
    return f"<h2>{words['contents']}</h2>\n<ul>{items}</ul>\n"


def _sections(page: Page, words: Mapping[str, str]) -> str:
    if not page.documents:
        return f"<p>{words['none']}</p>\n"
    parts, last = [], None
    for shown in page.documents:
        if shown.system != last:
            parts.append(f'<h3 id="{escape(shown.system)}">{escape(shown.title)}</h3>\n')
            last = shown.system
        link = f'<a href="{escape(quote(shown.path))}">{words["raw"]}</a>'
        parts.append(f"<h4>{escape(_label(shown.name))}</h4>\n{_value(shown.content, words, 0)}\n")
        parts.append(f'<p class="quiet">{link}</p>\n')
    return "".join(parts)


def _label(name: str) -> str:
    return name.replace("_", " ").strip() or name


def _value(value: Any, words: Mapping[str, str], depth: int) -> str:
    """Return any JSON value as HTML."""
    if value is None or value in ("", [], {}):
        return f'<span class="quiet">{words["empty"]}</span>'
    if isinstance(value, bool):
        return words["yes"] if value else words["no"]
    if not isinstance(value, dict | list):
        return escape(str(value))
    if depth >= _DEEPEST:
        return f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=1))}</pre>"
    if isinstance(value, dict):
        rows = (
            f'<tr><th scope="row">{escape(_label(str(name)))}</th><td>{_value(inner, words, depth + 1)}</td></tr>'
            for name, inner in value.items()
        )
        return f"<table>{''.join(rows)}</table>"
    return _list(value, words, depth)


def _list(values: list[Any], words: Mapping[str, str], depth: int) -> str:
    """Return a list of records as one table with a column per field, and any other list as one column."""
    columns = list(dict.fromkeys(name for item in values if isinstance(item, dict) for name in item))
    if not all(isinstance(item, dict) for item in values) or not 0 < len(columns) <= 8:
        rows = "".join(f"<tr><td>{_value(item, words, depth + 1)}</td></tr>" for item in values)
        return f"<table>{rows}</table>"
    head = "".join(f'<th scope="col">{escape(_label(str(name)))}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_value(item.get(name), words, depth + 1)}</td>" for name in columns) + "</tr>"
        for item in values
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
