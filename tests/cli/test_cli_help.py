"""Help: every verb is described, closes with an example whose words it knows, and costs little to ask for."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys

import click
import pytest

from harvester.cli import USAGE, main, utc_now
from harvester.cli.group import HIDDEN, VERBS, harvest
from harvester.cli.run import Run

HEAVY = ("numpy", "sqlalchemy", "pydantic", "rich", "requests", "scipy", "apscheduler", "jinja2")


def commands():
    """Yield (words, command) of every verb and every verb below a verb."""
    context = click.Context(harvest)
    for name in VERBS:
        command = harvest.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            for below in command.commands.values():
                yield (name, str(below.name)), below


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", VERBS)
def test_the_line_in_the_list_of_verbs_is_what_the_verb_says_of_itself(name):
    said = inspect.cleandoc(COMMANDS[name,].help or "").split("\n\n")[0]
    listed = VERBS[name][1]
    assert said.partition(";")[0].rstrip(".") == listed.partition(";")[0].rstrip(".")


@pytest.mark.parametrize("words", [words for words, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_every_verb_closes_its_help_with_an_example_that_it_understands(words):
    command = COMMANDS[words]
    lines = [line.strip() for line in (command.epilog or "").splitlines() if "harvest " in line]
    assert lines
    for line in lines:
        said = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line.partition("#")[0].strip())
        given = shlex.split(said)
        assert given[0] == "harvest"
        found, rest = harvest, given[1:]
        while isinstance(found, click.Group) and rest and rest[0] in found.list_commands(click.Context(found)):
            found, rest = found.get_command(click.Context(found), rest[0]), rest[1:]
        assert found is not None
        found.make_context(found.name, rest, obj=Run(sys.stdout, sys.stderr, utc_now))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_is_described(words):
    for one in COMMANDS[words].params:
        if isinstance(one, click.Option):
            assert one.help, f"{' '.join(words)} {one.opts[0]}"


def test_no_line_of_the_list_of_verbs_is_wider_than_a_terminal(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert all(name in said for name in VERBS if name not in HIDDEN)
    assert not any(f"\n  {name} " in said for name in HIDDEN)


@pytest.mark.parametrize("words", [["--help"], ["diff", "--help"], ["baseline", "--help"], ["--version"]])
def test_asking_for_help_loads_nothing_heavy(words):
    look = f"import sys; from harvester.cli import main; main({words!r}); print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_misspelt_verb_is_answered_with_the_nearest(capsys):
    assert main(["candidtes"]) == USAGE
    assert capsys.readouterr().err == (
        "harvest: there is no verb candidtes; did you mean candidates?\n  hint: harvest --help\n"
    )


def test_a_misspelt_option_is_answered_with_the_nearest(capsys):
    assert main(["diff", "--explan"]) == USAGE
    said = capsys.readouterr().err
    assert "--explain" in said
    assert "harvest diff --help" in said


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(capsys, shell):
    assert main(["completion", shell]) == 0
    assert "_HARVEST_COMPLETE" in capsys.readouterr().out


def test_completion_offers_verbs():
    done = subprocess.run(
        [sys.executable, "-m", "harvester.cli"], capture_output=True, text=True, check=False,
        env={"_HARVEST_COMPLETE": "bash_complete", "COMP_WORDS": "harvest ba", "COMP_CWORD": "1", "PATH": ""},
    )
    assert "baseline" in done.stdout
