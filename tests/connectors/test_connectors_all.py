"""
What every registered connector owes, whoever wrote it: one suite, driven by the registry.

A new connector adds one entry to ``SOURCES``: a small source that is there, and one that is not.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import socket
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel
from werkzeug import Request, Response

from harvester.connector import Connector
from harvester.errors import ConnectorError
from harvester.readings import DAY, HOUR, Level, Occurrences, Subject, Window
from harvester.registry import connector, connector_names, documentation
from harvester.settings import load

NAMES = connector_names()
SUBJECT = Subject("checkout", (("service", "checkout"),), "PCHECK", ("acme/shop",), "shop")
END = int(datetime.now(UTC).timestamp()) // 3600 * HOUR - 2 * HOUR
WINDOW = Window.of(END - 6 * HOUR, END)


@dataclasses.dataclass(frozen=True)
class Source:
    """Options of a source that answers in ``WINDOW``, and what to change to have one that does not."""

    options: dict[str, object]
    down: dict[str, object]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def prometheus(folder: Path, httpserver) -> Source:
    def answer(request: Request) -> Response:
        if request.path.endswith("query"):
            return Response(
                f'{{"status":"success","data":{{"resultType":"scalar","result":[{time.time()},"{time.time()}"]}}}}',
                content_type="application/json",
            )
        if not request.path.endswith("query_range"):
            return Response('{"status":"success","data":[]}', content_type="application/json")
        # More than was asked for, as from a server that cares little for bounds.
        start, end, step = (int(request.form[name]) for name in ("start", "end", "step"))
        values = [[at, str(at % 7)] for at in range(start - 3 * step, end + 3 * step, step)]
        one = {"metric": {"le": "+Inf"} if "_bucket" in request.form["query"] else {}, "values": values}
        low = {"metric": {"le": "0.5"}, "values": values}
        data = {"resultType": "matrix", "result": [low, one] if one["metric"] else [one]}
        if "stddev" in request.form["query"]:
            data["result"] = []
        return Response(json.dumps({"status": "success", "data": data}), content_type="application/json")

    httpserver.expect_request(re.compile("/.*")).respond_with_handler(answer)
    options = {
        "url": httpserver.url_for("").rstrip("/"),
        "metrics": [
            {"name": "queue", "shape": "level", "unit": "1", "query": "queue{$selector}"},
            {"name": "errors", "shape": "ratio", "numerator": "bad_total{$selector}", "denominator": "all_total{$selector}"},
            {"name": "lost", "shape": "count", "counter": "lost_total{$selector}"},
            {"name": "latency", "shape": "distribution", "unit": "seconds", "buckets": "latency_bucket{$selector}"},
        ],
    }
    return Source(options, {"url": f"http://127.0.0.1:{closed_port()}"})


def postgres_slowlog(folder: Path, httpserver) -> Source:
    log = folder / "postgresql.log"
    start = datetime.fromtimestamp(WINDOW.start / 1000 - 3 * 3600, UTC)
    lines = []
    for minute in range(0, 12 * 60, 5):
        at = start + timedelta(minutes=minute)
        lines.append(
            f"{at:%Y-%m-%d %H:%M:%S}.000 UTC [42] app@shop LOG:  duration: {10 + minute % 7}.000 ms  "
            f"statement: SELECT * FROM orders WHERE id = {minute}\n"
        )
    log.write_text("".join(lines))
    options = {"paths": [str(log)], "prefix": "%m [%p] %q%u@%d ", "timezone": "UTC"}
    return Source(options, {"paths": [str(folder / "absent" / "*.log")]})


SOURCES: dict[str, Callable[..., Source]] = {"prometheus": prometheus, "postgres_slowlog": postgres_slowlog}


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture
def source(name, tmp_path, httpserver) -> Source:
    assert name in SOURCES, f"add a small source for {name} to SOURCES"
    return SOURCES[name](tmp_path, httpserver)


def build(name: str, options: dict[str, object]) -> Connector:
    return connector(name)(source="it", subjects=(SUBJECT,), **options)


def columns(one) -> list[object]:
    """Everything a reading holds, comparable."""
    values = [getattr(one, field.name) for field in dataclasses.fields(one)]
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


def test_there_are_connectors():
    assert {"prometheus", "postgres_slowlog"} <= set(NAMES)


def test_a_connector_has_a_folder_of_tests(name):
    assert list((Path(__file__).parent / name).glob("test_*.py"))


def test_its_documentation_holds_a_sample_that_the_real_settings_load(name, tmp_path):
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", documentation(name) + "\n", re.MULTILINE)
    sample = textwrap.dedent(next(block for block in blocks if "connector = " in block))
    file = tmp_path / "harvester.toml"
    file.write_text(sample)
    [loaded] = load(file).connectors.values()
    assert type(loaded) is connector(name)
    assert loaded.definitions()


def test_its_documentation_names_where_its_facts_come_from(name):
    assert re.search(r"^Source: https://", documentation(name), re.MULTILINE)


def models(kind: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and those its fields are made of."""
    found = {kind}
    for field in kind.model_fields.values():
        for one in re.findall(r"[\w.]+\.(\w+)", str(field.annotation)):
            nested = getattr(inspect.getmodule(kind), one, None)
            if inspect.isclass(nested) and issubclass(nested, BaseModel) and nested not in found:
                found |= models(nested)
    return found


