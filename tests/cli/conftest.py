"""The shop that tests of this folder run commands in."""

from __future__ import annotations

import os

import pytest
from cli_shop import SETTINGS, Shop


@pytest.fixture
def shop(tmp_path, capsys, monkeypatch):
    """Give a shop with nothing stored yet, in a folder that is no git checkout."""
    for name in [name for name in os.environ if name.startswith("HARVESTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harvester.toml").write_text(SETTINGS.format(folder=tmp_path))
    # A baseline starts a collection in the background; here it would outlive the test.
    monkeypatch.setattr("harvester.cli.changes._pull_in_background", lambda _run: None)
    return Shop(tmp_path, capsys)
