"""Coverage in a sentence."""

from __future__ import annotations

from harvester.readings import DAY, MINUTE, Window, to_datetime

_MOST_GAPS = 5


def coverage_sentence(covered: Window, whole: Window, *, most: int = _MOST_GAPS) -> str:
    """
    Return how much of a window is covered and what is missing, the longest gaps first.

    >>> coverage_sentence(Window.of(0, 9 * 3_600_000), Window.of(0, 10 * 3_600_000))
    'covered 90.0 %, gap: 1970-01-01 09:00 to 10:00 UTC'
    """
    gaps = sorted((whole - covered).spans, key=lambda span: span[0] - span[1])
    if not gaps:
        return "covered 100 %"
    share = 100 * covered.share_of(whole)
    # Rounded, a small gap must not look like none, nor a little coverage like none.
    percent = f"{share:.1f}" if 0.05 <= share < 99.95 else "over 99.9" if share > 50 else "under 0.1" if share else "0"
    told = [_span(start, end) for start, end in sorted(gaps[:most])]
    if len(gaps) > most:
        told.append(f"and {len(gaps) - most} shorter")
    return f"covered {percent} %, {'gap' if len(gaps) == 1 else 'gaps'}: {', '.join(told)}"


def _span(start: int, end: int) -> str:
    first, last = to_datetime(start), to_datetime(end)
    if start % DAY == 0 and end % DAY == 0:
        return f"{first:%Y-%m-%d}" if end - start == DAY else f"{first:%Y-%m-%d} to {to_datetime(end - 1):%Y-%m-%d}"
    clock = "%H:%M" if start % MINUTE == 0 and end % MINUTE == 0 else "%H:%M:%S"
    until = f"{last:{clock}}" if first.date() == last.date() else f"{last:%Y-%m-%d {clock}}"
    return f"{first:%Y-%m-%d {clock}} to {until} UTC"
