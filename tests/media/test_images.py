"""What is learned from a file's content."""

import hashlib
import io
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pictures import animation, chunk, gif_of, halves, png_of, saved, turned, webp_of
from service.media import images
from service.media.contents import DAMAGED, Inspected, Unprocessable, content_type_of

RED, BLUE = (255, 0, 0), (0, 0, 255)
IMAGES = ("JPEG", "PNG", "GIF", "WEBP")


def inspect(content: bytes) -> Inspected:
    return images.inspect(io.BytesIO(content))


def thumbnail_of(facts: Inspected) -> Image.Image:
    assert facts.thumbnail is not None
    picture = Image.open(io.BytesIO(facts.thumbnail))
    assert picture.format == "WEBP"
    return picture.convert("RGBA")


def near(pixel: Any, color: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 40 for a, b in zip(pixel, color, strict=False))


def left_and_right(facts: Inspected) -> tuple[Any, Any]:
    picture = thumbnail_of(facts)
    middle = picture.height // 2
    return picture.getpixel((4, middle)), picture.getpixel((picture.width - 5, middle))


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_a_type_a_size_and_a_thumbnail(kind: str) -> None:
    content = saved(halves((800, 400)), kind)
    facts = inspect(content)
    assert facts.content_type == f"image/{kind.lower()}"
    assert (facts.width, facts.height) == (800, 400)
    assert thumbnail_of(facts).size == (320, 160)
    left, right = left_and_right(facts)
    assert near(left, RED)
    assert near(right, BLUE)


@pytest.mark.parametrize("kind", IMAGES)
def test_an_inspection_loads_no_formats_that_it_does_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(saved(halves(), kind))
    code = (
        "import sys; from service.media import images; images.inspect(sys.stdin.buffer);"
        "sys.exit('PIL.PdfImagePlugin' in sys.modules)"
    )
    with path.open("rb") as file:
        assert subprocess.run([sys.executable, "-I", "-c", code], stdin=file).returncode == 0


@pytest.mark.parametrize("content", [b"", b"a", b"hello", b"\0" * 100_000, saved(halves(), "PNG")])
def test_the_hash_is_of_the_whole_content(content: bytes) -> None:
    assert inspect(content).sha256 == hashlib.sha256(content).digest()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (1, 1)), ((320, 320), (320, 320)), ((5000, 10), (320, 1)), ((1, 4000), (1, 320))],
)
def test_a_thumbnail_is_never_larger_than_the_image_nor_than_the_frame(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert thumbnail_of(inspect(saved(halves(size), "PNG"))).size == expected


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_shows_its_first_frame(kind: str) -> None:
    facts = inspect(animation(kind))
    assert (facts.width, facts.height) == (60, 60)
    assert near(thumbnail_of(facts).getpixel((30, 30)), RED)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("CMYK", "JPEG"),
        ("L", "JPEG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("P", "GIF"),
        ("L", "GIF"),
        ("RGBA", "WEBP"),
    ],
)
def test_every_way_to_keep_colours_makes_a_thumbnail(mode: str, kind: str) -> None:
    left, right = left_and_right(inspect(saved(halves(mode=mode), kind)))
    if mode in ("L", "LA"):
        assert left[0] == left[1] == left[2] > right[0] == right[1] == right[2]
    else:
        assert near(left, RED)
        assert near(right, BLUE)


def test_one_bit_of_grey_is_black_or_white() -> None:
    picture = Image.new("1", (40, 40), 0)
    picture.paste(1, (20, 0, 40, 40))
    left, right = left_and_right(inspect(saved(picture, "PNG")))
    assert near(left, (0, 0, 0))
    assert near(right, (255, 255, 255))


@pytest.mark.parametrize(
    ("level", "expected"), [(0, 0), (0x4000, 0x40), (0x8000, 0x80), (0xFFFF, 0xFF)]
)
def test_sixteen_bits_of_grey_keep_their_brightness(level: int, expected: int) -> None:
    content = saved(Image.new("I;16", (50, 50), level), "PNG")
    pixel = thumbnail_of(inspect(content)).getpixel((25, 25))
    assert near(pixel, (expected,) * 3)


def test_transparency_stays() -> None:
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (20, 0, 40, 40))
    for content in (
        saved(picture, "PNG"),
        saved(picture.quantize(), "PNG"),
        saved(picture, "GIF"),
        saved(picture, "WEBP", lossless=True),
    ):
        left, right = left_and_right(inspect(content))
        assert left[3] < 40
        assert right[3] > 215


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size"),
    [(1, (80, 40)), (2, (80, 40)), (3, (80, 40)), (6, (40, 80)), (8, (40, 80)), (99, (80, 40))],
)
def test_a_picture_stands_upright(kind: str, orientation: int, size: tuple[int, int]) -> None:
    facts = inspect(turned(orientation, kind))
    assert (facts.width, facts.height) == size
    assert thumbnail_of(facts).size == size
    if orientation == 3:
        assert near(left_and_right(facts)[0], BLUE)


def test_a_large_picture_that_lies_on_its_side_keeps_its_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = inspect(saved(halves((2000, 2000)).resize((2000, 1999)), "JPEG", exif=exif))
    assert (facts.width, facts.height) == (1999, 2000)


