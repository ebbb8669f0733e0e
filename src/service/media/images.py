"""What can be learned from a file's content, and thumbnails. Blocking: run it in a thread."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import BinaryIO

import puremagic
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000
THUMBNAIL_PIXELS = (320, 320)
HEAD_BYTES = 8192
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")


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


def inspect(file: BinaryIO) -> Inspected:
    """Hash, type and, of an image, size and thumbnail. Raises Unprocessable."""
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    file.seek(0)
    content_type = _type(file.read(HEAD_BYTES))
    file.seek(0)
    if not content_type.startswith("image/"):
        return Inspected(digest, content_type)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        if content_type in Image.MIME.values() and _is_ours(content_type):
            raise Unprocessable("The image is damaged.") from None
        return Inspected(digest, content_type)
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unprocessable(f"The image has more than {MAX_PIXELS:,} pixels.")
        content_type = Image.MIME[image.format or ""]
        try:
            thumbnail, (width, height) = _thumbnail(image)
        except (OSError, ValueError, SyntaxError, EOFError):
            raise Unprocessable("The image is damaged.") from None
    return Inspected(digest, content_type, width, height, thumbnail)


def _is_ours(content_type: str) -> bool:
    return content_type in {Image.MIME[name] for name in FORMATS}


def _type(head: bytes) -> str:
    try:
        return puremagic.from_string(head, mime=True) or "application/octet-stream"
    except (puremagic.PureError, ValueError):
        return "application/octet-stream"


def _thumbnail(image: Image.Image) -> tuple[bytes, tuple[int, int]]:
    """(WebP bytes, size as shown): EXIF rotation is applied, animations show their first frame."""
    upright = ImageOps.exif_transpose(image)
    size = upright.size
    upright.thumbnail(THUMBNAIL_PIXELS)
    mode = "RGBA" if upright.has_transparency_data else "RGB"
    out = io.BytesIO()
    upright.convert(mode).save(out, "WEBP", quality=80)
    return out.getvalue(), size
