"""The container's health client: asks the running service, or worker, over its own socket.

It runs every few seconds for as long as the container lives, so it imports next to nothing: no
HTTP library, no `re`, not even `socket` (which builds enums), and none of the application.
"""

import _socket
import os
import sys
import time

from service.sources import DEFAULT_BIND, SourceError, Sources, read_dotenv

TIMEOUT_SECONDS = 3
MAX_BYTES = 16 * 1024
STATES = ("live", "ready", "startup")
UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}


def _setting(sources: Sources, variable: str, default: str) -> str:
    found = sources.given(variable)
    return found.text if found else default


def _connect(bind: str) -> "_socket.socket":
    if bind.startswith("unix:"):
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(bind[5:])
        return sock
    host, _, port = bind.rpartition(":")
    host = UNSPECIFIED.get(host, host).strip("[]")
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT_SECONDS)
    sock.connect((host, int(port)))
    return sock


def _ask(bind: str, path: str, *, tls: bool) -> bytes:
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    sock = _connect(bind)
    try:
        if tls:
            return _ask_tls(sock, request)
        sock.sendall(request)
        return _receive(sock)
    finally:
        sock.close()


def _receive(sock: "_socket.socket") -> bytes:
    """What comes until the end, but no more than fits, and within the time for all of it."""
    answer = b""
    end = time.monotonic() + TIMEOUT_SECONDS
    while len(answer) < MAX_BYTES:
        sock.settimeout(max(0.001, end - time.monotonic()))
        chunk = sock.recv(4096)
        if not chunk:
            break
        answer += chunk
    return answer


def _ask_tls(sock: "_socket.socket", request: bytes) -> bytes:
    import socket  # noqa: PLC0415  (only where the app itself ends TLS)
    import ssl  # noqa: PLC0415

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it asks itself, and the name is not localhost
    plain = socket.socket(fileno=sock.detach())
    plain.settimeout(TIMEOUT_SECONDS)
    with context.wrap_socket(plain) as encrypted:
        encrypted.sendall(request)
        return _receive(encrypted)


def main(arguments: list[str]) -> int:
    """0 where the service answers 200, else 1 with the reason on stderr; 2 for wrong usage."""
    state = arguments[0] if arguments else "ready"
    if state not in STATES or len(arguments) > 1:
        sys.stderr.write(f"usage: service health [{'|'.join(STATES)}]\n")
        return 2
    bind = ""
    try:
        sources = Sources(os.environ)
        if _setting(sources, "ENVIRONMENT", "development").lower() != "production":
            sources.dotenv = read_dotenv()
        worker = _setting(sources, "WORKER_BIND", "")  # which is given to the worker alone
        bind = worker or _setting(sources, "BIND", DEFAULT_BIND)
        tls = not worker and bool(_setting(sources, "CERTFILE", ""))
        answer = _ask(bind, f"/health/{state}", tls=tls)
    except (OSError, ValueError, SourceError) as error:
        sys.stderr.write(f"{bind}: " if bind else "")
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200 "):
        return 0
    sys.stderr.write(body.decode("utf-8", "replace") + "\n")
    return 1
