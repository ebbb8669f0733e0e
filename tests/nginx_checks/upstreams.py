"""The way to the app: connections, what is asked again and of whom. PAIR and BACKUP sites."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from echo import Answer
from nginx import Site
from nginx_checks import new_path
from nginx_checks.answers import assert_problem
from servers import wait_until

SHORT_READ = ("proxy_read_timeout            60s;", "proxy_read_timeout            5s;")


def asked(site: Site, path: str) -> int:
    return site.echo.counted(path) + site.second.counted(path)


def connections_are_kept(site: Site) -> None:
    before = site.echo.connections
    for _ in range(30):
        site.nginx.ask("/kept-alive")
    assert site.echo.connections - before <= 2  # one for each of nginx's workers


def nginx_closes_idle_connections_first(site: Site) -> None:
    """After 4 seconds: sooner than an app that drains."""
    path = new_path("/idle-")
    site.nginx.ask(path)
    begun = time.monotonic()
    wait_until(lambda: site.echo.open_connections == 0, seconds=10)
    assert time.monotonic() - begun > 2


def both_are_asked(site: Site) -> None:
    path = new_path("/shared-")
    for _ in range(20):
        site.nginx.ask(path)
    assert min(site.echo.counted(path), site.second.counted(path)) > 0


def a_request_that_was_cut_is_asked_of_the_other(site: Site) -> None:
    path = new_path("/cut-")
    for echo in (site.echo, site.second):
        echo.answers[path] = Answer(resets=1)
    assert [site.nginx.ask(path).status_code for _ in range(2)] in ([200, 200], [502, 200])
    assert asked(site, path) in (3, 4)


def a_post_that_was_sent_is_not_sent_again(site: Site) -> None:
    path = new_path("/cut-")
    for echo in (site.echo, site.second):
        echo.answers[path] = Answer(resets=9)
    assert_problem(site.nginx.ask(path, "POST", content=b"pay"), 502)
    assert asked(site, path) == 1


def a_failure_takes_nobody_out(site: Site) -> None:
    path = new_path("/cut-")
    for _ in range(3):
        for echo in (site.echo, site.second):
            echo.answers[path] = Answer(resets=1)
        site.nginx.ask(path, "POST")
        both_are_asked(site)


def a_slow_request_is_not_asked_twice(site: Site) -> None:
    """With SHORT_READ; and it takes nobody out either."""
    path = new_path("/slow-")
    for echo in (site.echo, site.second):
        echo.answers[path] = Answer(delay_seconds=14)
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(site.nginx.ask, [path] * 4))
    assert 4 < time.monotonic() - begun < 9.5
    for answer in answers:
        assert_problem(answer, 504)
    assert asked(site, path) == 4
    both_are_asked(site)


def the_backup_is_not_asked(site: Site) -> None:
    for _ in range(10):
        site.nginx.ask("/primary")
    assert site.second.counted("/primary") == 0


def the_backup_takes_over_at_once(site: Site) -> None:
    """Also a POST, as nothing was sent."""
    site.echo.go_away()
    path = new_path("/deployed-")
    try:
        begun = time.monotonic()
        for method in ("GET", "POST", "PUT", "DELETE") * 5:
            answer = site.nginx.ask(path, method, content=b"x")
            assert answer.status_code == 200
            assert answer.headers["x-answered-by"] == "second"
        assert time.monotonic() - begun < 3
    finally:
        site.echo.come_back()
    names = [site.nginx.ask(path).headers["x-answered-by"] for _ in range(5)]
    assert names == ["echo"] * 5


def no_request_fails_while_one_takes_over_from_the_other(site: Site) -> None:
    path = new_path("/deploy-")

    def ask(method: str) -> tuple[str, int]:
        time.sleep(0.01)
        return method, site.nginx.ask(path, method, content=b"x").status_code

    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(ask, method) for method in ("GET", "POST") * 100]
        time.sleep(0.1)
        site.echo.drain()
        time.sleep(0.3)
        answers += [threads.submit(ask, method) for method in ("GET", "POST") * 100]
        site.echo.come_back()
        statuses = Counter(answer.result()[1] for answer in answers)
    assert statuses == {200: 400}
    assert site.second.counted(path) > 0


def an_app_that_is_away_is_a_problem(site: Site) -> None:
    site.echo.go_away()
    try:
        begun = time.monotonic()
        for method in ("GET", "POST"):
            assert_problem(site.nginx.ask("/away", method), 502)
        assert time.monotonic() - begun < 2
        assert site.nginx.internal("/nginx-health").status_code == 200
    finally:
        site.echo.come_back()
    assert site.nginx.ask("/away").status_code == 200


SINGLE = [
    connections_are_kept,
    nginx_closes_idle_connections_first,
    an_app_that_is_away_is_a_problem,
]
PAIRED = [
    both_are_asked,
    a_request_that_was_cut_is_asked_of_the_other,
    a_post_that_was_sent_is_not_sent_again,
    a_failure_takes_nobody_out,
    a_slow_request_is_not_asked_twice,
]
WITH_BACKUP = [
    the_backup_is_not_asked,
    the_backup_takes_over_at_once,
    no_request_fails_while_one_takes_over_from_the_other,
]
