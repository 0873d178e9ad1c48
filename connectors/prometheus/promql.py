"""
The little that must be known of PromQL as text: is it a plain selector, which selectors does it hold, how is it asked.

Nothing here evaluates or rewrites an expression a person wrote; it fills in ``$selector`` and ``$step``, wraps plain
selectors, and builds the queries that tell fresh samples from repeated ones.

Source: https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LOOKBACK_SECONDS = 300
"""How long an instant selector goes on with a series' last sample when no staleness marker ends it (the default)."""

BORN_AFTER_SECONDS = 3600
"""A series that comes back sooner is not new: its exporter paused, or it is sampled more seldom than once a step."""

_STRING = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`'
_MATCHERS = rf"\{{(?:{_STRING}|[^{{}}\"'`])*\}}"
_NAME = r"[A-Za-z_:][A-Za-z0-9_:]*"
_PLAIN = re.compile(rf"\s*(?:({_NAME})\s*(?:{_MATCHERS})?|{_MATCHERS})\s*")
_TOKEN = re.compile(rf"{_STRING}|#[^\n]*|{_MATCHERS}|\[[^\]]*\]|{_NAME}|[0-9][0-9A-Za-z_.]*|\s+|.", re.DOTALL)
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_AGGREGATORS = (
    "sum|min|max|avg|group|stddev|stdvar|count|count_values|bottomk|topk|quantile|limitk|limit_ratio"
)
_UNSOURCED = frozenset(
    {
        "vector", "scalar", "absent", "absent_over_time", "time", "pi", "hour", "minute", "month", "year",
        "day_of_week", "day_of_month", "day_of_year", "days_in_month",
    }
)
"""Functions that may yield where no selector has samples."""
_DURATIONS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31_536_000}
_WORD = re.compile(rf"{_AGGREGATORS}|bool|and|or|unless|atan2|inf|nan", re.IGNORECASE)


def is_plain(expression: str) -> bool:
    """
    Tell whether a text is one instant selector and nothing else.

    >>> is_plain('up{job="a}b"}'), is_plain("sum(up)"), is_plain("up[5m]")
    (True, False, False)
    """
    return _PLAIN.fullmatch(expression) is not None


def name_of(selector: str) -> str:
    """
    Return the metric's name in a plain selector, or ``""``.

    >>> name_of('http_requests_total{code="200"}')
    'http_requests_total'
    """
    found = _PLAIN.fullmatch(selector)
    return (found[1] or "") if found else ""


def is_single(expression: str) -> bool:
    """
    Tell whether an expression yields one series at most, because it aggregates everything away.

    >>> is_single("sum(increase(x[1m]))"), is_single("sum by (le) (x)"), is_single("increase(x[1m])")
    (True, False, False)
    """
    words = {token.lower() for token in _TOKEN.findall(expression)}
    aggregates = re.match(r"\s*(?:sum|min|max|avg|count)\s*\(", expression) is not None
    return aggregates and not words & {"by", "without", "or"}


@dataclass(frozen=True, slots=True)
class Source:
    """
    One selector of an expression.

    Attributes:
        selector: Without range and offset: ``x{job="a"}``.
        offset: ``"offset 1h"``, or ``""``.
        seconds: How far back it looks for samples: its range, or the lookback.
    """

    selector: str
    offset: str
    seconds: float


def sources(expression: str) -> tuple[Source, ...] | None:
    """
    Return the selectors an expression reads, each once.

    None where ``@`` or a shifted subquery make the samples it reads lie elsewhere than around the evaluated instant.

    >>> [one.selector for one in sources('sum by (le) (rate(x_bucket{job="a"}[5m])) / ignoring (le) group_left () y')]
    ['x_bucket{job="a"}', 'y']
    >>> sources("x offset 1h")
    (Source(selector='x', offset='offset 1h', seconds=300),)
    """
    tokens = [one for one in _TOKEN.findall(expression) if not one.isspace() and not one.startswith("#")]
    found: dict[Source, None] = {}
    index = 0

    def peek(ahead: int = 0) -> str:
        return tokens[index + ahead] if index + ahead < len(tokens) else ""

    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token.lower() in ("@", "offset"):
            return None  # one that belongs to a selector was read with it
        if token.lower() in _GROUPING:
            if peek() == "(":
                index = tokens.index(")", index) + 1 if ")" in tokens[index:] else len(tokens)
        elif token.startswith("{") or (re.fullmatch(_NAME, token) and not _WORD.fullmatch(token) and peek() != "("):
            if not token.startswith("{") and peek().startswith("{"):
                token += peek()
                index += 1
            seconds: float = LOOKBACK_SECONDS
            if peek().startswith("[") and ":" not in peek():
                seconds = duration_seconds(peek()[1:-1])
                index += 1
            offset = ""
            if peek().lower() == "offset":
                words = 3 if peek(1) == "-" else 2
                offset = "offset " + "".join(tokens[index + 1 : index + words])
                index += words
            found[Source(token, offset, seconds)] = None
    return tuple(found)


