"""
A comparison as one picture: the series over both windows, the level before and after, the change, what has no data.

SVG by hand, the same on the page and, rasterised, in the mail. The card is opaque and light, with a dark variant that a
browser picks by itself; a rasteriser and a mail client show the light one. Points are thinned to what the width can
show, keeping each column's extremes. All text is escaped and says nothing that ``alt_text`` does not say as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from harvester import figures
from harvester.differ.result import CLAIMS, Comparison, Verdict
from harvester.readings import DAY, HOUR, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harvester.readings import Float64s, Int64s

_SHARE = figures.PROPORTION

WIDTH = 720
HEIGHT = 320

_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 84, 34
_MOST_POINTS = 600
_DOTS_UP_TO = 130
_BARS_UP_TO = 90

# Families found on common systems, so that a rasteriser without a font configuration finds one of them.
_FONTS = (
    "Inter, Segoe UI, Roboto, Helvetica Neue, Noto Sans, DejaVu Sans, Liberation Sans, Ubuntu, Cantarell, Open Sans, "
    "Carlito, FreeSans, Arial, Helvetica, sans-serif"
)

# Presentation attributes say the light colours; only a browser reads the rules that turn them dark.
_LIGHT = {
    "ink": "#1f2933", "soft": "#5b6673", "grid": "#e4e8ec", "card": "#ffffff", "edge": "#d5dbe1",
    "before": "#66727f", "after": "#2b6cb0", "gap": "#eceff2", "worse": "#a8481f",
}  # fmt: skip
_DARK = {
    "ink": "#e6eaee", "soft": "#9aa5b1", "grid": "#323a42", "card": "#1d2329", "edge": "#323a42",
    "before": "#9aa5b1", "after": "#63a4e8", "gap": "#2a3138", "worse": "#e8926a",
}  # fmt: skip


def comparison_svg(
    comparison: Comparison,
    at: Int64s,
    value: Float64s,
    change_at: int,
    *,
    gaps: Window | None = None,
    title: str = "",
) -> str:
    """
    Return the before/after picture of a comparison.

    Args:
        comparison: What is shown; its two values are drawn as levels.
        at: Instants of the series, milliseconds UTC, rising; shape (n,).
        value: Values in ``comparison.unit`` (counts: per day); shape (n,). NaN breaks the line.
        change_at: When the change went live, milliseconds UTC.
        gaps: Spans that are not proven complete; shaded and never bridged.
        title: The heading; what is compared if empty.
    """
    import numpy as np

    gaps = gaps or Window()
    unit = figures.printed_unit(comparison.unit, comparison.shape, comparison.statistic)
    levels = (comparison.before.value, comparison.after.value)
    inside = (at >= comparison.before.start) & (at < comparison.after.end)
    at, value = at[inside], value[inside]
    finite = np.isfinite(value)
    axis = _axis(value[finite], [one for one in levels if one is not None], unit)
    frame = _Frame(comparison.before.start, comparison.after.end, axis.low, axis.high)
    heading = figures.plain(title) or _what(comparison)
    parts = [
        *_opening(comparison, heading),
        *_grid(frame, axis),
        *_gaps(frame, gaps),
    ]
    if comparison.shape in ("count", "event") and len(at) <= _BARS_UP_TO:
        parts += _bars(frame, at, value, change_at)
    elif finite.any():
        parts += _line(frame, at, value, change_at, gaps)
    else:
        parts.append(_text(_LEFT + 24, HEIGHT - _BOTTOM - 24, "no readings", "soft", size=13))
    parts += _change(frame, change_at)
    parts += _levels(frame, comparison, change_at, unit)
    if axis.beyond:
        parts.append(_text(WIDTH - _RIGHT, _TOP - 5, f"up to {axis.beyond}", "soft", anchor="end", size=10))
    parts.append("</g></svg>")
    return "\n".join(parts)


def to_png(svg: str, width: int = 2 * WIDTH) -> bytes:
    """
    Return an SVG as PNG, so many pixels wide.

    Text needs a font of the system; where there is none the picture is drawn without it, which is why a picture never
    goes out without ``alt_text``.
    """
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width))


def alt_text(comparison: Comparison) -> str:
    """Return what the picture shows in one sentence with its numbers, for those who cannot see it."""
    since = figures.date(comparison.after.start)
    parts = [f"{_what(comparison)}, before and after {since}: {_caption(comparison)}"]
    if comparison.before.coverage < 0.995 or comparison.after.coverage < 0.995:
        shares = (figures.share(side.coverage) for side in (comparison.before, comparison.after))
        parts.append(f"proven complete: {' before, '.join(shares)} after")
    return "; ".join(parts) + "."


# ---------------------------------------------------------------------------------------------------------------------
# Words
# ---------------------------------------------------------------------------------------------------------------------


def _what(comparison: Comparison) -> str:
    return figures.what(
        comparison.metric,
        comparison.statistic,
        shape=comparison.shape,
        subject=comparison.subject,
        labels=comparison.labels,
    )


def _caption(comparison: Comparison) -> str:
    unit = figures.printed_unit(comparison.unit, comparison.shape, comparison.statistic)
    before, after = figures.pair(comparison.before.value, comparison.after.value, unit)
    text = f"{before} before, {after} after"
    effect = comparison.effect
    sizes = []
    if effect is not None and figures.common_unit(unit, (comparison.before.value, comparison.after.value)) == _SHARE:
        sizes.append(figures.points(comparison.before.value, comparison.after.value))
    if effect is not None and effect.percent is not None and not (sizes and abs(effect.percent) < 1):
        sizes.append(figures.percent(effect.percent))
    text += "".join(f", {size}" for size in sizes)
    if effect is not None and (effect.low is not None or effect.high is not None):
        text += f" (95 % interval {figures.interval(effect.low, effect.high, effect.scale, unit)})"
    return f"{text}; {_VERDICTS[comparison.verdict]}"


_VERDICTS = {
    Verdict.REFUSED: "cannot be compared",
    Verdict.EXACT: "known exactly",
    Verdict.IMPROVED: "improved",
    Verdict.REGRESSED: "got worse",
    Verdict.CHANGED: "changed",
    Verdict.UNCHANGED: "unchanged",
    Verdict.UNCLEAR: "unclear",
}


# ---------------------------------------------------------------------------------------------------------------------
# Axes
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Axis:
    """
    The value axis.

    Attributes:
        unit: What the labels count, or ``""`` where each label has its own unit.
        beyond: The highest value, as text, where it lies above the axis, or ``""``.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    unit: str = ""
    beyond: str = ""


