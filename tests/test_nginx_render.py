"""The script that writes nginx's configuration: its defaults, its mistakes, its certificate; and
that its numbers fit those of the service."""

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from nginx import RENDER, TEMPLATE, render
from servers import clean_environment
from service import bodies, exchange
from service.fields import Size
from service.settings import Settings

OLD = (
    "nginx version: nginx/1.22.1\n"
    "built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan 2026)\n"
)
NEW = (
    "nginx version: nginx/1.30.6\nbuilt with OpenSSL 3.6.5 29 Sep 2026\n"
    "configure arguments: --with-http_v3_module"
)
CANARY = "Kanarienvogel"
Render = Callable[..., str]
Refuse = Callable[..., list[str]]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Of a machine with the newest nginx."""
    program = tmp_path / "bin" / "nginx"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$NGINX_SAYS"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "NGINX_SAYS": NEW,
        "SERVER_NAMES": "example.org",
        "TLS_FOLDER": str(tmp_path / "tls"),
        "RESOLVER": "127.0.0.11",
        "CGROUP_FOLDER": str(tmp_path / "cgroup"),
    }


@pytest.fixture
def rendered(tmp_path: Path, variables: dict[str, str]) -> Render:
    """The configuration with these variables, without comments and indentation."""

    def run(**more: str) -> str:
        done = render(tmp_path / "nginx.conf", **{**variables, **more})
        assert done.returncode == 0, done.stderr
        text = re.sub(r"\s+# .*", "", (tmp_path / "nginx.conf").read_text())
        return re.sub(r"\n\s*", "\n", re.sub(r"(?m)^ *#.*\n", "", text))

    return run


@pytest.fixture
def refused(tmp_path: Path, variables: dict[str, str]) -> Refuse:
    """The lines of the message, where nothing may be written."""

    def run(**more: str) -> list[str]:
        done = render(tmp_path / "nginx.conf", **{**variables, **more})
        assert done.returncode == 78, done.stderr
        assert done.stdout == ""
        assert not (tmp_path / "nginx.conf").exists()
        title, *lines = done.stderr.splitlines()
        assert title == "nginx configuration error:"
        return lines

    return run


def test_the_defaults(rendered: Render) -> None:
    text = rendered()
    for line in (
        "listen 8080 default_server;",
        "listen 8443 ssl default_server;",
        "listen 8081 default_server;",
        "server_name         example.org;",
        "server unix:/run/service/web.sock max_fails=0;",
        "return 308 https://$host$request_uri;",
        "client_max_body_size 16842752;",  # media
        "zone=api:10m         rate=10r/s;",
        "zone=credentials:10m rate=1r/s;",
        "zone=files:10m       rate=50r/s;",
        "on      'h3=\":443\"; ma=86400';",
        'on      "max-age=63072000; includeSubDomains";',
        "alias            /srv/front/static/;",
        "alias            /srv/media/;",
        "worker_processes        auto;",
        "pid                     /tmp/nginx.pid;",
        "access_log /dev/stdout json if=$logged;",
    ):
        assert f"\n{line}" in "\n" + text or line in text, line
    assert "set_real_ip_from" not in text
    assert "backup" not in text
    assert "${" not in text


def test_every_value_ends_up_where_it_belongs(rendered: Render) -> None:
    text = rendered(
        SERVER_NAMES="Api.example.org, *.example.org,api.example.org",
        UPSTREAM="unix:/run/a.sock 10.0.0.1:8000 [fd00::1]:8000 web:8000",
        UPSTREAM_BACKUP="unix:/run/b.sock next:8000",
        HTTP_PORT="80",
        HTTPS_PORT="443",
        INTERNAL_PORT="9000",
        PUBLIC_HTTPS_PORT="8443",
        TRUSTED_PROXIES="10.0.0.0/8,fd00::/8 192.0.2.1",
        MAX_CONTENT_LENGTH="1MiB",
        API_RATE="600r/m",
        WORKER_PROCESSES="4",
        HSTS_SECONDS="0",
    )
    for line in (
        "server_name         api.example.org *.example.org;",
        "server unix:/run/a.sock max_fails=0;\nserver 10.0.0.1:8000 max_fails=0;",
        "server [fd00::1]:8000 max_fails=0;",
        "server web:8000 max_fails=0 resolve;",
        "server unix:/run/b.sock max_fails=0 backup;",
        "server next:8000 max_fails=0 backup resolve;",
        "set_real_ip_from  10.0.0.0/8;\nset_real_ip_from  fd00::/8;\nset_real_ip_from  192.0.2.1;",
        "return 308 https://$host:8443$request_uri;",
        '"$host:8443"',
        "9000 api.example.org;",
        f"client_max_body_size {2**20 + bodies.FORM_OVERHEAD_BYTES};",  # media
        "rate=600r/m;",
        "max-age=0;",
        "resolver         127.0.0.11 valid=1s",
    ):
        assert line in text, line


def test_an_older_nginx_gets_what_it_knows(rendered: Render) -> None:
    text = rendered(NGINX_SAYS=OLD, UPSTREAM="web:8000", HTTP3="auto")
    for word in ("http2 on", "quic", "resolve", "Alt-Svc", "keepalive_min_timeout", "MLKEM"):
        assert word not in text, word
    assert "listen 8443 ssl http2 default_server;" in text
    assert "server web:8000 max_fails=0;" in text


def test_a_new_nginx_gets_all_of_it(rendered: Render) -> None:
    text = rendered(UPSTREAM="web:8000", HTTP3="auto")
    for line in ("http2 on;", "listen 8443 quic;", "resolve;", "Alt-Svc", "X25519MLKEM768:X25519"):
        assert line in text, line
    assert "ssl http2" not in text


def test_an_nginx_without_http3_does_not_offer_it(rendered: Render) -> None:
    text = rendered(HTTP3="auto", NGINX_SAYS=NEW.replace("--with-http_v3_module", ""))
    assert "quic" not in text
    assert "Alt-Svc" not in text


def test_http3_is_not_offered_unasked(rendered: Render) -> None:
    """A reload breaks some of its connections."""
    text = rendered(NGINX_SAYS=NEW)
    assert "quic" not in text
    assert "Alt-Svc" not in text


@pytest.mark.parametrize(
    ("file", "text", "workers"),
    [
        ("cpu.max", "100000 100000\n", "1"),
        ("cpu.max", "50000 100000\n", "1"),
        ("cpu.max", "5000 100000\n", "1"),
        ("cpu.max", "max 100000\n", "auto"),
        ("cpu.max", "99900000 100000\n", "auto"),
        ("cpu/cpu.cfs_quota_us", "-1\n", "auto"),
        ("cpu/cpu.cfs_quota_us", "100000\n", "1"),
    ],
)
def test_there_are_as_many_workers_as_the_container_may_use_cpus(
    tmp_path: Path, rendered: Render, file: str, text: str, workers: str
) -> None:
    """And not as many as the host has."""
    path = tmp_path / "cgroup" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert f"worker_processes        {workers};" in rendered()


def test_ipv6_is_listened_on_and_looked_up_where_the_machine_has_it(rendered: Render) -> None:
    addresses = Path("/proc/net/if_inet6")
    has = addresses.exists() and bool(addresses.read_text())
    assert ("listen [::]:8443 ssl;" in rendered()) == has
    # A name server may refuse that question, and nginx then takes neither answer.
    assert (" ipv6=off;" in rendered(RESOLVER="192.0.2.53", UPSTREAM="web:8000")) == (not has)


def test_name_servers_are_those_of_the_machine(rendered: Render) -> None:
    found = re.findall(r"(?m)^nameserver\s+([0-9.]+)$", Path("/etc/resolv.conf").read_text())
    if not found:
        pytest.skip("this machine has no IPv4 name server")
    assert f"resolver         {found[0]}" in rendered(RESOLVER="", UPSTREAM="web:8000")


BAD = [
    (
        "SERVER_NAMES",
        ["", "*", "a b;", "example.org;", "10.0.0.1", "-a.example", "http://a", "a..b"],
    ),
    (
        "SERVER_NAMES",
        ["a.*", "**.a", "ex\nample.org;x", "$host", "${UPSTREAM}", "a" * 254, "~^.*$"],
    ),
    ("UPSTREAM", ["web", "web:0", "web:99999", "unix:web.sock", "unix:/", "http://web:80", "a:1;"]),
    ("UPSTREAM", ["unix:/a b", "unix:/a;x", "999.1.1.1:80", "[::1]", "[::x]:80", "unix:/../x"]),
    ("UPSTREAM_BACKUP", ["web", "unix:/run/$x"]),
    ("RESOLVER", ["dns.example", "::1", "127.0.0.1:x", "1.1.1.1;"]),
    ("HTTP_PORT", ["0", "65536", "x", "80;", "080", "-1", "8 0"]),
    ("HTTPS_PORT", ["http", "99999"]),
    ("INTERNAL_PORT", ["127.0.0.1:8081"]),
    ("PUBLIC_HTTPS_PORT", [":443", "443/"]),
    ("TRUSTED_PROXIES", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "10.0.0.0/33", "10.0.0.1/", "web", "*"]),
    (
        "TRUSTED_PROXIES",
        ["::/6", "fd00::/129", "1::2::3", "10.0.0", "unix:", "10.0.0.0/8;allow all"],
    ),
    ("INTERNAL_CLIENTS", ["all", "0.0.0.0/0"]),
    ("MAX_CONTENT_LENGTH", ["16m", "x", "-1", "1023", "2TiB", "16 MiB;", "1e6"]),
    ("API_RATE", ["10", "0r/s", "10r/h", "10r/s burst=1", "10r/s;", "ten"]),
    ("LOGIN_RATE", ["1/s"]),
    ("MEDIA_RATE", ["50 r/s"]),
    ("HSTS_SECONDS", ["-1", "1y", "1; x", "01"]),
    ("WORKER_PROCESSES", ["0", "many", "1;"]),
    ("HTTP3", ["on", "yes", "off;"]),
    ("TLS_FOLDER", ["tls", "/a b", "/a;b", "/$a", "/a\nb", '/a"b', "/a/../b", "/a{b}"]),
    ("CACHE_FOLDER", ["cache"]),
    ("STATIC_FOLDER", ["/srv/*"]),
    ("MEDIA_FOLDER", ["~/media"]),
    ("ACME_FOLDER", ["."]),
    ("PID_FILE", ["nginx.pid"]),
    ("ACCESS_LOG_FILE", ["off", "syslog:server=x", "/dev/stdout main"]),
    ("ERROR_LOG_FILE", ["/dev/stderr debug"]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD for value in values]
)
def test_a_bad_value_is_named(refused: Refuse, name: str, value: str) -> None:
    [line] = refused(**{name: value})
    assert re.fullmatch(rf"  {name}: expected .+; got .+", line)


@pytest.mark.parametrize(
    "ending", [";\ninclude /etc/passwd;", "}", "#", "`id`", "$(id)", "\\", "'", '"']
)
def test_nothing_can_be_injected(refused: Refuse, ending: str) -> None:
    """By any variable: all of them are tried at once."""
    names = {name for name, _ in BAD}
    lines = refused(**dict.fromkeys(names, f"{CANARY}{ending}"))
    named = [line.partition(":")[0].strip() for line in lines]
    assert names <= set(named)
    assert CANARY not in "".join(lines)


def test_all_mistakes_come_at_once(refused: Refuse) -> None:
    lines = refused(SERVER_NAMES="*", HTTP_PORT="x", API_RATE="x", MEDIA_FOLDER="x")
    named = [line.partition(":")[0].strip() for line in lines]
    assert named == ["SERVER_NAMES", "HTTP_PORT", "API_RATE", "MEDIA_FOLDER"]


def test_a_mistake_says_what_was_given(refused: Refuse) -> None:
    [line] = refused(SERVER_NAMES="")
    assert line.endswith("such as api.example.org or *.example.org; got nothing")
    assert refused(HTTP_PORT="70000") == [
        "  HTTP_PORT: expected a port from 1 to 65535; got a whole number out of range"
    ]
    assert refused(HTTP_PORT="80,81") == [
        "  HTTP_PORT: expected a port from 1 to 65535; got a list"
    ]


def test_ports_differ(refused: Refuse) -> None:
    [line] = refused(HTTP_PORT="8443")
    assert line.startswith("  HTTP_PORT, HTTPS_PORT and INTERNAL_PORT: expected three ports")


def test_a_mistake_leaves_what_was_there(tmp_path: Path, variables: dict[str, str]) -> None:
    """A reload with a wrong configuration changes nothing."""
    (tmp_path / "nginx.conf").write_text("as it was")
    done = render(tmp_path / "nginx.conf", **{**variables, "API_RATE": "x"})
    assert done.returncode == 78
    assert (tmp_path / "nginx.conf").read_text() == "as it was"


def test_an_unknown_placeholder_is_a_mistake(tmp_path: Path, variables: dict[str, str]) -> None:
    template = tmp_path / "template"
    template.write_text(TEMPLATE.read_text() + "\n${SECRET_KEY}\n")
    done = render(tmp_path / "nginx.conf", template, **variables)
    assert done.returncode == 78
    assert "SECRET_KEY" in done.stderr
    assert not (tmp_path / "nginx.conf").exists()


@pytest.mark.parametrize("says", ["nginx version: nginx/1.18.0", "something else"])
def test_another_nginx_is_refused(tmp_path: Path, variables: dict[str, str], says: str) -> None:
    done = render(tmp_path / "nginx.conf", **{**variables, "NGINX_SAYS": says})
    assert (done.returncode, done.stdout) == (78, "")
    assert "1.22" in done.stderr


# The certificate


def test_a_development_certificate_is_made_once(
    tmp_path: Path, variables: dict[str, str], rendered: Render
) -> None:
    output, folder = tmp_path / "nginx.conf", tmp_path / "tls"
    first = render(output, **variables)
    assert first.stderr.count("\n") == 1
    assert first.stderr.startswith("warning: ")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert stat.S_IMODE((folder / "development.key").stat().st_mode) == 0o600
    again = render(output, **variables)
    assert again.stderr == first.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    assert f"ssl_certificate     {folder}/development.crt;" in rendered()


def test_a_development_certificate_follows_the_names(
    tmp_path: Path, variables: dict[str, str], rendered: Render
) -> None:
    rendered()
    rendered(SERVER_NAMES="a.example *.b.example")
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-checkend", "2592000"]
    certificate = tmp_path / "tls" / "development.crt"
    out = subprocess.run([*command, "-in", certificate], capture_output=True, text=True)
    assert "DNS:localhost, DNS:a.example, DNS:*.b.example" in out.stdout


def mounted(tmp_path: Path) -> dict[str, str]:
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    certificate.write_text("certificate")
    key.write_text("key")
    return {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}


def test_a_mounted_certificate_is_used(
    tmp_path: Path, variables: dict[str, str], rendered: Render
) -> None:
    files = mounted(tmp_path)
    text = rendered(**files)
    assert f"ssl_certificate     {files['TLS_CERTIFICATE']};" in text
    assert f"ssl_certificate_key {files['TLS_KEY']};" in text
    assert render(tmp_path / "nginx.conf", **variables, **files).stderr == ""
    assert not (tmp_path / "tls").exists()


@pytest.mark.parametrize("missing", ["TLS_CERTIFICATE", "TLS_KEY"])
def test_one_without_the_other_is_a_mistake(tmp_path: Path, refused: Refuse, missing: str) -> None:
    files = mounted(tmp_path)
    Path(files[missing]).unlink()
    [line] = refused(**files)
    assert line.startswith(f"  {missing}: expected a file, as there is one of the other")


def test_a_broken_link_is_no_reason_for_a_development_certificate(
    tmp_path: Path, refused: Refuse
) -> None:
    """A certificate that was mounted, and is away, must not be replaced in silence."""
    files = mounted(tmp_path)
    for path in files.values():
        Path(path).unlink()
        os.symlink("/nonexistent", path)
    lines = refused(**files)
    assert [line.split(":")[0].strip() for line in lines] == ["TLS_CERTIFICATE", "TLS_KEY"]


def test_a_certificate_in_a_folder_that_nginx_cannot_search_is_not_taken_for_none(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    """Such as one that a umask of 027 made."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    files = mounted(folder)
    folder.chmod(0o600)
    command = [RENDER, tmp_path / "nginx.conf", TEMPLATE]
    if os.geteuid() == 0:  # who may do anything but for this
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    environment = clean_environment(**variables, **files)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 78
    for name in files:
        assert f"  {name}: expected a file in a folder that" in done.stderr
    assert not (tmp_path / "tls").exists()


