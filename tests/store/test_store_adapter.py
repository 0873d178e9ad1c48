"""The store as a process that speaks JSON lines, and the CSV it takes in."""

from __future__ import annotations

import csv
import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_csv import CsvError, read_samples

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

START = 1_728_000_000_000


class Process:
    def __init__(self) -> None:
        command = [sys.executable, str(BENCHMARKS / "store_adapter.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, line: bytes) -> dict:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ask(self, **request: object) -> dict:
        return self.send(json.dumps(request).encode())

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def adapter() -> Iterator[Process]:
    process = Process()
    try:
        yield process
    finally:
        process.kill()


def write(path: Path, rows: list[tuple[str, int, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("series", "ts_ms", "value"))
        out.writerows(rows)
    return path


def read(adapter: Process, folder: Path, names: list[str], low: int = 0, high: int = 2**60) -> list[tuple[list, list]]:
    out = folder / "out.npz"
    answer = adapter.ask(op="read", series=names, t0=low, t1=high, out=str(out))
    assert answer["ok"], answer
    assert answer["ms"] > 0
    with np.load(out) as found:
        assert len(found.files) == 2 * len(names)
        assert all(found[f"ts_{k}"].dtype == np.int64 and found[f"v_{k}"].dtype == np.float64 for k in range(len(names)))
        return [(found[f"ts_{k}"].tolist(), found[f"v_{k}"].tolist()) for k in range(len(names))]


def test_what_was_ingested_is_read_back_from_a_half_open_window(adapter: Process, tmp_path: Path) -> None:
    odd = 'up{job="a, b",\npath="/ü"}'
    rows = [("b", START + 3, "2.5"), (odd, START, "NaN"), ("b", START + 1, "1"), (odd, START + 9, "-Inf"), ("b", START + 3, "7")]
    assert adapter.ask(op="open", dir=str(tmp_path / "store")) == {"ok": True}
    answer = adapter.ask(op="ingest", csv=str(write(tmp_path / "one.csv", rows)))
    assert (answer["ok"], answer["samples"]) == (True, 4)
    b, other, unknown = read(adapter, tmp_path, ["b", odd, "never"])
    assert b == ([START + 1, START + 3], [1, 7])
    assert other[0] == [START, START + 9]
    assert math.isnan(other[1][0])
    assert other[1][1] == -math.inf
    assert unknown == ([], [])
    assert read(adapter, tmp_path, ["b"], START + 1, START + 3) == [([START + 1], [1])]
    assert read(adapter, tmp_path, ["b"], START + 3, START + 3) == [([], [])]
    assert adapter.ask(op="ingest", csv=str(write(tmp_path / "two.csv", [("b", START + 1, "-0.0")])))["ok"]
    assert adapter.ask(op="sync") == {"ok": True}
    assert math.copysign(1, read(adapter, tmp_path, ["b"])[0][1][0]) == -1
    assert (tmp_path / "store" / "store.db-wal").stat().st_size == 0
    assert adapter.ask(op="quit") == {"ok": True}
    assert adapter.process.wait(10) == 0


def test_what_it_said_ok_to_is_there_after_a_kill(adapter: Process, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = [rng.normal(size=3000).round(3).tolist() for _ in range(3)]
    adapter.ask(op="open", dir=str(tmp_path))
    for turn in range(3):
        rows = [(f"s{k}", START + 60_000 * (n + 3000 * turn), repr(values[k][n])) for n in range(3000) for k in range(3)]
        assert adapter.ask(op="ingest", csv=str(write(tmp_path / "in.csv", rows)))["ok"]
    adapter.kill()
    again = Process()
    try:
        again.ask(op="open", dir=str(tmp_path))
        for k, (at, found) in enumerate(read(again, tmp_path, ["s0", "s1", "s2"])):
            assert at == [START + 60_000 * n for n in range(9000)]
            assert found == values[k] * 3
    finally:
        again.kill()


def test_a_request_that_cannot_be_done_is_answered_and_the_next_one_works(adapter: Process, tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("some,thing,else\n1,2,3\n")
    (tmp_path / "torn.csv").write_text(f"series,ts_ms,value\na,{START},1\na,{START},much\n")
    (tmp_path / "file").touch()
    assert adapter.ask(op="read", series=["a"], t0=0, t1=1, out="x") == {"ok": False, "error": "no store is open"}
    assert adapter.ask(op="open", dir=str(tmp_path / "store"))["ok"]
    for line, error in (
        (b"{", "Expecting"), (b"\xff", "utf-8"), (b"[]", "is a JSON object"), (b'{"op": "drop"}', "unknown op 'drop'"),
        (b"{}", "unknown op None"), (b'{"op": "answer"}', "unknown op"), (b'{"op": "ingest"}', "has no csv"),
    ):
        answer = adapter.send(line)
        assert not answer["ok"]
        assert error in answer["error"], answer
    for request, error in (
        ({"op": "ingest", "csv": str(tmp_path / "none.csv")}, "none.csv: No such file"),
        ({"op": "ingest", "csv": str(tmp_path / "text.csv")}, "its first line is not series,ts_ms,value"),
        ({"op": "ingest", "csv": str(tmp_path / "torn.csv")}, "line 3: b'much' is no number"),
        ({"op": "read", "series": "a", "t0": 0, "t1": 1, "out": "x"}, "series is a list of names"),
        ({"op": "read", "series": ["a"], "t0": None, "t1": 1, "out": "x"}, "int()"),
        ({"op": "read", "series": ["a"], "t0": 0, "t1": 1, "out": str(tmp_path / "no" / "x")}, "No such file"),
        ({"op": "open", "dir": str(tmp_path / "file")}, "File exists"),
    ):
        answer = adapter.ask(**request)
        assert not answer["ok"]
        assert error in answer["error"], answer
    assert read(adapter, tmp_path, ["a"]) == [([], [])]  # nothing of a file that is wrong somewhere


# -- the CSV ----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NUMBERS = (
    st.floats(width=64).map(repr)
    | st.integers(-(10**20), 10**20).map(str)
    | st.decimals(-(10**8), 10**8, places=3, allow_nan=False).map(str)
    | st.from_regex(r"[+-]?[0-9]{1,20}\.[0-9]{0,20}", fullmatch=True)
    | st.sampled_from(["NaN", "+Inf", "-Inf", "inf", "1e300", "-0", ".5", "5.", "+1.25", " 3 ", "1_000"])
)
ROWS = st.lists(st.tuples(NAMES, st.integers(0, 2**45), NUMBERS), max_size=60)


@given(ROWS, st.booleans(), st.integers(100, 3000))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_name_time_and_number_is_read_as_csv_and_float_read_it(
    tmp_path: Path, rows: list[tuple[str, int, str]], all_quoted: bool, chunk: int
) -> None:
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write("series,ts_ms,value\n")
        csv.writer(file, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL).writerows(rows)
    with path.open(newline="", encoding="utf-8") as file:
        expected: dict[str, dict[int, float]] = {}
        for name, at, value in list(csv.reader(file))[1:]:
            expected.setdefault(name, {})[int(at)] = float(value)
    with pytest.MonkeyPatch.context() as small:
        small.setattr("store_csv._CHUNK", chunk)
        found = {name: (at, value) for name, at, value in read_samples(path).by_series()}
    assert found.keys() == expected.keys()
    for name, (at, value) in found.items():
        times = sorted(expected[name])
        assert at.tolist() == times
        wanted = np.array([expected[name][one] for one in times])
        nan = np.isnan(wanted)
        assert (np.isnan(value) == nan).all()
        assert value[~nan].view(np.int64).tolist() == wanted[~nan].view(np.int64).tolist()


def test_decimals_of_any_length_are_rounded_as_float_rounds_them(tmp_path: Path) -> None:
    rng = random.Random(4)
    texts = [repr(rng.uniform(0, 10 ** rng.randint(-3, 6))) for _ in range(20_000)]
    # Digits beyond what a double holds: one in 4,000 comes out wrong when it is rounded twice.
    for _ in range(40_000):
        digits, place = str(rng.randrange(10**18, 10**19)), rng.randint(1, 18)
        texts.append(f"{digits[:place]}.{digits[place:]}")
    rows = [("a", START + k, text) for k, text in enumerate(texts)]
    ((_, _, found),) = read_samples(write(tmp_path / "in.csv", rows)).by_series()
    assert found.tolist() == [float(text) for text in texts]


def test_lines_may_end_in_any_way_and_names_need_no_quotes(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b'\xef\xbb\xbf"series","ts_ms","value"\r\n\r\nup{a="b",c="d"},5,1.5\r\n\nx,6,2\r\n"x",7,3')
    found = {name: (at.tolist(), value.tolist()) for name, at, value in read_samples(path).by_series()}
    assert found == {'up{a="b",c="d"}': ([5], [1.5]), "x": ([6, 7], [2, 3])}
    path.write_text("series,ts_ms,value\n")
    assert list(read_samples(path).by_series()) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a,1,2\na,5\n", r"line 3: is not series,ts_ms,value"), ("a,1,2\n\na,5.5,1\n", r"line 4: b'5\.5' is no time"),
        ("a,1,\n", r"line 2: b'' is no number"), ("a,1,1.2.3\n", "is no number"), ('a,1,2\n"a,1,2\n', "line 3: a quote is never closed"),
        ("a,,1\n", "is no time"), ("a,1,.\n", "is no number"), ("a,1,-\n", "is no number"), ("\n1\n", "line 3: is not"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "in.csv").write_text(f"series,ts_ms,value\n{text}")
    with pytest.raises(CsvError, match=error):
        read_samples(tmp_path / "in.csv")


def test_names_longer_than_any_word_and_a_line_longer_than_a_chunk_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store_csv._CHUNK", 256)
    names = ["n" * 20_000, "n" * 19_999, "n" * 300, "short"]
    rows = [(name, START + k, str(k)) for k in range(3) for name in names]
    found = {name: value.tolist() for name, _, value in read_samples(write(tmp_path / "in.csv", rows)).by_series()}
    assert found == {name: [0, 1, 2] for name in names}
