"""How often a client may ask, and how much it may send. The rates need a LIMITED site."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack  # media

import http2  # media
from echo import Answer
from nginx import Site
from nginx_checks import new_client, new_path
from servers import wait_until

KIB = 1024
UPLOAD_BYTES = 16 * KIB * KIB + 64 * KIB  # media
SLACK = 6  # what the rate lets through while a burst is being sent


def statuses(site: Site, times: int, path: str, method: str = "GET", **client: str) -> list[int]:
    """Of as many requests of one client as fast as they go."""
    headers = client or new_client()
    return [site.nginx.ask(path, method, headers=headers).status_code for _ in range(times)]


def assert_limited(answers: list[int], burst: int, slack: int = SLACK) -> None:
    """One and the burst are served at once, the others refused at once."""
    assert set(answers) == {200, 429}
    served = answers.count(200)
    assert burst < served <= burst + 1 + slack, f"{served} were served"
    assert answers[: burst + 1] == [200] * (burst + 1)


def the_api_is_limited(site: Site) -> None:
    begun = time.monotonic()
    answers = statuses(site, 60, "/api/keys")
    assert time.monotonic() - begun < 3, "requests were queued"
    assert_limited(answers, 20, 30)


def logging_in_is_limited_more(site: Site) -> None:
    assert_limited(statuses(site, 15, "/login", "POST"), 5)


def what_sends_mail_or_checks_a_secret_is_limited_more(site: Site) -> None:
    """One budget for all of it."""
    client = new_client()
    paths = ["/login", "/api/accounts", "/api/accounts/confirm", "/confirm", "/reset"]
    paths += ["/api/accounts/password/forgot", "/api/accounts/password/reset"]
    answers = [statuses(site, 1, path, "POST", **client)[0] for path in paths * 3]
    assert_limited(answers, 5)
    for path in paths:
        client = new_client()
        assert_limited(statuses(site, 12, path, "POST", **client), 5)


def reading_is_not_limited_as_logging_in_is(site: Site) -> None:
    for path in ("/api/accounts/me", "/confirm?token=x", "/reset?token=x"):
        assert set(statuses(site, 15, path)) == {200}


def a_disguised_login_is_limited_as_well(site: Site) -> None:
    client = [f"{name}: {value}" for name, value in new_client().items()]
    paths = ("/login", "//login", "/./login", "/%6cogin", "/x/../login", "/login?a=b", "/login/")
    answers = []
    for path in paths * 2:
        with site.nginx.connect() as connection:  # as a client library would tidy it up
            connection.sendall(site.nginx.head("POST", path, "Content-Length: 0", *client))
            answers.append(int(connection.recv(100).split()[1]))
    assert_limited(answers, 5)


# media: from here
def a_gallery_is_not_limited_as_the_api_is(site: Site) -> None:
    client = new_client()
    assert set(statuses(site, 150, "/media/1/thumbnail", **client)) == {200}
    assert set(statuses(site, 15, "/api/media", **client)) == {200}


# media: to here


def files_are_not_limited_as_the_api_is(site: Site) -> None:
    client = new_client()
    assert set(statuses(site, 150, "/static/none.css", **client)) == {200}
    assert set(statuses(site, 15, "/api/keys", **client)) == {200}


def files_are_limited_too(site: Site) -> None:
    """200 at once, and 50 a second; faster than one after the other can be asked on any machine."""
    client, begun = new_client(), time.monotonic()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(statuses, site, 75, "/static/none.css", **client) for _ in range(8)]
        answers = [status for future in asked for status in future.result()]
    took = time.monotonic() - begun
    assert set(answers) == {200, 429}
    assert 200 < answers.count(200) <= 210 + 50 * took


def ipv6_clients_are_counted_by_network(site: Site) -> None:
    same = [f"2001:db8:1:2::{number:x}" for number in range(1, 16)]
    asked = [statuses(site, 1, "/login", "POST", **{"X-Forwarded-For": ip})[0] for ip in same]
    assert_limited(asked, 5)
    other = [f"2001:db8:1:{number:x}::1" for number in range(16, 32)]
    asked = [statuses(site, 1, "/login", "POST", **{"X-Forwarded-For": ip})[0] for ip in other]
    assert set(asked) == {200}


def a_client_has_so_many_requests_at_once(site: Site) -> None:
    """128, as many as one HTTP/2 connection can ask."""
    client, path = new_client(), new_path("/static/slow-")
    site.echo.answers[path] = Answer(delay_seconds=20)

    def ask(headers: dict[str, str]) -> int:
        return site.nginx.ask(path, headers=headers).status_code

    with ThreadPoolExecutor(161) as threads:
        same = [threads.submit(ask, client) for _ in range(160)]
        other = threads.submit(ask, new_client())
        asking = [*same, other]
        wait_until(lambda: site.echo.begun[path] + sum(each.done() for each in asking) == 161)
        site.echo.release(path)
        answers = [future.result() for future in same]
        assert (answers.count(200), answers.count(429)) == (128, 32)
        assert other.result() == 200


def a_refusal_says_when_to_come_back(site: Site) -> None:
    client = new_client()
    answers = [site.nginx.ask("/login", "POST", headers=client) for _ in range(8)]
    assert answers[-1].status_code == 429
    assert answers[-1].headers.get("retry-after") == "1"
    assert answers[-1].json()["title"] == "Too Many Requests"


def probes_inside_are_not_limited(site: Site) -> None:
    asked = [site.nginx.internal("/health/ready").status_code for _ in range(60)]
    assert set(asked) == {200}


# media: from here
def uploads_may_be_as_large_as_the_app_takes(site: Site) -> None:
    answer = site.nginx.ask("/api/media", "POST", content=bytes(UPLOAD_BYTES))
    assert answer.status_code == 200
    assert answer.json()["length"] == UPLOAD_BYTES


def uploads_are_limited(site: Site) -> None:
    asked = site.echo.counted("/api/media")
    answer = site.nginx.ask("/api/media", "POST", content=bytes(UPLOAD_BYTES + 1))
    assert answer.status_code == 413
    assert site.echo.counted("/api/media") == asked


def uploads_without_a_length_are_limited(site: Site) -> None:
    pieces = (bytes(KIB * KIB) for _ in range(18))
    with site.nginx.connect() as connection:
        lines = ("Transfer-Encoding: chunked", "Connection: close")
        connection.sendall(site.nginx.head("POST", "/api/media", *lines))
        try:
            for piece in pieces:
                connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # it hangs up on who sends on
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def what_is_no_upload_is_as_small_as_all_else(site: Site) -> None:
    """By whatever method: it is not counted with uploads."""
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "LOCK"):
        path = f"/api/media?q=%2F{method}"
        small = site.nginx.ask(path, method, content=bytes(64 * KIB))
        assert (small.status_code, small.json()["length"]) == (200, 64 * KIB)
        assert small.json()["target"] == path
        assert site.nginx.ask(path, method, content=bytes(64 * KIB + 1)).status_code == 413
    assert site.nginx.ask("/_media_list").status_code == 404


def a_client_sends_so_many_uploads_at_once(site: Site) -> None:
    """What it has not sent yet counts; what else it asks does not."""

    def upload() -> int:
        return site.nginx.ask("/api/media", "POST", content=b"x").status_code

    with ExitStack() as opened:
        for _ in range(16):
            connection = opened.enter_context(site.nginx.connect())
            connection.sendall(site.nginx.head("POST", "/api/media", "Content-Length: 9") + b"x")
        time.sleep(0.5)
        assert upload() == 429
        assert site.nginx.ask("/api/media").status_code == 200
        assert site.nginx.ask("/api/keys", "POST", content=b"x").status_code == 200
    time.sleep(0.5)
    assert upload() == 200


def all_send_so_many_uploads_at_once(site: Site) -> None:
    """What their bodies take of the disk is bounded, however many clients send them."""
    clients = [new_client() for _ in range(25)]

    def ask(method: str) -> int:
        return site.nginx.ask("/api/media", method, headers=new_client()).status_code

    with ExitStack() as opened:
        for _ in range(4):
            opened.enter_context(http2.uploading(site.nginx, "/api/media", clients * 4))
        wait_until(lambda: ask("POST") == 429)
        assert ask("GET") == 200
    wait_until(lambda: ask("POST") == 200)


# media: to here


def other_bodies_are_small(site: Site) -> None:
    for path in (
        *("/login", "/", "/api/keys", "/api/public/list", "/confirm"),
        *("/api/media/1", "/media/1/a"),  # media
    ):
        small = site.nginx.ask(path, "POST", content=bytes(64 * KIB))
        assert (small.status_code, small.json()["length"]) == (200, 64 * KIB)
        assert site.nginx.ask(path, "POST", content=bytes(64 * KIB + 1)).status_code == 413


def a_password_never_touches_a_disk(site: Site) -> None:
    """Bodies up to the limit stay in memory: nginx would warn of a temporary file."""
    path = new_path("/login-")
    site.nginx.ask(path, "POST", content=bytes(64 * KIB))
    assert f"POST {path} " not in site.nginx.errors


def the_app_gets_whole_bodies_alone(site: Site) -> None:
    """A slow client holds nginx, and not the app."""
    path = "/api/keys"
    begun = site.echo.begun[path]
    with site.nginx.connect() as connection:
        lines = ("Content-Length: 60000", "Connection: close")
        connection.sendall(site.nginx.head("POST", path, *lines) + bytes(30_000))
        time.sleep(0.5)
        assert site.echo.begun[path] == begun
        connection.sendall(bytes(30_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert len(site.echo.last(path).body) == 60_000


RATES = [
    the_api_is_limited,
    logging_in_is_limited_more,
    what_sends_mail_or_checks_a_secret_is_limited_more,
    reading_is_not_limited_as_logging_in_is,
    a_disguised_login_is_limited_as_well,
    a_gallery_is_not_limited_as_the_api_is,  # media
    files_are_not_limited_as_the_api_is,
    files_are_limited_too,
    ipv6_clients_are_counted_by_network,
    a_client_has_so_many_requests_at_once,
    all_send_so_many_uploads_at_once,  # media
    a_refusal_says_when_to_come_back,
    probes_inside_are_not_limited,
]
SIZES = [
    # media: from here
    uploads_may_be_as_large_as_the_app_takes,
    uploads_are_limited,
    uploads_without_a_length_are_limited,
    what_is_no_upload_is_as_small_as_all_else,
    a_client_sends_so_many_uploads_at_once,
    # media: to here
    other_bodies_are_small,
    a_password_never_touches_a_disk,
    the_app_gets_whole_bodies_alone,
]
