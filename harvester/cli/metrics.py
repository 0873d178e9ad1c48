"""``metrics`` and ``connectors``: what can be collected, and by what; what a renamed metric was called before."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from harvester import figures
from harvester.cli import OK
from harvester.cli.options import as_json, common, verb
from harvester.cli.run import Run
from harvester.errors import UsageError
from harvester.readings import to_datetime

if TYPE_CHECKING:
    from harvester.holdings import Alias, Join
    from harvester.readings import Metric, Series
    from harvester.store import Store

_PACKS = click.option("--packs", is_flag=True, help="The ready-made packs instead of what is configured.")


@click.group("metrics", invoke_without_command=True)
@common
@_PACKS
@as_json
@click.pass_context
def metrics(ctx: click.Context, packs: bool, as_json: bool) -> None:
    """List the metrics that are, or can be, collected; without a word: list."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, packs=packs, as_json=as_json)


@verb("list", "harvest metrics\nharvest metrics list --packs")
@_PACKS
@as_json
def show(run: Run, packs: bool, as_json: bool) -> int:
    """List the metrics that are collected or derived from them, or those of the packs."""
    from harvester.catalog import pack, pack_names

    if packs:
        found = [{"pack": name, **pack(name)} for name in pack_names()]
        if as_json:
            run.json("metrics", {"packs": found})
            return OK
        for one in found:
            run.print(f"{one['pack']}: {', '.join(metric['name'] for metric in one['metrics'])}")
            run.wrapped(" ".join(str(one["description"]).split()), "    ")
        return OK
    from harvester.derive import SOURCE

    settings = run.configured
    data = [_data(source, one) for source, connector in settings.connectors.items() for one in connector.definitions()]
    data += [_data(SOURCE, settings.metrics[name]) for name in settings.rules]
    if as_json:
        run.json("metrics", {"metrics": data})
        return OK
    rows = [
        [one["name"], one["shape"], one["unit"], one["better"], " ".join(one["statistics"]), one["source"]]
        for one in data
    ]
    run.table(["metric", "shape", "unit", "better", "statistics", "source"], rows)
    return OK