def _axis(values: NDArray[np.float64], levels: Sequence[float], unit: str) -> _Axis:
    import numpy as np

    known = [*levels, *(values.tolist() if len(values) <= 2 else np.quantile(values, [0.0, 0.99]).tolist())]
    if not known:
        return _Axis(0.0, 1.0, (), ())
    highest = float(max([*levels, *([float(values.max())] if len(values) else [])]))
    low, usual = min(known), max(known)
    # A few extremes do not press everything else to the ground: they leave through the top, and it is said.
    span = usual - min(low, 0.0)
    cut = len(values) > 20 and span > 0 and highest > usual + 0.75 * span
    high = usual + 0.15 * span if cut else highest
    if low >= 0 and low < 0.6 * high:
        low = 0.0
    elif high > low:
        low = low - 0.12 * (high - low)
    if high == low:
        low, high = (low - abs(low) * 0.1 - 1e-12, high + abs(high) * 0.1 + 1e-12) if low else (0.0, 1.0)
    printed = figures.common_unit(unit, known)
    if printed == figures.PROPORTION and high > 0.9:
        high = max(high, min(1.0, high + 0.08 * (high - low)))
    else:
        high += 0.08 * (high - low)
    factor = _factor(high, printed)
    step = _step((high - low) / factor / 4) * factor
    ticks = [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    ticks = [0.0 if abs(tick) < step / 1e6 else tick for tick in ticks]
    # Times, bytes and shares change their unit along the axis; what is counted is named once, above it.
    counted = printed != figures.PROPORTION and printed.partition("/")[0] not in ("seconds", "bytes")
    of_ticks = "" if counted else printed
    labels: list[str] = []
    for extra in range(8):
        labels = [figures.value(tick, of_ticks, extra=extra) for tick in ticks]
        if len(set(labels)) == len(labels):
            break
    name = figures.value(2, printed).partition(" ")[2] if counted else ""
    return _Axis(low, high, tuple(ticks), tuple(labels), name, figures.value(highest, printed) if cut else "")


def _factor(high: float, unit: str) -> float:
    """Return in which multiple of the base unit steps are round: minutes and hours are not decimal."""
    if unit.partition("/")[0] != "seconds" or high < 180:
        return 1.0
    return 60.0 if high < 10_800 else 3600.0 if high < 172_800 else 86_400.0


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if rough <= nice * power * (1 + 1e-9))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where instants and values lie in the picture."""

    start: int
    end: int
    low: float
    high: float

    @property
    def depth(self) -> float:
        return HEIGHT - _TOP - _BOTTOM

    def x(self, at: float) -> float:
        return _LEFT + (at - self.start) / max(1, self.end - self.start) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + self.depth * (1 - (value - self.low) / (self.high - self.low))


def _days(frame: _Frame) -> list[tuple[int, str]]:
    """Return midnights to mark: at most eight, at distances people count in."""
    length = frame.end - frame.start
    if length <= 2 * DAY:
        step = next(hours * HOUR for hours in (1, 2, 3, 6, 12) if length / (hours * HOUR) <= 8)
        marks = range(-(-frame.start // step) * step, frame.end, step)
        return [(at, figures.moment(at).split(" ")[3]) for at in marks]
    step = next((days * DAY for days in (1, 2, 3, 7, 14, 28, 56, 91, 182) if length / (days * DAY) <= 8), length)
    first = -(-frame.start // DAY) * DAY
    return [(at, figures.day(at)) for at in range(first, frame.end, step)]


# ---------------------------------------------------------------------------------------------------------------------
# Parts
# ---------------------------------------------------------------------------------------------------------------------


def _opening(comparison: Comparison, heading: str) -> list[str]:
    dark = "".join(f".hv-f-{name}{{fill:{colour}}}.hv-s-{name}{{stroke:{colour}}}" for name, colour in _DARK.items())
    # Outside resvg's grasp of CSS: it skips rules inside a media query.
    style = f"@media (prefers-color-scheme: dark){{{dark}}}"
    caption = _caption(comparison)
    tone = "after" if comparison.verdict in CLAIMS or comparison.verdict is Verdict.EXACT else "soft"
    if comparison.verdict is Verdict.REGRESSED:
        tone = "worse"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{_FONTS}">',
        f"<title>{escape(heading)}</title>",
        f"<desc>{escape(alt_text(comparison))}</desc>",
        f"<style>{style}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" {_paint("card", "edge")}/>',
        "<g>",
        _text(20, 28, _shortened(heading, 80), "ink", size=15, weight=600),
        _text(20, 49, _shortened(caption, 112), tone, size=12 if len(caption) <= 102 else 11),
    ]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3].rstrip()}..."


def _grid(frame: _Frame, axis: _Axis) -> list[str]:
    parts = [f'<path d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}" {_stroke("edge")} stroke-width="1"/>']
    if axis.unit:
        parts.append(_text(20, _TOP - 6, _shortened(axis.unit, 24), "soft", size=11))
    for tick, label in zip(axis.ticks, axis.labels, strict=True):
        y = frame.y(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" {_stroke("grid")} stroke-width="1"/>')
        parts.append(_text(_LEFT - 8, y + 4, label, "soft", anchor="end", size=11))
    for at, label in _days(frame):
        x = frame.x(at)
        parts.append(f'<path d="M{x:.1f} {HEIGHT - _BOTTOM}v4" {_stroke("soft")} stroke-width="1"/>')
        parts.append(_text(x, HEIGHT - _BOTTOM + 18, label, "soft", anchor="middle", size=11))
    return parts


def _gaps(frame: _Frame, gaps: Window) -> list[str]:
    parts = []
    for start, end in (gaps & Window.of(frame.start, frame.end)).spans:
        left, right = frame.x(start), frame.x(end)
        width = max(right - left, 1.0)
        parts.append(f'<rect x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{frame.depth}" {_fill("gap")}/>')
        if width >= 42:
            parts.append(_text((left + right) / 2, HEIGHT - _BOTTOM - 8, "no data", "soft", anchor="middle", size=10))
    return parts


def _bars(frame: _Frame, at: Int64s, value: Float64s, change_at: int) -> list[str]:
    """Draw one bar a day, centred on its instant."""
    import numpy as np

    step = float(np.median(np.diff(at))) if len(at) > 1 else float(DAY)
    width = max(1.0, 0.72 * step / max(1, frame.end - frame.start) * (WIDTH - _LEFT - _RIGHT))
    foot = frame.y(max(0.0, frame.low))
    paths: dict[str, list[str]] = {"before": [], "after": []}
    for when, number in zip(at.tolist(), value.tolist(), strict=True):
        if not math.isfinite(number):
            continue
        top = max(float(_TOP), frame.y(number))
        name = "before" if when < change_at else "after"
        paths[name].append(f"M{frame.x(when) - width / 2:.1f} {foot:.1f}V{top:.1f}h{width:.1f}V{foot:.1f}z")
    return [f'<path d="{"".join(path)}" {_fill(name)} fill-opacity="0.55"/>' for name, path in paths.items() if path]


def _line(frame: _Frame, at: Int64s, value: Float64s, change_at: int, gaps: Window) -> list[str]:
    import numpy as np

    clip = f"hv-{frame.start}-{frame.end}"
    box = f'x="{_LEFT}" y="{_TOP - 2}" width="{WIDTH - _LEFT - _RIGHT}" height="{frame.depth + 4}"'
    parts = [
        f'<clipPath id="{clip}"><rect {box}/></clipPath>',
        f'<g clip-path="url(#{clip})" fill="none" stroke-linejoin="round" stroke-linecap="round">',
    ]
    few = len(at) <= _DOTS_UP_TO
    step = float(np.median(np.diff(at))) if len(at) > 1 else 0.0
    broken = _breaks(at, value, step, gaps, change_at)
    when, what, new = thin(at, value, broken)
    x = _LEFT + (when - frame.start) * ((WIDTH - _LEFT - _RIGHT) / max(1, frame.end - frame.start))
    y = frame.y(frame.low) - (what - frame.low) * (frame.depth / (frame.high - frame.low))
    for name, side in (("before", when < change_at), ("after", when >= change_at)):
        known = side & np.isfinite(y)
        if not known.any():
            continue
        drawn = "".join(
            f"{'M' if starts else 'L'}{a:.1f} {b:.1f}"
            for a, b, starts in zip(x[known].tolist(), y[known].tolist(), _starts(known, new).tolist(), strict=True)
        )
        width, opacity = (1.6, 0.85) if few else (1.1, 0.6)
        parts.append(f'<path d="{drawn}" {_stroke(name)} stroke-width="{width}" stroke-opacity="{opacity}"/>')
        if few:
            dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(x[known].tolist(), y[known].tolist(), strict=True))
            parts.append(f'<path d="{dots}" {_stroke(name)} stroke-width="3.6"/>')
    return [*parts, "</g>"]


def _breaks(at: Int64s, value: Float64s, step: float, gaps: Window, change_at: int) -> NDArray[np.bool_]:
    """Return, for each point, whether the line may not come from the one before it; shape (n,)."""
    import numpy as np

    broken = np.ones(len(at), dtype=bool)
    if len(at) < 2:
        return broken
    broken[1:] = (np.diff(at) > 3 * step) | ~np.isfinite(value[:-1]) | ((at[:-1] < change_at) & (at[1:] >= change_at))
    for start, end in gaps.spans:
        broken[1:] |= (at[:-1] < end) & (at[1:] >= start) & ((at[:-1] < start) | (at[1:] >= end))
    return broken


def _starts(known: NDArray[np.bool_], new: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return, for each kept point, whether a piece begins there: a break, or a point left out, lies before it."""
    import numpy as np

    runs = np.cumsum(new | ~known)[known]
    starts = np.ones(len(runs), dtype=bool)
    starts[1:] = runs[1:] != runs[:-1]
    return starts


