"""
A range pull against ``custom_query_range`` of prometheus-api-client: same server, same data, same numbers.

    python benchmarks/prometheus.py [--series 200] [--points 11000] [--repeat 3]

Starts a real Prometheus with history made by promtool. Each side runs in a process of its own, after its imports: CPU is
that process's own, peak memory is what its resident set grew to above where it stood after the imports. Four kinds of
values in equal parts: whole numbers, two decimals, seventeen digits, mostly constant. ``collect`` is the connector
from query to readings and coverage; ``pull`` is the answer parsed into columns. ``server's cpu`` is what the Prometheus
itself spent meanwhile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

STEP = 60


def write_history(folder: Path, series: int, points: int, end: int) -> None:
    import numpy as np

    generator = np.random.default_rng(3)
    kinds = [
        lambda n: generator.poisson(2000, n).astype(float),
        lambda n: np.round(generator.gamma(4, 10, n), 2),
        lambda n: generator.lognormal(0, 1, n),
        lambda n: np.where(generator.random(n) < 0.01, 5.0, 4.0),
    ]
    values = [kinds[index % 4](points).tolist() for index in range(series)]
    # Prometheus spreads its scrapes over the interval by a hash of the target: hardly ever do they meet whole minutes.
    at = [end - (points - index) * STEP - 17.25 for index in range(points)]
    for low in range(0, points, 1440):
        lines = ["# TYPE load gauge"]
        for index in range(series):
            name = f'load{{instance="host-{index:03}",job="node",service="checkout"}}'
            lines += [f"{name} {values[index][k]!r} {at[k]:.3f}" for k in range(low, min(points, low + 1440))]
        path = folder / "day.om"
        path.write_text("\n".join([*lines, "# EOF", ""]))
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=24h", path, folder / "data"],
            check=True, capture_output=True,
        )


def serve(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            "--storage.tsdb.retention.time=10y", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2):
                break
        except OSError:
            time.sleep(0.1)
    return process, f"http://127.0.0.1:{port}"


def memory(field: str) -> int:
    """Return ``VmRSS`` or ``VmHWM`` of this process in bytes; unlike ``ru_maxrss`` the peak is not its parent's."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def processor_seconds(pid: int) -> float:
    """Return what a process has used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_side(side: str, url: str, low: int, high: int) -> None:
    """Pull once in this process and print the figures; ``low`` and ``high`` are seconds, both ends included."""
    import numpy as np

    if side == "peer":
        from datetime import UTC, datetime

        from prometheus_api_client import PrometheusConnect

        peer = PrometheusConnect(url)
        arguments = (datetime.fromtimestamp(low, UTC), datetime.fromtimestamp(high, UTC), str(STEP))

        def pull():
            return peer.custom_query_range("load", *arguments)

    elif side == "pull":
        from connectors.prometheus.client import Client

        client = Client("bench", url, timeout_seconds=120)

        def pull():
            return client.query_range("load", low * 1000, high * 1000, STEP).series

    else:
        from connectors.prometheus import Prometheus, client, shapes  # noqa: F401  imported before the clock starts
        from harvester.readings import Window

        ours = Prometheus(
            source="bench", url=url, timeout=120, max_points=11_003,
            metrics=({"name": "load", "shape": "level", "unit": "1", "query": "load"},),
        )

        def pull():
            batches = list(ours.collect(Window.of(low * 1000, (high + STEP) * 1000), {}))
            return [one for batch in batches for one in batch.readings]

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    found = pull()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = memory("VmHWM")
    digests = []
    for one in found:
        if side == "peer":
            labels, pairs = one["metric"], one["values"]
            at, value = [round(float(pair[0]) * 1000) for pair in pairs], [float(pair[1]) for pair in pairs]
        elif side == "pull":
            labels, at, value = one.labels, one.at, one.value
        else:
            labels, at, value = dict(one.series.labels), one.at, one.value
        columns = np.asarray(at, np.int64).tobytes() + np.asarray(value, np.float64).tobytes()
        digests.append(labels["instance"] + hashlib.sha256(columns).hexdigest())
    digest = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
    print(json.dumps({"cpu": cpu, "wall": wall, "grown": peak - before, "peak": peak, "digest": digest, "n": len(found)}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--points", type=int, default=11_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, url, low, high = options.side
        run_side(side, url, int(low), int(high))
        return 0
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        print("skipped: prometheus and promtool are not installed")
        return 0
    end = int(time.time()) // 3600 * 3600 - 3600
    with tempfile.TemporaryDirectory() as name:
        write_history(Path(name), options.series, options.points, end)
        process, url = serve(Path(name))
        try:
            figures = {}
            for side in ("peer", "pull", "collect"):
                command = [sys.executable, __file__, "--side", side, url, str(end - options.points * STEP), str(end - STEP)]
                runs = []
                for _ in range(options.repeat):
                    used = processor_seconds(process.pid)
                    runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                    runs[-1]["server"] = processor_seconds(process.pid) - used
                figures[side] = {key: min(run[key] for run in runs) for key in runs[0]}
        finally:
            process.terminate()
            process.wait(20)
    peer = figures["peer"]
    print(f"{options.series} series x {options.points} points, best of {options.repeat}; ratio to custom_query_range")
    for side, one in figures.items():
        print(
            f"{side:8} cpu {one['cpu']:6.3f} s ({one['cpu'] / peer['cpu']:.3f})   wall {one['wall']:6.3f} s "
            f"({one['wall'] / peer['wall']:.3f})   memory +{one['grown'] / 1e6:6.1f} MB ({one['grown'] / peer['grown']:.3f})"
            f"   whole process {one['peak'] / 1e6:6.1f} MB ({one['peak'] / peer['peak']:.3f})"
            f"   server's cpu {one['server']:5.2f} s ({one['server'] / peer['server']:.3f})"
        )
    same = all(one["digest"] == peer["digest"] and one["n"] == options.series for one in figures.values())
    print("same numbers" if same else "THE NUMBERS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
