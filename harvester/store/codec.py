"""
One series' readings of one day as bytes, bit for bit; and the rows that wait to be folded into such days.

A block is ``crc32, format, flags, columns, first, t0, step, n``, then the time column (nothing where the readings lie
on ``t0 + i * step``, else the number of steps each lies after ``t0``), then each value column. The step is the largest
that fits all of them, so that a scrape interval of any length is found and stray times cost their own digits only. A
value column is decimal-scaled to int64 when that gives every value back bit for bit (NaN apart, as a bitmap), else kept
as float64; both by pcodec. Blocks of few readings stay raw, for a compressor's frame would be larger than they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, ModeSpec, standalone

from harvester.readings import Counts, Distribution, Level, Ratio, Readings, Series, Shape

if TYPE_CHECKING:
    from harvester.readings import Float64s, Int64s

FORMAT = 1
_HEADER = struct.Struct("<IBBHiqqI")
_LENGTH = struct.Struct("<BI")
_GRID, _STEPS = 0, 1
_FLOAT = 32
_RAW = 33
_HOLES = 64
_LEVEL = 6  # 8 takes twice the time for two bytes in a thousand
_MOST_RAW = 24
_SCALES = 10.0 ** np.arange(13)[:, None]
_CONFIG = ChunkConfig(compression_level=_LEVEL)
# Left to itself it takes times for multiples of the step with a remainder, which cost ten times as much.
_TIME_CONFIG = ChunkConfig(compression_level=_LEVEL, mode_spec=ModeSpec.classic())

HEADS = 3
"""Columns of a distribution before its buckets: total, minimum, maximum."""


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
    """Return the columns of readings of any shape but single occurrences; every NaN becomes the one NaN."""
    if isinstance(readings, Level):
        values = readings.value[None, :]
    elif isinstance(readings, Counts):
        values = readings.number[None, :]
    elif isinstance(readings, Ratio):
        values = np.stack([readings.numerator, readings.denominator])
    elif isinstance(readings, Distribution):
        heads = np.stack([readings.total, readings.minimum, readings.maximum])
        values = np.concatenate([heads, readings.counts.T])
    else:
        raise TypeError(f"{type(readings).__name__} has no columns")
    values = np.asarray(values, np.float64)
    nan = np.isnan(values)
    if nan.any():
        values = np.where(nan, np.nan, values)
    return Columns(readings.at, values, readings.first if isinstance(readings, Distribution) else 0)


def readings_of(series: Series, columns: Columns) -> Readings:
    """Return columns as readings of a series, in its metric's shape."""
    shape, values = series.metric.shape, columns.values
    if shape is Shape.LEVEL:
        return Level(series, columns.at, values[0])
    if shape is Shape.COUNT:
        return Counts(series, columns.at, values[0])
    if shape is Shape.RATIO:
        return Ratio(series, columns.at, values[0], values[1])
    return Distribution(series, columns.at, values[HEADS:].T, values[0], values[1], values[2], columns.first)


def empty_columns(series: Series) -> Columns:
    """Return no readings, in the right number of columns."""
    bounds = series.metric.bounds
    count = {Shape.RATIO: 2, Shape.DISTRIBUTION: HEADS + (len(bounds) + 1 if bounds else 0)}.get(series.metric.shape, 1)
    return Columns(np.empty(0, np.int64), np.empty((count, 0)))


def has_log_buckets(series: Series) -> bool:
    """Tell whether the series' columns are log buckets, which begin and end where its values do."""
    return series.metric.shape is Shape.DISTRIBUTION and not series.metric.bounds


def merge(parts: Sequence[Columns], *, buckets: bool = False) -> Columns:
    """
    Join columns by instant; where two have the same, the later part wins.

    With ``buckets`` the columns after the third are log buckets and are brought to the range they use together.
    """
    if buckets:
        parts = aligned(parts)
    at, values = parts[0].at, parts[0].values
    if len(parts) > 1:
        at = np.concatenate([part.at for part in parts])
        values = np.concatenate([part.values for part in parts], axis=1)
    if len(at) > 1 and not bool((at[1:] > at[:-1]).all()):
        order = np.argsort(at, kind="stable")
        at = at[order]
        last = np.append(at[1:] != at[:-1], True)
        at, values = at[last], values[:, order[last]]
    whole = Columns(at, values, parts[0].first)
    return trimmed(whole) if buckets else whole


def aligned(parts: Sequence[Columns]) -> list[Columns]:
    """Return log-bucket columns brought to one range of buckets."""
    filled = [part for part in parts if len(part.values) > HEADS]
    if not filled or all(len(part.values) == len(parts[0].values) and part.first == parts[0].first for part in parts):
        return list(parts)
    first = min(part.first for part in filled)
    width = max(part.first + len(part.values) - HEADS for part in filled) - first
    result = []
    for part in parts:
        values = np.zeros((HEADS + width, len(part.at)))
        values[:HEADS] = part.values[:HEADS]
        if len(part.values) > HEADS:
            offset = HEADS + part.first - first
            values[offset : offset + len(part.values) - HEADS] = part.values[HEADS:]
        result.append(Columns(part.at, values, first))
    return result


