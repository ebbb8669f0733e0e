"""Range requests (RFC 9110 section 14) on bytes that never change."""

import re

from starlette.datastructures import Headers

from service.errors import ServiceError

# A byte position of more digits is beyond any size, and int() refuses thousands of them.
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


class RangeNotSatisfiable(ServiceError):
    status = 416

    def __init__(self, size: int) -> None:
        super().__init__(f"The content has {size} bytes.")
        self.headers = {"Content-Range": f"bytes */{size}"}


def wanted_range(asked: Headers, etag: str, size: int) -> tuple[int, int] | None:
    """(start, end) of the range asked for, end excluded; None for the whole content.

    If-Range compares strongly, and a date never matches: there is no Last-Modified. Raises
    RangeNotSatisfiable.
    """
    if asked.get("if-range", etag) != etag:
        return None
    return parse_range(asked.get("range"), size)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """A single byte range as (start, end), end excluded; None for the whole content.

    RFC 9110 section 14.2: what is malformed or asks for several ranges is ignored. Raises
    RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if match is None or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