def thin(at: Int64s, value: Float64s, broken: NDArray[np.bool_]) -> tuple[Int64s, Float64s, NDArray[np.bool_]]:
    """
    Return a series thinned to at most 600 points: the lowest and the highest of each column of time, in their order.

    Args:
        at: Instants; shape (n,).
        value: Values, NaN where there is none; shape (n,).
        broken: Whether a piece of the line begins at a point; shape (n,).

    Returns:
        Instants, values and breaks of the points kept.
    """
    import numpy as np

    if len(at) <= _MOST_POINTS:
        return at, value, broken
    columns = _MOST_POINTS // 2
    column = ((at - at[0]) * columns // (at[-1] - at[0] + 1)).astype(np.int64)
    order = np.lexsort((np.where(np.isfinite(value), value, np.inf), column))
    finite = np.isfinite(value[order])
    sorted_column = column[order]
    first = np.flatnonzero(np.r_[True, sorted_column[1:] != sorted_column[:-1]])
    # Values that are not finite are sorted last in their column; the highest is the last finite one.
    count = np.add.reduceat(finite.astype(np.int64), first)
    lowest = order[first]
    highest = order[first + np.maximum(count - 1, 0)]
    kept = np.unique(np.concatenate([lowest, highest]))
    # A break anywhere since the last kept point is a break before this one.
    pieces = np.cumsum(broken)[kept]
    new = np.ones(len(kept), dtype=bool)
    new[1:] = pieces[1:] != pieces[:-1]
    return at[kept], value[kept], new


def _change(frame: _Frame, change_at: int) -> list[str]:
    x = frame.x(change_at)
    anchor = "start" if x < WIDTH * 0.6 else "end"
    label = f"live from {figures.day(change_at)}"
    return [
        f'<path d="M{x:.1f} {_TOP - 12}V{HEIGHT - _BOTTOM}" {_stroke("ink")} stroke-width="1.3"/>',
        _text(x + (5 if anchor == "start" else -5), _TOP - 6, label, "ink", anchor=anchor, size=11),
    ]


def _levels(frame: _Frame, comparison: Comparison, change_at: int, unit: str) -> list[str]:
    """Draw the two printed values as lines, each with its number; the one before goes on as a dotted line."""
    texts = figures.pair(comparison.before.value, comparison.after.value, unit)
    middle = frame.x(change_at)
    sides = (
        (comparison.before.value, texts[0], _LEFT, middle, "before"),
        (comparison.after.value, texts[1], middle, WIDTH - _RIGHT, "after"),
    )
    parts = []
    before = comparison.before.value
    if before is not None and frame.low <= before <= frame.high:
        y = frame.y(before)
        parts.append(
            f'<path d="M{middle:.1f} {y:.1f}H{WIDTH - _RIGHT}" {_stroke("before")} stroke-width="1.4" '
            'stroke-dasharray="2 4"/>'
        )
    for value, text, left, right, name in sides:
        if value is None:
            continue
        y = frame.y(value)
        parts.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" {_stroke(name)} stroke-width="2.6"/>')
        at, anchor = (left + 6, "start") if name == "before" else (right - 6, "end")
        # Above the line, unless that is where the other level or the top of the picture is.
        other = comparison.after.value if name == "before" else before
        below = y - 20 < _TOP or (name == "after" and other is not None and 0 <= y - frame.y(other) < 24)
        if below and y + 20 > HEIGHT - _BOTTOM:
            below = False
        parts.append(_text(at, y + 17 if below else y - 7, text, name, anchor=anchor, size=13, weight=600, halo=True))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    size: int = 11,
    anchor: str = "start",
    weight: int = 400,
    halo: bool = False,
) -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    words = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}"{bold}{place}'
    shown = f"<text {words} {_fill(colour)}>{escape(text)}</text>"
    if not halo:
        return shown
    # The same text once more, wide and in the card's colour, below itself: readable over any line.
    edge = f'{_paint("card", "card")} stroke-width="4" stroke-linejoin="round"'
    return f'<text {words} {edge} aria-hidden="true">{escape(text)}</text>{shown}'


def _fill(name: str) -> str:
    return f'class="hv-f-{name}" fill="{_LIGHT[name]}"'


def _stroke(name: str) -> str:
    return f'class="hv-s-{name}" stroke="{_LIGHT[name]}"'


def _paint(fill: str, stroke: str) -> str:
    return f'class="hv-f-{fill} hv-s-{stroke}" fill="{_LIGHT[fill]}" stroke="{_LIGHT[stroke]}"'
