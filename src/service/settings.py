"""Every setting of the service: its type, its default, and what has to hold between settings.

`load()` is the one way from the outside world to `Settings`. It finds all mistakes at once and
names each by its variable; no value given from outside is ever part of a message.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import ByteSize, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service import fields
from service.fields import Range, SecretList, SecretUrl, seconds, shown
from service.rules import near_misses, violations
from service.sources import (
    DEFAULT_BIND,
    SECRETS_DIRECTORY,
    ConfigurationError,
    Given,
    Problem,
    SourceError,
    Sources,
    read_dotenv,
)
from service.urls import url_secrets

__all__ = ["EX_CONFIG", "ConfigurationError", "Loaded", "Settings", "load", "reference", "shown"]

EX_CONFIG = 78  # sysexits.h
GENERATED_KEY = Path("var/secret_key")


class Settings(BaseSettings):
    """The whole configuration, checked. Secrets are masked in every representation."""

    environment: fields.Environment = "development"
    """`production` turns on the rules of production"""
    debug: fields.Flag = False
    """Tracebacks in the log of errors that are answered, but for those of validation"""
    log_level: fields.LogLevel = "info"
    """Least severe level that is logged"""
    log_format: fields.LogFormat = "json"
    """One JSON object a line, or text for people"""
    access_log: fields.Flag = True
    """One line a request from the app; off behind nginx, which writes its own"""
    secret_key: fields.SecretText = SecretStr("")
    """Signs mailed links; made at random in development"""
    secret_key_fallbacks: fields.Secrets = SecretList(())
    """Former keys, still accepted while they are rotated out"""
    allowed_hosts: fields.Hosts = ("localhost", "127.0.0.1", "[::1]")
    """`Host` headers that are answered"""
    forwarded_allow_ips: fields.Networks = ("127.0.0.1", "::1")
    """Proxies whose `X-Forwarded-For` is believed"""
    public_url: fields.WebUrl = SecretUrl("")
    """Where people reach the service, for mailed links; default from ALLOWED_HOSTS or BIND"""

    database_url: fields.DatabaseUrl = SecretUrl("sqlite:///var/service.sqlite3")
    """PostgreSQL; SQLite in development"""
    database_pooler_url: fields.PoolerUrl = SecretUrl("")
    """PgBouncer before that PostgreSQL, in transaction mode, for all that needs no session"""
    database_pool_size: Annotated[int, Range(1, 1000)] = 5
    """Connections a web worker may hold for requests"""
    database_pool_timeout_seconds: Annotated[float, seconds(0.1, 60)] = 2.0
    """Longest wait for one of them, then 503"""
    database_connect_timeout_seconds: Annotated[float, seconds(0.1, 60)] = 2.0
    """Longest wait for a new connection"""
    database_statement_timeout_seconds: Annotated[float, seconds(0.1, 600)] = 5.0
    """Longest statement of a request, then 503"""
    web_replicas: Annotated[int, Range(1, 10_000)] = 1
    """Most replicas of the web process at a time, to count connections; a rollout's count too"""
    worker_replicas: Annotated[int, Range(0, 10_000)] = 1
    """The same of the worker"""
    redis_url: fields.RedisUrl = SecretUrl("memory://")
    """Redis; `memory://` is a stand-in inside the process"""
    redis_timeout_seconds: Annotated[float, seconds(0.01, 60)] = 0.25
    """Longest wait for Redis before a request goes on without it"""

    mail_server: fields.MailHost = ""
    """SMTP host; empty prints mail to the log"""
    mail_port: Annotated[int, Range(1, 65535)] = 587
    """465 means TLS from the start"""
    mail_use_tls: fields.Flag = True
    """Require STARTTLS"""
    mail_username: fields.Text = ""
    """SMTP login"""
    mail_password: fields.SecretText = SecretStr("")
    """SMTP password"""
    mail_from: fields.MailAddress = "service@localhost"
    """Sender of all mail"""
    mail_timeout_seconds: Annotated[float, seconds(0.1, 120)] = 10.0
    """Longest SMTP conversation up to the message; the server has as long again to take it"""

    upload_folder: fields.FilledText = "var/uploads"
    """Where uploads are kept"""
    media_store_url: fields.StoreUrl = ""
    """Bucket of an object store in place of the folder"""
    media_store_redirect: fields.Flag = True
    """Clients get originals from the object store itself, by links that are good for 5 minutes"""
    media_store_public_url: fields.Endpoint = ""
    """Where clients reach the object store, if not at AWS_ENDPOINT_URL"""
    media_store_path_style: fields.Flag | None = None
    """The bucket in the path; default: with AWS_ENDPOINT_URL, or a dot in the bucket's name"""
    aws_endpoint_url: fields.Endpoint = ""
    """Object store that is not AWS"""
    aws_region: fields.Text = ""
    """Region of the bucket; default: that of the AWS profile, or us-east-1"""
    aws_access_key_id: fields.Text = ""
    """Key of the object store; default: the identity of the machine, container or AWS profile"""
    aws_secret_access_key: fields.SecretText = SecretStr("")
    """Secret of the key"""
    aws_session_token: fields.SecretText = SecretStr("")
    """Belongs to a key that expires"""
    x_accel_redirect: fields.Flag = False
    """nginx in front sends the files of UPLOAD_FOLDER itself"""
    max_content_length: fields.Size = ByteSize(16 * 1024 * 1024)
    """Largest upload"""
    media_bytes_per_account: fields.Room = ByteSize(1024**3)
    """Bytes an account's items may take, 32 KiB each beside its content, then 413; 0: no limit"""
    media_unfinished_per_account: Annotated[int, Range(1, 1_000_000)] = 200
    """Uploads of an account that may wait to be processed at once, then 429"""
    job_concurrency: Annotated[int, Range(1, 100)] = 4
    """Jobs a worker runs at once; those that take long leave one of several to the others"""
    worker_bind: fields.Bind | None = None
    """Where the worker answers probes and `/metrics`; empty: nowhere"""

    bind: fields.Bind = DEFAULT_BIND
    """Where Gunicorn listens"""
    bind_mode: fields.Mode = "0660"
    """Who may connect where BIND is a Unix socket, and is then believed as a proxy"""
    peer_bind: fields.HostAndPort | None = None
    """A second address, for proxies whose own app is just starting anew; empty: none"""
    backlog: Annotated[int, Range(1, 65535)] = 2048
    """Accept queue; the kernel's net.core.somaxconn caps it"""
    web_concurrency: Annotated[int, Range(1, 512)] | None = None
    """Web workers; default: what the container's CPU and memory limits allow; 1 with SQLite or memory://"""
    request_concurrency: Annotated[int, Range(1, 100000)] = 32
    """Requests a web worker works on at once; others wait, 0.4 s at most, then 503"""
    worker_connections: Annotated[int, Range(1, 100000)] = 1000
    """Passed to Gunicorn; Uvicorn workers do not count connections"""
    worker_timeout_seconds: Annotated[int, Range(2, 3600)] = 120
    """A worker whose event loop is blocked longer is replaced"""
    worker_tmp_dir: fields.Text = "/dev/shm"
    """Heartbeat and metric files, in memory; the system's default where it is missing"""
    keepalive_seconds: Annotated[int, Range(1, 3600)] = 75
    """Idle connections are closed after this; must exceed the proxy's"""
    max_requests: Annotated[int, Range(0, 10_000_000)] = 1_000_000
    """A worker is replaced after so many requests; 0: never"""
    max_requests_jitter: Annotated[int, Range(0, 10_000_000)] = 100_000
    """Random extra, so that workers are not replaced together"""
    proc_name: fields.Text = "service"
    """Process title, where setproctitle is installed"""
    pidfile: fields.Text = ""
    """Where the master writes its process id"""
    run_as_user: fields.Text = ""
    """Workers change to this user"""
    run_as_group: fields.Text = ""
    """Workers change to this group; default: that of RUN_AS_USER"""
    certfile: fields.Text = ""
    """TLS certificate, where nginx does not end TLS"""
    keyfile: fields.Text = ""
    """Key of the certificate"""
    shutdown_drain_seconds: Annotated[float, seconds(0, 600)] = 6.0
    """After SIGTERM ready says 503 and requests are still served"""
    shutdown_grace_seconds: Annotated[int, Range(1, 3600)] = 30
    """The process has ended so long after SIGTERM; requests in flight are cut 3 s before"""

    health_token: fields.BearerToken = None
    """Opens `/health/detailed` and all of `/api/operations/`, which are 404 without it"""
    health_required: fields.Names = ("database",)
    """Checks without which the service is not ready"""
    health_database_timeout_seconds: Annotated[float, seconds(0.05, 5)] = 0.75
    """Deadline of the database check"""
    health_cache_timeout_seconds: Annotated[float, seconds(0.05, 5)] = 0.5
    """Deadline of the Redis check"""
    health_mail_timeout_seconds: Annotated[float, seconds(0.05, 5)] = 1.0
    """Deadline of the mail server check"""
    health_slow_seconds: Annotated[float, seconds(0.001, 5)] = 0.25
    """A slower answer of the database or Redis is `degraded`"""
    health_interval_seconds: Annotated[float, seconds(0.1, 4)] = 1.0
    """Results are shared for this long"""
    health_stale_seconds: Annotated[float, seconds(1, 60)] = 5.0
    """An older result never counts as a pass"""
    health_disk_free_percent: Annotated[float, Range(0, 100, "a number")] = 5.0
    """With less space or fewer inodes free the disk counts as nearly full, and takes no uploads"""
    access_token_seconds: Annotated[int, Range(60, 31_536_000)] = 86_400
    """How long a login lasts"""
    login_attempts: Annotated[int, Range(1, 1000)] = 10
    """Failed logins an address may have at once; then one every 30 s, until one succeeds"""
    mails_per_network: Annotated[int, Range(1, 10_000)] = 20
    """Mails an IPv4 address or an IPv6 /64 may ask for at once; then one every 3 minutes"""
    websockets_per_account: Annotated[int, Range(1, 1000)] = 10
    """WebSockets an account may have open at once"""
    docs_enabled: fields.Flag = True
    """Serve `/docs` and `/openapi.json`"""
    otel_exporter_otlp_endpoint: fields.WebUrl = SecretUrl("")
    """Where traces are sent, by OTLP over HTTP; without it there are none"""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    def __init__(self, **values: Any) -> None:
        """Validate the values given. Raises ConfigurationError, which holds none of them."""
        # With PYDANTIC_SETTINGS_DEBUG set, this logger prints every raw value. Here and not once
        # at start: `logging.config.dictConfig` turns loggers on again.
        logging.getLogger("pydantic_settings").disabled = True
        mistaken: list[str] = []
        try:
            super().__init__(**values)
        except ValidationError as error:
            mistaken = mistaken_fields(error)
        # Not inside `except`: the first error holds the values, and would come along.
        if mistaken:
            raise ConfigurationError(map(_wrong_argument, mistaken))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load()` gathered: pydantic-settings neither tells where a value came from
        nor lets a mounted secret win over a stale variable."""
        return (init_settings,)

    @property
    def embedded(self) -> bool:
        """Whether jobs run in the web process, because there is no PostgreSQL to queue them in."""
        return self.database_url.get_secret_value().startswith("sqlite")

    @property
    def pooled(self) -> bool:
        """Whether two statements may reach two sessions, if no transaction holds them together."""
        return bool(self.database_pooler_url.get_secret_value())

    @property
    def on_unix_socket(self) -> bool:
        """Whether the proxy is on this machine, and has no address."""
        return self.bind.startswith("unix:")

    @property
    def site_url(self) -> str:
        """Where people reach the service, without a trailing slash."""
        given = self.public_url.get_secret_value()
        if not given and self.environment == "production":
            given = f"https://{self.allowed_hosts[0].removeprefix('*.')}"
        if not given:
            given = "http://localhost" if self.on_unix_socket else f"http://{self.bind}"
        return given.rstrip("/")

    def secrets(self) -> list[str]:
        """Every secret text, for the log filter."""
        found: list[str | None] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretUrl):
                found += url_secrets(value.get_secret_value())
            elif isinstance(value, SecretList):
                found += value.get_secret_value()
            elif isinstance(value, SecretStr):
                found.append(value.get_secret_value())
        return [secret for secret in found if secret]


def expected(name: str) -> str:
    """What the text of a setting has to look like."""
    field = Settings.model_fields[name]
    options = [getattr(option, "__metadata__", ()) for option in get_args(field.annotation)]
    for item in chain(field.metadata, *options):
        if hasattr(item, "expect"):
            return str(item.expect)
    raise LookupError(f"{name} does not say what it expects")


def _wrong_argument(name: str) -> Problem:
    if name in Settings.model_fields:
        return Problem(name.upper(), "argument", expected(name), "something else")
    return Problem(name, "argument", "the name of a setting", "another name")


def mistaken_fields(error: ValidationError) -> list[str]:
    """The names of the fields pydantic refused, each once; no more of its error is safe to show."""
    mistakes = error.errors(include_input=False, include_context=False, include_url=False)
    return list(dict.fromkeys(str(mistake["loc"][0]) for mistake in mistakes if mistake["loc"]))


@dataclass(frozen=True)
class Loaded:
    """Settings, and for each variable where its value came from."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    environ: Mapping[str, str] | None = None,
    *,
    command_line: Mapping[str, str] | None = None,
    secrets_directory: str = SECRETS_DIRECTORY,
    dotenv: str = ".env",
    deploy: bool = False,
) -> Loaded:
    """The configuration from all its sources.

    `deploy` applies the rules of production whatever ENVIRONMENT says. Raises ConfigurationError
    with every problem there is.
    """
    environ = os.environ if environ is None else environ
    variables = [name.upper() for name in Settings.model_fields]
    sources = Sources(environ, command_line=command_line, secrets_directory=secrets_directory)
    problems = [closed] if (closed := sources.closed()) else []
    outside, _ = sources.gather(["ENVIRONMENT"])
    if not deploy and not _is_production(outside.get("ENVIRONMENT")):
        try:
            sources.dotenv = read_dotenv(dotenv)
        except SourceError as error:
            problems.append(error.problem)
    given, unusable = sources.gather(variables)
    if "ENVIRONMENT" not in outside and _is_production(given.get("ENVIRONMENT")):
        wanted = "development (production has to be set outside, where .env is not read)"
        unusable.append(Problem("ENVIRONMENT", ".env", wanted, "production"))
        del given["ENVIRONMENT"]
    settings, mistakes = _validate(given, deploy=deploy)
    unusable += mistakes
    origins = {name: found.origin for name, found in given.items()}
    broken = violations(settings, origins, {problem.variable for problem in unusable})
    problems += [*unusable, *near_misses(sources, variables), *broken]
    if problems:
        raise ConfigurationError(problems)
    if not settings.secret_key.get_secret_value():
        settings = settings.model_copy(update={"secret_key": SecretStr(development_key())})
        origins["SECRET_KEY"] = str(GENERATED_KEY)
    return Loaded(settings, origins)


def _is_production(environment: Given | None) -> bool:
    return environment is not None and environment.text.strip().lower() == "production"


def _validate(given: Mapping[str, Given], *, deploy: bool) -> tuple[Settings, list[Problem]]:
    """Settings from what is valid, with defaults in place of what is not, and the list of that."""
    values: dict[str, Any] = {name.lower(): found.text for name, found in given.items()}
    problems: list[Problem] = []
    try:
        Settings(**values)
    except ConfigurationError as error:
        for mistake in error.problems:
            found = given[mistake.variable]
            kind = fields.kind_of(found.text, mistake.expected)
            problems.append(Problem(mistake.variable, found.origin, mistake.expected, kind))
            del values[mistake.variable.lower()]
    if deploy:
        values["environment"] = "production"
    return Settings(**values), problems


def development_key(path: Path = GENERATED_KEY) -> str:
    """A random key kept for this machine, made on first use and readable by its owner alone.

    Raises ConfigurationError where it can be neither read nor made.
    """
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of several processes one makes the key
            os.fchmod(file.fileno(), 0o600)
            key = file.read().decode("ascii", "replace").strip()
            if not key:  # new, or left empty by a full disk
                key = secrets.token_urlsafe(48)
                file.seek(0)
                file.truncate()
                file.write(key.encode())
            return key
    except OSError as error:
        reason = error.strerror
    wanted = "a value, or a file in which to keep a random one"
    given = f"one that cannot be written ({reason})"
    raise ConfigurationError([Problem("SECRET_KEY", str(path), wanted, given)])


def reference() -> list[tuple[str, str, str, str]]:
    """(variable, default, expectation, meaning) of every setting, as `docs/settings.md` has it."""
    return [
        (name.upper(), shown(field.default), expected(name), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
