"""Metrics, labels and windows as the JSON text the tables keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from harvester.readings import Better, Labels, Metric, Series, Shape, Silence, Window, labels_of

Identity: TypeAlias = tuple[str, str, str, str]

ANY = "*"
"""Stands for every series of a metric where labels stand otherwise."""


def identity_of(series: Series) -> Identity:
    """Return what makes two series the same one: source, metric, labels, definition."""
    return series.source, series.metric.name, labels_text(series.labels), series.metric.definition


def labels_text(labels: Labels | None) -> str:
    """Return labels as text, None as ``ANY``."""
    return ANY if labels is None else json.dumps(labels, separators=(",", ":"))


def labels_from(pairs: Sequence[Sequence[str]]) -> Labels:
    """Return labels of JSON pairs."""
    return labels_of((name, value) for name, value in pairs)


def metric_data(metric: Metric) -> dict[str, Any]:
    """Return the whole metric as JSON values."""
    lists = {name: [*getattr(metric, name)] for name in ("statistics", "bounds", "context")}
    return {**asdict(metric), **lists}


def metric_from(data: Mapping[str, Any]) -> Metric:
    """Return the metric that ``metric_data`` wrote."""
    return Metric(
        **{
            **data,
            "shape": Shape(data["shape"]),
            "better": Better(data["better"]),
            "silence": Silence(data["silence"]),
            "statistics": tuple(data["statistics"]),
            "bounds": tuple(data["bounds"]),
            "context": tuple(data.get("context", ())),  # written before there was any
        }
    )


def spans_of(window: Window) -> list[list[int]]:
    """Return the spans of a window as JSON values."""
    return [[start, end] for start, end in window.spans]


def window_from(spans: Sequence[Sequence[int]], name: str = "") -> Window:
    """Return the window of JSON spans."""
    return Window(tuple((start, end) for start, end in spans), name)
