"""Whatever a client says in a header: an answer, and nothing believed that is not well-formed."""

import re
import time

from hypothesis import example, given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from hostile import field_values, octets
from service.etags import PreconditionFailed, check_match, etag_of, not_modified
from service.middleware import TRACEPARENT, Exchange, host_matcher

ETAG = etag_of(b"content")
ALLOWED = ("api.example.org", "*.wild.example", "[::1]", "127.0.0.1")
tags = st.tuples(
    st.sampled_from(["", "W/"]),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='"')),
).map(lambda pair: f'{pair[0]}"{pair[1]}"')
separators = st.sampled_from([",", ", ", " ,", ",,", " , ,\t"])


async def nowhere(message: object) -> None:
    """For answers that nobody reads."""


def asked(name: str, *values: bytes) -> Headers:
    return Headers(raw=[(name.encode(), value) for value in values])


@given(header=octets | st.sampled_from(ALLOWED).map(str.encode), port=octets)
@example(b"api.example.org", b":443")
@example(b"API.Example.Org.", b"")
@example(b"evil.example@api.example.org", b"")
@example(b"api.example.org:443@evil.example", b"")
@example(b".wild.example", b"")
@example(b"a.wild.example.evil.example", b"")
@example(b"api.example.org", b":\xb2")
@example("ap\u0131.example.org".encode(), b"")
def test_a_host_is_allowed_only_by_name(header: bytes, port: bytes) -> None:
    matches = host_matcher(ALLOWED)
    given_host = header + port
    allowed = matches(given_host)
    assert allowed == matches(given_host)  # also from what it remembers
    name = re.sub(rb"(?<!:):[0-9]*$", b"", given_host).lower().decode("latin-1")
    if allowed and not given_host.endswith(b"]"):
        assert name in ALLOWED or name.endswith(".wild.example")


@given(value=octets)
@example(b"12345678\n")
@example(b"1234567\xb2")
def test_a_request_id_is_the_clients_or_a_new_one(value: bytes) -> None:
    request_id = Exchange(nowhere, value).request_id
    assert re.fullmatch("[A-Za-z0-9._-]{8,64}", request_id)
    assert request_id.encode() == value or re.fullmatch("[0-9a-f]{32}", request_id)


trace_parts = st.from_regex(
    r"[0-9a-f]{2}-(0{32}|[0-9a-f]{32})-(0{16}|[0-9a-f]{16})-[0-9a-f]{2}(-[a-z]{0,3})?",
    fullmatch=True,
)


@given(value=octets | trace_parts.map(str.encode), tail=st.sampled_from([b"", b"\n", b"-x", b"0"]))
def test_a_trace_id_is_32_digits_that_are_not_all_zero(value: bytes, tail: bytes) -> None:
    match = TRACEPARENT.fullmatch(value + tail)
    if match:
        assert re.fullmatch(rb"[0-9a-f]{32}", match[1])
        assert match[1] != b"0" * 32
        assert not value.startswith(b"ff")


@given(values=st.lists(field_values, max_size=3))
def test_any_if_none_match_is_compared(values: list[bytes]) -> None:
    found = not_modified(asked("if-none-match", *values), ETAG)
    assert not found or ETAG.encode() in b",".join(values) or b"*" in b"".join(values)


@given(before=st.lists(tags), weak=st.booleans(), after=st.lists(tags), between=separators)
def test_a_tag_is_found_wherever_it_stands(
    before: list[str], weak: bool, after: list[str], between: str
) -> None:
    own = f"W/{ETAG}" if weak else ETAG
    field = between.join([*before, own, *after]).encode()
    assert not_modified(asked("if-none-match", field), ETAG)
    try:
        check_match(asked("if-match", field), ETAG)
    except PreconditionFailed:
        assert weak or any("," in tag for tag in before)
    else:
        assert not weak or ETAG in before + after


@given(values=st.lists(field_values, min_size=1, max_size=3))
def test_any_if_match_matches_or_fails(values: list[bytes]) -> None:
    try:
        check_match(asked("if-match", *values), ETAG)
    except PreconditionFailed:
        return
    assert ETAG.encode() in b",".join(values) or b",".join(values).strip() == b"*"


def test_the_longest_list_of_tags_costs_little_time() -> None:
    """As long as a head may be."""
    began = time.process_time()
    for piece in (b'"', b'W/"', b'"a', b'"a ', b'W/W/""', b'"\xff', b"*,", b'"a" '):
        field = piece * (64 * 1024 // len(piece))
        not_modified(asked("if-none-match", field), ETAG)
        for name in ("if-match", "if-none-match"):
            Exchange(nowhere, field)
            TRACEPARENT.fullmatch(field)
            host_matcher(ALLOWED)(field)
            assert asked(name, field)
    assert time.process_time() - began < 2
