"""What a counter stands at when it is first seen is an event only where its target was watched before."""

from __future__ import annotations

import numpy as np
import pytest

from connectors.prometheus.matrix import Matrix, Samples
from connectors.prometheus.shapes import Answers, Slice, Target, counts
from harvester.readings import MINUTE, Metric, Shape, Silence, Window

START = 20_000 * 86_400_000
BORN = START + 10 * MINUTE


def at(first: int, last: int = 20) -> np.ndarray:
    return START + np.arange(first, last, dtype=np.int64) * MINUTE


def counted(*proof: np.ndarray) -> tuple[float, Window]:
    """Count a series of 2 a minute beside one that is first seen at ``BORN``, standing at 500."""
    metric = Metric("lost", "1", Shape.COUNT, silence=Silence.ZERO, query="lost_total")
    answers = Answers(
        value=Matrix((Samples({}, at(0), np.full(20, 2.0)),)),
        born=Matrix((Samples({}, np.array([BORN]), np.array([500.0])),)),
        seen=Matrix((Samples({}, at(0), np.full(20, 1.0)),)),
        proof=Matrix(tuple(Samples({"instance": str(n)}, one, np.ones(len(one))) for n, one in enumerate(proof))),
    )
    window = Window.of(START, START + 18 * MINUTE)
    done = counts(Target("prom", metric, (("service", "a"),), templated=True), answers, Slice(START, window.end, window))
    covered = Window()
    for one in done.coverage:
        covered |= one.window
    return float(done.readings[0].number.sum()), covered


@pytest.mark.parametrize("instances", [1, 2])
def test_the_first_events_of_a_target_that_was_watched_are_counted(instances):
    number, covered = counted(*[at(0)] * instances)
    assert number == pytest.approx(2 * 18 + 500)
    assert covered & Window.of(BORN - MINUTE, BORN)


def test_an_old_counter_of_a_target_that_is_new_is_no_event_and_the_interval_is_not_proven():
    number, covered = counted(at(0), at(10))
    assert number == pytest.approx(2 * 18)
    assert not covered & Window.of(BORN - MINUTE, BORN)
    assert covered & Window.of(BORN + MINUTE, BORN + 2 * MINUTE)
