"""Who asks, as the app is told, what else reaches it, and what is written down."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import time

from echo import WEBSOCKET_KEY, Answer
from malformed import http2
from nginx import Site
from nginx_checks import new_client, new_path

# Each with a value that some framework would believe.
BELIEVED = {
    "Forwarded": "for=10.9.9.9;host=evil.example;proto=http",
    "X-Forwarded-By": "evil.example",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Path": "/evil",
    "X-Forwarded-Scheme": "http",
    "X-Forwarded-Server": "evil.example",
    "X-Forwarded-Ssl": "off",
    "X-Forwarded-User": "root",
    "X-Forwarded": "for=10.9.9.9",
    "X-Client-IP": "10.9.9.9",
    "X-Cluster-Client-IP": "10.9.9.9",
    "X-Remote-Addr": "10.9.9.9",
    "X-Remote-User": "root",
    "X-Scheme": "http",
    "X-Host": "evil.example",
    "X-Original-Host": "evil.example",
    "X-Original-Method": "DELETE",
    "X-Original-URL": "/metrics",
    "X-Original-URI": "/metrics",
    "X-Rewrite-URL": "/metrics",
    "X-HTTP-Method": "DELETE",
    "X-HTTP-Method-Override": "DELETE",
    "X-Method-Override": "DELETE",
    "Front-End-Https": "off",
    "Client-IP": "10.9.9.9",
    "True-Client-IP": "10.9.9.9",
    "CF-Connecting-IP": "10.9.9.9",
    "Proxy": "http://evil.example:8080",
    "Proxy-Authorization": "Basic abc",
    "Upgrade": "h2c",
    "HTTP2-Settings": "AAMAAABkAAQAAP__",
    "TE": "trailers",
    "X_Forwarded_For": "10.9.9.9",
}
KEPT = {"HTTP2-Settings"}  # means nothing without its upgrade
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
}
CANARY = "Kanarienvogel"


def what_a_client_says_of_itself_is_overwritten(site: Site) -> None:
    nginx = site.nginx
    spoofed = {
        "X-Forwarded-For": "10.9.9.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "X-Real-IP": "10.9.9.9",
    }
    nginx.ask("/spoofed", headers=spoofed)
    got = site.echo.last("/spoofed")
    assert got.values("x-forwarded-for") == ["127.0.0.1"]
    assert got.values("x-forwarded-proto") == ["https"]
    assert got.values("x-forwarded-host") == [f"{nginx.name}:{nginx.port}"]
    assert got.values("x-forwarded-port") == [str(nginx.port)]
    assert got.values("x-real-ip") == ["127.0.0.1"]
    assert got.values("host") == [f"{nginx.name}:{nginx.port}"]


def what_some_framework_believes_is_dropped(site: Site) -> None:
    site.nginx.ask("/spoofed", headers=BELIEVED)
    got = site.echo.last("/spoofed")
    assert {name for name in BELIEVED if got.values(name)} == KEPT


def a_load_balancer_is_believed(site: Site) -> None:
    """The right-most address that is none of its own (a LIMITED site)."""
    chain = {"X-Forwarded-For": "10.9.9.9, 203.0.113.7, 127.0.0.1"}
    site.nginx.ask("/balanced", headers=chain)
    got = site.echo.last("/balanced")
    assert got.values("x-forwarded-for") == ["203.0.113.7"]
    assert got.values("x-real-ip") == ["203.0.113.7"]
    site.nginx.line(path="/balanced", client="203.0.113.7")


def the_port_of_the_request_is_not_believed(site: Site) -> None:
    nginx = site.nginx
    nginx.ask("/port", host=f"{nginx.name.upper()}:1")
    assert site.echo.last("/port").values("host") == [f"{nginx.name}:{nginx.port}"]


def the_host_that_was_checked_is_passed(site: Site) -> None:
    """RFC 9112 section 3.2.2: an absolute address overrules the Host header."""
    nginx = site.nginx
    for target, host, status in (
        (f"http://{nginx.name}/absolute", "example.net", b"200"),
        ("http://example.net/absolute", nginx.name, b"421"),
    ):
        with nginx.connect() as connection:
            head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).split()[1] == status
    assert site.echo.counted("/absolute") == 1
    assert site.echo.last("/absolute").values("host") == [f"{nginx.name}:{nginx.port}"]


def compression_is_not_asked_of_the_app(site: Site) -> None:
    site.nginx.ask("/anything")
    assert site.echo.last("/anything").values("accept-encoding") == []


def what_belongs_to_the_request_passes(site: Site) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    kept = {
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "traceparent": trace,
        "Range": "bytes=0-1",
    }
    site.nginx.ask("/kept?a=%2F&b=c%20d", "PATCH", headers=kept, content=b"abc")
    got = site.echo.last("/kept")
    assert (got.method, got.target, got.body) == ("PATCH", "/kept?a=%2F&b=c%20d", b"abc")
    assert all(got.values(name) == [value] for name, value in kept.items())


def upgraded(site: Site, path: str, **other: str) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, an echo) of an attempt at a WebSocket."""
    fields = {**WEBSOCKET, **{name.replace("_", "-"): value for name, value in other.items()}}
    lines = (f"{name}: {value}" for name, value in fields.items())
    with site.nginx.connect() as connection:
        connection.sendall(site.nginx.head("GET", path, *lines))
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            rest = iter(lambda: answer.readline().decode().strip(), "")
            headers = dict(line.lower().split(": ", 1) for line in rest)
            if status != 101:
                return status, headers, b""
            connection.sendall(b"\x01 over and over")
            return status, headers, answer.read(15)


