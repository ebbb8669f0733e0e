"""The lines of the API's table through real HTTP: embedded, and beside PostgreSQL, Redis, a mail
server, a worker and two web workers. What each line means in detail is tested beside its code."""

import re
from datetime import UTC, datetime

import httpx2 as httpx
import pytest

from api import assert_problem
from deployments import PASSWORD, Person
from servers import wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_an_account_that_is_known_is_answered_as_one_that_is_not(member: Person) -> None:
    known = {"email": member.email, "password": PASSWORD}
    unknown = {"email": f"un{member.email}", "password": PASSWORD}
    answers = [member.client.post("/api/accounts", json=body) for body in (known, unknown)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].content == answers[1].content
    member.deployment.letter(member.email, "You already have an account")


def test_logins_are_refused_alike(member: Person) -> None:
    waiting = Person(member.deployment, f"waiting-{member.email}")
    with waiting.client:
        waiting.register()
    told = set()
    for email, password in (
        (member.email, "not the password"),
        (f"un{member.email}", PASSWORD),
        (waiting.email, PASSWORD),
    ):
        answer = member.client.post("/login", data={"username": email, "password": password})
        body = assert_problem(answer, 401)
        told.add((body["detail"], answer.headers["www-authenticate"]))
    assert len(told) == 1


def test_logins_of_an_account_are_limited(member: Person) -> None:
    """Over a connection each, so that every worker is asked: they count together."""
    guess = {"username": f"un{member.email}", "password": "a guess"}
    url = f"{member.deployment.web.url}/login"
    answers = [httpx.post(url, data=guess, timeout=30) for _ in range(40)]
    limited = [answer for answer in answers if answer.status_code == 429]
    assert 10 <= len(answers) - len(limited) < 15, "ten at once, and one each half minute"
    assert int(limited[0].headers["retry-after"]) > 0
    assert_problem(limited[0], 429)
    assert member.log_in() == 200, "another account is not held off"


def test_a_login_is_a_bearer_token_that_logging_out_ends(member: Person) -> None:
    form = {"username": member.email, "password": PASSWORD}
    other = member.client.post("/login", data=form)
    assert other.json().keys() == {"access_token", "token_type", "expires_in"}
    assert other.headers["cache-control"] == "no-store"
    assert member.client.post("/logout").status_code == 204
    assert_problem(member.client.get("/api/accounts/me"), 401)
    bearer = {"Authorization": f"Bearer {other.json()['access_token']}"}
    me = member.client.get("/api/accounts/me", headers=bearer)
    assert (me.status_code, me.json()["email"]) == (200, member.email)


def test_a_password_is_reset_through_the_api(member: Person) -> None:
    ask, reset = "/api/accounts/password/forgot", "/api/accounts/password/reset"
    emails = (member.email, f"un{member.email}")
    answers = [member.client.post(ask, json={"email": email}) for email in emails]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].content == answers[1].content
    letter = member.deployment.letter(member.email, "Set a new password")
    assert member.deployment.letters(emails[1], "Set a new password") == []
    (token,) = re.findall(r"POST /api/accounts/password/reset:\s+(\S+)", letter.text)
    body = {"token": token, "password": "another long password"}
    assert member.client.post(reset, json=body).status_code == 204
    assert_problem(member.client.post(reset, json=body), 400)
    assert_problem(member.client.get("/api/accounts/me"), 401)
    assert member.log_in("another long password") == 200


def test_a_key_is_shown_once_and_good_until_it_is_deleted(member: Person) -> None:
    next_year = f"{datetime.now(UTC).year + 1}-01-31T12:00:00Z"
    wanted = {"name": "backup", "scopes": ["read"], "expires_at": next_year}
    made = member.client.post("/api/keys", json=wanted)
    assert made.status_code == 201
    key = made.json()["key"]
    listed = member.client.get("/api/keys")
    assert [row["name"] for row in listed.json()["items"]] == ["backup"]
    assert key not in listed.text
    with_key = {"Authorization": f"Bearer {key}"}
    assert member.client.get("/api/accounts/me", headers=with_key).status_code == 200
    assert_problem(member.client.get("/api/keys", headers=with_key), 403)
    path = f"/api/keys/{made.json()['id']}"
    assert member.client.delete(path).status_code == 204
    assert_problem(member.client.delete(path), 404)
    assert_problem(member.client.get("/api/accounts/me", headers=with_key), 401)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/api/accounts/me", 401),
        ("PUT", "/api/keys", 405),
        ("POST", "/api/accounts", 422),
    ],
)
def test_errors_are_problems_under_the_clients_id(
    stranger: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = stranger.request(method, path, headers={"X-Request-ID": "well-formed-1"})
    assert assert_problem(answer, status)["request_id"] == "well-formed-1"
    answer = stranger.request(method, path, headers={"X-Request-ID": "not well formed"})
    assert assert_problem(answer, status)["request_id"] not in ("", "-", "not well formed")


def test_a_request_and_its_job_are_logged_under_its_trace(person: Person) -> None:
    headers = {
        "X-Request-ID": f"traced-{person.email.partition('-')[0]}",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    }
    account = {"email": person.email, "password": PASSWORD}
    answer = person.client.post("/api/accounts", json=account, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"]) == (202, headers["X-Request-ID"])
    logged = {"trace_id": TRACE, "request_id": headers["X-Request-ID"]}
    find = person.deployment.events
    wait_until(lambda: find(message="request", path="/api/accounts", **logged))
    wait_until(lambda: find(message="job_done", task="mail.deliver", **logged), seconds=30)
