"""A real SMTP server on a free port, which may refuse, drop, dawdle, ask for a login or for TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "digester", "correct horse battery"


class _OnFreePort(Controller):
    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Postman:
    """
    What the server took, and how it behaves.

    Attributes:
        taken: (recipients, content) of every mail it was handed, the refused ones included.
        refuse: Answer to RCPT by recipient.
        answers: Answers to the next mails; ``"drop"`` closes the connection instead, "250 OK" when none is left.
        on_mail: Called with each mail before it is answered.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[tuple[str, ...], bytes]] = []
        self.refuse: dict[str, str] = {}
        self.answers: list[str] = []
        self.on_mail: Callable[[], None] = lambda: None
        self.port = 0

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.taken.append((tuple(envelope.rcpt_tos), bytes(envelope.original_content or b"")))
        self.on_mail()
        answer = self.answers.pop(0) if self.answers else "250 OK"
        if answer == "drop":
            assert server.transport is not None
            server.transport.abort()
        if answer == "dawdle":
            await asyncio.sleep(3)
        return answer


def _authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
    right = isinstance(given, LoginPassword) and (given.login, given.password) == (USER.encode(), PASSWORD.encode())
    # Some servers repeat what they were given; it must not end up in a message.
    return AuthResult(success=right, handled=False, message=None if right else f"535 5.7.8 not {given}")


@contextmanager
def postman(*, tls: ssl.SSLContext | None = None, starttls: ssl.SSLContext | None = None, login: bool = False) -> Iterator[Postman]:
    """Start a server, and stop it in the end."""
    handler = Postman()
    controller = _OnFreePort(
        handler, hostname="127.0.0.1", port=0, ssl_context=tls, tls_context=starttls, require_starttls=starttls is not None,
        authenticator=_authenticate, auth_required=login, auth_require_tls=False,
    )
    controller.start()
    handler.port = controller.port
    try:
        yield handler
    finally:
        controller.stop()
