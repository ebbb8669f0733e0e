"""The way of one person through the service, on real processes: embedded, and beside PostgreSQL,
Redis, a mail server, a worker and two web workers."""

import re
from typing import Any

from deployments import Deployment, Person
from pictures import halves, saved
from servers import wait_until

PHOTO = saved(halves((1200, 800)), "JPEG", quality=95)  # media


def test_from_registration_to_logout(person: Person) -> None:
    """One walk, as every step needs the one before."""
    client = person.client
    (link,) = re.findall(r"http://\S+/confirm\?token=\S+", person.register())
    page = client.get(link)
    assert page.status_code == 200
    (token,) = re.findall(r'name="token" value="([^"]+)"', page.text)
    assert person.log_in() == 401
    assert "is confirmed" in client.post("/confirm", data={"token": token}).text

    assert person.log_in() == 200
    assert client.get("/api/accounts/me").json()["email"] == person.email

    # media: from here
    item = person.upload(PHOTO, "photo.jpg")
    ready = person.wait_for(item)
    assert (ready["status"], ready["content_type"]) == ("ready", "image/jpeg")
    assert (ready["width"], ready["height"]) == (1200, 800)
    assert [row["id"] for row in client.get("/api/media").json()["items"]] == [item["id"]]
    assert client.get(ready["url"]).content == PHOTO
    thumbnail = client.get(ready["thumbnail_url"])
    assert thumbnail.headers["content-type"] == "image/webp"
    assert thumbnail.content[8:12] == b"WEBP"
    # media: to here

    assert client.post("/logout").status_code == 204
    assert client.get("/api/accounts/me").status_code == 401


def test_the_token_of_the_mail_confirms_through_the_api_once(person: Person) -> None:
    (token,) = re.findall(r"POST /api/accounts/confirm:\s+(\S+)", person.register())
    answer = person.client.post("/api/accounts/confirm", json={"token": token})
    assert (answer.status_code, answer.content) == (204, b"")
    again = person.client.post("/api/accounts/confirm", json={"token": token})
    assert again.status_code == 400
    assert person.log_in() == 200


def test_a_new_password_by_mail_ends_a_stolen_login_and_a_key(person: Person) -> None:
    person.join()
    client = person.client
    wanted = {"name": "backup", "scopes": ["write"]}
    key = client.post("/api/keys", json=wanted).json()["key"]
    with_key = {"Authorization": f"Bearer {key}"}
    assert client.get("/api/accounts/me", headers=with_key).json()["email"] == person.email

    forgotten = {"email": person.email}
    assert client.post("/api/accounts/password/forgot", json=forgotten).status_code == 202
    letter = person.deployment.letter(person.email, "Set a new password")
    (link,) = re.findall(r"http://\S+/reset\?token=\S+", letter.text)
    (token,) = re.findall(r'name="token" value="([^"]+)"', client.get(link).text)
    form = {"token": token, "password": "a new and longer password"}
    assert "is set" in client.post("/reset", data=form).text

    assert client.get("/api/accounts/me").status_code == 401
    assert client.get("/api/accounts/me", headers=with_key).status_code == 401
    assert person.log_in() == 401
    assert person.log_in("a new and longer password") == 200
    person.deployment.letter(person.email, "Your password was changed")


# media: from here
def test_each_upload_is_told_of_once_and_under_its_request(person: Person) -> None:
    person.join()
    first = person.upload(PHOTO, "first.jpg")
    second = person.upload(PHOTO[:500], "second.jpg")
    assert person.wait_for(first)["status"] == "ready"
    assert person.wait_for(second)["reason"] == "The image is damaged."
    # Whatever would come twice has come by the time of what was asked for after it.
    person.upload(b"third", "third.txt")
    ready, failed = "Your upload is ready", "Your upload could not be processed"
    for subject, name in ((ready, "first"), (failed, "second"), (ready, "third")):
        person.deployment.letter(person.email, subject, name)
    assert len(person.deployment.letters(person.email, ready)) == 2
    assert len(person.deployment.letters(person.email, failed)) == 1
    for item in (first, second):
        assert_logged(person, item)


def assert_logged(person: Person, item: dict[str, Any]) -> None:
    """That the worker's lines about an upload carry the id of its request."""
    deployment, request_id = person.deployment, person.request_ids[item["id"]]
    processed = {"message": "media_processed", "media_id": item["id"]}
    (event,) = wait_until(lambda: deployment.events(**processed))
    assert event["request_id"] == request_id
    wait_until(lambda: done(deployment, request_id) == {"media.process", "mail.deliver"})


def done(deployment: Deployment, request_id: str) -> set[str]:
    """The tasks that were done for a request; the mail may be told of before what it is about."""
    events = deployment.events(message="job_done", request_id=request_id)
    return {event["task"] for event in events}


# media: to here