def trimmed(columns: Columns) -> Columns:
    """Return log-bucket columns without the empty buckets at both ends."""
    used = np.flatnonzero(columns.values[HEADS:].any(axis=1))
    if not len(used):
        return Columns(columns.at, columns.values[:HEADS], 0)
    low, high = int(used[0]), int(used[-1]) + 1
    if high - low == len(columns.values) - HEADS:
        return columns
    values = np.concatenate([columns.values[:HEADS], columns.values[HEADS + low : HEADS + high]])
    return Columns(columns.at, values, columns.first + low)


def differing(before: Columns, after: Columns, *, buckets: bool = False) -> NDArray[np.bool_]:
    """Return which readings of ``after`` are new or other than ``before``, bit for bit; shape (n,) of ``after``."""
    if not len(before):
        return np.ones(len(after), bool)
    if buckets:
        before, after = aligned([before, after])
    place = np.minimum(np.searchsorted(before.at, after.at), len(before) - 1)
    same = before.at[place] == after.at
    left = np.ascontiguousarray(before.values[:, place]).view(np.int64)
    right = np.ascontiguousarray(after.values).view(np.int64)
    other: NDArray[np.bool_] = ~(same & (left == right).all(axis=0))
    return other


# ---------------------------------------------------------------------------------------------------------------------
# Blocks
# ---------------------------------------------------------------------------------------------------------------------


