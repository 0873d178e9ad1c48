"""``metrics`` and ``connectors``: what can be collected, and by what."""

from __future__ import annotations

from typing import Any

import click

from harvester.cli import OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run


@verb("metrics", "harvest metrics\nharvest metrics --packs")
@click.option("--packs", is_flag=True, help="The ready-made packs instead of what is configured.")
@as_json
def metrics(run: Run, packs: bool, as_json: bool) -> int:
    """List the metrics that are, or can be, collected."""
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
    data: list[dict[str, Any]] = [
        {
            "source": source,
            "name": one.name,
            "shape": str(one.shape),
            "unit": one.unit,
            "better": str(one.better),
            "statistics": list(one.summaries),
            "step_seconds": one.step_seconds,
            "query": one.query,
            "definition": one.definition,
        }
        for source, connector in run.configured.connectors.items()
        for one in connector.definitions()
    ]
    if as_json:
        run.json("metrics", {"metrics": data})
        return OK
    rows = [
        [one["name"], one["shape"], one["unit"], one["better"], " ".join(one["statistics"]), one["source"]]
        for one in data
    ]
    run.table(["metric", "shape", "unit", "better", "statistics", "source"], rows)
    return OK


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
