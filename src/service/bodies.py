"""How much a request may bring, how slowly it may come, and in which characters."""

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from service.exchange import Exchange
from service.turns import Busy

SMALL_BODY_BYTES = 64 * 1024
FORM_OVERHEAD_BYTES = 64 * 1024  # a file's multipart framing and the fields beside it

OTHER_CHARACTERS = "The body has to be in UTF-8."
_UTF_8 = frozenset((b"utf-8", b"utf8", b"us-ascii"))


class BodyTooLarge(HTTPException):
    """An HTTPException, as FastAPI makes a 400 of anything else raised while it reads a body."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, too_large(limit_bytes))


def too_large(limit_bytes: int) -> str:
    return f"The request brings more than {limit_bytes} bytes."


def is_utf_8(content_type: bytes | None) -> bool:
    """Whether a body says so, or nothing. A form's reader would take any codec that Python has,
    some of which are slow, and Python remembers for ever each name under which it found none. It
    reads the header by the same function."""
    if content_type is None or b"charset" not in content_type.lower():
        return True
    _, parameters = parse_options_header(content_type)
    return parameters.get(b"charset", b"utf-8").lower() in _UTF_8


def waiting(receive: Receive, exchange: Exchange) -> Receive:
    """For a body, which its client may send as slowly as it likes: that takes no turn."""

    async def wait() -> Message:
        turns, exchange.turns = exchange.turns, None
        if turns is None:
            return await receive()
        turns.give_back()
        message = await receive()
        try:
            await turns.take_again()
        except Busy as error:  # see BodyTooLarge
            raise HTTPException(error.status, error.detail, error.headers) from None
        exchange.turns = turns
        return message

    return wait


def counted(receive: Receive, limit_bytes: int, too_much: BodyTooLarge) -> Receive:
    """For a body that comes without a length. Raises `too_much` past the limit."""
    received = 0

    async def count() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            raise too_much
        return message

    return count
