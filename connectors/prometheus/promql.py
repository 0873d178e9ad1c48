"""
The little that must be known of PromQL as text: is it a plain selector, which selectors does it hold, how is it asked.

Nothing here evaluates or rewrites an expression a person wrote; it fills in ``$selector`` and ``$step``, wraps plain
selectors, and builds the companion queries that tell fresh samples from carried ones.

Source: https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

LOOKBACK_SECONDS = 300
"""How long an instant selector goes on with a series' last sample when no staleness marker ends it (the default)."""

_STRING = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`'
_MATCHERS = rf"\{{(?:{_STRING}|[^{{}}\"'`])*\}}"
_NAME = r"[A-Za-z_:][A-Za-z0-9_:]*"
_PLAIN = re.compile(rf"\s*(?:({_NAME})\s*(?:{_MATCHERS})?|{_MATCHERS})\s*")
_TOKEN = re.compile(rf"{_STRING}|#[^\n]*|{_MATCHERS}|\[[^\]]*\]|{_NAME}|[0-9][0-9A-Za-z_.]*|\s+|.", re.DOTALL)
_GROUPING = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_AGGREGATORS = (
    "sum|min|max|avg|group|stddev|stdvar|count|count_values|bottomk|topk|quantile|limitk|limit_ratio"
)
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


def selectors(expression: str) -> tuple[str, ...] | None:
    """
    Return the selectors an expression holds, without their ranges, each once.

    None where ``offset``, ``@`` or a subquery make the samples it reads lie elsewhere than at the evaluated instant.

    >>> selectors('sum by (le) (rate(x_bucket{job="a"}[5m])) / ignoring (le) group_left () y or vector(0)')
    ('x_bucket{job="a"}', 'y')
    >>> selectors("x offset 1h") is None
    True
    """
    tokens = [one for one in _TOKEN.findall(expression) if not one.isspace() and not one.startswith("#")]
    found: dict[str, None] = {}
    index = 0
    while index < len(tokens):
        token, following = tokens[index], tokens[index + 1] if index + 1 < len(tokens) else ""
        index += 1
        if token in ("offset", "@") or (token.startswith("[") and ":" in token):
            return None
        if token.lower() in _GROUPING:
            if following == "(":
                index = tokens.index(")", index) + 1 if ")" in tokens[index:] else len(tokens)
        elif token.startswith("{"):
            found[token] = None
        elif re.fullmatch(_NAME, token) and not _WORD.fullmatch(token) and following != "(":
            if following.startswith("{"):
                token += following
                index += 1
            found[token] = None
    return tuple(found)


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
    grouping = f" by ({', '.join(by)}) " if by else ""
    return f"sum{grouping}(increase({template.strip()}[$step]))"


def fresh_queries(expression: str, step_seconds: int) -> tuple[str, ...]:
    """
    Return the queries that tell which results of an instant query rest on samples younger than a step.

    An instant selector repeats a series' last sample for five minutes when nothing marks its end: while Prometheus
    itself was down, in backfilled blocks, for exporters that set their own timestamps. Of a plain selector the one
    query returned yields the series that only repeat (mostly nothing at all); of an expression each query yields a
    sample wherever one of its selectors had a fresh one. Empty where steps are longer than the lookback, where no
    selector reads, or where the expression reads other instants than those asked for.

    >>> fresh_queries("up", 60)
    ('(up) unless count_over_time(up[59999ms])',)
    """
    if step_seconds >= LOOKBACK_SECONDS:
        return ()
    # A millisecond less than the step: up to Prometheus 2 both ends of a range count, and the step before has its own.
    width = f"{step_seconds * 1000 - 1}ms"
    if is_plain(expression):
        one = expression.strip()
        return (f"({one}) unless count_over_time({one}[{width}])",)
    return tuple(f"count(count_over_time({one}[{width}]))" for one in selectors(expression) or ())