def websockets_are_passed(site: Site) -> None:
    status, headers, echoed = upgraded(site, "/ws/live?since=1")
    assert (status, echoed) == (101, b"\x01 over and over")
    digest = hashlib.sha1((WEBSOCKET["Sec-WebSocket-Key"] + WEBSOCKET_KEY).encode()).digest()
    assert headers["sec-websocket-accept"] == base64.b64encode(digest).decode().lower()
    assert site.echo.last("/ws/live").values("x-forwarded-for") == ["127.0.0.1"]


def other_paths_are_no_websockets(site: Site) -> None:
    for path in ("/ws/", "/ws", "/wss/live", "/", "/api/ws/live"):
        assert upgraded(site, path)[0] == 200
        assert site.echo.last(path).values("upgrade") == []
        assert site.echo.last(path).values("connection") == []


def other_protocols_are_no_websockets(site: Site) -> None:
    assert upgraded(site, "/ws/live", Upgrade="h2c")[0] == 200
    assert site.echo.last("/ws/live").values("upgrade") == []


def the_log_has_no_query_and_no_referrer(site: Site) -> None:
    path = new_path("/logged-")
    site.nginx.ask(f"{path}?token={CANARY}", headers={"Referer": f"https://x/?token={CANARY}"})
    line = site.nginx.line(path=path)
    assert line["status"] == 200
    assert CANARY not in str(line)
    line = site.nginx.line(request_id=site.nginx.plain(f"/?token={CANARY}").headers["x-request-id"])
    assert CANARY not in str(line)


def probes_that_pass_are_not_logged(site: Site) -> None:
    site.nginx.ask("/health")
    site.nginx.ask("/health/live")
    site.nginx.internal("/health/ready")
    site.nginx.internal("/metrics")
    site.nginx.internal("/nginx-status")
    site.nginx.ask("/health/ready")
    site.nginx.line(path="/health/ready", status=404)
    assert {line["status"] for line in site.nginx.lines if "health" in line["path"]} == {404}
    assert not [line for line in site.nginx.lines if line["path"] in ("/metrics", "/nginx-status")]


def the_log_is_json_whatever_is_sent(site: Site) -> None:
    path = new_path("/logged-")
    site.nginx.ask(path, headers={"User-Agent": 'a"b\\c{$path}'})
    assert site.nginx.line(path=path)["user_agent"] == 'a"b\\c{$path}'
    with site.nginx.connect() as connection:
        lines = ("Connection: close", "User-Agent: \xff\x01")
        connection.sendall(site.nginx.head("GET", f"{path}-\xff", *lines))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert site.nginx.line(path=f"{path}-")["user_agent"] == "(not ASCII)"


def the_log_is_json_where_nothing_was_answered(site: Site) -> None:
    """As where a stream is reset."""
    path = new_path("/reset-").encode()
    http2.send(site.nginx, http2.Attack("reset", http2.request((b"X-Capital", b"1"), path=path)))
    line = site.nginx.line(path=path.decode())
    assert line["status"] in (0, 400)


def no_token_is_in_the_error_log(site: Site) -> None:
    """Also while the app is away, hangs up or is too slow, and where too much is sent."""
    nginx, echo = site.nginx, site.echo
    links = [f"/confirm?token={CANARY}", f"/reset?token={CANARY}"]
    for link in links:
        echo.answers[link.partition("?")[0]] = Answer(resets=1)
        assert nginx.ask(link, "POST").status_code == 502
        assert nginx.ask(link, "POST", content=bytes(100_000)).status_code == 413
    link = f"/ws/live?ticket={CANARY}"
    assert nginx.ask(link, "POST", content=bytes(100_000)).status_code == 413
    echo.go_away()
    try:
        for link in links:
            assert nginx.ask(link).status_code == 502
            assert nginx.ask(link, "POST").status_code == 502
        assert nginx.ask(f"/ws/live?ticket={CANARY}").status_code == 502
        assert nginx.ask("/elsewhere").status_code == 502
    finally:
        echo.come_back()
    assert "/elsewhere" in nginx.errors  # so that there is an error log at all
    assert CANARY not in nginx.errors
    for path in ("/confirm", "/reset"):
        assert nginx.line(path=path, status=502)["upstream_status"].startswith("502")


