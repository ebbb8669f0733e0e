"""The configuration as a whole: how it is put together, what production asks for, near misses."""

import multiprocessing
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import ConnectionPool

from service.fields import MASK
from service.rules import (
    CHECKS,
    PLACEHOLDERS,
    REDIS_PARAMETERS,
    REDIS_TLS_PARAMETERS,
    REQUIRED,
    RULES,
    TRUE_OR_FALSE,
)
from service.settings import (
    EX_CONFIG,
    ConfigurationError,
    Loaded,
    Settings,
    development_key,
    expected,
    load,
    reference,
)
from service.sources import Problem

KEY = "k7Pq2vX9mL4tR8wZ1bN6cJ3hF5gD0sAy"  # 32 bytes
PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": KEY,
    "DATABASE_URL": "postgresql://app:pa55w0rd@db:5432/app",
    "REDIS_URL": "redis://cache:6379/0",
    "MAIL_SERVER": "smtp.example.org",
    "ALLOWED_HOSTS": "api.example.org",
    "MEDIA_STORE_URL": "s3://bucket/prefix",
    "MEDIA_STORE_PATH_STYLE": "false",
}
DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the files of the checkout, or writes among them."""
    monkeypatch.chdir(tmp_path)


def loaded(environ: Mapping[str, str], **options: object) -> Loaded:
    return load(environ, **{"secrets_directory": "run-secrets", **options})  # type: ignore[arg-type]


def problems(environ: Mapping[str, str], **options: object) -> list[Problem]:
    try:
        loaded(environ, **options)
    except ConfigurationError as error:
        return list(error.problems)
    return []


def blamed(environ: Mapping[str, str], **options: object) -> list[str]:
    return [problem.variable for problem in problems(environ, **options)]


def mount(name: str, text: str) -> None:
    directory = Path("run-secrets")
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)


def test_nothing_at_all_is_a_development_configuration() -> None:
    settings = loaded({}).settings

    assert settings.environment == "development"
    assert settings.embedded


def test_a_complete_production_configuration_is_accepted() -> None:
    settings = loaded(PRODUCTION).settings

    assert settings.environment == "production"
    assert settings.database_url.get_secret_value() == PRODUCTION["DATABASE_URL"]


def test_the_environment_of_the_process_is_read_when_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    monkeypatch.setenv("JOB_CONCURRENCY", "7")

    assert load(secrets_directory="run-secrets").settings.job_concurrency == 7


def test_every_place_is_asked_and_remembered() -> None:
    mount("mail_password", "mounted\n")
    Path("user").write_text("named\n")
    Path(".env").write_text("LOG_LEVEL=debug\n")
    environ = {"MAIL_USERNAME_FILE": "user", "MAIL_PORT": "25", "SECRET_KEY": KEY}

    result = loaded(environ, command_line={"DEBUG": "true"})

    assert result.settings.mail_password.get_secret_value() == "mounted"
    assert result.settings.mail_username == "named"
    assert (result.settings.debug, result.settings.log_level) == (True, "debug")
    assert result.origins == {
        "DEBUG": "command line",
        "MAIL_USERNAME": "MAIL_USERNAME_FILE",
        "MAIL_PASSWORD": "run-secrets/mail_password",
        "MAIL_PORT": "environment",
        "SECRET_KEY": "environment",
        "LOG_LEVEL": ".env",
    }


def test_an_empty_variable_leaves_the_default() -> None:
    assert loaded({"MAIL_PORT": "", "SECRET_KEY": KEY}).settings.mail_port == 587


def test_every_setting_can_be_given_its_own_default() -> None:
    shown = {name: default for name, default, _, _ in reference() if default}

    assert loaded({**shown, "SECRET_KEY": KEY}).settings == loaded({"SECRET_KEY": KEY}).settings


def test_all_mistakes_come_at_once() -> None:
    mount("mail_password", "")
    environ = {
        "ENVIRONMENT": "production",
        "MAIL_PORT": "0",
        "BIND": "nowhere",
        "DEBUG": "true",
        "DATABSE_URL": "postgresql://",
        "MAIL_FROM": "a@b",
        "MAIL_FROM_FILE": "missing",
        "KEYFILE_FILE": "missing",
    }

    assert sorted(blamed(environ)) == sorted(
        ["MAIL_PASSWORD", "MAIL_FROM", "KEYFILE", "MAIL_PORT", "BIND", "DATABSE_URL", "DEBUG"]
        + list(REQUIRED)
    )


def test_a_mistake_names_variable_source_expectation_and_kind() -> None:
    [problem] = problems({"MAIL_PORT": "70000", "SECRET_KEY": KEY})

    assert problem.as_dict() == {
        "variable": "MAIL_PORT",
        "source": "environment",
        "expected": "a whole number from 1 to 65535",
        "given": "a whole number out of range",
    }
    assert str(problem) == (
        "MAIL_PORT (environment): expected a whole number from 1 to 65535;"
        " got a whole number out of range"
    )


@pytest.mark.parametrize(("count", "head"), [(1, "1 problem"), (2, "2 problems")])
def test_a_report_has_a_line_for_each_problem(count: int, head: str) -> None:
    report = str(ConfigurationError([Problem("A", "b", "c", "d")] * count))

    assert (
        report.splitlines()
        == [f"configuration error: {head}"] + ["  A (b): expected c; got d"] * count
    )


def test_the_exit_code_is_the_one_for_configuration_errors() -> None:
    assert EX_CONFIG == os.EX_CONFIG


def test_a_secrets_directory_that_cannot_be_entered_is_one_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("run-secrets").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may enter every directory

    assert blamed({"SECRET_KEY": KEY}) == ["secrets directory"]


# .env


def test_dotenv_is_read_in_development() -> None:
    Path(".env").write_text("ENVIRONMENT=development\nMAIL_PORT=25\n")

    assert loaded({"SECRET_KEY": KEY}).settings.mail_port == 25


@pytest.mark.parametrize("environment", ["production", "Production", " PRODUCTION\n"])
def test_dotenv_is_not_read_in_production(environment: str) -> None:
    Path(".env").write_text("MAIL_PORT=25\nnot understood\n")

    assert loaded({**PRODUCTION, "ENVIRONMENT": environment}).settings.mail_port == 587


def test_dotenv_is_not_read_for_a_check_of_what_will_be_deployed() -> None:
    Path(".env").write_text("MAIL_PORT=25\n")

    assert loaded(PRODUCTION, deploy=True).settings.mail_port == 587


def test_production_cannot_be_declared_in_dotenv() -> None:
    Path(".env").write_text("".join(f"{name}={value}\n" for name, value in PRODUCTION.items()))

    [problem] = problems({})

    assert str(problem) == (
        "ENVIRONMENT (.env): expected development"
        " (production has to be set outside, where .env is not read); got production"
    )


def test_the_environment_settles_what_dotenv_says_of_production() -> None:
    Path(".env").write_text("ENVIRONMENT=production\n")

    assert loaded({"ENVIRONMENT": "development"}).settings.environment == "development"


def test_a_dotenv_file_that_is_not_understood_is_a_problem_among_others() -> None:
    Path(".env").write_text("MAIL_PORT 25\n")

    assert blamed({"BIND": "nowhere"}) == [".env", "BIND"]


# Production


@pytest.mark.parametrize("missing", REQUIRED)
def test_production_needs(missing: str) -> None:
    environ = {name: value for name, value in PRODUCTION.items() if name != missing}

    assert list(map(str, problems(environ))) == [
        f"{missing} (nowhere): expected a value in production; got nothing"
    ]


@pytest.mark.parametrize("missing", REQUIRED)
def test_an_empty_variable_does_not_satisfy_production(missing: str) -> None:
    assert blamed({**PRODUCTION, missing: ""}) == [missing]


@pytest.mark.parametrize("mounted", REQUIRED)
def test_a_mounted_secret_satisfies_production(mounted: str) -> None:
    environ = {name: value for name, value in PRODUCTION.items() if name != mounted}
    mount(mounted.lower(), PRODUCTION[mounted])

    assert problems(environ) == []


UNFIT = [
    ("SECRET_KEY", KEY[:-1]),
    ("SECRET_KEY", "change-me-" * 4),
    ("SECRET_KEY", "ThisIsAnExampleOfALongEnoughKey1"),
    ("SECRET_KEY", "a" * 64),
    ("SECRET_KEY", "0101" * 16),
    ("SECRET_KEY_FALLBACKS", f"{KEY},short"),
    ("DATABASE_URL", "sqlite:///var/service.sqlite3"),
    ("DATABASE_URL", "SQLITE://user:pass@/file"),
    ("DATABASE_URL", "postgresql://db/app"),
    ("DATABASE_URL", "postgresql://app@db/app"),
    ("DATABASE_URL", "postgresql://app:@db/app"),
    ("DATABASE_POOLER_URL", "postgresql://app@db/app"),
    ("REDIS_URL", "memory://"),
    ("REDIS_URL", "Memory://"),
    ("REDIS_URL", "redis://cache/0?ssl_cert_reqs=none"),
    ("REDIS_URL", "rediss://cache/0?ssl_cert_reqs=CERT_NONE"),
    ("REDIS_URL", "redis://cache/0?foo=1"),
    ("REDIS_URL", "redis://cache/0?db=one"),
    ("REDIS_URL", "redis://cache/O"),
    ("REDIS_URL", "redis://cache?timeout=1"),
    ("REDIS_URL", "unix:///run/redis.sock?decode_responses=true"),
    ("MAIL_SERVER", " "),
    ("ALLOWED_HOSTS", "*"),
    ("ALLOWED_HOSTS", "api.example.org,*"),
    ("FORWARDED_ALLOW_IPS", "*"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1, *"),
    ("FORWARDED_ALLOW_IPS", "0.0.0.0/0"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.1/0"),
    ("FORWARDED_ALLOW_IPS", "::/0"),
    ("FORWARDED_ALLOW_IPS", "fd00::/0"),
    ("HEALTH_TOKEN", "short"),
    ("HEALTH_TOKEN", "0123456789abcdef0123456789abcde"),
    ("HEALTH_TOKEN", "x" * 32),
    ("HEALTH_TOKEN", "change-me-change-me-change-me-now"),
    ("DEBUG", "true"),
    ("SHUTDOWN_DRAIN_SECONDS", "30"),
    ("SHUTDOWN_DRAIN_SECONDS", "28"),
    ("SHUTDOWN_GRACE_SECONDS", "120"),
    ("SHUTDOWN_GRACE_SECONDS", "6"),
    ("SHUTDOWN_GRACE_SECONDS", "12"),
    ("WORKER_TIMEOUT_SECONDS", "30"),
    ("CERTFILE", "/tls/cert.pem"),
    ("KEYFILE", "/tls/key.pem"),
    ("MAIL_USERNAME", "user"),
    ("MAIL_PASSWORD", "pass"),
    ("HEALTH_REQUIRED", "database,everything"),
    ("HEALTH_STALE_SECONDS", "1"),
    ("X_ACCEL_REDIRECT", "true"),
    ("AWS_ENDPOINT_URL", "http://minio:9000"),
    ("AWS_ENDPOINT_URL", "https://192.0.2.7:9000"),
    ("MEDIA_STORE_PUBLIC_URL", "http://media.example.org"),
    ("MEDIA_STORE_PUBLIC_URL", "https://[2001:db8::7]"),
    ("AWS_ACCESS_KEY_ID", "AKID"),
    ("AWS_SECRET_ACCESS_KEY", "s3cret"),
    ("AWS_SESSION_TOKEN", "t0ken"),
]


@pytest.mark.parametrize(("variable", "value"), UNFIT)
def test_production_refuses(variable: str, value: str) -> None:
    assert blamed({**PRODUCTION, variable: value}) == [variable]


def test_every_rule_is_broken_by_one_of_these_values() -> None:
    given = {rule.given for rule in RULES}
    found = {
        problem.given for name, value in UNFIT for problem in problems({**PRODUCTION, name: value})
    }

    assert found == given


FIT = [
    ("SECRET_KEY", "ü" * 16 + KEY[:5]),  # bytes count, not characters
    ("SECRET_KEY_FALLBACKS", f"{KEY},{KEY[::-1]}"),
    ("DATABASE_URL", "postgres://app:p%40ss@db/app"),
    ("DATABASE_URL", "postgresql:///app?host=/run/postgresql&user=app&password=pass"),
    ("REDIS_URL", "rediss://cache/1?ssl_cert_reqs=none&protocol=2&ssl_check_hostname=false"),
    ("REDIS_URL", "unix:///run/redis/redis.sock?db=1&password=pass"),
    ("ALLOWED_HOSTS", "api.example.org,*.example.org"),
    ("FORWARDED_ALLOW_IPS", "10.0.0.0/8,::1"),
    ("HEALTH_TOKEN", "0123456789abcdef0123456789abcdef"),
    ("HEALTH_REQUIRED", ",".join(CHECKS)),
    ("SHUTDOWN_DRAIN_SECONDS", "23"),
    ("SHUTDOWN_GRACE_SECONDS", "13"),
    ("SHUTDOWN_GRACE_SECONDS", "119"),
]


@pytest.mark.parametrize(("variable", "value"), FIT)
def test_production_accepts(variable: str, value: str) -> None:
    assert problems({**PRODUCTION, variable: value}) == []


def redis_parameters() -> list[str]:
    """Each that may stand in a URL, as it is written there."""
    values = {"[0-9]+": "1", "[23]": "2", TRUE_OR_FALSE: "no", "none|optional|required": "none"}
    names = {**REDIS_PARAMETERS, **REDIS_TLS_PARAMETERS}
    return [f"{name}={values.get(pattern, 'x')}" for name, pattern in names.items()]


@pytest.mark.parametrize("parameter", redis_parameters())
def test_what_may_stand_in_the_url_of_redis_is_what_its_client_takes(parameter: str) -> None:
    environ = {**PRODUCTION, "REDIS_URL": f"rediss://cache?{parameter}"}
    url = loaded(environ).settings.redis_url.get_secret_value()
    ConnectionPool.from_url(url).make_connection()  # of which the first request would have an error


# Above the worker timeout or little above the drain is for production alone to refuse, below the
# drain is not; and so is a store without TLS, but not one of which no bucket can have a name.
FOR_PRODUCTION_ALONE = (
    ("REDIS_URL", "memory://"),
    ("REDIS_URL", "Memory://"),
    ("SHUTDOWN_DRAIN_SECONDS", "28"),
    ("SHUTDOWN_GRACE_SECONDS", "12"),
    ("SHUTDOWN_GRACE_SECONDS", "120"),
    ("AWS_ENDPOINT_URL", "http://minio:9000"),
    ("MEDIA_STORE_PUBLIC_URL", "http://media.example.org"),
)
ALWAYS_REFUSED = [rule.variables for rule in RULES if not rule.production_only]


@pytest.mark.parametrize(("variable", "value"), UNFIT)
def test_development_accepts_all_but_contradictions(variable: str, value: str) -> None:
    expected_blame = [variable] if any(variable in names for names in ALWAYS_REFUSED) else []
    if (variable, value) in FOR_PRODUCTION_ALONE:
        expected_blame = []

    store = {name: PRODUCTION[name] for name in ("MEDIA_STORE_URL", "MEDIA_STORE_PATH_STYLE")}
    environ = {"SECRET_KEY": KEY, "MAIL_SERVER": "", **store, variable: value}

    assert blamed(environ) == expected_blame


@pytest.mark.parametrize(
    "more",
    [
        {"MEDIA_STORE_PUBLIC_URL": "https://media.example.org"},
        {"MEDIA_STORE_REDIRECT": "false"},
        {"MEDIA_STORE_URL": ""},
    ],
)
def test_the_service_itself_may_reach_the_store_without_tls(more: dict[str, str]) -> None:
    assert problems({**PRODUCTION, "AWS_ENDPOINT_URL": "http://minio:9000", **more}) == []


def test_a_store_may_be_an_address_with_the_bucket_in_the_path() -> None:
    environ = {**PRODUCTION, "AWS_ENDPOINT_URL": "https://192.0.2.7:9000"}
    assert problems({**environ, "MEDIA_STORE_PATH_STYLE": "true"}) == []


def test_nginx_may_send_the_files_of_the_folder() -> None:
    environ = {**PRODUCTION, "X_ACCEL_REDIRECT": "true"}
    del environ["MEDIA_STORE_URL"]
    assert problems(environ) == []


def test_a_deploy_check_applies_the_rules_of_production_to_a_developer() -> None:
    assert blamed({"ENVIRONMENT": "development"}, deploy=True) == list(REQUIRED)


def test_a_deploy_check_makes_no_key() -> None:
    problems({}, deploy=True)

    assert not Path("var").exists()


def test_a_rule_blames_the_variable_that_was_given() -> None:
    [problem] = problems({**PRODUCTION, "WORKER_TIMEOUT_SECONDS": "20"})

    assert str(problem) == (
        "WORKER_TIMEOUT_SECONDS (environment):"
        " expected SHUTDOWN_GRACE_SECONDS less than WORKER_TIMEOUT_SECONDS; got as much or more"
    )


def test_a_variable_that_is_unusable_breaks_no_rule_as_well() -> None:
    environ = {**PRODUCTION, "SHUTDOWN_GRACE_SECONDS": "soon", "SHUTDOWN_DRAIN_SECONDS": "600"}

    assert blamed(environ) == ["SHUTDOWN_GRACE_SECONDS"]


# Near misses


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_URI", "DATABASE_URL"),
        ("DATABASEURL", "DATABASE_URL"),
        ("DATABSE_URL_FILE", "DATABASE_URL_FILE"),
        ("MAIL_USE_SSL", "MAIL_USE_TLS"),
        ("MAIL_FORM", "MAIL_FROM"),
        ("REDIS_URI", "REDIS_URL"),
        ("SECRETKEY", "SECRET_KEY"),
        ("SECRET_KEY_FALLBACK", "SECRET_KEY_FALLBACKS"),
        ("ALLOWED_HOST", "ALLOWED_HOSTS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("ENVIROMENT", "ENVIRONMENT"),
        ("MAX_CONTENT_LENGHT", "MAX_CONTENT_LENGTH"),
        ("MAX_REQUEST", "MAX_REQUESTS"),
        ("DEBUG_", "DEBUG"),
        ("debug", "DEBUG"),
        ("bind", "BIND"),
        ("Database_Url", "DATABASE_URL"),
        ("secret_key_file", "SECRET_KEY_FILE"),
    ],
)
def test_a_name_that_is_almost_a_settings_is_named(name: str, meant: str) -> None:
    [problem] = problems({name: "value", "SECRET_KEY": KEY})

    assert str(problem) == (
        f"{name} (environment): expected {meant}; got a name that nothing reads"
    )


def test_a_near_miss_in_dotenv_is_named() -> None:
    Path(".env").write_text("DATABSE_URL=x\nmail_port=25\nDATABSE_URI=\n")

    assert [str(problem) for problem in problems({})] == [
        "DATABSE_URL (.env): expected DATABASE_URL; got a name that nothing reads",
        "mail_port (.env): expected MAIL_PORT; got a name that nothing reads",
    ]


def test_a_file_of_a_secret_cannot_be_named_in_dotenv() -> None:
    Path(".env").write_text("SECRET_KEY_FILE=key\n")

    [problem] = problems({})

    assert (problem.variable, problem.source) == ("SECRET_KEY_FILE", ".env")
    assert problem.expected.startswith("a name without _FILE")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("databse_url", "database_url"),
        ("database-url", "database_url"),
        ("DATABASE_URL", "database_url"),
        ("Secret_Key", "secret_key"),
        ("mail_password.txt", None),
        ("secret_key_file", "a name without _FILE"),
    ],
)
def test_a_near_miss_in_the_secrets_directory_is_named(name: str, meant: str | None) -> None:
    mount(name, "value")

    found = [(each.variable, each.source, each.expected) for each in problems({"SECRET_KEY": KEY})]

    if meant is None:
        assert found == []
    else:
        [(variable, source, wanted)] = found
        assert (variable, source) == (name, "run-secrets")
        assert wanted.startswith(meant)


@pytest.mark.parametrize(
    ("name", "variable", "meant"),
    [
        ("DATABSE_URL", "DATABSE_URL", "DATABASE_URL"),
        ("debug", "debug", "DEBUG"),
        ("COLOUR", "COLOUR", "the name of a setting"),
        ("SECRET_KEY_FILE", "SECRET_KEY_FILE", "a name without _FILE"),
        ("correct horse", "argument", "the name of a setting"),
    ],
)
def test_every_name_on_the_command_line_has_to_be_a_settings(
    name: str, variable: str, meant: str
) -> None:
    [problem] = problems({"SECRET_KEY": KEY}, command_line={name: "x"})

    assert (problem.variable, problem.source) == (variable, "command line")
    assert problem.expected.startswith(meant)


def test_an_empty_near_miss_counts_as_not_set() -> None:
    assert problems({"DATABSE_URL": "", "SECRET_KEY": KEY}) == []


def test_a_near_miss_does_not_hide_what_is_missing() -> None:
    environ = {**PRODUCTION, "DATABSE_URL": PRODUCTION["DATABASE_URL"], "DATABASE_URL": ""}

    assert sorted(blamed(environ)) == ["DATABASE_URL", "DATABSE_URL"]


def test_a_name_with_a_line_break_cannot_forge_a_line_of_the_report() -> None:
    error = ConfigurationError(problems({"SECRET_KEY\n": "x", "SECRET_KEY": KEY}))

    assert len(str(error).splitlines()) == 2


ORDINARY = """
    _ BASH BASH_ENV COLUMNS DISPLAY DBUS_SESSION_BUS_ADDRESS DESKTOP_SESSION EDITOR GPG_AGENT_INFO
    HISTFILE HISTSIZE HOME HOSTNAME HOSTTYPE IFS INVOCATION_ID JOURNAL_STREAM LANG LANGUAGE LC_ALL
    LD_LIBRARY_PATH LESS LINES LISTEN_FDS LISTEN_PID LOGNAME LOGS_DIRECTORY LS_COLORS MACHTYPE MAIL
    MAILCHECK MAILPATH MAIN MAINPID MANPATH NAME NOTIFY_SOCKET OLDPWD OSTYPE PAGER PATH PORT PPID
    PS1 PWD RUNTIME_DIRECTORY SHELL SHLVL SSH_AUTH_SOCK SSH_CLIENT SSH_CONNECTION SSH_TTY SUDO_USER
    SSL_CERT_DIR SSL_CERT_FILE TERM TERM_PROGRAM TMPDIR TZ USER USERNAME VISUAL WATCHDOG_USEC
    XDG_RUNTIME_DIR XDG_SESSION_ID http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
    CI BUILD_ID BUILD_NUMBER DEBUGINFOD_URLS DEBIAN_FRONTEND GIT_SSH GITHUB_TOKEN GITHUB_ACTIONS
    RUNNER_DEBUG GITLAB_CI JENKINS_URL NODE_ENV NODE_OPTIONS JAVA_HOME GOPATH CARGO_HOME CC CFLAGS
    NDEBUG XDEBUG XDEBUG_MODE MAKEFLAGS MAKELEVEL MAKE_TERMOUT VIRTUAL_ENV CONDA_PREFIX
    PYTHONPATH PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHON_VERSION PIP_INDEX_URL UV_CACHE_DIR
    GPG_KEY DOCKER_HOST DOCKER_CONFIG COMPOSE_FILE COMPOSE_PROJECT_NAME KUBECONFIG container
    GUNICORN_CMD_ARGS GUNICORN_PID SERVER_SOFTWARE UVICORN_PORT PROMETHEUS_MULTIPROC_DIR
    OTEL_SERVICE_NAME OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_PROTOCOL OTEL_TRACES_SAMPLER
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_RESOURCE_ATTRIBUTES SENTRY_DSN AWS_REGION PGPASSWORD
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GOOGLE_APPLICATION_CREDENTIALS
    PGHOST PGPORT PGUSER POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_HOST REDIS_PASSWORD
    REDIS_HOST REDIS_HOST_PASSWORD SMTP_HOST SMTP_PORT MAIL_HOST MAIL_DOMAIN MAIL_DRIVER APP_ENV
    TEST_DATABASE_URL SQLALCHEMY_DATABASE_URI DJANGO_SECRET_KEY FLASK_DEBUG FLASK_APP APP_KEY
    SECRET_KEY_BASE CELERY_BROKER_URL LOG_FILE LOG_DIR PUBLIC_KEY ACCESS_KEY ACCESS_TOKEN WEB_ROOT
    KUBERNETES_PORT KUBERNETES_PORT_443_TCP KUBERNETES_PORT_443_TCP_ADDR KUBERNETES_SERVICE_HOST
    KUBERNETES_PORT_443_TCP_PORT KUBERNETES_PORT_443_TCP_PROTO KUBERNETES_SERVICE_PORT_HTTPS
    NODE_NAME POD_NAME POD_IP POD_NAMESPACE DYNO HEROKU_APP_NAME RAILWAY_ENVIRONMENT FLY_APP_NAME