def test_every_option_is_described(name):
    for model in models(connector(name)):
        described = "\n".join(inspect.getdoc(base) or "" for base in model.__mro__ if issubclass(base, BaseModel))
        missing = [
            option for option in model.model_fields
            if not re.search(rf"^\s*{option}: ", described, re.MULTILINE) and f"`{option}`" not in documentation(name)
        ]
        assert not missing, f"{model.__name__} does not say what {missing} are"


def test_the_documentation_mentions_no_option_that_is_not_there(name):
    kind = connector(name)
    options = {option for model in models(kind) for option in model.model_fields}
    assert set(re.findall(r"^- `(\w+)`: ", documentation(name), re.MULTILINE)) <= options | {"statement_duration"}


def test_an_unknown_option_is_an_error_that_names_it(name, source, tmp_path):
    options = {**source.options, "no_such_option": 1}
    text = "\n".join(f"{key} = {toml(value)}" for key, value in options.items())
    file = tmp_path / "harvester.toml"
    file.write_text(f'[subjects.checkout]\nprometheus = {{ service = "checkout" }}\n\n[sources.it]\nconnector = "{name}"\n{text}\n')
    with pytest.raises(Exception, match=r"line \d+, sources.it.no_such_option: unknown key"):
        load(file)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def test_definitions_contact_nothing(name, source, monkeypatch):
    def no_contact(*_, **__):
        raise AssertionError("definitions must not contact anything")

    built = build(name, {**source.options, **source.down})
    monkeypatch.setattr(socket.socket, "connect", no_contact)
    first, again = built.definitions(), built.definitions()
    assert first
    assert [one.definition for one in first] == [one.definition for one in again]
    assert len({one.name for one in first}) == len(first)
    assert all(one.unit and one.query for one in first)


def test_readings_lie_inside_the_window_and_are_of_metrics_it_defines(name, source):
    built = build(name, source.options)
    defined = {metric.name: metric for metric in built.definitions()}
    number = 0
    for batch in built.collect(WINDOW, {}):
        for one in batch.readings:
            metric, number = one.series.metric, number + len(one)
            known = defined[metric.name]
            assert (metric.shape, metric.unit, metric.query) == (known.shape, known.unit, known.query)
            assert one.series.source == "it"
            if isinstance(one, Level):
                assert WINDOW.contains(one.at).all()
            elif isinstance(one, Occurrences):
                assert WINDOW.contains(one.start).all()
            else:
                assert WINDOW.contains_interval(one.at, metric.step).all()
        for proof in batch.coverage:
            assert proof.metric in defined
            assert proof.window
            assert not proof.window - WINDOW
        json.dumps(batch.state)
    assert number > 5


def test_the_same_window_gives_the_same_readings_and_coverage(name, source):
    runs = [
        [
            (sorted(map(repr, map(columns, batch.readings))), sorted(map(repr, batch.coverage)))
            for batch in build(name, source.options).collect(WINDOW, {})
        ]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert any(readings for readings, _ in runs[0])


def test_a_window_before_anything_was_held_proves_nothing(name, source, httpserver):
    if "url" in source.options:
        httpserver.clear()
        empty = {"status": "success", "data": {"resultType": "matrix", "result": []}}
        httpserver.expect_request(re.compile("/.*")).respond_with_json(empty)
    long_ago = Window.of(WINDOW.start - 400 * DAY, WINDOW.start - 399 * DAY)
    for batch in build(name, source.options).collect(long_ago, {}):
        assert not batch.readings
        assert not [proof for proof in batch.coverage if proof.window]


def test_a_source_that_is_down_gives_a_connector_error_with_a_hint(name, source):
    built = build(name, {**source.options, **source.down})
    with pytest.raises(ConnectorError) as caught:
        list(built.collect(WINDOW, {}))
    assert caught.value.hint
    assert re.search(r"\bit\b", caught.value.target), "it does not say which source"
    assert "\n" not in str(caught.value)


def test_check_never_raises_and_tells_a_source_that_is_down_from_one_that_is_not(name, source):
    assert build(name, source.options).check().ok
    health = build(name, {**source.options, **source.down}).check()
    assert not health.ok
    assert [finding.hint for finding in health.findings if finding.level == "failed" and finding.hint]


def test_an_empty_window_asks_for_nothing_and_yields_nothing(name, source):
    batches = list(build(name, source.options).collect(Window(), {}))
    assert not [one for batch in batches for one in (*batch.readings, *batch.coverage)]


def test_importing_a_connector_leaves_heavy_packages_alone(name):
    import subprocess
    import sys

    module = connector(name).__module__
    script = f"import sys, {module}; print([name for name in ('numpy', 'requests', 'scipy', 'sqlalchemy', 'postgast') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


