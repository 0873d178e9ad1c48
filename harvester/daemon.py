"""
The daemon: a light process that knows when something is due, and short-lived children that do it.

Imports are never given back, so the process that lives for years loads neither the store nor any client library. It
starts ``harvest tick`` when something is due; the child collects, freezes, folds, sends, says on standard output when
the next thing is due, and ends. What is due is kept in the store, so that nothing is forgotten, whoever dies. A child
that hangs or crashes is ended, its failure is recorded by the next one, and the daemon goes on.

APScheduler waits by the monotonic clock for times of the wall clock; a machine that slept or whose clock was set is
noticed by comparing the two.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit

from harvester import __version__
from harvester.errors import ConfigError, HarvesterError, StoreBusy, StoreError
from harvester.readings import DAY, HOUR, MINUTE, SECOND, Window, to_datetime, to_milliseconds

if TYPE_CHECKING:
    from harvester.collect import Progress
    from harvester.connector import Connector
    from harvester.settings import Settings
    from harvester.store import Collection, Store

logger = logging.getLogger(__name__)

FOLD_EVERY = 6 * HOUR
"""How often what waits in small pieces is folded into day blocks."""

LONGEST_WAIT = 6 * HOUR
"""A child looks after the store at least this often, whatever the last one said."""

HELD = MINUTE
"""When to look again at a source that another process is collecting."""

_CHILD_OF = "HARVESTER_DAEMON"
_DIED = "HARVESTER_DIED"


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long the daemon waits, in seconds.

    Attributes:
        heartbeat: Between two signs of life.
        silence: For a sign of life of a child, before it counts as hung.
        stop: For a child that was asked to end, before it is killed.
        pause: Before the next child after one that failed; twice as long each time, at most ``longest_pause``.
        longest_pause: See ``pause``.
        least: Between two children, whatever is due.
    """

    heartbeat: float = 30.0
    silence: float = 900.0
    stop: float = 8.0
    pause: float = 10.0
    longest_pause: float = 300.0
    least: float = 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Only one daemon on one store
# ---------------------------------------------------------------------------------------------------------------------


def lock_file(url: str) -> Path:
    """
    Return the file whose lock says that a daemon of this machine is at a store.

    It lies beside a SQLite file, and in the data folder for a store on PostgreSQL, which daemons of several machines
    may share. The kernel gives the lock back when its holder ends, however it ends.
    """
    if "://" not in url or url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///")).expanduser().resolve()
        return path.with_name(f"{path.name}.daemon")
    from harvester.settings import data_folder

    return data_folder() / f"daemon-{hashlib.sha256(_store_name(url).encode()).hexdigest()[:16]}.lock"


def _store_name(url: str) -> str:
    """Return the address of a store without user and password."""
    if "://" not in url or url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if not part.startswith(("user=", "password=")))
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}{'?' if query else ''}{query}"


@contextmanager
def _alone(url: str, now: Callable[[], datetime]) -> Iterator[Path]:
    """Hold the lock of a store and say in its file who does; raise StoreBusy where another daemon has it."""
    path = lock_file(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise StoreError(
            "open store", _store_name(url), f"{path} cannot be written: {e.strerror}",
            hint="set [store] url to a folder you may write to",
        ) from e
    with os.fdopen(descriptor, "r+") as file:
        if not _locked(file):
            who = _said(path)
            name = f"process {who['pid']} on {who['host']}, since {who['since'][:16]} UTC" if who else "it"
            raise StoreBusy(
                "run", _store_name(url), f"another daemon is at this store: {name}",
                hint=f"harvest status shows it; stop it first{', with kill ' + str(who['pid']) if who else ''}",
            )
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now().isoformat(), "version": __version__}
        file.truncate()
        file.write(json.dumps(who))
        file.flush()
        yield path


def _locked(file: IO[str]) -> bool:
    """Take the lock of a file; ``running`` holds it for a moment when it looks, so try more than once."""
    for attempt in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02 * attempt)
        else:
            return True
    return False


def _said(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"pid", "host", "since"} <= found.keys() else {}


