"""No secret comes out: every way in is given a canary, and everything that comes out is searched.

`canary` texts are made at run time, so that a traceback's source lines do not hold one.
"""

import copy
import io
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter

from service.fields import SecretList, SecretUrl, shown
from service.settings import ConfigurationError, Loaded, Settings, load, reference
from service.sources import Sources

CANARY = "Kanarienvogel"
VARIABLES = [name.upper() for name in Settings.model_fields]
URLS = [
    name for name, field in Settings.model_fields.items() if isinstance(field.default, SecretUrl)
]
SECRETS = {
    "secret_key": CANARY,
    "secret_key_fallbacks": f"{CANARY}1,{CANARY}2",
    "mail_password": CANARY,
    "health_token": CANARY,
    "database_url": f"postgresql://user:{CANARY}@db/app?password={CANARY}",
    "database_pooler_url": f"postgresql://user:{CANARY}@pooler/app?password={CANARY}",
    "redis_url": f"rediss://:{CANARY}@cache/0?password={CANARY}&{CANARY}",
    "aws_secret_access_key": CANARY,
    "aws_session_token": CANARY,
    "public_url": f"https://{CANARY}@example.org",
    "otel_exporter_otlp_endpoint": f"https://{CANARY}:x-oauth-basic@host/v1?api_key={CANARY}",
}
ENVIRON = {"MAIL_USERNAME": "user", "AWS_ACCESS_KEY_ID": "key"} | {
    name.upper(): value for name, value in SECRETS.items()
}
MISPARSED = [
    f"postgresql://user:{CANARY}@{CANARY}@host/db",
    f"postgresql://user:{CANARY}/{CANARY}@host/db",
    f"postgresql://user:{CANARY}#{CANARY}@host/db",
    f"postgresql://user:{CANARY}?{CANARY}@host/db",
    f"postgresql://user:[{CANARY}@host/db",
    f"postgresql://user:℀{CANARY}@host/db",
    f"postgresql://user:{CANARY}@host:{CANARY}/db",
    f"postgresql://host:{CANARY}",
    f"postgresql:/user:{CANARY}@host/db",
    f"postgresql:user:{CANARY}@host/db",
    f"//user:{CANARY}@host",
    f"user:{CANARY}@host",
    f"user:{CANARY}",
    f"{CANARY}://user:{CANARY}@host/{CANARY}?{CANARY}#{CANARY}",
    f"redis://{CANARY} {CANARY}",
    f"http://{CANARY}\n",
    CANARY,
]


