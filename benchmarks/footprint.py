"""
What harvester costs the machine it runs on, beside node_exporter.

    python benchmarks/footprint.py [--seconds 120] [--ticks 2016]

idle      memory and CPU of ``harvest run`` with four sources that are not due, and of node_exporter scraped every 15 s
working   CPU of a child in which four sources are due, five minutes after the last time; twelve of them are an hour
flat      memory of the daemon after a hundred children and after a week of them (2,016), each of which does nothing
verbs     CPU of ``harvest --help`` and ``harvest status`` beside the bare interpreter

The sources are three Prometheus (the demo's, three metrics of three services each) and a PostgreSQL log.
CPU of a process that lives is read from the scheduler's own account (``/proc/PID/task/*/schedstat``), in nanoseconds.
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

HARVEST = [sys.executable, "-m", "harvester.cli"]

METRICS = """
[[sources.{source}.metrics]]
name = "latency"
shape = "distribution"
unit = "seconds"
better = "lower"
buckets = 'http_request_duration_seconds_bucket{{$selector}}'
step_seconds = 300

[[sources.{source}.metrics]]
name = "error_ratio"
shape = "ratio"
better = "lower"
numerator = 'http_requests_total{{$selector,code=~"5.."}}'
denominator = 'http_requests_total{{$selector}}'
step_seconds = 300

[[sources.{source}.metrics]]
name = "request_rate"
shape = "level"
unit = "requests/second"
query = 'sum(rate(http_requests_total{{$selector}}[5m]))'
step_seconds = 300
"""
"""What the demo's Prometheus is asked for: it answers a published list of queries."""

WEEK = """
import sys, threading, time
from datetime import UTC, datetime
from pathlib import Path
from harvester.daemon import Patience, run
from harvester.settings import load
def report(text):
    print(text, time.process_time(), Path("/proc/self/statm").read_text().split()[1], flush=True)
done = 0
import harvester.daemon as daemon
judge = daemon._Daemon._judge
def count(self, end):
    global done
    assert end.said, end
    done += 1
    if done in (100, int(sys.argv[2])):
        report(done)
    if done == int(sys.argv[2]):
        self._commands.put("stop")
    return judge(self, end)
daemon._Daemon._judge = count
child = ["/bin/sh", "-c", "echo '{\\"next_due\\": 0, \\"collected\\": []}'"]
sys.exit(run(lambda: load(Path(sys.argv[1])), now=lambda: datetime.now(UTC), command=child, patience=Patience(least=0.0)))
"""


def cpu_seconds(pid: int) -> float:
    """Return the CPU a living process has used, all its threads."""
    spent = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            spent += int(path.read_text().split()[0])
    return spent / 1e9


def megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def cpu_of(words: list[str], **more: object) -> float:
    """Run a command to its end and return the CPU it took with all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_log(path: Path, until: datetime) -> None:
    """Write a day of a PostgreSQL log, a statement every two seconds."""
    lines = []
    for number in range(43_200):
        at = until - timedelta(seconds=2 * (43_200 - number))
        text = f"SELECT * FROM orders WHERE id = {number}" if number % 3 else f"UPDATE carts SET n = {number} WHERE id = 7"
        lines.append(
            f"{at:%Y-%m-%d %H:%M:%S}.{number % 1000:03d} UTC [4242] shop@shop LOG:  duration: {number % 97 + 0.25:.3f} ms"
            f"  statement: {text}"
        )
    path.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def sources(folder: Path) -> Iterator[Path]:
    """Serve what four sources read, and give the settings that name them."""
    from harvester.demo.company import Company
    from harvester.demo.prometheus import serve

    log = folder / "postgresql.log"
    write_log(log, datetime.now(UTC))
    with serve(Company(seed=1, now=time.time_ns() // 1_000_000)) as url:
        text = [f'[store]\nurl = "sqlite:///{folder / "store.db"}"\n']
        text += [f'[subjects.{name}]\nprometheus = {{ service = "{name}" }}\n' for name in ("checkout", "search", "catalog")]
        for number in range(3):
            text.append(
                f'[sources.prom{number}]\nconnector = "prometheus"\nurl = "{url}"\nreach = "2d"\n'
                + METRICS.format(source=f"prom{number}")
            )
        text.append(
            f'[sources.log]\nconnector = "postgres_slowlog"\npaths = ["{log}"]\nprefix = "%m [%p] %q%u@%d "\n'
            'timezone = "UTC"\n'
        )
        config = folder / "harvester.toml"
        config.write_text("\n".join(text))
        yield config


def idle(config: Path, seconds: float) -> tuple[float, float]:
    """Return memory in MB and CPU seconds an hour of a daemon whose sources are not due."""
    daemon = subprocess.Popen([*HARVEST, "run", "--config", str(config)], stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "log: " in line and "new readings" in line:
                break
            if "warning" in line or "error " in line:
                raise SystemExit(line)
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
        while children.read_text().strip():
            time.sleep(0.1)
        time.sleep(1)
        before, began = cpu_seconds(daemon.pid), time.monotonic()
        time.sleep(seconds)
        if children.read_text().strip():
            raise SystemExit("a source became due meanwhile: measure for less than five minutes")
        return megabytes(daemon.pid), (cpu_seconds(daemon.pid) - before) / (time.monotonic() - began) * 3600
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=30)


def exporter(seconds: float) -> tuple[float, float] | None:
    """Return the same of node_exporter at its usual work, or None where it is not installed."""
    found = shutil.which("node_exporter") or shutil.which("prometheus-node-exporter")
    if found is None:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [found, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(3)
        before, began = cpu_seconds(process.pid), time.monotonic()
        while time.monotonic() - began < seconds:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                answer.read()
            time.sleep(15)
        return megabytes(process.pid), (cpu_seconds(process.pid) - before) / (time.monotonic() - began) * 3600
    finally:
        process.terminate()
        process.wait()


def working(config: Path, repeat: int = 5) -> float:
    """Return the CPU of a child in which all four sources are due, five minutes after the last time."""
    from harvester.connector import Batch
    from harvester.settings import load
    from harvester.store import Store

    spent = []
    for _ in range(repeat):
        with Store.open(load(config).store.url) as store:
            for source in load(config).sources:
                store.set_due(source, 0)
                state = store.state(f"collect:{source}")
                # As if the last collection had been five minutes ago.
                state["complete"] = {name: at - 300_000 for name, at in state["complete"].items()}
                store.commit(f"collect:{source}", Batch(state=state))
        spent.append(cpu_of([*HARVEST, "tick", "--config", str(config)]))
    return statistics.median(spent)


def week(config: Path, ticks: int) -> tuple[float, float, float]:
    """Return memory in MB after a hundred children and after all, and the daemon's own CPU seconds a child."""
    done = subprocess.run([sys.executable, "-c", WEEK, str(config), str(ticks)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    (_, early_cpu, early), (_, cpu, late) = (line.split() for line in done.stdout.splitlines())
    page = os.sysconf("SC_PAGESIZE") / 2**20
    return int(early) * page, int(late) * page, (float(cpu) - float(early_cpu)) / (ticks - 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to watch an idle process (default 120)")
    parser.add_argument("--ticks", type=int, default=2016, help="children of the simulated week (default 2016)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="harvester-footprint-"))
    figures: dict[str, float] = {}
    try:
        with sources(folder) as config:
            memory, cpu = idle(config, options.seconds)
            figures.update(idle_mb=memory, idle_cpu_seconds_an_hour=cpu)
            print(f"idle      {memory:6.1f} MB   {cpu:6.2f} s CPU an hour      targets 60 MB, 1 s")
            peer = exporter(options.seconds)
            if peer is None:
                print("          node_exporter is not installed: no ratio")
            else:
                figures.update(node_exporter_mb=peer[0], node_exporter_cpu_seconds_an_hour=peer[1])
                print(f"          {peer[0]:6.1f} MB   {peer[1]:6.2f} s               node_exporter, scraped every 15 s")
                print(f"          {memory / peer[0]:6.2f} x    {cpu / peer[1]:6.2f} x")
            child = working(config)
            early, late, each = week(config, options.ticks)
            hour = 12 * (child + each) + cpu
            figures.update(child_cpu_seconds=child, working_cpu_seconds_an_hour=hour, early_mb=early, late_mb=late)
            print(f"working   {child:6.2f} s CPU a child with four sources; {hour:.1f} s an hour at every 5 minutes    target 40 s")
            print(f"flat      {early:6.1f} MB after 100 children, {late:.1f} MB after {options.ticks:,}; {1000 * each:.1f} ms CPU a child")
            bare = statistics.median(cpu_of([sys.executable, "-c", "pass"]) for _ in range(9))
            for name, words, target in (("--help", ["--help"], 80), ("status", ["status", "--config", str(config)], 400)):
                spent = statistics.median(cpu_of([*HARVEST, *words]) for _ in range(9))
                figures[f"{name.strip('-')}_cpu_seconds"] = spent
                print(f"{name:9} {1000 * spent:6.0f} ms CPU, {spent / bare:.1f} x the bare interpreter    target {target} ms")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
