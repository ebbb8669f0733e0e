"""The kinds of value a setting can have: how each is read, what it expects, how it is shown.

A parser raises ValueError; its words may repeat the text, so callers must never show them.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import ByteSize, Field, GetCoreSchemaHandler, Secret, SecretStr
from pydantic_core import CoreSchema, core_schema

from service.urls import MASK, mask_url, split_url

NAME = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
BUCKET = "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
HOST = rf"{NAME}(\.{NAME})*"
# Nothing that is special in a header or a command, nor "=?", which begins an encoded word.
ATOM = r"[^\s\x00-\x1f\x7f-\x9f@<>()\[\],;:\\\".]+"
LOCAL = rf"(?=.{{1,64}}@)(?!.*=\?){ATOM}(?:\.{ATOM})*"
ADDRESS = re.compile(rf"({LOCAL})@(?=.{{1,253}}$)([\w-]+(?:\.[\w-]+)*)")


@dataclass(frozen=True)
class Parsed:
    """How a setting's text is read, and what it has to look like, in words for people."""

    read: Callable[[Any], Any]
    expect: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))


@dataclass(frozen=True)
class Range:
    """An inclusive range for a number."""

    low: float
    high: float
    unit: str = ""

    @property
    def expect(self) -> str:
        return f"{self.unit or 'a whole number'} from {self.low:g} to {self.high:.12g}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = {**handler(source), "ge": self.low, "le": self.high}
        if schema["type"] == "float":
            schema["allow_inf_nan"] = False
        return cast("CoreSchema", schema)


class SecretUrl(Secret[str]):
    """A URL whose password and query are never shown."""

    def _display(self) -> str:
        return mask_url(self.get_secret_value())


class SecretList(Secret[tuple[str, ...]]):
    """Several secrets; only their number is shown."""

    def _display(self) -> str:
        return ",".join(MASK for _ in self.get_secret_value())


def _text(value: Any) -> str:
    """A text, or the text of a secret. Raises ValueError."""
    text = value.get_secret_value() if isinstance(value, Secret | SecretStr) else value
    if isinstance(text, str):
        return text
    raise ValueError("not text")


def _items(value: Any) -> tuple[str, ...]:
    """`a,b` as a tuple; blanks around items and empty items are dropped."""
    if isinstance(value, SecretList):
        value = value.get_secret_value()
    if isinstance(value, list | tuple):
        return tuple(map(_text, value))
    return tuple(item.strip() for item in _text(value).split(",") if item.strip())


def url_with(expect: str, *schemes: str, host: bool = False, empty: bool = False) -> Parsed:
    """A URL with one of these schemes; `host` asks for a host or a bucket."""

    def read(value: Any) -> SecretUrl:
        text = _text(value)
        if text == "" and empty:
            return SecretUrl("")
        parts = split_url(text)
        if parts.scheme not in schemes or (host and not parts.hostname):
            raise ValueError("another scheme, or no host")
        if parts.scheme.startswith("sqlite") and parts.path.strip("/") in ("", ":memory:"):
            raise ValueError("no file, so that every process would have a database of its own")
        # The rest of the service compares schemes; they may be written in capitals.
        return SecretUrl(parts.scheme + text[len(parts.scheme) :])

    return Parsed(read, expect)


def _store_url(value: Any) -> str:
    """Names that need no escaping, so that every key below the prefix has one spelling."""
    text = _text(value)
    if text and not re.fullmatch(rf"[sS]3://{BUCKET}(/\w[\w.=-]*)*/?", text, re.ASCII):
        raise ValueError("not a bucket")
    return text.rstrip("/").replace("S3:", "s3:", 1)


def _endpoint(value: Any) -> str:
    text = _text(value)
    if text:
        parts = split_url(text)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError("another scheme, no host, or more than an address")
        if "@" in parts.netloc:
            raise ValueError("a user")
    return text.rstrip("/")


