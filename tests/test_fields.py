"""The kinds of value: what each accepts, refuses, makes of a text, and shows of it."""

import time
from typing import Annotated, Any

import pytest
from pydantic import ByteSize, SecretStr, TypeAdapter, ValidationError

from service import fields
from service.fields import Range, SecretList, SecretUrl
from service.urls import MASK, mask_url, url_password, url_secrets

SECOND = Annotated[float, fields.seconds(0.5, 60)]
WHOLE = Annotated[int, Range(1, 512)]
HUGE = 128 * 1024  # the longest environment variable Linux passes on


def read(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


def refused(kind: Any, value: Any) -> bool:
    try:
        read(kind, value)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on", "t", "y", " true\n"])
def test_a_flag_reads_every_usual_yes(text: str) -> None:
    assert read(fields.Flag, text) is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off", "f", "n"])
def test_a_flag_reads_every_usual_no(text: str) -> None:
    assert read(fields.Flag, text) is False


@pytest.mark.parametrize(
    "text", ["", "2", "-1", "vrai", "truee", "null", "true,false", "１", "t" * HUGE]
)
def test_a_flag_refuses_anything_else(text: str) -> None:
    assert refused(fields.Flag, text)


@pytest.mark.parametrize("text", ["production", "Production", "PRODUCTION", " production\n"])
def test_a_word_may_be_written_in_any_case(text: str) -> None:
    assert read(fields.Environment, text) == "production"


@pytest.mark.parametrize("text", ["", "prod", "production,development", "pro duction"])
def test_another_word_is_refused(text: str) -> None:
    assert refused(fields.Environment, text)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("512", 512), (" 5 \n", 5), ("+5", 5)])
def test_a_whole_number_is_read_up_to_both_ends_of_its_range(text: str, number: int) -> None:
    assert read(WHOLE, text) == number


NO_NUMBERS = [
    "",
    " ",
    "NaN",
    "nan",
    "inf",
    "-inf",
    "infinity",
    "1e400",
    "-1",
    "0x10",
    "٥",
    "五",
    "5;",
    "5 5",
]


@pytest.mark.parametrize("text", [*NO_NUMBERS, "0", "513", "1.5", "1e1", "9" * 5000, "9" * HUGE])
def test_what_is_no_whole_number_in_range_is_refused(text: str) -> None:
    assert refused(WHOLE, text)


@pytest.mark.parametrize(
    ("text", "number"), [("0.5", 0.5), ("60", 60.0), (".75", 0.75), ("1e1", 10.0), (" 2 ", 2.0)]
)
def test_seconds_are_read_up_to_both_ends_of_their_range(text: str, number: float) -> None:
    assert read(SECOND, text) == number


@pytest.mark.parametrize("text", [*NO_NUMBERS, "0.49", "60.01", "5s", "1m", "9" * 5000])
def test_what_is_no_number_of_seconds_in_range_is_refused(text: str) -> None:
    assert refused(SECOND, text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16777216", 2**24),
        ("16MiB", 2**24),
        ("16 mib", 2**24),
        (" 16MIB\n", 2**24),
        ("16MB", 16_000_000),
        ("1.5GiB", 3 * 2**29),
        ("2048b", 2048),
        ("1KiB", 1024),
        ("1TiB", 2**40),
    ],
)
def test_a_size_is_read_with_or_without_a_unit(text: str, size: int) -> None:
    assert read(fields.Size, text) == size


def test_room_may_be_any_or_none() -> None:
    assert read(fields.Room, "0") == 0
    assert read(fields.Room, "1024TiB") == 2**50
    assert refused(fields.Room, "1025TiB")
    assert refused(fields.Room, "-1")


@pytest.mark.parametrize(
    "text",
    [
        *NO_NUMBERS,
        "16MiB and more",
        "16MiB,8MiB",
        "16MiB;",
        "16Mbit",
        "16Mi",
        "16384.7",
        "١٦٣٨٤",
        "1023",
        "1025GiB",
        "9" * 400 + "MiB",
        "9" * HUGE,
    ],
)
def test_what_is_no_size_in_range_is_refused(text: str) -> None:
    assert refused(fields.Size, text)


