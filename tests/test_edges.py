"""Requests at the edges of HTTP: what is answered, and that errors are problems there as well."""

import json
from typing import Any

import pytest

from api import Api, assert_problem
from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio

ACCOUNT = {"email": "ada@example.org", "password": "correct horse battery staple"}
PAGES = ["/", "/docs", "/openapi.json", "/confirm", "/reset"]
SCHEMA = create_app(Settings(secret_key="k" * 40)).api.openapi()


async def paths_of(api: Api) -> tuple[dict[str, str], dict[str, str]]:
    """The headers of somebody who has one of everything, and what stands in paths for it."""
    headers = await api.signed_in()
    wanted = {"name": "backup", "scopes": ["read"]}
    key = (await api.client.post("/api/keys", headers=headers, json=wanted)).json()
    values = {"key_id": key["id"]}
    # media: from here
    item = await api.done(headers, (await api.upload(headers))["id"])
    values |= {"item_id": item["id"], "name": item["filename"]}
    # media: to here
    return headers, values


def operations(*methods: str) -> list[str]:
    paths: dict[str, dict[str, Any]] = SCHEMA["paths"]
    return [path for path, found in paths.items() if not methods or set(methods) & set(found)]


@pytest.mark.parametrize("path", [*PAGES, *operations("get")])
async def test_head_is_answered_as_get_is(embedded_api: Api, path: str) -> None:
    headers, values = await paths_of(embedded_api)
    path = path.format(**values)
    get = await embedded_api.client.get(path, headers=headers)
    head = await embedded_api.client.head(path, headers=headers)
    assert head.status_code == get.status_code
    assert set(head.headers) == set(get.headers)
    for name in ("content-type", "content-length", "etag", "cache-control"):
        assert head.headers.get(name) == get.headers.get(name), name


@pytest.mark.parametrize("path", sorted(set(operations()) - set(operations("get"))))
async def test_head_of_what_cannot_be_read_is_405(embedded_api: Api, path: str) -> None:
    answer = await embedded_api.client.head(path.format(key_id="x"))
    assert answer.status_code == 405


@pytest.mark.parametrize("path", operations())
async def test_options_is_405_and_names_the_methods(embedded_api: Api, path: str) -> None:
    """There is no answer to a preflight: pages of other origins have no business here."""
    answer = await embedded_api.client.options(path.format(item_id="x", key_id="x", name="x"))
    assert_problem(answer, 405)
    described = {method.upper() for method in SCHEMA["paths"][path]}
    read = {"HEAD"} if "GET" in described else set()
    assert set(answer.headers["allow"].split(", ")) == described | read


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/accounts/me"), ("DELETE", "/api/keys/{key_id}")]
)
async def test_a_body_that_nobody_asked_for_is_ignored(
    embedded_api: Api, method: str, path: str
) -> None:
    headers, values = await paths_of(embedded_api)
    body = {"content": b"{", "headers": {**headers, "Content-Type": "text/plain"}}
    answer = await embedded_api.client.request(method, path.format(**values), **body)
    assert answer.is_success


async def test_a_large_body_that_nobody_asked_for_is_413(embedded_api: Api) -> None:
    answer = await embedded_api.client.request("GET", "/api/accounts/me", content=b"x" * 70_000)
    assert_problem(answer, 413)


# media: from here
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=1&limit=2", 200),  # the last one counts
        ("limit=0&limit=2", 200),
        ("limit=2&limit=0", 422),
        ("unknown=1&limit=2", 200),
        ("limit[]=2", 200),
        ("LIMIT=0", 200),
        ("limit=", 422),
        ("limit=2.5", 422),
        ("limit=1e1", 422),
        ("limit=%32", 200),
        ("limit=+2", 200),
        ("limit=2%00", 422),
        ("limit=%zz", 422),
        ("limit=%", 422),
        ("limit=%ff", 422),
        (f"limit={'9' * 5000}", 422),
        ("cursor=", 422),
        ("cursor=%00", 422),
        ("cursor=%ff", 422),
        ("&&=&;", 200),
        ("%00=%00", 200),
    ],
)
async def test_a_query_is_read_like_this(embedded_api: Api, query: str, status: int) -> None:
    answer = await embedded_api.client.get(f"/api/public/media?{query}")
    assert answer.status_code == status
    if status >= 400:
        assert_problem(answer, status)


# media: to here


@pytest.mark.parametrize(
    "path", ["%zz", "%", "%2", "%00", "%ff", "%c0%80", "%2f", "..%2f", "a%0d%0ab", "\U0001f600"]
)
async def test_an_odd_path_is_a_problem(embedded_api: Api, path: str) -> None:
    headers, values = await paths_of(embedded_api)
    for before in (
        "/",
        f"/api/keys/{values['key_id']}/",
        *("/api/media/", f"/media/{values['item_id']}/"),  # media
    ):
        answer = await embedded_api.client.get(before + path, headers=headers)
        assert answer.status_code in (404, 422)
        assert_problem(answer, answer.status_code)


@pytest.mark.parametrize("path", operations())
async def test_a_slash_too_many_is_404(embedded_api: Api, path: str) -> None:
    headers, values = await paths_of(embedded_api)
    answer = await embedded_api.client.get(f"{path.format(**values)}/", headers=headers)
    assert_problem(answer, 404)


async def test_of_two_members_with_one_name_the_last_counts(embedded_api: Api) -> None:
    body = f'{{"email": "x", {json.dumps(ACCOUNT)[1:]}'
    json_type = {"Content-Type": "application/json"}
    answer = await embedded_api.client.post("/api/accounts", content=body, headers=json_type)
    assert answer.status_code == 202


@pytest.mark.parametrize("accepted", ["text/html", "image/*", "application/xml;q=1", "", ";;;"])
async def test_whatever_is_accepted_errors_are_problems(embedded_api: Api, accepted: str) -> None:
    answer = await embedded_api.client.get("/no/such/path", headers={"Accept": accepted})
    assert_problem(answer, 404)


@pytest.mark.parametrize(
    ("authorization", "challenge"),
    [
        ("", "Bearer"),
        ("Bearer", "Bearer"),
        ("Bearer ", "Bearer"),
        ("Basic YTpi", "Bearer"),
        ("Bearer x", 'Bearer error="invalid_token"'),
        ("bearer x y", 'Bearer error="invalid_token"'),
        (f"Bearer {'x' * 5000}", 'Bearer error="invalid_token"'),
        ("Bearer key_" + "x" * 43, 'Bearer error="invalid_token"'),
        ("Bearer \u00e4", 'Bearer error="invalid_token"'),
    ],
)
async def test_what_is_no_token_is_401(
    embedded_api: Api, authorization: str, challenge: str
) -> None:
    headers = {"Authorization": authorization.encode()}
    answer = await embedded_api.client.get("/api/accounts/me", headers=headers)
    assert_problem(answer, 401)
    assert answer.headers["www-authenticate"] == challenge
