"""
Samples from CSV (``series,ts_ms,value``) into columns, without an object per row.

Whole chunks of the file are parsed with a few numpy operations on eight bytes at a time. A decimal of up to 15 digits is
the correctly rounded quotient of two exact doubles; one of up to 19 is divided in the processor's 80-bit arithmetic where
there is one, and again by ``float`` in the one case of 2,000 where rounding twice may differ. Everything else (exponents,
infinities, NaN) goes through ``float`` itself. Names may be quoted, and hold anything then.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

HEADER = "series,ts_ms,value"
_CHUNK = 1 << 20
_PAD = 24  # before what is read: eight bytes at a time may begin before the first field
_BEYOND = 8200  # after it: and end after the longest name
_NEWLINE, _RETURN, _COMMA, _QUOTE, _MINUS, _PLUS, _DOT = b'\n\r,"-+.'
_U = np.uint64
_ZEROS = _U(0x3030303030303030)
_TENS = 10.0 ** np.arange(23)
_LONG_TENS = np.cumprod(np.concatenate([[np.longdouble(1)], np.full(27, np.longdouble(10))]))
_LONG = np.finfo(np.longdouble).nmant == 63 and np.dtype(np.longdouble).itemsize == 16
_MOST_DIGITS = 24
_THREADS = min(os.cpu_count() or 1, 4)


def _masks(width: int) -> np.ndarray:
    """For each length up to ``width``: which bytes of the last ``width`` belong to a text that long; words, (w + 1, w/8)."""
    length = np.arange(width + 1)[:, None]
    belongs = np.arange(width)[None, :] >= width - length
    return np.where(belongs, 0xFF, 0).astype(np.uint8).view("<u8")


_LAST = _masks(_MOST_DIGITS)


class CsvError(ValueError):
    """The file is not what its header promises."""


class Samples:
    """Columns of one file: ``names[number[i]]`` is the series of sample i."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._lock = threading.Lock()
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._raw: dict[bytes, int] = {}
        self._hashes = np.empty(0, np.uint64)
        self._ids = np.empty(0, np.int64)
        self._words = np.empty((0, 0), np.uint64)  # by id: the raw name, filled up with zeros
        self._lengths = np.empty(0, np.int64)
        self._factors = np.random.default_rng(11).integers(1, 2**63, 1024, dtype=np.uint64) | _U(1)

    def add(self, number: np.ndarray, at: np.ndarray, value: np.ndarray) -> None:
        self._parts.append((number, at, value))

    def by_series(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Yield (name, rising int64 milliseconds, float64 values) of each series; of equal instants the last one."""
        if not self._parts:
            return
        number, at, value = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        names = dict.fromkeys(self.names)
        if len(names) < len(self.names):  # the same name with quotes and without
            places = {name: place for place, name in enumerate(names)}
            number = np.array([places[name] for name in self.names])[number]
        if len(names) < 1 << 16:
            number = number.astype(np.uint16)  # which numpy sorts by radix
        order = np.argsort(number, kind="stable")
        at, value = at[order], value[order]
        edges = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(names)))]).tolist()
        for name, (low, high) in zip(names, pairwise(edges), strict=True):
            mine, values = at[low:high], value[low:high]
            if not (mine[1:] > mine[:-1]).all():
                order = np.argsort(mine, kind="stable")
                mine, values = mine[order], values[order]
                last = np.append(mine[1:] != mine[:-1], True)
                mine, values = mine[last], values[last]
            yield name, mine, values

    # -- names --------------------------------------------------------------------------------------------------------

    def numbers(self, buffer: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        """Return the number of each row's name; its hash finds the candidate, its bytes are then compared."""
        with self._lock:
            return self._numbers(buffer, start, length)

    def _numbers(self, buffer: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        width = max(1, -(-int(length.max()) // 8))
        if width > len(self._factors):
            return self._slow_numbers(buffer, start, length)
        view = np.ndarray((len(buffer) - 8 * width + 1,), f"V{8 * width}", buffer=buffer, strides=(1,))
        words = view[start].view("<u8").reshape(len(start), width)
        mask = np.where(np.arange(8 * width) < np.arange(8 * width + 1)[:, None], 0xFF, 0).astype(np.uint8).view("<u8")
        if int(length.min()) == int(length.max()):
            words &= mask[int(length[0])]
        else:
            words &= mask[length]
        hashed = length.astype(np.uint64) * _U(0x9E3779B97F4A7C15)
        for column in range(width):
            word = words[:, column]
            hashed += (word ^ (word >> _U(29))) * self._factors[column]
        place = self._place(hashed)
        unknown = np.flatnonzero(self._hashes[place] != hashed) if len(self._hashes) else np.arange(len(hashed))
        if len(unknown):
            _, first = np.unique(hashed[unknown], return_index=True)
            for row in unknown[first].tolist():
                self._learn(bytes(buffer[start[row] : start[row] + length[row]]), hashed[row])
            place = self._place(hashed)
        ids = self._ids[place]
        same = self._lengths[ids] == length
        known = self._words[:, :width]
        for column in range(width):
            same &= known[ids, column] == words[:, column]
        if not same.all():  # two names share a hash
            odd = np.flatnonzero(~same)
            ids[odd] = self._slow_numbers(buffer, start[odd], length[odd])
        return ids

    def _place(self, hashed: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self._hashes, hashed), max(len(self._hashes) - 1, 0))

    def _slow_numbers(self, buffer: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        rows = zip(start.tolist(), length.tolist(), strict=True)
        return np.array([self._number(bytes(buffer[low : low + n])) for low, n in rows], np.int64)

    def _number(self, raw: bytes) -> int:
        number = self._raw.get(raw)
        if number is None:
            number = self._raw[raw] = len(self.names)
            text = raw[1:-1].replace(b'""', b'"') if raw[:1] == b'"' == raw[-1:] and len(raw) > 1 else raw
            try:
                self.names.append(text.decode())
            except UnicodeDecodeError:
                raise CsvError(f"the series name {raw[:80]!r} is not UTF-8") from None
            width = max(self._words.shape[1], -(-len(raw) // 8), 1)
            words = np.zeros((number + 1, width), np.uint64)
            words[:number, : self._words.shape[1]] = self._words
            words[number].view(np.uint8)[: len(raw)] = np.frombuffer(raw, np.uint8)
            self._words, self._lengths = words, np.append(self._lengths, len(raw))
        return number

    def _learn(self, raw: bytes, hashed: np.uint64) -> None:
        place = int(np.searchsorted(self._hashes, hashed))
        self._ids = np.insert(self._ids, place, self._number(raw))
        self._hashes = np.insert(self._hashes, place, hashed)


def read_samples(path: Path) -> Samples:
    """
    Return the samples of a file.

    Raises:
        OSError: if it cannot be read.
        CsvError: if it is no such CSV; the text names the line.
    """
    samples = Samples()
    with path.open("rb") as file, ThreadPoolExecutor(_THREADS) as pool:
        first = file.readline(200)
        if first.removeprefix(b"\xef\xbb\xbf").strip().replace(b'"', b"") != HEADER.encode():
            raise CsvError(f"{path}: its first line is not {HEADER}")
        line = 2
        working: deque[Future[_Rows]] = deque()

        def take() -> int:
            rows = working.popleft().result()
            if rows.error:
                place, text = rows.error
                raise CsvError(f"{path}: line {line + place}: {text}")
            samples.add(rows.number, rows.at, rows.value)
            return rows.lines

        for raw in _records(file):
            working.append(pool.submit(_parse, samples, raw))
            if len(working) > _THREADS:
                line += take()
        while working:
            line += take()
    return samples


def _records(file: BinaryIO) -> Iterator[bytearray]:
    """Yield the file in pieces of whole records, with room around them; the last of all may lack its end."""
    rest = b""
    size = _CHUNK
    while True:
        raw = bytearray(_PAD + len(rest) + size + _BEYOND)
        raw[_PAD : _PAD + len(rest)] = rest
        read = file.readinto(memoryview(raw)[_PAD + len(rest) : _PAD + len(rest) + size])
        end = _PAD + len(rest) + read
        if not read:
            if rest:
                if raw[end - 1] != _NEWLINE:
                    raw[end] = _NEWLINE
                    end += 1
                del raw[end + _BEYOND - 8 :]
                yield raw
            return
        cut = _last_record(raw, end)
        rest, size = bytes(raw[cut:end]), _CHUNK if cut > _PAD else size * 2
        if cut > _PAD:
            del raw[cut:]
            raw += bytes(_BEYOND - 8)
            yield raw


def _quoted(raw: bytearray, end: int) -> bool:
    """Tell whether quotes mean quoting: where a line begins with one; elsewhere they are characters like others."""
    if raw.find(b'"', _PAD, end) < 0:
        return False
    data = np.frombuffer(raw, np.uint8)[_PAD - 1 : end]
    return bool(data[1] == _QUOTE or ((data[1:] == _QUOTE) & (data[:-1] == _NEWLINE)).any())


def _last_record(raw: bytearray, end: int) -> int:
    """Return where the last whole record before ``end`` ends; ``_PAD`` if there is none."""
    place = raw.rfind(b"\n", _PAD, end)
    if place >= 0 and _quoted(raw, end):
        quotes = raw.count(b'"', _PAD, place)
        while place >= 0 and quotes % 2:
            before = raw.rfind(b"\n", _PAD, place)
            quotes -= raw.count(b'"', max(before, _PAD), place)
            place = before
    return max(place + 1, _PAD)


@dataclass(frozen=True, slots=True)
class _Rows:
    lines: int
    number: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    at: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    value: np.ndarray = field(default_factory=lambda: np.empty(0))
    error: tuple[int, str] | None = None


class _RowError(ValueError):
    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


def _parse(samples: Samples, raw: bytearray) -> _Rows:
    """Return the rows of whole records, or which line is wrong."""
    try:
        return _rows(samples, raw, np.frombuffer(raw, np.uint8), len(raw) - _BEYOND + 8)
    except _RowError as e:
        return _Rows(0, error=(e.row, str(e)))


def _rows(samples: Samples, raw: bytearray, buffer: np.ndarray, high: int) -> _Rows:
    data = buffer[_PAD:high]
    mask = (data == _COMMA) | (data == _NEWLINE)
    if _quoted(raw, high):
        quotes = data == _QUOTE
        marks = np.flatnonzero(mask | quotes)
        quote = quotes[marks]
        marks = marks[~quote & (np.cumsum(quote, dtype=np.int32) & 1 == 0)]
    else:
        marks = np.flatnonzero(mask)
    newline = data[marks] == _NEWLINE
    lines = int(np.count_nonzero(newline))
    if not len(marks) or marks[-1] != len(data) - 1:
        raise _RowError(lines, "a quote is never closed")
    marks += _PAD
    if len(marks) == 3 * lines and newline[2::3].all():
        first, second, last = marks.reshape(lines, 3).T
        start = np.concatenate([[_PAD], last[:-1] + 1])
        place = None
    else:  # empty lines, or names with commas that nobody quoted: the last two commas of a line count
        last, commas = marks[newline], marks[~newline]
        start = np.concatenate([[_PAD], last[:-1] + 1])
        place = np.flatnonzero((last > start) & ~((last == start + 1) & (buffer[start] == _RETURN)))
        start, last = start[place], last[place]
        if not len(place):
            return _Rows(lines)
        before = np.searchsorted(commas, last)
        short = before < 2
        if not short.all():
            short |= commas[np.maximum(before - 2, 0)] < start
        if short.any():
            raise _RowError(int(place[np.flatnonzero(short)[0]]), f"is not {HEADER}")
        first, second = commas[before - 2], commas[before - 1]
    last = last - (buffer[last - 1] == _RETURN)
    try:
        at = _integers(buffer, first + 1, second)
        value = _floats(buffer, second + 1, last)
    except _RowError as e:
        raise _RowError(e.row if place is None else int(place[e.row]), str(e)) from None
    return _Rows(lines, samples.numbers(buffer, start, first - start), at, value)


def _words(buffer: np.ndarray, end: np.ndarray, width: int) -> list[np.ndarray]:
    """Return the ``width`` bytes before each end as words, those read first in front."""
    view = np.ndarray((len(buffer) - width + 1,), f"V{width}", buffer=buffer, strides=(1,))
    words = view[end - width].view("<u8").reshape(len(end), width // 8)
    return [np.ascontiguousarray(words[:, column]) for column in range(width // 8)]


def _only(words: list[np.ndarray], length: np.ndarray) -> list[np.ndarray]:
    """Put the digit zero where a word's bytes do not belong to a text of that length."""
    skip = _LAST.shape[1] - len(words)
    masks = [np.ascontiguousarray(_LAST[:, skip + column])[length] for column in range(len(words))]
    return [(word & mask) | (_ZEROS & ~mask) for word, mask in zip(words, masks, strict=True)]


def _no_digits(word: np.ndarray) -> np.ndarray:
    high = _U(0xF0F0F0F0F0F0F0F0)
    return ((word & high) | (((word + _U(0x0606060606060606)) & high) >> _U(4))) != _U(0x3333333333333333)


def _number(word: np.ndarray) -> np.ndarray:
    """Return what eight digits say (Lemire, Number Parsing at a Gigabyte per Second, section 4)."""
    word = word - _ZEROS
    word = word * _U(10) + (word >> _U(8))
    low = _U(0x000000FF000000FF)
    return (((word & low) * _U(0x000F424000000064)) + (((word >> _U(16)) & low) * _U(0x0000271000000001))) >> _U(32)


def _integers(buffer: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    length = end - start
    fits = (length > 0) & (length <= 16)
    words = _only(_words(buffer, end, 16), np.minimum(length, 16))
    values = (_number(words[0]) * _U(10**8) + _number(words[1])).astype(np.int64)
    odd = np.flatnonzero(~fits | _no_digits(words[0]) | _no_digits(words[1]))
    for row in odd.tolist():
        text = bytes(buffer[start[row] : end[row]]).strip(b' "')
        try:
            values[row] = int(text)
        except (ValueError, OverflowError):
            raise _RowError(row, f"{text[:40]!r} is no time in milliseconds") from None
    return values


def _floats(buffer: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the numbers between two offsets each; the many short ones do not wait for the long."""
    wide = end - start > 17
    count = np.count_nonzero(wide)
    if count in (0, len(wide)):
        return _floats_of(buffer, start, end, np.arange(len(start)), 24 if count else 16)
    values = np.empty(len(start))
    for rows, width in ((np.flatnonzero(~wide), 16), (np.flatnonzero(wide), 24)):
        values[rows] = _floats_of(buffer, start[rows], end[rows], rows, width)
    return values


def _floats_of(buffer: np.ndarray, start: np.ndarray, end: np.ndarray, rows: np.ndarray, width: int) -> np.ndarray:
    sign = buffer[start]
    negative = sign == _MINUS
    length = end - start - (negative | (sign == _PLUS))
    words = _only(_words(buffer, end, width), np.clip(length, 0, width))
    words, decimals, dots = _without_dot(words)
    mantissa = _number(words[-2]) * _U(10**8) + _number(words[-1])
    odd = (length - dots < 1) | (length > width) | _no_digits(words[-1]) | _no_digits(words[-2])
    if width > 16:
        head = _number(words[0])
        odd |= _no_digits(words[0]) | (head >= _U(1000))
        mantissa += head * _U(10**16)
    exact = (mantissa < _U(2**53)) & (decimals < len(_TENS))
    values = mantissa.astype(np.float64) / _TENS[np.minimum(decimals, len(_TENS) - 1)]
    long = np.flatnonzero(~exact & ~odd)
    if len(long):
        if _LONG:
            quotients = mantissa[long].astype(np.longdouble) / _LONG_TENS[decimals[long]]
            values[long] = quotients.astype(np.float64)
            # The 11 bits that a double lacks lie exactly half way: the first rounding may have put them there.
            odd[long] = (quotients.view(np.uint64)[::2] & _U(0x7FF)) == _U(0x400)
        else:
            odd[long] = True
    values[negative] = -values[negative]
    for row in np.flatnonzero(odd).tolist():
        text = bytes(buffer[start[row] : end[row]]).strip(b' "')
        try:
            values[row] = float(text)
        except ValueError:
            raise _RowError(int(rows[row]), f"{text[:40]!r} is no number") from None
    return values


def _without_dot(words: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the words with the last dot taken out and what is before it moved up, the decimals, and the number of dots."""
    ones, tops, digit = _U(0x0101010101010101), _U(0x8080808080808080), _U(0x30)
    result: list[np.ndarray] = []
    decimals = np.zeros(len(words[0]), np.int64)
    moving = np.zeros(len(words[0]), bool)
    for place in range(len(words) - 1, -1, -1):
        word = words[place]
        before = words[place - 1] >> _U(56) if place else digit
        apart = word ^ (ones * _U(_DOT))
        found = (apart - ones) & ~apart & tops
        lowest = found & (~found + _U(1))
        here = (found != 0) & ~moving
        below, above = (lowest >> _U(7)) - _U(1), ~((lowest << _U(1)) - _U(1))
        taken = (word & above) | ((word & below) << _U(8)) | before
        after = 8 * (len(words) - 1 - place)
        decimals += np.where(here, (((lowest >> _U(7)) * _U(0x0706050403020100)) >> _U(56)).astype(np.int64) + after, 0)
        moved = np.where(moving, (word << _U(8)) | before, word)
        result.insert(0, np.where(here, taken, moved))
        moving |= here
    return result, decimals, moving.astype(np.int64)
