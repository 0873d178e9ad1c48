from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from store_samples import START, level, one_of_each_shape, same

from harvester.readings import MINUTE
from harvester.store.codec import (
    CodecError,
    Columns,
    NewerFormatError,
    aligned,
    columns_of,
    decimal_scaled,
    decode,
    decode_rows,
    differing,
    encode,
    encode_rows,
    merge,
    readings_of,
    trimmed,
)

FLOATS = st.floats(width=64, allow_nan=False) | st.just(float("nan"))
DECIMALS = st.integers(-(10**9), 10**9).flatmap(lambda n: st.integers(0, 8).map(lambda d: n / 10**d))
GAPS = st.sampled_from([MINUTE, 2 * MINUTE, 60 * MINUTE]) | st.integers(1, 10**7)


@st.composite
def columns(draw: st.DrawFn, values: st.SearchStrategy[float] = FLOATS) -> Columns:
    n = draw(st.integers(1, 120))
    gaps = draw(st.lists(GAPS, min_size=n - 1, max_size=n - 1) if draw(st.booleans()) else st.just([MINUTE] * (n - 1)))
    at = START + np.concatenate([[0], np.cumsum(gaps)]).astype(np.int64)
    count = draw(st.integers(1, 6))
    return Columns(at, draw(arrays.arrays(np.float64, (count, n), elements=values)), draw(st.integers(-500, 500)))


def bits(values: np.ndarray) -> bytes:
    return np.where(np.isnan(values), np.nan, values).tobytes()


def assert_equal(one: Columns, other: Columns) -> None:
    assert one.at.tolist() == other.at.tolist()
    assert bits(one.values) == bits(other.values)
    assert one.first == other.first


@given(columns())
def test_any_columns_come_back_from_a_block_bit_for_bit(given_columns: Columns) -> None:
    assert_equal(decode(encode(given_columns)), given_columns)


@given(columns(DECIMALS | st.sampled_from([float("nan"), -0.0, 0.0, float("inf"), 5e-324, 2.0**60])))
def test_decimals_with_holes_zeros_and_infinities_come_back_bit_for_bit(given_columns: Columns) -> None:
    assert_equal(decode(encode(given_columns)), given_columns)


@given(st.lists(columns(), min_size=1, max_size=4))
def test_any_waiting_rows_come_back_bit_for_bit(entries: list[Columns]) -> None:
    back = [
        (int(number), Columns(rows.columns.at[mask], rows.columns.values[:, mask], rows.columns.first))
        for rows in decode_rows(encode_rows(enumerate(entries)))
        for number in np.unique(rows.number)
        for mask in [rows.number == number]
    ]
    assert sorted(number for number, _ in back) == list(range(len(entries)))
    for number, found in back:
        assert_equal(found, entries[number])


@pytest.mark.parametrize("readings", one_of_each_shape()[:5], ids=lambda one: one.series.metric.name)
def test_every_shape_comes_back_from_its_columns(readings) -> None:
    assert same(readings_of(readings.series, decode(encode(columns_of(readings)))), readings)


def test_a_negative_zero_stays_negative_among_whole_numbers() -> None:
    day = np.arange(100.0)
    day[7] = -0.0
    assert decimal_scaled(day) is None
    assert np.signbit(decode(encode(Columns(START + np.arange(100) * MINUTE, day[None, :]))).values[0, 7])


def test_decimals_are_kept_as_whole_numbers_with_the_fewest_digits() -> None:
    decimals, integers = decimal_scaled(np.array([0.25, 3.0, -1.5])) or (None, None)
    assert decimals == 2
    assert integers is not None
    assert integers.tolist() == [25, 300, -150]
    assert decimal_scaled(np.array([1 / 3])) is None


def test_every_nan_is_the_same_nan() -> None:
    other = np.array([0x7FF8000000000123], np.int64).view(np.float64)
    kept = columns_of(level([1.0, float(other[0])])).values
    assert kept.view(np.int64)[0, 1] == np.array([np.nan]).view(np.int64)[0]


