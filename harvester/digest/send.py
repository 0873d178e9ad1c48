"""
Sending the digest: once a week to each recipient, whatever happens in between.

A recipient is bound to one mail a week before anything is sent, and the bytes of that mail are kept. An attempt is
recorded before it begins and its outcome after it ended. Where an outcome is missing or was lost with the connection,
the same bytes are sent again, with the same Message-ID, and the record says so. Nothing here is loaded by the daemon's
minutely question whether something is due.
"""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harvester import figures
from harvester.digest.weeks import due_week, week_bounds, week_of
from harvester.errors import ConfigError, DeliveryError, StoreError
from harvester.readings import DAY, HOUR, MINUTE, SECOND, to_milliseconds

if TYPE_CHECKING:
    import smtplib

    from harvester.settings import MailSection, Settings
    from harvester.store import Lease, Store

FIRST_RETRY = MINUTE
LONGEST_RETRY = 4 * HOUR
"""A failed attempt is made again after a minute, then twice as long each time up to this, until the week ends."""

REFUSED_RETRY = DAY
"""Where every recipient left was refused for good, a person has to mend something first."""

COMPOSE_SECONDS = 900.0
"""How long composing may take before another daemon takes over."""


class Outcome(StrEnum):
    """What is known of one recipient's mail."""

    WAITING = "waiting"  # not sent, and known not to be
    SENDING = "sending"  # an attempt began; if its process is gone, nobody knows how it ended
    UNKNOWN = "unknown"  # it may have arrived: the connection was lost after the mail was handed over
    REFUSED = "refused"  # the server will not take it for this recipient
    SENT = "sent"  # the server took it


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    One recipient's mail of one week.

    Attributes:
        recipient: The address.
        mail: SHA-256 of the mail's bytes.
        message_id: Its Message-ID.
        outcome: See ``Outcome``.
        at: When that became known, milliseconds UTC, or None before the first attempt.
        error: What went wrong last, or ``""``.
        doubts: Attempts that may have delivered it or not, after each of which the same mail is sent again.
    """

    recipient: str
    mail: str
    message_id: str
    outcome: Outcome = Outcome.WAITING
    at: int | None = None
    error: str = ""
    doubts: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """
    The sending of one week's digest.

    Attributes:
        week: ``2026-W48``.
        receipts: One for each recipient.
        attempts: How often it was tried.
        next_try: When it is tried again, milliseconds UTC, or None where it is not.
        until: The week's end, after which nothing is tried any more, milliseconds UTC.
        error: Why the last attempt did not reach everybody, or ``""``.
    """

    week: str
    receipts: tuple[Receipt, ...]
    attempts: int
    next_try: int | None
    until: int
    error: str = ""

    def __str__(self) -> str:
        there = sum(one.outcome is Outcome.SENT for one in self.receipts)
        said = f"digest {self.week}: sent to {there} of {len(self.receipts)}"
        return f"{said}; {self.error}" if self.error else said

    @property
    def sent(self) -> bool:
        """Whether every recipient has it."""
        return bool(self.receipts) and all(one.outcome is Outcome.SENT for one in self.receipts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of mails that may be there twice."""
        return tuple(
            f"digest {self.week} to {one.recipient}: how {one.doubts} of {self.attempts} attempts ended is unknown; "
            + ("the same mail was sent again" if one.outcome is Outcome.SENT else "the same mail will be sent again")
            for one in self.receipts
            if one.doubts
        )

    def as_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Delivery:
        """Return the delivery whose ``as_json`` is given."""
        receipts = tuple(Receipt(**{**one, "outcome": Outcome(one["outcome"])}) for one in data["receipts"])
        return cls(**{**data, "receipts": receipts})


def deliveries(store: Store) -> list[Delivery]:
    """Return the delivery of every week, the oldest first."""
    return [Delivery.from_json(data) for data in store.list("delivery")]


def send_due(store: Store, settings: Settings, now: Callable[[], datetime]) -> Delivery | None:
    """
    Send the current week's digest to whoever does not have it, if it is due; return what became of it.

    None where no mail is configured, everybody has it, the next try is still ahead, the week is over, or another
    process is at it. An attempt that fails is recorded in the delivery returned, not raised.

    Raises:
        StoreError: if the store fails; what was sent by then is sent again, and said.
    """
    mail = settings.mail
    if mail is None:
        return None
    week = due_week(now(), settings.digest)
    if not _is_due(store, settings, mail, week, now()):
        return None
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4()}"
    lease = store.acquire("digest", owner, COMPOSE_SECONDS)
    if lease is None:
        return None
    try:
        # Another process may have been quicker since.
        return _send(store, settings, mail, week, lease, now) if _is_due(store, settings, mail, week, now()) else None
    finally:
        store.release(lease)