def outlived_seconds(expression: str) -> float:
    """
    Return for how long an expression goes on yielding after the samples it rests on have ended.

    An instant selector: the lookback. A range: its length. Infinity where something speaks without samples
    (``vector(0)``, ``time()``, ``absent``), where a subquery remembers, or where it cannot be told.

    >>> outlived_seconds("sum(rate(x[10m])) + sum(y)"), outlived_seconds("sum(x) or vector(0)")
    (600, inf)
    """
    read = sources(expression)
    without_samples = any(
        token.lower() in _UNSOURCED or (token.startswith("[") and ":" in token) for token in _TOKEN.findall(expression)
    )
    if not read or without_samples:
        return math.inf
    return max(one.seconds for one in read)


def duration_seconds(text: str) -> float:
    """
    Return a PromQL duration in seconds; infinity where it is none that is known here.

    >>> duration_seconds("1h30m"), duration_seconds("59999ms")
    (5400, 59.999)
    """
    if not re.fullmatch(r"\s*(?:\d+(?:ms|[smhdwy]))+\s*", text):
        return math.inf
    seconds = sum(int(number) * _DURATIONS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))
    return seconds if "ms" not in text else round(seconds, 3)


def matchers(labels: Iterable[tuple[str, str]]) -> str:
    r"""
    Return labels as equality matchers, their values escaped.

    >>> print(matchers([("service", 'a"b\\c')]))
    service="a\"b\\c"
    """
    return ",".join(f"{name}={quoted(value)}" for name, value in labels)