@pytest.fixture(autouse=True)
def everything_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[None]:
    """The noisiest process there is: nothing that it prints, logs or warns of holds the canary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="pydantic_settings")
    logging.getLogger("pydantic_settings").disabled = False  # as `dictConfig` leaves every logger
    lines = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(lines)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    logging.getLogger().removeHandler(lines)
    printed = capfd.readouterr()
    assert CANARY not in lines.stream.getvalue()
    assert CANARY not in printed.out + printed.err
    assert CANARY not in "".join(f"{warning.message}" for warning in warned)


def loaded(environ: Mapping[str, str], **options: Any) -> Loaded:
    return load(environ, **{"secrets_directory": "run-secrets", **options})


def everything_of(error: BaseException | None) -> str:
    """All that an exception, or one that hangs on it, can show."""
    if error is None:
        return ""
    texts = [str(error), repr(error), repr(error.args), repr(vars(error))]
    texts += traceback.format_exception(error)
    if isinstance(error, ConfigurationError):
        texts += [error.report(), json.dumps([problem.as_dict() for problem in error.problems])]
        texts += [f"{problem!s} {problem!r} {problem!a}" for problem in error.problems]
    hidden = [repr(getattr(error, "object", ""))]  # all the bytes of a UnicodeDecodeError
    return "\n".join(
        [*texts, *hidden, everything_of(error.__cause__), everything_of(error.__context__)]
    )


def failure(environ: Mapping[str, str], **options: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(environ, **options)
    return everything_of(caught.value)


def mount(name: str, content: bytes) -> None:
    Path("run-secrets").mkdir(exist_ok=True)
    (Path("run-secrets") / name).write_bytes(content)


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_wrong_value_of_any_setting_stays_hidden(variable: str) -> None:
    for value in (f"{CANARY}\n{CANARY}", f"\0{CANARY}", f"\udcff{CANARY}"):
        for environment in ("development", "production"):
            assert CANARY not in failure({"ENVIRONMENT": environment, variable: value})


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_wrong_value_from_any_source_stays_hidden(variable: str) -> None:
    wrong = f"{CANARY}\x1b{CANARY}"
    mount(variable.lower(), wrong.encode())
    Path("named").write_text(wrong)
    Path("empty").mkdir()
    Path(".env").write_text(f"{variable}='{wrong}'\n")

    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {}),
        ({f"{variable}_FILE": "named"}, {}),
        ({}, {"command_line": {variable: wrong}}),
        ({}, {"secrets_directory": "empty"}),
    ]
    for environ, options in ways:
        assert CANARY not in failure(environ, **options)


@pytest.mark.parametrize("variable", VARIABLES)
def test_all_wrong_values_together_stay_hidden(variable: str) -> None:
    environ = {name: f"{CANARY}\n" for name in VARIABLES if name != variable}

    assert CANARY not in failure({**environ, variable: f"{CANARY},{CANARY}\n"})


@pytest.mark.parametrize("name", URLS)
@pytest.mark.parametrize("url", MISPARSED)
def test_a_url_that_is_read_wrongly_stays_hidden(url: str, name: str) -> None:
    unchecked: dict[str, Any] = {name: SecretUrl(url)}
    settings = Settings.model_construct(**unchecked)

    assert CANARY not in failure({"ENVIRONMENT": "production", name.upper(): url})
    assert CANARY not in shown(getattr(settings, name))
    assert CANARY not in repr(settings)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        CANARY.encode() + b"\xff",
        CANARY.encode() * 10_000,
        CANARY.encode() + b"\n" + CANARY.encode(),
        b"\xef\xbb\xbf" + CANARY.encode() + b"\0",
    ],
)
@pytest.mark.parametrize("variable", ["SECRET_KEY", "DATABASE_URL", "MAIL_PORT", "ENVIRONMENT"])
def test_a_wrong_secret_file_stays_hidden(variable: str, content: bytes) -> None:
    mount(variable.lower(), content)

    assert CANARY not in failure({})


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_secret_in_place_of_a_files_path_stays_hidden(variable: str) -> None:
    for path in (CANARY, f"/{CANARY}\0", CANARY * 1000, f"postgres://u:{CANARY}@h/d"):
        assert CANARY not in failure({f"{variable}_FILE": path})


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_value_beside_its_file_stays_hidden(variable: str) -> None:
    assert CANARY not in failure({variable: CANARY, f"{variable}_FILE": CANARY})


@pytest.mark.parametrize("name", ["DATABSE_URL", "SECRETKEY", "secret_key", "MAIL_PASWORD_FILE"])
def test_the_value_of_a_near_miss_stays_hidden(name: str) -> None:
    mount("databse_url", CANARY.encode())
    Path(".env").write_text(f"MAIL_PASWORD={CANARY}\n")

    assert CANARY not in failure({name: CANARY}, command_line={"SECRETKEY": CANARY, "X": CANARY})


@pytest.mark.parametrize("argument", [f"SECRET_KEY:{CANARY}", CANARY, f"redis://:{CANARY}@cache"])
def test_a_value_in_place_of_a_name_on_the_command_line_stays_hidden(argument: str) -> None:
    assert CANARY not in failure({}, command_line={argument: ""})


@pytest.mark.parametrize(
    "content",
    [
        f"SECRET_KEY {CANARY}\n".encode(),
        f"SECRET_KEY='{CANARY}\n".encode(),
        f"SECRET_KEY=\n{CANARY}\n".encode(),
        f"SECRET_KEY={CANARY}".encode() + b"\xff",
        f"SECRET_KEY={CANARY}\n".encode() * 10_000,
        f"ENVIRONMENT=production\nSECRET_KEY={CANARY}\n".encode(),
    ],
)
def test_a_wrong_dotenv_file_stays_hidden(content: bytes) -> None:
    Path(".env").write_bytes(content)

    assert CANARY not in failure({})


def test_a_weak_key_stays_hidden() -> None:
    environ = {"ENVIRONMENT": "production", "SECRET_KEY": CANARY, "SECRET_KEY_FALLBACKS": CANARY}

    assert CANARY not in failure({**environ, "HEALTH_TOKEN": CANARY[:9] + CANARY[9:]})


WRONG = f"{CANARY}\n{CANARY}"
WRONG_ARGUMENTS = (
    *(WRONG, WRONG.encode(), (WRONG,), [CANARY, 1], {CANARY: CANARY}, object, float("nan")),
    *(SecretStr(WRONG), SecretUrl(WRONG), SecretList((WRONG,))),
)


# A rule looks after HEALTH_REQUIRED: any name is one for its parser.
@pytest.mark.parametrize("name", sorted({*Settings.model_fields} - {"health_required"}))
def test_a_wrong_argument_stays_hidden(name: str) -> None:
    for wrong in WRONG_ARGUMENTS:
        with pytest.raises(ConfigurationError) as caught:
            Settings(**{name: wrong})

        assert [problem.variable for problem in caught.value.problems] == [name.upper()]
        assert CANARY not in everything_of(caught.value)


def test_wrong_arguments_stay_hidden_through_pydantics_own_doors() -> None:
    values = {"mail_port": CANARY, "secret_key": CANARY}
    doors: list[tuple[Callable[[Any], Settings], Any]] = [
        (Settings.model_validate, values),
        (Settings.model_validate_json, json.dumps(values)),
        (TypeAdapter(Settings).validate_python, values),
    ]
    for door, value in doors:
        with pytest.raises(ConfigurationError) as caught:
            door(value)
        assert CANARY not in everything_of(caught.value)


def test_an_unknown_argument_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(secret_kye=CANARY)

    assert str(caught.value.problems[0]) == (
        "secret_kye (argument): expected the name of a setting; got another name"
    )
    assert CANARY not in everything_of(caught.value)


@pytest.fixture(params=["load", "Settings"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings in which every secret is the canary."""
    if request.param == "Settings":
        return Settings(**SECRETS)
    return loaded(ENVIRON).settings