"""
LINKS = [
    f"{service}_{name}"
    for service in ("REDIS", "DATABASE", "POSTGRES", "WEB", "MEDIA", "SERVICE", "HEALTH", "UPLOAD")
    for name in ("SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_5432_TCP", "PORT_5432_TCP_ADDR")
    + ("PORT_5432_TCP_PORT", "PORT_5432_TCP_PROTO", "SERVICE_PORT_HTTP", "NAME", "ENV_GOSU")
]


@pytest.mark.parametrize("name", [*ORDINARY.split(), *LINKS])
def test_an_ordinary_variable_is_no_near_miss(name: str) -> None:
    assert problems({name: "tcp://10.0.0.1:5432", "SECRET_KEY": KEY}) == []


def test_what_kubernetes_mounts_beside_secrets_is_no_near_miss() -> None:
    mount("..data", "")
    Path("run-secrets/kubernetes.io/serviceaccount").mkdir(parents=True)

    assert problems({"SECRET_KEY": KEY}) == []


def test_no_setting_is_a_near_miss_of_another() -> None:
    defaults = {name: default for name, default, _, _ in reference() if default}

    assert problems({**defaults, "SECRET_KEY": KEY}) == []


# The key of a developer


def race(paths: list[str], barrier: Any, answers: Any) -> None:
    keys = []
    for path in paths:
        barrier.wait(60)
        keys.append(development_key(Path(path)))
    answers.put(keys)


def raced_keys(paths: list[str], processes: int = 4) -> list[set[str]]:
    """For each path the keys that several processes got which asked at the same moment."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    racers = [
        context.Process(target=race, args=(paths, barrier, answers)) for _ in range(processes)
    ]
    for racer in racers:
        racer.start()
    found = [answers.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    return [set(keys) for keys in zip(*found, strict=True)]


def test_a_developers_key_is_strong_enough_for_production() -> None:
    key = development_key(Path("var/secret_key"))

    assert problems({**PRODUCTION, "SECRET_KEY": key}) == []


def test_a_developers_key_is_kept_between_runs() -> None:
    first, second = loaded({}), loaded({})

    assert first.settings.secret_key == second.settings.secret_key
    assert first.origins["SECRET_KEY"] == "var/secret_key"


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_only_the_owner_can_read_the_key(mask: int) -> None:
    Path("var").mkdir()
    before = os.umask(mask)
    try:
        development_key(Path("var/secret_key"))
    finally:
        os.umask(before)

    assert stat.S_IMODE(Path("var/secret_key").stat().st_mode) == 0o600


def test_a_key_that_others_could_read_is_closed_to_them() -> None:
    Path("secret_key").write_text(KEY)
    Path("secret_key").chmod(0o644)

    assert development_key(Path("secret_key")) == KEY
    assert stat.S_IMODE(Path("secret_key").stat().st_mode) == 0o600


@pytest.mark.parametrize("left", ["", "\n", " " * 200])
def test_an_empty_key_file_is_repaired(left: str) -> None:
    Path("secret_key").write_text(left)

    key = development_key(Path("secret_key"))

    assert len(key) >= 32
    assert Path("secret_key").read_text() == key


def test_the_key_is_all_that_is_left_behind() -> None:
    development_key(Path("var/secret_key"))

    assert os.listdir("var") == ["secret_key"]


@pytest.mark.parametrize("left", [None, ""])
def test_processes_that_start_together_get_one_key(left: str | None) -> None:
    paths = [Path(f"var/{number}").absolute() for number in range(500)]
    if left is not None:
        Path("var").mkdir()
        for path in paths:
            path.write_text(left)

    keys = raced_keys([str(path) for path in paths])

    assert keys == [{path.read_text()} for path in paths]


def test_a_key_that_cannot_be_kept_is_a_configuration_error() -> None:
    Path("var").write_text("no directory")

    [problem] = problems({})

    assert (problem.variable, problem.source) == ("SECRET_KEY", "var/secret_key")


def test_a_given_key_is_not_kept() -> None:
    loaded({"SECRET_KEY": KEY})

    assert not Path("var").exists()


# What is derived


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"PUBLIC_URL": "https://example.org/app/"}, "https://example.org/app"),
        ({"BIND": "127.0.0.1:9000"}, "http://127.0.0.1:9000"),
        ({"BIND": "unix:/run/app.sock"}, "http://localhost"),
        (PRODUCTION, "https://api.example.org"),
        ({**PRODUCTION, "ALLOWED_HOSTS": "*.example.org"}, "https://example.org"),
    ],
)
def test_links_in_mail_lead_to(environ: dict[str, str], url: str) -> None:
    assert loaded({"SECRET_KEY": KEY, **environ}).settings.site_url == url


