"""OpenAPI says what the API does."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import Api
from service.app import create_app
from service.documented import Problem
from service.settings import Settings

METHODS_WITH_BODY = ("post", "put", "patch")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as two operations of one name
        return create_app(Settings(secret_key="k" * 40)).api.openapi()


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


@pytest.mark.anyio
async def test_it_is_served(embedded_api: Api, schema: dict[str, Any]) -> None:
    answer = await embedded_api.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json() == schema


def test_it_is_valid(schema: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(schema).iter_errors()) == []
    assert schema["openapi"].startswith("3.1")


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    for reference in set(re.findall(r"'\$ref': '([^']+)'", str(schema))):
        target: Any = schema
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_every_path_of_this_release_is_there_and_no_other(schema: dict[str, Any]) -> None:
    assert {f"{method.upper()} {path}" for method, path, _ in operations(schema)} == {
        "POST /api/accounts",
        "POST /api/accounts/confirm",
        "POST /api/accounts/password/forgot",
        "POST /api/accounts/password/reset",
        "POST /login",
        "POST /logout",
        "GET /api/accounts/me",
        "POST /api/keys",
        "GET /api/keys",
        "DELETE /api/keys/{key_id}",
        # media: from here
        "POST /api/media",
        "GET /api/media",
        "GET /api/media/{item_id}",
        "PATCH /api/media/{item_id}",
        "DELETE /api/media/{item_id}",
        "GET /api/public/media",
        "GET /media/{item_id}/{name}",
        "GET /media/{item_id}/thumbnail",
        "GET /ws/media",
        # media: to here
    }


@pytest.mark.parametrize("status", ["400", "413", "421", "429", "500", "502", "503", "504"])
def test_every_operation_tells_of_what_can_always_happen(
    schema: dict[str, Any], status: str
) -> None:
    assert [
        path for _, path, operation in operations(schema) if status not in operation["responses"]
    ] == []


def test_what_needs_a_token_tells_of_401_and_nothing_else_but_login_does(
    schema: dict[str, Any],
) -> None:
    for _, path, operation in operations(schema):
        told = "401" in operation["responses"]
        assert told == ("security" in operation or path == "/login"), path


def test_what_changes_something_for_an_account_tells_of_403(schema: dict[str, Any]) -> None:
    """An API key that may only read is refused there."""
    for method, path, operation in operations(schema):
        if method != "get" and "security" in operation:
            assert "403" in operation["responses"], path


def test_what_reads_a_body_tells_of_an_unreadable_one(schema: dict[str, Any]) -> None:
    for _, path, operation in operations(schema):
        if "requestBody" in operation:
            assert {"400", "415", "422"} <= set(operation["responses"]), path


def test_what_takes_parameters_tells_of_422(schema: dict[str, Any]) -> None:
    for _, path, operation in operations(schema):
        if operation.get("parameters"):
            assert "422" in operation["responses"], path


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("post", "/api/accounts", {"202", "400", "422"}),
        ("post", "/api/accounts/confirm", {"204", "400", "422"}),
        ("post", "/api/accounts/password/forgot", {"202", "400", "422"}),
        ("post", "/api/accounts/password/reset", {"204", "400", "422"}),
        ("post", "/login", {"200", "400", "401", "422"}),
        ("post", "/logout", {"204", "401", "403"}),
        ("get", "/api/accounts/me", {"200", "401"}),
        ("post", "/api/keys", {"201", "400", "401", "403", "409", "422"}),
        ("get", "/api/keys", {"200", "401", "403"}),
        ("delete", "/api/keys/{key_id}", {"204", "401", "403", "404", "422"}),
        # media: from here
        ("post", "/api/media", {"202", "400", "401", "403", "422"}),
        ("get", "/api/media", {"200", "304", "401", "422"}),
        ("get", "/api/media/{item_id}", {"200", "304", "401", "404", "422"}),
        ("patch", "/api/media/{item_id}", {"200", "400", "401", "403", "404", "412", "422"}),
        ("delete", "/api/media/{item_id}", {"204", "401", "403", "404", "412", "422"}),
        ("get", "/api/public/media", {"200", "304", "422"}),
        (
            "get",
            "/media/{item_id}/{name}",
            {"200", "206", "304", "307", "401", "404", "412", "416", "422"},
        ),
        (
            "get",
            "/media/{item_id}/thumbnail",
            {"200", "206", "304", "401", "404", "412", "416", "422"},
        ),
        ("get", "/ws/media", {"101", "401", "422", "426", "429"}),
        # media: to here
    ],
)
def test_an_operation_tells_of_its_statuses(
    schema: dict[str, Any], method: str, path: str, statuses: set[str]
) -> None:
    always = {"400", "413", "414", "421", "429", "431", "500", "502", "503", "504"}
    if "400" in statuses:
        always.add("415")
    assert set(schema["paths"][path][method]["responses"]) == statuses | always


def described(schema: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """A response, also where the schema keeps it elsewhere."""
    name = response.get("$ref", "").removeprefix("#/components/responses/")
    found: dict[str, Any] = schema["components"]["responses"][name] if name else response
    return found


def answers(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, status, response) of all operations."""
    for _, path, operation in operations(schema):
        for status, response in operation["responses"].items():
            yield path, status, described(schema, response)


