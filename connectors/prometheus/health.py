"""What ``check`` looks at: is the server there, how far back does it reach, does each metric answer."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from connectors.prometheus import promql
from connectors.prometheus.client import Client, QueryError, host_of
from harvester.connector import Finding, Health
from harvester.errors import ConnectorError
from harvester.readings import DAY, SECOND, to_datetime

if TYPE_CHECKING:
    from connectors.prometheus.spec import Question


def examine(
    connect: Callable[[], Client],
    url: str,
    questions: Sequence[Question],
    *,
    reach: int,
    notes: Sequence[str] = (),
    most_points: int,
) -> Health:
    """
    Ask the server about itself and every metric once. Never raises a ``ConnectorError``: it becomes a finding.

    Args:
        connect: Opens a client.
        url: Its address, for the report.
        questions: What the connector asks.
        reach: How far back a first collection asks, milliseconds.
        notes: What is known to be wrong before anything is asked.
        most_points: Most steps of one query.
    """
    findings: list[Finding] = []
    oldest: int | None = None
    host = host_of(url)
    try:
        with connect() as client:
            findings.append(_clock(client))
            version = _tolerant(client, "/api/v1/status/buildinfo").get("version")
            findings.append(Finding("ok", f"reachable at {host}" + (f", version {version}" if version else "")))
            oldest, finding = _oldest(client, questions, reach, most_points)
            findings.append(finding)
            findings += [Finding("warning", note) for note in notes]
            findings += _answers(client, questions)
    except ConnectorError as e:
        findings.append(Finding("failed", f"{e.operation} {e.target}: {e.cause}", e.hint))
    return Health(tuple(findings), oldest, (host,))


def retention(client: Client) -> tuple[int, str]:
    """Return how long the server keeps samples in milliseconds, or 0 where it does not say, and its own words."""
    said = str(_tolerant(client, "/api/v1/status/runtimeinfo").get("storageRetention") or "")
    seconds = promql.duration_seconds(said.split(maxsplit=1)[0]) if said else 0.0
    return (round(seconds * SECOND), said) if 0 < seconds < float("inf") else (0, "")


def reason(client: Client, question: Question, query: str, names: Sequence[str], at: int | None) -> str:
    """
    Say why a query of a question found nothing, as far as the server can tell.

    Args:
        client: The server.
        question: Whose query.
        query: The one that found nothing.
        names: Every metric the server knows; empty where it does not tell.
        at: An instant it was asked for, milliseconds UTC; None where it is known that its samples are not too seldom.
    """
    step = question.spec.step_seconds
    read = tuple(dict.fromkeys(one.selector for one in promql.sources(query) or ()))
    what = " and ".join(read) or query
    for selector in read:
        name = promql.name_of(selector)
        if names and name and name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.6)
            like = f"; near it: {', '.join(near)}" if near else ""
            return f"{what} found nothing: the server knows no metric {name}{like}"
        if question.spec.shape != "level" and at is not None and _exists(client, selector, at):
            needs = (
                "it is sampled less than once a step: step_seconds (now {0}) must be at least the scrape interval"
                if question.born else
                "an increase needs two in each step: step_seconds (now {0}) must be at least twice the scrape interval"
            )
            return f"{query} found nothing, though {selector} has samples; {needs.format(step)}"
    return f"{what} found nothing in this window; do the label values match?"


def _exists(client: Client, selector: str, at: int) -> bool:
    try:
        data, _ = client.query(f"count({selector})", at)
    except ConnectorError:  # an explanation is not worth failing for
        return False
    return bool(data.get("result"))


def _answers(client: Client, questions: Sequence[Question]) -> Iterator[Finding]:
    names: list[str] | None = None
    now = round(time.time() * SECOND)
    for question in questions:
        main = question.other if question.spec.shape == "ratio" else question.value
        answered = False
        try:
            for query in filter(None, (question.value, question.other, question.proof)):
                data, warnings = client.query(query, target=f"{client.source}, metric {question.spec.name}")
                found = data.get("resultType") == "scalar" or bool(data.get("result"))
                answered |= found and query == main
                for warning in warnings:
                    yield Finding("warning", f"{question}: the server warns: {warning}")
                if query == question.proof and not found:
                    yield Finding("warning", f"{question}: the proof {query} finds nothing now")
        except QueryError as e:
            yield Finding("failed", f"{question.spec.name}: {e.cause}", e.hint)
            continue
        if question.fresh is None and not question.proof:
            yield unprovable(question)
        if answered:
            yield Finding("ok", f"{question} answers")
            yield from _kind(client, question)
            continue
        if names is None:
            names = client.metric_names()
        yield Finding("warning", f"{question}: {reason(client, question, main, names, now)}")


def unprovable(question: Question) -> Finding:
    """Return the warning about an expression that may speak without samples and has no proof beside it."""
    return Finding(
        "warning", f"{question}: it cannot be told which samples its query rests on, so nothing counts as covered",
        'give the metric a proof, as in proof = "up{$selector}"',
    )


def _kind(client: Client, question: Question) -> Iterator[Finding]:
    name = promql.name_of(question.spec.query or "")
    if name and client.metric_type(name) == "counter":
        yield Finding(
            "warning", f"{question.spec.name}: {name} is a counter, and its running total is no level",
            f'use rate({name}[5m]), or shape = "count"',
        )


def _oldest(
    client: Client, questions: Sequence[Question], reach: int, most_points: int
) -> tuple[int | None, Finding]:
    """Return the oldest instant with samples, to within an hour or so, and a sentence about it."""
    kept, said = retention(client)
    now = round(time.time() * SECOND)
    reach = kept or reach
    # One coarse query; an instant that falls into a gap only makes the answer a little younger.
    step = max(3600, -(-reach // SECOND // min(10_000, most_points - 2)))
    grid = step * SECOND
    keeps = f"it keeps {said}" if said else "it does not say how long it keeps samples"
    found: list[int] = []
    for query in ("count(up)", *(f"count({one.value})" for one in questions[:1])):
        try:
            answer = client.query_range(query, (now - reach) // grid * grid, now // grid * grid, step)
            found += [int(one.at[0]) for one in answer.series]
        except QueryError:
            continue
    if found:
        days = (now - min(found)) / DAY
        return min(found), Finding("ok", f"{keeps}; its oldest samples are {days:.1f} days old")
    return (now - kept if kept else None), Finding(
        "ok" if said else "warning", keeps, "" if said else "older windows are asked for and may come back empty"
    )


def _tolerant(client: Client, path: str) -> Mapping[str, Any]:
    """Return a status page, or nothing where the server (Thanos, Mimir, a proxy) has none or forbids it."""
    try:
        data = client.get(path)
    except ConnectorError as e:
        if e.retry:
            raise
        return {}
    return data if isinstance(data, dict) else {}


def _clock(client: Client) -> Finding:
    """Compare the server's clock with ours; also the first contact, whose failure says all."""
    before = time.time()
    data, _ = client.query("time()")
    after = time.time()
    try:
        theirs = float(data["result"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        return Finding("warning", "the server does not tell its time", "is it a Prometheus API?")
    skew = theirs - before if theirs < before else max(0.0, theirs - after)
    if abs(skew) < 10:
        return Finding("ok", "its clock agrees with ours")
    way = "ahead of" if skew > 0 else "behind"
    hint = "set both by NTP; until then the newest samples are missed or misplaced"
    return Finding("warning", f"its clock is {abs(skew):.0f} s {way} ours", hint)


def clock_time(milliseconds: int) -> str:
    """Return an instant as a person reads it, to the minute."""
    return f"{to_datetime(milliseconds):%Y-%m-%d %H:%M} UTC"
