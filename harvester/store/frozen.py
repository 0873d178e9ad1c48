"""
Frozen copies: readings as bytes whose address is a hash of what they say, not of how they were compressed.

``length, head, bodies``: the head is JSON (window; for each series its metric, coverage and the SHA-256 of its raw
columns), a body is a block over all days. The address is the SHA-256 of the head without the lengths of the bodies, so
that the same readings have the same address whichever version of the compressor kept them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harvester.readings import Occurrences, Readings, Series, Shape, Window
from harvester.store.codec import Columns, columns_of, decode, encode, has_log_buckets, readings_of, trimmed
from harvester.store.texts import identity_of, labels_from, metric_data, metric_from, spans_of, window_from

_FORMAT = 1
_LENGTH = struct.Struct("<I")


class AlteredError(ValueError):
    """The content no longer says what its address says."""


def freeze_content(
    readings: Sequence[Readings], coverage: Mapping[Series, Window], window: Window
) -> tuple[str, bytes]:
    """Return the address and the content of a copy; a series of which only coverage is known is kept too."""
    by_series = {one.series: one for one in readings}
    if len(by_series) != len(readings):
        raise ValueError("a series is to be frozen twice")
    heads, bodies = [], []
    for series in sorted({**by_series, **dict.fromkeys(coverage)}, key=identity_of):
        one = by_series.get(series)
        if one is None:
            body, raw = b"", ""
        elif isinstance(one, Occurrences):
            body = _occurrences_text(one)
            raw = hashlib.sha256(body).hexdigest()
        else:
            columns = columns_of(one)
            columns = trimmed(columns) if has_log_buckets(series) else columns
            body, raw = encode(columns), _raw(columns)
        bodies.append(body)
        heads.append(
            {
                "source": series.source,
                "labels": series.labels,
                "metric": metric_data(series.metric),
                "coverage": spans_of(coverage.get(series, Window())),
                "sha256": raw,
                "bytes": len(body),
            }
        )
    head = {"format": _FORMAT, "window": spans_of(window), "name": window.name, "series": heads}
    text = json.dumps(head, sort_keys=True).encode()
    return _address(head), _LENGTH.pack(len(text)) + text + b"".join(bodies)


def thaw_content(digest: str, content: bytes) -> tuple[Window, list[Readings], dict[Series, Window]]:
    """
    Return window, readings and coverage of a copy.

    Raises:
        AlteredError: if they are not what was frozen under this address.
    """
    try:
        return _thaw(digest, content)
    except AlteredError:
        raise
    except Exception as e:  # bytes that are not ours may break anything: JSON, struct, zlib, the compressor
        raise AlteredError("cannot be decoded") from e


def _thaw(digest: str, content: bytes) -> tuple[Window, list[Readings], dict[Series, Window]]:
    (length,) = _LENGTH.unpack_from(content)
    position = _LENGTH.size + length
    head = json.loads(content[_LENGTH.size : position])
    if _address(head) != digest:
        raise AlteredError("its description was altered")
    readings: list[Readings] = []
    coverage: dict[Series, Window] = {}
    for one in head["series"]:
        series = Series(one["source"], metric_from(one["metric"]), labels_from(one["labels"]))
        body = content[position : position + one["bytes"]]
        position += one["bytes"]
        coverage[series] = window_from(one["coverage"])
        if not one["sha256"]:
            continue
        frozen, raw = _thaw_one(series, body)
        if raw != one["sha256"]:
            raise AlteredError(f"the readings of {series} were altered")
        readings.append(frozen)
    return window_from(head["window"], head["name"]), readings, coverage


def _thaw_one(series: Series, body: bytes) -> tuple[Readings, str]:
    if series.metric.shape is Shape.EVENT:
        ids, revision, start, end, attributes = json.loads(body)
        return (
            Occurrences(
                series, tuple(ids), np.array(revision, np.int64), np.array(start, np.int64), np.array(end, np.int64),
                tuple(attributes),
            ),
            hashlib.sha256(body).hexdigest(),
        )
    columns = decode(body)
    return readings_of(series, columns), _raw(columns)


def _occurrences_text(one: Occurrences) -> bytes:
    columns = [one.revision.tolist(), one.start.tolist(), one.end.tolist()]
    return json.dumps([one.id, *columns, [dict(each) for each in one.attributes]], sort_keys=True).encode()


def _raw(columns: Columns) -> str:
    digest = hashlib.sha256(struct.pack("<QQq", *columns.values.shape, columns.first))
    digest.update(columns.at.astype("<i8").tobytes())
    digest.update(columns.values.astype("<f8").tobytes())
    return digest.hexdigest()


def _address(head: Mapping[str, Any]) -> str:
    said = {**head, "series": [{**one, "bytes": 0} for one in head["series"]]}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
