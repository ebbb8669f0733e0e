"""Whatever a client names, asks for or sends beside a file."""

import unicodedata
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import quote, unquote
from uuid import UUID

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers

from hostile import field_values, texts
from service.idempotency import IdempotencyKey
from service.media.conditional import RangeNotSatisfiable, parse_range, wanted_range
from service.media.listing import CURSOR, EPOCH, START, decode_cursor, encode_cursor
from service.media.names import MAX_NAME_BYTES, TAKEN, clean_name
from service.media.schemas import MediaChanges, UploadFields

ETAG = '"0123-abc"'
SIZES = st.integers(0, 2000)
keys = TypeAdapter(IdempotencyKey)
cursors = TypeAdapter(Annotated[str, CURSOR])  # as the endpoints take them
long_texts = st.tuples(texts, st.integers(0, 300), texts).map(lambda t: t[0] * t[1] + t[2])
moments = st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC))


@given(name=texts | long_texts)
@example("\U0001f600" * 2 + "." + "x" * 252)
@example("thumbnail" + " " * 300 + "x")
@example("a\u0338" * 200 + ".txt")
def test_any_name_is_cleaned_into_one_that_is_safe_everywhere(name: str) -> None:
    cleaned = clean_name(name)
    assert 0 < len(cleaned.encode()) <= MAX_NAME_BYTES
    assert not set(cleaned) & {"/", "\\", "\0", "\r", "\n"}
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)
    assert not cleaned.startswith((".", " "))
    assert not cleaned.endswith((".", " "))
    assert cleaned != TAKEN
    assert unquote(quote(cleaned, safe="")) == cleaned
    assert clean_name(cleaned) == cleaned


@given(cursor=texts)
@example("")
@example("=" * 200)
@example(encode_cursor(EPOCH, UUID(int=0)))
@example(encode_cursor(*START))
@example("9" * 17 + "-" + "f" * 32)
@example("99999999999999999-00000000000000000000000000000000\n")
def test_any_cursor_is_a_position_or_refused(cursor: str) -> None:
    try:
        created_at, item_id = decode_cursor(cursors.validate_python(cursor))
    except ValidationError:
        return
    assert created_at.tzinfo is UTC
    assert decode_cursor(encode_cursor(created_at, item_id)) == (created_at, item_id)


@given(created_at=moments, item_id=st.uuids())
def test_a_cursor_leads_back_to_its_position(created_at: datetime, item_id: UUID) -> None:
    assert decode_cursor(encode_cursor(created_at, item_id)) == (created_at, item_id)
    assert (created_at, item_id) <= START


@given(cursor=moments.map(lambda moment: encode_cursor(moment, UUID(int=1))), data=st.data())
def test_a_changed_cursor_is_a_position_or_refused(cursor: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(cursor)))
    changed = cursor[:at] + data.draw(texts) + cursor[at + data.draw(st.integers(0, 20)) :]
    try:
        created_at, item_id = decode_cursor(cursors.validate_python(changed))
    except ValidationError:
        return
    assert (created_at.tzinfo, type(item_id)) == (UTC, UUID)


@given(value=field_values, size=SIZES)
def test_any_range_is_a_part_or_the_whole(value: bytes, size: int) -> None:
    assert_part(value.decode("latin-1"), size)


numbers = st.one_of(
    st.just(""), st.integers(0, 3000).map(str), st.just("9" * 18), st.just("9" * 19)
)


@given(first=numbers, last=numbers, size=SIZES)
def test_any_two_numbers_are_a_part_or_the_whole(first: str, last: str, size: int) -> None:
    assert_part(f"bytes={first}-{last}", size)


def assert_part(header: str, size: int) -> None:
    try:
        part = parse_range(header, size)
    except RangeNotSatisfiable:
        return
    if part is not None:
        start, end = part
        assert 0 <= start < end <= size


@given(value=field_values)
def test_any_if_range_but_the_right_one_means_the_whole(value: bytes) -> None:
    headers = Headers(raw=[(b"range", b"bytes=0-0"), (b"if-range", value)])
    part = wanted_range(headers, ETAG, 10)
    assert part == ((0, 1) if value == ETAG.encode() else None)


@given(value=field_values)
@example(b'"a"')
@example(b'"a')
@example(b"a\n")
@example(b"x" * 201)
def test_any_idempotency_key_is_plain_text_or_refused(value: bytes) -> None:
    text = value.decode("latin-1")
    try:
        key = keys.validate_python(text)
    except ValidationError:
        return
    assert key is not None
    assert text in (key, f'"{key}"')
    assert 1 <= len(key) <= 200
    assert key.isascii()
    assert key.isprintable()
    assert '"' not in key


@pytest.mark.parametrize("model", [UploadFields, MediaChanges])
@given(title=texts | long_texts, public=texts)
def test_any_title_is_one_that_a_database_and_a_log_take(
    model: type[UploadFields | MediaChanges], title: str, public: str
) -> None:
    try:
        fields = model.model_validate({"title": title})
    except (ValidationError, RequestValidationError):
        return
    assert len(fields.title) <= 200
    fields.title.encode()
    assert "\0" not in fields.title
    assert fields.title == fields.title.strip()