def send_test(settings: Settings, now: Callable[[], datetime]) -> Delivery:
    """
    Send a mail that says it is a test to every recipient and return what became of it; nothing is stored.

    Raises:
        DeliveryError: if no mail is configured or it cannot be sent to everybody.
        ConfigError: if the password cannot be had.
    """
    from harvester.digest.model import Digest
    from harvester.digest.render import message

    mail = settings.mail
    if mail is None:
        raise DeliveryError("send", "test mail", "no mail is configured", hint="add [mail] to the settings file")
    at = to_milliseconds(now())
    week = week_of(now(), settings.digest.zoneinfo)
    hour = f"{settings.digest.weekday.capitalize()} at {settings.digest.at:%H:%M}, {settings.digest.zone}"
    digest = Digest(
        week=week,
        zone=settings.digest.zone,
        since=at,
        generated=at,
        subject="harvester test: mail arrives",
        summary=f"This is a test, sent by hand. The digest itself comes every {hour}.",
    )
    letter = message(digest, mail.sender, mail.recipients, identity=f"test-{at}")
    receipts = tuple(Receipt(one, "", str(letter["Message-ID"])) for one in mail.recipients)
    with _connected(mail) as server:
        done = _hand_over(server, mail, letter.as_bytes(), receipts, at)
    failed = [one for one in done if one.outcome is not Outcome.SENT]
    if failed:
        names = ", ".join(one.recipient for one in failed)
        raise DeliveryError("send test mail to", names, failed[0].error, hint="see [mail] in the settings file")
    return Delivery(week, done, 1, None, at)


# ---------------------------------------------------------------------------------------------------------------------
# One week's mail
# ---------------------------------------------------------------------------------------------------------------------


def _is_due(store: Store, settings: Settings, mail: MailSection, week: str, now: datetime) -> bool:
    at = to_milliseconds(now)
    if at >= week_bounds(week, settings.digest.zoneinfo).end:
        return False
    kept = _kept(store, week)
    if kept is None:
        return True
    if kept.next_try is not None:
        return kept.next_try <= at
    known = {_key(one.recipient) for one in kept.receipts}
    return any(_key(one) not in known for one in mail.recipients)


def _kept(store: Store, week: str) -> Delivery | None:
    data = store.get("delivery", week)
    return None if data is None else Delivery.from_json(data)


def _key(recipient: str) -> str:
    """Return what makes a recipient one: nobody has two mailboxes that differ in case."""
    return recipient.casefold()


def _send(
    store: Store, settings: Settings, mail: MailSection, week: str, lease: Lease, now: Callable[[], datetime]
) -> Delivery | None:
    kept = _kept(store, week) or Delivery(week, (), 0, None, week_bounds(week, settings.digest.zoneinfo).end)
    at = to_milliseconds(now())
    # Longer than the slowest conversation, so that nobody else begins while this one still speaks.
    seconds = mail.timeout.total_seconds() * (20 + 3 * len(mail.recipients)) + 60
    delivery = replace(kept, attempts=kept.attempts + 1, next_try=at + round(seconds * SECOND), error="")
    error = ""
    try:
        delivery = replace(delivery, receipts=tuple(_begun(_bound(store, settings, mail, kept, now), at)))
        if not store.renew(lease, seconds):  # composing took so long that another process took over
            return None
        store.put("delivery", week, delivery.as_json())
        with _connected(mail) as server:
            begun = [one for one in delivery.receipts if one.outcome is Outcome.SENDING]
            for letter in dict.fromkeys(one.mail for one in begun):
                mine = [one for one in begun if one.mail == letter]
                content = str(_letter(store, letter)["content"]).encode("ascii")
                done = _hand_over(server, mail, content, mine, to_milliseconds(now()))
                delivery = _with(delivery, done)
                store.put("delivery", week, delivery.as_json())  # before anything else can go wrong
    except (DeliveryError, ConfigError) as e:
        error = str(e)
    delivery = _ended(delivery, error, to_milliseconds(now()))
    store.put("delivery", week, delivery.as_json())
    return delivery


