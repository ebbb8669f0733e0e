"""Conditional requests (RFC 9110 section 13): who has the content already is not sent it again."""

import re

from starlette.datastructures import Headers

_TAGS = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def not_modified(asked: Headers, etag: str) -> bool:
    """Whether the client has what `etag` names. If-None-Match compares weakly: W/ is ignored."""
    field = ",".join(asked.getlist("if-none-match"))
    return field.strip() == "*" or etag in _TAGS.findall(field)