@pytest.mark.parametrize("separator", [",", " , ", ",,", "\n,"])
def test_a_list_is_separated_by_commas(separator: str) -> None:
    assert read(fields.Names, separator.join(["database", "cache"])) == ("database", "cache")


def test_a_comma_alone_is_an_empty_list() -> None:
    assert read(fields.Names, ",") == ()


def test_a_list_of_secrets_is_read_and_shows_only_their_number() -> None:
    value = read(fields.Secrets, "one, two")

    assert value.get_secret_value() == ("one", "two")
    assert str(value) == f"{MASK},{MASK}"


@pytest.mark.parametrize("value", [["one", "two"], ("one", "two"), SecretList(("one", "two"))])
def test_a_list_of_secrets_may_be_given_as_one(value: Any) -> None:
    assert read(fields.Secrets, value).get_secret_value() == ("one", "two")


@pytest.mark.parametrize("value", [5, None, {"a": 1}, [1], SecretList((1,))])  # type: ignore[arg-type]
@pytest.mark.parametrize("kind", [fields.Names, fields.Hosts, fields.Networks, fields.Secrets])
def test_what_is_no_list_of_texts_is_refused(kind: Any, value: Any) -> None:
    assert refused(kind, value)


@pytest.mark.parametrize(
    "host", ["localhost", "api.example.org", "*.example.org", "127.0.0.1", "[::1]", "my_app", "*"]
)
def test_a_host_is_a_name_an_address_or_a_pattern(host: str) -> None:
    assert read(fields.Hosts, f"{host.upper()},other") == (host, "other")


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "https://example.org",
        "example.org:443",
        "example.org/path",
        '["example.org"]',
        "a b",
        "*example.org",
        "a.*.org",
        "::1",
        "[::::]",
        "[.]",
        "bücher.example",
        "-a.org",
        "a..org",
        "a.org.",
        "a." * (HUGE // 2) + "!",
        "-" * HUGE,
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    assert refused(fields.Hosts, text)


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("10.0.0.0/8, ::1", ("10.0.0.0/8", "::1")),
        ("10.1.2.3/8", ("10.0.0.0/8",)),  # Uvicorn would trust nobody by the text as it was
        ("fd00::1/64", ("fd00::/64",)),
        ("*", ("*",)),
        (",", ()),
    ],
)
def test_proxies_are_addresses_and_networks(text: str, networks: tuple[str, ...]) -> None:
    assert read(fields.Networks, text) == networks


