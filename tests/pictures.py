"""Pictures of every kind, also such as no camera makes."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

ORIENTATION = 0x0112


def saved(picture: Image.Image, kind: str, **more: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **more)
    return out.getvalue()


def halves(size: tuple[int, int] = (80, 40), mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, "red")
    picture.paste("blue", (size[0] // 2, 0, *size))
    return picture.convert(mode)


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(halves(), kind, exif=exif)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (60, 60), color) for color in ("red", "lime", "blue")]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *more: bytes, pixels: bytes = b"") -> bytes:
    """A PNG that says it has this size, whatever follows."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data + chunk(b"IEND", b"")


def gif_of(width: int, height: int) -> bytes:
    frame = b",\x00\x00\x00\x00" + struct.pack("<HH", 1, 1) + b"\x00\x02\x02D\x01\x00;"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame


def webp_of(width: int, height: int) -> bytes:
    """An animation of one small frame on a canvas of this size."""
    picture = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = b"\0" * 12 + b"\x10\0\0\0" + picture
    body = (
        b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + canvas
        + b"ANIM"
        + struct.pack("<I", 6)
        + b"\0" * 6
        + b"ANMF"
        + struct.pack("<I", len(frame))
        + frame
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_many_scans(scans: int) -> bytes:
    """A small file that takes the decoder hours: each scan walks over the whole large picture."""
    whole = saved(Image.new("RGB", (7000, 7000)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * scans + b"\xff\xd9"


PNG = saved(halves((400, 200)), "PNG")
# Uploads: content, name, and what becomes of them (status, type, size, whether with a thumbnail).
OF_ANY_KIND: list[tuple[bytes, str, tuple[Any, ...]]] = [
    (b"", "empty.jpg", ("ready", "application/octet-stream", None, False)),
    (b"\x00" * 1000, "zeros.png", ("ready", "application/octet-stream", None, False)),
    (PNG, "mislabelled.txt", ("ready", "image/png", (400, 200), True)),
    (PNG, "no extension", ("ready", "image/png", (400, 200), True)),
    (b"<html><script>x</script>", "page.png", ("ready", "text/html", None, False)),
    (b"%PDF-1.7\n", "photo.jpg", ("ready", "application/pdf", None, False)),
    (saved(halves(mode="CMYK"), "JPEG"), "print.jpg", ("ready", "image/jpeg", (80, 40), True)),
    (turned(6), "sideways.jpg", ("ready", "image/jpeg", (40, 80), True)),
    (turned(3, "PNG"), "upside down.png", ("ready", "image/png", (80, 40), True)),
    (animation("GIF"), "moving.gif", ("ready", "image/gif", (60, 60), True)),
    (animation("WEBP"), "moving.webp", ("ready", "image/webp", (60, 60), True)),
    (png_of(50_000, 50_000), "bomb.png", ("failed", None, None, False)),
    (webp_of(16_000, 16_000), "bomb.webp", ("failed", None, None, False)),
    (saved(halves(), "JPEG")[:300], "cut.jpg", ("failed", None, None, False)),
    (PNG[:200], "cut.png", ("failed", None, None, False)),
    (saved(halves(), "WEBP")[:40], "cut.webp", ("failed", None, None, False)),
]
ANY_NAMES = [
    "\u5199\u771f.png",
    "\u0641\u0627\u0631\u0633\u06cc.png",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "e\u0301te\u0301.png",
    "\U000e0041.png",
    "%2e%2e%2f.png",
    "a b+c&d=e#f?.png",
]
