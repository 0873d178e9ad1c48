"""Once a week to each recipient, over real sockets: refusals, drops, crashes, TLS, logins, two daemons at once."""

from __future__ import annotations

import email
import email.policy
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from digest_postman import PASSWORD, USER, Postman, postman
from digest_samples import NOW, QUIET

from harvester.digest import send
from harvester.digest.compose import for_week, kept
from harvester.digest.send import Delivery, deliveries, send_due, send_test
from harvester.errors import ConfigError, DeliveryError
from harvester.readings import DAY, HOUR, MINUTE, to_datetime
from harvester.settings import Settings
from harvester.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd, of its own set-up

ME, YOU = "me@example.com", "you@example.org"


@pytest.fixture
def server() -> Iterator[Postman]:
    with postman() as running:
        yield running


@pytest.fixture
def mailing(configured: Callable[..., Settings]) -> Callable[..., Settings]:
    """Return settings that send to a port, in the clear unless told otherwise."""

    def make(port: int, **given: Any) -> Settings:
        mail = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "harvester@example.com", "recipients": [ME]}
        return configured(mail={**mail, **given})

    return make


def outcomes(delivery: Delivery | None) -> dict[str, str]:
    assert delivery is not None
    return {one.recipient: str(one.outcome) for one in delivery.receipts}


# -- when -------------------------------------------------------------------------------------------------------------


def test_no_mail_configured_sends_nothing_and_is_no_error(
    store: Store, configured: Callable[..., Settings], clock: Any
) -> None:
    assert send_due(store, configured(), clock) is None
    assert deliveries(store) == []


def test_a_due_digest_is_sent_once_however_often_it_is_asked(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    settings = mailing(server.port, recipients=[ME, YOU])
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "sent", YOU: "sent"}
    assert done is not None
    assert (done.sent, done.attempts, done.next_try, done.notes) == (True, 1, None, ())
    for _ in range(5):
        clock.advance(minutes=1)
        assert send_due(store, settings, clock) is None
    assert [recipients for recipients, _ in server.taken] == [(ME, YOU)]
    assert deliveries(store) == [done]


def test_the_mail_is_the_stored_digest(store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any) -> None:
    settings = mailing(server.port)
    shown = for_week(store, settings, clock())
    send_due(store, settings, clock)
    mail = email.message_from_bytes(server.taken[0][1], policy=email.policy.default)
    assert mail["Subject"] == shown.subject
    assert kept(store, "2026-W48") == shown
    body = mail.get_body(("plain",))
    assert body is not None
    assert shown.summary in " ".join(body.get_content().split())


