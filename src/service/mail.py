"""Mail by SMTP; without a server it is printed to the log, for the developer at the terminal."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

import aiosmtplib

from service import tracing
from service.fields import mail_address
from service.mail_html import html
from service.settings import Settings

log = logging.getLogger(__name__)

IMPLICIT_TLS_PORT = 465
GOODBYE_SECONDS = 1.0


class MailRefused(Exception):
    """The server will never take this message (a 5xx answer)."""


class MailDelayed(Exception):
    """The message could not be handed over now; trying again later makes sense."""


class _Conversation(aiosmtplib.SMTP):
    """`seconds` for all before the message, and again for the server to take that: with a time
    for each answer alone a slow server would be talked to for as long as it has answers."""

    def __init__(self, seconds: float, **more: Any) -> None:
        super().__init__(timeout=seconds, **more)
        self.seconds = seconds

    async def hand_over(self, message: EmailMessage) -> None:
        async with asyncio.timeout(self.seconds) as self.deadline:
            await self.connect()
            await self.send_message(message)

    async def data(self, *arguments: Any, **more: Any) -> Any:
        # Who gives up from here on does not know whether the message was taken.
        self.deadline.reschedule(asyncio.get_running_loop().time() + self.seconds)
        return await super().data(*arguments, **more)


@dataclass
class Mailer:
    """Hands messages over, one connection each: mail is rare and never sent inside a request.

    Where the server let one wait in vain, one at a time is tried until it answers, and the others
    are delayed at once: else they would keep a worker from all other jobs.
    """

    settings: Settings
    taken: set[str] = field(default_factory=set)
    """Keys of messages that a server took and nobody could record yet"""
    _silent: bool = False
    _under_way: int = 0

    def compose(self, key: str, to: str, subject: str, text: str) -> EmailMessage:
        """A message whose id is derived from its key, so that a repeated one can be recognised.

        Raises MailRefused where the recipient's address is none.
        """
        message = EmailMessage()
        sender = message["From"] = self.settings.mail_from
        message["To"] = _recipient(to)
        # A title may hold a line break, which would end the header.
        title = message["Subject"] = " ".join(subject.split())
        message["Date"] = formatdate(localtime=False)
        domain = sender.rpartition("@")[2]
        message["Message-ID"] = f"<{key}@{domain}>" if key else make_msgid(domain=domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation replies
        message.set_content(text)
        message.add_alternative(html(title, text), subtype="html")
        return message

    async def send(self, message: EmailMessage) -> None:
        """Hand a message to the server. Raises MailRefused or MailDelayed."""
        if not self.settings.mail_server:
            _print(message)
            return
        if self._silent and self._under_way:
            raise MailDelayed("the server let another message wait")
        self._under_way += 1
        try:
            await self._hand_over(message)
        finally:
            self._under_way -= 1

    async def _hand_over(self, message: EmailMessage) -> None:
        smtp = self._connection()
        try:
            with tracing.mail(self.settings.mail_server, self.settings.mail_port):
                await smtp.hand_over(message)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            self._silent = isinstance(error, TimeoutError)
            if _is_permanent(error):
                raise MailRefused(_reason(error)) from error
            raise MailDelayed(_reason(error)) from error
        else:
            self._silent = False
            # The server has taken the message: a goodbye that fails must not send it again.
            with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
                await smtp.quit(timeout=GOODBYE_SECONDS)
        finally:
            smtp.close()

    def _connection(self) -> _Conversation:
        settings = self.settings
        implicit = settings.mail_port == IMPLICIT_TLS_PORT
        return _Conversation(
            settings.mail_timeout_seconds,
            hostname=settings.mail_server,
            port=settings.mail_port,
            use_tls=implicit,
            start_tls=settings.mail_use_tls and not implicit,
            username=settings.mail_username or None,
            password=settings.mail_password.get_secret_value() or None,
        )

    async def check(self) -> None:
        """Raises where the server does not greet. No login: that is `service check --connect`."""
        settings = self.settings
        smtp = aiosmtplib.SMTP(
            hostname=settings.mail_server,
            port=settings.mail_port,
            use_tls=settings.mail_port == IMPLICIT_TLS_PORT,
            start_tls=False,
            timeout=settings.health_mail_timeout_seconds,
        )
        try:
            await smtp.connect()
            await smtp.quit()
        finally:
            smtp.close()

    async def check_login(self) -> None:
        """Raises where the server refuses TLS or the login."""
        async with self._connection():
            pass


def _print(message: EmailMessage) -> None:
    body = message.get_body(("plain",))
    text = body.get_content().rstrip() if body else ""
    extra = {"to": message["To"], "text": f"{message['Subject']}\n\n{text}\n"}
    log.warning("mail_printed", extra=extra)


def _codes(error: BaseException) -> list[int]:
    # 451 and 550 for a recipient are the same exception: only the codes tell them apart.
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return [recipient.code for recipient in error.recipients]
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return [error.code]
    return []


def _is_permanent(error: BaseException) -> bool:
    """Whether the fault is the message's. A server that refuses the connection, the login or the
    sender is the operator's to mend, and the message is kept until then."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPDataError):
        return all(500 <= code < 600 for code in _codes(error))
    return isinstance(error, aiosmtplib.SMTPNotSupported)


def _recipient(text: str) -> str:
    """Raises MailRefused."""
    try:
        return mail_address(text)
    except ValueError as error:
        raise MailRefused("not an address") from error


def _reason(error: BaseException) -> str:
    """What the server answered, as numbers: its words may repeat an address. Where it did not
    answer, the words for that."""
    if codes := ", ".join(map(str, _codes(error))):
        return f"{type(error).__name__} {codes}"
    first_line, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {first_line}".rstrip(": ")
