"""The cache of public answers. Entries outlive a check, so each asks for a path of its own."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx2 as httpx

from echo import Answer
from nginx import Change, Site
from nginx_checks import new_path
from nginx_checks.answers import values
from servers import wait_until

PREFIX = "/api/public/list-"
PUBLIC = "public, max-age=60"
BRIEF = "public, max-age=1"
RENEWED = f"{BRIEF}, stale-while-revalidate=60"
EXPIRY_SECONDS = 2.1  # of BRIEF: nginx counts whole seconds, and one more
AUTHORIZATION = {"Authorization": "Bearer x"}
# So that some hundred pages fill it.
SMALL: tuple[Change, ...] = (("keys_zone=public:10m", "keys_zone=public:64k"),)


def path_with(site: Site, caching: str | None = PUBLIC, **headers: str) -> str:
    """A new path, and how the app marks its answer."""
    path = new_path(PREFIX)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if caching is not None:
        sent["Cache-Control"] = caching
    site.echo.answers[path] = Answer(headers=tuple(sent.items()))
    return path


def public_answers_are_kept(site: Site) -> None:
    for caching in (PUBLIC, "max-age=60, public", "s-maxage=60,public", "Public, max-age=60"):
        path = path_with(site, caching)
        texts = {site.nginx.ask(path).text for _ in range(3)}
        assert (site.echo.counted(path), len(texts)) == (1, 1), caching


def answers_that_are_not_marked_are_not_kept(site: Site) -> None:
    marks = (None, "max-age=60", "s-maxage=60", "private, max-age=60", "no-store", "no-cache")
    marks += ("public, no-store", "public, private, max-age=60", "x-public, max-age=60")
    for caching in marks:
        path = path_with(site, caching)
        for _ in range(2):
            site.nginx.ask(path)
        assert site.echo.counted(path) == 2, caching


def other_ways_to_mark_an_answer_do_not_count(site: Site) -> None:
    for name, value in (("X-Accel-Expires", "60"), ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")):
        path = path_with(site, None, **{name: value})
        for _ in range(2):
            site.nginx.ask(path)
        assert site.echo.counted(path) == 2, name


def answers_with_a_cookie_are_not_kept(site: Site) -> None:
    path = path_with(site, Set_Cookie="session=1")
    for _ in range(2):
        assert site.nginx.ask(path).headers["set-cookie"] == "session=1"
    assert site.echo.counted(path) == 2


def nobody_gets_what_another_was_given(site: Site) -> None:
    """Neither stored from a request with credentials, nor an answer to one."""
    for credentials in (AUTHORIZATION, {"Cookie": "session=1"}):
        path = path_with(site)
        site.nginx.ask(path, headers=credentials)
        assert "session" not in site.nginx.ask(path).text
        assert "Bearer" not in site.nginx.ask(path).text
        assert site.echo.counted(path) == 2
        site.nginx.ask(path, headers=credentials)
        assert site.echo.counted(path) == 3
        assert "authorization" not in site.nginx.ask(path).text
        assert site.echo.counted(path) == 3


def hosts_do_not_share_answers(site: Site) -> None:
    path = path_with(site)
    site.nginx.ask(path)
    other = site.nginx.ask(path, host="a.wild.example", sni="a.wild.example")
    assert "a.wild.example" in other.text
    assert site.echo.counted(path) == 2


def queries_do_not_share_answers(site: Site) -> None:
    path = path_with(site)
    for query in ("", "?cursor=1", "?cursor=2", "?cursor=1"):
        assert f'"target": "{path}{query}"' in site.nginx.ask(path + query).text
    assert site.echo.counted(path) == 3


def other_paths_are_not_kept(site: Site) -> None:
    path = new_path("/api/list-")
    site.echo.answers[path] = Answer(headers=(("Cache-Control", PUBLIC),))
    for _ in range(2):
        site.nginx.ask(path)
    assert site.echo.counted(path) == 2


def many_who_ask_at_once_cost_one_request(site: Site) -> None:
    path = path_with(site)
    site.echo.answers[path].delay_seconds = 0.7
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(site.nginx.ask, [path] * 20))
    assert {answer.status_code for answer in answers} == {200}
    assert site.echo.counted(path) == 1


def an_old_answer_is_better_than_none(site: Site) -> None:
    path = path_with(site, BRIEF)
    fresh = site.nginx.ask(path)
    time.sleep(EXPIRY_SECONDS)
    site.echo.go_away()
    try:
        for _ in range(3):
            answer = site.nginx.ask(path)
            assert (answer.status_code, answer.text) == (200, fresh.text)
    finally:
        site.echo.come_back()


def an_old_answer_is_better_than_an_error(site: Site) -> None:
    paths = {status: path_with(site, BRIEF) for status in (500, 502, 503, 504)}
    texts = {path: site.nginx.ask(path).text for path in paths.values()}
    time.sleep(EXPIRY_SECONDS)
    for status, path in paths.items():
        site.echo.answers[path] = Answer(status)
        answers = [site.nginx.ask(path) for _ in range(2)]
        assert {(answer.status_code, answer.text) for answer in answers} == {(200, texts[path])}


def only_one_waits_while_an_answer_is_renewed(site: Site) -> None:
    """Where the answer allows it."""
    path = path_with(site, RENEWED)
    old = site.nginx.ask(path)
    with ThreadPoolExecutor(1) as threads:
        first = renewing(site, path, threads)
        others = [site.nginx.ask(path).text for _ in range(5)]
        site.echo.release(path)
        assert set(others) == {old.text}
        assert first.result().text == "new"
    assert site.echo.counted(path) == 2


def an_old_answer_is_not_given_because_another_asks(site: Site) -> None:
    path = path_with(site, BRIEF)
    site.nginx.ask(path)
    with ThreadPoolExecutor(6) as threads:
        first = renewing(site, path, threads)
        others = [threads.submit(site.nginx.ask, path) for _ in range(5)]
        wait_until(lambda: site.echo.begun[path] == 7 or all(each.done() for each in others))
        site.echo.release(path)
        assert {each.result().text for each in (first, *others)} == {"new"}


def renewing(site: Site, path: str, threads: ThreadPoolExecutor) -> Future[httpx.Response]:
    """Somebody asks for what has expired, and the app takes its time."""
    time.sleep(EXPIRY_SECONDS)
    site.echo.answers[path] = Answer(200, (("Cache-Control", PUBLIC),), b"new", delay_seconds=8)
    first = threads.submit(site.nginx.ask, path)
    wait_until(lambda: site.echo.begun[path] == 2)
    return first


def an_old_answer_is_not_given_when_there_is_a_new_one(site: Site) -> None:
    """Also to the first who asks: an item that is no longer public must not show up hours later."""
    path = path_with(site, BRIEF)
    site.nginx.ask(path)
    time.sleep(EXPIRY_SECONDS)
    site.echo.answers[path] = Answer(200, (("Cache-Control", PUBLIC),), b"new")
    assert site.nginx.ask(path).text == "new"


def a_preview_that_is_gone_takes_the_old_ones_place(site: Site) -> None:
    """Or the old one would be seen by everybody again as soon as the app is away."""
    path = f"{new_path('/media/')}/thumbnail"
    site.echo.answers[path] = Answer(headers=(("Cache-Control", BRIEF),))
    site.nginx.ask(path)
    time.sleep(EXPIRY_SECONDS)
    site.echo.answers[path] = Answer(404, (("Cache-Control", BRIEF),), b"gone")
    assert site.nginx.ask(path).status_code == 404
    time.sleep(EXPIRY_SECONDS)
    site.echo.go_away()
    try:
        assert site.nginx.ask(path).text == "gone"
    finally:
        site.echo.come_back()


# media: from here
def made_up_pages_push_out_no_preview(site: Site) -> None:
    """Of a site whose cache of pages is SMALL."""
    preview, page = f"{new_path('/media/')}/thumbnail", path_with(site)
    site.echo.answers[preview] = Answer(headers=(("Cache-Control", PUBLIC),))
    site.nginx.ask(preview)
    for cursor in range(1000):
        site.nginx.ask(f"{page}?cursor={cursor}")
    site.nginx.ask(preview)
    assert site.echo.counted(preview) == 1


# media: to here


def an_answer_that_has_not_changed_is_not_sent_again(site: Site) -> None:
    path = path_with(site, BRIEF, ETag='"v1"')
    fresh = site.nginx.ask(path)
    time.sleep(EXPIRY_SECONDS)
    assert site.nginx.ask(path).text == fresh.text
    assert site.echo.counted(path) == 2
    assert site.echo.last(path).values("if-none-match") == ['"v1"']
    assert site.nginx.ask(path).text == fresh.text


def a_client_may_ask_whether_it_has_changed(site: Site) -> None:
    path = path_with(site, ETag='"v1"')
    for _ in range(2):
        answer = site.nginx.ask(path, headers={"If-None-Match": '"v1"'})
        assert (answer.status_code, values(answer, "etag")) == (304, ['"v1"'])
    assert site.nginx.ask(path).status_code == 200


def each_answer_has_the_id_of_its_request(site: Site) -> None:
    path = path_with(site)
    for given in ("request-1", "request-2"):
        answer = site.nginx.ask(path, headers={"X-Request-ID": given})
        assert values(answer, "x-request-id") == [given]


CHECKS = [
    public_answers_are_kept,
    answers_that_are_not_marked_are_not_kept,
    other_ways_to_mark_an_answer_do_not_count,
    answers_with_a_cookie_are_not_kept,
    nobody_gets_what_another_was_given,
    hosts_do_not_share_answers,
    queries_do_not_share_answers,
    other_paths_are_not_kept,
    many_who_ask_at_once_cost_one_request,
    an_old_answer_is_better_than_none,
    an_old_answer_is_better_than_an_error,
    only_one_waits_while_an_answer_is_renewed,
    an_old_answer_is_not_given_because_another_asks,
    an_old_answer_is_not_given_when_there_is_a_new_one,
    a_preview_that_is_gone_takes_the_old_ones_place,  # media
    an_answer_that_has_not_changed_is_not_sent_again,
    a_client_may_ask_whether_it_has_changed,
    each_answer_has_the_id_of_its_request,
]
