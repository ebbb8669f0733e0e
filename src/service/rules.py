"""What has to hold between settings, and names that are almost a setting's."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from service.sources import Problem, Sources
from service.urls import url_password

if TYPE_CHECKING:
    from service.settings import Settings

PLACEHOLDERS = ("change", "secret", "example", "placeholder", "default", "insecure", "password")
MIN_KEY_BYTES = 32

# What a web worker does after its drain, until Gunicorn kills it.
ACCEPTED_UNREAD_SECONDS = 1.0  # for connections accepted just before the listener closed
SOCKETS_CLOSE_SECONDS = 3.0  # for the application to close its WebSockets
SHUTDOWN_MARGIN_SECONDS = 3  # resources close and the process ends
AFTER_DRAIN_SECONDS = ACCEPTED_UNREAD_SECONDS + SOCKETS_CLOSE_SECONDS + SHUTDOWN_MARGIN_SECONDS


@dataclass(frozen=True)
class Rule:
    """`broken` looks only at the variables listed; the first one given is blamed, or the first."""

    variables: tuple[str, ...]
    broken: Callable[[Settings], bool]
    expected: str
    given: str
    production_only: bool = True


def weak_key(key: str) -> bool:
    """Shorter than 32 bytes, a placeholder's text, or too few different characters to be random."""
    if len(key.encode()) < MIN_KEY_BYTES or len(set(key)) < 5:
        return True
    return any(word in key.lower() for word in PLACEHOLDERS)


def _no_password(settings: Settings) -> bool:
    return not settings.embedded and not url_password(settings.database_url.get_secret_value())


def _no_pooler_password(settings: Settings) -> bool:
    return settings.pooled and not url_password(settings.database_pooler_url.get_secret_value())


def _every_address(item: str) -> bool:
    return item == "*" or ipaddress.ip_network(item, strict=False).prefixlen == 0


def _little_after_the_drain(settings: Settings) -> bool:
    drain, grace = settings.shutdown_drain_seconds, settings.shutdown_grace_seconds
    return drain < grace < drain + AFTER_DRAIN_SECONDS


def _open_links(settings: Settings) -> bool:
    """Whether clients would be sent to the object store without TLS."""
    sent = settings.media_store_url and settings.media_store_redirect
    address = settings.media_store_public_url or settings.aws_endpoint_url
    return bool(sent) and address.startswith("http:")


def _bucket_before_an_address(settings: Settings) -> bool:
    """Whether the bucket's name would have to stand before numbers."""
    urls = (settings.aws_endpoint_url, settings.media_store_public_url)
    in_name = bool(settings.media_store_url) and settings.media_store_path_style is False
    return in_name and any(_is_address(urlsplit(url).hostname or "") for url in urls)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _half_a_key(settings: Settings) -> bool:
    """Not without an object store: the variables may be there for other programs."""
    secret = settings.aws_secret_access_key.get_secret_value()
    token = settings.aws_session_token.get_secret_value()
    key = settings.aws_access_key_id
    return bool(settings.media_store_url) and (bool(key) != bool(secret) or bool(token and not key))


TRUE_OR_FALSE = "(?i:true|false|yes|no|1|0)"
# All that its client may be told in its URL. Of other names it makes arguments that no connection
# has, or that settings own, and finds that out at the first request.
REDIS_PARAMETERS = {"db": "[0-9]+", "protocol": "[23]", "username": ".+", "password": ".+"}
REDIS_TLS_PARAMETERS = {
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": TRUE_OR_FALSE,
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_ciphers"), ".+"),
    **dict.fromkeys(("ssl_certfile", "ssl_keyfile", "ssl_password"), ".+"),
}


def _misread_by_redis(settings: Settings) -> bool:
    """Whether the client would fail over a parameter, or take a path that is no number for 0."""
    parts = urlsplit(settings.redis_url.get_secret_value())
    if parts.scheme == "memory":
        return False
    tls = REDIS_TLS_PARAMETERS if parts.scheme == "rediss" else {}
    known = {**REDIS_PARAMETERS, **tls}
    if parts.scheme != "unix" and not re.fullmatch("/?[0-9]*/?", parts.path):
        return True
    return not all(
        re.fullmatch(known.get(name, ""), value) for name, value in parse_qsl(parts.query)
    )


CHECKS = ("database", "database_pool", "cache", "disk_space", "mail", "media_store")

