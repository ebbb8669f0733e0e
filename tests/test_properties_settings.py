"""Whatever an operator gives, in whatever place: a value, or an error that names the variable and
holds nothing of what was given."""

import json
import logging
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import redis.asyncio
from aiosmtplib.email import extract_sender
from hypothesis import example, given
from hypothesis import strategies as st

from hostile import CANARY, PIECES, around, octets, texts
from service import logs, rules
from service.database_url import engine_url, libpq_url
from service.fields import SecretList, SecretUrl, shown
from service.mail import Mailer
from service.settings import ConfigurationError, Settings, load
from service.sources import Problem, SourceError, Sources, read_dotenv, read_secret_file
from service.urls import mask_url

VARIABLES = [name.upper() for name in Settings.model_fields]
KEY = "k3y-0f-the-t3sts-k3y-0f-the-t3sts"
SECRETS = (*("secret_key", "secret_key_fallbacks", "mail_password", "health_token"),)
given_values = st.dictionaries(st.sampled_from(VARIABLES), around() | texts, min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a relative path among the values leads nowhere."""
    monkeypatch.chdir(tmp_path)


def problems_of(error: ConfigurationError | SourceError) -> tuple[Problem, ...]:
    return error.problems if isinstance(error, ConfigurationError) else (error.problem,)


def assert_hides(error: ConfigurationError | SourceError) -> None:
    """No part of the error holds what was given, nor do the errors that come along."""
    told = f"{error!r}\n{''.join(traceback.format_exception(error))}"
    assert CANARY not in told
    assert CANARY not in repr([problem.as_dict() for problem in problems_of(error)])


def assert_says_nothing(error: ConfigurationError | SourceError) -> None:
    """... and it blames a setting."""
    assert_hides(error)
    problems = problems_of(error)
    assert {problem.variable for problem in problems} <= {*VARIABLES, ".env"}


def assert_masked(settings: Settings) -> None:
    for name in SECRETS:
        assert CANARY not in repr(getattr(settings, name))
        assert CANARY not in shown(getattr(settings, name))
    assert all(isinstance(secret, str) for secret in settings.secrets())


@pytest.mark.parametrize("deploy", [False, True])
@given(environ=given_values)
def test_any_text_in_the_environment(environ: dict[str, str], deploy: bool) -> None:
    environ.setdefault("SECRET_KEY", KEY)
    try:
        loaded = load(environ, secrets_directory="nowhere", dotenv="none", deploy=deploy)
    except ConfigurationError as error:
        assert_says_nothing(error)
    else:
        assert_masked(loaded.settings)
        usable(loaded.settings)


def usable(settings: Settings) -> None:
    """What has been accepted starts: nothing on the way to a server refuses it."""
    engine_url(settings)
    if not settings.embedded:
        libpq_url(settings)
    url = settings.redis_url.get_secret_value()
    if not url.startswith("memory"):
        redis.asyncio.ConnectionPool.from_url(url).make_connection()
    message = Mailer(settings).compose("key", "ann@example.org", "Hello", "Hello.")
    assert extract_sender(message) == settings.mail_from
    assert settings.site_url.startswith("http")
    logs.configuration(settings)["formatters"]["line"]["()"]()


@pytest.mark.parametrize("variable", VARIABLES)
@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 3)
@given(text=around() | texts)
def test_any_text_for_each_variable(variable: str, text: str) -> None:
    try:
        usable(load({"SECRET_KEY": KEY, variable: text}, secrets_directory="", dotenv="").settings)
    except ConfigurationError as error:
        assert_says_nothing(error)


@given(variable=st.sampled_from(VARIABLES), text=around())
def test_an_argument_in_the_code_says_no_more(variable: str, text: str) -> None:
    try:
        Settings(**{variable.lower(): text})
    except ConfigurationError as error:
        assert_says_nothing(error)


@given(names=st.lists(texts, max_size=3), near=st.sampled_from(VARIABLES), at=st.integers(0, 20))
def test_any_name_is_read_or_passed_over(names: list[str], near: str, at: int) -> None:
    """Names are told, as a misspelt one is, but nothing of their values."""
    names.append(near[:at] + near[at + 1 :])
    environ = dict.fromkeys(names, CANARY)
    for sources in (
        Sources(environ, secrets_directory="none"),
        Sources({}, command_line=environ, secrets_directory="none"),
        Sources({}, dotenv=environ, secrets_directory="none"),
    ):
        for problem in rules.near_misses(sources, VARIABLES):
            assert str(problem).isprintable()
            assert CANARY not in str(problem)


@given(content=octets)
@example(b"A=" + b"\xff")
@example(b"A='" + b"\n" * 1000)
def test_any_file_as_a_secret(content: bytes) -> None:
    path = Path("file")
    path.write_bytes(content + CANARY.encode() if len(content) % 2 else content)
    try:
        found = read_secret_file(str(path), "SECRET_KEY", "SECRET_KEY_FILE")
    except SourceError as error:
        assert_says_nothing(error)
    else:
        assert found.text.encode() in path.read_bytes()
        assert found.text.strip()


@given(path=texts)
def test_any_path_to_a_secret(path: str) -> None:
    """A secret that was put there by mistake is not told."""
    sources = Sources({"SECRET_KEY_FILE": f"{CANARY}{path}"}, secrets_directory="none")
    with pytest.raises(SourceError) as caught:
        sources.given("SECRET_KEY")
    assert_says_nothing(caught.value)


dotenv_lines = st.lists(
    st.tuples(st.sampled_from([*VARIABLES, "A", "export A", ""]), st.sampled_from(PIECES)).map(
        lambda pair: f"{pair[0]}={pair[1]}{CANARY}".encode("utf-8", "surrogatepass")
    )
    | octets,
    max_size=6,
).map(b"\n".join)


@given(content=dotenv_lines)
def test_any_bytes_in_dotenv(content: bytes) -> None:
    Path("dotenv").write_bytes(content)
    try:
        found = read_dotenv("dotenv")
    except SourceError as error:
        assert_says_nothing(error)
    else:
        assert all(isinstance(value, str) for pair in found.items() for value in pair)
    try:
        load({"SECRET_KEY": KEY}, secrets_directory="", dotenv="dotenv")
    except ConfigurationError as error:
        assert_hides(error)


# --- URLs ---------------------------------------------------------------------------------------

plain = st.text(min_size=1, max_size=12).filter(
    lambda text: text.isprintable() and text == text.strip()
)
escaped = plain.map(lambda text: quote(text, safe=""))
hosts = st.sampled_from(["db", "db.example.org", "10.0.0.1", "[::1]", "%2Fvar%2Frun"])


@given(user=plain, password=plain, host=hosts, port=st.integers(1, 65535), name=plain)
def test_a_database_url_reaches_its_driver_as_it_was_meant(
    user: str, password: str, host: str, port: int, name: str
) -> None:
    text = f"postgresql://{quote(user, '')}:{quote(password, '')}@{host}:{port}/{quote(name, '')}"
    settings = Settings(database_url=text)
    url = engine_url(settings)
    assert (url.username, url.password, url.port) == (user, password, port)
    assert password in settings.secrets() or quote(password, "") in settings.secrets()
    libpq_url(settings)


@given(
    scheme=st.sampled_from(["postgresql", "redis", "rediss", "s3", "https"]),
    user=escaped,
    before=texts,
    after=texts,
    rest=texts,
)
def test_a_password_is_never_shown_however_it_is_written(
    scheme: str, user: str, before: str, after: str, rest: str
) -> None:
    text = f"{scheme}://{user}:{before}{CANARY}{after}@host/{rest}"
    assert CANARY not in mask_url(text)
    assert CANARY not in repr(SecretUrl(text))


@given(values=st.lists(around(), min_size=1, max_size=3))
def test_a_list_of_secrets_shows_none(values: list[str]) -> None:
    assert CANARY not in repr(SecretList(tuple(values)))
    assert CANARY not in str(SecretList(tuple(values)))


@given(secrets=st.lists(texts, max_size=3), message=texts, extra=texts)
def test_any_text_can_be_logged_and_a_secret_in_it_is_masked(
    secrets: list[str], message: str, extra: str
) -> None:
    formatter = logs.JsonFormatter(logs.Redactor([*secrets, CANARY]))
    values: dict[str, Any] = {"msg": message + CANARY, "value": [extra, CANARY], CANARY: extra}
    record = logging.makeLogRecord(values)
    line = formatter.format(record)
    assert line.isascii()
    assert "\n" not in line
    json.loads(line)
    assert CANARY not in json.dumps(json.loads(line)["value"]) + json.loads(line)["message"]
    text = logs.TextFormatter(logs.Redactor([CANARY])).format(record)
    assert text.isprintable()
