"""``init``, ``check`` and ``completion``: from nothing to a harvester that can collect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harvester.cli import FAILED, FINDINGS, OK
from harvester.cli.options import as_json, verb
from harvester.cli.run import Run
from harvester.errors import HarvesterError, StoreError, UsageError

if TYPE_CHECKING:
    from harvester.connector import Connector, Health

MARKS = {"ok": "ok", "warning": "??", "failed": "!!"}

TEMPLATE = """# harvester settings; `harvest check` tells whether they are right. Options: harvest connectors prometheus

[subjects.{subject}]
prometheus = {{ {label} = "{value}" }}

[sources.prom]
connector = "prometheus"
url = "{url}"
packs = ["http", "saturation"]

# [sources.postgres]
# connector = "postgres_slowlog"
# paths = ["/var/log/postgresql/*.log"]

# The weekly digest by mail; without it `harvest digest` shows the digest.
# [mail]
# host = "smtp.example.com"
# username = "me"
# password_env = "SMTP_PASSWORD"
# sender = "me@example.com"
# recipients = ["me@example.com"]
"""


@verb("init", "harvest init --prometheus http://localhost:9090 --subject checkout --label service=checkout")
@click.option(
    "--prometheus",
    "url",
    default="http://localhost:9090",
    show_default=True,
    metavar="URL",
    help="Address of the Prometheus server.",
)
@click.option("--subject", default="checkout", show_default=True, help="A name for the thing you work on.")
@click.option("--label", metavar="NAME=VALUE", help="The Prometheus label its series carry (default: service=SUBJECT).")
@click.option("--force", is_flag=True, help="Replace a settings file that is there.")
@click.option("--stdout", is_flag=True, help="Print the file instead of writing it.")
def init(run: Run, url: str, subject: str, label: str | None, force: bool, stdout: bool) -> int:
    """
    Write a settings file to start from.

    It goes to --config FILE, else to harvester.toml in this folder. `harvest check` then tells whether it is right.
    """
    name, _, value = (label or f"service={subject}").partition("=")
    if not value:
        raise UsageError("read label", repr(label), "is not NAME=VALUE", hint="--label service=checkout")
    text = TEMPLATE.format(subject=subject, label=name, value=value, url=url)
    _validated(text)
    if stdout:
        print(text, file=run.out, end="")
        return OK
    path = run.config or Path(os.environ.get("HARVESTER_CONFIG") or "harvester.toml")
    if path.exists() and not force:
        raise UsageError(
            "write settings", str(path), "is there already", hint="--force replaces it; --config names another"
        )
    _write_private(path, text)
    run.say(f"wrote {path}; next: harvest check")
    return OK


def _validated(text: str) -> None:
    """Refuse words that would make a file `check` refuses."""
    import tempfile

    from harvester.settings import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "harvester.toml"
        path.write_text(text, encoding="utf-8")
        try:
            load(path)
        except HarvesterError as e:
            where = e.target.rpartition(", ")[2]
            raise UsageError("write settings with", where, e.cause, hint="harvest init --help") from None


def _write_private(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, readable by its owner only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as e:
        aside.unlink(missing_ok=True)
        raise UsageError(
            "write settings", str(path), e.strerror or "cannot be written", hint="--config names another place"
        ) from e


@verb("check", "harvest check\nharvest check prom --json")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@as_json
def check(run: Run, sources: tuple[str, ...], as_json: bool) -> int:
    """
    Look whether settings, store and sources are right.

    Contacts every source (or those named), tells rights, reach into the past and what answers, and lists the hosts
    that are talked to. Exit code 3 when something needs mending.
    """
    settings = run.configured
    connectors = chosen(run, sources)
    store = _store_findings(run)
    found = [(one, _health(one)) for one in connectors]
    ok = store["ok"] and all(health.ok for _, health in found)
    data: dict[str, Any] = {
        "settings": str(settings.path) if settings.path else None,
        "store": store,
        "sources": [_as_data(one, health) for one, health in found],
        "ok": ok,
    }
    if as_json:
        run.json("check", data)
    else:
        _print(run, data)
    return OK if ok else FINDINGS if store["ok"] else FAILED


def chosen(run: Run, names: tuple[str, ...]) -> list[Connector]:
    """
    Return the connectors of the sources named, all of them where none is.

    Raises:
        UsageError: if there is no source of a name.
    """
    connectors = run.configured.connectors
    for name in names:
        if name not in connectors:
            known = ", ".join(connectors)
            raise UsageError("find source", name, "there is none of that name", hint=f"configured are {known}")
    return [connectors[name] for name in names or connectors]


def _health(connector: Connector) -> Health:
    from harvester.connector import Finding, Health

    try:
        return connector.check()
    except HarvesterError as e:
        # Its own contract says that check never raises; a token that cannot be read is found before anything is asked.
        return Health((Finding("failed", f"{e.operation} {e.target}: {e.cause}", e.hint),))


def _store_findings(run: Run) -> dict[str, Any]:
    try:
        with run.store() as store:
            info = store.info()
    except StoreError as e:
        return {"ok": False, "text": f"{e.operation} {e.target}: {e.cause}", "hint": e.hint}
    text = f"{info['target']}: {info['series']} series, {info['bytes'] / 1e6:.1f} MB"
    return {"ok": True, "text": text, "hint": ""}


def _as_data(connector: Connector, health: Health) -> dict[str, Any]:
    from harvester.readings import to_datetime

    return {
        "source": connector.source,
        "ok": health.ok,
        "oldest": to_datetime(health.oldest).isoformat() if health.oldest is not None else None,
        "hosts": list(health.hosts),
        "findings": [{"level": one.level, "text": one.text, "hint": one.hint} for one in health.findings],
    }


def _print(run: Run, data: dict[str, Any]) -> None:
    run.print(f"settings  {data['settings'] or 'none; defaults and the environment'}")
    store = data["store"]
    run.print(f"store     {MARKS['ok' if store['ok'] else 'failed']}  {store['text']}")
    if store["hint"]:
        run.print(f"              hint: {store['hint']}")
    for source in data["sources"]:
        run.print()
        reach = f", holds data since {source['oldest'][:16].replace('T', ' ')} UTC" if source["oldest"] else ""
        hosts = f" (talks to {', '.join(source['hosts'])})" if source["hosts"] else ""
        run.print(f"{source['source']}{hosts}{reach}")
        for one in source["findings"]:
            run.print(f"  {MARKS.get(one['level'], one['level'])}  {one['text']}")
            if one["hint"]:
                run.print(f"      hint: {one['hint']}")
    run.print()
    run.print("all is well" if data["ok"] else "something needs mending: see the lines marked !!")


@verb("completion", 'eval "$(harvest completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(run: Run, shell: str) -> int:
    """Print the completion script for a shell; eval it where your shell starts."""
    from click.shell_completion import get_completion_class

    from harvester.cli.group import harvest

    found = get_completion_class(shell)
    assert found is not None
    print(found(harvest, {}, "harvest", "_HARVEST_COMPLETE").source(), file=run.out)
    return OK


COMMANDS = {"init": init, "check": check, "completion": completion}