RULES = (
    Rule(
        ("SECRET_KEY",),
        lambda s: weak_key(s.secret_key.get_secret_value()),
        "a random text of 32 bytes or more, no placeholder",
        "a short or guessable value",
    ),
    Rule(
        ("SECRET_KEY_FALLBACKS",),
        lambda s: any(weak_key(key) for key in s.secret_key_fallbacks.get_secret_value()),
        "random texts of 32 bytes or more each, no placeholders",
        "a short or guessable value among them",
    ),
    Rule(("DATABASE_URL",), lambda s: s.embedded, "a PostgreSQL URL in production", "SQLite"),
    Rule(("DATABASE_URL",), _no_password, "a PostgreSQL URL with a password", "none in it"),
    Rule(("DATABASE_POOLER_URL",), _no_pooler_password, "a URL with a password", "none in it"),
    Rule(
        ("DATABASE_POOLER_URL",),
        lambda s: s.pooled and s.embedded,
        "DATABASE_URL of the PostgreSQL that DATABASE_POOLER_URL leads to",
        "SQLite",
        production_only=False,
    ),
    Rule(
        ("REDIS_URL",),
        lambda s: s.redis_url.get_secret_value().startswith("memory:"),
        "a Redis server in production",
        "the in-process stand-in",
    ),
    Rule(
        ("REDIS_URL",),
        _misread_by_redis,
        f"a number for its path, and no parameters but {', '.join(REDIS_PARAMETERS)} and, with"
        f" rediss://, {', '.join(REDIS_TLS_PARAMETERS)}",
        "another path, an unknown parameter, or a value that is none of its",
        production_only=False,
    ),
    Rule(("MAIL_SERVER",), lambda s: not s.mail_server, "an SMTP host in production", "nothing"),
    Rule(
        ("ALLOWED_HOSTS",),
        lambda s: "*" in s.allowed_hosts,
        "host names in production",
        "* (every host)",
    ),
    Rule(
        ("FORWARDED_ALLOW_IPS",),
        lambda s: any(map(_every_address, s.forwarded_allow_ips)),
        "the addresses of your proxies in production",
        "every address",
    ),
    Rule(
        ("HEALTH_TOKEN",),
        lambda s: s.health_token is not None and weak_key(s.health_token.get_secret_value()),
        "a random text of 32 characters or more in production, no placeholder",
        "a short or guessable value",
    ),
    Rule(("DEBUG",), lambda s: s.debug, "false in production", "true"),
    Rule(
        ("SHUTDOWN_DRAIN_SECONDS", "SHUTDOWN_GRACE_SECONDS"),
        lambda s: s.shutdown_drain_seconds >= s.shutdown_grace_seconds,
        "SHUTDOWN_DRAIN_SECONDS less than SHUTDOWN_GRACE_SECONDS",
        "as much or more",
        production_only=False,
    ),
    Rule(
        ("SHUTDOWN_DRAIN_SECONDS", "SHUTDOWN_GRACE_SECONDS"),
        _little_after_the_drain,
        f"SHUTDOWN_GRACE_SECONDS {AFTER_DRAIN_SECONDS:g} or more above SHUTDOWN_DRAIN_SECONDS",
        "less than that",
    ),
    Rule(
        ("SHUTDOWN_GRACE_SECONDS", "WORKER_TIMEOUT_SECONDS"),
        lambda s: s.shutdown_grace_seconds >= s.worker_timeout_seconds,
        "SHUTDOWN_GRACE_SECONDS less than WORKER_TIMEOUT_SECONDS",
        "as much or more",
    ),
    Rule(
        ("CERTFILE", "KEYFILE"),
        lambda s: bool(s.certfile) != bool(s.keyfile),
        "CERTFILE and KEYFILE together or neither",
        "one of them",
        production_only=False,
    ),
    Rule(
        ("X_ACCEL_REDIRECT", "MEDIA_STORE_URL"),
        lambda s: s.x_accel_redirect and bool(s.media_store_url),
        "X_ACCEL_REDIRECT or MEDIA_STORE_URL, as nginx has only the files of UPLOAD_FOLDER",
        "both",
        production_only=False,
    ),
    Rule(
        ("AWS_ENDPOINT_URL", "MEDIA_STORE_PUBLIC_URL", "MEDIA_STORE_PATH_STYLE"),
        _bucket_before_an_address,
        "a host name where MEDIA_STORE_PATH_STYLE is false, as the bucket stands before it",
        "an IP address",
        production_only=False,
    ),
    Rule(
        ("MEDIA_STORE_PUBLIC_URL", "AWS_ENDPOINT_URL", "MEDIA_STORE_URL", "MEDIA_STORE_REDIRECT"),
        _open_links,
        "an https:// address for clients in MEDIA_STORE_PUBLIC_URL, or MEDIA_STORE_REDIRECT=false",
        "an http:// one",
    ),
    Rule(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MEDIA_STORE_URL"),
        _half_a_key,
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY together, and with AWS_SESSION_TOKEN, or none",
        "a part of the key",
        production_only=False,
    ),
    Rule(
        ("MAIL_USERNAME", "MAIL_PASSWORD"),
        lambda s: bool(s.mail_username) != bool(s.mail_password.get_secret_value()),
        "MAIL_USERNAME and MAIL_PASSWORD together or neither",
        "one of them",
        production_only=False,
    ),
    Rule(
        ("HEALTH_REQUIRED",),
        lambda s: any(name not in CHECKS for name in s.health_required),
        f"names from {', '.join(CHECKS)}",
        "an unknown name",
        production_only=False,
    ),
    Rule(
        ("HEALTH_INTERVAL_SECONDS", "HEALTH_STALE_SECONDS"),
        lambda s: s.health_interval_seconds >= s.health_stale_seconds,
        "HEALTH_INTERVAL_SECONDS less than HEALTH_STALE_SECONDS",
        "as much or more",
        production_only=False,
    ),
)
REQUIRED = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "MAIL_SERVER", "ALLOWED_HOSTS")


