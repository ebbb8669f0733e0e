"""Files that nginx sends itself: static ones, and uploads that the app has authorised."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from echo import Answer
from nginx import Site
from nginx_checks import new_path
from nginx_checks.answers import MEDIA_POLICY, assert_problem, assert_secure, values

FOR_EVER = "public, max-age=31536000, immutable"
TEXT = b"body { color: navy }\n" * 200
BYTES = bytes(range(256)) * 40


def static_file(site: Site, name: str, content: bytes = TEXT) -> Path:
    path = site.nginx.folder("static") / name
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def authorised(site: Site, content: bytes = BYTES, **headers: str) -> str:
    """A path that the app answers with X-Accel-Redirect."""
    path = new_path("/media/7b/picture-")
    key = f"items/ab/{path.rpartition('-')[2]}-original"
    target = site.nginx.folder("media/items/ab") / key.rpartition("/")[2]
    target.write_bytes(content)
    target.chmod(0o644)
    sent = {
        "X-Accel-Redirect": f"/_media/{key}",
        "Content-Disposition": "inline; filename*=UTF-8''a%20b.webp",
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    site.echo.answers[path] = Answer(200, tuple(sent.items()), b"", "image/webp")
    return path


def static_files_are_kept_for_ever(site: Site) -> None:
    static_file(site, "page.0123456789ab.css")
    answer = site.nginx.ask(
        "/static/page.0123456789ab.css", headers={"Accept-Encoding": "identity"}
    )
    assert "x-answered-by" not in answer.headers
    assert answer.content == TEXT
    assert values(answer, "cache-control") == [FOR_EVER]
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert values(answer, "vary") == ["Accept-Encoding"]
    asked = {"If-None-Match": answer.headers["etag"]}
    again = site.nginx.ask("/static/page.0123456789ab.css", headers=asked)
    assert (again.status_code, values(again, "cache-control")) == (304, [FOR_EVER])


def other_static_files_are_asked_for_again(site: Site) -> None:
    static_file(site, "robots.txt")
    answer = site.nginx.ask("/static/robots.txt")
    assert values(answer, "cache-control") == ["public, max-age=3600"]


def static_files_are_sent_as_they_were_compressed(site: Site) -> None:
    static_file(site, "page.1123456789ab.css")
    static_file(site, "page.1123456789ab.css.gz", gzip.compress(b"as compressed before"))
    answer = site.nginx.ask("/static/page.1123456789ab.css", headers={"Accept-Encoding": "gzip"})
    assert answer.content == b"as compressed before"
    assert values(answer, "cache-control") == [FOR_EVER]


def what_is_not_there_is_asked_of_the_app(site: Site) -> None:
    path = "/static/page.ba9876543210.css"
    site.echo.answers[path] = Answer(200, (("Cache-Control", FOR_EVER),), TEXT, "text/css")
    answer = site.nginx.ask(path, headers={"Accept-Encoding": "gzip"})
    assert (answer.headers.get("x-answered-by"), answer.content) == ("echo", TEXT)
    assert answer.headers["content-encoding"] == "gzip"
    assert values(answer, "cache-control") == [FOR_EVER]
    assert_secure(answer)
    static_file(site, "page.ba9876543210.css")  # and from now on it is there
    assert "x-answered-by" not in site.nginx.ask(path).headers


def what_the_app_has_not_either_is_kept_by_nobody(site: Site) -> None:
    path = "/static/none.ba9876543210.css"
    site.echo.answers[path] = Answer(404)
    answer = site.nginx.ask(path)
    assert (answer.status_code, values(answer, "cache-control")) == (404, ["no-store"])


def links_are_not_followed(site: Site) -> None:
    link = site.nginx.folder("static") / "link.0123456789ab.txt"
    link.unlink(missing_ok=True)
    os.symlink("/etc/hostname", link)
    assert "x-answered-by" in site.nginx.ask("/static/link.0123456789ab.txt").headers
    path = authorised(site, X_Accel_Redirect="/_media/link")
    link = site.nginx.folder("media") / "link"
    link.unlink(missing_ok=True)
    os.symlink("/etc/hostname", link)
    assert_problem(site.nginx.ask(path), 403)


def static_files_do_not_lead_out_of_their_folder(site: Site) -> None:
    (site.nginx.directory / "secret.txt").write_text("secret")
    for path in ("/static/../secret.txt", "/static/%2e%2e/secret.txt", "/static../secret.txt"):
        with site.nginx.connect() as connection:
            connection.sendall(site.nginx.head("GET", path, "Connection: close"))
            assert b"\r\n\r\nsecret" not in connection.makefile("rb").read()


def authorised_media_come_from_the_disk(site: Site) -> None:
    path = authorised(site)
    answer = site.nginx.ask(path)
    assert (answer.status_code, answer.content) == (200, BYTES)
    assert answer.headers["content-type"] == "image/webp"
    assert values(answer, "content-disposition") == ["inline; filename*=UTF-8''a%20b.webp"]
    assert values(answer, "cache-control") == ["private, no-cache"]
    assert "x-accel-redirect" not in answer.headers


def media_are_harmless_on_this_origin(site: Site) -> None:
    """X-Accel-Redirect drops what the app said of it."""
    path = authorised(site, b"<script>alert(1)</script>")
    site.echo.answers[path].content_type = "text/html"
    answer = site.nginx.ask(path)
    assert answer.headers["content-type"] == "text/html"  # without a charset that nobody knows
    assert_secure(answer, content_security_policy=MEDIA_POLICY)


def media_have_ranges(site: Site) -> None:
    path = authorised(site)
    part = site.nginx.ask(path, headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))
    assert part.headers["content-range"] == f"bytes 256-511/{len(BYTES)}"
    tail = site.nginx.ask(path, headers={"Range": "bytes=-10"})
    assert tail.content == BYTES[-10:]


def a_range_that_cannot_be_had_is_a_problem(site: Site) -> None:
    """nginx finds it out when it has added all headers, and adds them again to the error."""
    answer = site.nginx.ask(authorised(site), headers={"Range": "bytes=99999999-"})
    assert_problem(answer, 416)
    policy = answer.headers["content-security-policy"]
    assert_secure(answer, content_security_policy=policy)
    assert len(values(answer, "alt-svc")) == (1 if site.nginx.kind == "image" else 0)


def static_files_have_no_ranges(site: Site) -> None:
    """A 416 would say that it may be kept for ever, as the file may be."""
    static_file(site, "font.2123456789ab.woff2")
    for asked in ("bytes=99999999-", "bytes=0-1"):
        answer = site.nginx.ask("/static/font.2123456789ab.woff2", headers={"Range": asked})
        assert (answer.status_code, answer.content) == (200, TEXT)
        assert len(values(answer, "cache-control")) == 1


def media_are_not_sent_twice(site: Site) -> None:
    path = authorised(site)
    tag = site.nginx.ask(path).headers["etag"]
    again = site.nginx.ask(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert values(again, "cache-control") == ["private, no-cache"]


def media_of_another_version_are_412(site: Site) -> None:
    assert_problem(site.nginx.ask(authorised(site), headers={"If-Match": '"another"'}), 412)


def media_are_authorised_each_time(site: Site) -> None:
    path = authorised(site)
    site.nginx.ask(path)
    site.echo.answers[path] = Answer(404)
    assert site.nginx.ask(path).status_code == 404


def media_that_are_missing_are_a_problem(site: Site) -> None:
    assert_problem(site.nginx.ask(authorised(site, X_Accel_Redirect="/_media/none")), 404)


def nobody_asks_for_the_folder_itself(site: Site) -> None:
    path = authorised(site)
    target = dict(site.echo.answers[path].headers)["X-Accel-Redirect"]
    assert_problem(site.nginx.ask(target), 404)
    assert_problem(site.nginx.ask(f"/{target}"), 404)


def media_keys_may_be_escaped(site: Site) -> None:
    folder = site.nginx.folder("media")
    (folder / "a b+c%.bin").write_bytes(b"odd")
    path = authorised(site, X_Accel_Redirect="/_media/a%20b%2Bc%25.bin")
    assert site.nginx.ask(path).content == b"odd"


def answers_with_secrets_are_not_compressed(site: Site) -> None:
    for path in ("/api/keys", "/login", "/confirm", "/api/accounts/me"):
        site.echo.answers[path] = Answer(body=TEXT)
        try:
            answer = site.nginx.ask(path, headers={"Accept-Encoding": "gzip"})
        finally:
            del site.echo.answers[path]
        assert "content-encoding" not in answer.headers


def public_answers_are_compressed(site: Site) -> None:
    for path in ("/docs", "/openapi.json", new_path("/api/public/list-")):
        site.echo.answers[path] = Answer(body=TEXT)
        answer = site.nginx.ask(path, headers={"Accept-Encoding": "gzip"})
        assert values(answer, "content-encoding") == ["gzip"]
        assert "Accept-Encoding" in values(answer, "vary")
        assert answer.content == TEXT


CHECKS = [
    static_files_are_kept_for_ever,
    static_files_have_no_ranges,
    other_static_files_are_asked_for_again,
    static_files_are_sent_as_they_were_compressed,
    what_is_not_there_is_asked_of_the_app,
    what_the_app_has_not_either_is_kept_by_nobody,
    links_are_not_followed,
    static_files_do_not_lead_out_of_their_folder,
    authorised_media_come_from_the_disk,
    media_are_harmless_on_this_origin,
    media_have_ranges,
    a_range_that_cannot_be_had_is_a_problem,
    media_are_not_sent_twice,
    media_are_authorised_each_time,
    media_that_are_missing_are_a_problem,
    nobody_asks_for_the_folder_itself,
    media_keys_may_be_escaped,
    answers_with_secrets_are_not_compressed,
    public_answers_are_compressed,
]