def test_the_log_filter_is_given_every_secret() -> None:
    settings = Settings(
        secret_key="one",
        secret_key_fallbacks="two,three",
        mail_password="four",
        health_token="five",
        database_url="postgresql://user:six@db/app?sslmode=require",
        redis_url="redis://cache?password=seven",
        otel_exporter_otlp_endpoint="https://eight@collector",
    )

    words = {"one", "two", "three", "four", "five", "six", "seven", "eight"}
    assert set(settings.secrets()) == words


def test_defaults_hold_no_secret() -> None:
    assert Settings().secrets() == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Settings(), "debug", True)  # noqa: B010  (a type checker refuses the assignment)


def test_settings_ignore_the_environment_unless_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PORT", "25")
    Path(".env").write_text("MAIL_PORT=26\n")

    assert Settings().mail_port == 587


# The documentation


def documented_rows() -> list[list[str]]:
    """The cells of the table, without its head."""
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    assert lines[0] == "| Variable | Default | Expected | Meaning |"
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def documented(variable: str, default: str, expectation: str, meaning: str) -> list[str]:
    """A setting as the table has it."""
    cells = [f"`{variable}`", f"`{default}`" if default else "", expectation, meaning]
    return [cell.replace("|", r"\|") for cell in cells]


def test_the_documentation_lists_every_setting_as_the_code_has_it() -> None:
    assert documented_rows() == [documented(*row) for row in reference()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(rule.variables))
def test_the_documentation_mentions_the_variables_of_every_rule(rule: object) -> None:
    text = DOCUMENT.read_text().split("| Variable |")[0]

    for variable in rule.variables:  # type: ignore[attr-defined]
        assert f"`{variable}`" in text


@pytest.mark.parametrize("variable", REQUIRED)
def test_the_documentation_mentions_what_production_needs(variable: str) -> None:
    assert f"- `{variable}`: " in DOCUMENT.read_text()


def test_the_documentation_names_every_check_that_can_be_required() -> None:
    assert ", ".join(f"`{name}`" for name in CHECKS) in DOCUMENT.read_text()


def test_the_documentation_lists_the_words_of_a_placeholder() -> None:
    assert ", ".join(PLACEHOLDERS) in " ".join(DOCUMENT.read_text().split())


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_expects_and_means(name: str) -> None:
    assert expected(name)
    assert Settings.model_fields[name].description


def test_no_default_in_the_documentation_is_a_secret() -> None:
    assert not [row for row in reference() if MASK in row[1]]