def violations(
    settings: Settings, origins: Mapping[str, str], unusable: Iterable[str]
) -> list[Problem]:
    """The rules that do not hold. Those on a variable already found unusable are left out."""
    bad = set(unusable)
    production = settings.environment == "production"
    problems: list[Problem] = []
    for variable in REQUIRED if production else ():
        if variable not in origins and variable not in bad:
            problems.append(Problem(variable, "nowhere", "a value in production", "nothing"))
            bad.add(variable)
    for rule in RULES:
        if bad.intersection(rule.variables) or (rule.production_only and not production):
            continue
        if rule.broken(settings):
            blamed = next((name for name in rule.variables if name in origins), rule.variables[0])
            source = origins.get(blamed, "default")
            problems.append(Problem(blamed, source, rule.expected, rule.given))
    return problems


def near_misses(sources: Sources, variables: Collection[str]) -> list[Problem]:
    """Names from outside that nothing reads, though a typing mistake away from one that is read."""
    return list(_near_misses(sources, variables))


def _near_misses(sources: Sources, variables: Collection[str]) -> Iterator[Problem]:
    pointers = {f"{variable}_FILE" for variable in variables}
    in_environment = {*variables, *pointers}
    in_directory = {variable.lower() for variable in variables}
    for name, source in sources.names():
        read = {"environment": in_environment, sources.secrets_directory: in_directory}.get(
            source, variables
        )
        if name in read:
            continue
        expected = _meant(name.upper(), read)
        if name.upper() in pointers and source != "environment":
            expected = "a name without _FILE: only an environment variable may point to a file"
        if expected:
            yield Problem(ascii(name)[1:-1], source, expected, "a name that nothing reads")
        elif source == "command line":
            # What does not look like a name may be a value, given without one.
            shown = name if re.fullmatch("[A-Z_]{1,40}", name) else "argument"
            yield Problem(shown, source, "the name of a setting", "a name that nothing reads")


def _meant(name: str, read: Iterable[str]) -> str | None:
    """The closest name that is read: another case, one slip away, or two from ten letters on.

    The first letter has to be right, so that XDEBUG or NDEBUG are left alone.
    """
    close: list[tuple[int, str]] = []
    for other in read:
        allowed = 2 if len(other) >= 10 else 1 if len(other) >= 5 else 0
        if name[:1] == other[0].upper() and abs(len(name) - len(other)) <= allowed:
            slips = _distance(name, other.upper())
            if slips <= allowed:
                close.append((slips, other))
    return min(close)[1] if close else None


def _distance(one: str, other: str) -> int:
    """Damerau-Levenshtein distance, optimal string alignment: swapped neighbours count once."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before, row = before, row, [i] + [0] * len(other)
        for j, b in enumerate(other, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], older[j - 2] + 1)
    return row[-1]
