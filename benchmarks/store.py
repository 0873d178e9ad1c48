"""
The store against a real Prometheus: same samples, same machine, one run.

    python benchmarks/store.py [--series 200] [--days 14] [--only size,read,ingest,growth,wal] [--growth 5000000]

size     bytes a sample in the store after its sync, and in Prometheus's blocks after its compaction
read     one series and all of them, the whole time at one minute, into numpy; Prometheus over HTTP from loopback
ingest   a day at a time until durable: columns into the store, CSV through the adapter; OpenMetrics through promtool
growth   the cost of a day's batch and of a minute's batch as the store grows to that many samples
wal      bytes written ahead by a day of collections every minute of all series, the whole collection counted

Values in equal parts: gauges with two decimals, whole numbers, counters, rates (thirds and such), long floats; with
``$HARVESTER_REAL_SERIES`` the real series of that folder besides, repeated to the minute and length wanted. CPU is that of
all processes a side needs. A figure is the better of its repeats; both sides repeat equally.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prometheus import serve

from harvester.connector import Batch, Connector, Health
from harvester.readings import DAY, MINUTE, Coverage, Level, Metric, Series, Shape, Window
from harvester.store import Store

METRIC = Metric("load", "1", Shape.LEVEL, query="load")
PER_DAY = DAY // MINUTE


def series_of(index: int) -> Series:
    return Series("bench", METRIC, (("instance", f"host-{index:03}"), ("job", "node")))


def real_series() -> list[np.ndarray]:
    folder = os.environ.get("HARVESTER_REAL_SERIES")
    found = []
    for path in sorted(Path(folder).glob("*.csv*")) if folder else ():
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = [line.rstrip("\n").split(",") for line in file]
        values = [row[1] for row in rows[1:] if len(row) > 1 and row[1]]
        found.append(np.array(values, np.float64))
    return [one[np.isfinite(one)] for one in found if len(one) > 1000]


def make_values(series: int, points: int) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    daily = 1 + 0.3 * np.sin(np.arange(points) * 2 * np.pi / PER_DAY)
    kinds: list[Callable[[], np.ndarray]] = [
        lambda: np.round(50 * daily + np.cumsum(rng.normal(0, 0.05, points)) + rng.normal(0, 1, points), 2),
        lambda: rng.poisson(400 * daily).astype(float),
        lambda: 1e6 + np.cumsum(rng.poisson(300 * daily)).astype(float),
        lambda: rng.poisson(90 * daily) / 60,
        lambda: 0.2 * daily * rng.lognormal(0, 0.3, points),
    ]
    real = real_series()
    kinds += [lambda one=one: np.resize(one, points) for one in real[: series // 2]]
    return [kinds[index % len(kinds)]() for index in range(series)]


@contextmanager
def timed(figures: dict[str, float]) -> Iterator[None]:
    """Put the wall and CPU seconds of what happens inside into ``figures``, where they are less than what is there."""

    def cpu() -> float:
        both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in both)

    before, started = cpu(), time.perf_counter()
    yield
    wall, used = time.perf_counter() - started, cpu() - before
    figures["wall"] = min(figures.get("wall", wall), wall)
    figures["cpu"] = min(figures.get("cpu", used), used)


def ratio(name: str, ours: float, peer: float, wanted: float, unit: str, *, at_least: bool = False) -> None:
    one = ours / peer
    met = one >= wanted if at_least else one <= wanted
    sign = ">=" if at_least else "<="
    print(f"{name:44} {ours:10.4g} {unit:6} peer {peer:10.4g}   ratio {one:7.3f}   wanted {sign} {wanted}   {'met' if met else 'NOT MET'}")


# -- the peer ---------------------------------------------------------------------------------------------------------


def write_openmetrics(folder: Path, values: list[np.ndarray], start: int) -> list[Path]:
    paths = []
    for low in range(0, len(values[0]), PER_DAY):
        lines = ["# TYPE load gauge"]
        for index, column in enumerate(values):
            name = f'load{{instance="host-{index:03}",job="node"}}'
            part = column[low : low + PER_DAY].tolist()
            lines += [f"{name} {value!r} {(start + (low + k) * MINUTE) // 1000}" for k, value in enumerate(part)]
        paths.append(folder / f"day{low:06}.om")
        paths[-1].write_text("\n".join([*lines, "# EOF", ""]))
    return paths


def promtool(paths: list[Path], data: Path, figures: dict[str, float]) -> None:
    with timed(figures):
        for path in paths:
            command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=24h", path, data]
            subprocess.run(command, check=True, capture_output=True)


def block_bytes(data: Path) -> int:
    return sum(path.stat().st_size for path in data.glob("0*/**/*") if path.is_file())


def compacted_bytes(data: Path, wait: float) -> tuple[int, int]:
    """Return the bytes and the number of blocks once the server has stopped merging them; it looks once a minute."""
    end, seen, since = time.monotonic() + wait, -1, 0.0
    while time.monotonic() < end:
        blocks = len(list(data.glob("0*")))
        if blocks != seen:
            seen, since = blocks, time.monotonic()
        if time.monotonic() - since > 75:
            break
        time.sleep(1)
    return block_bytes(data), seen


def pull(url: str, selector: str, start: int, end: int) -> tuple[float, float, int]:
    """
    Return (seconds to the answers' last byte, seconds until they are arrays, samples), by the quicker of two ways.

    A range query may have 11,000 points a series, so that the time is asked in pieces; a range selector has no such limit.
    """
    best = (np.inf, np.inf, 0)
    ways = [
        [("query", {"query": f"{selector}[{(end - start) // 1000}s]", "time": (end - 1) / 1000})],
        [
            ("query_range", {"query": selector, "start": low / 1000, "end": (min(low + 10_000 * MINUTE, end) - MINUTE) / 1000, "step": 60})
            for low in range(start, end, 10_000 * MINUTE)
        ],
    ]
    for way in ways:
        started, bodies = time.perf_counter(), []
        for path, parameters in way:
            with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=300) as answer:
                bodies.append(answer.read())
        answered = time.perf_counter() - started
        count = 0
        for body in bodies:
            for one in json.loads(body)["data"]["result"]:
                at, text = zip(*one["values"], strict=True)
                count += len(np.array(at, np.float64)) * bool(len(np.array(text, np.float64)))
        best = min(best, (answered, time.perf_counter() - started, count), key=lambda one: one[1])
    return best


# -- ours -------------------------------------------------------------------------------------------------------------


def day_batch(values: list[np.ndarray], start: int, low: int, high: int) -> Batch:
    at = start + np.arange(low, high, dtype=np.int64) * MINUTE
    return Batch(tuple(Level(series_of(index), at, column[low:high]) for index, column in enumerate(values)))


def fill(path: Path, values: list[np.ndarray], start: int, figures: dict[str, float]) -> None:
    with Store.open(str(path)) as store, timed(figures):
        for low in range(0, len(values[0]), PER_DAY):
            store.commit("bench", day_batch(values, start, low, low + PER_DAY), full_sync=True)


def write_csv(folder: Path, values: list[np.ndarray], start: int) -> list[Path]:
    paths = []
    for low in range(0, len(values[0]), PER_DAY):
        columns = [column[low : low + PER_DAY].tolist() for column in values]
        rows = (
            f"load_host_{index:03},{start + (low + k) * MINUTE},{column[k]!r}"
            for k in range(len(columns[0])) for index, column in enumerate(columns)
        )
        paths.append(folder / f"day{low:06}.csv")
        paths[-1].write_text("\n".join(["series,ts_ms,value", *rows, ""]))
    return paths


def fill_by_adapter(folder: Path, paths: list[Path], figures: dict[str, float]) -> None:
    command = [sys.executable, str(Path(__file__).with_name("store_adapter.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        def ask(**request: str) -> None:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if not answer["ok"]:
                raise RuntimeError(answer["error"])

        ask(op="open", dir=str(folder))
        started = time.perf_counter()
        for path in paths:
            ask(op="ingest", csv=str(path))
        figures["wall"] = min(figures.get("wall", np.inf), time.perf_counter() - started)
        ask(op="quit")


# -- the figures ------------------------------------------------------------------------------------------------------


def against_prometheus(options: argparse.Namespace, folder: Path) -> None:
    points = options.days * PER_DAY
    start = (int(time.time()) * 1000 // DAY - options.days - 1) * DAY
    end = start + points * MINUTE
    values = make_values(options.series, points)
    samples = options.series * points
    wanted = options.only
    days = write_openmetrics(folder, values, start)
    ingest_peer: dict[str, float] = {}
    ingest_ours: dict[str, float] = {}
    ingest_csv: dict[str, float] = {}
    repeats = options.repeat if "ingest" in wanted else 1
    csvs = write_csv(folder, values, start) if "ingest" in wanted else []
    for turn in range(repeats):
        promtool(days, folder / ("data" if turn == 0 else f"data{turn}"), ingest_peer)
        fill(folder / f"store{turn}.db", values, start, ingest_ours)
        if csvs:
            whole: dict[str, float] = {}
            with timed(whole):
                fill_by_adapter(folder / f"adapter{turn}", csvs, ingest_csv)
            ingest_csv["cpu"] = min(ingest_csv.get("cpu", np.inf), whole["cpu"])
    print(f"\n{options.series} series x {options.days} d at 1 min = {samples:,} samples")
    if "ingest" in wanted:
        peer = samples / ingest_peer["wall"]
        ratio("ingest, columns to durable (samples/s)", samples / ingest_ours["wall"], peer, 10, "/s", at_least=True)
        ratio("ingest, CSV to durable (samples/s)", samples / ingest_csv["wall"], peer, 10, "/s", at_least=True)
        ratio("ingest, columns (CPU seconds)", ingest_ours["cpu"], ingest_peer["cpu"], 0.1, "s")
        ratio("ingest, CSV and start (CPU seconds)", ingest_csv["cpu"], ingest_peer["cpu"], 0.1, "s")
    data, path = folder / "data", folder / "store0.db"
    with Store.open(str(path)) as store:
        store.sync(compact=True)
    ours = path.stat().st_size
    fresh = block_bytes(data)
    process, url = serve(folder) if {"read", "size"} & set(wanted) else (None, "")
    try:
        if "read" in wanted:
            read(options, path, url, start, end)
        if "size" in wanted:
            compacted, blocks = compacted_bytes(data, options.compaction_wait)
            print(f"Prometheus's blocks: {fresh / samples:.3f} B a sample as promtool leaves them, {compacted / samples:.3f} in {blocks} compacted")
            ratio("size (bytes a sample)", ours / samples, min(fresh, compacted) / samples, 0.32, "B")
    finally:
        if process:
            process.terminate()
            process.wait(20)


def read(options: argparse.Namespace, path: Path, url: str, start: int, end: int) -> None:
    window = Window.of(start, end)
    with Store.open(str(path)) as store:
        for name, count, wanted in (("one series", 1, 0.15), ("all series", options.series, 0.06)):
            asked = [series_of(index) for index in range(count)]
            selector = 'load{instance="host-000"}' if count == 1 else "load"
            theirs, mine = [], []
            for _ in range(options.repeat):
                theirs.append(pull(url, selector, start, end))
                for _ in range(3):
                    began = time.perf_counter()
                    found = store.read(asked, window)
                    mine.append(time.perf_counter() - began)
                if sum(map(len, found)) != theirs[-1][2]:
                    raise RuntimeError(f"{sum(map(len, found))} samples here, {theirs[-1][2]} there")
            best = min(mine)
            ratio(f"read {name} into numpy", best, min(one[1] for one in theirs), wanted, "s")
            print(f"{'':44} median {statistics.median(mine):.4g} s; to Prometheus's last byte alone {best / min(one[0] for one in theirs):.3f}")


def growth(options: argparse.Namespace, folder: Path) -> None:
    rng = np.random.default_rng(1)
    per_day = options.series * PER_DAY
    print(f"\ncost of a batch of {options.series} series as the store grows (the median of 5 days, of 60 minutes)")
    first: tuple[float, float] | None = None
    with Store.open(str(folder / "growing.db")) as store:
        day, next_look, start = 0, min(1_000_000, options.growth), 17_000 * DAY
        days: deque[float] = deque(maxlen=5)
        while True:
            walks = np.round(50 + np.cumsum(rng.normal(0, 0.5, (options.series, PER_DAY)), axis=1), 2)
            began = time.perf_counter()
            store.commit("bench", day_batch(list(walks), start + day * DAY, 0, PER_DAY), full_sync=True)
            days.append(time.perf_counter() - began)
            day += 1
            if day * per_day < next_look:
                continue
            minutes = []
            for minute in range(60):
                low = start + day * DAY + max(minute - 10, 0) * MINUTE
                at = np.arange(low, start + day * DAY + (minute + 1) * MINUTE, MINUTE, dtype=np.int64)
                batch = Batch(tuple(Level(series_of(k), at, np.round(at / MINUTE % 97 + k, 2)) for k in range(options.series)))
                began = time.perf_counter()
                store.commit("bench", batch)
                minutes.append(time.perf_counter() - began)
            figures = statistics.median(days), statistics.median(minutes)
            first = first or figures
            print(
                f"{day * per_day:12,} samples   a day {1000 * figures[0]:7.1f} ms ({figures[0] / first[0]:.2f})   "
                f"a minute {1000 * figures[1]:6.1f} ms ({figures[1] / first[1]:.2f})"
            )
            day += 1
            if day * per_day >= options.growth:
                return
            next_look = min(next_look * 3, options.growth)


class Minutely(Connector):
    """Answers a collection as a source would that is scraped every minute."""

    count: int

    def check(self) -> Health:
        return Health(())

    def definitions(self) -> list[Metric]:
        return [METRIC]

    def collect(self, window: Window, _: object) -> Iterator[Batch]:
        at = np.arange(-(-window.start // MINUTE) * MINUTE, window.end, MINUTE, dtype=np.int64)
        values = np.round(50 + 10 * np.sin(at / 3e6) + at // MINUTE * 7919 % 101 / 10, 2)
        readings = tuple(Level(series_of(index), at, np.round(values + index, 2)) for index in range(self.count))
        yield Batch(readings, (Coverage("load", Window.of(window.start, window.end)),), {"until": window.end})


def wal(options: argparse.Namespace, folder: Path) -> None:
    import sqlalchemy as sa

    from harvester.collect import collect

    clock = [1_760_000_000_000 // DAY * DAY / 1000]
    source = Minutely(source="bench", every="1m", reach="1d", count=options.series)

    def now() -> datetime:
        return datetime.fromtimestamp(clock[0], UTC)

    path = folder / "minutes.db"
    with Store.open(str(path), now=now) as store:
        collect(store, source, now=now)
        store.sync()

        @sa.event.listens_for(store._database.engine, "begin")  # noqa: SLF001  the only way to keep the log whole
        def keep_the_log(connection: sa.Connection) -> None:
            connection.exec_driver_sql("PRAGMA wal_autocheckpoint=0")

        turns, spent = options.minutes, []
        for _ in range(turns):
            clock[0] += 60
            began = time.perf_counter()
            collect(store, source, now=now)
            spent.append(time.perf_counter() - began)
        store.fold()
        written = path.with_name("minutes.db-wal").stat().st_size * 1440 / turns / 1e6
        ordered = sorted(spent)
        print(
            f"\n{turns} collections of {options.series} series, one a minute: {written:.0f} MB of WAL a day "
            f"(wanted < 200: {'met' if written < 200 else 'NOT MET'}); "
            f"a collection takes {1000 * statistics.median(spent):.1f} ms, p99 {1000 * ordered[int(len(ordered) * 0.99)]:.1f} ms"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--days", type=int, default=14)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["ingest", "read", "size", "growth", "wal"])
    parser.add_argument("--growth", type=int, default=5_000_000, help="samples to grow to; 50000000 for the whole figure")
    parser.add_argument("--minutes", type=int, default=1440, help="collections to measure the write-ahead log by")
    parser.add_argument("--compaction-wait", type=float, default=240, help="seconds to let Prometheus compact at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if {"ingest", "read", "size"} & set(options.only):
            if shutil.which("prometheus") and shutil.which("promtool"):
                against_prometheus(options, Path(name))
            else:
                print("skipped: prometheus and promtool are not installed, so that there is nothing to compare with")
        if "growth" in options.only:
            growth(options, Path(name))
        if "wal" in options.only:
            wal(options, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
