"""
Numbers as they are printed: each value in its natural unit, percent, multiples, points, money, dates.

The lowest layer: imports nothing of ours and nothing outside the standard library. Output is plain ASCII whatever the
locale, so that it reads the same in a terminal, a mail and a CSV file: a hyphen for minus, ``x`` for times, ``us`` for
microseconds, a comma between thousands, a space before ``%`` and units, English month names. Halves round away from
zero. What is unknown (None, NaN) is ``?``, never 0.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal

UNKNOWN = "?"

DAY_SECONDS = 86_400
MONTH_DAYS = 365.2425 / 12

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A unit, how many base units it holds, and up to which number it reads naturally ("140 s", "90 min", "36 h").
_TIME = (
    ("ns", 1e-9, 1000.0),
    ("us", 1e-6, 1000.0),
    ("ms", 1e-3, 1000.0),
    ("s", 1.0, 180.0),
    ("min", 60.0, 180.0),
    ("h", 3600.0, 48.0),
    ("d", 86_400.0, math.inf),
)
_BYTES = (
    ("B", 1.0, 1000.0),
    ("kB", 1e3, 1000.0),
    ("MB", 1e6, 1000.0),
    ("GB", 1e9, 1000.0),
    ("TB", 1e12, 1000.0),
    ("PB", 1e15, math.inf),
)
_SCALES = (("", 1.0), ("K", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12))
_PERIODS = (("day", 1.0), ("week", 7.0), ("month", MONTH_DAYS), ("year", 12 * MONTH_DAYS))
_PER = {"second": "s", "seconds": "s", "minute": "min", "hour": "h", "s": "s", "min": "min", "h": "h"}

_ANY_SIZE = Context(prec=1400)
"""Enough digits to round any float."""

PROPORTION = "proportion"
"""The printed unit of a share of a whole: ``value(0.0021, PROPORTION)`` is ``0.21 %``."""


# ---------------------------------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------------------------------


def value(number: float | None, unit: str, *, extra: int = 0) -> str:
    """
    Return a value given in base units, in its natural unit.

    Args:
        number: In ``unit``.
        unit: ``seconds``, ``bytes``, ``1``, ``proportion``, or what is counted (``requests``); a rate has one ``/``.
            ``1`` is printed as a share of a whole from 0 to 1, as a plain number elsewhere. What is counted per day
            and happens less than daily is printed per week, month or year.
        extra: Digits beyond the usual ones.

    >>> value(0.48, "seconds"), value(4.236, "seconds"), value(720, "seconds"), value(3.12e8, "bytes")
    ('480 ms', '4.2 s', '12 min', '312 MB')
    >>> value(1240, "requests/second"), value(1, "instances"), value(12, "instances"), value(0.0021, "1")
    ('1,240 requests/s', '1 instance', '12 instances', '0.21 %')
    >>> value(0.1314, "incidents/day"), value(7200, "seconds/day"), value(None, "seconds")
    ('4 incidents/month', '120 min/day', '?')
    """
    if _per_day(unit) and number is not None and math.isfinite(number):
        per, days = _period(number)
        return _said(number * days, f"{unit.partition('/')[0]}/{per}", extra)
    return _said(number, unit, extra)


def _said(number: float | None, unit: str, extra: int) -> str:
    """Return a value in its natural unit, over the period its unit names."""
    if number is None or math.isnan(number):
        return UNKNOWN
    if unit == PROPORTION or (unit == "1" and 0 <= number <= 1):
        return share(number, extra=extra)
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    what, slash, per = unit.partition("/")
    suffix = slash + _PER.get(per, per)
    if what in ("seconds", "bytes"):
        return _scaled(number, _TIME if what == "seconds" else _BYTES, extra) + suffix
    text = _plain(number, extra)
    if what in ("", "1"):
        return text + suffix
    return f"{text} {_singular(what) if text in ('1', '-1') else what}{suffix}"


def _per_day(unit: str) -> bool:
    """Tell whether a unit counts things per day, so that a rare thing is better told per week or month."""
    what, _, per = unit.partition("/")
    return per == "day" and what not in ("seconds", "bytes")


def pair(before: float | None, after: float | None, unit: str) -> tuple[str, str]:
    """
    Return two values of one unit, each in its own natural unit, with as many more digits as tell them apart.

    >>> pair(4.2, 0.038, "seconds"), pair(12.41, 12.04, "instances"), pair(0.5, 1.25, "1")
    (('4.2 s', '38 ms'), ('12.4 instances', '12 instances'), ('0.5', '1.3'))
    >>> pair(0.1314, 0.0, "incidents/day")
    ('4 incidents/month', '0 incidents/month')
    """
    unit = common_unit(unit, (before, after))
    known = [abs(number) for number in (before, after) if number is not None and math.isfinite(number)]
    if _per_day(unit) and known:
        per, days = _period(max(known))
        before, after = (None if number is None else number * days for number in (before, after))
        unit = f"{unit.partition('/')[0]}/{per}"
    texts = _said(before, unit, 0), _said(after, unit, 0)
    if before is None or after is None or before == after:
        return texts
    for extra in (1, 2, 3):
        if texts[0] != texts[1]:
            break
        texts = _said(before, unit, extra), _said(after, unit, extra)
    return texts


def _period(per_day: float) -> tuple[str, float]:
    """Return the shortest period in which something happens at least once, and its days."""
    if not per_day or not math.isfinite(per_day):
        return _PERIODS[0]
    return next((period for period in _PERIODS if abs(per_day) * period[1] >= 0.95), _PERIODS[-1])


def common_unit(unit: str, numbers: Sequence[float | None]) -> str:
    """
    Return the printed unit that numbers shown together share: ``1`` is a proportion only where all lie from 0 to 1.

    >>> common_unit("1", (0.2, 0.4)), common_unit("1", (0.2, 3.0)), common_unit("seconds", (0.2, 3.0))
    ('proportion', '', 'seconds')
    """
    if unit != "1":
        return unit
    known = [number for number in numbers if number is not None and not math.isnan(number)]
    return PROPORTION if all(0 <= number <= 1 for number in known) else ""


def printed_unit(unit: str, shape: str, statistic: str) -> str:
    """
    Return the unit in which a window summary is printed; counts and totals of a window are per day.

    >>> printed_unit("seconds", "distribution", "p95"), printed_unit("seconds", "distribution", "count")
    ('seconds', 'observations/day')
    >>> printed_unit("timeouts", "count", "count"), printed_unit("1", "count", "count")
    ('timeouts/day', 'events/day')
    """
    if statistic == "count":
        if shape == "distribution":
            return "observations/day"
        return f"{'events' if unit in ('', '1', 'seconds') else unit}/day"
    if statistic == "total" and shape == "distribution":
        return f"{unit}/day"
    return unit


def share(number: float | None, *, extra: int = 0) -> str:
    """
    Return a share of a whole as percent; nines are kept and never rounded up.

    >>> share(0.0021), share(0.34), share(0.9997), share(0.999968), share(0.986), share(1.0)
    ('0.21 %', '34 %', '99.97 %', '99.9968 %', '98.6 %', '100 %')
    """
    if number is None or math.isnan(number):
        return UNKNOWN
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    if number < 0:
        return "-" + share(-number, extra=extra)
    if number >= 1e15:
        return f"{100 * number:.2g} %"
    if 0 < number < 1e-6:
        return "under 0.0001 %"
    hundred = _decimal(number) * 100
    if number >= 1 or number < 0.9:
        decimals = (0 if hundred >= 10 else 1 if hundred >= 1 else 1 - hundred.adjusted() if hundred else 0) + extra
        return f"{_text(_rounded(hundred, decimals))} %"
    missing = 100 - _exact(number) * 100
    decimals = min(max(1, 1 - missing.adjusted()) + extra, 6)
    return f"{_text(_rounded(min(hundred, 100 - missing), decimals, ROUND_DOWN))} %"


# ---------------------------------------------------------------------------------------------------------------------
# Differences
# ---------------------------------------------------------------------------------------------------------------------


def percent(change: float | None) -> str:
    """
    Return a relative change, given in percent, with its sign.

    Whole percent, but one decimal where a fall nears all (from -99); ``-100 %`` only where nothing is left.

    >>> percent(-71.2), percent(12.5), percent(-99.96), percent(-100), percent(300), percent(0.3), percent(0)
    ('-71 %', '+13 %', '-99.9 %', '-100 %', '+300 %', 'under 1 %', '0 %')
    """
    if change is None or math.isnan(change):
        return UNKNOWN
    if change == 0:
        return "0 %"
    if abs(change) < 1:
        return "under 1 %"
    return _signed_percent(change, 0)


def multiple(ratio: float | None) -> str:
    """
    Return a ratio as a multiple: one decimal, whole from 10; said from 2x up, below that percent reads better.

    >>> multiple(2.345), multiple(9.96), multiple(15.4), multiple(3)
    ('2.3x', '10x', '15x', '3x')
    """
    if ratio is None or math.isnan(ratio):
        return UNKNOWN
    return f"{_plain(ratio)}x" if math.isfinite(ratio) else "inf"


def points(before: float | None, after: float | None) -> str:
    """
    Return how far two proportions lie apart, in percentage points, without a sign.

    >>> points(0.57, 0.91), points(0.0021, 0.0004), points(0.923, 0.996), points(0.01, 0.02)
    ('34 points', '0.17 points', '7.3 points', '1 point')
    """
    if before is None or after is None or not math.isfinite(after - before):
        return UNKNOWN
    text = _plain(float(abs(_decimal(after) - _decimal(before)) * 100))
    return f"{text} point" if text == "1" else f"{text} points"


def interval(low: float | None, high: float | None, scale: str = "ratio", unit: str = "") -> str:
    """
    Return a 95 % interval in words, on the scale the comparison names; ratios become percent.

    An end that is None is unbounded, and so is a ratio of 0, below which there is nothing.

    >>> interval(0.452, 0.519), interval(0.0, 0.4), interval(1.4, None), interval(0.998, 1.013)
    ('between -55 % and -48 %', '-60 % or lower', '+40 % or higher', 'between -0.2 % and +1.3 %')
    >>> interval(-0.12, -0.04, "difference", "seconds")
    'between -120 ms and -40 ms'
    """
    if scale == "ratio":
        # Nothing lies below a ratio of 0, so that end says nothing.
        ends = [
            None
            if end is None or not math.isfinite(end) or end <= 0
            else max(float((_decimal(end) - 1) * 100), -99.999999)
            for end in (low, high)
        ]
    else:
        ends = [None if end is None or not math.isfinite(end) else end for end in (low, high)]
    if scale == "ratio" and high is not None and high <= 0:
        return "-100 %"
    width = abs(ends[1] - ends[0]) if ends[0] is not None and ends[1] is not None else math.inf
    decimals = 0 if width >= 2 else 1 if width >= 0.2 else 2

    def said(end: float) -> str:
        if scale != "ratio":
            return ("+" if end > 0 else "") + value(end, unit)
        return _signed_percent(end, decimals)

    if ends[0] is not None and ends[1] is not None:
        texts = said(ends[0]), said(ends[1])
        return f"between {texts[0]} and {texts[1]}" if texts[0] != texts[1] else f"about {texts[0]}"
    if ends[1] is not None:
        return f"{said(ends[1])} or lower"
    if ends[0] is not None:
        return f"{said(ends[0])} or higher"
    return UNKNOWN


def p(number: float | None) -> str:
    """
    Return a p-value.

    >>> p(0.0004), p(0.0123), p(0.34), p(None)
    ('p < 0.001', 'p = 0.012', 'p = 0.34', 'p = ?')
    """
    if number is None or math.isnan(number):
        return f"p = {UNKNOWN}"
    if number < 0.001:
        return "p < 0.001"
    return f"p = {_text(_rounded(_decimal(number), 3 if number < 0.1 else 2))}"


# ---------------------------------------------------------------------------------------------------------------------
# Scale, money, frequency
# ---------------------------------------------------------------------------------------------------------------------


def rounded_down(number: float | None) -> str:
    """
    Return the size of something, two digits, never more than it is; ``+`` where something was cut off.

    >>> rounded_down(2_034_567), rounded_down(10_900_000), rounded_down(100_000_000), rounded_down(50_000)
    ('2M+', '10M+', '100M', '50K')
    >>> rounded_down(43), rounded_down(214)
    ('43', '210+')
    """
    if number is None or math.isnan(number):
        return UNKNOWN
    if number and not 1e-6 <= abs(number) < 1e18:
        return f"{number:.2g}"
    exact = _exact(number)
    cut = _rounded(exact, 1 - exact.adjusted(), ROUND_FLOOR)
    name, size = next((scale for scale in reversed(_SCALES) if abs(cut) >= Decimal(scale[1])), _SCALES[0])
    return f"{_text(cut / Decimal(size))}{name}{'+' if cut < exact else ''}"


def money(amount: float | None, currency: str = "USD", period: str = "") -> str:
    """
    Return an amount of money with its period.

    >>> money(8400, "USD", "month"), money(180_000, "USD", "year"), money(1_200_000, "EUR", "year"), money(-4.2)
    ('$8,400/month', '$180K/year', '1.2M EUR/year', '-$4.20')
    """
    if amount is None or not math.isfinite(amount):
        return UNKNOWN
    exact = abs(_decimal(amount))
    if exact >= Decimal("1e18"):
        text = f"{exact:.2g}"
    elif exact >= 100_000:
        text = _compact(exact, 2)
    else:
        text = f"{_rounded(exact, 2 if exact < 10 and exact != int(exact) else 0):,}"
    sign = "-" if amount < 0 else ""
    said = f"{sign}${text}" if currency in ("USD", "$") else f"{sign}{text} {currency}"
    return f"{said}/{period}" if period else said


def frequency(per_day: float | None) -> str:
    """
    Return how often something happens, in the words people use.

    >>> frequency(1), frequency(2 / 7), frequency(1 / 14), frequency(3), frequency(12 / 365.2425), frequency(0)
    ('daily', 'twice a week', 'every second week', '3 times a day', 'monthly', 'never')
    """
    if per_day is None or not math.isfinite(per_day) or per_day < 0:
        return UNKNOWN
    if per_day == 0:
        return "never"
    periods = (
        ("daily", "a day", "day", 1.0),
        ("weekly", "a week", "week", 7.0),
        ("monthly", "a month", "month", MONTH_DAYS),
        ("quarterly", "a quarter", "quarter", 3 * MONTH_DAYS),
        ("yearly", "a year", "year", 12 * MONTH_DAYS),
    )
    for word, per, name, days in periods:
        times = per_day * days
        if times >= 0.9:
            near = round(times)
            if near == 1 and abs(times - 1) <= 0.1:
                return word
            if near == 2 and abs(times - 2) <= 0.2:
                return f"twice {per}"
            return f"{_plain(near if abs(times - near) <= 0.1 * near and near < 10 else times)} times {per}"
        if abs(times - 0.5) <= 0.03 and name != "quarter":
            return f"every second {name}"
    return f"every {_plain(1 / (per_day * 12 * MONTH_DAYS))} years"


def duration(seconds: float | None) -> str:
    """
    Return how long something has lasted: days up to a year, then months and years, never more than it was.

    >>> duration(5400), duration(212.7 * 86400), duration(550 * 86400), duration(86400 * 2), duration(1500 * 86400)
    ('90 min', '212 days', '18 months', '2 days', '4 years')
    """
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    days = seconds / DAY_SECONDS
    if days < 2:
        return value(seconds, "seconds")
    if days < 365:
        return f"{math.floor(days)} days"
    months = math.floor(days / MONTH_DAYS + 1e-9)
    return f"{months} months" if months < 36 else f"{_plain(months // 12)} years"


# ---------------------------------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------------------------------


def date(milliseconds: int, zone: tzinfo = UTC) -> str:
    """
    Return the day an instant falls on.

    >>> date(1_773_446_400_000)
    '14 Mar 2026'
    """
    at = datetime.fromtimestamp(milliseconds / 1000, zone)
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}"


def day(milliseconds: int, zone: tzinfo = UTC) -> str:
    """
    Return the day an instant falls on, without its year.

    >>> day(1_773_446_400_000)
    '14 Mar'
    """
    return date(milliseconds, zone).rpartition(" ")[0]


def moment(milliseconds: int, zone: tzinfo = UTC) -> str:
    """
    Return an instant to the minute.

    >>> moment(1_773_480_600_000)
    '14 Mar 2026 09:30 UTC'
    """
    at = datetime.fromtimestamp(milliseconds / 1000, zone)
    return f"{date(milliseconds, zone)} {at:%H:%M %Z}"


def span(start: int, end: int, zone: tzinfo = UTC) -> str:
    """
    Return the days of a half-open span of milliseconds, the last one included.

    >>> span(1_772_323_200_000, 1_773_532_800_000)
    '1 to 14 Mar 2026'
    >>> span(1_772_236_800_000, 1_773_532_800_000)
    '28 Feb to 14 Mar 2026'
    """
    first, last = (date(at, zone).split(" ") for at in (start, max(start, end - 1)))
    if first == last:
        return " ".join(last)
    differing = next(index for index in (2, 1, 0) if first[index] != last[index])
    return f"{' '.join(first[: differing + 1])} to {' '.join(last)}"


# ---------------------------------------------------------------------------------------------------------------------
# Words from elsewhere
# ---------------------------------------------------------------------------------------------------------------------

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")

# fmt: off
_PLACES = frozenset({
    "app", "cluster", "container", "database", "env", "environment", "host", "instance", "job", "namespace", "node",
    "pagerduty_service", "pagerduty_service_id", "pod", "project", "region", "repository", "service", "team", "zone",
})
# fmt: on
"""Labels that say where a series comes from; its subject says that already."""


def plain(text: str, most: int = 200) -> str:
    r"""
    Return text from a source on one line: no escape sequences, control or direction characters, at most so many long.

    >>> plain("drop\x1b[31m index\n on  orders\u202e")
    'drop index on orders'
    """
    kept = (
        " " if unicodedata.category(letter) in ("Zl", "Zp") or letter in "\t\n\r\v\f" else letter
        for letter in _ESCAPE.sub("", text)
        if unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn") or letter in "\t\n\r\v\f"
    )
    line = " ".join("".join(kept).split())
    return line if len(line) <= most else line[: most - 3].rstrip() + "..."


def what(
    metric: str, statistic: str, *, shape: str = "", subject: str = "", labels: Iterable[tuple[str, str]] = ()
) -> str:
    """
    Return what a comparison compares, in words.

    >>> labels = (("job", "a"), ("route", "/pay"))
    >>> what("request_latency", "p95", shape="distribution", subject="checkout", labels=labels)
    'p95 request latency of checkout (route /pay)'
    >>> what("timeouts", "count", shape="count", subject="checkout"), what("error_ratio", "ratio")
    ('timeouts of checkout', 'error ratio')
    """
    words = plain(metric, 80).replace("_", " ")
    if shape == "event" and statistic != "count" and not re.search("duration|time|length", words):
        words += " duration"
    if statistic == "count" and shape == "distribution":
        words += " observations"
    elif statistic not in ("count", "ratio", ""):
        words = f"{'highest' if statistic == 'max' else statistic} {words}"
    if subject:
        words += f" of {plain(subject, 80)}"
    told = ", ".join(f"{plain(name, 40)} {plain(said, 60)}" for name, said in labels if name not in _PLACES)
    return f"{words} ({told})" if told else words


# ---------------------------------------------------------------------------------------------------------------------
# Digits
# ---------------------------------------------------------------------------------------------------------------------


def _decimal(number: float) -> Decimal:
    """Return the number without the noise of binary fractions: 0.1 + 0.2 is 0.3."""
    return Decimal(f"{number:.12g}")


def _exact(number: float) -> Decimal:
    """Return every digit of the number."""
    return Decimal(repr(float(number)))


def _rounded(number: Decimal, decimals: int, rounding: str = ROUND_HALF_UP) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-decimals), rounding, _ANY_SIZE) if number else Decimal(0)


def _text(number: Decimal) -> str:
    """Return the digits with commas, without trailing zeros after the point and without minus zero."""
    text = f"{number:,f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _decimals(number: Decimal) -> int:
    """Return how many decimals tell a number: two digits below 1, one decimal below 10, none above."""
    if number == 0:
        return 0
    size = abs(number)
    return 0 if size >= 10 else 1 if size >= 1 else 1 - number.adjusted()


def _plain(number: float, extra: int = 0) -> str:
    if number and not 1e-6 <= abs(number) < 1e18:
        return f"{number:.{2 + extra}g}"
    exact = _decimal(number)
    if abs(exact) < 999_999.5:
        return _text(_rounded(exact, _decimals(exact) + extra))
    return ("-" if exact < 0 else "") + _compact(abs(exact), 2 + extra)


def _compact(exact: Decimal, decimals: int) -> str:
    """Return a large number with three digits and K, M, B or T."""
    cut = _rounded(exact, decimals - exact.adjusted())
    name, size = next((scale for scale in reversed(_SCALES) if cut >= Decimal(scale[1])), _SCALES[0])
    return f"{_text(cut / Decimal(size))}{name}"


def _scaled(number: float, units: Sequence[tuple[str, float, float]], extra: int) -> str:
    """Return the number in the first unit in which it still reads naturally once rounded."""
    if number == 0:
        return f"0 {'s' if units is _TIME else 'B'}"
    for name, size, most in units:
        if abs(number) > most * size:
            continue
        exact = _decimal(number / size)
        # Half an hour is worth saying: "11.4 h".
        decimals = 1 if name in ("h", "d") and 10 <= abs(exact) < 100 else _decimals(exact)
        if abs(_rounded(exact, decimals)) < Decimal(most):
            usual = 1e-6 <= abs(exact) < 1_000_000
            return f"{_text(_rounded(exact, decimals + extra)) if usual else _plain(number / size, extra)} {name}"
    raise AssertionError("the last unit has no upper end")


def _signed_percent(change: float, decimals: int) -> str:
    """Return percent with its sign; never rounded to nothing left, nor to nothing at all."""
    exact = _decimal(change)
    if change == 0:
        return "0 %"
    if abs(change) >= 1e15:
        return f"{change:+.2g} %" if math.isfinite(change) else f"{change:+}"
    if -100 < change <= -99:
        cut = _rounded(exact, max(1, decimals))
        return f"{_text(cut if cut > -100 else _rounded(_exact(change), max(1, decimals), ROUND_DOWN))} %"
    cut = _rounded(exact, max(decimals, _decimals(exact) if abs(exact) < 1 else 0))
    return f"{'+' if exact > 0 else ''}{_text(cut)} %"


def _singular(plural: str) -> str:
    if plural.endswith("ies") and len(plural) > 4:
        return plural[:-3] + "y"
    if plural.endswith(("sses", "shes", "ches", "xes")):
        return plural[:-2]
    return plural[:-1] if plural.endswith("s") and not plural.endswith("ss") else plural
