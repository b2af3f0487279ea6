"""What one sees: live progress, the table at the end, and the last line.

Room rules: words and columns only. Aliases are shown, no address and no other value of a person.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.status import Status
from rich.table import Table
from rich.text import Text

from orchestrator.demo.audience import Score
from orchestrator.demo.cast import Role
from orchestrator.demo.proof import Proof
from orchestrator.demo.story import Scene, Story
from schemas.confirmations import Confirmation
from schemas.status import StatusEvent
from schemas.vocabulary import OutcomeCode, RequestResult, StatusCode

__all__ = ["Screen", "last_line"]

#: One sign per outcome, in the table's cells; the second for terminals without Unicode.
_SIGNS = {
    OutcomeCode.FULFILLED: ("✓", "+", "green", "fulfilled"),
    OutcomeCode.NOTHING_HELD: ("·", ".", "dim", "nothing held"),
    OutcomeCode.NOT_APPLICABLE: ("-", "-", "dim", "not applicable"),
    OutcomeCode.RETAINED: ("R", "R", "yellow", "retained by law"),
    OutcomeCode.NOTIFIED: ("N", "N", "cyan", "recipient notified"),
    OutcomeCode.WAIVED: ("W", "W", "magenta", "waived by an operator"),
}
_RESULTS = {
    RequestResult.FULFILLED: "fulfilled",
    RequestResult.FULFILLED_WITH_EXCEPTIONS: "exceptions",
    RequestResult.NOT_FULFILLED: "not fulfilled",
    RequestResult.IDENTITY_NOT_CONFIRMED: "unconfirmed",
}


def last_line(score: Score) -> str:
    """Return the line that everything else explains."""
    counts = (len(score.quarantined), len(score.lost), len(score.doubled))
    return "demo: {} confirmed, {} quarantined, {} lost, {} doubled".format(score.confirmed, *counts)


@dataclass(slots=True)
class Screen:
    """Says what happens: a live table in a terminal, plain lines elsewhere."""

    console: Console
    started: float = field(default_factory=time.monotonic)
    _live: Live | None = None
    _status: Status | None = None
    _story: Story | None = None
    _now: dict[str, str] = field(default_factory=dict)
    _step: str = ""

    def say(self, line: str) -> None:
        """Tell what is being done."""
        self._step = line
        if self._live is not None:
            self._live.update(self._picture())
            return
        self.console.print(Text(f"{self._clock()} {line}"), soft_wrap=not self.console.is_terminal)
        if self.console.is_terminal:
            self._status = self._status or self.console.status("")
            self._status.start()
            self._status.update(Text(line, style="dim"))

    def follow(self, story: Story) -> None:
        """Show each request from now on."""
        self._story = story
        if self.console.is_terminal:
            self.rest()
            self._live = Live(console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
            self._live.update(self._picture())

    def hears(self, told: StatusEvent | Confirmation) -> None:
        """Show one answer."""
        assert self._story is not None
        scene = self._story.scenes.get(told.subject_request_id)
        if scene is None:
            return
        words = _words(told)
        if isinstance(told, Confirmation) or not self._now.get(told.subject_request_id, "").startswith("confirmed"):
            self._now[told.subject_request_id] = words
        self.say(f"{told.subject_request_id[:8]} {scene.alias}, {scene.right.value}: {words}")

    def rest(self) -> None:
        """Take the moving parts away."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def table(self, story: Story, score: Score, roles: Mapping[str, Role]) -> None:
        """Print every request with each system's outcome."""
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
        for name in ("request", "person", "right"):
            table.add_column(name, no_wrap=True)
        for role in roles.values():
            table.add_column(role.code, justify="center", no_wrap=True)
        table.add_column("result", no_wrap=True)
        table.add_column("s", justify="right", no_wrap=True)
        for request, scene in story.scenes.items():
            table.add_row(request[:8], scene.alias, scene.right.value, *self._row(request, scene, score, roles))
        self.console.print(table)
        self._legend(roles)
        for scene in story.scenes.values():
            if scene.told:
                self.console.print(Text(f"  {scene.alias}, {scene.right.value}: {scene.told}", style="dim"))

    def proof(self, proof: Proof, systems: int, revived: Sequence[str]) -> None:
        """Print what was looked at afterwards, and which processes died on the way."""
        if revived:
            self.console.print(Text(f"died on the way and started again: {', '.join(revived)}", style="bold"))
        counts = ", ".join(f"{count} {word}" for word, count in sorted(proof.checked.items()))
        verdict = "as it must be, byte for byte" if not proof.deviations else f"{len(proof.deviations)} deviations"
        self.console.print(
            Text(f"asked {systems} systems what they hold now, each about each person: {counts}; {verdict}", style="bold"),
            soft_wrap=not self.console.is_terminal,
        )

    def wrong(self, sentences: Iterable[str]) -> None:
        """Print what is wrong."""
        for sentence in sentences:
            self.console.print(Text(f"wrong: {sentence}", style="bold red"), soft_wrap=True)

    def _row(self, request: str, scene: Scene, score: Score, roles: Mapping[str, Role]) -> Sequence[RenderableType]:
        told, took = score.confirmation(request), score.took(request)
        if told is None or took is None:
            return [*([""] * len(roles)), Text("LOST", style="bold red"), ""]
        outcomes = {one.system: one.outcome.code for one in told.systems}
        cells = [self._sign(outcomes.get(system)) for system in roles]
        result = _RESULTS.get(told.result, told.result.value)
        if told.executed_request:
            result = f"see {told.executed_request[:8]}"
        del scene
        return [*cells, result, f"{took:.1f}"]

    def _sign(self, code: OutcomeCode | None) -> Text:
        if code is None or code not in _SIGNS:
            return Text("")
        return Text(self._letter(code), style=_SIGNS[code][2])

    def _letter(self, code: OutcomeCode) -> str:
        """Return the sign, or the plain one where the output cannot show it."""
        sign, plain = _SIGNS[code][:2]
        try:
            sign.encode(self.console.encoding)
        except UnicodeEncodeError:
            return plain
        return sign

    def _legend(self, roles: Mapping[str, Role]) -> None:
        signs = [f"{self._letter(code)} {sign[3]}" for code, sign in _SIGNS.items()]
        for items in (signs, [f"{role.code} {system}" for system, role in roles.items()]):
            for line in _lines(items, self.console.width):
                self.console.print(Text(line, style="dim"))

    def _clock(self) -> str:
        return f"{time.monotonic() - self.started:5.1f} s "

    def _picture(self) -> RenderableType:
        assert self._story is not None
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
        for name in ("request", "person", "right", "now"):
            table.add_column(name, no_wrap=True)
        for request, scene in self._story.scenes.items():
            now = self._now.get(request, "published")
            style = "green" if now.startswith("confirmed") else "yellow" if now.startswith(("escalated", "waits")) else ""
            table.add_row(request[:8], scene.alias, scene.right.value, Text(now, style=style))
        done = sum(now.startswith("confirmed") for now in self._now.values())
        return Group(
            table, Spinner("dots", Text(f"{self._clock()} {done} of {len(self._story.scenes)} confirmed; {self._step}"))
        )


def _lines(items: Iterable[str], width: int) -> Iterator[str]:
    """Yield lines of whole items: a sign and its meaning stay together."""
    line = ""
    for item in items:
        if line and len(line) + 3 + len(item) > width:
            yield line
            line = ""
        line = f"{line}   {item}" if line else item
    yield line


def _words(told: StatusEvent | Confirmation) -> str:
    if isinstance(told, Confirmation):
        return f"confirmed, {told.result.value.replace('_', ' ')}"
    reason = told.escalation.value.replace("_", " ") if told.escalation else ""
    words = {
        StatusCode.ACKNOWLEDGED: f"acknowledged, {told.planned} systems to answer, due {told.due_on}",
        StatusCode.IDENTITY_AWAITED: "waits until the portal has confirmed who asks",
        StatusCode.ESCALATED: f"escalated: {reason}" + (f" at {told.system}" if told.system else ""),
        StatusCode.EXTENDED: f"extended until {told.due_on}",
        StatusCode.DUPLICATE_OF: f"the same wish as {(told.related_request or '')[:8]}",
    }
    return words.get(told.code, told.code.value.replace("_", " "))
