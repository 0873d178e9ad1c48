"""
``harvest demo``: the main job from beginning to end, on the made-up company, through the real command line.

The company's Prometheus is served on loopback and its PostgreSQL writes a log file. The clock of every command is set
to the time the story is at, so that a baseline is frozen before its change and compared two weeks after it. At the end
stands what harvester said beside what really happened, which only the company knows.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import os
import shlex
import signal
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from harvester import figures
from harvester.errors import UsageError
from harvester.readings import MINUTE, to_datetime, to_milliseconds

if TYPE_CHECKING:
    from harvester.demo.company import Truth
    from harvester.differ.result import Comparison

SEED = 4
"""Chooses the company's noise."""

OK, FAILED, FINDINGS, INCONCLUSIVE, INTERRUPTED = 0, 1, 3, 4, 130
_ANSWERED = (OK, FINDINGS, INCONCLUSIVE)

SETTINGS = """\
# Acme Shop, made up, served on loopback while `harvest demo` runs.

[store]
url = "sqlite:///{folder}/harvester.db"

[subjects.checkout]
prometheus = {{ service = "checkout" }}
database = "shop"

[subjects.search]
prometheus = {{ service = "search" }}

[subjects.catalog]
prometheus = {{ service = "catalog" }}

[sources.prom]
connector = "prometheus"
url = "{url}"
packs = ["http"]
reach = "10w"

# The shop is scraped once a minute, and an increase needs two scrapes: its counters are read in steps of five minutes.
[[sources.prom.metrics]]
name = "latency"
shape = "distribution"
unit = "seconds"
better = "lower"
family = "latency"
buckets = 'http_request_duration_seconds_bucket{{$selector}}'
statistics = ["p95", "p50", "p99", "mean", "count"]
step_seconds = 300

[[sources.prom.metrics]]
name = "error_ratio"
shape = "ratio"
better = "lower"
family = "errors"
numerator = 'http_requests_total{{$selector,code=~"5.."}}'
denominator = 'http_requests_total{{$selector}}'
step_seconds = 300

[[sources.prom.metrics]]
name = "request_rate"
shape = "level"
unit = "requests/second"
family = "traffic"
query = 'sum(rate(http_requests_total{{$selector}}[5m]))'
step_seconds = 300

[sources.shop_log]
connector = "postgres_slowlog"
paths = ["{folder}/postgresql.log"]
database = "shop"
reach = "10w"
"""

OWN = """\
[subjects.checkout]
prometheus = { service = "checkout" }

[sources.prom]
connector = "prometheus"
url = "http://localhost:9090"
packs = ["http"]
"""
"""Settings for a reader's own Prometheus, as the end of the tour shows them."""


class Harvest(Protocol):
    """The command line: ``harvester.cli.main``."""

    def __call__(self, argv: Sequence[str], *, out: TextIO, err: TextIO, now: Callable[[], datetime]) -> int:
        """Run one command and return its exit status."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the tour does about one of the company's changes, besides what ``Company.truth`` knows."""

    name: str
    story: str
    title: str
    expect: str
    link: str


CHANGES = (
    Change(
        "checkout-index",
        "An index is to make the checkout faster. Its state before is frozen, with what is hoped for.",
        "Added an index on open orders",
        "checkout latency p95 lower",
        "https://github.com/acme/shop/pull/482",
    ),
    Change(
        "search-cache",
        "Six days later somebody gives search a cache. In the night after, its scrapes begin to fail.",
        "Gave search a cache",
        "search latency p95 lower",
        "https://github.com/acme/shop/pull/491",
    ),
    Change(
        "catalog-retries",
        "The catalog gets retries, three days after an outage that had nothing to do with them.",
        "Gave the catalog retries",
        "catalog error_ratio lower",
        "https://github.com/acme/shop/pull/495",
    ),
)


