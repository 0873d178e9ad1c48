"""
The daemon under kill -9: nothing acknowledged is lost, nothing is counted twice, nobody has to help.

    python benchmarks/soak_daemon.py [--minutes 10] [--seed 1]

``harvest run`` collects every two seconds from two sources on this machine: the demo's Prometheus, which at random
answers 503, hangs, cuts an answer short or sends HTML, and a PostgreSQL log that a writer adds to, in torn writes, and
rotates. At random moments the daemon, its child or both are killed with SIGKILL, frozen and thawed, or asked to stop;
somebody registers baselines meanwhile. At the end the faults stop, the daemon is given two minutes to recover by
itself, and the store has to say exactly:

- as many calls, of as many microseconds, as were written to the log;
- of Prometheus the same readings and coverage as a store that was collected in one piece;
- every baseline whose command ended with 0;
- that it is whole (``harvest db check``).

Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from footprint import METRICS

from harvester.demo.company import Company
from harvester.demo.prometheus import Api
from harvester.readings import DAY, MINUTE, Window
from harvester.store import Store

HARVEST = [sys.executable, "-m", "harvester.cli"]
RECOVERY_SECONDS = 120.0


class Log:
    """A PostgreSQL log that somebody writes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.path = folder / "postgresql.log"
        self.path.touch()
        self.written: Counter[str] = Counter()
        self.microseconds = 0
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        number, rotations, due = 0, 0, time.monotonic() + 20
        while not self._stop.wait(self._random.uniform(0.0, 0.1)):
            with self.path.open("ab", buffering=0) as file:
                for _ in range(self._random.randrange(1, 20)):
                    number += 1
                    took = self._random.randrange(50, 500_000)
                    kind = f"SELECT * FROM t{number % 7}_a WHERE id = {number}"
                    at = datetime.now(UTC)
                    line = (
                        f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d} UTC [{4000 + number % 9}] shop@shop LOG:  "
                        f"duration: {took // 1000}.{took % 1000:03d} ms  statement: {kind}\n"
                    ).encode()
                    cut = self._random.randrange(len(line)) if self._random.random() < 0.1 else 0
                    for part in (line[:cut], line[cut:]):
                        if part:
                            file.write(part)
                            if cut:
                                time.sleep(0.01)
                    self.written[f"t{number % 7}"] += 1
                    self.microseconds += took
            if time.monotonic() > due:
                rotations += 1
                due = time.monotonic() + self._random.uniform(10, 40)
                self.path.rename(self.path.with_name(f"postgresql.log.{rotations}"))
                self.path.touch()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


class Fault:
    """Which share of the requests go wrong."""

    share = 0.0
    seen: ClassVar[Counter[str]] = Counter()


@contextlib.contextmanager
def prometheus(seed: int) -> Iterator[str]:
    """Serve the made-up company, and faults."""
    started = time.time_ns() // 1_000_000
    api = Api(Company(seed=1, now=started), lambda: time.time_ns() // 1_000_000)
    lock, dice = threading.Lock(), random.Random(seed)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: str = "") -> None:
            parts = urlsplit(self.path)
            parameters = parse_qs(parts.query) | parse_qs(body)
            with lock:
                fault = dice.choice(["503", "hang", "cut", "html", "reset"]) if dice.random() < Fault.share else ""
                answer = api.answer(self.command, parts.path, parameters)
            Fault.seen[fault] += 1
            if fault == "hang":
                time.sleep(3.0)
                return
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                self.connection.close()
                return
            status, content, sent = answer.status, answer.content, answer.body
            if fault == "503":
                status, content, sent = 503, "text/plain", b"overloaded"
            if fault == "html":
                content, sent = "text/html", b"<html>please log in</html>"
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", content)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent[: len(sent) // 2] if fault == "cut" else sent)

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def write_settings(folder: Path, name: str, url: str, *, log: bool) -> Path:
    text = [
        f'[store]\nurl = "sqlite:///{folder / name}.db"\n',
        '[subjects.checkout]\nprometheus = { service = "checkout" }\ndatabase = "shop"\n',
        '[subjects.search]\nprometheus = { service = "search" }\n',
        f'[sources.prom]\nconnector = "prometheus"\nurl = "{url}"\nevery = "2s"\nreach = "20d"\ntimeout = "2s"\n',
        METRICS.format(source="prom"),
    ]
    if log:
        text.append(
            f'[sources.log]\nconnector = "postgres_slowlog"\npaths = ["{folder / "logs" / "postgresql.log*"}"]\n'
            'prefix = "%m [%p] %q%u@%d "\ntimezone = "UTC"\nevery = "2s"\n'
        )
    path = folder / f"{name}.toml"
    path.write_text("\n".join(text))
    return path


