"""The picture tells the truth of its comparison: levels, gaps, the change; whatever the series and the machine."""

import re
import struct
import xml.etree.ElementTree as ET
import zlib
from dataclasses import replace

import numpy as np
import pytest
import resvg_py
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester import charts
from harvester.differ.result import Comparison, Effect, Mode, Side, Verdict
from harvester.readings import DAY, HOUR, Window

LIVE = 1_773_480_600_000  # 14 Mar 2026 09:30 UTC
SVG = "{http://www.w3.org/2000/svg}"


def compared(
    before=0.48,
    after=0.14,
    *,
    verdict="improved",
    unit="seconds",
    shape="distribution",
    statistic="p95",
    metric="latency",
    days=14,
    low=0.26,
    high=0.33,
    coverage=1.0,
) -> Comparison:
    effect = None
    if before is not None and after is not None and verdict != "refused":
        ratio = after / before if before > 0 else None
        effect = Effect(ratio, after - before, None if ratio is None else 100 * (ratio - 1), low, high, low)
    return Comparison(
        "c0ffee", "checkout", metric, (("job", "checkout"),), "prom", statistic, unit, shape, "lower",
        Side(before, 100, LIVE - days * DAY, LIVE, coverage), Side(after, 100, LIVE, LIVE + days * DAY, 1.0),
        effect, 0.001, Verdict(verdict), Mode.CONFIRMATORY,
    )  # fmt: skip


def series(step=6 * HOUR, days=14, before=0.48, after=0.14):
    at = np.arange(LIVE - days * DAY, LIVE + days * DAY, step, dtype=np.int64)
    return at, np.where(at < LIVE, before, after).astype(float)


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in drawn(svg).iter(f"{SVG}text")]


def lines(svg: str, name: str) -> list[list[list[float]]]:
    """Return the pieces of the line of one side, as points."""
    group = next(node for node in drawn(svg).iter(f"{SVG}g") if node.get("clip-path"))
    paths = [node for node in group if node.get("class") == f"hv-s-{name}" and "L" in (node.get("d") or "")]
    return [
        [[float(number) for number in point.split()] for point in piece.split("L")]
        for path in paths
        for piece in (path.get("d") or "").split("M")[1:]
    ]


