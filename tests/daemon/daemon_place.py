"""A daemon in a real process over a real store, and a source that does what it is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harvester.readings import Window
from harvester.store import Store

HERE = Path(__file__).parent
HARVEST = [sys.executable, "-m", "harvester.cli"]
PATIENCE_SECONDS = 60.0


def wait_for(what: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    """Return the first true answer; fail where none comes for a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain; {why()}")


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[tuple[int, str]]:
    """Return process and state of every child of a process, zombies included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid:
            found.append((int(name.split()[0]), state))
    return found


class Place:
    """A folder with settings, a store and sources, and the processes started over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store_path = folder / "store.db"
        self.store_url = f"sqlite:///{self.store_path}"
        self.config = folder / "harvester.toml"
        self.started: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []
        package = folder / "site"
        (package / "acme-1.0.dist-info").mkdir(parents=True)
        (package / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (package / "acme-1.0.dist-info" / "entry_points.txt").write_text("[harvester.connectors]\nacme = acme_connector:Acme\n")
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{package}{os.pathsep}{HERE}",
            "CLOCK_OFFSET": str(folder / "offset"),
            "XDG_DATA_HOME": str(folder / "data"),
            "ACME_TOKEN": "planted-secret",
        }
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "HARVESTER_CONFIG"):
            self.environment.pop(name, None)
        self.sources: dict[str, str] = {}
        self.source("acme")

    def source(self, name: str, *, mode: str = "ok", every: str = "1s", reach: str = "2m", more: str = "") -> None:
        """Configure a source."""
        (self.folder / name).mkdir(exist_ok=True)
        self.mode(mode, name)
        self.sources[name] = (
            f'[sources.{name}]\nconnector = "acme"\nfolder = "{self.folder / name}"\nevery = "{every}"\n'
            f'overlap = "2s"\nreach = "{reach}"\n{more}\n'
        )
        self.write()

    def write(self, text: str = "") -> None:
        """Write the settings."""
        self.config.write_text("\n".join([f'[store]\nurl = "{self.store_url}"\n', *self.sources.values(), text]))

    def mode(self, mode: str, name: str = "acme") -> None:
        """Tell a source how to be."""
        path = self.folder / name / "mode"
        path.with_suffix(".new").write_text(mode)
        path.with_suffix(".new").rename(path)

    def asked(self, name: str = "acme") -> list[tuple[int, Window]]:
        """Return process and window of every collection of a source."""
        path = self.folder / name / "asked"
        rows = [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []
        return [(pid, Window.of(start, end)) for pid, start, end in rows]

    def start(self, verb: str = "run", *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the hurried daemon; its log goes to a file."""
        return self.launch([sys.executable, str(HERE / "daemon_process.py"), verb, *words, str(self.config)], **environment)

    def launch(self, words: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start any process in this place; what it says goes to a file."""
        self.logs.append(self.folder / f"log {len(self.logs)}")
        with self.logs[-1].open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env={**self.environment, **environment}, cwd=self.folder)
        self.started.append(process)
        return process

    def log(self, number: int = -1) -> str:
        """Return what a process has said so far."""
        return self.logs[number].read_text()

    def messages(self, number: int = -1) -> list[tuple[str, str]]:
        """Return level and text of what a daemon has logged so far."""
        lines = [json.loads(line) for line in self.log(number).splitlines() if line.startswith("{")]
        return [(line["level"], line["message"]) for line in lines]

    def wait(self, what: Callable[[], Any]) -> Any:
        """Wait until something is true; tell the log where it never is."""
        return wait_for(what, self.log)

    def wait_for_message(self, part: str, times: int = 1) -> None:
        """Wait until the log has a text that often."""
        self.wait(lambda: sum(part in text for _, text in self.messages()) >= times)

    def open(self) -> Store:
        """Open the store."""
        return Store.open(self.store_url)

    def seconds(self, name: str = "acme") -> list[int]:
        """Return the instants held of a source, in seconds; each has to have its own value."""
        with self.open() as store:
            found = store.series(source=name)
            if not found:
                return []
            (readings,) = store.read(found, Window.of(0, 2**62))
        assert (readings.at == readings.value * 1000).all()  # type: ignore[union-attr]
        return [int(at) // 1000 for at in readings.at]  # type: ignore[union-attr]

    def records(self, name: str = "acme") -> list[Any]:
        """Return the records of a source's collections, the oldest first."""
        with self.open() as store:
            return store.collections(name, limit=1000)[::-1]

    def status(self) -> dict[str, Any]:
        """Return what ``harvest status --json`` says."""
        words = [*HARVEST, "status", "--json", "--config", str(self.config)]
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=60)
        assert done.returncode in (0, 3), done.stderr
        found = json.loads(done.stdout)["data"]
        assert done.returncode == (3 if any(one["error"] for one in found["sources"]) else 0)
        return found

    def stop(self, process: subprocess.Popen[bytes]) -> float:
        """Ask a daemon to stop, expect that it does so cleanly, and return how long it took."""
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, self.log()
        return time.monotonic() - began

    def end(self) -> None:
        """Leave nothing running."""
        for process in self.started:
            below = children(process.pid)
            if process.poll() is None:
                process.kill()
                process.wait()
            for pid, _ in below:
                with_children = [pid, *(one for one, _ in children(pid))]
                for one in with_children:
                    try:
                        os.kill(one, signal.SIGKILL)
                    except ProcessLookupError:
                        continue


class Postgresql:
    """A PostgreSQL of our own, not started yet."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self.binaries = folder, binaries
        self.user = ["setpriv", "--reuid=nobody", "--clear-groups", "--"] if os.getuid() == 0 else []
        self.url = f"postgresql+psycopg://harvester@/postgres?host={folder}"
        if self.user:
            shutil.chown(folder, "nobody")
        self._run("initdb", "-D", str(folder / "data"), "-U", "harvester", "-A", "trust", "--no-sync", "--no-instructions")

    def _run(self, *words: str) -> None:
        command = [*self.user, str(self.binaries / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")
