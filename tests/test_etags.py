"""RFC 9110 section 13.1.2."""

import pytest
from starlette.datastructures import Headers

from service.etags import PreconditionFailed, check_match, etag_of, not_modified

ETAG = '"0123-abc"'


def headers(**given: str) -> Headers:
    return Headers({name.replace("_", "-"): value for name, value in given.items()})


@pytest.mark.parametrize(
    "field",
    [
        ETAG,
        f" {ETAG} ",
        f"W/{ETAG}",
        "*",
        " * ",
        f'"other", {ETAG}',
        f'{ETAG},"other"',
        f'W/"other" , W/{ETAG},"third"',
        f'"a,b", {ETAG}',
        f",, {ETAG} ,,",
    ],
)
def test_a_client_that_has_the_bytes_is_told_so(field: str) -> None:
    assert not_modified(headers(if_none_match=field), ETAG)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "0123-abc",
        '"0123-ABC"',
        '"0123"',
        '"0123-abcd"',
        '"x0123-abc"',
        "'0123-abc'",
        '"other"',
        'W/"other"',
        '"*"',
        "**",
        '"unclosed, 0123-abc',
    ],
)
def test_another_client_gets_them(field: str) -> None:
    assert not not_modified(headers(if_none_match=field), ETAG)


def test_without_the_header_nothing_is_compared() -> None:
    assert not not_modified(Headers({}), ETAG)


def test_a_field_in_two_lines_is_one_list() -> None:
    raw = [(b"if-none-match", b'"other"'), (b"if-none-match", ETAG.encode())]
    assert not_modified(Headers(raw=raw), ETAG)


@pytest.mark.parametrize(
    "field", [ETAG, f" {ETAG} ", "*", " * ", f'"other", {ETAG}', f'{ETAG},"x"']
)
def test_who_means_this_version_may_change_it(field: str) -> None:
    check_match(headers(if_match=field), ETAG)


@pytest.mark.parametrize(
    "field", ["", '"other"', f"W/{ETAG}", "0123-abc", "**", '"*"', f"{ETAG[:-1]}"]
)
def test_who_means_another_version_may_not(field: str) -> None:
    with pytest.raises(PreconditionFailed):
        check_match(headers(if_match=field), ETAG)


def test_who_means_none_may_change_any() -> None:
    check_match(Headers({}), ETAG)


def test_the_tag_of_a_content_is_its_own() -> None:
    assert etag_of(b"one") == etag_of(b"one") != etag_of(b"other")
    assert not_modified(headers(if_none_match=etag_of(b"one")), etag_of(b"one"))