@pytest.mark.parametrize(
    "text", ["nginx", "10.0.0.1:80", "10.0.0.0/33", "10.0.0", "١٠.0.0.1", "/8", "10.0.0.0/8/8"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refused(fields.Networks, text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8000", "0.0.0.0:1", "localhost:65535", "[::]:8000", "unix:/run/app.sock"]
)
def test_a_place_to_listen_is_kept_as_it_is(text: str) -> None:
    assert read(fields.Bind, text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8000",
        ":8000",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:٨٠٠٠",
        "127.0.0.1:8000\n",
        " 127.0.0.1:8000",
        "::1:8000",
        "[::::]:8000",
        "http://127.0.0.1:8000",
        "unix:run/app.sock",
        "unix://run/app.sock",
        "unix:/",
        "unix:/run/app\0.sock",
        "fd://3",
    ],
)
def test_what_is_no_place_to_listen_is_refused(text: str) -> None:
    assert refused(fields.Bind, text)


@pytest.mark.parametrize("text", ["0660", "660", "0777"])
def test_a_mode_is_octal(text: str) -> None:
    assert read(fields.Mode, text) == text


@pytest.mark.parametrize("text", ["", "0", "66", "0o660", "1660", "0668", "rw-rw----", "0660\n"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    assert refused(fields.Mode, text)


CONTROLS = ["\n", "\r", "\0", "\x0b", "\x0c", "\x1b", "\x1c", "\x7f", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize(
    "kind", [fields.Text, fields.SecretText, fields.Secrets, fields.FilledText]
)
@pytest.mark.parametrize("character", CONTROLS)
def test_a_line_break_or_control_character_within_one_line_is_refused(
    kind: Any, character: str
) -> None:
    assert refused(kind, f"before{character}after")


@pytest.mark.parametrize("character", ["\n", "\x1b", "\u2028"])
def test_a_secret_object_is_checked_like_its_text(character: str) -> None:
    assert refused(fields.SecretText, SecretStr(f"before{character}after"))


def test_a_secret_keeps_its_blanks() -> None:
    assert read(fields.SecretText, " pass\tword ").get_secret_value() == " pass\tword "


def test_plain_text_loses_its_outer_blanks() -> None:
    assert read(fields.Text, " user ") == "user"


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_a_folder_has_to_be_named(text: str) -> None:
    assert refused(fields.FilledText, text)


@pytest.mark.parametrize("text", ["", "smtp.example.org", "mail_relay", "192.0.2.1", "2001:db8::1"])
def test_a_mail_server_is_a_host_or_nothing(text: str) -> None:
    assert read(fields.MailHost, text) == text


@pytest.mark.parametrize(
    "text", ["smtp.example.org:587", "smtp://smtp.example.org", "user@host", "a b", "a,b", "[::1]"]
)
def test_a_mail_server_with_more_than_a_host_is_refused(text: str) -> None:
    assert refused(fields.MailHost, text)


@pytest.mark.parametrize("text", ["a@example.org", "service@localhost", "first.last+tag@host"])
def test_a_mail_address_is_accepted(text: str) -> None:
    assert read(fields.MailAddress, text) == text


def test_the_domain_of_a_mail_address_is_kept_as_mail_servers_know_it() -> None:
    assert read(fields.MailAddress, " a@bücher.example ") == "a@xn--bcher-kva.example"


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "@b", "a@", "a@b@c", "A <a@b>", "a@b,c@d", "a@b\nBcc: c@d", "a\0@b"),
        *("a@[10.0.0.1]", 'a"b@x.org', "a@b..c", "a@.b", "a@b.", "a..b@c", ".a@b", "a.@b"),
        *("=?utf-8?q?a?=@b", "ä@b", f"a@{'b' * 64}.org", f"{'a' * 65}@b"),
    ],
)
def test_what_is_no_mail_address_is_refused(text: str) -> None:
    assert refused(fields.MailAddress, text)


@pytest.mark.parametrize("value", ["abc.DEF-123_~+/==", SecretStr("abc")])
def test_a_bearer_token_is_accepted_as_text_and_as_a_secret(value: Any) -> None:
    assert read(fields.BearerToken, value).get_secret_value().startswith("abc")


@pytest.mark.parametrize("text", ["", "a b", "tökèn", "a\n", '"a"', "a=b", "a,b"])
def test_what_cannot_stand_in_an_authorization_header_is_refused(text: str) -> None:
    assert refused(fields.BearerToken, text)


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        (fields.DatabaseUrl, "postgres://user:p%40ss@db:5432/app"),
        (fields.DatabaseUrl, "postgresql+asyncpg://user:pass@[::1]/app?sslmode=require"),
        (fields.DatabaseUrl, "sqlite:////var/lib/app.sqlite3"),
        (fields.RedisUrl, "rediss://:pass@cache:6380/1"),
        (fields.RedisUrl, "unix:///run/redis.sock?db=1"),
        (fields.RedisUrl, "memory://"),
        (fields.WebUrl, "http://collector:4318"),
        (fields.WebUrl, ""),
    ],
)
def test_a_url_of_a_known_scheme_is_kept_as_it_is(kind: Any, url: str) -> None:
    assert read(kind, url).get_secret_value() == url


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (fields.StoreUrl, "s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        (fields.StoreUrl, "S3://bucket.example/", "s3://bucket.example"),
        (fields.StoreUrl, "", ""),
        (fields.Endpoint, "https://s3.example.org/base/", "https://s3.example.org/base"),
        (fields.Endpoint, "http://[::1]:9000", "http://[::1]:9000"),
        (fields.Endpoint, "", ""),
    ],
)
def test_an_object_store_is_kept_without_its_last_slash(kind: Any, text: str, value: str) -> None:
    assert read(kind, text) == value


