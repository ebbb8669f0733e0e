"""What every answer carries, and errors."""

from __future__ import annotations

import re
import socket

import httpx2 as httpx

from echo import Answer
from nginx import Site
from nginx_checks import new_path

SECURITY = {
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "content-security-policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
MEDIA_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
RETRYABLE = (429, 502, 503, 504)
LONG = "x" * 9000


def values(answer: httpx.Response, name: str) -> list[str]:
    return answer.headers.get_list(name)


def assert_secure(answer: httpx.Response, **other: str) -> None:
    """Every security header once; `other` are those that differ."""
    changed = {name.replace("_", "-"): value for name, value in other.items()}
    for name, value in {**SECURITY, **changed}.items():
        assert values(answer, name) == ([value] if value else []), name


def assert_problem(answer: httpx.Response, status: int) -> None:
    """nginx's own problem: whole, under the id in its header, and kept by no cache."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert list(problem) == ["type", "title", "status", "detail", "request_id"]
    assert problem["type"] == "about:blank"
    assert problem["status"] == status
    assert problem["title"] not in ("", "Error")
    assert problem["detail"].endswith(".")
    assert values(answer, "x-request-id") == [problem["request_id"]]
    assert re.fullmatch("[0-9a-f]{32}", problem["request_id"])
    assert values(answer, "cache-control")[-1:] == ["no-store"]
    retry = values(answer, "retry-after")
    assert len(retry) == (1 if status in RETRYABLE else 0)
    assert "nginx/" not in answer.headers["server"]


def by_hand(site: Site, request: bytes, port: int | None = None) -> httpx.Response:
    """The answer to bytes, in plain text where a port is given."""
    address = ("127.0.0.1", port or 0)
    with socket.create_connection(address, 10) if port else site.nginx.connect() as connection:
        connection.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got or not got.endswith(b"}"):
            data = connection.recv(65536)
            if not data:
                break
            got += data
    head, _, body = got.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first, "no answer"
    return httpx.Response(
        int(first.split()[1]), headers=[tuple(line.split(": ", 1)) for line in lines], content=body
    )


def security_headers_come_with_an_answer_of_the_app(site: Site) -> None:
    assert_secure(site.nginx.ask("/anything"))


def security_headers_come_with_an_error_of_the_app(site: Site) -> None:
    path = new_path("/error-")
    site.echo.answers[path] = Answer(500)
    assert_secure(site.nginx.ask(path))


def security_headers_come_with_a_static_file(site: Site) -> None:
    (site.nginx.folder("static") / "page.0123abcd.css").write_text("a{}")
    answer = site.nginx.ask("/static/page.0123abcd.css")
    assert "x-answered-by" not in answer.headers
    assert_secure(answer)


def security_headers_come_with_an_error_of_nginx(site: Site) -> None:
    assert_secure(site.nginx.ask("/metrics"))


def security_headers_come_with_a_redirect(site: Site) -> None:
    assert_secure(site.nginx.plain("/"), strict_transport_security="")


def security_headers_come_inside(site: Site) -> None:
    assert_secure(site.nginx.internal("/health"), strict_transport_security="")


def security_headers_that_the_app_sent_come_once(site: Site) -> None:
    path = new_path("/secured-")
    site.echo.answers[path] = Answer(headers=tuple(SECURITY.items()))
    assert_secure(site.nginx.ask(path))


def the_apps_own_policy_is_kept(site: Site) -> None:
    path = new_path("/page-")
    policy = "default-src 'none'; style-src 'self'; form-action 'self'"
    site.echo.answers[path] = Answer(headers=(("Content-Security-Policy", policy),))
    assert_secure(site.nginx.ask(path), content_security_policy=policy)


def the_apps_own_caching_is_kept(site: Site) -> None:
    path = new_path("/page-")
    site.echo.answers[path] = Answer(404, headers=(("Cache-Control", "private, no-cache"),))
    assert values(site.nginx.ask(path), "cache-control") == ["private, no-cache"]


def no_version_is_told(site: Site) -> None:
    path = new_path("/proud-")
    proud = (("Server", "uvicorn/1"), ("X-Powered-By", "Python"))
    site.echo.answers[path] = Answer(headers=proud)
    answer = site.nginx.ask(path)
    assert values(answer, "server") == ["nginx"]
    assert "x-powered-by" not in answer.headers


def http3_is_offered_at_the_public_port(site: Site) -> None:
    offered = [f'h3=":{site.nginx.port}"; ma=86400'] if site.nginx.kind == "image" else []
    assert values(site.nginx.ask("/"), "alt-svc") == offered
    assert values(site.nginx.plain("/"), "alt-svc") == []


def a_malformed_request_is_a_problem(site: Site) -> None:
    request = site.nginx.head("GET", "/", "Content-Length: x", "Connection: close")
    assert_problem(by_hand(site, request), 400)


def two_framings_are_a_problem(site: Site) -> None:
    framings = ("Content-Length: 3", "Transfer-Encoding: chunked")
    request = site.nginx.head("POST", "/smuggled", *framings, "Connection: close")
    assert_problem(by_hand(site, request + b"0\r\n\r\n"), 400)
    assert site.echo.counted("/smuggled") == 0


def an_unknown_coding_is_the_clients_fault(site: Site) -> None:
    request = site.nginx.head("POST", "/coded", "Transfer-Encoding: br", "Connection: close")
    assert_problem(by_hand(site, request + b"0\r\n\r\n"), 400)
    assert site.echo.counted("/coded") == 0


def an_unknown_version_is_the_clients_fault(site: Site) -> None:
    request = site.nginx.head("GET", "/", "Connection: close").replace(b"HTTP/1.1", b"HTTP/9.9")
    assert_problem(by_hand(site, request), 400)


def plain_http_on_the_tls_port_is_a_problem(site: Site) -> None:
    assert_problem(by_hand(site, site.nginx.head("GET", "/"), site.nginx.port), 400)


def what_is_not_there_is_a_problem(site: Site) -> None:
    assert_problem(site.nginx.ask("/metrics/style.css"), 404)


def a_post_to_a_file_is_a_problem(site: Site) -> None:
    (site.nginx.folder("static") / "page.0123abce.css").write_text("a{}")
    assert_problem(site.nginx.ask("/static/page.0123abce.css", "POST"), 405)


def a_large_body_is_a_problem(site: Site) -> None:
    assert_problem(site.nginx.ask("/", "POST", content=bytes(64 * 1024 + 1)), 413)


def a_long_address_is_a_problem(site: Site) -> None:
    request = site.nginx.head("GET", f"/{LONG}", "Connection: close")
    assert_problem(by_hand(site, request), 414)


def another_host_in_the_request_is_a_problem(site: Site) -> None:
    assert_problem(site.nginx.ask("/foreign", host="example.net"), 421)
    assert site.echo.counted("/foreign") == 0


def a_long_header_is_a_problem(site: Site) -> None:
    request = site.nginx.head("GET", "/", f"X-Long: {LONG}", "Connection: close")
    assert_problem(by_hand(site, request), 431)


def an_upstream_that_hangs_up_is_a_problem(site: Site) -> None:
    path = new_path("/cut-")
    site.echo.answers[path] = Answer(resets=9)
    assert_problem(site.nginx.ask(path, "POST"), 502)


def errors_of_the_app_pass(site: Site) -> None:
    for status in (400, 404, 413, 422, 429, 500, 502, 503, 504):
        path = new_path("/error-")
        problem = (("Retry-After", "7"), ("Allow", "GET"))
        site.echo.answers[path] = Answer(status, problem, b"the app's", "text/x-own")
        answer = site.nginx.ask(path)
        assert (answer.status_code, answer.text) == (status, "the app's")
        assert answer.headers["content-type"] == "text/x-own"
        assert values(answer, "retry-after") == ["7"]
        assert values(answer, "cache-control") == ["no-store"]


def a_request_id_is_kept(site: Site) -> None:
    for given in ("12345678", "a.b_c-D9" * 8):
        answer = site.nginx.ask("/id", headers={"X-Request-ID": given})
        assert values(answer, "x-request-id") == [given]
        assert site.echo.last("/id").values("x-request-id") == [given]


def a_malformed_request_id_is_replaced(site: Site) -> None:
    for given in ("1234567", "x" * 65, "abcdefgh!", 'a"b c,defgh', "12345678\t9", "ü" * 8):
        answer = site.nginx.ask("/id", headers={"X-Request-ID": given.encode("latin-1")})
        [made] = values(answer, "x-request-id")
        assert re.fullmatch("[0-9a-f]{32}", made)
        assert site.echo.last("/id").values("x-request-id") == [made]
        site.nginx.line(request_id=made, path="/id")


def a_request_id_of_the_app_comes_once(site: Site) -> None:
    path = new_path("/id-")
    site.echo.answers[path] = Answer(headers=(("X-Request-ID", "that-of-the-app"),))
    answer = site.nginx.ask(path, headers={"X-Request-ID": "that-of-the-client"})
    assert values(answer, "x-request-id") == ["that-of-the-client"]


CHECKS = [
    security_headers_come_with_an_answer_of_the_app,
    security_headers_come_with_an_error_of_the_app,
    security_headers_come_with_a_static_file,
    security_headers_come_with_an_error_of_nginx,
    security_headers_come_with_a_redirect,
    security_headers_come_inside,
    security_headers_that_the_app_sent_come_once,
    the_apps_own_policy_is_kept,
    the_apps_own_caching_is_kept,
    no_version_is_told,
    http3_is_offered_at_the_public_port,
    a_malformed_request_is_a_problem,
    two_framings_are_a_problem,
    an_unknown_coding_is_the_clients_fault,
    an_unknown_version_is_the_clients_fault,
    plain_http_on_the_tls_port_is_a_problem,
    what_is_not_there_is_a_problem,
    a_post_to_a_file_is_a_problem,
    a_large_body_is_a_problem,
    a_long_address_is_a_problem,
    another_host_in_the_request_is_a_problem,
    a_long_header_is_a_problem,
    an_upstream_that_hangs_up_is_a_problem,
    errors_of_the_app_pass,
    a_request_id_is_kept,
    a_malformed_request_id_is_replaced,
    a_request_id_of_the_app_comes_once,
]