def test_every_error_is_a_problem_with_an_example(schema: dict[str, Any]) -> None:
    for path, status, response in answers(schema):
        if status >= "400":
            (problem,) = response["content"].values()
            assert list(response["content"]) == ["application/problem+json"], (path, status)
            assert problem["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert Problem.model_validate(problem["example"]).status == int(status)


def test_a_problem_is_described_as_it_is_sent(schema: dict[str, Any]) -> None:
    problem = schema["components"]["schemas"]["Problem"]
    assert set(problem["required"]) == {"type", "title", "status", "detail", "request_id"}
    assert set(problem["properties"]) == set(problem["required"]) | {"errors"}
    assert set(schema["components"]["schemas"]["Mistake"]["properties"]) == {"in", "message"}
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_every_answer_names_its_request(schema: dict[str, Any]) -> None:
    for path, status, response in answers(schema):
        assert "X-Request-ID" in response["headers"], (path, status)


# media: from here
def test_public_items_need_no_token(schema: dict[str, Any]) -> None:
    assert schema["paths"]["/media/{item_id}/{name}"]["get"]["security"] == [{"bearer": []}, {}]


def test_an_upload_is_a_form_with_a_file(schema: dict[str, Any]) -> None:
    content = schema["paths"]["/api/media"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert set(form["properties"]) == {"file", "title", "public"}
    assert form["properties"]["file"]["format"] == "binary"


def test_a_change_may_leave_out_what_stays(schema: dict[str, Any]) -> None:
    changes = schema["components"]["schemas"]["MediaChanges"]
    assert set(changes["properties"]) == {"title", "public", "filename"}
    assert "required" not in changes
    assert changes["additionalProperties"] is False
    assert not any("default" in field for field in changes["properties"].values())


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_an_item_may_be_changed_under_a_condition(schema: dict[str, Any], method: str) -> None:
    parameters = schema["paths"]["/api/media/{item_id}"][method]["parameters"]
    assert [found["name"] for found in parameters] == ["item_id", "If-Match"]


def test_an_upload_may_have_a_key(schema: dict[str, Any]) -> None:
    (key,) = schema["paths"]["/api/media"]["post"]["parameters"]
    assert (key["name"], key["in"], key["required"]) == ("Idempotency-Key", "header", False)


# media: to here


@pytest.mark.parametrize(
    ("status", "header"),
    [
        ("401", "WWW-Authenticate"),
        ("403", "WWW-Authenticate"),
        ("415", "Accept"),
        ("416", "Content-Range"),
        ("429", "Retry-After"),
        ("503", "Retry-After"),
    ],
)
def test_a_problem_tells_of_the_header_that_goes_with_it(
    schema: dict[str, Any], status: str, header: str
) -> None:
    for path, found, response in answers(schema):
        if found == status:
            assert response["headers"][header]["required"], path


def test_every_operation_has_a_name_to_call_it_by(schema: dict[str, Any]) -> None:
    names = [operation["operationId"] for *_, operation in operations(schema)]
    assert all(name.isidentifier() for name in names)
    assert {"log_in", "list_keys", "create_key"} <= set(names)
    assert len(set(names)) == len(names)


def test_every_operation_has_a_tag_that_is_explained(schema: dict[str, Any]) -> None:
    explained = {tag["name"] for tag in schema["tags"] if tag["description"]}
    for _, path, operation in operations(schema):
        assert set(operation["tags"]) <= explained, path


def test_every_link_leads_to_an_operation_and_names_its_parameters(schema: dict[str, Any]) -> None:
    known = {
        operation["operationId"]: {parameter["name"] for parameter in operation["parameters"]}
        for *_, operation in operations(schema)
        if "parameters" in operation
    }
    links = [link for *_, answer in answers(schema) for link in answer.get("links", {}).values()]
    assert "delete_key" in {link["operationId"] for link in links}
    for link in links:
        assert set(link["parameters"]) <= known[link["operationId"]]


def test_all_that_is_sent_and_answered_has_examples(schema: dict[str, Any]) -> None:
    for name, shape in schema["components"]["schemas"].items():
        for key, field in shape["properties"].items():
            told = {"examples", "const", "default"} & set(field) or field.get("type") == "array"
            assert told or "$ref" in str(field), (name, key)


# media: from here
@pytest.mark.parametrize("path", ["/api/media", "/api/media/{item_id}", "/api/public/media"])
def test_what_can_be_asked_for_again_tells_of_its_version(
    schema: dict[str, Any], path: str
) -> None:
    operation = schema["paths"][path]["get"]
    assert "If-None-Match" in [found["name"] for found in operation["parameters"]]
    for status in ("200", "304"):
        assert "ETag" in operation["responses"][status]["headers"]


# media: to here
