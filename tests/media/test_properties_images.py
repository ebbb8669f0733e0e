"""Pictures that somebody has tampered with: facts or a refusal, within the limits."""

import io
import resource
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pictures import animation, gif_of, halves, png_of, saved, turned, webp_of
from service.media import images, inspection
from service.media.contents import (
    DAMAGED,
    HEAD_BYTES,
    TOO_COSTLY,
    Inspected,
    Unprocessable,
    content_type_of,
)

ORIGINALS = [
    saved(halves(), "JPEG"),
    saved(halves(), "JPEG", progressive=True),
    saved(halves(mode="CMYK"), "JPEG"),
    turned(6),
    saved(halves(), "PNG"),
    saved(halves(mode="P"), "PNG", transparency=0),
    saved(Image.new("I;16", (40, 40), 40_000), "PNG"),
    saved(halves(mode="RGBA"), "PNG", pnginfo=None),
    saved(halves(mode="P"), "GIF"),
    animation("GIF"),
    saved(halves(), "WEBP"),
    saved(halves(mode="RGBA"), "WEBP", lossless=True),
    animation("WEBP"),
    png_of(20, 20),
    gif_of(20, 20),
    webp_of(20, 20),
]
SPECIAL = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0",
    b"\xff\xd9",
]


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """As much beyond what this process has as an inspection may take."""
    with open("/proc/self/statm") as statm:
        in_use = int(statm.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + inspection.MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def assert_facts_or_refusal(content: bytes) -> None:
    began = time.process_time()
    try:
        facts = images.inspect(io.BytesIO(content))
    except Unprocessable as error:
        assert_for_its_owner(str(error))
    else:
        assert_sound(facts)
    assert time.process_time() - began < images.CPU_SECONDS


def assert_for_its_owner(reason: str) -> None:
    """Nothing of what a decoder said."""
    assert reason in (DAMAGED, TOO_COSTLY, f"The image has more than {images.MAX_PIXELS:,} pixels.")


def assert_sound(facts: Inspected) -> None:
    assert facts.content_type.count("/") == 1
    assert facts.content_type.isascii()
    assert facts.content_type.isprintable()
    assert (facts.width is None) == (facts.height is None) == (facts.thumbnail is None)
    if facts.thumbnail is not None and facts.width and facts.height:
        assert 0 < facts.width * facts.height <= images.MAX_PIXELS
        with Image.open(io.BytesIO(facts.thumbnail), formats=["WEBP"]) as thumbnail:
            thumbnail.load()
            assert max(thumbnail.size) <= max(images.THUMBNAIL_PIXELS)


edits = st.tuples(
    st.sampled_from(["write", "insert", "cut", "repeat"]),
    st.floats(0, 1),
    st.sampled_from(SPECIAL) | st.binary(min_size=1, max_size=8),
    st.integers(1, 64),
)


def edited(content: bytes, changes: list[tuple[str, float, bytes, int]]) -> bytes:
    for kind, place, data, length in changes:
        at = int(place * len(content))
        if kind == "write":
            content = content[:at] + data + content[at + len(data) :]
        elif kind == "insert":
            content = content[:at] + data + content[at:]
        elif kind == "cut":
            content = content[:at] + content[at + length :]
        else:
            content = content[: at + length] + content[at:]
    return content


@given(original=st.sampled_from(ORIGINALS), changes=st.lists(edits, min_size=1, max_size=6))
def test_a_changed_picture(original: bytes, changes: list[tuple[str, float, bytes, int]]) -> None:
    assert_facts_or_refusal(edited(original, changes))


@given(original=st.sampled_from(ORIGINALS), place=st.integers(0, 80), value=st.integers(0, 255))
def test_a_picture_with_another_byte_in_its_head(original: bytes, place: int, value: int) -> None:
    """Where sizes, depths and counts stand."""
    assert_facts_or_refusal(original[:place] + bytes([value]) + original[place + 1 :])


@given(original=st.sampled_from(ORIGINALS), end=st.floats(0, 1))
def test_half_a_picture(original: bytes, end: float) -> None:
    assert_facts_or_refusal(original[: int(len(original) * end)])


@given(first=st.sampled_from(ORIGINALS), second=st.sampled_from(ORIGINALS), at=st.floats(0, 1))
def test_the_head_of_one_picture_and_the_rest_of_another(
    first: bytes, second: bytes, at: float
) -> None:
    assert_facts_or_refusal(first[: int(len(first) * at)] + second[int(len(second) * at) :])


@given(
    signature=st.sampled_from([*images.SIGNATURES.values(), b"RIFF\0\0\0\0WEBPVP8X", b"GIF89a"]),
    rest=st.binary(max_size=2000),
)
@example(b"\xff\xd8\xff", b"\xda" * 2000)
def test_a_signature_and_nonsense(signature: bytes, rest: bytes) -> None:
    assert_facts_or_refusal(signature + rest)


@given(head=st.binary(max_size=HEAD_BYTES))
@example(b"PK\x03\x04" + b"\0" * 100)
@example(b"%PDF-" + b"\xff" * 100)
@example(b"<svg xmlns='http://www.w3.org/2000/svg'><script>")
@example(b"<html><script>")
def test_any_content_has_a_type(head: bytes) -> None:
    found = content_type_of(head)
    assert found.count("/") == 1
    assert found.isascii()
    assert found.isprintable()
