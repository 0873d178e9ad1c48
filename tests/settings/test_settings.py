"""Settings: what is wrong is said with file, line and key before anything is contacted; the environment wins."""

from __future__ import annotations

import os
from datetime import time, timedelta

import pytest

from harvester import settings
from harvester.catalog import config_folder
from harvester.errors import ConfigError

PROM = '[sources.prom]\nconnector = "prometheus"\nurl = "http://x"\n'
METRIC = '\n[[sources.prom.metrics]]\nname = "{}"\nshape = "{}"\nunit = "1"\nquery = "up"\n'
EXAMPLE = "(see harvester.example.toml)"

BAD = {
    "a misspelt table": ('[stor]\nurl = "x"\n', "read FILE, line 1, stor: unknown key (did you mean store?)"),
    "a misspelt key": ('[store]\nurll = "x"\n', "read FILE, line 2, store.urll: unknown key (did you mean url?)"),
    "a misspelt key in a subject": (
        '[subjects.checkout]\nprometheu = { a = "b" }\n',
        "read FILE, line 2, subjects.checkout.prometheu: unknown key (did you mean prometheus?)",
    ),
    "a misspelt option of a source": (
        PROM + 'packs = ["http"]\nurll = "http://y"\n',
        "read FILE, line 5, sources.prom.urll: unknown key (did you mean url?)",
    ),
    "a misspelt key of a metric": (
        PROM + METRIC.format("a", "level") + 'querry = "up"\n',
        "read FILE, line 10, sources.prom.metrics.0.querry: unknown key (did you mean query?)",
    ),
    "a wrong word in the second metric": (
        PROM + METRIC.format("a", "level") + METRIC.format("b", "levl"),
        "read FILE, line 13, sources.prom.metrics.1.shape: must be 'level', 'ratio', 'count' or 'distribution' " + EXAMPLE,
    ),
    "an unknown key with nothing near it": (
        "[digest]\nfoo = 1\n", "read FILE, line 2, digest.foo: unknown key (known here: at, weekday, zone)",
    ),
    "mail without a sender": ('[mail]\nhost = "x"\n', f"read FILE, line 1, mail.sender: is missing {EXAMPLE}"),
    "a source without a connector": (
        '[sources.prom]\nurl = "http://x"\n',
        f'read FILE, line 1, sources.prom: needs connector = "...", one of postgres_slowlog, prometheus {EXAMPLE}',
    ),
    "a connector nobody installed": (
        '[sources.prom]\nconnector = "promtheus"\n',
        "find connector promtheus in FILE, line 1, sources.prom: no such connector is installed (did you mean prometheus?)",
    ),
    "a source that asks nothing": (PROM, f"read FILE, line 1, sources.prom.metrics: needs at least 1 entry {EXAMPLE}"),
    "packs that are no list": (
        PROM + 'packs = "http"\n', 'read packs in FILE, line 1, sources.prom: must be a list of names (packs = ["http"])',
    ),
    "an address without a scheme": (
        '[sources.prom]\nconnector = "prometheus"\nurl = "localhost:9090"\npacks = ["http"]\n',
        "read FILE, line 3, sources.prom.url: must be an http:// or https:// address, without credentials in it " + EXAMPLE,
    ),
    "a duration in words": (
        PROM + 'packs = ["http"]\nevery = "5 minutes"\n',
        ("read FILE, line 5, sources.prom.every: '5 minutes' is not a duration such as "
        f'"30s", "5m", "2h" or "28d" {EXAMPLE}'),
    ),
    "two places for one token": (
        PROM + 'packs = ["http"]\ntoken_env = "A"\ntoken_file = "b"\n',
        f"read FILE, line 1, sources.prom: give one of token_env and token_file, not both {EXAMPLE}",
    ),
    "a zone that is none": (
        '[digest]\nzone = "Europe/Berln"\n',
        f"read FILE, line 2, digest.zone: 'Europe/Berln' is not a time zone; did you mean Europe/Berlin? {EXAMPLE}",
    ),
    "a weekday cut short": (
        '[digest]\nweekday = "mon"\n',
        ("read FILE, line 2, digest.weekday: must be 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday' or "
        f"'sunday' {EXAMPLE}"),
    ),
    "a repository without an owner": (
        '[subjects.x]\nrepositories = ["shop"]\n',
        f"""read FILE, line 2, subjects.x.repositories.0: 'shop' must be "owner/name" {EXAMPLE}""",
    ),
    "a subject with a space": (
        '[subjects."a b"]\ndatabase = "x"\n',
        f"read FILE, line 1, subjects.a b: 'a b' must be a name of letters, digits and _ . - inside {EXAMPLE}",
    ),
    "a list for a table": ('store = ["x"]\n', f"read FILE, line 1, store: must be a table {EXAMPLE}"),
    "an address that is none": (
        '[mail]\nhost = "h"\nsender = "me"\nrecipients = ["a@b"]\n',
        f"read FILE, line 3, mail.sender: 'me' must be a mail address such as me@example.com {EXAMPLE}",
    ),
    "mail to nobody": (
        '[mail]\nhost = "h"\nsender = "me@x"\nrecipients = []\n',
        f"read FILE, line 4, mail.recipients: needs at least 1 entry {EXAMPLE}",
    ),
    "a port that is none": (
        '[mail]\nhost = "h"\nport = 99999\nsender = "me@x"\nrecipients = ["a@b"]\n',
        f"read FILE, line 3, mail.port: must be less than or equal to 65535 {EXAMPLE}",
    ),
    "a label that is a number": (
        "[subjects.x]\nprometheus = { a = 5 }\n",
        f"read FILE, line 2, subjects.x.prometheus.a: must be a string {EXAMPLE}",
    ),
    "what harvester itself gives": (
        PROM + 'packs = ["http"]\nsource = "x"\n',
        "find source in FILE, line 1, sources.prom: is given by harvester itself (remove the key)",
    ),
    "no TOML": (
        "[store]\nurl = sqlite\n",
        "read settings FILE: is not TOML: Invalid value (at line 2, column 7) (strings need quotes)",
    ),
}


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch, tmp_path):
    """Keep the settings of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith("HARVESTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))
    monkeypatch.chdir(tmp_path)


def write(folder, text):
    path = folder / "harvester.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path, name):
    text, message = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        settings.load(path)
    assert str(raised.value).replace(str(path), "FILE") == message


def test_a_pack_that_is_none_is_answered_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"read metric pack htp in .*: no such pack \(there are .*\bhttp\b"):
        settings.load(write(tmp_path, PROM + 'packs = ["htp"]\n'))


def test_a_password_inside_an_address_is_refused_and_not_repeated(tmp_path):
    text = '[sources.prom]\nconnector = "prometheus"\nurl = "http://me:hunter2@x"\npacks = ["http"]\n'
    with pytest.raises(ConfigError) as raised:
        settings.load(write(tmp_path, text))
    assert "hunter2" not in str(raised.value)


def test_a_file_of_another_encoding_is_said_to_be_one(tmp_path):
    path = tmp_path / "harvester.toml"
    path.write_bytes('zone = "Zürich"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        settings.load(path)


def test_the_example_loads_whole():
    loaded = settings.load(config_folder() / "harvester.example.toml")
    assert list(loaded.connectors) == ["prom", "postgres"]
    assert loaded.digest.at == time(8)
    assert loaded.mail is not None
    assert {"latency", "queue_length"} <= {one.name for one in loaded.connectors["prom"].definitions()}
    assert loaded.connectors["prom"].every == timedelta(minutes=5)


def test_the_environment_wins_over_the_file_at_any_depth(tmp_path, monkeypatch):
    path = write(tmp_path, '[store]\nurl = "sqlite:///a"\n[digest]\nzone = "UTC"\nweekday = "friday"\n')
    monkeypatch.setenv("HARVESTER_STORE__URL", "sqlite:///b")
    monkeypatch.setenv("HARVESTER_DIGEST__ZONE", "Europe/Berlin")
    loaded = settings.load(path)
    assert loaded.store.url == "sqlite:///b"
    assert (loaded.digest.zone, loaded.digest.weekday) == ("Europe/Berlin", "friday")


def test_the_file_named_wins_over_the_variable_over_the_folder_over_the_users(tmp_path, monkeypatch):
    def zone():
        return settings.load(named).digest.zone

    named = None
    users = tmp_path / "xdg-config" / "harvester"
    users.mkdir(parents=True)
    assert zone() == "UTC"
    write(users, '[digest]\nzone = "Europe/Paris"\n')
    assert zone() == "Europe/Paris"
    write(tmp_path, '[digest]\nzone = "Europe/Rome"\n')
    assert zone() == "Europe/Rome"
    (tmp_path / "other.toml").write_text('[digest]\nzone = "Asia/Tokyo"\n')
    monkeypatch.setenv("HARVESTER_CONFIG", str(tmp_path / "other.toml"))
    assert zone() == "Asia/Tokyo"
    named = tmp_path / "named.toml"
    named.write_text('[digest]\nzone = "Asia/Seoul"\n')
    assert zone() == "Asia/Seoul"


@pytest.mark.parametrize("how", ["--config", "$HARVESTER_CONFIG"])
def test_a_named_file_that_is_not_there_is_an_error_not_a_default(tmp_path, monkeypatch, how):
    missing = tmp_path / "missing.toml"
    monkeypatch.setenv("HARVESTER_CONFIG", str(missing))
    with pytest.raises(ConfigError, match=r"missing\.toml: the file named by .* is not there") as raised:
        settings.load(missing if how == "--config" else None)
    assert how in str(raised.value)


def test_a_mail_password_comes_from_the_environment_or_a_private_file_only(tmp_path, monkeypatch):
    mail = '[mail]\nhost = "h"\nsender = "me@x"\nrecipients = ["a@b"]\n'
    loaded = settings.load(write(tmp_path, mail + 'password_env = "MAIL_PW"\n'))
    assert loaded.mail is not None
    with pytest.raises(ConfigError, match="the environment variable MAIL_PW is not set"):
        loaded.mail.password()
    monkeypatch.setenv("MAIL_PW", "hunter2")
    secret = loaded.mail.password()
    assert secret is not None
    assert secret.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(loaded)
    (tmp_path / "pw").write_text("hunter3\n")
    (tmp_path / "pw").chmod(0o644)
    loaded = settings.load(write(tmp_path, mail + f'password_file = "{tmp_path}/pw"\n'))
    assert loaded.mail is not None
    with pytest.raises(ConfigError, match="can be read by others"):
        loaded.mail.password()
    (tmp_path / "pw").chmod(0o600)
    secret = loaded.mail.password()
    assert secret is not None
    assert secret.get_secret_value() == "hunter3"


def test_a_metric_of_ones_own_replaces_the_packs_of_its_name(tmp_path):
    text = PROM + 'packs = ["http"]\n' + METRIC.format("latency", "level")
    loaded = settings.load(write(tmp_path, text))
    shapes = {one.name: one.shape for one in loaded.connectors["prom"].definitions()}
    assert shapes["latency"] == "level"
    assert "error_ratio" in shapes
