"""
PostgreSQL slow logs: how long statements take, by fingerprint and hour.

    [subjects.checkout]
    database = "shop"

    [sources.slowlog]
    connector = "postgres_slowlog"
    paths = ["/var/log/postgresql/postgresql-*.log*"]
    timezone = "Europe/Berlin"
    database = "shop"

The server has to log durations: `log_min_duration_statement = 0` (or a threshold, named as `threshold_ms` here), with
`lc_messages = 'C'`.

- `paths`: the log files of one server, as patterns, rotated ones included. They are put in order by their first
  message. gzip, xz and bzip2 are read, told by their content.
- `format`: `stderr`, `csvlog`, `jsonlog`, or `auto` (the default) to find out for each file.
- `prefix`: the server's `log_line_prefix`, for stderr logs; without it the usual ones are tried.
- `timezone`: the server's `log_timezone`. Needed only where the log's abbreviations may mean several offsets, as CST
  and IST do; UTC, CET, EST and offsets such as +0530 need none.
- `database`: the database of the calls whose log line does not name one (a prefix without `%d`).
- `threshold_ms`: the server's `log_min_duration_statement`. It is part of the metrics' definition: a changed threshold
  makes new metrics, which are never compared with the old ones. Calls under it are left out.
- `top`: how many fingerprints have a series of their own, 200 by default.

What it yields, each hour (UTC, by the end of the statement) as one distribution in log buckets of 1 %, in seconds, with
total, minimum and maximum:

- `statement_duration`, labels `database`, `fingerprint` and `query`: calls of one fingerprint. `query` is its text
  without literals, at most 120 characters. Fingerprints without a series of their own are pooled as
  `fingerprint="other"`. Which have one is sticky: the first `top` that come; later ones take the place of one with less
  than half their time.
- `statement_duration_all`, label `database`: all calls of a database together.

`statement:` and `execute NAME:` are calls. The parse and bind phases of a call are not; fetching the rest of a result
(`execute fetch from`) adds its time to the statement and no call. A bare duration (`log_duration`, `log_statement`) is
linked to the last statement of its process. What could not be read or linked is counted and said.

Literals, parameters, comments and passwords are never kept or shown; of text that does not parse, keywords only. A
fingerprint is that of libpg_query with the schemas of tables added.

What counts as proven: the time from the first logged line to the last one read, as long as reading was unbroken: the
same file, known by its first bytes wherever it was moved, or its direct successor. A torn row, a missing file, or a
line that says the threshold was raised ends the proof; so does nothing but a log without any duration begin one. Within
it an absent fingerprint had no call, until more than `top` are known; from then on that is proven of those that have a
series.

The files are read in the order they were written, the oldest first, and then followed; a log can only be followed
forward. `harvest collect --since DATE` reads again whatever is still there.

Source: https://www.postgresql.org/docs/current/runtime-config-logging.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from harvester.connector import Batch, Connector, Finding, Health, State
from harvester.errors import ConnectorError
from harvester.readings import Better, Metric, Shape, Silence, Window, to_datetime

if TYPE_CHECKING:
    from connectors.postgres_slowlog.detect import Detector
    from connectors.postgres_slowlog.follow import Step
    from connectors.postgres_slowlog.times import Clock

_STATISTICS = ("p95", "p50", "p99", "mean", "count", "total")
_LEAST_OVERLAP = timedelta(hours=3)
_SAMPLE = 1 << 20
_ENOUGH = 20
"""Statements, before their quickest says something about a threshold."""


class PostgresSlowLog(Connector):
    """
    The log files of one PostgreSQL server.

    Attributes:
        paths: Patterns of its log files.
        format: ``stderr``, ``csvlog``, ``jsonlog``, or ``auto`` to find out.
        prefix: Its ``log_line_prefix``; None to find out.
        timezone: Its ``log_timezone``; None where the log's own words are enough.
        database: Of calls whose lines do not name one.
        threshold_ms: Its ``log_min_duration_statement``; None if it logs every statement, or nobody said.
        top: How many fingerprints have a series of their own.
    """

    paths: tuple[str, ...] = Field(min_length=1)
    format: Literal["auto", "stderr", "csvlog", "jsonlog"] = "auto"
    prefix: str | None = None
    timezone: str | None = None
    database: str = ""
    threshold_ms: float | None = Field(default=None, ge=0)
    top: int = Field(default=200, ge=1, le=5000)

    @field_validator("prefix")
    @classmethod
    def _readable_prefix(cls, value: str | None) -> str | None:
        from connectors.postgres_slowlog.stderr import prefix_pattern

        if value is not None:
            prefix_pattern(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f'{value!r} is no time zone such as "Europe/Berlin"') from None
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> PostgresSlowLog:
        if self.prefix is not None and self.format in ("csvlog", "jsonlog"):
            raise ValueError(f"prefix is for stderr logs; {self.format} has none")
        return self

    def least_overlap(self) -> timedelta:
        # The hours that may still grow are told again and again from their beginning.
        return _LEAST_OVERLAP

    def definitions(self) -> Sequence[Metric]:
        return self._metrics

    @cached_property
    def _metrics(self) -> tuple[Metric, Metric]:
        from connectors.postgres_slowlog.statements import VERSION

        def metric(name: str, query: str) -> Metric:
            return Metric(
                name=name,
                unit="seconds",
                shape=Shape.DISTRIBUTION,
                better=Better.LOWER,
                silence=Silence.ZERO,
                query=query,
                step_seconds=3600,
                statistics=_STATISTICS,
                family="latency",
                threshold=None if self.threshold_ms is None else self.threshold_ms / 1000,
            )

        calls = "durations logged of statement and execute, by the hour of their end"
        return (
            metric("statement_duration", f"{calls}, by database and fingerprint (version {VERSION})"),
            metric("statement_duration_all", f"{calls}, by database"),
        )

    # -- collecting ---------------------------------------------------------------------------------------------------

    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        from connectors.postgres_slowlog.detect import plan
        from connectors.postgres_slowlog.files import find_files
        from connectors.postgres_slowlog.follow import Follower, Options

        if not window:
            return
        options = Options(
            source=self.source,
            metrics=self._metrics,
            database=self.database,
            threshold_us=round((self.threshold_ms or 0) * 1000),
            top=self.top,
        )
        clock, detector = self._reading
        follower = Follower(options, clock, window, state)
        files = find_files(self.source, self.paths)
        steps, notes, failures = plan(files, follower.entries, detector, window.start)
        yield from follower.read(steps, notes)
        if failures:
            first, *others = failures
            more = f" ({len(others)} more files were not understood)" if others else ""
            raise ConnectorError(first.operation, first.target, first.cause + more, hint=first.hint) from first

    @cached_property
    def _reading(self) -> tuple[Clock, Detector]:
        from connectors.postgres_slowlog.detect import Detector
        from connectors.postgres_slowlog.times import Clock

        clock = Clock(self.source, ZoneInfo(self.timezone) if self.timezone else None)
        return clock, Detector(self.source, clock, self.format, self.prefix)

    # -- checking -----------------------------------------------------------------------------------------------------

    def check(self) -> Health:
        from connectors.postgres_slowlog.detect import plan
        from connectors.postgres_slowlog.files import find_files

        _, detector = self._reading
        try:
            files = find_files(self.source, self.paths)
            steps, notes, failures = plan(files, (), detector, 0)
        except ConnectorError as e:
            return Health((Finding("failed", e.cause, e.hint),))
        findings = [Finding("failed", one.cause, one.hint) for one in failures]
        findings += [Finding("warning", note) for note in notes]
        if not steps:
            findings.append(Finding("warning", f"{len(files)} files, none with a message yet"))
            return Health(tuple(findings))
        smallest: list[int] = []
        try:
            for step in steps:
                finding, durations = self._look_over(step)
                findings.append(finding)
                smallest += durations
        except ConnectorError as e:
            return Health((*findings, Finding("failed", e.cause, e.hint)))
        except OSError as e:
            return Health((*findings, Finding("failed", f"{e.filename}: {e.strerror}", "was it rotated just now?")))
        findings.append(self._look_at_durations(smallest))
        return Health(tuple(findings), oldest=steps[0].entry.first)

    def _look_over(self, step: Step) -> tuple[Finding, list[int]]:
        """Return what a file's beginning and end tell, and the microseconds of its calls there."""
        from connectors.postgres_slowlog.files import ends_of
        from connectors.postgres_slowlog.messages import CALLS, LOCALISED, shape_of

        reader = step.reader
        assert reader is not None  # nothing is remembered here, so everything is looked at
        last, unread, durations = step.entry.first, b"", []
        for sample in ends_of(step.file, _SAMPLE, reader):
            columns = reader.read(sample)
            last = max(last, int(columns.at.max(initial=0)))
            unread = unread or columns.first_unread
            durations += [
                took for took, kind in zip(columns.duration.tolist(), columns.kind, strict=True) if kind in CALLS
            ]
            for severity, text in zip(columns.severity, columns.text, strict=True):
                if LOCALISED.match(text):
                    shown = shape_of(severity + b":  " + text)
                    return Finding(
                        "failed", f"{step.file.path} holds durations in another language: {shown}",
                        "only English messages are read; set lc_messages = 'C' on the server",
                    ), []
        reach = f"{to_datetime(step.entry.first):%Y-%m-%d %H:%M} to {to_datetime(last):%Y-%m-%d %H:%M} UTC"
        told = f"{step.file.path}: {reader.says}, {reach}"
        if unread:
            return Finding(
                "warning", f"{told}; not every line belongs to a message, one is like: {shape_of(unread)}",
                "lines of other programs do no harm; torn ones leave a gap in what is proven",
            ), durations
        return Finding("ok", told), durations

    def _look_at_durations(self, durations: list[int]) -> Finding:
        if not durations:
            return Finding(
                "warning", "no duration of a statement in what was looked at",
                "set log_min_duration_statement = 0, or a threshold, and reload the server",
            )
        least = min(durations) / 1000
        declared = self.threshold_ms or 0.0
        if declared and least < declared:
            return Finding(
                "warning", f"the log holds statements of {least:g} ms, below threshold_ms = {declared:g}",
                "they are left out; set threshold_ms to the server's log_min_duration_statement",
            )
        if least >= max(50.0, 2 * declared) and len(durations) >= _ENOUGH:
            return Finding(
                "warning", f"the quickest of {len(durations)} statements took {least:g} ms",
                "if log_min_duration_statement is not 0, declare it as threshold_ms",
            )
        return Finding("ok", f"{len(durations)} statements looked at, the quickest took {least:g} ms")