def running(url: str) -> dict[str, Any] | None:
    """Return who is the daemon of this machine at a store (pid, host, since, version, heartbeat), or None."""
    path = lock_file(url)
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                beat = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
                return {**_said(path), "heartbeat": beat.isoformat()}
    except OSError:
        pass
    return None


def wake(url: str) -> bool:
    """Ask the daemon of this machine at a store to look at once what is due; false where there is none."""
    who = running(url)
    if not who or "pid" not in who:
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(int(who["pid"]), signal.SIGUSR1)
        return True
    return False


# ---------------------------------------------------------------------------------------------------------------------
# Logs and the service manager
# ---------------------------------------------------------------------------------------------------------------------


class _Lines(logging.Formatter):
    """One line a record; an exception's traceback is never part of it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        text = " ".join(record.getMessage().split("\n"))
        if self.form == "human":
            return f"{at} {record.levelname.lower():7} {text}"
        return json.dumps({"time": at, "level": record.levelname.lower(), "logger": record.name, "message": text})


def _is_ours(record: logging.LogRecord) -> bool:
    """Let through what harvester and connectors say; client libraries quote addresses, so only their failures."""
    return record.name.partition(".")[0] in ("harvester", "connectors") or record.levelno >= logging.ERROR


def log_to(stream: TextIO, form: str) -> None:
    """Write logs to a stream, ``human`` or ``json``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines(form))
    handler.addFilter(_is_ours)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def notify(text: str) -> None:
    """
    Tell the service manager, if there is one that wants to know.

    Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.sendall(text.encode())
    except OSError as e:
        logger.warning("the service manager cannot be told: %s", e.strerror)


# ---------------------------------------------------------------------------------------------------------------------
# The daemon
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _End:
    """How a child ended: what it said last, and how it died where it did not end by itself."""

    status: int
    said: dict[str, Any] = field(default_factory=dict)
    died: str = ""


def run(
    load: Callable[[], Settings],
    *,
    now: Callable[[], datetime],
    log_format: str = "human",
    once: bool = False,
    command: Sequence[str] = (sys.executable, "-m", "harvester.cli", "tick"),
    patience: Patience | None = None,
) -> int:
    """
    Collect in the background until told to stop; with ``once`` do what is due now and return.

    SIGTERM and SIGINT stop it, SIGHUP reads the settings again, SIGUSR1 makes it look at once what is due. ``command``
    is the child that does the work; the settings that were found valid are handed to it, whatever becomes of the file.

    Returns:
        0 after a clean stop; with ``once`` 1 where a source failed.

    Raises:
        StoreBusy: if another daemon of this machine is at the store.
        HarvesterError: if the settings or the store cannot be used at all.
    """
    log_to(sys.stderr, log_format)
    settings = load()
    with _alone(settings.store.url, now) as lock:
        daemon = _Daemon(load, settings, lock, now, command, patience or Patience())
        return daemon.once() if once else daemon.serve()


class _Daemon:
    def __init__(
        self,
        load: Callable[[], Settings],
        settings: Settings,
        lock: Path,
        now: Callable[[], datetime],
        command: Sequence[str],
        patience: Patience,
    ) -> None:
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        self._load = load
        self._url = settings.store.url
        self._lock = lock
        self._now = now
        self._command = list(command)
        self._patience = patience
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(2)},
            # A job that comes late comes nevertheless, once; the defaults drop it after a second.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 2},
        )
        self._commands: SimpleQueue[str] = SimpleQueue()  # the one queue a signal handler may put into
        self._turn = threading.Lock()
        self._again = False
        self._child: subprocess.Popen[bytes] | None = None
        self._child_lock = threading.Lock()
        self._settings_file: IO[bytes] | None = None
        self._sources = 0
        self._use(settings)
        self._stopping = False
        self._next_due = 0
        self._failures = 0
        self._worked = False
        self._died = ""
        self._fatal: HarvesterError | None = None
        self._doing = ""

    def _use(self, settings: Settings) -> None:
        """Keep the text of settings that are valid, for the children, in a file nobody else can see or change."""
        kept: IO[bytes] | None = None
        if settings.path is not None:
            kept = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the settings
            kept.write(settings.path.read_bytes())
            kept.flush()
        with self._child_lock:  # a child under way has a descriptor of its own
            old, self._settings_file = self._settings_file, kept
        if old is not None:
            old.close()
        self._sources = len(settings.sources)

    # -- living -------------------------------------------------------------------------------------------------------

    def once(self) -> int:
        """Run one child to its end."""
        end = self._run_child()
        if self._fatal or "error" in end.said:
            raise self._fatal or _error_from(end.said["error"])
        if end.status:
            raise HarvesterError("run", "harvest tick", end.died or f"it ended with status {end.status}")
        return int(any(one["error"] for one in end.said["collected"]))

    def serve(self) -> int:
        signals = {
            signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload", signal.SIGUSR1: "wake",
        }
        before = {
            number: signal.signal(number, lambda _, __, word=word: self._commands.put(word))  # type: ignore[misc]
            for number, word in signals.items()
        }
        logger.info(
            "harvest %s started: %d source%s, store %s, process %d",
            __version__, self._sources, "" if self._sources == 1 else "s", _store_name(self._url), os.getpid(),
        )
        self._scheduler.start()
        try:
            self._beat_regularly()
            self._look_at(self._now())
            notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=started")
            self._listen()
        finally:
            notify("STOPPING=1\nSTATUS=stopping")
            self._stop()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._fatal:
            raise self._fatal
        logger.info("stopped")
        return 0

    def _listen(self) -> None:
        offset = _clock_offset(self._now())
        while True:
            try:
                command = self._commands.get(timeout=self._patience.heartbeat)
            except Empty:
                command = ""
            jump = _clock_offset(self._now()) - offset
            if abs(jump) > max(10.0, self._patience.heartbeat / 3):
                # The scheduler's next times are of the clock as it was; a clock set back would make it wait for them.
                offset += jump
                what = "this machine slept, or its clock was set" if jump > 0 else "the clock was set back"
                logger.info("%s (%+.0f s); looking what is due", what, jump)
                self._beat_regularly()
                self._look_at(self._now())
            if command == "stop":
                return
            if command == "reload":
                self._reload()
            elif command == "wake":
                self._look_at(self._now())

    def _stop(self) -> None:
        with self._child_lock:
            self._stopping = True
            child = self._child
        if child is not None:
            self._end(child)
        # Waiting for its threads it would hold a lock that they need to schedule what comes next.
        self._scheduler.shutdown(wait=False)
        self._turn.acquire(timeout=2 * self._patience.stop)  # until the child's end was seen

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings = self._load()
            if settings.store.url != self._url:
                raise ConfigError("read", "[store] url", "has changed", hint="restart harvest run to change the store")
            self._use(settings)
        except (HarvesterError, OSError) as e:
            logger.error("settings not reloaded, the old ones stay: %s", e)
        else:
            logger.info("settings reloaded: %d sources", self._sources)
            self._look_at(self._now())
        notify("READY=1")

    # -- time ---------------------------------------------------------------------------------------------------------

    def _beat_regularly(self) -> None:
        wanted = float(os.environ.get("WATCHDOG_USEC", "inf")) / 2e6
        seconds = min(self._patience.heartbeat, wanted)
        self._scheduler.add_job(
            self._heartbeat, "interval", seconds=seconds, id="heartbeat", replace_existing=True,
            next_run_time=self._soon(),
        )

    def _soon(self) -> datetime:
        return datetime.now(UTC)  # the scheduler's own clock, not the one handed to us

    def _heartbeat(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._lock)
        notify(f"WATCHDOG=1\nSTATUS={self._state()}")
        if self._next_due <= to_milliseconds(self._now()) and not self._turn.locked():
            self._look_at(self._now())

    def _state(self) -> str:
        if self._doing:
            return self._doing
        if self._failures:
            return f"the last {self._failures} attempts failed; next at {to_datetime(self._next_due):%H:%M:%S} UTC"
        return f"{self._sources} sources, next at {to_datetime(self._next_due):%H:%M:%S} UTC"

    def _look_at(self, at: datetime) -> None:
        """Have the next child started at an instant of our clock."""
        wait = max((at - self._now()).total_seconds(), 0.0)
        self._next_due = to_milliseconds(at)
        self._scheduler.add_job(
            self._work, "date", run_date=self._soon() + timedelta(seconds=wait), id="work", replace_existing=True
        )

    # -- working ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Run one child; never two at once, and one more if something became due meanwhile."""
        if not self._turn.acquire(blocking=False):
            self._again = True
            return
        try:
            self._again = False
            end = self._run_child()
            wait = self._judge(end)
        finally:
            self._doing = ""
            self._turn.release()
        if not self._stopping:
            self._look_at(self._now() if self._again else self._now() + timedelta(seconds=wait))

    def _judge(self, end: _End) -> float:
        """Return how many seconds from now the next child is to start."""
        if self._stopping:
            return 0.0
        self._died = end.died
        if end.status == 0 and "next_due" in end.said:
            self._worked, self._failures = True, 0
            wait = (int(end.said["next_due"]) - to_milliseconds(self._now())) / SECOND
            return min(max(wait, self._patience.least), LONGEST_WAIT / SECOND)
        error = end.said.get("error")
        if error and not error["retry"] and not self._worked:
            self._fatal = _error_from(error)
            self._commands.put("stop")
        self._failures += 1
        wait = min(self._patience.pause * 2.0 ** min(self._failures - 1, 10), self._patience.longest_pause)
        if not self._fatal:
            ended = end.died or f"it ended with status {end.status}"
            why = str(_error_from(error)) if error else f"run harvest tick: {ended}"
            logger.error("%s; trying again in %.0f s", why, wait)
        return wait

    def _run_child(self) -> _End:
        """Start a child, pass on what it says, and wait for its end."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", _DIED)
        }
        environment[_CHILD_OF] = str(os.getpid())
        if self._died:
            environment[_DIED] = self._died
        with self._child_lock:
            if self._stopping:
                return _End(0)
            command = list(self._command)
            descriptors: tuple[int, ...] = ()
            if self._settings_file is not None:
                number = self._settings_file.fileno()
                os.lseek(number, 0, os.SEEK_SET)  # where /dev/fd does not open anew but duplicates
                command += ["--config", f"/dev/fd/{number}"]
                descriptors = (number,)
            try:
                self._child = child = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
                    pass_fds=descriptors, start_new_session=True,
                )
            except OSError as e:  # no memory, no process left
                return _End(1, died=f"it could not be started: {e.strerror}")
        try:
            return self._follow(child)
        finally:
            with self._child_lock:
                self._child = None

    def _follow(self, child: subprocess.Popen[bytes]) -> _End:
        assert child.stdout is not None
        assert child.stderr is not None
        end = _End(0)
        rest = {child.stdout: b"", child.stderr: b""}
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector, child.stdout, child.stderr:
            for stream in rest:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(timeout=1.0)
                for key, _ in ready:
                    heard = time.monotonic()
                    stream = child.stdout if key.fileobj is child.stdout else child.stderr
                    chunk = os.read(stream.fileno(), 65536)
                    if not chunk:
                        selector.unregister(stream)
                    *lines, rest[stream] = (rest[stream] + chunk).split(b"\n")
                    if not chunk and rest[stream]:
                        lines.append(rest[stream])
                    for line in lines:
                        self._hear(line.decode(errors="replace"), end, result=stream is child.stdout)
                if not ready and child.poll() is not None:
                    break  # a grandchild may keep the pipes open for ever
                if time.monotonic() - heard > self._patience.silence:
                    end.died = f"it hung: no sign of life for {self._patience.silence:.0f} s, so it was killed"
                    _kill(child)  # asked to end it would leave its source as if nothing had happened
                    break
        end.status = child.wait()
        _kill(child)  # what it may have left behind: a command that prints a token
        if end.status < 0 and not end.died:
            end.died = f"its process was killed by {signal.Signals(-end.status).name}"
        return end

    def _hear(self, line: str, end: _End, *, result: bool) -> None:
        """Take in one line of a child: its result, its progress, or something for the log."""
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            if line.strip():
                logger.warning("harvest tick: %s", line.strip())
        elif result:
            end.said = said
        elif "doing" in said:
            self._doing = str(said["doing"])
        else:
            level = logging.getLevelNamesMapping().get(str(said.get("level", "")).upper(), logging.WARNING)
            logging.getLogger(str(said.get("logger", __name__))).log(level, "%s", said.get("message", line))

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """Ask a child to end, and kill it and what it started if it does not."""
        child.terminate()
        deadline = time.monotonic() + self._patience.stop
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if child.poll() is None:
            _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _clock_offset(now: datetime) -> float:
    return now.timestamp() - time.monotonic()


def _error_from(data: Mapping[str, Any]) -> HarvesterError:
    kind = StoreBusy if data["kind"] == "StoreBusy" else ConfigError if data["kind"] == "ConfigError" else StoreError
    return kind(data["operation"], data["target"], data["cause"], hint=data["hint"], retry=data["retry"])


# ---------------------------------------------------------------------------------------------------------------------
# The child
# ---------------------------------------------------------------------------------------------------------------------


def child(load: Callable[[], Settings], now: Callable[[], datetime], out: TextIO) -> int:
    """
    Do what is due now and print one JSON object: ``next_due`` in milliseconds UTC and ``collected``, or ``error``.

    This is ``harvest tick``. As a daemon's child it runs at idle priority, says on standard error what it does, and
    ends when the daemon is gone.
    """
    from harvester.store import Store

    parent = int(os.environ.get(_CHILD_OF, "0"))
    log_to(sys.stderr, "json" if parent else "human")
    if parent:
        os.nice(19)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    before = signal.signal(signal.SIGTERM, _end_soon)
    try:
        settings = load()
        with Store.open(settings.store.url, now=now) as store:
            done = tick(settings, store, now, say=_say if parent else None)
    except HarvesterError as e:
        error = {"kind": type(e).__name__, "operation": e.operation, "target": e.target, "cause": e.cause}
        print(json.dumps({"error": {**error, "hint": e.hint, "retry": e.retry}}), file=out, flush=True)
        return 2 if isinstance(e, ConfigError) else 1
    finally:
        signal.signal(signal.SIGTERM, before)
    print(json.dumps(done), file=out, flush=True)
    return 0


def _say(doing: str) -> None:
    print(json.dumps({"doing": doing}), file=sys.stderr, flush=True)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_soon(*_: object) -> None:
    """Unwind, so that everything is left in order; if a connector does not let go, leave it in order without that."""

    def insist() -> None:
        from harvester.collect import give_up

        try:
            give_up()
        except HarvesterError as e:
            logger.warning("%s", e)  # the next child finds a collection without an end, and says so
        finally:
            os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer = threading.Timer(1.5, insist)
    timer.daemon = True
    timer.start()
    raise SystemExit(128 + signal.SIGTERM)


def tick(
    settings: Settings, store: Store, now: Callable[[], datetime], *, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """
    Collect what is due, freeze baselines that are ready, fold, send the digest; return when the next thing is due.

    One thing's failure leaves the others alone.

    Returns:
        ``{"next_due": milliseconds UTC, "collected": [{"source", "readings", "error"}, ...]}``.

    Raises:
        StoreError: if the store itself cannot be used now.
    """
    from harvester import collect

    owner = f"{socket.gethostname()}:{os.environ.get(_CHILD_OF, os.getpid())}"
    sources = list(settings.connectors.values())
    collected: list[Collection] = []
    held: set[str] = set()
    for one in sources:
        dead = collect.bury(store, one, now, cause=os.environ.get(_DIED, ""), owner=owner)
        if dead is not None:
            logger.error("%s", dead.error)
    tried: set[str] = set()
    while waiting := [
        one for one in collect.due(store, sources, to_milliseconds(now())) if one.source not in tried
    ]:
        one = waiting[0]
        tried.add(one.source)
        with _alone_in_trouble():
            record = collect.collect(store, one, now=now, progress=_reporter(say), owner=owner)
            if record is None:
                held.add(one.source)
                logger.info("%s: another process is collecting it", one.source)
            else:
                collected.append(record)
                _tell(store, one, record)
    if collected:
        with _alone_in_trouble():
            from harvester.impact import settle

            for change in settle(store, settings, to_milliseconds(now())):
                logger.info("%s: readings frozen", change.name)
    with _alone_in_trouble():
        _fold(store, to_milliseconds(now()))
    with _alone_in_trouble():
        _prune(store, settings, to_milliseconds(now()))
    with _alone_in_trouble():
        _send(store, settings, now)
    at = to_milliseconds(now())
    upcoming = _next_due(store, settings, [one for one in sources if one.source not in held], now())
    upcoming = max(min([upcoming, *([at + HELD] if held else [])]), at + SECOND)
    _remember(store, at, upcoming)
    return {
        "next_due": upcoming,
        "collected": [{"source": one.source, "readings": one.readings, "error": one.error} for one in collected],
    }


@contextmanager
def _alone_in_trouble() -> Iterator[None]:
    """Log a failure and go on, unless it is the store's and everything else would meet it too."""
    try:
        yield
    except StoreError as e:
        if e.retry:
            raise
        logger.error("%s", e)
    except HarvesterError as e:
        logger.error("%s", e)


