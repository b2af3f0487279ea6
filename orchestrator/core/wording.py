"""The confirmation in plain words, English and Dutch, made only from codes, dates and registry titles.

Short sentences, no dark words: whoever asked must understand what happened, what did not, and what can be done about it.

Room rules: one table per language; no outcome is hidden, none is made to look better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from zoneinfo import ZoneInfo

from orchestrator.core.deadlines import local_date, seat
from orchestrator.core.state import RequestState
from schemas.confirmations import ChangeAfterAcceptance, DueDates, SystemResult
from schemas.outcomes import Fulfilled, NotApplicable, Notified, Retained, Waived
from schemas.registry import Controller
from schemas.vocabulary import Language, NotApplicableReason, RefusalGround, RequestResult, Right, Role

__all__ = ["WORDS", "plain_text", "recipients_told"]

#: language -> key -> sentence or phrase. Every enum member that can occur has a key in every language.
WORDS: Mapping[Language, Mapping[str, str]] = {
    Language.EN: {
        "opening": "You asked us on {received} {right}. This is our answer of {closed}.",
        Right.ACCESS: "for a copy of the data we hold about you",
        Right.RECTIFICATION: "to correct data about you",
        Right.COMPLETION: "to complete data about you",
        Right.ERASURE: "to delete the data we hold about you",
        Right.RESTRICTION: "to stop using your data while it is kept",
        Right.PORTABILITY: "for your data in a form that you can take elsewhere",
        Right.OBJECTION: "to stop using your data for marketing",
        Right.UNSUBSCRIBE: "to take you off our newsletter",
        f"result.{RequestResult.FULFILLED}": "We have done what you asked.",
        f"result.{RequestResult.FULFILLED_WITH_EXCEPTIONS}": "We have done what you asked, with the exceptions below.",
        "pending": "Not all of it has taken effect yet: see the dates below.",
        f"result.{RequestResult.NOT_FULFILLED}": "We could not do what you asked. The reasons are below.",
        f"result.{RequestResult.REFUSED}": "We do not act on your request, because {ground}.",
        f"result.{RequestResult.WITHDRAWN}": "You took your request back, so we stopped.",
        f"result.{RequestResult.IDENTITY_NOT_CONFIRMED}": "We could not make sure that it was you who asked, so we did nothing.",
        RefusalGround.MANIFESTLY_UNFOUNDED: "it is manifestly unfounded (GDPR Art. 12(5))",
        RefusalGround.EXCESSIVE: "it is excessive (GDPR Art. 12(5))",
        RefusalGround.NOT_IDENTIFIABLE: "we cannot tell which data is yours (GDPR Art. 11(2) and 12(2))",
        RefusalGround.RIGHTS_OF_OTHERS: "it would harm the rights of others (GDPR Art. 15(4))",
        RefusalGround.PORTABILITY_CONDITIONS: "the conditions of GDPR Art. 20 are not met",
        RefusalGround.NO_GROUND_FOR_ERASURE: "none of the grounds of GDPR Art. 17(1) applies",
        RefusalGround.NATIONAL_LAW: "a law restricts this right (GDPR Art. 23)",
        "fulfilled": "{system}: done ({count} records).",
        "fulfilled_by": "{system}: ordered and no longer ours to stop ({count} records); gone by {effective}.",
        "nothing_held": "{system}: holds nothing about you.",
        "retained": "{system}: {count} records are kept until {until}, because of {ground}; {fulfilled} were deleted.",
        "retained_open": "{system}: {count} records are kept, because of {ground}; {fulfilled} were deleted.",
        "notified": "{system}: was told. We do not know whether it has acted.",
        "waived": "{system}: was not asked or did not answer. {by} decided this: {why}.",
        "waived_failed": "{system}: could not do it. {by} decided to close without it: {why}.",
        NotApplicableReason.RIGHT_NOT_OFFERED: "{system}: nothing can be done there for this kind of request.",
        NotApplicableReason.IDENTIFIER_MISSING: "{system}: we know nothing by which it could find you.",
        NotApplicableReason.SUPERSEDED: "{system}: overtaken by your request for deletion.",
        NotApplicableReason.WITHDRAWN: "{system}: not asked, because you took your request back.",
        NotApplicableReason.REFUSED: "{system}: not asked.",
        "duplicate": "You had asked the same before. The work was done under request {other}.",
        "overtaken_by": "Your later request {other} overtook this one.",
        "extended": "We needed more time than usual. The legal period was extended, and now ends on {due}.",
        "extended.hours": "We needed more time than usual. The legal period was extended.",
        "held": "On {at} your request was put on hold. {by} decided this: {why}.",
        "resumed": "On {at} we went on with it.",
        "added": "{system}: added to your request on {at}. {by} decided this: {why}.",
        "withdrawal_too_late": "On {at} you wanted to take it back. Something had been done by then that cannot be undone.",
        "recipients": "We told these recipients of your data: {names}.",
        "late": "The legal period ended on {due}; we are late, and are sorry for it.",
        "complain": "If you disagree you can complain to the supervisory authority or go to court (GDPR Art. 77 and 79).",
    },
    Language.NL: {
        "opening": "U vroeg ons op {received} {right}. Dit is ons antwoord van {closed}.",
        Right.ACCESS: "om een kopie van de gegevens die wij over u hebben",
        Right.RECTIFICATION: "om gegevens over u te verbeteren",
        Right.COMPLETION: "om gegevens over u aan te vullen",
        Right.ERASURE: "om de gegevens te wissen die wij over u hebben",
        Right.RESTRICTION: "om uw gegevens te bewaren maar niet te gebruiken",
        Right.PORTABILITY: "om uw gegevens in een vorm die u kunt meenemen",
        Right.OBJECTION: "om uw gegevens niet meer voor reclame te gebruiken",
        Right.UNSUBSCRIBE: "om u af te melden voor onze nieuwsbrief",
        f"result.{RequestResult.FULFILLED}": "Wij hebben gedaan wat u vroeg.",
        f"result.{RequestResult.FULFILLED_WITH_EXCEPTIONS}": "Wij hebben gedaan wat u vroeg, met de uitzonderingen hieronder.",
        "pending": "Nog niet alles is al van kracht: zie de data hieronder.",
        f"result.{RequestResult.NOT_FULFILLED}": "Wij konden niet doen wat u vroeg. De redenen staan hieronder.",
        f"result.{RequestResult.REFUSED}": "Wij geven geen gevolg aan uw verzoek, omdat {ground}.",
        f"result.{RequestResult.WITHDRAWN}": "U trok uw verzoek in, dus zijn wij gestopt.",
        f"result.{RequestResult.IDENTITY_NOT_CONFIRMED}": "Wij konden niet vaststellen dat u het was die vroeg; wij deden niets.",
        RefusalGround.MANIFESTLY_UNFOUNDED: "het kennelijk ongegrond is (AVG art. 12 lid 5)",
        RefusalGround.EXCESSIVE: "het buitensporig is (AVG art. 12 lid 5)",
        RefusalGround.NOT_IDENTIFIABLE: "wij niet kunnen zien welke gegevens van u zijn (AVG art. 11 lid 2 en 12 lid 2)",
        RefusalGround.RIGHTS_OF_OTHERS: "het de rechten van anderen zou schaden (AVG art. 15 lid 4)",
        RefusalGround.PORTABILITY_CONDITIONS: "niet aan de voorwaarden van AVG art. 20 is voldaan",
        RefusalGround.NO_GROUND_FOR_ERASURE: "geen van de gronden van AVG art. 17 lid 1 van toepassing is",
        RefusalGround.NATIONAL_LAW: "een wet dit recht beperkt (AVG art. 23)",
        "fulfilled": "{system}: gedaan ({count} records).",
        "fulfilled_by": "{system}: opgedragen en niet meer te stoppen ({count} records); verwijderd uiterlijk {effective}.",
        "nothing_held": "{system}: heeft niets over u.",
        "retained": "{system}: {count} records blijven bewaard tot {until}, vanwege {ground}; {fulfilled} zijn gewist.",
        "retained_open": "{system}: {count} records blijven bewaard, vanwege {ground}; {fulfilled} zijn gewist.",
        "notified": "{system}: is ingelicht. Wij weten niet of het heeft gehandeld.",
        "waived": "{system}: is niet gevraagd of gaf geen antwoord. {by} besloot dit: {why}.",
        "waived_failed": "{system}: kon het niet doen. {by} besloot zonder dit systeem af te sluiten: {why}.",
        NotApplicableReason.RIGHT_NOT_OFFERED: "{system}: daar kan voor dit soort verzoek niets worden gedaan.",
        NotApplicableReason.IDENTIFIER_MISSING: "{system}: wij kennen niets waarmee het u kan vinden.",
        NotApplicableReason.SUPERSEDED: "{system}: ingehaald door uw verzoek om te wissen.",
        NotApplicableReason.WITHDRAWN: "{system}: niet gevraagd, omdat u uw verzoek introk.",
        NotApplicableReason.REFUSED: "{system}: niet gevraagd.",
        "duplicate": "U had hetzelfde eerder gevraagd. Het werk is gedaan onder verzoek {other}.",
        "overtaken_by": "Uw latere verzoek {other} haalde dit in.",
        "extended": "Wij hadden meer tijd nodig dan gewoonlijk. De wettelijke termijn is verlengd en eindigt nu op {due}.",
        "extended.hours": "Wij hadden meer tijd nodig dan gewoonlijk. De wettelijke termijn is verlengd.",
        "held": "Op {at} is uw verzoek aangehouden. {by} besloot dit: {why}.",
        "resumed": "Op {at} zijn wij ermee verdergegaan.",
        "added": "{system}: op {at} aan uw verzoek toegevoegd. {by} besloot dit: {why}.",
        "withdrawal_too_late": "Op {at} wilde u het intrekken. Er was toen iets gedaan dat niet ongedaan kan worden gemaakt.",
        "recipients": "Wij hebben deze ontvangers van uw gegevens ingelicht: {names}.",
        "late": "De wettelijke termijn eindigde op {due}; wij zijn te laat, en dat spijt ons.",
        "complain": "Bent u het er niet mee eens, dan kunt u een klacht indienen bij de toezichthouder of naar de rechter (AVG art. 77 en 79).",
    },
}

_MONTHS = {
    Language.EN: [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ],
    Language.NL: [
        "januari",
        "februari",
        "maart",
        "april",
        "mei",
        "juni",
        "juli",
        "augustus",
        "september",
        "oktober",
        "november",
        "december",
    ],
}
_GROUNDS = {
    Language.EN: {"art17_3_a": "freedom of expression (GDPR Art. 17(3)(a))", "art17_3_b": "a legal duty (GDPR Art. 17(3)(b))",
                  "art17_3_c": "public health (GDPR Art. 17(3)(c))", "art17_3_d": "archiving or research (GDPR Art. 17(3)(d))",
                  "art17_3_e": "legal claims (GDPR Art. 17(3)(e))", "national_law": "a national law"},
    Language.NL: {"art17_3_a": "vrijheid van meningsuiting (AVG art. 17 lid 3 a)", "art17_3_b": "een wettelijke plicht (AVG art. 17 lid 3 b)",
                  "art17_3_c": "volksgezondheid (AVG art. 17 lid 3 c)", "art17_3_d": "archief of onderzoek (AVG art. 17 lid 3 d)",
                  "art17_3_e": "rechtsvorderingen (AVG art. 17 lid 3 e)", "national_law": "een nationale wet"},
}  # fmt: skip


#: Changes that the person is not told of as such: who approved, and what was tried again, is ours; how a system ended, and what
#: overtook the request, is told where it belongs.
_NOT_SAID = {"approved", "retried", "waived", "superseded"}


def plain_text(language: Language, state: RequestState, results: tuple[SystemResult, ...], controller: Controller) -> str:
    """Return the answer in one language: one paragraph of result, one line per system, whose answer it is.

    Days are those of the controller's seat, as the legal dates are.
    """
    words, zone = WORDS[language], seat(controller.zone)
    assert state.result is not None and state.closed_at is not None and state.due is not None, "only closed requests"
    lines = [
        words["opening"].format(
            received=_day(language, local_date(state.submitted_at, zone)),
            right=words[state.right],
            closed=_day(language, local_date(state.closed_at, zone)),
        ),
        words[f"result.{state.result}"].format(ground=words[state.refusal_ground] if state.refusal_ground else ""),
    ]
    if any(_takes_effect_after(result, local_date(state.closed_at, zone)) for result in results):
        lines.append(words["pending"])
    if state.executed_request:
        superseded = any(change.kind == "superseded" for change in state.changes)
        lines.append(words["overtaken_by" if superseded else "duplicate"].format(other=state.executed_request))
    titles = {result.system: result.title for result in results}
    changed = dict.fromkeys(_changed(language, change, state.due, titles, zone) for change in state.changes)
    lines += [line for line in changed if line]
    lines += [f"- {_line(language, result)}" for result in results]
    told = recipients_told(results)
    if told:
        lines.append(words["recipients"].format(names=", ".join(told)))
    if state.closed_at > state.due.due_at:
        lines.append(
            words["late"].format(due=_day(language, state.due.applicable_due_on or local_date(state.due.due_at, zone)))
        )
    if state.result is not RequestResult.FULFILLED:
        lines.append(words["complain"])
    return "\n".join([*lines, controller.title])


def _changed(
    language: Language, change: ChangeAfterAcceptance, due: DueDates, titles: Mapping[str, str], zone: ZoneInfo
) -> str:
    """Return what is said of a change; nothing of one that is ours alone, or that a system's line tells."""
    if change.kind in _NOT_SAID:
        return ""
    kind, day = str(change.kind), due.applicable_due_on
    return WORDS[language][f"{kind}.hours" if kind == "extended" and day is None else kind].format(
        at=_day(language, local_date(change.at, zone)),
        by=change.actor,
        why=change.reason,
        system=titles.get(change.system or "", change.system),
        due=_day(language, day) if day else "",
    )


