"""
The store as a process: one JSON request a line on stdin, one answer a line on stdout.

    {"op": "open", "dir": D}                   make or open the store in a folder
    {"op": "ingest", "csv": F}                 header series,ts_ms,value; answered once it would survive a power cut
    {"op": "read", "series": [..], "t0": ms, "t1": ms, "out": F}
                                               [t0, t1) of each series as ts_0, v_0, ts_1, v_1 .. in an .npz
    {"op": "sync"}                             fold, compact, and bring the write-ahead log into the file
    {"op": "quit"}

An answer holds ``"ok"``; a failed request ``"error"`` besides; a read ``"ms"``, the time from the request to the arrays.
Of equal instants the later row wins, and a later file over an earlier one. A series nobody wrote is read as no samples.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from store_csv import read_samples

from harvester.connector import Batch
from harvester.readings import Level, Metric, Series, Shape, Window
from harvester.store import Store

METRIC = Metric("sample", "1", Shape.LEVEL)


class RequestError(ValueError):
    """A request that asks for nothing that can be done."""


def series_of(name: str) -> Series:
    return Series("csv", METRIC, (("name", name),))


class Adapter:
    """Answers requests over one open store."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self.done = False

    @property
    def store(self) -> Store:
        if self._store is None:
            raise RequestError("no store is open")
        return self._store

    def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to a request, whatever it is."""
        started = time.perf_counter()
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RequestError("a request is a JSON object")
            work = getattr(self, f"do_{request.get('op')}", None)
            if work is None:
                raise RequestError(f"unknown op {request.get('op')!r}")
            return {"ok": True, **work(request, started)}
        except KeyError as e:
            return {"ok": False, "error": f"the request has no {e.args[0]}"}
        except OSError as e:
            return {"ok": False, "error": f"{e.filename}: {e.strerror}"}
        except Exception as e:  # noqa: BLE001  it answers, and goes on
            return {"ok": False, "error": f"{e}" or type(e).__name__}

    def do_open(self, request: Mapping[str, Any], _: float) -> dict[str, Any]:
        folder = Path(request["dir"])
        folder.mkdir(parents=True, exist_ok=True)
        self.close()
        self._store = Store.open(str(folder / "store.db"))
        return {}

    def do_ingest(self, request: Mapping[str, Any], started: float) -> dict[str, Any]:
        store = self.store
        columns = [Level(series_of(name), at, value) for name, at, value in read_samples(Path(request["csv"])).by_series()]
        written = store.commit("csv", Batch(tuple(columns)), full_sync=True)
        return {"samples": sum(map(len, columns)), "changed": written.readings, "ms": 1000 * (time.perf_counter() - started)}

    def do_read(self, request: Mapping[str, Any], started: float) -> dict[str, Any]:
        names, low, high, out = request["series"], int(request["t0"]), int(request["t1"]), Path(request["out"])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RequestError("series is a list of names")
        found = self.store.read([series_of(name) for name in names], Window.of(low, high))
        took = 1000 * (time.perf_counter() - started)
        arrays = {}
        for place, one in enumerate(found):
            arrays[f"ts_{place}"], arrays[f"v_{place}"] = one.at, one.value
        aside = out.with_name(f"{out.name}.writing")
        with aside.open("wb") as file:
            np.savez(file, **arrays)
        aside.replace(out)
        return {"ms": took, "samples": sum(map(len, found))}

    def do_sync(self, _: Mapping[str, Any], __: float) -> dict[str, Any]:
        self.store.sync(compact=True)
        return {}

    def do_quit(self, _: Mapping[str, Any], __: float) -> dict[str, Any]:
        self.done = True
        return {}

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None


def main(requests: BinaryIO, answers: BinaryIO) -> int:
    adapter = Adapter()
    for line in requests:
        if not line.strip():
            continue
        answer = adapter.answer(line)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        if adapter.done:
            break
    adapter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
