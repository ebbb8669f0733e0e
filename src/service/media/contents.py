"""What can be learned from a file's content without decoding it: nothing in a file makes this take
long, or more memory."""

import hashlib
from dataclasses import dataclass
from typing import IO

import puremagic

HEAD_BYTES = 8192
SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "WEBP": b"RIFF"}
UNKNOWN_TYPE = "application/octet-stream"

DAMAGED = "The image is damaged."
TOO_COSTLY = "The image takes too much memory or time to decode."


class Unprocessable(Exception):
    """The content cannot be processed; the message is for the owner."""


@dataclass(frozen=True)
class Inspected:
    """Facts about a file; the image's only where it is one Pillow reads."""

    sha256: bytes
    content_type: str
    width: int | None = None
    height: int | None = None
    thumbnail: bytes | None = None


def inspect_plain(file: IO[bytes]) -> Inspected | None:
    """Hash and type of a file, from its beginning; None for an image, which is left to `images`."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if _is_image(head):
        return None
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    return Inspected(digest, content_type_of(head))


def _is_image(head: bytes) -> bool:
    if head.startswith(SIGNATURES["WEBP"]):
        return head[8:12] == b"WEBP"
    return head.startswith(tuple(SIGNATURES.values()))


def content_type_of(head: bytes) -> str:
    """The media type that the first bytes of a file speak of."""
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return UNKNOWN_TYPE
    best = max(match.confidence for match in found)
    types = {match.mime_type for match in found if match.confidence == best}
    if len(types) > 1 and head.startswith(b"PK\x03\x04"):
        return "application/zip"  # one of dozens of formats that are zip files inside
    return found[0].mime_type or UNKNOWN_TYPE