def encode(columns: Columns) -> bytes:
    """Return the block of columns."""
    at, values = columns.at, columns.values
    n, start = len(at), int(at[0]) if len(at) else 0
    small = n <= _MOST_RAW
    gaps = at[1:] - at[:-1]
    step = int(np.gcd.reduce(gaps)) if n > 1 else 1
    if bool((gaps == step).all()):
        time, flags = b"", _GRID
    else:
        time, flags = _pack_integers((at - start) // step, small), _STEPS
    heads = [_pack(column, small) for column in values[:HEADS]]
    body = [_pack(np.ascontiguousarray(values[HEADS:]).ravel(), small)] if len(values) > HEADS else []
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
    _checked(data, _HEADER.size)
    _, _, flags, count, first, start, step, n = _HEADER.unpack_from(data)
    position = _HEADER.size
    if flags == _GRID:
        at = np.arange(start, start + n * step, step, dtype=np.int64) if n else np.empty(0, np.int64)
    else:
        numbers, position = _unpack(data, position)
        at = start + numbers.astype(np.int64) * step
    if count == 1:
        column, position = _unpack(data, position)
        return Columns(at, column[None, :], first)
    values = np.empty((count, n))
    for index in range(min(count, HEADS)):
        values[index], position = _unpack(data, position)
    if count > HEADS:
        body, position = _unpack(data, position)
        values[HEADS:] = body.reshape(count - HEADS, n)
    return Columns(at, values, first)


def _checked(data: bytes, least: int) -> None:
    if len(data) < least:
        raise CodecError("cut short")
    if zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        raise CodecError("checksum does not hold")
    if data[4] > FORMAT:
        raise NewerFormatError(f"block format {data[4]}; this version reads up to {FORMAT}")


def _pack_integers(column: NDArray[np.int64], small: bool) -> bytes:
    if small:
        return _frame(_RAW, column.astype("<f8").tobytes())
    return _frame(0, standalone.simple_compress(column, _TIME_CONFIG))


def _pack(column: Float64s, small: bool) -> bytes:
    if small and column.size <= 4 * _MOST_RAW:
        return _frame(_RAW, column.astype("<f8").tobytes())
    holes = np.isnan(column)
    mask, kind = b"", 0
    if holes.any():
        bitmap = zlib.compress(np.packbits(holes).tobytes(), 9)
        mask, kind = struct.pack("<I", len(bitmap)) + bitmap, _HOLES
        column = _filled(column, holes)
    scaled = decimal_scaled(column)
    if scaled is None:
        return _frame(_FLOAT | kind, mask + standalone.simple_compress(np.ascontiguousarray(column), _CONFIG))
    decimals, integers = scaled
    return _frame(decimals | kind, mask + standalone.simple_compress(integers, _CONFIG))


def _filled(column: Float64s, holes: NDArray[np.bool_]) -> Float64s:
    """Return the column with each hole repeating its neighbour, which costs the compressor least."""
    known = np.flatnonzero(~holes)
    if not len(known):
        return np.zeros(len(column))
    before = np.searchsorted(known, np.arange(len(column)), side="right") - 1
    return column[known[np.maximum(before, 0)]]


def _frame(kind: int, content: bytes) -> bytes:
    return _LENGTH.pack(kind, len(content)) + content


def _unpack(data: bytes, position: int) -> tuple[Float64s, int]:
    kind, length = _LENGTH.unpack_from(data, position)
    position += _LENGTH.size
    content = data[position : position + length]
    position += length
    if kind == _RAW:
        return np.frombuffer(content, "<f8").astype(np.float64), position
    if kind & _HOLES:
        (size,) = struct.unpack_from("<I", content)
        bitmap = np.frombuffer(zlib.decompress(content[4 : 4 + size]), np.uint8)
        values = _unscaled(content[4 + size :], kind & ~_HOLES)
        values[np.unpackbits(bitmap, count=len(values)).astype(bool)] = np.nan
        return values, position
    return _unscaled(content, kind), position


def _unscaled(content: bytes, decimals: int) -> Float64s:
    """Return the values of a column kept with that many decimals, or as ``_FLOAT``."""
    values: Float64s = _decompressed(content).astype(np.float64, copy=False)
    if decimals and decimals != _FLOAT:
        values /= 10.0**decimals
    return values


def _decompressed(content: bytes) -> NDArray[np.generic]:
    column: NDArray[np.generic] | None = standalone.simple_decompress(content)
    if column is None:
        raise CodecError("an empty column")
    return column


def decimal_scaled(column: Float64s) -> tuple[int, NDArray[np.int64]] | None:
    """
    Return ``(d, column * 10**d as int64)`` for the smallest d that gives every value back bit for bit, or None.

    A decimal of up to 15 digits is the correctly rounded quotient of two exact integers, so one division restores it.
    """
    if not bool(np.isfinite(column).all()):
        return None
    largest = float(np.abs(column).max(initial=0.0))
    probe = column[:: max(1, column.size // 32)]
    scales = _SCALES[: int(np.searchsorted(_SCALES[:, 0], 2.0**53 / max(largest, 1.0)))]
    possible = (np.rint(probe * scales) / scales == probe).all(axis=1)
    bits = column.view(np.int64)
    for decimals in np.flatnonzero(possible).tolist():
        scale = 10.0**decimals
        integers = np.rint(column * scale).astype(np.int64)
        # Compared as bits and after int64, for a negative zero has to come back as one.
        if np.array_equal((integers / scale).view(np.int64), bits):
            return decimals, integers
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Rows that wait
# ---------------------------------------------------------------------------------------------------------------------

_ROWS = struct.Struct("<IBI")
_SECTION = struct.Struct("<HiI")


@dataclass(frozen=True, slots=True)
class Rows:
    """
    Readings of several series in the columns they share.

    Attributes:
        number: Each reading's series; int64, shape (n,).
        columns: The readings; their instants rise within a series only.
    """

    number: Int64s
    columns: Columns


def encode_rows(entries: Iterable[tuple[int, Columns]]) -> bytes:
    """Return the readings of several series, given as (number of the series, readings), as one checksummed row."""
    sections: dict[tuple[int, int], list[tuple[int, Columns]]] = {}
    for number, columns in entries:
        sections.setdefault((len(columns.values), columns.first), []).append((number, columns))
    body = []
    for (count, first), group in sections.items():
        numbers = np.repeat([number for number, _ in group], [len(columns) for _, columns in group])
        at = np.concatenate([columns.at for _, columns in group])
        values = np.concatenate([columns.values for _, columns in group], axis=1)
        body.append(_SECTION.pack(count, first, len(at)))
        body += [numbers.astype("<i8").tobytes(), at.astype("<i8").tobytes(), values.astype("<f8").tobytes()]
    packed = zlib.compress(b"".join(body), 1)
    content = _ROWS.pack(0, FORMAT, len(sections))[4:] + packed
    return struct.pack("<I", zlib.crc32(content)) + content


def decode_rows(data: bytes) -> list[Rows]:
    """
    Return what ``encode_rows`` was given, one entry for each number of columns.

    Raises:
        NewerFormatError: if a newer version wrote it.
        CodecError: if its checksum does not hold.
    """
    _checked(data, _ROWS.size)
    _, _, count = _ROWS.unpack_from(data)
    body = zlib.decompress(data[_ROWS.size :])
    result, position = [], 0
    for _ in range(count):
        width, first, n = _SECTION.unpack_from(body, position)
        position += _SECTION.size
        number = np.frombuffer(body, "<i8", n, position).astype(np.int64)
        at = np.frombuffer(body, "<i8", n, position + 8 * n).astype(np.int64)
        values = np.frombuffer(body, "<f8", width * n, position + 16 * n).astype(np.float64).reshape(width, n)
        position += (16 + 8 * width) * n
        result.append(Rows(number, Columns(at, values, first)))
    return result