def test_a_thumbnail_does_not_tell_where_it_was_taken() -> None:
    exif = Image.Exif()
    exif[0x010F] = "the maker of the camera"
    exif.get_ifd(0x8825)[1] = "N"
    facts = inspect(saved(halves(), "JPEG", exif=exif))
    assert facts.thumbnail is not None
    assert b"maker" not in facts.thumbnail
    assert b"EXIF" not in facts.thumbnail


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 50]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_is_shown_whatever_its_exif_data(exif: bytes) -> None:
    assert inspect(saved(halves(), "JPEG", exif=exif)).thumbnail


def test_a_jpeg_with_a_second_image_behind_it_is_a_jpeg() -> None:
    """As phones write them; Pillow calls it MPO."""
    content = saved(halves(), "MPO", save_all=True, append_images=[halves()])
    assert inspect(content).content_type == "image/jpeg"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_an_image_is_damaged(kind: str, share: float) -> None:
    noise = Image.effect_noise((200, 200), 80)
    content = saved(noise, kind)
    with pytest.raises(Unprocessable, match=DAMAGED):
        inspect(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_half_a_jpeg_is_damaged(share: float) -> None:
    content = saved(Image.effect_noise((400, 400), 80), "JPEG")
    with pytest.raises(Unprocessable, match=DAMAGED):
        inspect(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"GIF87a" + b"\xff" * 100,
        b"RIFF\xff\xff\xff\xffWEBP",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b""),
        png_of(0, 0),
        png_of(10, 10),
        png_of(10, 10, chunk(b"iCCP", b"x")),
        png_of(10, 10, chunk(b"zTXt", b"a\0\0" + b"\xff" * 10)),
        b"GIF89a and then only text",
    ],
    ids=lambda content: ascii(content[:12]),
)
def test_what_only_begins_like_an_image_is_damaged(content: bytes) -> None:
    with pytest.raises(Unprocessable, match=DAMAGED):
        inspect(content)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_ends_in_facts_or_in_a_reason() -> None:
    chance = random.Random(7)
    originals = [saved(halves(), kind) for kind in IMAGES] + [turned(6), animation("GIF")]
    for _ in range(600):
        content = bytearray(chance.choice(originals))
        for _ in range(chance.randrange(1, 8)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        with suppress(Unprocessable):
            inspect(bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        png_of(50_000, 50_000),
        png_of(7072, 7072),
        png_of(2**31 - 1, 2**31 - 1),
        gif_of(65535, 65535),
    ],
)
def test_more_pixels_than_are_worth_it_are_refused_unseen(content: bytes) -> None:
    assert len(content) < 100
    with pytest.raises(Unprocessable, match="more than 50,000,000 pixels"):
        inspect(content)


@pytest.mark.parametrize("content", [webp_of(16383, 16383), webp_of(65536, 65535)])
def test_a_huge_webp_is_refused(content: bytes) -> None:
    with pytest.raises(Unprocessable):
        inspect(content)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "application/octet-stream"),
        (b"hello", "application/octet-stream"),
        (b"\0" * 100, "application/octet-stream"),
        (b"<!doctype html><script>alert(1)</script>", "text/html"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "image/svg+xml"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"PK\x03\x04" + b"\0" * 60, "application/zip"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4"),
        (b"ID3\x03\0", "audio/mpeg"),
        (b"BM" + b"\0" * 60, "image/x-ms-bmp"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_the_type_is_found_in_the_content(content: bytes, expected: str) -> None:
    facts = inspect(content)
    assert facts.content_type == expected
    assert (facts.width, facts.height, facts.thumbnail) == (None, None, None)


def test_random_content_has_a_type() -> None:
    chance = random.Random(7)
    heads = [b"", b"<", b"RIFF", b"PK\x03\x04", b"%PDF", b"\x1f\x8b", b"\0\0\0\x18ftyp", b"\xff"]
    for _ in range(500):
        found = content_type_of(chance.choice(heads) + chance.randbytes(200))
        assert found.isascii()
        assert len(found) <= 100
        assert found.count("/") == 1


class Failing(io.BytesIO):
    """Content that fails when the decoder reads it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(saved(halves(), "PNG"))
        self.error = error
        self.seeks = 0

    def seek(self, *arguments: int) -> int:
        self.seeks += 1
        if self.seeks > 3:
            raise self.error
        return super().seek(*arguments)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        ZeroDivisionError(),
        RecursionError(),
        IndexError(),
        AssertionError(),
        OSError("bad"),
    ],
)
def test_whatever_a_decoder_raises_is_the_fault_of_the_image(error: Exception) -> None:
    with pytest.raises(Unprocessable, match=DAMAGED):
        images.inspect(Failing(error))


def test_too_little_memory_is_a_reason_of_its_own() -> None:
    with pytest.raises(Unprocessable, match="too much memory"):
        images.inspect(Failing(MemoryError()))


def test_a_failing_disk_is_not() -> None:
    with pytest.raises(OSError, match="disk"):
        images.inspect(Failing(OSError(5, "the disk is broken")))
