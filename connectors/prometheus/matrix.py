"""
The answer of ``query_range`` as columns, read from the stream without an object per sample.

The body is cut at each series; its numbers go straight into an array, so the whole JSON never stands in memory. The
cut knows the one layout Prometheus, Thanos, Mimir and VictoriaMetrics write; anything else (pretty-printed JSON,
native histograms) is read by the ``json`` module and gives the same result. Around the series, the rest of the body is
parsed as JSON whole: a truncated answer, an error or a warning is never passed over.

Source: https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import from_json

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

_HEAD = re.compile(rb'\{"status":"success",(?:"isPartial":(?:true|false),)?"data":\{"resultType":"matrix","result":\[')
_HEAD_BYTES = 4096
_METRIC = b'{"metric":'
_VALUES = b'},"values":[['
_END = b"]]}"


class MalformedError(ValueError):
    """The body is not the JSON that a range query answers; the text says what it is instead."""


class TooManyError(ValueError):
    """The answer holds more series than are wanted."""


class RefusedError(ValueError):
    """The body is JSON and says that the query failed; the text is the server's own."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """
    One series of an answer.

    Attributes:
        labels: As the server gave them, ``__name__`` included.
        at: Evaluated instants, int64 milliseconds UTC, strictly increasing; shape (n,).
        value: float64; shape (n,).
    """

    labels: Mapping[str, str]
    at: Int64s
    value: Float64s


@dataclass(frozen=True, slots=True)
class Matrix:
    """
    A whole answer.

    Attributes:
        series: One entry a series, in the server's order.
        warnings: What the server said may be missing; not empty means that the answer proves nothing.
        infos: What it remarks on the query's style; says nothing of completeness.
        histograms: How many series carried native histograms, which are not in ``series``.
    """

    series: tuple[Samples, ...]
    warnings: tuple[str, ...] = ()
    histograms: int = 0
    infos: tuple[str, ...] = ()


def parse(chunks: Iterator[bytes], most_series: int = 1_000_000) -> Matrix:
    """
    Read the body of a range query's 200 answer.

    Raises:
        TooManyError: as soon as it holds more series than ``most_series``.
        MalformedError: if it is not such an answer, or ends before its end.
        RefusedError: if it says ``"status": "error"``.
    """
    buffer = bytearray()

    def more() -> bool:
        for chunk in chunks:
            if chunk:
                buffer.extend(chunk)
                return True
        return False

    while buffer.find(b'"result":[') < 0 and len(buffer) < _HEAD_BYTES and more():
        pass
    head = _HEAD.match(buffer)
    if head is None:
        while more():
            pass
        return _limited(_from_document(_loads(bytes(buffer))), most_series)
    prefix = head.group()
    del buffer[: head.end()]
    reader = _Reader()
    found: list[Samples] = []
    while True:
        while len(buffer) < len(_METRIC) and more():
            pass
        if buffer[:1] == b"]":
            break
        if not buffer.startswith(_METRIC):
            return _read_rest(prefix, buffer, more, found, most_series)
        start = _find(buffer, _VALUES, len(_METRIC), more)
        end = -1 if start < 0 else _find(buffer, _END, start + len(_VALUES), more)
        while end > 0 and len(buffer) < end + 4 and more():
            pass
        following = bytes(buffer[end + 3 : end + 4])
        if end < 0 or following not in (b",", b"]"):
            return _read_rest(prefix, buffer, more, found, most_series)
        try:
            labels = json.loads(buffer[len(_METRIC) : start + 1])
            with memoryview(buffer) as view:
                text = view[start + len(_VALUES) : end].tobytes()
            at, value = reader.columns(text)
        except ValueError:  # what was cut is no series of plain samples
            return _read_rest(prefix, buffer, more, found, most_series)
        found.append(Samples(labels, at, value))
        if len(found) > most_series:
            raise _too_many(most_series)
        del buffer[: end + (4 if following == b"," else 3)]
    while more():
        pass
    envelope = _loads(prefix + bytes(buffer))
    return Matrix(tuple(found), _warnings(envelope), infos=_infos(envelope))


def parse_document(body: bytes) -> dict[str, Any]:
    """
    Return the ``data`` of a small answer (instant queries, status pages) with ``warnings`` beside it.

    Raises:
        MalformedError: if it is not a Prometheus answer.
        RefusedError: if it says ``"status": "error"``.
    """
    document = _loads(body)
    return {"data": document.get("data"), "warnings": _warnings(document)}


def _find(buffer: bytearray, token: bytes, start: int, more: Callable[[], bool]) -> int:
    """Return where a token stands from ``start`` on, reading on as needed; -1 if the body ends without it."""
    while (at := buffer.find(token, start)) < 0:
        start = max(start, len(buffer) - len(token) + 1)
        if not more():
            return -1
    return at


class _Reader:
    """Turns the text between ``[[`` and ``]]`` into columns; series on the same instants share one array."""

    def __init__(self) -> None:
        self.instants: list[bytes] = []
        self.at: Int64s = np.empty(0, dtype=np.int64)

    def columns(self, text: bytes) -> tuple[Int64s, Float64s]:
        # 1700000000,"1.5"],[1700000060,"NaN"  splits at the quotes into instants and values in turn.
        pieces = text.split(b'"')
        values, instants = pieces[1::2], pieces[:-1:2]
        if pieces[-1] or len(values) != len(instants):
            raise MalformedError("its samples are not pairs of a time and a quoted value")
        try:
            value = _numbers(values)
            if instants != self.instants:
                self.at = _instants(b"".join(instants))
                self.instants = instants
        except ValueError as e:
            raise MalformedError(f"a sample is not a number: {e}") from e
        if len(self.at) != len(value):
            raise MalformedError("its samples are not pairs of a time and a quoted value")
        return self.at, value


def _numbers(texts: Sequence[bytes]) -> Float64s:
    """
    Return the numbers that texts stand for, bit for bit; shape (n,).

    pydantic's JSON parser reads a list of them three times as fast as ``float`` reads each. What is no plain decimal
    (``NaN``, ``+Inf``), and ``-0``, which it takes for a whole number without a sign, is left to ``float``.
    """
    joined = b"[" + b",".join(texts) + b"]"
    signed = b"-" in joined and (b"-0," in joined or b"-0]" in joined)
    if not signed and not joined.translate(None, b"0123456789.,-[]"):
        try:
            return np.array(from_json(joined), dtype=np.float64)
        except (TypeError, ValueError):
            pass
    return np.fromiter(map(float, texts), np.float64, len(texts))


def _instants(text: bytes) -> Int64s:
    return _milliseconds(_numbers(text.replace(b"],[", b"")[:-1].split(b",")))


def _milliseconds(seconds: Float64s) -> Int64s:
    at: Int64s = np.rint(seconds * 1000).astype(np.int64)
    if len(at) > 1 and not bool((at[1:] > at[:-1]).all()):
        raise MalformedError("its samples are not in order of time")
    return at


def _read_rest(
    prefix: bytes, buffer: bytearray, more: Callable[[], bool], found: list[Samples], most_series: int
) -> Matrix:
    """Read what the cut does not know with the json module, after the series found so far."""
    while more():
        pass
    rest = _from_document(_loads(prefix + bytes(buffer)))
    return _limited(Matrix((*found, *rest.series), rest.warnings, rest.histograms, rest.infos), most_series)


def _limited(matrix: Matrix, most_series: int) -> Matrix:
    if len(matrix.series) > most_series:
        raise _too_many(most_series)
    return matrix


def _too_many(most_series: int) -> TooManyError:
    return TooManyError(f"it yields more than {most_series:,} series")


def _from_document(document: Mapping[str, Any]) -> Matrix:
    data = document.get("data")
    warnings = _warnings(document)
    if not isinstance(data, dict) or data.get("resultType") != "matrix" or not isinstance(data.get("result"), list):
        raise MalformedError("it is JSON, but not the answer of a range query")
    series, histograms = [], 0
    try:
        for one in data["result"]:
            pairs: Sequence[tuple[float, str]] = one.get("values") or ()
            histograms += bool(one.get("histograms"))
            if pairs:
                at = _milliseconds(np.array([pair[0] for pair in pairs], dtype=np.float64))
                value = np.array([float(pair[1]) for pair in pairs], dtype=np.float64)
                series.append(Samples(dict(one["metric"]), at, value))
    except MalformedError:
        raise
    except ValueError as e:
        raise MalformedError(f"a sample is not a number: {e}") from e
    except (AttributeError, IndexError, KeyError, TypeError) as e:
        raise MalformedError(f"a series of it has no {e}") from e
    return Matrix(tuple(series), warnings, histograms, _infos(document))


def _loads(body: bytes) -> dict[str, Any]:
    text = body.lstrip()
    if not text:
        raise MalformedError("the answer is empty")
    if text[:1] == b"<":
        raise MalformedError("it answered with HTML, not JSON")
    try:
        document = json.loads(text)
    except ValueError as e:
        if text[:1] == b"{":
            raise MalformedError(f"the answer breaks off or is damaged after {len(body):,} bytes") from e
        raise MalformedError("it answered with something other than JSON") from e
    if not isinstance(document, dict) or document.get("status") not in ("success", "error"):
        raise MalformedError("it is JSON, but not a Prometheus answer")
    if document["status"] == "error":
        raise RefusedError(f"{document.get('errorType', 'error')}: {document.get('error', 'no reason given')}")
    return document


def _warnings(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the server says may be missing."""
    said = tuple(str(one) for one in document.get("warnings") or ())
    partial = ("the answer is partial (isPartial)",) if document.get("isPartial") else ()
    return said + partial


def _infos(document: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(one) for one in document.get("infos") or ())