def the_names_are_served(site: Site) -> None:
    assert site.nginx.ask("/named").status_code == 200
    answer = site.nginx.ask("/named", host="a.wild.example", sni="a.wild.example")
    assert answer.status_code == 200


def unknown_names_get_no_answer_on_the_plain_port(site: Site) -> None:
    for host in ("example.net", "wild.example", "127.0.0.1"):
        address = ("127.0.0.1", site.nginx.http_port)
        with socket.create_connection(address, 5) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1000) == b""


def http_leads_to_https(site: Site) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = site.nginx.plain("/a%2Fb?c=d", method)
        assert answer.status_code == 308
        assert (
            answer.headers["location"] == f"https://{site.nginx.name}:{site.nginx.port}/a%2Fb?c=d"
        )


def acme_challenges_are_answered_over_http(site: Site) -> None:
    folder = site.nginx.folder("acme/.well-known/acme-challenge")
    (folder / "token").write_text("token.thumbprint")
    answer = site.nginx.plain("/.well-known/acme-challenge/token")
    assert (answer.status_code, answer.text) == (200, "token.thumbprint")
    assert site.nginx.plain("/.well-known/acme-challenge/none").status_code == 404
    (folder / "link").unlink(missing_ok=True)
    os.symlink("/etc/hostname", folder / "link")
    assert site.nginx.plain("/.well-known/acme-challenge/link").status_code == 403


def what_is_inside_is_not_public(site: Site) -> None:
    for path in (
        "/health/ready",
        "/health/startup",
        "/health/detailed",
        "/health/",
        "/health%2Fready",
        "//health/ready",
        "/x/../health/ready",
        "/health//detailed",
        "/metrics",
        "/metrics/",
        "/%6Detrics",
        "//metrics",
        "/./metrics",
        "/_media/secret",
        "/_problem",
    ):
        assert raw_status(site, path) == 404, path
    assert not [r for r in site.echo.requests if r.values("x-inside-test")]
    for path in ("/nginx-status", "/nginx-health"):  # nothing special in public: the app's 404
        assert site.nginx.ask(path).headers["x-answered-by"] == "echo"


def raw_status(site: Site, path: str) -> int:
    """Of a path that no client library has tidied up."""
    with site.nginx.connect() as connection:
        connection.sendall(site.nginx.head("GET", path, "Connection: close", "X-Inside-Test: 1"))
        return int(connection.makefile("rb").readline().split()[1])


def probes_for_everybody_are_public(site: Site) -> None:
    for path in ("/health", "/health/live"):
        assert site.nginx.ask(path).headers["x-answered-by"] == "echo"


def probes_and_metrics_are_inside(site: Site) -> None:
    paths = ("", "/live", "/ready", "/startup", "/detailed")
    for path in (*(f"/health{path}" for path in paths), "/metrics"):
        answer = site.nginx.internal(path, headers={"Host": "whoever.example"})
        assert (answer.status_code, answer.headers.get("x-answered-by")) == (200, "echo")
        assert site.echo.last(path).values("host") == [site.nginx.name]
    status = site.nginx.internal("/nginx-status").text
    assert "Active connections" in status
    assert site.nginx.internal("/nginx-health").text == "ok\n"


def nothing_else_is_inside(site: Site) -> None:
    for path in ("/", "/api/keys", "/health/other", "/login", "/metrics/x"):
        answer = site.nginx.internal(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def strangers_are_not_inside(site: Site) -> None:
    """Where INTERNAL_CLIENTS are others."""
    for path in ("/health/ready", "/metrics", "/nginx-status"):
        answer = site.nginx.internal(path)
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"


def a_client_is_counted_by_who_it_is(site: Site) -> None:
    """A LIMITED site: requests that come from different addresses do not share a limit."""
    begun = time.monotonic()
    answers = [site.nginx.ask("/many", headers=new_client()) for _ in range(60)]
    assert {answer.status_code for answer in answers} == {200}, time.monotonic() - begun


CHECKS = [
    what_a_client_says_of_itself_is_overwritten,
    what_some_framework_believes_is_dropped,
    the_port_of_the_request_is_not_believed,
    the_host_that_was_checked_is_passed,
    compression_is_not_asked_of_the_app,
    what_belongs_to_the_request_passes,
    websockets_are_passed,
    other_paths_are_no_websockets,
    other_protocols_are_no_websockets,
    the_log_has_no_query_and_no_referrer,
    probes_that_pass_are_not_logged,
    the_log_is_json_whatever_is_sent,
    the_log_is_json_where_nothing_was_answered,
    no_token_is_in_the_error_log,
    the_names_are_served,
    unknown_names_get_no_answer_on_the_plain_port,
    http_leads_to_https,
    acme_challenges_are_answered_over_http,
    what_is_inside_is_not_public,
    probes_for_everybody_are_public,
    probes_and_metrics_are_inside,
    nothing_else_is_inside,
]
LIMITED_CHECKS = [a_load_balancer_is_believed, a_client_is_counted_by_who_it_is]
