"""What may be seen of a URL that holds secrets."""

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit

MASK = "**********"
SECRET_PARAMETER = "pass|secret|token|key|credential|signature"


def split_url(text: str) -> SplitResult:
    """The parts of a URL. Raises ValueError where an unescaped character makes them ambiguous."""
    if re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("white space")
    parts = urlsplit(text)
    _ = parts.port  # raises ValueError
    # An unescaped @, / or # in a password moves part of it into the host, the path or the fragment.
    if parts.fragment or "@" in parts.path or "@" in parts.query or parts.netloc.count("@") > 1:
        raise ValueError("special characters that are not percent-encoded")
    if not parts.scheme or "://" not in text:
        raise ValueError("no scheme")
    return parts


def mask_url(text: str) -> str:
    """The URL without its password and its query's values; all of it masked where it is ambiguous.

    The user of a web server or a store is masked too: tokens are put there.
    """
    try:
        parts = split_url(text)
    except ValueError:
        return MASK if text else ""
    user, at, host = parts.netloc.rpartition("@")
    if at:
        password = ":***" if ":" in user else ""
        user = f"{parts.username}{password}" if _shows_user(parts) else "***"
    query = re.sub(r"(^|&)([^=&]*=)?[^&]+", r"\1\2***", parts.query)
    masked = f"{parts.scheme}://{user}{at}{host}{parts.path}"
    return masked + (f"?{query}" if query else "")


def url_password(text: str) -> str | None:
    """The password in a URL, as it is written there; also one in its query."""
    try:
        parts = split_url(text)
    except ValueError:
        return None
    return parts.password or dict(parse_qsl(parts.query)).get("password")


def url_secrets(text: str) -> list[str | None]:
    """What nobody may see of a URL: what is masked, but for query values that are no secret."""
    try:
        parts = split_url(text)
    except ValueError:
        return []
    query = parse_qsl(parts.query)
    hidden = [value for name, value in query if re.search(SECRET_PARAMETER, name, re.IGNORECASE)]
    return [*hidden, parts.password, None if _shows_user(parts) else parts.username]


def _shows_user(parts: SplitResult) -> bool:
    """A role of PostgreSQL is no secret; a user of Redis alone is a password without its colon."""
    redis_user = parts.scheme.startswith("redis") and bool(parts.password)
    return redis_user or parts.scheme.startswith("postgres")