class _StoppedError(Exception):
    """A command ended in a way the tour cannot go on from."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def tour(
    out: TextIO, err: TextIO, *, now: Callable[[], datetime], harvest: Harvest, folder: Path | None = None
) -> int:
    """
    Lead through harvester and return the exit status: 0, or 1 where harvester claimed what is not true.

    Args:
        out: Where the tour and the data of its commands go.
        err: Where the commands' talk goes.
        now: The present; the company's history ends with it.
        harvest: The command line.
        folder: Where settings, store, log and digest are kept; a new temporary folder if None.

    Raises:
        UsageError: if the folder holds something already or cannot be made.
    """
    from harvester.demo.prometheus import serve

    place = _place(folder)
    guide = Guide(out, err, to_milliseconds(now()), harvest, place)
    guide.greet()
    with (
        _interruptible(guide),
        _alone(place / "harvester.toml"),
        serve(guide.company, clock=lambda: guide.at) as url,
    ):
        (place / "harvester.toml").write_text(SETTINGS.format(folder=place.as_posix(), url=url), encoding="utf-8")
        try:
            return guide.lead(url)
        except _StoppedError as stopped:
            if stopped.code != INTERRUPTED:
                print(f"harvest: the tour stops: its last command ended with {stopped.code}", file=err)
                return FAILED
            return INTERRUPTED


def _place(folder: Path | None) -> Path:
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="harvester-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as e:
        raise UsageError(
            "keep the demo in", str(folder), e.strerror or "it cannot be made", hint="--keep names another folder"
        ) from e
    if taken:
        raise UsageError("keep the demo in", str(folder), "it is not empty", hint="--keep names a new folder")
    return folder.resolve()


@contextlib.contextmanager
def _interruptible(guide: Guide) -> Iterator[None]:
    """
    Remember an interruption besides raising it.

    One that arrives inside a finaliser is dropped by Python, and one inside a library may come out as something else.
    """
    usual = signal.getsignal(signal.SIGINT)
    if usual in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001  what signal handlers are given
        guide.interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


@contextlib.contextmanager
def _alone(config: Path) -> Iterator[None]:
    """Leave only these settings to the commands, and no proxy between them and loopback."""
    kept = dict(os.environ)
    for name in kept:
        if name.upper().startswith("HARVESTER_") or name.upper().endswith("_PROXY"):
            del os.environ[name]
    os.environ["HARVESTER_CONFIG"] = str(config)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


class Guide:
    """
    Tells the story and calls the commands.

    Attributes:
        at: The time the story is at, milliseconds UTC.
        company: Whose story.
        interrupted: Whether the reader has pressed Ctrl-C.
    """

    def __init__(self, out: TextIO, err: TextIO, present: int, harvest: Harvest, place: Path) -> None:
        from harvester.demo.company import Company

        self.out, self.err = out, err
        self.company = Company(SEED, present)
        self.at = self.company.start
        self.harvest = harvest
        self.place = place
        self.interrupted = False
        self._logged = 0
        self._bold = ("\x1b[1m", "\x1b[0m") if out.isatty() and "NO_COLOR" not in os.environ else ("", "")

    @cached_property
    def _log(self) -> list[tuple[int, str]]:
        from harvester.demo.company import slow_log

        return slow_log(self.company)

    def greet(self) -> None:
        """Say what is about to happen, while the company is being made up."""
        self.say(
            "Acme Shop is made up: three services, a PostgreSQL, twelve weeks of history. Its Prometheus is served on "
            "loopback until the tour ends; nothing else is contacted. The commands below are harvester's own; only "
            "their clock is set to the time of the story."
        )

    def lead(self, url: str) -> int:
        """Lead through the whole tour and return the exit status."""
        self.say(f"Its Prometheus is at {url}. Settings, store and digest are kept in {self.place}")
        self.line(f"$ export HARVESTER_CONFIG={shlex.quote(str(self.place / 'harvester.toml'))}")
        self.line()
        for change in CHANGES:
            self.introduce(change)
        self.compare()
        true = self.reveal()
        self.part()
        return OK if true else FAILED

    def introduce(self, change: Change) -> None:
        """Live through the day on which a change is shipped."""
        shipped = self.company.shipped(change.name)
        self.move(shipped - 30 * MINUTE)
        self.title(figures.moment(self.at))
        if change is CHANGES[0]:
            self.say("The first collection takes what the sources still hold, here ten weeks.")
            self.run("collect")
        self.say(change.story)
        self.run(
            "baseline", change.name, "--expect", change.expect, "--title", change.title, "--link", change.link, "--wait"
        )
        self.move(shipped)
        self.say(f"At {self.now():%H:%M} it is deployed.")
        self.run("shipped", change.name)

    def compare(self) -> None:
        """Ask today what came of the changes."""
        self.move(self.company.now)
        self.title(f"Today, {figures.moment(self.at)}")
        self.say("In daily life `harvest run` has collected all along; here the rest is collected now.")
        self.run("collect")
        self.say("Did the index help? Two weeks before it against two weeks after, drift and weekly cycle considered.")
        self.run("diff", "checkout-index", allowed=_ANSWERED)
        self.say("And the cache? A dashboard would show a line that goes on; harvester looks at what was proven.")
        self.run("diff", "search-cache", "--metric", "latency", allowed=_ANSWERED)
        self.say("And the retries? Errors fell by more than half; see why that is not said.")
        self.run("diff", "catalog-retries", "--metric", "error_ratio", allowed=_ANSWERED)
        self.say("What is worth telling becomes a sentence whose every figure can be traced.")
        self.run("candidates")
        self.say("Once a week the same is composed as a mail. None is configured here, so it is written to files.")
        self.run("digest", "--preview", "--out", str(self.place))

    def reveal(self) -> bool:
        """Put what really happened beside what harvester said; tell whether nothing claimed is false."""
        self.title("What really happened")
        self.say("Nobody told harvester. It is computed from the company's own books:")
        verdicts = []
        said = {one.name: self.comparisons(one.name) for one in CHANGES}
        for truth in self.company.truth:
            for comparison in said[truth.change]:
                if concerns(comparison, truth):
                    text, true = confront(comparison, truth)
                    verdicts.append(true)
                    self.line(text)
                    self.line()
        return all(verdicts)

    def comparisons(self, change: str) -> list[Comparison]:
        """Return what ``diff --json`` says of a change."""
        from harvester.differ.result import Comparison

        printed = io.StringIO()
        code = self.harvest(["diff", change, "--json"], out=printed, err=self.err, now=self.now)
        if code not in _ANSWERED:
            raise _StoppedError(code)
        return [Comparison.from_json(one) for one in json.loads(printed.getvalue())["data"]["comparisons"]]

    def part(self) -> None:
        """Say how to go on."""
        self.title("Your own Prometheus")
        self.say("Put this into harvester.toml (harvest init writes it), with your address and your labels:")
        self.line(textwrap.indent(OWN, "    "))
        self.say("Then, and before the next change:")
        self.line("    harvest check")
        self.line('    harvest baseline my-change --expect "checkout latency p95 lower"')
        self.line()

    # -- the clock ----------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the time the story is at."""
        return to_datetime(self.at)

    def move(self, at: int) -> None:
        """Let time pass: the Prometheus shows what was scraped until then, and the log grows."""
        logged = bisect.bisect_right(self._log, at, key=lambda message: message[0])
        with (self.place / "postgresql.log").open("a", encoding="utf-8") as file:
            file.writelines(text for _, text in self._log[self._logged : logged])
        self._logged = logged
        self.at = at

    # -- talking ------------------------------------------------------------------------------------------------------

    def run(self, *argv: str, allowed: Sequence[int] = (OK,)) -> None:
        """Show a command, and call it."""
        self.line(f"{self._bold[0]}{echo(argv)}{self._bold[1]}")
        code = self.harvest(list(argv), out=self.out, err=self.err, now=self.now)
        self.line()
        if self.interrupted and code != INTERRUPTED:
            raise KeyboardInterrupt
        if code not in allowed:
            raise _StoppedError(code)

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        self.line(f"{self._bold[0]}== {text} {'=' * (76 - len(text))}{self._bold[1]}")
        self.line()

    def say(self, text: str) -> None:
        """Tell a paragraph."""
        self.line(textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False))
        self.line()

    def line(self, text: str = "") -> None:
        """Write a line as it is."""
        print(text, file=self.out, flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Truth beside what was said
# ---------------------------------------------------------------------------------------------------------------------

MEASURED: Mapping[str, tuple[str, str]] = {
    "latency": ("latency", "p95"),
    "error ratio": ("error_ratio", "ratio"),
    "statement duration": ("statement_duration", "p95"),
}
"""What the company's quantities are called where they are compared: metric and statistic."""


def concerns(comparison: Comparison, truth: Truth) -> bool:
    """Tell whether a comparison is about the quantity a truth speaks of."""
    if (comparison.subject, *MEASURED[truth.quantity]) != (truth.subject, comparison.metric, comparison.statistic):
        return False
    return truth.statement in dict(comparison.labels).get("query", "")


def confront(comparison: Comparison, truth: Truth) -> tuple[str, bool]:
    """Return what really happened beside what was said of it, and whether nothing was claimed that is not so."""
    from harvester.differ.result import CLAIMS

    effect = comparison.effect
    really = f"x {truth.factor:.3f}" if truth.claimable else "no change"
    if truth.trap:
        really += f"; {truth.trap}"
    said = str(comparison.verdict)
    true = True
    if comparison.verdict in CLAIMS:
        true = False
        if effect is not None and effect.ratio is not None and effect.low is not None and effect.high is not None:
            true = truth.claimable and effect.low <= truth.factor <= effect.high
            said += f", x {effect.ratio:.3f}, interval x {effect.low:.3f} to x {effect.high:.3f}"
        said += ": true" if true else ": FALSE"
    elif comparison.caveats:
        said += f": {comparison.caveats[0].text}"
    head = f"{truth.change}: {comparison.subject} {comparison.metric} {comparison.statistic}"
    lines = [head, *_hanging("  really:    ", really), *_hanging("  harvester: ", said)]
    return "\n".join(lines), true


def _hanging(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, 80, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False, break_on_hyphens=False
    )


def echo(argv: Sequence[str]) -> str:
    """
    Return a command as it is typed, in lines of at most 80 columns.

    >>> print(echo(["diff", "a change"]))
    $ harvest diff "a change"
    """
    pieces: list[str] = []
    for word in argv:
        quoted = shlex.quote(word)
        if quoted != word and not set(word) & set('"$`\\!'):
            quoted = f'"{word}"'
        if pieces and pieces[-1].startswith("--") and " " not in pieces[-1] and not word.startswith("--"):
            pieces[-1] += f" {quoted}"  # an option stays with its value
        else:
            pieces.append(quoted)
    lines = ["$ harvest"]
    for piece in pieces:
        if len(lines[-1]) + len(piece) > 77:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {piece}"
    return "\n".join(lines)