def _data(source: str, one: Metric) -> dict[str, Any]:
    return {
        "source": source,
        "name": one.name,
        "shape": str(one.shape),
        "unit": one.unit,
        "better": str(one.better),
        "statistics": list(one.summaries),
        "step_seconds": one.step_seconds,
        "query": one.query,
        "definition": one.definition,
        "context": list(one.context),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Renames
# ---------------------------------------------------------------------------------------------------------------------


@verb(
    "alias",
    "harvest metrics alias http_latency latency\n"
    "harvest metrics alias service=checkout-v1 service=checkout --dry-run\n"
    "harvest metrics alias --list\n"
    "harvest metrics alias http_latency latency --remove",
)
@click.argument("old", required=False)
@click.argument("new", required=False)
@click.option("--list", "listing", is_flag=True, help="Show the renames that were told.")
@click.option("--remove", is_flag=True, help="Take it back: the two are read apart again.")
@click.option("--dry-run", is_flag=True, help="Show which series would be joined; keep nothing.")
@as_json
def alias(
    run: Run, old: str | None, new: str | None, listing: bool, remove: bool, dry_run: bool, as_json: bool
) -> int:
    """
    Say that a metric, or a label's value, was called otherwise before.

    What was read under the old name is then read as the beginning of the new one's series, wherever both have the same
    shape and unit, up to the new one's first reading. Every comparison that rests on it says so.
    """
    from harvester.holdings import Alias, aliases

    with run.store() as store:
        told = aliases(store)
        if listing:
            if old is not None or remove or dry_run:
                raise UsageError("list", "renames", "takes no other word", hint="harvest metrics alias --list")
            found = _joins(run, store, told, told)
        elif old is None or new is None:
            raise UsageError("join", "metrics", "two names are needed", hint="harvest metrics alias OLD NEW")
        else:
            one = Alias(old, new)
            if remove and one not in told:
                known = f"told are {'; '.join(map(str, told))}" if told else "none was told yet"
                raise UsageError("take back", str(one), "was never told", hint=known)
            if not remove:
                _refuse_alias(run, store, one, told)
            found = _joins(run, store, [one], told if remove else [*told, one])
            if not dry_run and remove:
                store.delete("alias", str(one))
            elif not dry_run:
                store.put("alias", str(one), {"old": old, "new": new, "told": run.at})
    if as_json:
        run.json("metrics", {"aliases": [_alias_data(one, joins) for one, joins in found]})
        return OK
    if not found:
        run.print("no renames were told; harvest metrics alias OLD NEW")
    done = "part" if remove else "join"
    done = f"would {done}" if dry_run else f"{done}s"
    for one, joins in found:
        run.print(f"{one}: {done} {sum(not join.problem for join in joins)} series")
        if not joins:
            run.print(f"  nothing is stored yet that is called {one.new}; it is joined as soon as there is")
        for join in joins:
            run.wrapped(_join_text(join), "  ", "    ")
    return OK


def _joins(
    run: Run, store: Store, wanted: Sequence[Alias], told: Sequence[Alias]
) -> list[tuple[Alias, list[Join]]]:
    """Return which series each of some renames joins, and which it cannot, told together with others."""
    from harvester.holdings import Holdings

    joins = Holdings(store, run.settings, told).told_joins
    return [(one, [join for join in joins if join.alias == one]) for one in wanted]


def _refuse_alias(run: Run, store: Store, one: Alias, told: Sequence[Alias]) -> None:
    """Refuse what is told already, goes round in a circle, or speaks of nothing that is stored."""
    if one in told:
        raise UsageError("join", str(one), "was told already", hint="harvest metrics alias --list")
    back = one.new
    for _ in told:
        back = next((each.new for each in told if each.old == back), back)
        if back == one.old:
            raise UsageError(
                "join", str(one), f"{one.old} is what {one.new} is called already",
                hint=f"harvest metrics alias {one.new} ... --remove takes that back",
            )  # fmt: skip
    if one.old in run.settings.rules or one.new in run.settings.rules:
        raise UsageError("join", str(one), "a derived metric has no name of its own", hint="join what it is made of")
    names = {series.metric.name for series in store.series()}
    labels = {f"{name}={value}" for series in store.series() for name, value in series.labels}
    if one.old not in names | labels:
        near = difflib.get_close_matches(one.old, names | labels, 3, 0.5)
        as_labels = [label for label in labels if label.partition("=")[2] == one.old]
        meant = list(dict.fromkeys([*as_labels, *near]))[:3]
        hint = f"did you mean {' or '.join(meant)}?" if meant else "harvest metrics lists what there is"
        raise UsageError("join", str(one), f"nothing is stored under the name {one.old}", hint=hint)


def _join_text(join: Join) -> str:
    names = f"{join.old} ({join.old.source}) -> {join.new}"
    if join.problem:
        return f"{names}: not joined, {join.problem}"
    since = "" if join.since is None else f": the new name since {figures.moment(join.since)}"
    late = f"; {join.overlap} later readings of the old name are left out" if join.overlap else ""
    return f"{names}{since}{late}"


def _alias_data(one: Alias, joins: Sequence[Join]) -> dict[str, Any]:
    def name(series: Series) -> dict[str, Any]:
        return {
            "metric": series.metric.name,
            "labels": dict(series.labels),
            "definition": series.metric.definition,
        }

    return {
        "old": one.old,
        "new": one.new,
        "series": [
            {
                "source": join.old.source,
                "old": name(join.old),
                "new": name(join.new),
                "since": None if join.since is None else to_datetime(join.since).isoformat(),
                "overlap": join.overlap,
                "problem": join.problem or None,
            }
            for join in joins
        ],
    }


for _one in (show, alias):
    metrics.add_command(_one)


# ---------------------------------------------------------------------------------------------------------------------
# Connectors
# ---------------------------------------------------------------------------------------------------------------------


@verb("connectors", "harvest connectors\nharvest connectors prometheus")
@click.argument("name", required=False)
@as_json
def connectors(run: Run, name: str | None, as_json: bool) -> int:
    """List the connectors, or explain one with its options."""
    from harvester.registry import connector, connector_names, documentation

    if name is None:
        found = [
            {"name": one, "summary": documentation(one).splitlines()[0], "every": _every(connector(one))}
            for one in connector_names()
        ]
        if as_json:
            run.json("connectors", {"connectors": found})
        else:
            run.table(
                ["connector", "what it reads", "every"], [[one["name"], one["summary"], one["every"]] for one in found]
            )
        return OK
    if as_json:
        run.json(
            "connectors",
            {"name": name, "documentation": documentation(name), "schema": connector(name).model_json_schema()},
        )
    else:
        run.print(documentation(name))
    return OK


def _every(kind: Any) -> str:
    from harvester.connector import format_duration

    return format_duration(kind.model_fields["every"].default)


COMMANDS = {"metrics": metrics, "connectors": connectors}
