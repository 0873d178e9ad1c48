"""The cut through the answer's bytes reads what the json module reads, bit for bit, wherever the chunks end."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.prometheus.matrix import MalformedError, RefusedError, TooManyError, parse

numbers = st.floats(allow_nan=True, allow_infinity=True)
labels = st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=4)
series = st.lists(st.tuples(labels, st.lists(numbers, min_size=1, max_size=30), st.sampled_from([0, 250])), max_size=6)


def written(value: float) -> str:
    """A number as Prometheus writes it: shortest digits, never an exponent."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    return re.sub(r"\.0$", "", format(Decimal(repr(value)), "f"))


def body(found, indent=None, **more) -> bytes:
    result = [
        {"metric": metric, "values": [[1_700_000_000 + 60 * index + offset / 1000 if offset else 1_700_000_000 + 60 * index, written(value)] for index, value in enumerate(values)]}
        for metric, values, offset in found
    ]
    document = {"status": "success", "data": {"resultType": "matrix", "result": result}, **more}
    return json.dumps(document, indent=indent, separators=None if indent else (",", ":"), ensure_ascii=False).encode()


def chunks(data: bytes, size: int):
    return (data[index : index + size] for index in range(0, len(data), size))


@given(found=series, size=st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_every_number_comes_out_bit_for_bit_wherever_the_chunks_end(found, size):
    matrix = parse(chunks(body(found), size))
    assert len(matrix.series) == len(found)
    for one, (metric, values, offset) in zip(matrix.series, found, strict=True):
        assert one.labels == metric
        assert one.at.tolist() == [1_700_000_000_000 + 60_000 * index + offset for index in range(len(values))]
        expected = np.array([math.nan if math.isnan(value) else value for value in values])
        assert one.value.tobytes() == expected.tobytes()


@given(found=series, share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=100, deadline=None)
def test_an_answer_cut_anywhere_is_never_read_as_whole(found, share):
    whole = body(found)
    cut = whole[: int(share * len(whole))]
    with pytest.raises(MalformedError):
        parse(chunks(cut, 100))


@given(found=series)
@settings(max_examples=50, deadline=None)
def test_an_answer_laid_out_otherwise_reads_the_same(found):
    plain, indented = parse(chunks(body(found), 300)), parse(chunks(body(found, indent=2), 300))
    assert [(one.labels, one.at.tobytes(), one.value.tobytes()) for one in plain.series] == [
        (one.labels, one.at.tobytes(), one.value.tobytes()) for one in indented.series
    ]


def test_warnings_after_the_data_are_never_passed_over():
    one = [({"a": "b"}, [1.0, 2.0], 0)]
    assert parse(chunks(body(one, warnings=["w"], infos=["i"]), 50)).warnings == ("w",)
    assert parse(chunks(body(one, warnings=["w"], infos=["i"]), 50)).infos == ("i",)
    assert parse(chunks(body(one, indent=1, warnings=["w"]), 50)).warnings == ("w",)


def test_an_error_in_a_200_is_one():
    with pytest.raises(RefusedError, match="execution: too slow"):
        parse(iter([b'{"status":"error","errorType":"execution","error":"too slow"}']))


def test_a_native_histogram_between_plain_series_is_counted_and_the_others_are_read():
    native = b'{"metric":{},"histograms":[[1,{"count":"1","sum":"2","buckets":[[0,"1","2","1"]]}]]},'
    both = b'{"metric":{},"values":[[1,"1"]],"histograms":[[2,{"count":"1","sum":"2"}]]},'
    data = body([({"a": "1"}, [1.0], 0), ({"a": "2"}, [2.0], 0)])
    at = data.index(b'{"metric":{"a":"2"}')
    for between, plain in ((native, 2), (both, 3)):
        matrix = parse(chunks(data[:at] + between + data[at:], 64))
        assert matrix.histograms == 1
        assert len(matrix.series) == plain


@pytest.mark.parametrize("indent", [None, 1])
def test_reading_stops_at_more_series_than_are_wanted(indent):
    found = [({"pod": str(index)}, [1.0], 0) for index in range(20)]
    assert len(parse(chunks(body(found, indent), 100), 20).series) == 20
    with pytest.raises(TooManyError, match="more than 19 series"):
        parse(chunks(body(found, indent), 100), 19)


def test_series_sampled_at_the_same_instants_share_one_column():
    first, second, other = parse(iter([body([({"a": "1"}, [1.0, 2.0], 0), ({"a": "2"}, [3.0, 4.0], 0), ({"a": "3"}, [3.0], 0)])])).series
    assert first.at is second.at
    assert other.at is not first.at