def test_a_folder_that_cannot_be_written_is_a_mistake(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    done = render(tmp_path / "nginx.conf", **{**variables, "TLS_FOLDER": "/proc/tls"})
    assert done.returncode == 78
    assert "TLS_FOLDER" in done.stderr


# What it has in common with the service


SIZES = ["16777216", "1024", "16MiB", "16 MiB", "1.5MiB", "16MB", "1kb", "1GiB", "0.5gib", "1TiB"]
SIZES += ["1023", "2TiB", "16M", "1.5", "", "16 777", "1KIB", "1000KB", "1024b", "2048 B"]


@pytest.mark.parametrize("text", SIZES)
def test_sizes_are_read_as_the_service_reads_them(
    tmp_path: Path, variables: dict[str, str], text: str
) -> None:
    output, template = tmp_path / "nginx.conf", tmp_path / "template"
    if text == "":
        text = str(int(Settings().max_content_length))  # nothing is the default, here as there
    try:
        size = int(TypeAdapter(Size).validate_python(text))
    except ValidationError:
        done = render(output, **{**variables, "MAX_CONTENT_LENGTH": text})
        assert done.returncode == 78
    else:
        expected = size + bodies.FORM_OVERHEAD_BYTES
        template.write_text("${UPLOAD_BYTES}\n")
        done = render(output, template, **{**variables, "MAX_CONTENT_LENGTH": text})
        assert output.read_text() == f"{expected}\n"


def seconds(text: str, directive: str) -> int:
    """The seconds of a directive that stands there once."""
    [found] = set(re.findall(rf"(?m)^{directive} +([0-9]+)s;", text))
    return int(found)


def test_the_body_limits_are_those_of_the_service(rendered: Render) -> None:
    text = rendered()
    limits = set(map(int, re.findall(r"client_max_body_size ([0-9]+);", text)))
    upload = int(Settings().max_content_length) + bodies.FORM_OVERHEAD_BYTES
    assert limits <= {0, upload}  # 0 where nginx reads none
    assert "client_max_body_size        64k;" in text
    assert bodies.SMALL_BODY_BYTES == 64 * 1024


def test_nginx_closes_idle_connections_before_the_service_does(rendered: Render) -> None:
    text = rendered()
    [upstream] = re.findall(r"upstream app \{.*?\n\}", text, re.DOTALL)
    idle = seconds(upstream, "keepalive_timeout")
    assert idle < Settings().shutdown_drain_seconds
    assert idle < Settings().keepalive_seconds


def test_a_slow_request_is_not_asked_twice(rendered: Render) -> None:
    """The time for a second try ends before the shortest wait for an answer in public."""
    text = rendered()
    waits = [int(item) for item in re.findall(r"proxy_read_timeout +([0-9]+)s;", text)]
    assert sorted(waits)[1] > seconds(text, "proxy_next_upstream_timeout")
    assert seconds(text, "proxy_connect_timeout") < seconds(text, "proxy_next_upstream_timeout")


def test_public_answers_are_kept_for_days(rendered: Render) -> None:
    assert "inactive=7d" in rendered()


def test_request_ids_are_those_of_the_service() -> None:
    assert exchange.WELL_FORMED_ID.pattern.decode() in TEMPLATE.read_text()


def test_it_needs_an_output() -> None:
    done = subprocess.run([RENDER], env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 64
    assert "usage" in done.stderr