@pytest.mark.parametrize("url", ["SQLITE:///file", "PostgreSQL://u:p@Host/Db"])
def test_a_scheme_in_capitals_is_written_small_and_nothing_else_is(url: str) -> None:
    scheme, rest = url.split(":", 1)

    assert read(fields.DatabaseUrl, url).get_secret_value() == f"{scheme.lower()}:{rest}"


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        (fields.DatabaseUrl, ""),
        (fields.DatabaseUrl, "db"),
        (fields.DatabaseUrl, "mysql://user:pass@db/app"),
        (fields.DatabaseUrl, "postgresql:user:pass@db/app"),
        (fields.DatabaseUrl, "postgresql:/user:pass@db/app"),
        (fields.DatabaseUrl, "postgresql://user:pass@db:port/app"),
        (fields.DatabaseUrl, "postgresql://user:pass@db:99999/app"),
        (fields.DatabaseUrl, " postgresql://user:pass@db/app"),
        (fields.DatabaseUrl, "postgresql://user:pass@db/app\n"),
        (fields.DatabaseUrl, "postgresql://user:pass@db/app\0"),
        (fields.DatabaseUrl, "postgresql://user:pa\u2028ss@db/app"),
        (fields.DatabaseUrl, 5),
        (fields.RedisUrl, "redis"),
        (fields.RedisUrl, "memory:"),
        (fields.StoreUrl, "s3:///prefix"),
        (fields.StoreUrl, "/var/media"),
        (fields.StoreUrl, "gs://bucket/prefix"),
        (fields.StoreUrl, "s3://key:secret@bucket"),
        (fields.StoreUrl, "s3://Bucket"),
        (fields.StoreUrl, "s3://bucket/a//b"),
        (fields.StoreUrl, "s3://bucket/../other"),
        (fields.StoreUrl, "s3://bucket/prefix?region=eu"),
        (fields.Endpoint, "minio:9000"),
        (fields.Endpoint, "s3://minio"),
        (fields.Endpoint, "https://"),
        (fields.Endpoint, "https://key:secret@minio"),
        (fields.Endpoint, "https://minio?x=1"),
        (fields.WebUrl, "http://"),
        (fields.WebUrl, "http://:4318"),
        (fields.WebUrl, "collector:4318"),
    ],
)
def test_another_url_is_refused(kind: Any, url: Any) -> None:
    assert refused(kind, url)


AMBIGUOUS = [
    "postgresql://user:pa@ss@db/app",
    "postgresql://user:pa/ss@db/app",
    "postgresql://user:pa#ss@db/app",
    "postgresql://user:pa?ss@db/app",
    "postgresql://user:pa[ss@db/app",
    "postgresql://user:pa ss@db/app",
    "postgresql://user:pass℀@db/app",  # NFKC would turn this sign into a/c, past the host
]


@pytest.mark.parametrize("url", AMBIGUOUS)
def test_a_password_that_is_not_percent_encoded_is_refused(url: str) -> None:
    assert refused(fields.DatabaseUrl, url)