def _bound(
    store: Store, settings: Settings, mail: MailSection, kept: Delivery, now: Callable[[], datetime]
) -> list[Receipt]:
    """Return a receipt for every configured recipient, binding the new ones to one mail, once and for all."""
    from harvester.digest.compose import for_week
    from harvester.digest.render import message

    wanted = {_key(one): one for one in mail.recipients}
    known = {_key(one.recipient): one for one in kept.receipts}
    # Whoever is no longer a recipient is forgotten, unless the mail is gone.
    receipts = [one for key, one in known.items() if key in wanted or one.outcome is Outcome.SENT]
    new = [one for key, one in wanted.items() if key not in known]
    if new:
        letter = message(for_week(store, settings, now()), mail.sender, new)
        content = letter.as_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if store.get("mail", digest) is None:
            store.put("mail", digest, {"content": content.decode("ascii"), "message_id": str(letter["Message-ID"])})
        for one in new:
            bound = store.put_once("mail-to", f"{kept.week} {_key(one)}", {"mail": digest})["mail"]
            receipts.append(Receipt(one, bound, str(_letter(store, bound)["message_id"])))
    return receipts


def _letter(store: Store, digest: str) -> dict[str, Any]:
    data = store.get("mail", digest)
    if data is None:
        raise StoreError("read mail", digest[:12], "is not in this store", hint="restore a backup")
    return data


def _begun(receipts: Sequence[Receipt], at: int) -> Iterator[Receipt]:
    for one in receipts:
        if one.outcome is Outcome.SENT:
            yield one
        else:
            interrupted = one.outcome is Outcome.SENDING  # by whoever recorded that attempt and not its end
            yield replace(one, outcome=Outcome.SENDING, at=at, doubts=one.doubts + interrupted)


def _with(delivery: Delivery, done: Sequence[Receipt]) -> Delivery:
    new = {one.recipient: one for one in done}
    return replace(delivery, receipts=tuple(new.get(one.recipient, one) for one in delivery.receipts))


def _ended(delivery: Delivery, error: str, at: int) -> Delivery:
    """Return the delivery after an attempt; whatever was not handed over is waiting again."""
    receipts = tuple(
        replace(one, outcome=Outcome.UNKNOWN if one.doubts else Outcome.WAITING, at=at, error=error)
        if one.outcome is Outcome.SENDING
        else one
        for one in delivery.receipts
    )
    left = [one for one in receipts if one.outcome is not Outcome.SENT]
    if not left and not error:
        return replace(delivery, receipts=receipts, next_try=None, error="")
    refused = bool(left) and all(one.outcome is Outcome.REFUSED for one in left)
    next_try = at + (REFUSED_RETRY if refused else _pause(delivery.attempts - 1))
    return replace(
        delivery,
        receipts=receipts,
        next_try=next_try if next_try < delivery.until else None,
        error=error or next(one.error for one in left),
    )


def _pause(attempts: int) -> int:
    return min(FIRST_RETRY << min(attempts, 20), LONGEST_RETRY)


