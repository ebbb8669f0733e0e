"""Accounts on real processes: while Redis is away, over a change of SECRET_KEY, and with mail
servers that want STARTTLS and a login, or refuse."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2 as httpx
import pytest

from deployments import PASSWORD, Deployment, Person, working
from mail_server import mail_server, make_certificate, server_context
from servers import RedisServer, Web, wait_until

MakeWeb = Callable[..., Web]

KEY = "k3y-0f-the-t3sts-k3y-0f-the-t3sts"
NEW_KEY = "th3-n3w-k3y-th3-n3w-k3y-th3-n3w-k3y"
AT_ONCE = 10  # logins of an account, where LOGIN_ATTEMPTS is not set
WORKERS = 2


@pytest.fixture
def environment(database_url: str, own_redis: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": own_redis.url,
        "UPLOAD_FOLDER": str(tmp_path / "uploads"),
        "SECRET_KEY": KEY,
        "WEB_CONCURRENCY": str(WORKERS),
    }


@pytest.mark.parametrize("how", ["stop", "freeze"])
def test_while_redis_is_away_each_worker_limits_logins(
    make_web: MakeWeb, environment: dict[str, str], own_redis: RedisServer, how: str
) -> None:
    web = make_web(environment, wait="/health/ready")
    getattr(own_redis, how)()
    guess = {"username": "ada@example.org", "password": "a guess"}
    answers = [httpx.post(f"{web.url}/login", data=guess, timeout=30) for _ in range(60)]
    told = Counter(answer.status_code for answer in answers)
    assert told.keys() == {401, 429}
    assert AT_ONCE <= told[401] < WORKERS * (AT_ONCE + 3)  # and one each half minute
    assert all("retry-after" in a.headers for a in answers if a.status_code == 429)


def confirmation_of(person: Person) -> str:
    (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", person.register())
    return token


@pytest.mark.parametrize(("fallbacks", "status"), [(KEY, 204), ("", 400)])
def test_a_mailed_link_is_good_as_long_as_its_key_is_known(
    make_web: MakeWeb, embedded_environment: dict[str, str], fallbacks: str, status: int
) -> None:
    web = make_web(embedded_environment | {"SECRET_KEY": KEY}, wait="/health/ready")
    person = Person(Deployment(web, (web.log_path,)), "ada@example.org")
    with person.client:
        token = confirmation_of(person)
        web.stop()
        keys = {"SECRET_KEY": NEW_KEY, "SECRET_KEY_FALLBACKS": fallbacks}
        web.environment = {**web.environment, **keys}
        web.start(wait="/health/ready")
        answer = person.client.post("/api/accounts/confirm", json={"token": token})
        assert answer.status_code == status
        assert person.log_in() == (200 if status == 204 else 401)


def test_the_worker_mails_with_starttls_and_a_login(
    make_web: MakeWeb, environment: dict[str, str], tmp_path: Path
) -> None:
    """As MAIL_USE_TLS is where nobody sets it, with an authority that the operator added."""
    certificate, key = make_certificate(tmp_path)
    context = server_context(certificate, key)
    with mail_server(
        tls_context=context, require_starttls=True, user="ann", password="s3same"
    ) as mail:
        login = {
            "MAIL_SERVER": "localhost",
            "MAIL_PORT": str(mail.port),
            "MAIL_USERNAME": "ann",
            "MAIL_PASSWORD": "s3same",
            "SSL_CERT_FILE": str(certificate),
        }
        web = make_web(environment | login, wait="/health/ready")
        with working(environment | login, tmp_path) as log:
            person = Person(Deployment(web, (web.log_path, log), mail), "ada@example.org")
            with person.client:
                assert confirmation_of(person)
        assert (mail.encrypted, mail.recipients) == ([True], ["ada@example.org"])
        assert mail.logins >= 1


def test_a_mail_that_is_refused_for_now_is_sent_later_and_one_for_good_never(
    make_web: MakeWeb, environment: dict[str, str], tmp_path: Path
) -> None:
    with mail_server() as mail:
        sender = {
            "MAIL_SERVER": "127.0.0.1",
            "MAIL_PORT": str(mail.port),
            "MAIL_USE_TLS": "false",
        }
        web = make_web(environment | sender, wait="/health/ready")
        with working(environment | sender, tmp_path) as log:
            deployment = Deployment(web, (web.log_path, log), mail)

            def asks(email: str) -> None:
                body = {"email": email, "password": PASSWORD}
                assert web_post(web, "/api/accounts", body) == 202

            mail.answers["RCPT"] = "550 5.1.1 No such mailbox"
            asks("nobody@example.org")
            wait_until(lambda: deployment.events(message="mail_refused"), seconds=60)
            mail.answers["RCPT"] = "450 4.2.1 Try again later"
            asks("ada@example.org")
            wait_until(
                lambda: deployment.events(message="job_retried", task="mail.deliver"), seconds=60
            )
            mail.answers.clear()
            assert deployment.letter("ada@example.org", "Confirm your account")
            assert mail.recipients == ["ada@example.org"]


def web_post(web: Web, path: str, body: dict[str, str]) -> int:
    return httpx.post(f"{web.url}{path}", json=body, timeout=30).status_code