def children(pid: int) -> list[int]:
    try:
        return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]
    except OSError:
        return []


class Daemons:
    """``harvest run``, started again whenever it ends, and what is done to it."""

    def __init__(self, config: Path, log: Path) -> None:
        self.config = config
        self.log = log.open("ab")
        self.done: Counter[str] = Counter()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.done["started"] += 1
        self.started = time.monotonic()
        return subprocess.Popen([*HARVEST, "run", "--config", str(self.config)], stdout=self.log, stderr=self.log)

    def torment(self, dice: random.Random) -> None:
        what = dice.choice(["kill daemon", "kill child", "kill child", "kill both", "freeze", "stop"])
        below = children(self.process.pid)
        with contextlib.suppress(ProcessLookupError):
            if what in ("kill child", "kill both") and not below:
                return
            if what != "kill child" and what != "freeze" and what != "stop":
                os.kill(self.process.pid, signal.SIGKILL)
            if what in ("kill child", "kill both"):
                for one in below:
                    os.kill(one, signal.SIGKILL)
            if what == "freeze":
                for one in [self.process.pid, *below]:
                    os.kill(one, signal.SIGSTOP)
                time.sleep(dice.uniform(0.5, 3.0))
                for one in [self.process.pid, *below]:
                    os.kill(one, signal.SIGCONT)
            if what == "stop":
                self.process.terminate()
                status = self.process.wait(30)
                if status != 0 and time.monotonic() - self.started > 5:  # before that it may still be starting
                    raise SystemExit(f"asked to stop, the daemon ended with {status}; see {self.log.name}")
        self.done[what] += 1
        if what in ("kill daemon", "kill both", "stop"):
            self.process.wait()
            self.process = self._start()
        elif self.process.poll() is not None:
            raise SystemExit(f"the daemon ended by itself with {self.process.returncode}; see {self.log.name}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def counted(store: Store) -> tuple[float, int]:
    """Return calls and microseconds that the store has of the log."""
    calls, seconds = 0.0, 0.0
    for one in store.read(store.series(source="log", metric="statement_duration_all"), Window.of(0, 2**62)):
        calls += float(one.counts.sum())  # type: ignore[union-attr]
        seconds += float(one.total.sum())  # type: ignore[union-attr]
    return calls, round(seconds * 1e6)


def same_of_prometheus(one: Store, other: Store, window: Window) -> list[str]:
    """Return how two stores differ in what they hold of Prometheus inside a window."""
    problems = []
    mine, theirs = one.series(source="prom"), other.series(source="prom")
    if set(mine) != set(theirs):
        problems.append(f"{len(mine)} and {len(theirs)} series")
    for series in theirs:
        (left,), (right,) = one.read([series], window), other.read([series], window)
        columns = [name for name in ("at", "value", "number", "numerator", "denominator", "counts") if hasattr(right, name)]
        if any(getattr(left, name).tobytes() != getattr(right, name).tobytes() for name in columns):
            problems.append(f"{series}: {len(left)} and {len(right)} readings")
        proofs = [store.coverages([series])[0] & window for store in (one, other)]
        if proofs[0] != proofs[1]:
            problems.append(f"{series}: coverage differs in {(proofs[0] - proofs[1]).spans + (proofs[1] - proofs[0]).spans}")
    return problems


def ran(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HARVEST, *words, "--config", str(config)], capture_output=True, text=True, timeout=300)


