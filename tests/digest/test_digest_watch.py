"""What coverage proves, and that silence is never called quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from digest_samples import NOW

from harvester.connector import Batch
from harvester.digest.model import Silent, Watched
from harvester.digest.watch import watch
from harvester.readings import DAY, HOUR, MINUTE, Coverage, Level, Metric, Series, Shape, Window, labels_of
from harvester.settings import Settings
from harvester.store import Collection, Store

SINCE = NOW - 7 * DAY
ALL = Window.of(NOW - 20 * DAY, NOW - 5 * MINUTE)


def looked(store: Store, settings: Settings) -> tuple[Watched, tuple[Silent, ...]]:
    return watch(store, settings, Window.of(SINCE, NOW))


def cover(store: Store, settings: Settings, window: Window, source: str = "prom", **labels: str) -> None:
    """Store one reading of a series and the coverage of a window."""
    (metric,) = settings.connectors[source].definitions()
    series = Series(source, metric, labels_of({"service": "checkout", **labels}))
    one = Level(series, np.array([window.start], np.int64), np.array([0.4]))
    store.commit(source, Batch((one,), (Coverage(metric.name, window, series.labels, metric.question),)))


def collected(store: Store, error: str | None = None, notes: Sequence[str] = (), source: str = "prom") -> None:
    store.record_collection(
        Collection(source, NOW - MINUTE, NOW, Window.of(NOW - HOUR, NOW), Window(), error, tuple(notes))
    )


def test_unbroken_coverage_up_to_the_last_collection_is_everything(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    cover(store, settings, ALL, instance="a")
    cover(store, settings, ALL, instance="b")
    watched, silent = looked(store, settings)
    assert silent == ()
    assert watched == Watched(
        1, 2, 0, 1.0, True,
        "Everything was watched since Monday 16 November, 08:00: 2 series of 1 source, without a gap.",
    )


def test_a_source_that_stopped_is_told_with_its_day_its_error_and_until_when_it_is_asked_again(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    stopped = NOW - 6 * DAY + 5 * MINUTE
    cover(store, settings, Window.of(NOW - 20 * DAY, stopped))
    collected(store, "query http://127.0.0.1:9: connection refused (is it up?)")
    watched, silent = looked(store, settings)
    assert not watched.complete
    assert watched.text == "Not everything was watched since Monday 16 November, 08:00."
    assert [(one.name, one.since, one.until, one.recoverable) for one in silent] == [
        ("prom", stopped, None, stopped + 90 * DAY)
    ]
    assert silent[0].text == (
        "no data since Tuesday 17 November, 08:05: query http://127.0.0.1:9: connection refused (is it up?). Not lost yet: "
        "it is asked for again until Monday 15 February, as far as the source still holds it."
    )


def test_a_source_that_answers_without_proof_is_silent_and_nothing_is_promised(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    cover(store, settings, Window.of(NOW - 20 * DAY, NOW - 2 * DAY))
    collected(store, notes=["up{job='checkout'} is 0"])
    _, silent = looked(store, settings)
    assert silent[0].recoverable is None
    assert silent[0].text == (
        "no data since Saturday 21 November, 08:00: it answers, but proves no data of a subject complete: "
        "up{job='checkout'} is 0."
    )


def test_a_source_never_collected_is_told_and_nothing_counts_as_watched(
    store: Store, configured: Callable[..., Settings]
) -> None:
    watched, silent = looked(store, configured())
    assert silent[0].text == "no data yet: it was never collected."
    assert (watched.complete, watched.text) == (
        False, "Nothing was watched since Monday 16 November, 08:00: no source has proven data of a subject.",
    )


def test_without_sources_nothing_was_watched(store: Store, configured: Callable[..., Settings]) -> None:
    watched, silent = looked(store, configured(sources={}))
    assert silent == ()
    assert (watched.complete, watched.text) == (False, "No source is configured, so nothing was watched.")


def test_a_gap_inside_the_week_is_told_from_when_to_when(store: Store, configured: Callable[..., Settings]) -> None:
    settings = configured()
    outage = Window.of(NOW - 5 * DAY, NOW - 3 * DAY - 2 * HOUR) | Window.of(NOW - 2 * DAY, NOW - 2 * DAY + HOUR)
    cover(store, settings, ALL - outage)
    watched, silent = looked(store, settings)
    assert not watched.complete
    assert [(one.name, one.since, one.until) for one in silent] == [("prom", NOW - 5 * DAY, NOW - 3 * DAY - 2 * HOUR)]
    assert silent[0].text == (
        "no data from Wednesday 18 November, 08:00 to Friday 20 November, 06:00 and in 1 shorter gap, 28 % of the time."
    )


def test_a_few_missed_scrapes_are_in_the_share_which_is_never_rounded_up(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    cover(store, settings, ALL - Window.of(NOW - 3 * DAY, NOW - 3 * DAY + 5 * MINUTE))
    watched, silent = looked(store, settings)
    assert silent == ()
    assert watched.complete
    assert watched.text.endswith("1 series of 1 source, each proven complete for at least 99.9 % of the time.")


def test_one_unproven_series_beside_a_proven_one_is_not_everything(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    cover(store, settings, ALL, instance="a")
    cover(store, settings, ALL - Window.of(NOW - 4 * DAY, NOW - 3 * DAY), instance="b")
    watched, silent = looked(store, settings)
    assert not watched.complete
    assert watched.text == "Not everything was watched since Monday 16 November, 08:00."
    assert [(one.name, one.text) for one in silent] == [
        (
            "checkout cpu (prom)",
            (
                "1 of 2 series is not proven complete, down to 86 % of the time; the longest gap from Thursday 19 November, "
                "08:00 to Friday 20 November, 08:00."
            ),
        )
    ]


def test_an_instance_that_was_replaced_has_ended_and_is_counted(
    store: Store, configured: Callable[..., Settings]
) -> None:
    settings = configured()
    cover(store, settings, Window.of(NOW - 20 * DAY, NOW - 3 * DAY), instance="old")
    cover(store, settings, Window.of(NOW - 3 * DAY, NOW - 5 * MINUTE), instance="new")
    watched, silent = looked(store, settings)
    assert silent == ()
    assert (watched.complete, watched.series, watched.ended) == (True, 2, 1)
    assert watched.text.endswith("2 series of 1 source, without a gap (1 series ended meanwhile).")


def test_a_metric_that_ended_while_its_source_goes_on_is_told_until_it_is_forgotten(
    store: Store, configured: Callable[..., Settings]
) -> None:
    queue = {"name": "queue", "shape": "level", "unit": "jobs", "query": "queue{$selector}"}
    cpu = {"name": "cpu", "shape": "level", "unit": "1", "query": "cpu{$selector}"}
    source = {"connector": "prometheus", "url": "http://127.0.0.1:9", "metrics": [cpu, queue]}
    settings = configured(sources={"prom": source})
    labels = labels_of({"service": "checkout"})
    for metric, end in zip(settings.connectors["prom"].definitions(), (NOW - MINUTE, NOW - 3 * DAY), strict=True):
        series = Series("prom", metric, labels)
        one = Level(series, np.array([NOW - 9 * DAY], np.int64), np.array([0.4]))
        store.commit("prom", Batch((one,), (Coverage(metric.name, Window.of(NOW - 9 * DAY, end), labels, metric.question),)))
    watched, silent = looked(store, settings)
    assert not watched.complete
    assert [(one.name, one.since) for one in silent] == [("checkout queue (prom)", NOW - 3 * DAY)]
    assert silent[0].text == "no data since Friday 20 November, 08:00, though prom answers."
    later = NOW + 60 * DAY
    cpu_metric = settings.connectors["prom"].definitions()[0]
    store.commit("prom", Batch((), (Coverage("cpu", Window.of(NOW - DAY, later), labels, cpu_metric.question),)))
    assert watch(store, settings, Window.of(later - 7 * DAY, later))[1] == ()


def test_a_metric_no_longer_configured_is_not_mourned(store: Store, configured: Callable[..., Settings]) -> None:
    settings = configured()
    cover(store, settings, ALL)
    gone = Series("prom", Metric("old", "1", Shape.LEVEL), labels_of({"service": "checkout"}))
    one = Level(gone, np.array([NOW - 9 * DAY], np.int64), np.array([1.0]))
    store.commit("prom", Batch((one,), (Coverage("old", Window.of(NOW - 9 * DAY, NOW - 8 * DAY), gone.labels, gone.metric.question),)))
    assert looked(store, settings)[1] == ()


@pytest.mark.parametrize("late", [26, 28])
def test_the_usual_lag_of_a_source_is_no_silence(
    store: Store, configured: Callable[..., Settings], late: int
) -> None:
    settings = configured()  # every 5 minutes, 10 of overlap, samples a minute apart: 27 minutes of patience
    cover(store, settings, Window.of(NOW - 20 * DAY, NOW - late * MINUTE))
    assert looked(store, settings)[0].complete is (late == 26)