def quoted(value: str) -> str:
    """Return a value as a double-quoted PromQL string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def is_templated(template: str) -> bool:
    """Tell whether a query is asked once for each subject."""
    return "$selector" in template


def fill(template: str, values: Mapping[str, str]) -> str:
    """
    Return the template with ``$selector`` and ``$step`` filled in, in one pass, so that no value is read as a template.

    >>> fill("rate(x{$selector}[$step])", {"selector": 'a="$step"', "step": "60s"})
    'rate(x{a="$step"}[60s])'
    """
    return re.sub(r"\$(selector|step)\b", lambda found: values[found[1]], template)


def summed(template: str, by: Sequence[str] = ()) -> str:
    """
    Return the increase over ``$step`` of a plain selector's counters, summed; any other expression as it is.

    >>> summed("x_bucket{$selector}", ["le"])
    'sum by (le) (increase(x_bucket{$selector}[$step]))'
    """
    if not is_plain(template):
        return template
    return f"sum{_grouping(by)}(increase({template.strip()}[$step]))"


def current(selector: str, step_seconds: int) -> str:
    """
    Return the query that reads a plain selector's samples without repeating any past its step.

    An instant selector repeats a series' last sample for five minutes when nothing marks its end: while Prometheus
    itself was down, in backfilled blocks, for exporters that set their own timestamps.

    >>> current("up", 60), current("up", 300)
    ('last_over_time(up[59999ms])', 'up')
    """
    if step_seconds >= LOOKBACK_SECONDS:
        return selector
    return f"last_over_time({selector.strip()}[{_width(step_seconds)}])"


def counted(selector: str, by: Sequence[str], step_seconds: int) -> str:
    """
    Return the query for what a plain selector's counters counted within a step, summed.

    ``increase`` does not see what happens between the last sample of one range and the first of the next, and makes up
    for it by stretching the rest: an estimate that may tell 0 where there was one. The difference of the counters at
    both ends of the step is exact and loses nothing between steps. A counter that fell was restarted: it counted up to
    its greatest value, and from 0 to where it stands. Series that are new at the end are left to ``born``.

    >>> counted("x", [], 300)
    'sum((x - x offset 300s) >= 0 or x + clamp_min(max_over_time(x[299999ms]) - x offset 300s, 0))'
    """
    selector = selector.strip()
    now, before = current(selector, step_seconds), _shifted(selector, step_seconds)
    greatest = f"max_over_time({selector}[{_width(step_seconds)}])"
    return f"sum{_grouping(by)}(({now} - {before}) >= 0 or {now} + clamp_min({greatest} - {before}, 0))"


def born(selector: str, by: Sequence[str], step_seconds: int) -> str:
    """
    Return the query for what series stand at that were not there a step before, nor in the hour before that, summed.

    >>> born("x", ["code"], 300)
    'sum by (code) (x unless last_over_time(x[3600s] offset 300s))'
    """
    selector = selector.strip()
    before = f"last_over_time({selector}[{max(BORN_AFTER_SECONDS, step_seconds)}s] offset {step_seconds}s)"
    return f"sum{_grouping(by)}({current(selector, step_seconds)} unless {before})"


def mixed(selector: str, by: Sequence[str]) -> str:
    """
    Return the query that yields a sample where a histogram's series do not all have the same buckets.

    >>> mixed("x_bucket", [])
    'stddev(count by (le) (x_bucket)) > 0'
    """
    return f"stddev{_grouping(by)}(count by ({', '.join(['le', *by])}) ({selector.strip()})) > 0"


def _shifted(selector: str, step_seconds: int) -> str:
    if step_seconds >= LOOKBACK_SECONDS:
        return f"{selector} offset {step_seconds}s"
    return f"last_over_time({selector}[{_width(step_seconds)}] offset {step_seconds}s)"


def _grouping(by: Sequence[str]) -> str:
    return f" by ({', '.join(by)}) " if by else ""


def fresh_queries(expression: str, step_seconds: int) -> tuple[str, ...] | None:
    """
    Return the queries that yield a sample wherever a selector of an expression had one within the step.

    Empty where the expression ends with its samples anyway; None where it cannot be told what it rests on.

    >>> fresh_queries("sum(up) or vector(0)", 60)
    ('count(count_over_time(up[59999ms]))',)
    >>> fresh_queries("sum(increase(x[1m]))", 60), fresh_queries("time()", 60)
    ((), None)
    """
    if outlived_seconds(expression) <= step_seconds:
        return ()
    read = sources(expression)
    if not read:
        return None
    return _sampled(read, _width(step_seconds))


def sampled(selector: str, by: Sequence[str], step_seconds: int) -> str:
    """
    Return the query that yields a sample for each interval in which, or shortly before, a plain selector had any.

    What is sampled every few steps has not fallen silent in between: silence begins a lookback after the last sample.

    >>> sampled("x", [], 60)
    'sum(count_over_time(x[300s]))'
    """
    return f"sum{_grouping(by)}(count_over_time({selector.strip()}[{max(step_seconds, LOOKBACK_SECONDS)}s]))"


def sampled_any(expression: str, step_seconds: int) -> str:
    """
    Return the same for the selectors of an expression, or ``""`` where they cannot be told.

    >>> sampled_any("sum(increase(x[1m])) + sum(increase(y[1m]))", 60)
    'count(count_over_time(x[300s])) or count(count_over_time(y[300s]))'
    """
    return " or ".join(_sampled(sources(expression) or (), f"{max(step_seconds, LOOKBACK_SECONDS)}s"))


def _sampled(read: Iterable[Source], width: str) -> tuple[str, ...]:
    asked = (f"count(count_over_time({one.selector}[{width}]{one.offset and ' ' + one.offset}))" for one in read)
    return tuple(dict.fromkeys(asked))


def _width(step_seconds: int) -> str:
    # A millisecond less than the step: up to Prometheus 2 both ends of a range count, and the step before has its own.
    return f"{step_seconds * 1000 - 1}ms"
