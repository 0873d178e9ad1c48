"""
A connector as a third party would write one, whose source does what a test tells it through files.

    [sources.acme]
    connector = "acme"
    folder = "/tmp/acme"

The folder's file ``mode`` says how the source is: ``ok``, ``down``, ``hang``, ``die``, ``break``, ``slow``. Each
collection adds a line to ``asked``: process, start and end of its window.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harvester.connector import Batch, Connector, Health, State
from harvester.errors import ConnectorError
from harvester.readings import SECOND, Coverage, Metric, Shape, Window


class Acme(Connector):
    """One level with a value for each second: the second itself."""

    folder: Path

    def check(self) -> Health:
        return Health(())

    def definitions(self) -> Sequence[Metric]:
        return (Metric("second", "1", Shape.LEVEL, step_seconds=1),)

    def collect(self, window: Window, state: State) -> Iterator[Batch]:
        import numpy as np

        from harvester.readings import Level, Series

        with (self.folder / "asked").open("a") as file:
            file.write(f"{os.getpid()} {window.start} {window.end}\n")
        mode = (self.folder / "mode").read_text()
        (series,) = (Series(self.source, metric) for metric in self.definitions())
        parts = list(window.split(60 * SECOND))[::-1]
        for number, part in enumerate(parts):
            if mode == "down":
                raise ConnectorError("query", self.source, "connection refused", hint="is it running?", retry=True)
            if number == len(parts) // 2:
                if mode == "break":
                    raise ValueError(os.environ.get("ACME_TOKEN", ""))
                if mode == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                while mode == "hang":
                    try:
                        time.sleep(60)
                    except SystemExit:
                        continue  # it does not let go
            if mode == "slow":
                time.sleep(0.5)
            at = np.arange(-(-part.start // SECOND) * SECOND, part.end, SECOND, dtype=np.int64)
            n = int(state.get("n", 0)) + number + 1
            yield Batch((Level(series, at, at / SECOND),), (Coverage("second", part),), state={"n": n})