def test_readings_on_the_grid_carry_no_timestamps() -> None:
    at, flat = START + np.arange(1440, dtype=np.int64) * MINUTE, np.ones((1, 1440))
    late = at.copy()
    late[700:] += 1
    gap = np.delete(at, slice(300, 340))
    on_grid = len(encode(Columns(at, flat)))
    assert on_grid < 80
    assert on_grid < len(encode(Columns(gap, flat[:, :1400]))) < on_grid + 70
    assert on_grid < len(encode(Columns(late, flat))) < on_grid + 70


def test_a_scrape_interval_other_than_the_minute_is_a_grid_too() -> None:
    at = START + np.arange(5760, dtype=np.int64) * 15_000
    whole = Columns(at, np.ones((1, 5760)))
    assert len(encode(whole)) < 80
    holes = Columns(np.delete(at, [5, 99, 3000]), np.ones((1, 5757)))
    assert len(encode(holes)) < 140
    assert_equal(decode(encode(holes)), holes)


def test_holes_do_not_cost_a_day_its_compression() -> None:
    rng = np.random.default_rng(5)
    at, walk = START + np.arange(1440, dtype=np.int64) * MINUTE, np.round(np.cumsum(rng.normal(0, 0.05, 1440)), 2)
    whole = len(encode(Columns(at, walk[None, :])))
    walk[rng.integers(0, 1440, 20)] = np.nan
    assert len(encode(Columns(at, walk[None, :]))) < whole + 150


def test_buckets_of_counts_cost_a_fraction_of_their_floats() -> None:
    rng = np.random.default_rng(6)
    at, counts = START + np.arange(288, dtype=np.int64) * 5 * MINUTE, rng.poisson(np.geomspace(50, 0.01, 20), (288, 20))
    heads = np.full((3, 288), np.nan)
    day = Columns(at, np.concatenate([heads, counts.T.astype(np.float64)]))
    assert len(encode(day)) < counts.size  # a byte each, of eight


@given(columns(), st.data())
def test_a_changed_byte_is_noticed_wherever_it_is(given_columns: Columns, data: st.DataObject) -> None:
    for block, read in ((encode(given_columns), decode), (encode_rows([(1, given_columns)]), decode_rows)):
        broken = bytearray(block)
        broken[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(CodecError):
            read(bytes(broken))
        with pytest.raises(CodecError):
            read(block[: data.draw(st.integers(0, len(block) - 1))])


def test_a_block_of_a_newer_format_is_refused_as_newer_not_as_damaged() -> None:
    content = bytearray(encode(columns_of(level([1.0])))[4:])
    content[0] = 9
    with pytest.raises(NewerFormatError, match="format 9"):
        decode(struct.pack("<I", zlib.crc32(content)) + bytes(content))


def test_merging_keeps_the_later_reading_of_an_instant() -> None:
    old, new = columns_of(level([1, 2, 3])), columns_of(level([9, 8], START + MINUTE))
    assert merge([old, new]).values.tolist() == [[1, 9, 8]]
    assert merge([new, old]).values.tolist() == [[1, 2, 3]]
    assert differing(old, merge([old, new])).tolist() == [False, True, True]


def test_log_buckets_are_brought_to_one_range_before_they_merge() -> None:
    heads = [[1.0], [1.0], [1.0]]
    one = Columns(np.array([START]), np.array([*heads, [5.0]]), first=10)
    two = Columns(np.array([START + 1]), np.array([*heads, [7.0], [0.0]]), first=12)
    whole = merge([one, two], buckets=True)
    assert whole.first == 10
    assert whole.values[3:].tolist() == [[5, 0], [0, 0], [0, 7]]
    none = Columns(np.array([START + 2]), np.array(heads), first=0)
    assert [len(part.values) for part in aligned([one, none])] == [4, 4]
    assert trimmed(Columns(none.at, np.array([*heads, [0.0]]), 3)).values.shape == (3, 1)
