"""DATABASE_URL in the dialects of its readers: SQLAlchemy with asyncpg or aiosqlite, and libpq."""

from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlencode

from sqlalchemy import URL, make_url

from service.settings import Settings

# Parameters of libpq that asyncpg would send to the server, which refuses what it does not know.
LIBPQ_ONLY = frozenset(
    (
        *("connect_timeout", "tcp_user_timeout", "keepalives", "keepalives_idle"),
        *("keepalives_interval", "keepalives_count", "channel_binding", "gssencmode", "sslsni"),
        *("sslcompression", "sslcertmode", "requirepeer", "require_auth", "load_balance_hosts"),
        *("fallback_application_name", "min_protocol_version", "max_protocol_version"),
    )
)


def engine_url(settings: Settings) -> URL:
    """DATABASE_URL for SQLAlchemy's async drivers."""
    return _driver_url(settings.database_url.get_secret_value())


def pool_url(settings: Settings) -> URL:
    """As `engine_url`, for requests and jobs: through the pooler, where there is one."""
    url = settings.database_pooler_url if settings.pooled else settings.database_url
    return _driver_url(url.get_secret_value())


def _driver_url(text: str) -> URL:
    """The parameters go into a `dsn`, which asyncpg reads as libpq would: SQLAlchemy would hand
    them on as arguments of asyncpg's, and most have no such name."""
    url = make_url(text)
    if url.get_backend_name() == "sqlite":
        return url.set(drivername="sqlite+aiosqlite")
    host, parameters = _address(url)
    kept = {name: value for name, value in parameters.items() if name not in LIBPQ_ONLY}
    query = {"dsn": f"postgresql://?{urlencode(kept)}"} if kept else {}
    return URL.create(
        "postgresql+asyncpg", url.username, url.password, host, url.port, url.database, query
    )


def make_file(url: URL) -> None:
    """The file of a SQLite database and its folder, where they are missing: for this user alone."""
    if url.database:
        path = Path(url.database)
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        with suppress(OSError):  # it is there, or the connection tells what is wrong
            path.touch(0o600, exist_ok=False)


def libpq_url(settings: Settings) -> str:
    """For libpq, which the job queue's driver speaks."""
    url = make_url(settings.database_url.get_secret_value())
    host, parameters = _address(url)
    plain = URL.create("postgresql", url.username, url.password, host, url.port, url.database)
    text = plain.render_as_string(hide_password=False).replace(" ", "%20")
    # libpq takes no space, and reads a plus as a plus.
    return f"{text}?{urlencode(parameters, quote_via=quote)}" if parameters else text


def _address(url: URL) -> tuple[str | None, dict[str, str]]:
    """(TCP host, libpq's parameters). A socket's directory may be written as the host."""
    parameters = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    if "ssl" in parameters:  # asyncpg's name, which SQLAlchemy's URLs have
        parameters["sslmode"] = parameters.pop("ssl")
    host = url.host
    if host and host[:3].lower() == "%2f":
        parameters["host"], host = unquote(host), None
    return host, parameters
