"""The lines of the API's table that tell of the media library, through real HTTP as those of the
rest."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx

from api import assert_problem
from deployments import Deployment, Person
from pictures import ANY_NAMES, OF_ANY_KIND, halves, saved
from servers import wait_until

PNG = saved(halves(), "PNG")


def ready(member: Person, content: bytes = PNG, name: str = "photo.png", **fields: str) -> Any:
    """An item of theirs, processed."""
    files = {"file": (name, content)}
    answer = member.client.post("/api/media", files=files, data=fields)
    assert answer.status_code == 202, answer.text
    item = member.wait_for(answer.json())
    assert item["status"] == "ready"
    return item


def uploaded(deployment: Deployment, item: dict[str, Any]) -> list[Path]:
    """The files there are of an item."""
    folder = Path(deployment.web.variables()["UPLOAD_FOLDER"]) / item["id"].replace("-", "")
    return list(folder.glob("*"))


def test_a_key_that_may_only_read_uploads_nothing(member: Person) -> None:
    wanted = {"name": "backup", "scopes": ["read"]}
    key = member.client.post("/api/keys", json=wanted).json()["key"]
    with_key = {"Authorization": f"Bearer {key}"}
    assert member.client.get("/api/media", headers=with_key).status_code == 200
    files = {"file": ("a.txt", b"a")}
    assert_problem(member.client.post("/api/media", headers=with_key, files=files), 403)


def test_an_upload_is_accepted_and_processed(member: Person) -> None:
    files = {"file": ("text.txt", PNG, "text/plain")}
    answer = member.client.post("/api/media", files=files, data={"title": "Red and blue"})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/media/{answer.json()['id']}"
    item = member.wait_for(answer.json())
    assert (item["status"], item["progress"], item["title"]) == ("ready", 100, "Red and blue")
    assert (item["content_type"], item["width"], item["height"]) == ("image/png", 80, 40)


def test_an_upload_of_any_kind_ends_ready_or_failed_and_is_still_there(member: Person) -> None:
    items = [member.upload(content, name) for content, name, _ in OF_ANY_KIND]
    for item, (content, name, expected) in zip(items, OF_ANY_KIND, strict=True):
        done = member.wait_for(item)
        size = (done["width"], done["height"]) if done["width"] else None
        found = (done["status"], done["content_type"], size, done["thumbnail_url"] is not None)
        assert found == expected, name
        assert member.client.get(done["url"]).content == content, name


def test_an_upload_of_any_name_can_be_downloaded(member: Person) -> None:
    for name in ANY_NAMES:
        item = ready(member, PNG, name)
        assert member.client.get(item["url"]).content == PNG, name


def test_a_thumbnail_is_sent_safely_in_parts_and_not_twice(member: Person) -> None:
    item = ready(member)
    whole = member.client.get(item["thumbnail_url"])
    assert (whole.status_code, whole.headers["content-type"]) == (200, "image/webp")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in whole.headers["content-security-policy"]
    part = member.client.get(item["thumbnail_url"], headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, whole.content[4:10])
    known = {"If-None-Match": whole.headers["etag"]}
    assert member.client.get(item["thumbnail_url"], headers=known).status_code == 304


def test_an_upload_over_the_limit_is_refused_before_its_body(member: Person) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", member.deployment.web.port, timeout=30)
    connection.putrequest("POST", "/api/media")
    connection.putheader("Authorization", member.client.headers["Authorization"])
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2**40))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (413, "application/problem+json")
    connection.close()


def test_an_upload_over_the_limit_without_a_length_is_refused(member: Person) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        for _ in range(17):
            yield bytes(2**20)
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = member.client.post("/api/media", headers=headers, content=body())
    assert_problem(answer, 413)
    assert member.client.get("/api/media").json()["items"] == []


def test_an_upload_that_is_repeated_gets_the_first_answer(member: Person) -> None:
    def upload(content: bytes) -> httpx.Response:
        headers = {"Idempotency-Key": "one-upload"}
        files = {"file": ("a.txt", content)}
        return member.client.post("/api/media", headers=headers, files=files)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(upload, [b"the same"] * 4))
    answers.append(upload(b"the same"))
    assert {answer.status_code for answer in answers} == {202}
    assert len({(answer.headers["location"], answer.content) for answer in answers}) == 1
    assert_problem(upload(b"another"), 422)
    assert len(member.client.get("/api/media").json()["items"]) == 1


def test_pages_of_own_items_lead_on_by_link(member: Person) -> None:
    expected = [member.upload(b"x", f"{number}.txt")["id"] for number in range(5)]
    seen, path = [], "/api/media?limit=2"
    while path:
        page = member.client.get(path)
        seen += [row["id"] for row in page.json()["items"]]
        path = page.links.get("next", {}).get("url", "")
        member.upload(b"x", "meanwhile.txt")
    assert seen == expected[::-1]


def test_an_item_is_changed_under_a_condition_and_deleted_with_its_bytes(member: Person) -> None:
    item = ready(member)
    path = f"/api/media/{item['id']}"
    version = {"If-Match": member.client.get(path).headers["etag"]}
    changed = member.client.patch(path, json={"title": "Dawn"}, headers=version)
    assert (changed.status_code, changed.json()["title"]) == (200, "Dawn")
    assert_problem(member.client.patch(path, json={"title": "Dusk"}, headers=version), 412)
    known = {"If-None-Match": changed.headers["etag"]}
    assert member.client.get(path, headers=known).status_code == 304
    assert len(uploaded(member.deployment, item)) == 2
    assert member.client.delete(path).status_code == 204
    for gone in (path, item["url"], item["thumbnail_url"]):
        assert_problem(member.client.get(gone), 404)
    wait_until(lambda: not uploaded(member.deployment, item), seconds=30)


def test_an_item_of_somebody_else_is_404(member: Person) -> None:
    item = ready(member)
    eve = Person(member.deployment, f"eve-{member.email}")
    with eve.client:
        eve.join()
        path = f"/api/media/{item['id']}"
        for request in (
            eve.client.build_request("GET", path),
            eve.client.build_request("PATCH", path, json={"title": "mine"}),
            eve.client.build_request("DELETE", path),
            eve.client.build_request("GET", item["url"]),
            eve.client.build_request("GET", item["thumbnail_url"]),
        ):
            assert_problem(eve.client.send(request), 404)
        assert eve.client.get("/api/media").json()["items"] == []


def test_bytes_are_sent_safely_in_parts_and_not_twice(
    member: Person, stranger: httpx.Client
) -> None:
    item = ready(member, b"<html><script>alert(1)</script></html>", "page.png")
    whole = member.client.get(item["url"])
    assert whole.headers["content-type"] == "text/html"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in whole.headers["content-security-policy"]
    part = member.client.get(item["url"], headers={"Range": "bytes=6-13"})
    assert (part.status_code, part.content) == (206, b"<script>")
    known = {"If-None-Match": whole.headers["etag"]}
    assert member.client.get(item["url"], headers=known).status_code == 304
    assert_problem(member.client.get(item["url"], headers={"Range": "bytes=99-"}), 416)
    assert_problem(stranger.get(item["url"]), 404)


def test_the_public_listing_follows_its_items(member: Person, stranger: httpx.Client) -> None:
    item = ready(member, public="true")
    path = f"/api/media/{item['id']}"

    def listed() -> list[httpx.Response]:
        """From several connections, and so from all web workers."""
        url = f"{member.deployment.web.url}/api/public/media?limit=100"
        return [httpx.get(url, timeout=30) for _ in range(6)]

    for page in listed():
        assert item["id"] in page.text
        assert member.email not in page.text
        assert "max-age" in page.headers["cache-control"]
    known = {"If-None-Match": page.headers["etag"]}
    assert stranger.get("/api/public/media?limit=100", headers=known).status_code == 304
    assert stranger.get(item["url"]).content == PNG
    member.client.patch(path, json={"public": False})
    assert not any(item["id"] in page.text for page in listed())
    assert_problem(stranger.get(item["url"]), 404)


def test_an_upload_and_its_jobs_are_logged_under_its_trace(member: Person) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "X-Request-ID": f"traced-{member.email.partition('-')[0]}",
        "traceparent": f"00-{trace}-b7ad6b7169203331-01",
    }
    answer = member.client.post("/api/media", headers=headers, files={"file": ("a.txt", b"a")})
    item = member.wait_for(answer.json())
    logged = {"trace_id": trace, "request_id": headers["X-Request-ID"]}
    find = member.deployment.events
    wait_until(lambda: find(message="request", path="/api/media", **logged))
    wait_until(lambda: find(message="media_processed", media_id=item["id"], **logged))
    wait_until(lambda: find(message="job_done", task="mail.deliver", **logged), seconds=30)