def test_before_its_hour_nothing_is_sent_not_even_last_weeks(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    clock.at = datetime(2026, 11, 23, 6, 59, tzinfo=UTC)
    assert send_due(store, mailing(server.port), clock) is None
    clock.advance(minutes=1)
    assert outcomes(send_due(store, mailing(server.port), clock)) == {ME: "sent"}


def test_each_week_has_its_own_mail(store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any) -> None:
    settings = mailing(server.port)
    for _ in range(3):
        send_due(store, settings, clock)
        clock.advance(days=7)
    assert [one.week for one in deliveries(store)] == ["2026-W48", "2026-W49", "2026-W50"]
    assert len({email.message_from_bytes(content)["Message-ID"] for _, content in server.taken}) == 3


def test_a_clock_set_back_sends_nothing_again(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    settings = mailing(server.port)
    send_due(store, settings, clock)
    for hours in (-2, 1, 1, 1):
        clock.advance(hours=hours)
        send_due(store, settings, clock)
    assert len(server.taken) == 1


# -- who --------------------------------------------------------------------------------------------------------------


def test_a_recipient_added_during_the_week_gets_it_and_nobody_gets_it_twice(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    send_due(store, mailing(server.port), clock)
    clock.advance(hours=5)
    done = send_due(store, mailing(server.port, recipients=[YOU, ME.upper()]), clock)
    assert outcomes(done) == {ME: "sent", YOU: "sent"}
    assert [recipients for recipients, _ in server.taken] == [(ME,), (YOU,)]


def test_the_same_address_twice_is_one_recipient(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    send_due(store, mailing(server.port, recipients=[ME, ME, "Me@Example.com"]), clock)
    assert [len(recipients) for recipients, _ in server.taken] == [1]


def test_one_refused_recipient_leaves_the_other_alone_and_is_tried_again_next_day(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    settings = mailing(server.port, recipients=[ME, YOU])
    server.refuse[YOU] = "550 5.1.1 no such user"
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "sent", YOU: "refused"}
    assert done is not None
    assert done.error == "the recipient was refused: 550 5.1.1 no such user"
    assert done.next_try == NOW + DAY
    del server.refuse[YOU]
    clock.advance(hours=23)
    assert send_due(store, settings, clock) is None
    clock.advance(hours=1)
    assert outcomes(send_due(store, settings, clock)) == {ME: "sent", YOU: "sent"}
    assert [recipients for recipients, _ in server.taken] == [(ME,), (YOU,)]
    assert server.taken[0][1] == server.taken[1][1]


def test_a_recipient_taken_out_of_the_settings_is_tried_no_more(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    server.refuse[YOU] = "450 later"
    assert outcomes(send_due(store, mailing(server.port, recipients=[ME, YOU]), clock)) == {ME: "sent", YOU: "waiting"}
    clock.advance(hours=1)
    done = send_due(store, mailing(server.port), clock)
    assert outcomes(done) == {ME: "sent"}
    assert done is not None
    assert (done.sent, done.next_try) == (True, None)
    assert len(server.taken) == 1


# -- failing ----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_failed_mail_is_tried_again_ever_more_slowly_until_the_week_ends(
    store: Store, mailing: Callable[..., Settings], clock: Any
) -> None:
    settings = mailing(free_port())
    tried = []
    while clock.at < to_datetime(NOW + 8 * DAY):
        done = send_due(store, settings, clock)
        if done is not None and done.week == "2026-W48":
            tried.append(int(clock.at.timestamp() * 1000) - NOW)
            assert done.error.startswith("connect to 127.0.0.1:")
            if done.next_try is None:
                break
            clock.at = to_datetime(done.next_try)
        else:
            clock.advance(minutes=1)
    assert tried[:5] == [0, MINUTE, 3 * MINUTE, 7 * MINUTE, 15 * MINUTE]
    assert tried[-1] - tried[-2] == 4 * HOUR
    assert 6 * DAY + 12 * HOUR < tried[-1] < 6 * DAY + 16 * HOUR  # the week ends 160 hours after its Monday at eight
    assert (deliveries(store)[0].sent, deliveries(store)[0].next_try) == (False, None)


def test_after_the_weeks_end_the_old_mail_is_never_sent(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    assert outcomes(send_due(store, mailing(free_port()), clock)) == {ME: "waiting"}
    clock.at = datetime(2026, 11, 29, 23, 0, tzinfo=UTC)  # Monday, 00:00 in Berlin
    assert send_due(store, mailing(server.port), clock) is None
    assert server.taken == []


def test_a_refused_mail_is_known_not_to_be_sent(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    server.answers = ["451 4.3.0 try later", "554 5.7.1 looks like spam"]
    settings = mailing(server.port)
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "waiting"}
    clock.advance(minutes=2)
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "refused"}
    assert done is not None
    assert done.error == "the mail was refused: 554 5.7.1 looks like spam"
    assert done.notes == ()


@pytest.mark.parametrize("behaviour", ["drop", "dawdle"])
def test_a_lost_answer_means_the_same_bytes_again_and_is_said(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, behaviour: str
) -> None:
    settings = mailing(server.port, timeout="1s")
    server.answers = [behaviour]
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "unknown"}
    assert done is not None
    assert done.notes == (f"digest 2026-W48 to {ME}: how 1 of 1 attempts ended is unknown; the same mail will be sent again",)
    clock.advance(minutes=2)
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "sent"}
    assert done is not None
    assert done.notes == (f"digest 2026-W48 to {ME}: how 1 of 2 attempts ended is unknown; the same mail was sent again",)
    (_, first), (_, second) = server.taken
    assert first == second
    assert email.message_from_bytes(first)["Message-ID"].startswith("<2026-W48.")


def test_a_doubt_stays_while_further_attempts_fail(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    server.answers = ["drop"]
    send_due(store, mailing(server.port), clock)
    clock.advance(hours=1)
    done = send_due(store, mailing(free_port()), clock)
    assert outcomes(done) == {ME: "unknown"}
    assert done is not None
    assert done.receipts[0].doubts == 1


def test_the_bytes_stay_even_if_harvester_would_render_them_differently_now(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = ["drop"]
    settings = mailing(server.port)
    send_due(store, settings, clock)
    monkeypatch.setattr("harvester.digest.render.text", lambda _: "another version\n")
    clock.advance(minutes=2)
    send_due(store, settings, clock)
    assert server.taken[0][1] == server.taken[1][1]


# -- dying ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from datetime import datetime
from harvester.digest.send import send_due
from harvester.settings import Settings
from harvester.store import Store
path, port, at = sys.argv[1], int(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
settings = Settings(
    digest={"zone": "Europe/Berlin"},
    mail={"host": "127.0.0.1", "port": port, "security": "none", "sender": "harvester@example.com",
          "recipients": ["me@example.com"], "timeout": "5s"},
)
with Store.open(f"sqlite:///{path}", now=lambda: at) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    print(send_due(store, settings, lambda: at))
"""


def child(path: Path, port: int, at: datetime) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CHILD, str(path), str(port), at.isoformat()]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_between_sending_and_recording_it_resends_the_same_mail_and_says_so(
    tmp_path: Path, store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    process = child(tmp_path / "store.db", server.port, clock())
    server.on_mail = lambda: os.kill(process.pid, signal.SIGKILL)
    process.communicate("go\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert len(server.taken) == 1
    assert [str(one.outcome) for one in deliveries(store)[-1].receipts] == ["sending"]
    server.on_mail = lambda: None
    settings = mailing(server.port, timeout="5s")
    assert send_due(store, settings, clock) is None, "the dead one's lease still holds"
    next_try = deliveries(store)[-1].next_try
    assert next_try is not None
    clock.at = to_datetime(next_try)
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "sent"}
    assert done is not None
    assert done.notes == (f"digest 2026-W48 to {ME}: how 1 of 2 attempts ended is unknown; the same mail was sent again",)
    assert server.taken[0][1] == server.taken[1][1]


def test_a_store_that_fails_after_sending_leads_to_the_same_mail_again(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mailing(server.port)
    put = store.put
    server.on_mail = lambda: monkeypatch.setattr(store, "put", _full_disk)
    with pytest.raises(OSError, match="disk"):
        send_due(store, settings, clock)
    server.on_mail = lambda: None
    monkeypatch.setattr(store, "put", put)
    next_try = deliveries(store)[-1].next_try
    assert next_try is not None
    clock.at = to_datetime(next_try)
    assert outcomes(send_due(store, settings, clock)) == {ME: "sent"}
    assert server.taken[0][1] == server.taken[1][1]


def _full_disk(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_two_processes_at_once_send_one_mail(tmp_path: Path, store: Store, server: Postman, clock: Any) -> None:
    both = [child(tmp_path / "store.db", server.port, clock()) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said = sorted(process.communicate("go\n", timeout=60)[0].strip() for process in both)
    assert said == ["None", "digest 2026-W48: sent to 1 of 1"]
    assert len(server.taken) == 1
    assert deliveries(store)[-1].sent


def test_ten_threads_at_once_send_one_mail(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    settings = mailing(server.port, recipients=[ME, YOU])
    threads = [threading.Thread(target=send_due, args=(store, settings, clock)) for _ in range(10)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [recipients for recipients, _ in server.taken] == [(ME, YOU)]


def test_while_one_composes_no_other_begins(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mailing(server.port)
    others: list[Delivery | None] = []

    def meanwhile(*_: object) -> object:
        others.append(send_due(store, settings, clock))
        return QUIET

    monkeypatch.setattr("harvester.digest.compose.for_week", meanwhile)
    assert outcomes(send_due(store, settings, clock)) == {ME: "sent"}
    assert others == [None]
    assert len(server.taken) == 1


def test_one_that_was_only_a_moment_slower_sends_nothing(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mailing(server.port)
    acquire = store.acquire

    def after_the_other(name: str, owner: str, seconds: float) -> object:
        monkeypatch.setattr(store, "acquire", acquire)
        assert outcomes(send_due(store, settings, clock)) == {ME: "sent"}
        return acquire(name, owner, seconds)

    monkeypatch.setattr(store, "acquire", after_the_other)
    assert send_due(store, settings, clock) is None
    assert len(server.taken) == 1


def test_composing_so_slowly_that_another_took_over_sends_nothing(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = mailing(server.port)

    def slowly(*_: object) -> object:
        clock.advance(seconds=send.COMPOSE_SECONDS + 1)
        assert store.acquire("digest", "another daemon", 60) is not None
        return QUIET

    monkeypatch.setattr("harvester.digest.compose.for_week", slowly)
    assert send_due(store, settings, clock) is None
    assert server.taken == []
    assert store.holder("digest") == "another daemon"


# -- connections ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for localhost; return a server's context and the file that trusts it."""
    folder = tmp_path_factory.mktemp("certificate")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_mail_goes_over_tls_with_a_login(
    mailing: Callable[..., Settings], certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch,
    security: str, clock: Any,
) -> None:
    context, trusted = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)
    with postman(login=True, **{security: context}) as server:
        settings = mailing(server.port, security=security, username=USER, password_env="MAIL_PASSWORD")
        assert send_test(settings, clock).sent
    (_, content), = server.taken
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert mail["Subject"] == "harvester test: mail arrives"
    assert "every Monday at 08:00, Europe/Berlin" in " ".join(mail.get_body(("plain",)).get_content().split())  # type: ignore[union-attr]


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_a_certificate_nobody_vouches_for_is_refused(
    mailing: Callable[..., Settings], certificate: tuple[ssl.SSLContext, Path], security: str, clock: Any
) -> None:
    with postman(**{security: certificate[0]}) as server, pytest.raises(DeliveryError) as caught:
        send_test(mailing(server.port, security=security), clock)
    assert "its certificate is not trusted" in caught.value.cause
    assert "SSL_CERT_FILE" in caught.value.hint
    assert server.taken == []


def test_starttls_is_never_skipped_where_it_is_not_offered(
    mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    with pytest.raises(DeliveryError, match="does not offer STARTTLS"):
        send_test(mailing(server.port, security="starttls"), clock)
    assert server.taken == []


def test_tls_to_a_plain_port_says_which_port_wants_what(
    mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    with pytest.raises(DeliveryError, match=r"TLS failed .*port 465"):
        send_test(mailing(server.port, security="tls"), clock)


@pytest.mark.parametrize("wrong", ["battery staple 4711", "x"])
def test_a_refused_login_never_shows_the_password_even_if_the_server_repeats_it(
    store: Store, mailing: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, clock: Any, wrong: str
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", wrong)
    with postman(login=True) as server:
        settings = mailing(server.port, username=USER, password_env="MAIL_PASSWORD")
        with pytest.raises(DeliveryError) as caught:
            send_test(settings, clock)
        assert str(caught.value) == (
            f"log in to 127.0.0.1:{server.port}: the login was refused (535) (are username and password right?)"
        )
        done = send_due(store, settings, clock)
    assert done is not None
    assert done.error == str(caught.value)
    assert "4711" not in repr(done)


def test_a_password_that_cannot_be_had_is_recorded_and_tried_again(
    store: Store, mailing: Callable[..., Settings], server: Postman, monkeypatch: pytest.MonkeyPatch, clock: Any
) -> None:
    monkeypatch.delenv("MAIL_PASSWORD", raising=False)
    settings = mailing(server.port, username=USER, password_env="MAIL_PASSWORD")
    with pytest.raises(ConfigError, match="MAIL_PASSWORD is not set"):
        send_test(settings, clock)
    done = send_due(store, settings, clock)
    assert outcomes(done) == {ME: "waiting"}
    assert done is not None
    assert (done.next_try, "MAIL_PASSWORD is not set" in done.error) == (NOW + MINUTE, True)


def test_a_username_without_a_password_is_said(mailing: Callable[..., Settings], server: Postman, clock: Any) -> None:
    with pytest.raises(DeliveryError, match="a username is set, but no password"):
        send_test(mailing(server.port, username=USER), clock)


def test_nobody_listening_is_said_with_a_hint(mailing: Callable[..., Settings], clock: Any) -> None:
    with pytest.raises(DeliveryError, match=r"connection refused .are mail.host and mail.port right"):
        send_test(mailing(free_port()), clock)


def test_a_host_that_does_not_exist_is_said(mailing: Callable[..., Settings], clock: Any) -> None:
    with pytest.raises(DeliveryError, match="there is no such host"):
        send_test(mailing(25, host="mail.invalid"), clock)


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(mailing: Callable[..., Settings], clock: Any) -> None:
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DeliveryError, match=r"no answer within 0\.5 s"):
            send_test(mailing(silent.getsockname()[1], timeout="0.5s"), clock)


def test_a_test_mail_that_one_recipient_refuses_names_them(
    mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    server.refuse[YOU] = "550 5.1.1 \x1b[2Jno such user"
    with pytest.raises(DeliveryError, match=f"send test mail to {YOU}") as caught:
        send_test(mailing(server.port, recipients=[ME, YOU]), clock)
    assert "\x1b" not in str(caught.value)


def test_an_address_that_is_none_is_recorded_not_raised_each_minute(
    store: Store, mailing: Callable[..., Settings], server: Postman, clock: Any
) -> None:
    settings = mailing(server.port, recipients=["<a>,b@example.com"])
    done = send_due(store, settings, clock)
    assert done is not None
    assert "is not an address a mail can be sent to" in done.error
    assert send_due(store, settings, clock) is None
    assert server.taken == []
