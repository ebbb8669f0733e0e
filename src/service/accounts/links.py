"""Tokens in mailed links: signed, short-lived, and good for one use."""

from uuid import UUID

from itsdangerous import BadSignature, URLSafeTimedSerializer

from service.errors import ServiceError
from service.settings import Settings

CONFIRM = "confirm"
MAX_AGE_SECONDS = 24 * 3600


class LinkInvalid(ServiceError):
    status = 400

    def __init__(self) -> None:
        super().__init__("The link is not valid, has expired or was already used.")


def _serializer(settings: Settings, purpose: str) -> URLSafeTimedSerializer:
    # The last key signs; all of them verify, so that keys can be rotated.
    keys = [
        *settings.secret_key_fallbacks.get_secret_value(),
        settings.secret_key.get_secret_value(),
    ]
    return URLSafeTimedSerializer(keys, salt=f"service.accounts.{purpose}")


def make(settings: Settings, purpose: str, account_id: UUID, stamp: str) -> str:
    """A token for one account that is void once the account's stamp changes."""
    return str(_serializer(settings, purpose).dumps([account_id.hex, stamp]))


def read(settings: Settings, purpose: str, token: str) -> tuple[UUID, str]:
    """(account id, stamp) of a token. Raises LinkInvalid."""
    try:
        account_id, stamp = _serializer(settings, purpose).loads(token, max_age=MAX_AGE_SECONDS)
        return UUID(account_id), str(stamp)
    except (BadSignature, ValueError, TypeError):
        raise LinkInvalid from None