@pytest.mark.parametrize("url", [*AMBIGUOUS, "user:pass", "user:pass@host", "pass", "//u:pass@h"])
def test_a_url_that_cannot_be_told_apart_is_masked_whole(url: str) -> None:
    assert mask_url(url) == MASK


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("", ""),
        ("sqlite:////var/app", "sqlite:////var/app"),
        ("memory://", "memory://"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("redis://:pass@cache/0", "redis://:***@cache/0"),
        ("postgresql://user:pass@[::1]:5432/app", "postgresql://user:***@[::1]:5432/app"),
        ("postgresql://user:pa:ss@db/app", "postgresql://user:***@db/app"),
        ("postgresql://user@db/app", "postgresql://user@db/app"),
        ("redis://pass@cache/0", "redis://***@cache/0"),
        ("https://token@host/path", "https://***@host/path"),
        ("https://token:x-oauth-basic@host", "https://***@host"),
        ("s3://key:secret@bucket", "s3://***@bucket"),
        ("redis://h/0?password=pass&db=1", "redis://h/0?password=***&db=***"),
        ("https://host?token", "https://host?***"),
        ("https://host?a=b=c&token&=d", "https://host?a=***&***&=***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert str(SecretUrl(url)) == masked


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://user:p%40ss@db/app", "p%40ss"),
        ("postgresql:///app?user=u&password=p%40ss", "p@ss"),
        ("postgresql://user@db/app", None),
        ("postgresql://user:@db/app", None),
        ("postgresql://user:pa@ss@db/app", None),
    ],
)
def test_the_password_of_a_url_is_found(url: str, password: str | None) -> None:
    assert url_password(url) == password


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://user:pass@db/app?sslmode=require", {"pass"}),
        ("postgresql:///app?password=p%40ss", {"p@ss"}),
        ("postgresql://role@db/app", set()),
        ("redis://user:pass@cache", {"pass"}),
        ("redis://pass@cache", {"pass"}),
        ("https://token@host", {"token"}),
        ("https://host?api_key=one&sig=1&access_token=two&page=3", {"one", "two"}),
        ("sqlite:///app", set()),
        ("user:pass@host", set()),
    ],
)
def test_the_log_filter_is_told_the_secrets_of_a_url_and_no_other_word(
    url: str, found: set[str]
) -> None:
    assert {secret for secret in url_secrets(url) if secret} == found


@pytest.mark.parametrize(
    ("text", "expect", "kind"),
    [
        ("", "", "an empty value"),
        (" \t", "", "an empty value"),
        ("-5", "one line of text", "a whole number"),
        ("0", "a whole number from 1 to 512", "a whole number out of range"),
        ("0.5", "a whole number from 1 to 512", "a number"),
        ("0.5", "seconds, a number from 1 to 60", "a number out of range"),
        ("1e9", "seconds, a number from 1 to 60", "a number out of range"),
        ("5MB", "a whole number from 1 to 512", "a size"),
        ("5TiB", "bytes from 1KiB to 1TiB", "a size out of range"),
        ("٥", "a whole number from 1 to 512", "text"),
        ("mysql://user:pass@host", "", "a URL of another form"),
        ("a,b", "", "a list"),
        ("a\nb", "", "text of several lines"),
        ("word", "", "text"),
        ("9" * HUGE + "x", "", "text"),
    ],
)
def test_a_text_is_described_by_its_kind_alone(text: str, expect: str, kind: str) -> None:
    assert fields.kind_of(text, expect) == kind


@pytest.mark.parametrize("unit", ["9", " ", "a", "a.", "-", ",", "@", "[", "%", "a=&", "9 "])
@pytest.mark.parametrize("end", ["", "!", "\n"])
def test_no_input_takes_long_to_refuse(unit: str, end: str) -> None:
    text = unit * (HUGE // len(unit)) + end
    kinds = (WHOLE, SECOND, fields.Size, fields.Hosts, fields.Networks, fields.Bind)
    more = (fields.MailHost, fields.MailAddress, fields.DatabaseUrl, fields.BearerToken)
    start = time.process_time()

    for kind in (*kinds, *more):
        refused(kind, text)
    fields.kind_of(text)
    mask_url(f"redis://{text}")

    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (5, "5"),
        (0.75, "0.75"),
        (2.0, "2"),
        (0.123456789, "0.123456789"),
        (ByteSize(1024), "1024"),
        (("a", "b"), "a,b"),
        (SecretStr("secret"), MASK),
        (SecretStr(""), ""),
        (SecretList(("a", "b")), f"{MASK},{MASK}"),
        (SecretUrl("redis://:pass@cache"), "redis://:***@cache"),
    ],
)
def test_a_value_is_shown_as_text(value: Any, text: str) -> None:
    assert fields.shown(value) == text
