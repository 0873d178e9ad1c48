"""
Acme Shop: a small made-up company with twelve weeks of history.

Three services keep the counters that any instrumented service keeps, scraped once a minute; a PostgreSQL server logs
its statements. Traffic follows the day and the week, everything drifts, processes restart. Three changes were shipped,
and ``Company.truth`` says what each of them really did: one helped, two only look as if they had.

Everything follows from a seed and from ``now``: the day gives the span, day and hour the times at which was shipped.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harvester.readings import DAY, HOUR, MINUTE, SECOND, to_datetime

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

DAYS = 86
"""Of history before today: ten weeks before the first change, two after it."""

SCRAPE = MINUTE
JOB = "acme-shop"

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
"""Upper bounds of the latency histogram's buckets in seconds; +Inf follows."""

HELP: Mapping[str, tuple[str, str, str]] = {
    "http_requests_total": ("counter", "HTTP requests answered, by status code.", ""),
    "http_request_duration_seconds": ("histogram", "Time to answer an HTTP request.", ""),
    "process_cpu_seconds_total": ("counter", "Total user and system CPU time spent in seconds.", ""),
    "process_resident_memory_bytes": ("gauge", "Resident memory size in bytes.", ""),
}
"""Metadata as the services expose it: type, help, unit."""


@dataclass(frozen=True, slots=True)
class Truth:
    """
    What really happened, which no harvester can see.

    Attributes:
        change: Name of the change.
        subject: The service it touched.
        shipped: When it went live, milliseconds UTC.
        factor: What the measured quantity was multiplied by from then on; 1 if nothing happened.
        quantity: Which quantity: ``latency``, ``error ratio``, ``statement duration``.
        claimable: Whether a claim about it would be true.
        trap: What makes an effect appear where there is none, or ``""``.
        statement: Words of the one statement meant, where the quantity is of statements.
    """

    change: str
    subject: str
    shipped: int
    factor: float
    quantity: str
    claimable: bool
    trap: str = ""
    statement: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    """
    The samples of one series as scraped.

    Attributes:
        labels: With ``__name__``.
        at: Instants of the scrapes that succeeded, milliseconds UTC, increasing; shape (n,).
        value: What was read; shape (n,), int64 or float64.
        ends: Which samples a failed scrape follows: Prometheus then marks the series stale; shape (n,).
    """

    labels: Mapping[str, str]
    at: Int64s
    value: NDArray[Any]
    ends: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Service:
    """
    What one service is like.

    Attributes:
        name: Value of its ``service`` label.
        requests_per_second: Mean over a week.
        median_seconds: Of an answer, in calm hours.
        spread: Standard deviation of the answer time's logarithm.
        error_share: Of requests answered with 500.
        cpu_seconds: Each request costs.
        memory_bytes: Resident, after a restart.
    """

    name: str
    requests_per_second: float
    median_seconds: float
    spread: float
    error_share: float
    cpu_seconds: float
    memory_bytes: float


SERVICES = (
    Service("checkout", 4.0, 0.155, 0.68, 0.0020, 0.012, 310e6),
    Service("search", 12.0, 0.060, 0.70, 0.0012, 0.018, 720e6),
    Service("catalog", 20.0, 0.018, 0.60, 0.0015, 0.004, 240e6),
)

LATENCY_FACTOR = 0.60
STATEMENT_FACTOR = 0.05