def _reporter(say: Callable[[str], None] | None) -> Callable[[Progress], None]:
    """Return what tells progress at most every five seconds: it is also the sign of life the daemon waits for."""
    said = -5.0

    def report(progress: Progress) -> None:
        nonlocal said
        if say is not None and time.monotonic() - said >= 5.0:
            said = time.monotonic()
            say(f"collecting {progress.source}, {100 * progress.share:.0f} %, {progress.readings:,} readings")

    return report


def _tell(store: Store, connector: Connector, record: Collection) -> None:
    seconds = (record.finished - record.started) / SECOND
    if record.error is None:
        share = 100 * record.covered.share_of(record.window)
        span = f"{to_datetime(record.window.start):%Y-%m-%d %H:%M} to {to_datetime(record.window.end):%H:%M} UTC"
        text = "%s: %d new readings, %s, %.0f %% proven complete, in %.1f s"
        logger.info(text, record.source, record.readings, span, share, seconds)
    else:
        at = store.due(connector.source) or record.finished
        logger.warning("%s; next try at %s UTC", record.error, f"{to_datetime(at):%H:%M:%S}")


def _fold(store: Store, now: int) -> None:
    if _is_due(store, "daemon:fold", FOLD_EVERY, now):
        store.fold()
        store.set_due("daemon:fold", now + FOLD_EVERY)


