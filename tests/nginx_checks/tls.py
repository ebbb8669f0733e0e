"""Handshakes: protocols, names, and what comes after them."""

from __future__ import annotations

import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import http2
from http3 import get
from nginx import Site
from nginx_checks.answers import assert_problem
from servers import docker_program, find_program

CIPHERS = {
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
}


def sslscan() -> str | None:
    return find_program("sslscan")


def handshake(site: Site, name: str | None, **versions: ssl.TLSVersion) -> ssl.SSLSocket | None:
    """A connection, or None where nginx refuses it."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    for attribute, version in versions.items():
        setattr(context, attribute, version)
    raw = socket.create_connection(("127.0.0.1", site.nginx.port), 10)
    try:
        return context.wrap_socket(raw, server_hostname=name)
    except (ssl.SSLError, ConnectionResetError):
        raw.close()
        return None


def unknown_names_get_no_handshake(site: Site) -> None:
    for name in (None, "example.net", "wild.example", "127.0.0.1"):
        connection = handshake(site, name)
        if connection:
            connection.close()
        assert connection is None, name


def known_names_get_one(site: Site) -> None:
    for name in ("example.org", "EXAMPLE.org", "a.wild.example"):
        with site.nginx.connect(name=name) as connection:
            assert connection.version() == "TLSv1.3"


def sessions_have_no_tickets(site: Site) -> None:
    connection = handshake(site, site.nginx.name, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert connection
    with connection:
        assert connection.version() == "TLSv1.2"
        assert connection.session
        assert not connection.session.has_ticket


def http2_is_spoken(site: Site) -> None:
    assert http2.ask(site.nginx, "GET", "/second").status_code == 200
    assert site.nginx.line(path="/second")["protocol"] == "HTTP/2.0"
    assert site.echo.last("/second").values("host") == [f"{site.nginx.name}:{site.nginx.port}"]


def errors_over_http2_are_problems(site: Site) -> None:
    """There, the error page's own location is asked for its limit again."""
    assert_problem(http2.ask(site.nginx, "POST", "/", length=64 * 1024 + 1), 413)
    assert_problem(http2.ask(site.nginx, "GET", "/metrics"), 404)


def scan(site: Site) -> ET.Element:
    """What sslscan finds."""
    program = sslscan()
    assert program
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        target = [f"--sni-name={site.nginx.name}", f"127.0.0.1:{site.nginx.port}"]
        command = [program, "--no-colour", f"--xml={report}", *target]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        [found] = ET.parse(report).getroot().iter("ssltest")
    return found


def old_versions_are_not_spoken(site: Site) -> None:
    versions = {
        f"{item.get('type')} {item.get('version')}"
        for item in scan(site).iter("protocol")
        if item.get("enabled") == "1"
    }
    assert versions == {"tls 1.2", "tls 1.3"}


def nothing_weak_is_spoken(site: Site) -> None:
    found = scan(site)
    ciphers = {item.get("cipher") for item in found.iter("cipher")}
    assert ciphers
    assert ciphers <= CIPHERS
    assert all(int(item.get("bits", "0")) >= 128 for item in found.iter("cipher"))
    assert {item.get("vulnerable") for item in found.iter("heartbleed")} <= {"0"}
    assert [item.get("supported") for item in found.iter("renegotiation")] == ["0"]
    assert {item.get("supported") for item in found.iter("compression")} <= {"0"}
    groups = {item.get("name") for item in found.iter("group")}
    assert groups <= {"x25519", "secp256r1 (NIST P-256)", "secp384r1 (NIST P-384)"}
    assert "x25519" in groups


def keys_are_agreed_on_against_quantum_computers(site: Site) -> None:
    """Where nginx's OpenSSL can: the client is that of the image."""
    program = docker_program()
    assert program
    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{site.nginx.port}", "-brief"]
    command = [program, "exec", site.nginx.container, *client, "-servername", site.nginx.name]
    out = subprocess.run(command, capture_output=True, input=b"", timeout=30)
    assert b"X25519MLKEM768" in out.stdout + out.stderr


def http3_is_spoken(site: Site) -> None:
    answer = get(site.nginx, "/third")
    assert answer.status == 200
    assert answer.headers["x-answered-by"] == "echo"
    assert answer.headers["strict-transport-security"].startswith("max-age=63072000")
    got = site.echo.last("/third")
    assert got.values("host") == [f"{site.nginx.name}:{site.nginx.port}"]
    assert got.values("x-forwarded-proto") == ["https"]
    assert site.nginx.line(path="/third")["protocol"] == "HTTP/3.0"


def http3_knows_our_names_alone(site: Site) -> None:
    assert get(site.nginx, "/third", host="example.net").status == 421
    refused = False
    try:
        get(site.nginx, "/third", sni="example.net")
    except ConnectionError:
        refused = True
    assert refused


CHECKS = [
    unknown_names_get_no_handshake,
    known_names_get_one,
    sessions_have_no_tickets,
    http2_is_spoken,
    errors_over_http2_are_problems,
]
SCANS = [old_versions_are_not_spoken, nothing_weak_is_spoken]
IMAGE_CHECKS = [
    keys_are_agreed_on_against_quantum_computers,
    http3_is_spoken,
    http3_knows_our_names_alone,
]
