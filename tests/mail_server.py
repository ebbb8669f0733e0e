"""A real SMTP server in a thread, which keeps what it is given and answers as it is told."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import time
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from servers import free_port


def make_certificate(directory: Path, name: str = "localhost") -> tuple[Path, Path]:
    """(certificate, key) for a name and 127.0.0.1, signed by itself."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key)]
    command += ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class MailServer:
    """`answers` maps an SMTP command to what is said instead of accepting it."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str = "",
        password: str = "",
        **options: Any,
    ) -> None:
        self.port = port or free_port()
        self.user, self.password = user, password
        self.answers: dict[str, str] = {}
        self.contents: list[bytes] = []
        self.taken_at: list[float] = []
        self.recipients: list[str] = []
        self.logins = 0
        self.encrypted: list[bool] = []
        options = {"enable_SMTPUTF8": True, **options}
        if user:
            options |= {"authenticator": self._authenticate, "auth_required": True}
        self.controller = Controller(
            _Handler(self), hostname=host, port=self.port, ready_timeout=30, **options
        )

    @property
    def messages(self) -> list[EmailMessage]:
        parsed = [message_from_bytes(content, policy=policy.SMTPUTF8) for content in self.contents]
        return [message for message in parsed if isinstance(message, EmailMessage)]

    def _authenticate(self, _s: Any, session: Any, _e: Any, _mechanism: str, data: Any) -> Any:
        self.logins += 1
        assert isinstance(data, LoginPassword)
        right = (data.login, data.password) == (self.user.encode(), self.password.encode())
        return AuthResult(success=right, handled=False)


class _Handler:
    """What aiosmtpd asks of one. Not the server itself: all members of a handler are read at each
    connection, and its messages would be parsed."""

    def __init__(self, mail: MailServer) -> None:
        self.mail = mail

    async def handle_MAIL(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if answer := self.mail.answers.get("MAIL"):
            return answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_QUIT(self, server: Any, _session: Any, _envelope: Any) -> str:
        if "QUIT" in self.mail.answers:
            server.transport.abort()
        return "221 Bye"

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if answer := self.mail.answers.get("RCPT"):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        if answer := self.mail.answers.get("DATA"):
            return answer
        self.mail.taken_at.append(time.time())
        self.mail.recipients += envelope.rcpt_tos
        self.mail.encrypted.append(session.ssl is not None)
        self.mail.contents.append(envelope.original_content)  # last: tests wait for it
        return "250 OK"


@contextlib.contextmanager
def mail_server(**options: Any) -> Iterator[MailServer]:
    server = MailServer(**options)
    server.controller.start()
    try:
        yield server
    finally:
        server.controller.stop()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