def _prune(store: Store, settings: Settings, now: int) -> None:
    if _is_due(store, "daemon:prune", DAY, now):
        from harvester.store.retention import prune

        before = now - round(settings.store.keep.total_seconds() * SECOND)
        done = prune(store, before)
        if done.blocks:
            logger.info("readings before %s dropped: %d days of series", to_datetime(before).date(), done.blocks)
        store.set_due("daemon:prune", now + DAY)


def _is_due(store: Store, name: str, every: int, now: int) -> bool:
    """Tell whether something of ours is due; a time further ahead than its interval was written by a wrong clock."""
    at = store.due(name)
    return at is None or not now < at <= now + every


def _send(store: Store, settings: Settings, now: Callable[[], datetime]) -> None:
    from harvester.digest.send import send_due

    delivery = send_due(store, settings, now)
    if delivery is None:
        return
    if delivery.error:
        logger.error("digest of %s: %s", delivery.week, delivery.error)
    else:
        logger.info("digest of %s: sent to %d", delivery.week, len(delivery.receipts))


def _next_due(store: Store, settings: Settings, sources: Sequence[Connector], now: datetime) -> int:
    """Return when the next thing is due, milliseconds UTC."""
    at = to_milliseconds(now)
    times = [store.due(one.source) or at for one in sources]
    times.append(store.due("daemon:fold") or at + FOLD_EVERY)
    if settings.mail is not None:
        from harvester.digest.send import deliveries
        from harvester.digest.weeks import due_at, week_of

        weeks = [week_of(now + timedelta(days=days), settings.digest.zoneinfo) for days in (0, 7)]
        times += [one for one in (to_milliseconds(due_at(week, settings.digest)) for week in weeks) if one > at]
        times += [one.next_try for one in deliveries(store)[-1:] if one.next_try is not None and one.until > at]
    return min(times)