# ---------------------------------------------------------------------------------------------------------------------
# SMTP
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _connected(mail: MailSection) -> Iterator[smtplib.SMTP]:
    """
    Give a connection that is encrypted and logged in as the settings say; every step has the configured timeout.

    Raises:
        DeliveryError: naming the step that failed.
        ConfigError: if the password cannot be had.
    """
    import smtplib
    import ssl

    password = mail.password() if mail.username else None
    if mail.username and password is None:
        raise DeliveryError(
            "log in to", _target(mail), "a username is set, but no password", hint="set password_env or password_file"
        )
    server: smtplib.SMTP | None = None
    step = "connect to"
    seconds = mail.timeout.total_seconds()
    try:
        if mail.security == "tls":
            server = smtplib.SMTP_SSL(mail.host, mail.port, timeout=seconds, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(mail.host, mail.port, timeout=seconds)
        if mail.security == "starttls":
            step = "start TLS with"
            server.starttls(context=ssl.create_default_context())
        if mail.username and password is not None:
            step = "log in to"
            server.login(mail.username, password.get_secret_value())
    except (OSError, smtplib.SMTPException) as e:  # some of smtplib's errors are no OSError in later versions
        if server is not None:
            server.close()
        raise _explained(e, step, mail) from e
    try:
        yield server
    finally:
        try:
            server.quit()
        except (OSError, smtplib.SMTPException):  # all that mattered was answered before
            server.close()


def _hand_over(
    server: smtplib.SMTP, mail: MailSection, content: bytes, receipts: Sequence[Receipt], at: int
) -> tuple[Receipt, ...]:
    """
    Hand one mail over for its recipients and return what is known of each afterwards; never raises.

    From the moment the content is on its way until the server's answer nobody knows whether it was taken.
    """
    import smtplib

    from harvester.digest.render import address

    done: dict[str, Receipt] = {}
    taken: list[Receipt] = []

    def note(one: Receipt, outcome: Outcome, error: str = "") -> None:
        unsure = outcome is Outcome.WAITING and one.doubts
        doubts = one.doubts + (outcome is Outcome.UNKNOWN)
        known = Outcome.UNKNOWN if unsure else outcome
        done[one.recipient] = replace(one, outcome=known, at=at, error=error, doubts=doubts)

    try:
        server.ehlo_or_helo_if_needed()
        code, answer = server.mail(address(mail.sender).addr_spec)
        if code != _DONE:
            error = f"the sender was refused: {_answer(code, answer)}"
            for one in receipts:
                note(one, _verdict(code), error)
        else:
            for one in receipts:
                code, answer = server.rcpt(address(one.recipient).addr_spec)
                if code in _ACCEPTED:
                    taken.append(one)
                else:
                    note(one, _verdict(code), f"the recipient was refused: {_answer(code, answer)}")
        if taken:
            code, answer = server.data(content)
            for one in taken:
                refusal = "" if code == _DONE else f"the mail was refused: {_answer(code, answer)}"
                note(one, Outcome.SENT if code == _DONE else _verdict(code), refusal)
        else:
            server.rset()
    except smtplib.SMTPDataError as e:  # refused before the content was on its way
        for one in taken:
            note(one, _verdict(e.smtp_code), f"the mail was refused: {_answer(e.smtp_code, e.smtp_error)}")
    except (OSError, smtplib.SMTPException, DeliveryError) as e:
        error = e.cause if isinstance(e, DeliveryError) else _explained(e, "send to", mail).cause
        for one in receipts:
            if one.recipient not in done:
                note(one, Outcome.UNKNOWN if one in taken else Outcome.WAITING, error)
    return tuple(done[one.recipient] for one in receipts)


_DONE = 250
_ACCEPTED = (250, 251)
_PERMANENT = 500


def _verdict(code: int) -> Outcome:
    return Outcome.REFUSED if code >= _PERMANENT else Outcome.WAITING


def _answer(code: int, text: bytes | str) -> str:
    said = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return f"{code} {figures.plain(said)}".strip()


def _target(mail: MailSection) -> str:
    return f"{mail.host}:{mail.port}"


def _explained(error: Exception, step: str, mail: MailSection) -> DeliveryError:
    """Return what a failure means and what would mend it; what a server says about a login is left out."""
    import smtplib
    import ssl

    ports = 'port 465 usually wants security = "tls", port 587 "starttls"'
    retry = True
    hint = ""
    if isinstance(error, ssl.SSLCertVerificationError):
        cause, retry = f"its certificate is not trusted ({error.verify_message})", False
        hint = "is mail.host the name in it? a private authority is trusted through $SSL_CERT_FILE"
    elif isinstance(error, ssl.SSLError):
        cause, hint = f"TLS failed ({error.reason or 'no reason given'})", ports
    elif isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):  # smtplib wraps some
        cause, hint = f"no answer within {mail.timeout.total_seconds():g} s", f"is it reachable? {ports}"
    elif isinstance(error, socket.gaierror):
        cause, hint = "there is no such host", "is mail.host right, and is this machine online?"
    elif isinstance(error, ConnectionRefusedError):
        cause, hint = "connection refused", "are mail.host and mail.port right, and does the server run?"
    elif isinstance(error, smtplib.SMTPAuthenticationError):
        cause, hint, retry = f"the login was refused ({error.smtp_code})", "are username and password right?", False
    elif isinstance(error, smtplib.SMTPNotSupportedError):
        what = "STARTTLS" if step == "start TLS with" else "a login this way"
        cause, hint, retry = f"it does not offer {what}", ports, False
    elif isinstance(error, smtplib.SMTPServerDisconnected):
        cause, hint = "it closed the connection", ports if step == "connect to" else ""
    elif step == "log in to":
        cause = "the login failed"
    elif isinstance(error, smtplib.SMTPResponseException):
        cause = f"it answered {_answer(error.smtp_code, error.smtp_error)}"
    else:
        cause = (error.strerror if isinstance(error, OSError) else "") or type(error).__name__
    return DeliveryError(step, _target(mail), cause, hint=hint, retry=retry)
