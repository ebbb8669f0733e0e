"""A mail server that prints what it is given, for people to read.

usage: python mail.py [USER PASSWORD]   with which it wants a login
"""

import signal
import sys
from email import message_from_bytes, policy
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword


class Printer:
    """Handler of aiosmtpd."""

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        message = message_from_bytes(envelope.original_content, policy=policy.default)
        body = message.get_body(("plain",))
        text = body.get_content().replace("\r\n", "\n").strip() if body else "(no text)"
        print(f"----- mail to {message['To']}: {message['Subject']}", text, "-----", sep="\n")
        sys.stdout.flush()
        return "250 OK"


def authenticate(
    _s: Any, _session: Any, _e: Any, _mechanism: str, data: LoginPassword
) -> AuthResult:
    right = [data.login.decode(), data.password.decode()] == sys.argv[1:3]
    return AuthResult(success=right, handled=False)


if __name__ == "__main__":
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # before there are threads
    login = {"authenticator": authenticate, "auth_required": True, "auth_require_tls": False}
    options = login if sys.argv[1:] else {}
    Controller(Printer(), hostname="0.0.0.0", port=1025, **options).start()
    signal.sigwait(stops)