def _remember(store: Store, at: int, upcoming: int) -> None:
    from harvester.connector import Batch

    store.commit(_place(), Batch(state={"tick": at, "next_due": upcoming}))


def _place() -> str:
    return f"daemon:{socket.gethostname()}"  # no source can be named so


# ---------------------------------------------------------------------------------------------------------------------
# Status
# ---------------------------------------------------------------------------------------------------------------------


def status(store: Store, settings: Settings, now: int) -> dict[str, Any]:
    """
    Return how everything stands; times are ISO 8601 UTC or None, durations seconds, shares 0 to 1.

    ``daemon``: the one of this machine (``running``, ``pid``, ``host``, ``since``, ``version``, ``heartbeat``,
    ``last_tick``, ``next_due``). ``sources``: for each ``name``, ``connector``, ``every_seconds``, ``collecting``,
    ``last_try``, ``last_good``, ``error`` of the last try or None, ``failures`` since the last good one, ``next_due``,
    ``lag_seconds`` since the newest proven instant, ``readings`` of the last day, ``covered`` share of the last day
    proven for at least one metric, ``notes`` of the last try. ``deliveries``: of the last weeks' digests, newest last.
    ``store``: what ``Store.info`` says.
    """
    from harvester.digest.send import deliveries

    who = running(settings.store.url)
    beat = store.state(_place())
    return {
        "daemon": {
            "running": who is not None,
            **{name: (who or {}).get(name) for name in ("pid", "host", "since", "version", "heartbeat")},
            "last_tick": _text(beat.get("tick")),
            "next_due": _text(beat.get("next_due")),
        },
        "sources": [_source_status(store, settings, one, now) for one in settings.connectors.values()],
        "deliveries": [
            {
                "week": one.week,
                "sent": one.sent,
                "attempts": one.attempts,
                "next_try": _text(one.next_try),
                "error": one.error,
            }
            for one in deliveries(store)[-4:]
        ],
        "store": store.info(),
    }