@dataclass(frozen=True)
class Company:
    """
    The made-up company.

    Attributes:
        seed: Chooses the noise.
        now: Milliseconds UTC; the samples go on to the end of its day.
    """

    seed: int
    now: int
    _made: dict[str, list[Raw]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def today(self) -> int:
        """Midnight UTC before ``now``."""
        return self.now // DAY * DAY

    @property
    def start(self) -> int:
        """The first scrape."""
        return self.today - DAYS * DAY

    @property
    def end(self) -> int:
        """The last scrape; a server shows only those that are not in the future."""
        return self.today + DAY

    @property
    def truth(self) -> tuple[Truth, ...]:
        """What was shipped, the oldest first, and what it did."""
        index, cache, retries = (self._latest(hour, days) for hour, days in ((10, 14), (13, 8), (9, 7)))
        return (
            Truth("checkout-index", "checkout", index, LATENCY_FACTOR, "latency", True),
            Truth(
                "checkout-index", "checkout", index, STATEMENT_FACTOR, "statement duration", True,
                statement="from orders where customer_id",
            ),
            Truth("search-cache", "search", cache, 1.0, "latency", False, "search was not scraped for 60 hours"),
            Truth("catalog-retries", "catalog", retries, 1.0, "error ratio", False, "an outage lies in the baseline"),
        )

    def _latest(self, hour: int, days: int) -> int:
        """Return the newest instant at that hour, UTC, after which so many whole days have passed."""
        return (self.now - days * DAY - hour * HOUR) // DAY * DAY + hour * HOUR

    def shipped(self, change: str) -> int:
        """Return when a change went live, milliseconds UTC."""
        return next(one.shipped for one in self.truth if one.change == change)

    @property
    def unscraped(self) -> tuple[int, int]:
        """The span in which scrapes of search failed."""
        begin = self.shipped("search-cache") + 20 * HOUR
        return begin, begin + 60 * HOUR

    @property
    def outage(self) -> tuple[int, int]:
        """The span in which catalog answered a third of its requests with an error."""
        begin = self.shipped("catalog-retries") - 3 * DAY + 3 * HOUR
        return begin, begin + 5 * HOUR

    def series(self) -> Iterator[Raw]:
        """Yield every series, service by service; each service is made when it is first asked for."""
        for service in SERVICES:
            yield from self.of(service.name)

    def of(self, name: str) -> list[Raw]:
        """Return the series of one service; names are those of ``SERVICES``."""
        if name not in self._made:
            self._made[name] = _scraped(self, next(one for one in SERVICES if one.name == name))
        return self._made[name]


# ---------------------------------------------------------------------------------------------------------------------
# What a service counts
# ---------------------------------------------------------------------------------------------------------------------


def _scraped(company: Company, service: Service) -> list[Raw]:
    """Return all series of a service; scrapes that failed are left out, and ``up`` says that they failed."""
    random = np.random.default_rng([company.seed, zlib.crc32(service.name.encode())])
    at = np.arange(company.start, company.end + 1, SCRAPE, dtype=np.int64)
    hour = (at - company.start) // HOUR
    hours = int(hour[-1]) + 1
    traffic = _traffic(random, service, at, hour, hours)
    load = np.bincount(hour, traffic, hours) / np.bincount(hour, minlength=hours)
    load /= load.mean()

    factor = np.ones(hours)
    hour_start = company.start + np.arange(hours) * HOUR
    if service.name == "checkout":
        factor[hour_start >= company.shipped("checkout-index")] = LATENCY_FACTOR
    median = service.median_seconds * factor * load**0.15 * np.exp(_drift(random, hours, 24.0, 0.03))
    shares, means = _lognormal_buckets(median, service.spread)
    buckets = [random.poisson(traffic * share[hour]) for share in shares.T]
    seconds = sum(count * mean[hour] for count, mean in zip(buckets, means.T, strict=True))
    total = np.sum(buckets, axis=0)

    failing = service.error_share * np.exp(_drift(random, hours, 6.0, 0.2))[hour]
    if service.name == "catalog":
        failing[(at > company.outage[0]) & (at <= company.outage[1])] = 0.35
    failed = random.binomial(total, failing)
    missing = random.binomial(total - failed, 0.012)
    codes = {"200": total - failed - missing, "404": missing, "500": failed}

    cpu = total * service.cpu_seconds * np.exp(_drift(random, hours, 30.0, 0.03))[hour]
    cpu = np.maximum(cpu + 0.4 + random.normal(0, 0.02, len(at)) * cpu, 0.0)
    restarts = _restarts(random, company, service, len(at))
    memory = service.memory_bytes * (1 + 0.05 * load[hour] + 0.03 * np.log1p(_age(restarts, len(at)) / 1440))
    memory = np.floor(memory * (1 + random.normal(0, 0.004, len(at))) / 4096) * 4096

    good = np.ones(len(at), dtype=np.bool_)
    if service.name == "search":
        good[(at >= company.unscraped[0]) & (at < company.unscraped[1])] = False
    ends = np.zeros(len(at), dtype=np.bool_)
    ends[:-1] = good[:-1] & ~good[1:]
    common = {"instance": f"{service.name}-1:8080", "job": JOB, "service": service.name}

    def raw(name: str, value: NDArray[Any], **labels: str) -> Raw:
        return Raw({"__name__": name, **common, **labels}, at[good], value[good], ends[good])

    def counter(name: str, per_minute: NDArray[Any], **labels: str) -> Raw:
        return raw(name, _since_restart(per_minute, restarts), **labels)

    latency = "http_request_duration_seconds"
    cumulative = np.cumsum(buckets, axis=0)
    bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
    up = {"__name__": "up", **common}
    return [
        Raw(up, at, good.astype(np.int64), np.zeros(len(at), dtype=np.bool_)),
        *(counter("http_requests_total", number, code=code) for code, number in codes.items()),
        *(counter(f"{latency}_bucket", number, le=bound) for bound, number in zip(bounds, cumulative, strict=True)),
        counter(f"{latency}_sum", np.asarray(seconds)),
        counter(f"{latency}_count", total),
        counter("process_cpu_seconds_total", cpu),
        raw("process_resident_memory_bytes", memory),
    ]


def _traffic(random: np.random.Generator, service: Service, at: Int64s, hour: Int64s, hours: int) -> Float64s:
    """Return the expected requests of the minute before each scrape: quiet nights, busy evenings, drift."""
    day = (at % DAY) / DAY
    week = np.array([1.04, 1.0, 0.98, 1.0, 1.08, 1.0, 0.90])[(at // DAY + 3) % 7]  # the epoch was a Thursday
    curve = 1 + 0.55 * np.sin(2 * math.pi * (day - 0.42)) + 0.12 * np.sin(4 * math.pi * (day - 0.30))
    drift = np.exp(_drift(random, hours, 48.0, 0.03))[hour]
    return np.asarray(60 * service.requests_per_second * curve * week * drift)


def _drift(random: np.random.Generator, length: int, hours: float, deviation: float) -> Float64s:
    """Return an hourly first-order autoregression that forgets over so many hours; shape (length,)."""
    keep = math.exp(-1 / hours)
    step = deviation * math.sqrt(1 - keep * keep)
    value = random.normal(0, deviation)
    path = np.empty(length)
    for i, shock in enumerate(random.normal(0, step, length).tolist()):
        path[i] = value
        value = keep * value + shock
    return path


def _lognormal_buckets(median: Float64s, spread: float) -> tuple[Float64s, Float64s]:
    """Return each hour's share of answers in each bucket, and their mean there in seconds; shape (hours, buckets)."""
    from scipy.special import ndtr

    edges = np.log(np.array([1e-9, *BOUNDS, 1e9]))
    z = (edges[None, :] - np.log(median)[:, None]) / spread
    shares = np.diff(ndtr(z), axis=1)
    first = median[:, None] * math.exp(spread**2 / 2) * np.diff(ndtr(z - spread), axis=1)
    return shares, first / np.maximum(shares, 1e-300)


def _restarts(random: np.random.Generator, company: Company, service: Service, length: int) -> Int64s:
    """Return the scrapes at which a process newly started is seen for the first time, the first scrape included."""
    found = {0, *((random.integers(0, 14 * 1440, 8) + np.arange(0, DAYS, 12) * 1440) % length).tolist()}
    found |= {
        (one.shipped - company.start) // SCRAPE + 1 for one in company.truth if one.subject == service.name
    }
    return np.array(sorted(found), dtype=np.int64)


def _age(restarts: Int64s, length: int) -> Int64s:
    """Return the minutes since the last restart at each scrape."""
    index = np.arange(length)
    return index - restarts[np.searchsorted(restarts, index, side="right") - 1]


def _since_restart(per_minute: NDArray[Any], restarts: Int64s) -> NDArray[Any]:
    """Return what a counter shows that starts again from zero with its process."""
    summed = np.cumsum(per_minute)
    before = np.where(restarts > 0, summed[restarts - 1], 0)
    lengths = np.diff(restarts, append=len(per_minute))
    return np.asarray(summed - np.repeat(before, lengths))


# ---------------------------------------------------------------------------------------------------------------------
# What its PostgreSQL logs
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One kind of statement in the log.

    Attributes:
        text: As the server writes it, with ``{0}`` and ``{1}`` for literals.
        per_day: How often it runs.
        median_ms: How long it takes.
        spread: Standard deviation of the logarithm.
        indexed: Whether the new index speeds it up.
        parameters: Whether it is a prepared statement: its values stand in a DETAIL line.
    """

    text: str
    per_day: int
    median_ms: float
    spread: float
    indexed: bool = False
    parameters: bool = False


STATEMENTS = (
    Statement(
        "SELECT id, total, placed_at FROM orders WHERE customer_id = {0} AND state = 'open'"
        " ORDER BY placed_at DESC LIMIT 20",
        380, 140.0, 0.5, indexed=True,
    ),
    Statement("UPDATE stock SET reserved = reserved + $1 WHERE sku = $2", 180, 2.4, 0.6, parameters=True),
    Statement(
        "INSERT INTO payments (order_id, amount, method)\n\tVALUES ({0}, {1}.90, 'card') RETURNING id", 140, 3.8, 0.5
    ),
)

def slow_log(company: Company) -> list[tuple[int, str]]:
    """
    Return what the shop's PostgreSQL logs: instants in milliseconds UTC with whole messages, in order.

    It is stderr with the default prefix ``%m [%p] ``. Every statement is logged (``log_min_duration_statement = 0``)
    with the time of its end, besides the server's other talk. From ``checkout-index`` on, the statement it serves takes
    ``STATEMENT_FACTOR`` of the time.
    """
    random = np.random.default_rng([company.seed, 5432])
    begin = company.start
    days = DAYS + 1
    lines: list[tuple[int, str]] = [
        (begin, _line(begin, 611, "LOG:  starting PostgreSQL 15.18 on x86_64-pc-linux-gnu, 64-bit")),
        (begin + 83, _line(begin + 83, 611, "LOG:  database system is ready to accept connections")),
    ]
    weights = 1 + 0.6 * np.sin(2 * math.pi * (np.arange(24) / 24 - 0.42))
    weights /= weights.sum()
    for one in STATEMENTS:
        number = random.poisson(one.per_day, days)
        day = np.repeat(np.arange(days), number)
        hour = random.choice(24, len(day), p=weights)
        at = np.sort(begin + 500 + day * DAY + hour * HOUR + random.integers(0, HOUR - 1000, len(day)))
        slow = np.where(one.indexed & (at >= company.shipped("checkout-index")), STATEMENT_FACTOR, 1.0)
        took = one.median_ms * slow * np.exp(random.normal(0, one.spread, len(at)))
        pids = random.integers(2200, 2216, len(at))
        literals = random.integers(1, 90_000, (len(at), 2))
        for when, ms, pid, (first, second) in zip(
            at.tolist(), took.tolist(), pids.tolist(), literals.tolist(), strict=True
        ):
            kind = "execute reserve" if one.parameters else "statement"
            text = _line(when, pid, f"LOG:  duration: {ms:.3f} ms  {kind}: {one.text.format(first, second % 900)}")
            if one.parameters:
                text += _line(when, pid, f"DETAIL:  parameters: $1 = '{second % 9 + 1}', $2 = 'SKU-{first}'")
            lines.append((when, text))
    for when in (begin + 7 * MINUTE + np.arange(days * 24) * HOUR).tolist():
        wrote = int(random.integers(40, 900))
        lines.append((when, _line(when, 655, "LOG:  checkpoint starting: time")))
        said = (
            f"LOG:  checkpoint complete: wrote {wrote} buffers ({wrote / 163.84:.1f}%); 0 WAL file(s) added, "
            f"0 removed, 0 recycled; write={wrote / 10:.3f} s, sync=0.004 s, total={wrote / 10 + 0.02:.3f} s"
        )
        lines.append((when + wrote * 100, _line(when + wrote * 100, 655, said)))
    for when in (begin + np.sort(random.integers(HOUR, days * DAY, days))).tolist():
        refused = (
            _line(when, 2207, 'ERROR:  duplicate key value violates unique constraint "payments_order_id_key"')
            + _line(when, 2207, f"DETAIL:  Key (order_id)=({when % 90_000}) already exists.")
            + _line(when, 2207, "STATEMENT:  INSERT INTO payments (order_id, amount) SELECT order_id, due FROM retry")
        )
        lines.append((when, refused))
    return sorted(lines, key=lambda line: line[0])


def _line(at: int, pid: int, message: str) -> str:
    when = to_datetime(at)
    return f"{when:%Y-%m-%d %H:%M:%S}.{at % SECOND:03d} UTC [{pid}] {message}\n"
