"""The contract's shared options, the registry, and errors that say what, on what, why and what to do."""

from __future__ import annotations

import doctest
import inspect
import sys
from datetime import timedelta

import pytest
from pydantic import ValidationError

import harvester.connector
from harvester import errors, registry
from harvester.connector import Finding, Health, HttpConnector, format_duration, parse_duration
from harvester.errors import ConfigError, ConnectorError, HarvesterError


class Source(HttpConnector):
    def check(self):
        return Health(())

    def definitions(self):
        return ()

    def collect(self, window, state):
        return iter(())


def source(**options):
    return Source(source="api", url="https://api.example.com", **options)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(harvester.connector).failed == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("2h", 7200), ("28d", 2_419_200), ("4w", 2_419_200), ("1.5h", 5400), (30, 30)]
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 minutes", "0s", True, None, 0, "1.2.3h"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


def test_durations_are_written_in_their_largest_whole_unit():
    written = [format_duration(timedelta(seconds=one)) for one in (90, 300, 7200, 86_400)]
    assert written == ["90s", "5m", "2h", "1d"]


def test_unknown_options_of_a_connector_are_refused():
    with pytest.raises(ValidationError, match="urll"):
        source(urll="x")


def test_a_token_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "hunter2\n")
    token = source(token_env="API_TOKEN").token()
    assert token is not None
    assert token.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(token)


def test_a_token_that_is_not_set_is_an_error_that_names_the_variable(monkeypatch):
    monkeypatch.delenv("API_TOKEN", raising=False)
    with pytest.raises(ConnectorError, match="API_TOKEN is not set") as raised:
        source(token_env="API_TOKEN").token()
    assert raised.value.hint == "export API_TOKEN=..."


def test_a_token_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "token"
    path.write_text("hunter2")
    path.chmod(0o640)
    with pytest.raises(ConnectorError, match="can be read by others") as raised:
        source(token_file=path).token()
    assert "hunter2" not in str(raised.value)
    path.chmod(0o600)
    token = source(token_file=path).token()
    assert token is not None
    assert token.get_secret_value() == "hunter2"


def test_a_token_command_that_fails_tells_its_name_but_nothing_it_printed():
    words = (sys.executable, "-c", "print('hunter2'); raise SystemExit(1)")
    with pytest.raises(ConnectorError) as raised:
        source(token_command=words).token()
    assert "hunter2" not in str(raised.value)
    assert "failed (CalledProcessError)" in str(raised.value)
    token = source(token_command=(sys.executable, "-c", "print('hunter2')")).token()
    assert token is not None
    assert token.get_secret_value() == "hunter2"


def test_a_connector_that_is_not_installed_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean prometheus") as raised:
        registry.connector("promethius")
    assert raised.value.target == "promethius"


def test_every_error_is_one_of_ours_and_says_operation_target_cause_and_hint():
    kinds = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, HarvesterError)]
    assert len(kinds) == 9
    for kind in kinds:
        made = kind("query", "prom", "it broke", hint="mend it", retry=True)
        assert str(made) == "query prom: it broke (mend it)"
        assert (made.operation, made.target, made.cause, made.hint, made.retry) == (
            "query", "prom", "it broke", "mend it", True,
        )
        assert kind.__name__ in (errors.__doc__ or "")


def test_health_is_ok_unless_something_failed():
    assert Health((Finding("ok", "a"), Finding("warning", "b"))).ok
    assert not Health((Finding("ok", "a"), Finding("failed", "b"))).ok