def judge(folder: Path, config: Path, url: str, log: Log, promised: list[str]) -> list[str]:
    """Return what the store does not say as it should."""
    problems: list[str] = []
    whole = write_settings(folder, "whole", url, log=False)
    until = time.time_ns() // 1_000_000
    done = ran(whole, "collect")
    if done.returncode:
        problems.append(f"collecting in one piece: {done.stderr}")
    with Store.open(f"{folder}/tormented.db") as store, Store.open(f"{folder}/whole.db") as other:
        first = store.collections("prom", limit=100_000)[-1].window.start
        # The newest steps are still being scraped, the oldest were in reach of one of the two only.
        window = Window.of(max(first, until - 20 * DAY) + 10 * MINUTE, until - 20 * MINUTE)
        problems += same_of_prometheus(store, other, window)
        calls, microseconds = counted(store)
        if calls != sum(log.written.values()):
            problems.append(f"{calls:.0f} calls stored, {sum(log.written.values())} were logged")
        if abs(microseconds - log.microseconds) > 1e-9 * log.microseconds + 1:
            problems.append(f"{microseconds} us stored, {log.microseconds} were logged")
        problems += store.check()
    said = ran(config, "changes", "--json")
    known = {one["name"] for one in json.loads(said.stdout)["data"]["changes"]}
    problems += [f"baseline {name} was acknowledged and is not there" for name in promised if name not in known]
    return problems


def recovered(config: Path, log: Log) -> bool:
    """Tell whether every source is good again and the log is read to its end."""
    sources: list[dict[str, Any]] = json.loads(ran(config, "status", "--json").stdout)["data"]["sources"]
    if any(one["error"] for one in sources):
        return False
    with Store.open(json.loads(ran(config, "status", "--json").stdout)["data"]["store"]["target"]) as store:
        return counted(store)[0] >= sum(log.written.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the folder also where all is well")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="harvester-soak-"))
    (folder / "logs").mkdir()
    log = Log(folder / "logs", options.seed)
    promised: list[str] = []
    refused = 0
    Fault.share = 0.1
    with prometheus(options.seed) as url:
        config = write_settings(folder, "tormented", url, log=True)
        daemons = Daemons(config, folder / "daemon.log")
        try:
            end = time.monotonic() + 60 * options.minutes
            while time.monotonic() < end:
                time.sleep(dice.choice([dice.uniform(0.0, 1.5), dice.uniform(1.0, 8.0)]))
                daemons.torment(dice)
                if dice.random() < 0.1:
                    name = f"change-{len(promised) + refused}"
                    if ran(config, "baseline", name).returncode == 0:
                        promised.append(name)
                    else:
                        refused += 1
            Fault.share = 0.0
            log.stop()
            began = time.monotonic()
            while not recovered(config, log):
                if time.monotonic() - began > RECOVERY_SECONDS:
                    print(f"it did not recover in {RECOVERY_SECONDS:.0f} s; see {folder}", file=sys.stderr)
                    return 1
                time.sleep(1.0)
            took = time.monotonic() - began
            problems = judge(folder, config, url, log, promised)
        finally:
            log.stop()
            daemons.stop()
    told = ", ".join(f"{what} {number}" for what, number in sorted(daemons.done.items()))
    faults = ", ".join(f"{what} {number}" for what, number in sorted(Fault.seen.items()) if what)
    with Store.open(f"{folder}/tormented.db") as store:
        records = [one for name in ("prom", "log") for one in store.collections(name, limit=1_000_000)]
    failed = sum(one.error is not None for one in records)
    print(f"{told}; {len(records)} collections, {failed} of them failed; {Fault.seen.total()} requests, of which {faults}")
    print(f"{sum(log.written.values()):,} calls logged, {len(promised)} baselines acknowledged, {refused} refused; recovered in {took:.0f} s")
    for one in problems:
        print(f"WRONG: {one}", file=sys.stderr)
    if problems or options.keep:
        print(f"the evidence is in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)
        print("nothing acknowledged was lost, nothing was counted twice")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
