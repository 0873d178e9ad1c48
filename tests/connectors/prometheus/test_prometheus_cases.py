"""
One folder is one case: settings, the exchanges with the server as they were recorded, and the readings expected of them.

``harvester.toml`` holds ``URL`` where the address stands and, in a comment, the window: ``# window: START END``. Each
exchange of ``exchanges.json`` must be asked for once, with exactly its fields. To make a new case, write the settings
and run with ``HARVESTER_RECORD=http://localhost:9090``: exchanges and ``expected.txt`` are written from that server,
and then read by a person.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from werkzeug import Request, Response

from harvester.errors import ConnectorError
from harvester.readings import Counts, Distribution, Level, Ratio, Series, Window, to_datetime, to_milliseconds
from harvester.settings import load

CASES = sorted(path.parent for path in Path(__file__).parent.glob("*/harvester.toml"))
RECORD = os.environ.get("HARVESTER_RECORD", "").rstrip("/")


def fields_of(request: Request) -> dict[str, str]:
    fields = {**request.args.to_dict(), **request.form.to_dict()}
    fields.pop("timeout", None)
    return fields


class Replay:
    """Answers each recorded exchange once, and anything else with 400."""

    def __init__(self, exchanges: list[dict]) -> None:
        self.left = list(exchanges)
        self.unknown: list[str] = []

    def __call__(self, request: Request) -> Response:
        asked = {"path": request.path, "fields": fields_of(request)}
        for index, one in enumerate(self.left):
            if {"path": one["path"], "fields": one["fields"]} == asked:
                del self.left[index]
                body = one["body"] if isinstance(one["body"], str) else compact(one["body"])
                return Response(body, one["status"], one.get("headers"), content_type="application/json")
        self.unknown.append(json.dumps(asked))
        error = {"status": "error", "errorType": "bad_data", "error": "this exchange was not recorded"}
        return Response(json.dumps(error), 400, content_type="application/json")


class Recorder:
    """Hands each request on to a real server and keeps the exchange."""

    def __init__(self) -> None:
        self.exchanges: list[dict] = []

    def __call__(self, request: Request) -> Response:
        fields = fields_of(request)
        data = urlencode(fields).encode() if request.method == "POST" else None
        query = "" if data else f"?{urlencode(fields)}"
        try:
            with urllib.request.urlopen(urllib.request.Request(f"{RECORD}{request.path}{query}", data), timeout=60) as answer:
                status, body = answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            status, body = e.code, e.read().decode()
        self.exchanges.append({"path": request.path, "fields": fields, "status": status, "body": json.loads(body)})
        return Response(body, status, content_type="application/json")

    def text(self) -> str:
        return "[\n" + ",\n".join(compact(one) for one in self.exchanges) + "\n]\n"


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def window_of(settings: str) -> Window:
    start, end = re.search(r"^# window: (\S+) (\S+)$", settings, re.MULTILINE).groups()
    return Window.of(*(to_milliseconds(np.datetime64(one.rstrip("Z"), "ms").item().replace(tzinfo=to_datetime(0).tzinfo)) for one in (start, end)))


def clock(at: int) -> str:
    return f"{to_datetime(at):%d %H:%M:%S}"


def lines_of(batches) -> list[str]:
    """One line a reading, a span of coverage, a note; readings in the order of series and time, whatever the slices."""
    readings: dict[str, list[tuple[int, str]]] = {}
    covered: dict[str, Window] = {}
    notes: list[str] = []
    for batch in batches:
        for one in batch.readings:
            name = f"{type(one).__name__.lower()} {one.series}"
            if one.series.metric.bounds:
                name += " le " + " ".join(f"{bound:g}" for bound in one.series.metric.bounds)
            rows = readings.setdefault(name, [])
            for index, at in enumerate(one.at.tolist()):
                if isinstance(one, Level):
                    values = [one.value[index]]
                elif isinstance(one, Counts):
                    values = [one.number[index]]
                elif isinstance(one, Ratio):
                    values = [one.numerator[index], one.denominator[index]]
                else:
                    assert isinstance(one, Distribution)
                    values = [*one.counts[index], one.total[index]]
                rows.append((at, " ".join(f"{value:.6g}" for value in values)))
        for proof in batch.coverage:
            name = str(Series("", batch_metric(proof.metric), proof.labels)) if proof.labels is not None else f"{proof.metric}, every series"
            covered[name] = covered.get(name, Window()) | proof.window
        notes += [note for note in batch.notes if note not in notes]
    lines = []
    for name in sorted(readings):
        lines.append(name)
        lines += [f"  {clock(at)}  {text}" for at, text in sorted(readings[name])]
    for name in sorted(covered):
        spans = ", ".join(f"{clock(start)} to {clock(end)}" for start, end in covered[name].spans)
        lines.append(f"covered {name}: {spans}")
    return lines + [f"note {note}" for note in notes]


def batch_metric(name: str):
    from harvester.readings import Metric, Shape

    return Metric(name, "1", Shape.LEVEL)


def collect(connector, window: Window) -> list[str]:
    batches = []
    try:
        batches.extend(connector.collect(window, {}))  # keeps what came before an error
    except ConnectorError as e:
        return [*lines_of(batches), f"error {e}"]
    return lines_of(batches)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_recorded_exchanges_give_the_expected_readings(case: Path, httpserver, tmp_path, monkeypatch):
    settings = (case / "harvester.toml").read_text()
    exchanges, expected = case / "exchanges.json", case / "expected.txt"
    server = Recorder() if RECORD and not exchanges.exists() else Replay(json.loads(exchanges.read_text()))
    httpserver.expect_request(re.compile("/.*")).respond_with_handler(server)
    file = tmp_path / "harvester.toml"
    file.write_text(settings.replace("URL", httpserver.url_for("").rstrip("/")))
    monkeypatch.setattr("time.sleep", lambda _: None)
    [connector] = load(file).connectors.values()
    found = "\n".join(collect(connector, window_of(settings))).replace(httpserver.url_for("").rstrip("/"), "URL") + "\n"
    found = found.replace(f"localhost:{httpserver.port}", "HOST")
    if isinstance(server, Recorder):
        exchanges.write_text(server.text())
    else:
        assert not server.unknown, "the connector asked what was not recorded"
    if RECORD and not expected.exists():
        expected.write_text(found)
        pytest.fail(f"{expected} was written; read it, then run again")
    if found != expected.read_text():
        (tmp_path / "found.txt").write_text(found)
        assert found.splitlines() == expected.read_text().splitlines(), f"the new text is {tmp_path / 'found.txt'}"
    if isinstance(server, Replay) and "\nerror " not in f"\n{found}":  # of a refused metric the rest is not asked
        assert not server.left, "these were not asked for"


def test_there_are_cases():
    assert len(CASES) >= 15