def _source_status(store: Store, settings: Settings, connector: Connector, now: int) -> dict[str, Any]:
    from harvester.collect import Position, holder

    position = Position.of(store, connector.source)
    day = Window.of(now - DAY, now)
    every = connector.every.total_seconds()
    # Twice what a day of good collections needs: failures are tried again sooner.
    records = store.collections(connector.source, limit=min(2 * round(86400 / every) + 10, 2000))
    covered = Window()
    for one in records:
        covered |= one.covered
    last = records[0] if records else None
    who = holder(store, connector.source)
    error = last.error if last else None
    if position.begun is not None and who is None:
        error = f"collect {connector.source}: the last collection did not come to its end; the next one tells more"
    return {
        "name": connector.source,
        "connector": settings.sources[connector.source]["connector"],
        "every_seconds": every,
        "collecting": who,
        "last_try": _text(last.started if last else None),
        "last_good": _text(position.good),
        "error": error,
        "failures": position.failures,
        "next_due": _text(store.due(connector.source)),
        "lag_seconds": None if position.proven is None else max(0.0, (now - position.proven) / SECOND),
        "readings": sum(one.readings for one in records if one.finished > day.start),
        "covered": covered.share_of(day),
        "notes": list(last.notes) if last else [],
    }


def _text(at: int | None) -> str | None:
    return None if at is None else to_datetime(at).isoformat()
