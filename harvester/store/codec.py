"""
One series' readings of one day as bytes, bit for bit.

A block is ``crc32, format, flags, columns, first, t0, step, n``, then the time column (nothing where the readings lie on
``t0 + i * step``, else their step numbers, else milliseconds), then each value column. A value column is
decimal-scaled to int64 when that gives every value back bit for bit, else kept as float64; both by pcodec. Blocks of
few readings stay raw, for a compressor's frame would be larger than they are.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from harvester.readings import Counts, Distribution, Level, Ratio, Readings, Series, Shape

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

FORMAT = 1
_HEADER = struct.Struct("<IBBHiqII")
_LENGTH = struct.Struct("<BI")
_GRID, _STEPS, _TIMES = 0, 1, 2
_RAW = 255
_FLOAT = 254
_LEVEL = 8
_MOST_RAW = 24
_MOST_DECIMALS = 6
_CONFIG = ChunkConfig(compression_level=_LEVEL)


class CodecError(ValueError):
    """The bytes are not a whole block."""


class NewerFormatError(CodecError):
    """The block was written by a newer version."""


@dataclass(frozen=True, slots=True)
class Columns:
    """
    What every columnar shape has in common.

    Attributes:
        at: int64 milliseconds, strictly increasing; shape (n,).
        values: float64 columns; shape (c, n): for a distribution its total, minimum and maximum, then its buckets.
        first: Index of the first bucket column's log bucket.
    """

    at: Int64s
    values: Float64s
    first: int = 0

    def __len__(self) -> int:
        return len(self.at)

    def part(self, low: int, high: int) -> Columns:
        """Return the readings from position ``low`` to ``high``."""
        return Columns(self.at[low:high], self.values[:, low:high], self.first)


def columns_of(readings: Readings) -> Columns:
    """Return the columns of readings of any shape but single occurrences."""
    if isinstance(readings, Level):
        return Columns(readings.at, readings.value[None, :])
    if isinstance(readings, Counts):
        return Columns(readings.at, readings.number[None, :])
    if isinstance(readings, Ratio):
        return Columns(readings.at, np.stack([readings.numerator, readings.denominator]))
    if isinstance(readings, Distribution):
        heads = np.stack([readings.total, readings.minimum, readings.maximum])
        return Columns(readings.at, np.concatenate([heads, readings.counts.T]), readings.first)
    raise TypeError(f"{type(readings).__name__} has no columns")


def readings_of(series: Series, columns: Columns) -> Readings:
    """Return columns as readings of a series, in its metric's shape."""
    shape, values = series.metric.shape, columns.values
    if shape is Shape.LEVEL:
        return Level(series, columns.at, values[0])
    if shape is Shape.COUNT:
        return Counts(series, columns.at, values[0])
    if shape is Shape.RATIO:
        return Ratio(series, columns.at, values[0], values[1])
    return Distribution(series, columns.at, values[3:].T, values[0], values[1], values[2], columns.first)


def empty_columns(series: Series) -> Columns:
    """Return no readings, in the right number of columns."""
    bounds = series.metric.bounds
    count = {Shape.RATIO: 2, Shape.DISTRIBUTION: 3 + (len(bounds) + 1 if bounds else 0)}.get(series.metric.shape, 1)
    return Columns(np.empty(0, np.int64), np.empty((count, 0)))


def merge(parts: list[Columns], *, buckets: bool = False) -> Columns:
    """
    Join columns by instant; where two have the same, the later part wins.

    With ``buckets`` the columns after the third are log buckets and are first brought to one range.
    """
    if len(parts) == 1:
        return parts[0]
    if buckets:
        parts = _aligned(parts)
    at = np.concatenate([part.at for part in parts])
    values = np.concatenate([part.values for part in parts], axis=1)
    if len(at) > 1 and not bool((at[1:] > at[:-1]).all()):
        order = np.argsort(at, kind="stable")
        at = at[order]
        last = np.append(at[1:] != at[:-1], True)
        at, values = at[last], values[:, order[last]]
    return Columns(at, values, parts[0].first)


def _aligned(parts: list[Columns]) -> list[Columns]:
    filled = [part for part in parts if len(part.values) > 3] or parts
    first = min(part.first for part in filled)
    width = max(part.first + len(part.values) - 3 for part in filled) - first
    aligned = []
    for part in parts:
        values = np.zeros((3 + width, len(part.at)))
        values[:3] = part.values[:3]
        if len(part.values) > 3:
            offset = 3 + part.first - first
            values[offset : offset + len(part.values) - 3] = part.values[3:]
        aligned.append(Columns(part.at, values, first))
    return aligned