def _takes_effect_after(result: SystemResult, day: date) -> bool:
    by = result.outcome.effective_by if isinstance(result.outcome, Fulfilled) else None
    return by is not None and by > day


def recipients_told(results: tuple[SystemResult, ...]) -> tuple[str, ...]:
    """Return who was told of the request, for GDPR Art. 19."""
    told = {
        name
        for result in results
        if isinstance(result.outcome, Notified)
        for name in result.outcome.recipients or ((result.title,) if result.role is Role.RECIPIENT else ())
    }
    return tuple(sorted(told))


def _day(language: Language, day: date) -> str:
    return f"{day.day} {_MONTHS[language][day.month - 1]} {day.year}"


def _line(language: Language, result: SystemResult) -> str:
    words, outcome, system = WORDS[language], result.outcome, result.title
    match outcome:
        case Fulfilled(effective_by=None):
            return words["fulfilled"].format(system=system, count=outcome.count)
        case Fulfilled():
            assert outcome.effective_by is not None, "the case above took the others"
            return words["fulfilled_by"].format(
                system=system, count=outcome.count, effective=_day(language, outcome.effective_by)
            )
        case Retained():
            ground = outcome.detail or _GROUNDS[language][outcome.ground]
            key = "retained" if outcome.until else "retained_open"
            until = _day(language, outcome.until) if outcome.until else ""
            return words[key].format(
                system=system, count=outcome.count, until=until, ground=ground, fulfilled=outcome.fulfilled
            )
        case Waived():
            return words["waived_failed" if outcome.failed else "waived"].format(system=system, by=outcome.by, why=outcome.why)
        case NotApplicable():
            return words[outcome.reason].format(system=system)
        case Notified():
            return words["notified"].format(system=system)
        case _:
            return words["nothing_held"].format(system=system)
