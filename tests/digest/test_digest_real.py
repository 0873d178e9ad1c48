"""From stored readings to a mail, with nothing made by hand in between."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import numpy as np
from digest_postman import postman
from digest_samples import NOW

from harvester import impact
from harvester.candidates.model import Change, Direction, Expectation, Grade, Status
from harvester.candidates.word import derive
from harvester.connector import Batch
from harvester.differ.result import Verdict
from harvester.digest import render
from harvester.digest.compose import for_week, kept
from harvester.digest.send import send_due
from harvester.readings import DAY, HOUR, MINUTE, Coverage, Level, Series, Window, labels_of
from harvester.settings import Settings
from harvester.store import Store

LIVE = NOW - 10 * DAY


def fill(store: Store, settings: Settings, subject: str, factor: float) -> None:
    """Store 40 days of a CPU with a daily cycle and noise of its own, times ``factor`` from ``LIVE`` on."""
    (metric,) = settings.connectors["prom"].definitions()
    rng = np.random.default_rng(len(subject))
    at = np.arange(NOW - 40 * DAY, NOW - 5 * MINUTE, 5 * MINUTE, dtype=np.int64)
    daily = 1 + 0.2 * np.sin(2 * np.pi * (at % DAY) / DAY)
    value = 0.4 * daily * rng.normal(1, 0.05, len(at)) * np.where(at >= LIVE, factor, 1.0)
    series = Series("prom", metric, labels_of({"service": subject}))
    covered = Coverage("cpu", Window.of(int(at[0]), NOW - 5 * MINUTE), series.labels, metric.question)
    store.commit("prom", Batch((Level(series, at, value),), (covered,)))


def two_subjects(configured: Callable[..., Settings], **given: Any) -> Settings:
    names = ("checkout", "search")
    return configured(subjects={name: {"prometheus": {"service": name}} for name in names}, **given)


def ship(store: Store, name: str, subject: str) -> None:
    expect = Expectation(subject, "cpu", "mean", Direction.LOWER)
    impact.save_change(
        store, Change(name, (subject,), LIVE - HOUR, LIVE - 28 * DAY, LIVE, LIVE, (expect,), title=f"Cache {subject}")
    )


def test_a_real_week_is_told_mailed_and_kept_with_the_same_figures(
    store: Store, configured: Callable[..., Settings], clock: Any
) -> None:
    with postman() as server:
        settings = two_subjects(
            configured,
            mail={
                "host": "127.0.0.1", "port": server.port, "security": "none", "sender": "harvester@example.com",
                "recipients": ["me@example.com"],
            },
        )
        fill(store, settings, "checkout", 0.5)
        fill(store, settings, "search", 1.0)
        ship(store, "checkout-cache", "checkout")
        ship(store, "search-cache", "search")
        done = send_due(store, settings, clock)
        assert done is not None
        assert done.sent
        (_, content), = server.taken

    digest = kept(store, "2026-W48")
    assert digest is not None
    (told,) = digest.candidates
    assert told.candidate.headline.verdict is Verdict.IMPROVED
    assert told.candidate.grade is Grade.EXPECTED
    assert told.candidate.change == "checkout-cache"
    assert told.new
    asked = (*digest.unclear, *digest.unchanged)
    assert [(one.change, one.comparison.subject) for one in asked] == [("search-cache", "search")]
    assert digest.silent == ()
    assert digest.watched is not None
    assert digest.watched.complete
    assert digest.expected_false is not None
    assert digest.expected_false <= 1

    figures = {key: derive(told.candidate.headline)[key].text for key in ("before", "after", "interval")}
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    text, page, picture = (part for part in mail.walk() if not part.is_multipart())
    assert mail["Subject"] == digest.subject
    assert picture.get_content().startswith(b"\x89PNG")
    in_text, in_page = (" ".join(part.get_content().split()) for part in (text, page))
    for shown in (in_text, in_page, told.candidate.sentence, told.alt):
        assert figures["before"] in shown
        assert figures["after"] in shown
    assert figures["interval"] in told.interval
    assert in_text == " ".join(render.text(digest).split())
    assert for_week(store, settings, clock()) == digest


def test_what_was_accepted_is_read_again_with_the_next_weeks_readings(
    store: Store, configured: Callable[..., Settings], clock: Any
) -> None:
    settings = two_subjects(configured)
    fill(store, settings, "checkout", 0.5)
    ship(store, "checkout-cache", "checkout")
    clock.at = clock.at.replace(day=16)
    first = for_week(store, settings, clock())
    (told,) = first.candidates
    store.put("candidate", told.candidate.id, {**told.candidate.as_json(), "status": str(Status.ACCEPTED)})
    clock.advance(days=7)
    second = for_week(store, settings, clock())
    assert second.candidates == ()
    (became,) = second.accepted
    assert (became.state, became.candidate) == ("held", told.candidate.id)
    assert became.latest.after.end > told.candidate.headline.after.end
    assert second.summary.startswith("Of what was accepted 1 held")