def test_the_canary_is_in_every_field_that_can_hold_a_secret(settings: Settings) -> None:
    kinds = (SecretStr, SecretUrl, SecretList)
    can = {name for name in Settings.model_fields if isinstance(getattr(settings, name), kinds)}

    assert can == set(SECRETS)
    assert all(CANARY in str(getattr(settings, name).get_secret_value()) for name in can)


def test_printed_settings_hide_their_secrets(settings: Settings) -> None:
    texts = [repr(settings), str(settings), f"{settings}", f"{settings!a}", str(settings.__dict__)]
    texts += [str(settings.model_dump()), repr(settings.model_dump()), str(list(settings))]
    texts += [repr(copy.deepcopy(settings)), repr(settings.model_copy()), f"{vars(settings)}"]
    texts += ["%s" % settings, "%r" % settings]  # noqa: UP031  (as logging does)

    assert CANARY not in "\n".join(texts)


def test_dumped_settings_hide_their_secrets(settings: Settings) -> None:
    texts = [settings.model_dump_json(), settings.model_dump_json(round_trip=True)]
    texts += [json.dumps(settings.model_dump(mode="json"))]
    texts += [TypeAdapter(Settings).dump_json(settings).decode()]

    assert CANARY not in "\n".join(texts)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_shown_field_hides_its_secret(settings: Settings, name: str) -> None:
    value = getattr(settings, name)

    assert CANARY not in f"{shown(value)} {value} {value!r} {[value]}"


def test_logged_settings_hide_their_secrets(settings: Settings) -> None:
    log = logging.getLogger("test")
    log.warning("settings %s %r", settings, settings)
    log.error("settings", extra={"settings": settings})
    warnings.warn(f"{settings}", stacklevel=1)
    # The fixture of this module searches what was logged.


def test_what_loading_leaves_behind_hides_its_secrets() -> None:
    sources = Sources(ENVIRON, secrets_directory="run-secrets")
    given, problems = sources.gather(VARIABLES)

    texts = [repr(loaded(ENVIRON)), repr(sources), repr(given), repr(problems), repr(reference())]
    assert CANARY not in "\n".join(texts)


def test_a_leftover_key_that_is_no_text_stays_hidden() -> None:
    Path("var").mkdir()
    Path("var/secret_key").write_bytes(CANARY.encode() + b"\xff" * 40)

    assert CANARY not in repr(loaded({}))


def test_a_key_file_that_cannot_be_opened_stays_out_of_the_context() -> None:
    Path("var/secret_key").mkdir(parents=True)

    with pytest.raises(ConfigurationError) as caught:
        loaded({})

    assert caught.value.__context__ is None