def trimmed(columns: Columns) -> Columns:
    """Return log-bucket columns without the empty buckets at both ends."""
    used = np.flatnonzero(columns.values[3:].any(axis=1))
    if not len(used):
        return Columns(columns.at, columns.values[:3], 0)
    low, high = int(used[0]), int(used[-1]) + 1
    return Columns(columns.at, np.concatenate([columns.values[:3], columns.values[3 + low : 3 + high]]), columns.first + low)


def encode(columns: Columns, step: int) -> bytes:
    """Return the block of columns whose readings are ``step`` milliseconds apart, if they are."""
    at, values = columns.at, columns.values
    n, start = len(at), int(at[0]) if len(at) else 0
    offsets = at - start
    numbers, rest = np.divmod(offsets, step)
    small = n <= _MOST_RAW
    if rest.any():
        time, flags = _pack_integers(offsets, small), _TIMES
    elif n and int(numbers[-1]) != n - 1:
        time, flags = _pack_integers(numbers, small), _STEPS
    else:
        time, flags = b"", _GRID
    heads = [_pack(column, small) for column in values[:3]]
    body = [_pack(np.ascontiguousarray(values[3:]).ravel(), small)] if len(values) > 3 else []
    head = _HEADER.pack(0, FORMAT, flags, len(values), columns.first, start, step, n)[4:]
    content = b"".join([head, time, *heads, *body])
    return struct.pack("<I", zlib.crc32(content)) + content


def decode(data: bytes) -> Columns:
    """
    Return the columns of a block.

    Raises:
        NewerFormatError: if a newer version wrote it.
        CodecError: if its checksum does not hold.
    """
    if len(data) < _HEADER.size:
        raise CodecError("cut short")
    crc, form, flags, count, first, start, step, n = _HEADER.unpack_from(data)
    if zlib.crc32(memoryview(data)[4:]) != crc:
        raise CodecError("checksum does not hold")
    if form > FORMAT:
        raise NewerFormatError(f"block format {form}; this version reads up to {FORMAT}")
    position = _HEADER.size
    if flags == _GRID:
        at = np.arange(start, start + n * step, step, dtype=np.int64) if n else np.empty(0, np.int64)
    else:
        offsets, position = _unpack(data, position)
        at = start + offsets.astype(np.int64) * (step if flags == _STEPS else 1)
    if count == 1:
        column, position = _unpack(data, position)
        return Columns(at, column[None, :], first)
    values = np.empty((count, n))
    for index in range(min(count, 3)):
        values[index], position = _unpack(data, position)
    if count > 3:
        body, position = _unpack(data, position)
        values[3:] = body.reshape(count - 3, n)
    return Columns(at, values, first)


def _pack_integers(column: NDArray[np.int64], small: bool) -> bytes:
    if small:
        return _frame(_RAW, column.astype("<f8").tobytes())
    return _frame(0, standalone.simple_compress(column, _CONFIG))


def _pack(column: Float64s, small: bool) -> bytes:
    if small and column.size <= 4 * _MOST_RAW:
        return _frame(_RAW, column.astype("<f8").tobytes())
    scaled = decimal_scaled(column)
    if scaled is None:
        return _frame(_FLOAT, standalone.simple_compress(np.ascontiguousarray(column), _CONFIG))
    decimals, integers = scaled
    return _frame(decimals, standalone.simple_compress(integers, _CONFIG))


def _frame(kind: int, content: bytes) -> bytes:
    return _LENGTH.pack(kind, len(content)) + content


def _unpack(data: bytes, position: int) -> tuple[Float64s, int]:
    kind, length = _LENGTH.unpack_from(data, position)
    position += _LENGTH.size
    content = data[position : position + length]
    position += length
    if kind == _RAW:
        return np.frombuffer(content, "<f8").astype(np.float64), position
    column = standalone.simple_decompress(content)
    if column is None:
        raise CodecError("an empty column")
    if kind == _FLOAT:
        return np.asarray(column, np.float64), position
    values = np.asarray(column).astype(np.float64)
    return (values / 10.0**kind if kind else values), position


def decimal_scaled(column: Float64s) -> tuple[int, NDArray[np.int64]] | None:
    """Return ``(d, column * 10**d as int64)`` for the smallest d that gives every value back bit for bit, or None."""
    if not bool(np.isfinite(column).all()) or (column.size and float(np.abs(column).max()) >= 2.0**52):
        return None
    bits = column.view(np.int64)
    probe = column[:: max(1, column.size // 32)]
    for decimals in range(_MOST_DECIMALS + 1):
        scale = 10.0**decimals
        if not bool((np.rint(probe * scale) / scale == probe).all()):
            continue
        integers = np.rint(column * scale)
        if float(np.abs(integers).max(initial=0.0)) < 2.0**53 and bool(((integers / scale).view(np.int64) == bits).all()):
            return decimals, integers.astype(np.int64)
    return None
