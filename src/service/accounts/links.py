"""Tokens in mailed links: signed, short-lived, and good for one use."""

from dataclasses import dataclass
from uuid import UUID

from itsdangerous import BadSignature, URLSafeTimedSerializer

from service.errors import ServiceError
from service.settings import Settings


@dataclass(frozen=True)
class Purpose:
    """What a link is good for: a token made for one purpose is void for another."""

    name: str
    max_age_seconds: int


CONFIRM = Purpose("confirm", 24 * 3600)
RESET = Purpose("reset", 3600)


class LinkInvalid(ServiceError):
    status = 400

    def __init__(self) -> None:
        super().__init__("The link is not valid, has expired or was already used.")


def _serializer(settings: Settings, purpose: Purpose) -> URLSafeTimedSerializer:
    # The last key signs; all of them verify, so that keys can be rotated.
    keys = [
        *settings.secret_key_fallbacks.get_secret_value(),
        settings.secret_key.get_secret_value(),
    ]
    return URLSafeTimedSerializer(keys, salt=f"service.accounts.{purpose.name}")


def make(settings: Settings, purpose: Purpose, account_id: UUID, stamp: str) -> str:
    """A token for one account that is void once the account's stamp changes."""
    return str(_serializer(settings, purpose).dumps([account_id.hex, stamp]))


def read(settings: Settings, purpose: Purpose, token: str) -> tuple[UUID, str]:
    """(account id, stamp) of a token. Raises LinkInvalid."""
    try:
        serializer = _serializer(settings, purpose)
        account_id, stamp = serializer.loads(token, max_age=purpose.max_age_seconds)
        return UUID(account_id), str(stamp)
    except (BadSignature, ValueError, TypeError):
        raise LinkInvalid from None
