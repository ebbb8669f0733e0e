"""Size and thumbnail of an image.

Decoders are large and what they read may be crafted: `inspection` runs this as a process of its
own, which reads the file from its standard input and writes JSON.
"""

import base64
import contextlib
import hashlib
import io
import json
import resource
import sys
from dataclasses import asdict
from typing import BinaryIO

from PIL import (
    ExifTags,
    Image,
    ImageOps,
    MpoImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.media.contents import (
    DAMAGED,
    SIGNATURES,
    TOO_COSTLY,
    Inspected,
    Unprocessable,
    inspect_plain,
)

MAX_PIXELS = 50_000_000
CPU_SECONDS = 10
THUMBNAIL_PIXELS = (320, 320)
DRAFT_PIXELS = (1280, 1280)
# Its module is imported, or Pillow would load every format it has: a fifth of an inspection.
PREVIEW = WebPImagePlugin.WebPImageFile.format
# Pillow imports these when a picture needs them: what holds EXIF data, and phones' JPEGs.
NEEDED = (MpoImagePlugin, TiffImagePlugin)
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def inspect(file: BinaryIO) -> Inspected:
    """Hash, type and, of an image, size and thumbnail. Raises Unprocessable."""
    facts = inspect_plain(file)
    if facts is not None:
        return facts
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
    file.seek(0)
    try:
        return _inspect_image(file, digest)
    except Unprocessable:
        raise
    except MemoryError:
        raise Unprocessable(TOO_COSTLY) from None
    except Exception as error:  # decoders raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault: another attempt may succeed
        raise Unprocessable(DAMAGED) from error


def _inspect_image(file: BinaryIO, digest: bytes) -> Inspected:
    # MAX_PIXELS is this project's limit; Pillow's only warns up to twice its value.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(file, formats=tuple(SIGNATURES)) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Unprocessable(f"The image has more than {MAX_PIXELS:,} pixels.")
        # Phones write MPO: a JPEG with a second image behind it.
        name = "JPEG" if image.format == "MPO" else image.format or ""
        # Made smaller first: a JPEG is then decoded at a fraction of its size.
        image.thumbnail(DRAFT_PIXELS)
        if _orientation(image) in SIDEWAYS:
            width, height = height, width
        return Inspected(digest, Image.MIME[name], width, height, _thumbnail(image))


def _orientation(image: Image.Image) -> int | None:
    with contextlib.suppress(Exception):  # a picture is worth showing whatever its EXIF data
        return image.getexif().get(ExifTags.Base.Orientation)
    return None


def _thumbnail(image: Image.Image) -> bytes:
    """WebP, upright; animations show their first frame."""
    small = image
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would cut off at white
        small = image.convert("I").point(lambda value: value / 256).convert("L")
    small = small.convert("RGBA" if image.has_transparency_data else "RGB")
    with contextlib.suppress(Exception):
        small = ImageOps.exif_transpose(small)
    small.thumbnail(THUMBNAIL_PIXELS)
    out = io.BytesIO()
    small.save(out, PREVIEW, quality=80)
    return out.getvalue()


def limit_resources(memory_bytes: int) -> None:
    """What one inspection may take of the machine."""
    limits = {
        resource.RLIMIT_CPU: (CPU_SECONDS, CPU_SECONDS + 5),  # SIGXCPU tells more than SIGKILL
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):  # lower already, or not of this system
            resource.setrlimit(kind, limit)


def shut_doors() -> None:
    """From here on nothing can be opened: no file, no connection, and no process begun. A decoder
    that a picture has taken over finds only that picture, and nobody to tell."""
    Image.preinit()  # the other formats
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        resource.setrlimit(kind, (0, 0))


def main() -> None:
    """Inspect standard input, within as many bytes of memory as the argument says. Writes one JSON
    object: the facts, or `refused` and the reason."""
    limit_resources(int(sys.argv[1]))
    shut_doors()
    try:
        facts = asdict(inspect(sys.stdin.buffer))
    except Unprocessable as error:
        answer = {"refused": str(error), "cause": repr(error.__cause__)}
    else:
        thumbnail = facts["thumbnail"]
        encoded = None if thumbnail is None else base64.b64encode(thumbnail).decode()
        answer = facts | {"sha256": facts["sha256"].hex(), "thumbnail": encoded}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
