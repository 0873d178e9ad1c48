"""
As much PromQL as the demo's Prometheus speaks: selectors, ``increase``, ``rate``, a few ``*_over_time``, aggregations,
comparisons with a number.

Each is evaluated as Prometheus 2.42 does, extrapolation, counter resets, staleness and the five minutes of lookback
included (promql/functions.go ``extrapolatedRate``, promql/engine.go ``vectorSelectorSingle``). Ranges include both
ends, as they did before Prometheus 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harvester.demo.company import Raw
from harvester.readings import MINUTE

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

LOOKBACK = 5 * MINUTE

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
_DURATION = re.compile(r"(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m(?!s))?(?:\d+s)?(?:\d+ms)?")
_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)"""
    r"""|(?P<number>(?:\d+(?:ms|[smhdwy]))+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<mark>=~|!~|[!=<>]=|[=<>{}()\[\],]))"""
)


class ParseError(Exception):
    """The query is not PromQL, or not what the demo speaks of it; the text is as Prometheus words it."""


# ---------------------------------------------------------------------------------------------------------------------
# Reading a query
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selector:
    """``name{label="value"}[range]``; ``range`` in milliseconds, or None for an instant vector."""

    name: str
    matchers: tuple[tuple[str, str, str], ...] = ()
    range: int | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether a series is selected; an absent label is an empty one."""
        if self.name and labels["__name__"] != self.name:
            return False
        return all(_matches(operator, value, labels.get(label, "")) for label, operator, value in self.matchers)


@dataclass(frozen=True, slots=True)
class Call:
    """``function(argument)``."""

    function: str
    argument: Expression


@dataclass(frozen=True, slots=True)
class Aggregation:
    """``operator by (labels) (argument)``, or ``without``."""

    operator: str
    labels: tuple[str, ...]
    without: bool
    argument: Expression


@dataclass(frozen=True, slots=True)
class Comparison:
    """``argument operator number``: keeps the samples for which it holds."""

    operator: str
    number: float
    argument: Expression


@dataclass(frozen=True, slots=True)
class Number:
    """A literal."""

    value: float


@dataclass(frozen=True, slots=True)
class Time:
    """``time()``: the evaluated instant in seconds."""


Expression: TypeAlias = Selector | Call | Aggregation | Comparison | Number | Time


def _matches(operator: str, wanted: str, value: str) -> bool:
    if operator in ("=", "!="):
        return (value == wanted) == (operator == "=")
    return (re.fullmatch(wanted, value) is not None) == (operator == "=~")


def parse_duration(text: str) -> int:
    """
    Return the milliseconds that ``5m`` or ``1h30m`` names.

    Raises:
        ParseError: if it is not a duration, or an empty one.
    """
    if not text or not _DURATION.fullmatch(text):
        raise ParseError(f'not a valid duration string: "{text}"')
    found = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))
    if found == 0:
        raise ParseError("duration must be greater than 0")
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                place = at + len(text[at:]) - len(text[at:].lstrip())
                raise self.error(place, f"unexpected character: {text[place]!r}")
            kind = str(found.lastgroup)
            self.tokens.append((kind, found[kind], found.start(kind)))
            at = found.end()
        self.tokens.append(("end", "", len(text)))
        self.next = 0

    def error(self, place: int, what: str) -> ParseError:
        line = self.text.count("\n", 0, place) + 1
        column = place - (self.text.rfind("\n", 0, place) + 1) + 1
        return ParseError(f"{line}:{column}: parse error: {what}")

    @property
    def here(self) -> tuple[str, str, int]:
        return self.tokens[self.next]

    def take(self, *wanted: str, kind: str = "mark") -> str:
        found, text, place = self.here
        if found != kind or (wanted and text not in wanted):
            if found == "end" and ")" in wanted:
                raise self.error(place, "unclosed left parenthesis")
            if found == "end" and not self.text.strip():
                raise self.error(place, "no expression found in input")
            said = "end of input" if found == "end" else f'"{text}"'
            raise self.error(place, f"unexpected {said}" + (f", expected {' or '.join(wanted)}" if wanted else ""))
        self.next += 1
        return text

    def accept(self, wanted: str) -> bool:
        if self.here[:2] == ("mark", wanted):
            self.next += 1
            return True
        return False

    def whole(self) -> Expression:
        found = self.expression()
        self.take(kind="end")
        if isinstance(found, Selector) and found.range is not None:
            said = 'invalid expression type "range vector" for range query, must be Scalar or instant Vector'
            raise ParseError(said)
        return found

    def expression(self) -> Expression:
        found = self.operand()
        while self.here[0] == "mark" and self.here[1] in COMPARISONS:
            operator = self.take()
            found = Comparison(operator, float(self.take(kind="number")), found)
        return found

    def operand(self) -> Expression:
        kind, text, place = self.here
        if self.accept("("):
            inner = self.expression()
            self.take(")")
            return inner
        if kind == "number":
            self.next += 1
            try:
                return Number(float(text))
            except ValueError:
                raise self.error(place, f"unexpected duration {text!r}") from None
        if text == "{":
            return self.selector("")
        word = self.take(kind="word")
        follows = self.here[1]
        if word in AGGREGATIONS and follows in ("(", "by", "without"):
            return self.aggregation(word)
        if follows == "(":
            return self.call(word, place)
        return self.selector(word)

    def aggregation(self, operator: str) -> Aggregation:
        grouping = self.grouping()
        self.take("(")
        argument = self.expression()
        self.take(")")
        labels, without = grouping or self.grouping() or ((), False)
        return Aggregation(operator, labels, without, argument)

    def grouping(self) -> tuple[tuple[str, ...], bool] | None:
        kind, text, _ = self.here
        if kind != "word" or text not in ("by", "without"):
            return None
        self.next += 1
        self.take("(")
        labels = []
        while not self.accept(")"):
            labels.append(self.take(kind="word"))
            if self.here[1] != ")":
                self.take(",")
        return tuple(sorted(labels)), text == "without"

    def call(self, function: str, place: int) -> Call | Time:
        if function == "time":
            self.take("(")
            self.take(")")
            return Time()
        if function not in RANGE_FUNCTIONS:
            raise self.error(place, f'unknown function with name "{function}"')
        self.take("(")
        inside = self.here[2]
        argument = self.expression()
        self.take(")")
        if not isinstance(argument, Selector) or argument.range is None:
            said = f'expected type range vector in call to function "{function}", got instant vector'
            raise self.error(inside, said)
        return Call(function, argument)

    def selector(self, name: str) -> Selector:
        matchers = []
        if self.accept("{"):
            while not self.accept("}"):
                label = self.take(kind="word")
                operator = self.take("=", "!=", "=~", "!~")
                place = self.here[2]
                value = _unquoted(self.take(kind="text"))
                if "~" in operator:
                    try:
                        re.compile(value)
                    except re.error as e:
                        raise self.error(place, f"error parsing regexp: {e}") from None
                matchers.append((label, operator, value))
                if self.here[1] != "}":
                    self.take(",")
        named = [value for label, operator, value in matchers if (label, operator) == ("__name__", "=")]
        if not name and named:
            name = named[0]
            matchers.remove(("__name__", "=", name))
        length = None
        if self.accept("["):
            kind, text, place = self.here
            try:
                length = parse_duration(text)
            except ParseError as e:
                raise self.error(place, str(e)) from None
            self.take(kind=kind)
            self.take("]")
        return Selector(name, tuple(sorted(matchers)), length)


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: escapes.get(found[1], found[1]), text[1:-1])


def parse(query: str) -> Expression:
    """
    Return what a query means.

    Raises:
        ParseError: with line and column, as Prometheus words it.
    """
    return _Parser(query).whole()


def form(expression: Expression) -> Expression:
    """Return the expression without its label matchers: queries of one form differ only in the series they select."""
    if isinstance(expression, Selector):
        return Selector(expression.name, (), expression.range)
    if isinstance(expression, Call):
        return Call(expression.function, form(expression.argument))
    if isinstance(expression, Aggregation):
        inner = form(expression.argument)
        return Aggregation(expression.operator, expression.labels, expression.without, inner)
    if isinstance(expression, Comparison):
        return Comparison(expression.operator, expression.number, form(expression.argument))
    return expression


# ---------------------------------------------------------------------------------------------------------------------
# Evaluating it
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vector:
    """
    One series of an answer over all evaluation times.

    Attributes:
        labels: Of the answer's series.
        value: float64; shape (m,); meaningless where absent.
        present: Where there is a value; shape (m,).
    """

    labels: Mapping[str, str]
    value: Float64s
    present: NDArray[np.bool_]


def evaluate(expression: Expression, series: Sequence[Raw], at: Int64s, *, until: int) -> list[Vector]:
    """
    Return the answer at each time of ``at``, sorted by labels.

    Args:
        expression: A parsed query.
        series: Everything there is to select from.
        at: Evaluation times, milliseconds UTC, increasing.
        until: Samples after this instant have not been scraped yet.
    """
    found = _evaluate(expression, series, at, until)
    return sorted(found, key=lambda one: sorted(one.labels.items()))


def _evaluate(expression: Expression, series: Sequence[Raw], at: Int64s, until: int) -> list[Vector]:
    if isinstance(expression, Time):
        return [Vector({}, at / 1000, np.ones(len(at), dtype=np.bool_))]
    if isinstance(expression, Number):
        return [Vector({}, np.full(len(at), expression.value), np.ones(len(at), dtype=np.bool_))]
    if isinstance(expression, Selector):
        chosen = [one for one in series if expression.matches(one.labels)]
        return [found for one in chosen if (found := _instant(one, at, until)).present.any()]
    if isinstance(expression, Call):
        selector = expression.argument
        assert isinstance(selector, Selector)
        assert selector.range is not None
        places: dict[int, _Places] = {}  # series scraped together share their instants, so these are found once
        answer = []
        for one in series:
            if selector.matches(one.labels):
                if id(one.at) not in places:
                    places[id(one.at)] = _Places.of(one.at, at, selector.range, until)
                found = RANGE_FUNCTIONS[expression.function](one, places[id(one.at)])
                if found.present.any():
                    answer.append(found)
        return answer
    if isinstance(expression, Comparison):
        holds = COMPARISONS[expression.operator]
        members = _evaluate(expression.argument, series, at, until)
        left = (replace(one, present=one.present & holds(one.value, expression.number)) for one in members)
        return [one for one in left if one.present.any()]
    groups: dict[tuple[tuple[str, str], ...], list[Vector]] = {}
    for member in _evaluate(expression.argument, series, at, until):
        kept = {
            name: value
            for name, value in member.labels.items()
            if (name in expression.labels) != expression.without and not (expression.without and name == "__name__")
        }
        groups.setdefault(tuple(sorted(kept.items())), []).append(member)
    return [_aggregate(expression.operator, dict(labels), members) for labels, members in groups.items()]


def _instant(raw: Raw, at: Int64s, until: int) -> Vector:
    """Return the newest sample of the five minutes up to each time, unless a failed scrape came after it."""
    end = int(np.searchsorted(raw.at, until, side="right"))
    newest = np.searchsorted(raw.at[:end], at, side="right") - 1
    safe = np.maximum(newest, 0)
    age = at - raw.at[safe]
    present = (newest >= 0) & (age <= LOOKBACK)
    present &= ~(raw.ends[safe] & (age >= MINUTE))
    return Vector(raw.labels, raw.value[safe].astype(np.float64), present)


@dataclass(frozen=True, slots=True)
class _Places:
    """Which samples lie in the range before each evaluation time; every column has shape (m,)."""

    at: Int64s
    range: int
    first: Int64s
    last: Int64s
    number: Int64s

    @classmethod
    def of(cls, samples: Int64s, at: Int64s, length: int, until: int) -> _Places:
        end = int(np.searchsorted(samples, until, side="right"))
        first = np.searchsorted(samples[:end], at - length, side="left")
        last = np.searchsorted(samples[:end], at, side="right") - 1
        number = last - first + 1
        most = max(len(samples) - 1, 0)
        return cls(at, length, np.minimum(first, most), np.maximum(last, 0), number)


def _unnamed(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "__name__"}


def _increase(raw: Raw, places: _Places, *, per_second: bool) -> Vector:
    """Return what a counter rose by, resets mended and extrapolated to the ends of the range."""
    value = raw.value.astype(np.float64)
    drops = np.where(value[1:] < value[:-1], value[:-1], 0.0)
    mended = value + np.concatenate([[0.0], np.cumsum(drops)])
    present = places.number >= 2
    rose = mended[places.last] - mended[places.first]
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = (raw.at[places.last] - raw.at[places.first]) / 1000
        to_start = (raw.at[places.first] - (places.at - places.range)) / 1000
        to_end = (places.at - raw.at[places.last]) / 1000
        apart = sampled / (places.number - 1)
        # A counter was never below zero: it is not extrapolated to before it began.
        to_zero = sampled * (value[places.first] / rose)
        to_start = np.where((rose > 0) & (to_zero < to_start), to_zero, to_start)
        length = sampled
        for side in (to_start, to_end):
            length = length + np.where(side < apart * 1.1, side, apart / 2)
        found = rose * (length / sampled)
    if per_second:
        found = found / (places.range / 1000)
    return Vector(_unnamed(raw.labels), np.where(present, found, 0.0), present)


def _over_time(raw: Raw, places: _Places, how: str) -> Vector:
    present = places.number >= 1
    value = raw.value.astype(np.float64)
    if how == "count":
        found = places.number.astype(np.float64)
    elif how == "last":
        return Vector(raw.labels, value[places.last], present)
    elif how in ("sum", "avg"):
        total = np.concatenate([[0.0], np.cumsum(value)])
        found = total[places.last + 1] - total[places.first]
        found = found / np.maximum(places.number, 1) if how == "avg" else found
    else:
        width = int(places.number.max(initial=1))
        columns = np.minimum(places.first[:, None] + np.arange(max(width, 1))[None, :], places.last[:, None])
        columns = np.maximum(columns, 0)
        found = value[columns].min(axis=1) if how == "min" else value[columns].max(axis=1)
    return Vector(_unnamed(raw.labels), found, present)


def _aggregate(operator: str, labels: Mapping[str, str], members: Sequence[Vector]) -> Vector:
    present = np.stack([one.present for one in members])
    value = np.stack([one.value for one in members])
    number = present.sum(axis=0)
    if operator == "count":
        found = number.astype(np.float64)
    elif operator in ("min", "max"):
        edge = np.inf if operator == "min" else -np.inf
        found = getattr(np.where(present, value, edge), operator)(axis=0)
    else:
        found = np.where(present, value, 0.0).sum(axis=0)
        if operator in ("avg", "stddev"):
            found = found / np.maximum(number, 1)
        if operator == "stddev":
            found = np.sqrt(np.where(present, (value - found) ** 2, 0.0).sum(axis=0) / np.maximum(number, 1))
    return Vector(labels, np.asarray(found), number > 0)


AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count", "stddev"})

COMPARISONS: Mapping[str, Callable[[Float64s, float], NDArray[np.bool_]]] = {
    ">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "==": np.equal, "!=": np.not_equal,
}

RANGE_FUNCTIONS: Mapping[str, Callable[[Raw, _Places], Vector]] = {
    "increase": lambda raw, places: _increase(raw, places, per_second=False),
    "rate": lambda raw, places: _increase(raw, places, per_second=True),
    "count_over_time": lambda raw, places: _over_time(raw, places, "count"),
    "sum_over_time": lambda raw, places: _over_time(raw, places, "sum"),
    "avg_over_time": lambda raw, places: _over_time(raw, places, "avg"),
    "min_over_time": lambda raw, places: _over_time(raw, places, "min"),
    "max_over_time": lambda raw, places: _over_time(raw, places, "max"),
    "last_over_time": lambda raw, places: _over_time(raw, places, "last"),
}