def pixels(png: bytes) -> tuple[int, int, np.ndarray]:
    """Decode an 8-bit RGBA PNG."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    assert (depth, colour) == (8, 6)
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    raw = np.frombuffer(zlib.decompress(data), dtype=np.uint8).reshape(height, 1 + 4 * width)
    rows = np.zeros((height, width, 4), dtype=np.uint8)
    above = np.zeros((width, 4), dtype=np.int64)
    for index, row in enumerate(raw):
        kind, line = row[0], row[1:].reshape(width, 4).astype(np.int64)
        if kind == 1:
            line = np.cumsum(line, axis=0) & 255
        elif kind == 2:
            line = (line + above) & 255
        elif kind in (3, 4):
            left, corner = np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)
            for x in range(width):
                up = above[x]
                if kind == 3:
                    guess = (left + up) // 2
                else:
                    base = left + up - corner
                    far = np.stack([abs(base - left), abs(base - up), abs(base - corner)])
                    guess = np.where(
                        (far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], up, corner)
                    )
                left, corner = (line[x] + guess) & 255, up
                line[x] = left
        rows[index] = above = line
    return width, height, rows


# ---- words


def test_the_picture_says_both_values_the_size_and_the_interval():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    said = texts(svg)
    assert "p95 latency of checkout" in said
    assert "480 ms before, 140 ms after, -71 % (95 % interval between -74 % and -67 %); improved" in said
    assert {"480 ms", "140 ms", "live from 14 Mar"} <= set(said)
    assert {"0 s", "200 ms", "400 ms"} <= set(said)
    assert {"1 Mar", "8 Mar", "15 Mar", "22 Mar"} <= set(said)


def test_the_alternative_text_states_the_numbers_and_the_doubt_about_coverage():
    assert charts.alt_text(compared()) == (
        "p95 latency of checkout, before and after 14 Mar 2026: 480 ms before, 140 ms after, -71 % (95 % interval "
        "between -74 % and -67 %); improved."
    )
    assert charts.alt_text(compared(coverage=0.91)).endswith("; proven complete: 91 % before, 100 % after.")


def test_the_picture_carries_its_alternative_text():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    assert next(drawn(svg).iter(f"{SVG}desc")).text == charts.alt_text(compared())
    assert drawn(svg).get("role") == "img"


def test_shares_are_told_in_points():
    one = compared(0.9962, 0.9987, unit="1", shape="ratio", statistic="ratio", low=1.001, high=1.004)
    said = charts.alt_text(one)
    assert "99.62 % before, 99.87 % after, 0.25 points" in said


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_named(verdict):
    svg = charts.comparison_svg(compared(verdict=str(verdict)), *series(), LIVE)
    assert charts._VERDICTS[verdict] in charts.alt_text(compared(verdict=str(verdict)))
    assert len(charts.to_png(svg, 360)) > 1000


def test_text_from_elsewhere_is_escaped_and_plain():
    svg = charts.comparison_svg(compared(), *series(), LIVE, title='<script>alert("x")</script>\x1b[31m & \x00')
    assert "<script" not in svg
    assert '<script>alert("x")</script> &' in texts(svg)
    evil = replace(compared(), subject="</text><script>1</script>", labels=(("a", "<b>"),), unit="<i>s/second")
    svg = charts.comparison_svg(evil, *series(), LIVE)
    assert not any(node.tag.endswith(("script", "}b", "}i")) for node in drawn(svg).iter())


# ---- geometry


def heights(svg: str, name: str) -> float:
    """Return where the level of one side is drawn."""
    for node in drawn(svg).iter(f"{SVG}path"):
        if node.get("class") == f"hv-s-{name}" and node.get("stroke-width") == "2.6":
            return float((node.get("d") or "").split()[1].partition("H")[0])
    raise AssertionError(f"no level {name}")


def test_levels_lie_where_the_axis_says():
    svg = charts.comparison_svg(compared(0.4, 0.2), *series(before=0.4, after=0.2), LIVE)
    ticks = {}
    nodes = list(drawn(svg).iter(f"{SVG}text"))
    for node in nodes:
        if node.get("text-anchor") == "end" and float(node.get("x")) < 72:
            ticks[node.text] = float(node.get("y")) - 4
    assert heights(svg, "before") == pytest.approx(ticks["400 ms"], abs=0.11)
    assert heights(svg, "after") == pytest.approx(ticks["200 ms"], abs=0.11)


def test_a_line_from_zero_starts_at_zero_and_a_narrow_one_does_not():
    assert "0 s" in texts(charts.comparison_svg(compared(), *series(), LIVE))
    narrow = compared(0.500, 0.490, verdict="unclear")
    assert "0 s" not in texts(charts.comparison_svg(narrow, *series(before=0.5, after=0.49), LIVE))


def test_no_two_marks_of_the_axis_read_the_same():
    for before, after, unit in ((0.99991, 0.99993, "1"), (100.001, 100.002, "instances"), (7200.1, 7200.4, "seconds")):
        shape = "level"
        one = compared(before, after, unit=unit, shape=shape, statistic="mean", verdict="unclear")
        svg = charts.comparison_svg(one, *series(before=before, after=after), LIVE)
        marks = [
            n.text for n in drawn(svg).iter(f"{SVG}text") if n.get("text-anchor") == "end" and float(n.get("x")) < 72
        ]
        assert len(marks) >= 3
        assert len(set(marks)) == len(marks)


def test_minutes_and_hours_have_round_marks():
    svg = charts.comparison_svg(compared(34 * 60, 12 * 60), *series(before=2040, after=720), LIVE)
    assert {"10 min", "20 min", "30 min"} <= set(texts(svg))


def test_a_few_extremes_do_not_press_the_rest_to_the_ground_and_are_told():
    at, value = series(step=HOUR)
    value[50] = 50.0
    svg = charts.comparison_svg(compared(), at, value, LIVE)
    assert "up to 50 s" in texts(svg)
    assert "600 ms" in texts(svg) or "400 ms" in texts(svg)


def test_the_change_parts_the_two_sides():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    middle = 72 + (720 - 72 - 20) / 2
    assert max(x for piece in lines(svg, "before") for x, _ in piece) < middle
    assert min(x for piece in lines(svg, "after") for x, _ in piece) >= middle - 0.06


# ---- gaps


def test_a_gap_is_shaded_and_never_bridged():
    at, value = series(step=HOUR)
    gap = Window.of(LIVE - 8 * DAY, LIVE - 5 * DAY)
    keep = ~gap.contains(at)
    svg = charts.comparison_svg(compared(verdict="unclear"), at[keep], value[keep], LIVE, gaps=gap)
    assert "no data" in texts(svg)
    (rect,) = [node for node in drawn(svg).iter(f"{SVG}rect") if node.get("class") == "hv-f-gap"]
    left, right = float(rect.get("x")), float(rect.get("x")) + float(rect.get("width"))
    pieces = lines(svg, "before")
    assert len(pieces) == 2
    assert all(max(x for x, _ in piece) <= left + 0.1 or min(x for x, _ in piece) >= right - 0.1 for piece in pieces)


def test_a_gap_shorter_than_the_distance_of_points_still_parts_the_line():
    at, value = series()
    whole = len(lines(charts.comparison_svg(compared(), at, value, LIVE), "before"))
    gap = Window.of(int(at[10]) + HOUR, int(at[10]) + 2 * HOUR)
    assert len(lines(charts.comparison_svg(compared(), at, value, LIVE, gaps=gap), "before")) == whole + 1


def test_a_missing_value_parts_the_line():
    at, value = series()
    value[10] = np.nan
    assert len(lines(charts.comparison_svg(compared(), at, value, LIVE), "before")) == 2


def test_a_gap_parts_the_line_after_thinning_too():
    at, value = series(step=60_000)
    gap = Window.of(LIVE - 8 * DAY, LIVE - 5 * DAY)
    keep = ~gap.contains(at)
    svg = charts.comparison_svg(compared(), at[keep], value[keep], LIVE, gaps=gap)
    assert len(lines(svg, "before")) == 2


# ---- thinning


@given(
    count=st.integers(min_value=601, max_value=5000),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    missing=st.floats(min_value=0, max_value=0.5),
)
@settings(max_examples=40, deadline=None)
def test_thinning_keeps_the_extremes_and_at_most_600_points(count, seed, missing):
    random = np.random.default_rng(seed)
    at = np.cumsum(random.integers(1, 1000, count)).astype(np.int64)
    value = random.normal(size=count)
    value[random.random(count) < missing] = np.nan
    broken = np.zeros(count, dtype=bool)
    broken[0] = True
    when, what, _ = charts.thin(at, value, broken)
    assert len(when) <= 600
    assert (np.diff(when) > 0).all()
    assert np.nanmin(what) == np.nanmin(value)
    assert np.nanmax(what) == np.nanmax(value)
    assert set(when.tolist()) <= set(at.tolist())


def test_a_short_series_is_not_thinned():
    at, value = series()
    broken = np.zeros(len(at), dtype=bool)
    assert charts.thin(at, value, broken)[0] is at


def test_a_break_between_kept_points_is_kept():
    at = np.arange(2000, dtype=np.int64)
    value = np.sin(at / 3.0)
    broken = np.zeros(2000, dtype=bool)
    broken[[0, 1001]] = True
    when, _, new = charts.thin(at, value, broken)
    breaks = when[new]
    assert len(breaks) == 2
    assert breaks[1] >= 1001
    assert when[np.flatnonzero(new)[1] - 1] < 1001


# ---- whatever comes


def test_counts_a_day_are_bars():
    at, value = series(step=DAY, before=9, after=2)
    one = compared(9, 2, unit="timeouts", shape="count", statistic="count", metric="timeouts")
    svg = charts.comparison_svg(one, at, value, LIVE)
    bars = {
        node.get("class"): (node.get("d") or "").count("z")
        for node in drawn(svg).iter(f"{SVG}path")
        if node.get("fill-opacity")
    }
    assert bars == {"hv-f-before": 14, "hv-f-after": 14}
    assert "timeouts/day" in texts(svg)


def test_nothing_read_is_said():
    nothing = np.array([], dtype=np.int64), np.array([], dtype=float)
    svg = charts.comparison_svg(compared(None, None, verdict="refused"), *nothing, LIVE)
    assert "no readings" in texts(svg)
    assert "? before, ? after; cannot be compared" in texts(svg)
    assert charts.to_png(svg)


def test_readings_outside_both_windows_are_not_drawn():
    at, value = series(days=30)
    svg = charts.comparison_svg(compared(), at, value, LIVE)
    points = [x for name in ("before", "after") for piece in lines(svg, name) for x, _ in piece]
    assert min(points) >= 72 - 0.1
    assert max(points) <= 700.1


NUMBERS = st.one_of(st.none(), st.floats(min_value=-1e9, max_value=1e12), st.sampled_from([0.0, 1.0, 1e-9, 1e15]))


@given(
    before=NUMBERS,
    after=NUMBERS,
    values=st.lists(
        st.one_of(st.floats(min_value=-1e9, max_value=1e12), st.just(float("nan")), st.just(float("inf"))), max_size=12
    ),
    unit=st.sampled_from(["seconds", "bytes", "1", "requests/second", "timeouts"]),
    shape=st.sampled_from(["level", "distribution", "count", "event", "ratio"]),
    days=st.sampled_from([1, 2, 14, 200]),
)
@settings(max_examples=150, deadline=None)
def test_every_series_gives_a_sound_picture(before, after, values, unit, shape, days):
    statistic = {"count": "count", "event": "count", "ratio": "ratio"}.get(shape, "mean")
    one = compared(before, after, unit=unit, shape=shape, statistic=statistic, days=days, verdict="unclear")
    at = np.linspace(LIVE - days * DAY, LIVE + days * DAY - 1, len(values)).astype(np.int64)
    svg = charts.comparison_svg(one, at, np.array(values, dtype=float), LIVE)
    drawn(svg)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<(text|title|desc)[^>]*>[^<]*", "", svg))
    for y in re.findall(r'<text x="[\d.]+" y="(-?[\d.]+)"', svg):
        assert -1e4 < float(y) < 1e4


# ---- PNG


def test_a_png_is_as_wide_as_asked_opaque_in_the_middle_and_shows_the_levels():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    width, height, image = pixels(charts.to_png(svg, 720))
    assert (width, height) == (720, 320)
    assert (image[10:-10, 10:-10, 3] == 255).all()
    assert tuple(image[round(heights(svg, "after")), 600][:3]) == (0x2B, 0x6C, 0xB0)
    assert tuple(image[round(heights(svg, "before")), 300][:3]) == (0x66, 0x72, 0x7F)


def test_a_dark_variant_for_browsers_leaves_the_png_light():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    assert "prefers-color-scheme: dark" in svg
    _, _, image = pixels(charts.to_png(svg, 360))
    assert tuple(image[100, 300][:3]) == (255, 255, 255)


def test_without_any_font_the_picture_is_drawn_without_text():
    svg = charts.comparison_svg(compared(), *series(), LIVE)
    bare = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=720, skip_system_fonts=True))
    _, _, image = pixels(bare)
    assert tuple(image[round(heights(svg, "after")), 600][:3]) == (0x2B, 0x6C, 0xB0)
    assert len(charts.to_png(svg, 720)) > len(bare), "this machine has no font"


def test_missing_values_part_the_line_after_thinning_too():
    at, value = series(step=60_000)
    value[5000:5003] = np.nan
    assert len(lines(charts.comparison_svg(compared(), at, value, LIVE), "before")) == 2