def _word(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _one_line(value: Any) -> Any:
    """No line break of any alphabet, nor another control character but the tab."""
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", _text(value)):
        raise ValueError("a control character")
    return value


def _stripped(value: Any) -> str:
    return _text(_one_line(value)).strip()


def _filled(value: Any) -> str:
    if text := _stripped(value):
        return text
    raise ValueError("nothing")


def _secrets(value: Any) -> SecretList:
    return SecretList(tuple(_one_line(item) for item in _items(value)))


def _ip_host(text: str) -> bool:
    """Whether a text is an IPv6 address, as URLs write it: in brackets."""
    if not re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", text):
        return False
    return bool(ipaddress.IPv6Address(text[1:-1]))


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = tuple(item.lower() for item in _items(value))
    pattern = rf"\*|(\*\.)?{HOST}"
    if not hosts or not all(re.fullmatch(pattern, host) or _ip_host(host) for host in hosts):
        raise ValueError("not host names")
    return hosts


def _mail_host(value: Any) -> str:
    text = _stripped(value)
    if text and not re.fullmatch(HOST, text.lower()):
        ipaddress.ip_address(text)
    return text


def _networks(value: Any) -> tuple[str, ...]:
    """Host bits are cleared: Gunicorn refuses `10.0.0.1/8`, and Uvicorn trusts nobody by it."""
    return tuple(
        str(ipaddress.ip_network(item, strict=False)) if "/" in item else _proxy(item)
        for item in _items(value)
    )


def _proxy(item: str) -> str:
    return item if item == "*" else str(ipaddress.ip_address(item))


def _bind(value: Any) -> str:
    text = _text(_one_line(value))
    return text if re.match("unix:/[^/]", text) else _host_and_port(text)


def _mode(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ValueError("not a mode")
    return text


def _host_and_port(value: Any) -> str:
    text = _text(_one_line(value))
    host, _, port = text.rpartition(":")
    if not (re.fullmatch(HOST, host.lower()) or _ip_host(host)):
        raise ValueError("not an address")
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("not a port")
    return text


def _size(value: Any) -> Any:
    """ByteSize alone ignores what follows the unit and reads digits of other alphabets."""
    pattern = r"[0-9]+ ?[bB]?|[0-9]+(\.[0-9]+)? ?[kKmMgGtT][iI]?[bB]"
    if isinstance(value, str) and not re.fullmatch(pattern, value.strip()):
        raise ValueError("not a size")
    return value


def _bearer_token(value: Any) -> Any:
    """RFC 6750 section 2.1: what can stand behind `Bearer`."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", _text(value)):
        raise ValueError("not a bearer token")
    return value


def mail_address(text: str) -> str:
    """One address and nothing else; a domain in another alphabet as mail servers know it.

    Raises ValueError.
    """
    if match := ADDRESS.fullmatch(text):
        return f"{match[1]}@{match[2].encode('idna').decode()}"
    raise ValueError("not an address")


def _sender(value: Any) -> str:
    """In ASCII: not every server takes another, and it would refuse all mail for it."""
    address = mail_address(_stripped(value))
    if not address.isascii():
        raise ValueError("not in ASCII")
    return address


def seconds(low: float, high: float) -> Range:
    """A duration in seconds."""
    return Range(low, high, "seconds, a number")


def _one_of(*words: str) -> Parsed:
    return Parsed(_word, f"one of {', '.join(words)}")


Environment = Annotated[Literal["development", "production"], _one_of("development", "production")]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], _one_of("debug", "info", "warning", "error")
]
LogFormat = Annotated[Literal["json", "text"], _one_of("json", "text")]
Flag = Annotated[bool, Parsed(_word, "true or false")]
Text = Annotated[str, Parsed(_stripped, "one line of text")]
FilledText = Annotated[str, Parsed(_filled, "one line of text, not empty")]
SecretText = Annotated[SecretStr, Parsed(_one_line, "one line of text")]
Secrets = Annotated[SecretList, Parsed(_secrets, "secrets separated by commas")]
BearerToken = Annotated[
    SecretStr | None, Parsed(_bearer_token, "characters of A-Z a-z 0-9 - . _ ~ + / alone")
]
Names = Annotated[tuple[str, ...], Parsed(_items, "names separated by commas")]
Hosts = Annotated[
    tuple[str, ...],
    Parsed(_hosts, "host names separated by commas, such as api.example.org or *.example.org"),
]
Networks = Annotated[
    tuple[str, ...], Parsed(_networks, "IP addresses and CIDR ranges separated by commas")
]
Bind = Annotated[str, Parsed(_bind, "host:port or unix:/path")]
Mode = Annotated[str, Parsed(_mode, "an octal file mode such as 0660")]
HostAndPort = Annotated[str, Parsed(_host_and_port, "host:port")]
MailHost = Annotated[str, Parsed(_mail_host, "a host name or an IP address, without a port")]
MailAddress = Annotated[str, Parsed(_sender, "an ASCII address such as a@example.org")]
Size = Annotated[
    ByteSize,
    Field(ge=2**10, le=2**40),
    Parsed(_size, "bytes from 1KiB to 1TiB, such as 16777216 or 16MiB"),
]
Room = Annotated[
    ByteSize,
    Field(ge=0, le=2**50),
    Parsed(_size, "bytes from 0 to 1024TiB, such as 1073741824 or 1GiB"),
]
DatabaseUrl = Annotated[
    SecretUrl,
    url_with(
        "postgresql://user:password@host:5432/name (special characters percent-encoded)"
        " or sqlite:///path",
        *("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"),
        *("sqlite", "sqlite+aiosqlite"),
    ),
]
PoolerUrl = Annotated[
    SecretUrl,
    url_with(
        "postgresql://user:password@host:6432/name (special characters percent-encoded)",
        *("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg"),
        empty=True,
    ),
]
RedisUrl = Annotated[
    SecretUrl,
    url_with(
        "redis://, rediss:// or unix:// URL (special characters percent-encoded) or memory://",
        *("redis", "rediss", "unix", "memory"),
    ),
]
StoreUrl = Annotated[
    str, Parsed(_store_url, "s3://bucket or s3://bucket/prefix, or nothing for the folder")
]
Endpoint = Annotated[
    str, Parsed(_endpoint, "an http:// or https:// address, without user or query")
]
WebUrl = Annotated[
    SecretUrl, url_with("an http:// or https:// URL", "http", "https", host=True, empty=True)
]

KINDS = (
    (r"", "an empty value"),
    (r"[+-]?[0-9]+", "a whole number"),
    (r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", "a number"),
    (r"[0-9]+(\.[0-9]+)? ?[kmgtpe]i?b", "a size"),
    (r"[a-z][a-z0-9+.-]*://.*", "a URL of another form"),
    (r".*[\r\n].*", "text of several lines"),
    (r".*,.*", "a list"),
)


FITS = {"a whole number": " from ", "a number": "a number from ", "a size": "bytes from "}


def kind_of(text: str, expect: str = "") -> str:
    """What sort of thing a text is, for messages that may not repeat it."""
    bare = text.strip()
    flags = re.IGNORECASE | re.DOTALL
    kind = next((kind for pattern, kind in KINDS if re.fullmatch(pattern, bare, flags)), "text")
    return f"{kind} out of range" if kind in FITS and FITS[kind] in expect else kind


def shown(value: Any) -> str:
    """A value as text, with secrets masked."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)
