"""Candidates, open questions and a whole digest made by hand."""

from __future__ import annotations

import dataclasses

from harvester.candidates.model import Candidate, Grade, Status
from harvester.differ.result import Caveat, Comparison, Effect, Mode, Side, Verdict
from harvester.digest.model import Accepted, Digest, Open, Silent, Told, Watched
from harvester.readings import DAY, HOUR, labels_of

NOW = 1_795_417_200_000  # Monday 23 November 2026, 07:00 UTC, 08:00 in Berlin
SHIPPED = NOW - 9 * DAY

PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 200" width="600" height="200">'
    '<rect width="600" height="200" fill="#ffffff"/>'
    '<polyline points="20,60 80,50 140,64 200,52 260,58 300,56" fill="none" stroke="#57606a" stroke-width="3"/>'
    '<polyline points="300,140 360,136 420,148 480,139 540,143 580,140" fill="none" stroke="#0b5cad" stroke-width="3"/>'
    '<line x1="300" y1="10" x2="300" y2="190" stroke="#1c2128" stroke-dasharray="4 4"/></svg>'
)


def comparison(**given: object) -> Comparison:
    """A p95 that fell from 480 to 310 ms, unless told otherwise."""
    plain = Comparison(
        id="c1",
        subject="checkout",
        metric="request_latency",
        labels=labels_of({"service": "checkout"}),
        source="prom",
        statistic="p95",
        unit="seconds",
        shape="distribution",
        better="lower",
        before=Side(0.480, 120_000, SHIPPED - 9 * DAY, SHIPPED, 1.0),
        after=Side(0.310, 131_000, SHIPPED, NOW, 0.97),
        effect=Effect(0.6458, -0.170, -35.42, 0.58, 0.72, 0.647),
        p=0.0004,
        verdict=Verdict.IMPROVED,
        mode=Mode.CONFIRMATORY,
        caveats=(Caveat("gaps", "97 % of the after window is proven complete", (("share", 0.97),)),),
        visible_percent=9.0,
        definition="d" * 16,
    )
    return dataclasses.replace(plain, **given)  # type: ignore[arg-type]


def candidate(head: Comparison | None = None, **given: object) -> Candidate:
    head = head or comparison()
    plain = Candidate(
        id=f"checkout-index:{head.subject}:{head.metric}:{head.statistic}",
        subject=head.subject,
        change="checkout-index",
        sentence="Reduced p95 request latency of checkout from 480 ms to 310 ms (-35 %) by adding an index on orders.",
        verdict=str(head.verdict),
        grade=Grade.EXPECTED,
        status=Status.PROPOSED,
        headline=head,
        caveats=head.caveats,
        created=NOW - 2 * DAY,
    )
    return dataclasses.replace(plain, **given)  # type: ignore[arg-type]


def told(one: Candidate | None = None, **given: object) -> Told:
    plain = Told(
        candidate=one or candidate(),
        short="p95 request latency of checkout 480 ms -> 310 ms (-35 %)",
        interval="With 95 % confidence the change is between -42 % and -28 %.",
        caveat="97 % of the after window is proven complete",
        command="harvest candidates accept checkout-index:checkout:request_latency:p95",
        new=True,
        picture=PICTURE,
        alt="p95 of request latency of checkout: 480 ms before, 310 ms after 14 Nov 2026 (-35 %).",
    )
    return dataclasses.replace(plain, **given)  # type: ignore[arg-type]


WORSE = comparison(
    id="c2", metric="errors", statistic="ratio", unit="1", shape="ratio", verdict=Verdict.REGRESSED, p=0.011,
    mode=Mode.EXPLORATORY, before=Side(0.0021, 9e6, SHIPPED - 9 * DAY, SHIPPED, 1.0),
    after=Side(0.0034, 9e6, SHIPPED, NOW, 1.0), effect=Effect(1.619, 0.0013, 61.9, 1.2, 2.18), caveats=(),
)

UNCLEAR = comparison(
    id="c3", subject="search", metric="cpu", statistic="mean", unit="1", shape="level", verdict=Verdict.UNCLEAR, p=0.21,
    before=Side(0.42, 12_960, SHIPPED - 9 * DAY, SHIPPED, 1.0), after=Side(0.40, 12_960, SHIPPED, NOW, 1.0),
    effect=Effect(0.952, -0.02, -4.8, 0.80, 1.13), visible_percent=18.0, days_needed=21, caveats=(),
)

FULL = Digest(
    week="2026-W48",
    zone="Europe/Berlin",
    since=NOW - 7 * DAY,
    generated=NOW,
    subject="harvester 2026-W48: p95 request latency of checkout 480 ms -> 310 ms (-35 %), and 1 more",
    summary="1 improvement; 1 regression; 3 more waiting; of what was accepted 1 held; 1 still unclear; 1 unchanged; no data from pages.",
    candidates=(
        told(),
        told(
            candidate(
                WORSE, grade=Grade.EXPLORED, created=NOW - 20 * DAY,
                sentence="The error ratio of checkout was higher after checkout-index: 0.21 % to 0.34 % (+0.13 points).",
            ),
            short="errors of checkout 0.21 % -> 0.34 % (0.13 points)",
            interval="With 95 % confidence the change is between +20 % and +118 %.",
            caveat="",
            command="harvest candidates accept checkout-index:checkout:errors:ratio",
            new=False,
            picture="",
            alt="",
        ),
    ),
    more=3,
    accepted=(
        Accepted(
            "search-cache:search:hits:ratio", "search-cache", "held",
            "hits of search 62 % -> 91 % (29 points) when accepted, 62 % -> 90 % (28 points) over the 16 days since: "
            "improved.",
            comparison(id="c5", subject="search", metric="hits", statistic="ratio", unit="1", shape="ratio"),
        ),
    ),
    unclear=(
        Open(
            "search-cache", UNCLEAR,
            "mean cpu of search 42 % -> 40 % (2 points), no more than this series' own noise may make; a change smaller than "
            "18 % could not have been seen. Clear about Saturday 5 December if it stays as it is.",
            SHIPPED + 21 * DAY,
        ),
    ),
    unchanged=(
        Open(
            "checkout-index", comparison(id="c4", metric="memory", unit="bytes", verdict=Verdict.UNCHANGED),
            "mean memory of checkout 312 MB -> 310 MB (-1 %): unchanged; the change is between -2 % and +1 %.",
        ),
    ),
    silent=(
        Silent(
            "pages", "pages",
            "no data since Tuesday 17 November, 14:05: query https://api.pagerduty.com: 401 Unauthorized (is PAGERDUTY_TOKEN "
            "set?). Not lost yet: it is asked for again until Monday 15 February, as far as the source still holds it.",
            NOW - 5 * DAY - 17 * HOUR, None, NOW + 84 * DAY,
        ),
    ),
    watched=Watched(2, 14, 0, 1.0, False, "Not everything was watched since Monday 16 November, 08:00."),
    expected_false=0.15,
)

QUIET = Digest(
    week="2026-W48",
    zone="Europe/Berlin",
    since=NOW - 7 * DAY,
    generated=NOW,
    subject="harvester 2026-W48: nothing to tell, everything was watched",
    summary="Nothing to tell this week.",
    watched=Watched(
        2, 14, 0, 0.9993, True,
        "Everything was watched since Monday 16 November, 08:00: 14 series of 2 sources, each proven complete for at least "
        "99.9 % of the time.",
    ),
)
