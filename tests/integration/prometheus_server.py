"""A real Prometheus on loopback, with history made by promtool."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from harvester.readings import DAY

Family = tuple[str, str, Mapping[str, str], np.ndarray, list[float]]
"""Type, name, labels, instants in milliseconds, values."""


def write_blocks(folder: Path, families: Sequence[Family]) -> None:
    """Write history below ``folder/data``, one file a day: promtool keeps what a file holds in memory."""
    first = min(int(at[0]) for _, _, _, at, _ in families) // DAY
    last = max(int(at[-1]) for _, _, _, at, _ in families) // DAY
    for day in range(first, last + 1):
        text: list[str] = []
        seen: set[str] = set()
        for kind, name, labels, at, values in families:
            low, high = np.searchsorted(at, [day * DAY, (day + 1) * DAY])
            if low == high:
                continue
            family = name
            for ending in ("_total", "_bucket", "_sum", "_count"):
                family = family.removesuffix(ending)
            if family not in seen:
                seen.add(family)
                text.append(f"# TYPE {family} {kind}")
            inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
            text += [
                f"{name}{{{inside}}} {value!r} {stamp / 1000:.3f}"
                for stamp, value in zip(at[low:high].tolist(), values[low:high], strict=True)
            ]
        path = folder / f"{day}.om"
        path.write_text("\n".join([*text, "# EOF", ""]))
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=24h", path, folder / "data"],
            check=True, capture_output=True, timeout=120,
        )


@contextmanager
def running_prometheus(folder: Path) -> Iterator[str]:
    """Serve ``folder/data`` and give the address; it scrapes nothing."""
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
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{url}/-/ready", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("Prometheus did not become ready in 30 s")
        yield url
    finally:
        process.terminate()
        process.wait(20)


def version_of(url: str) -> str:
    """Return what a server says of its version."""
    with urllib.request.urlopen(f"{url}/api/v1/status/buildinfo", timeout=5) as answer:
        return str(json.load(answer)["data"]["version"])
