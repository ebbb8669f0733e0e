"""Conditional requests (RFC 9110 section 13): who has the content already is not sent it again, and
who has an older one does not overwrite what is new."""

import hashlib
import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response

from service.errors import ServiceError

_TAGS = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
OWN = "private, no-cache"  # to be kept by its reader alone, and asked for again


class PreconditionFailed(ServiceError):
    status = 412

    def __init__(self) -> None:
        super().__init__("It has changed since: If-Match names another version.")


def etag_of(content: bytes) -> str:
    """A strong entity tag: that of other content is another one."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def not_modified(asked: Headers, etag: str) -> bool:
    """Whether the client has what `etag` names. If-None-Match compares weakly: W/ is ignored."""
    field = ",".join(asked.getlist("if-none-match"))
    return field.strip() == "*" or any(tag == etag for _, tag in _TAGS.findall(field))


def is_conditional(asked: Headers) -> bool:
    """Whether the client means one version and no other."""
    return "if-match" in asked and ",".join(asked.getlist("if-match")).strip() != "*"


def check_match(asked: Headers, etag: str) -> None:
    """Raises PreconditionFailed where If-Match names other versions only. It compares strongly: a
    weak tag never matches."""
    if not is_conditional(asked):
        return
    named = _TAGS.findall(",".join(asked.getlist("if-match")))
    if ("", etag) not in named:
        raise PreconditionFailed


def tagged(
    content: bytes,
    *,
    asked: Headers | None = None,
    caching: str = OWN,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """JSON under its entity tag; 304 where the client `asked` for another version than it has."""
    etag = etag_of(content)
    sent = {"ETag": etag, "Cache-Control": caching, **(headers or {})}
    if asked is not None and not_modified(asked, etag):
        return Response(status_code=304, headers=sent)
    return Response(content, headers=sent, media_type="application/json")
