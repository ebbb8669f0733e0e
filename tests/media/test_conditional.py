"""RFC 9110 section 14."""

import pytest
from starlette.datastructures import Headers

from service.media.conditional import (
    RangeNotSatisfiable,
    parse_range,
    wanted_range,
)

ETAG = '"0123-abc"'


def headers(**given: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in given.items()})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=99-99", (99, 100)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=0-999999999999999999", (0, 100)),
        ("bytes=50-", (50, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-100", (0, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=007-008", (7, 9)),
        ("BYTES=0-9", (0, 10)),
        (" bytes=0-9 ", (0, 10)),
    ],
)
def test_a_range_is_what_it_says(given: str, expected: tuple[int, int]) -> None:
    assert parse_range(given, 100) == expected


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5",
        "bytes=9-5",
        "bytes=--5",
        "bytes=+1-5",
        "bytes=1.0-5",
        "bytes=0x1-5",
        "bytes=\u0661-\u0665",
        "bytes=0-1,5-9",
        "bytes=0-1, -1",
        "bytes=1 - 5",
        "items=0-5",
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-" + "9" * 5000,
        "bytes=-" + "9" * 5000,
    ],
    ids=lambda given: ascii(given)[:24],
)
def test_what_is_malformed_or_several_ranges_is_ignored(given: str | None) -> None:
    assert parse_range(given, 100) is None


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("bytes=100-", 100),
        ("bytes=100-200", 100),
        ("bytes=999999999999999999-", 100),
        ("bytes=-0", 100),
        ("bytes=0-", 0),
        ("bytes=0-0", 0),
        ("bytes=-1", 0),
    ],
)
def test_a_range_beyond_the_end_is_not_satisfiable(given: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        parse_range(given, size)
    assert caught.value.headers["Content-Range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (ETAG, (0, 10)),
        ('"other"', None),
        (f"W/{ETAG}", None),
        ("Mon, 23 Nov 2026 16:00:00 GMT", None),
        ("", None),
    ],
)
def test_if_range_asks_for_the_whole_where_the_bytes_are_others(
    if_range: str, expected: tuple[int, int] | None
) -> None:
    asked = headers(range="bytes=0-9", if_range=if_range)
    assert wanted_range(asked, ETAG, 100) == expected


def test_if_range_also_saves_a_range_beyond_the_end() -> None:
    assert wanted_range(headers(range="bytes=500-", if_range='"other"'), ETAG, 100) is None
