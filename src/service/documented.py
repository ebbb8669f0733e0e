"""What every operation may answer, as OpenAPI describes it."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from service.errors import PROBLEM_JSON, phrase

ALWAYS = (400, 413, 421, 500)  # whatever the operation
SCHEMA = {"$ref": "#/components/schemas/Problem"}
# What goes with a problem of this status.
HEADERS = {
    401: {"WWW_Authenticate": "how to log in"},
    416: {"Content_Range": "the size, such as `bytes */28231`"},
    429: {"Retry_After": "seconds"},
    503: {"Retry_After": "seconds"},
}
REQUEST_ID = {"$ref": "#/components/headers/X-Request-ID"}


class Mistake(BaseModel):
    """One thing wrong with a request."""

    place: str = Field(alias="in", examples=["body.password"])
    message: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    request_id: str = Field(description="also in the header X-Request-ID, and in the log")
    errors: list[Mistake] | None = Field(None, description="each mistake, where there are several")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems; ALWAYS is added later."""
    answers: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        answers |= with_headers(status, **HEADERS.get(status, {}))
        answers[status]["content"] = {PROBLEM_JSON: {"schema": SCHEMA}}
    return answers


def asks_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A header that a request may have, for `parameters`."""
    shape = {"type": "string", **schema}
    return {"name": name, "in": "header", "description": description, "schema": shape}


def with_headers(status: int, **descriptions: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route whose answer of this status has headers."""
    headers = {
        name.replace("_", "-"): {"description": description, "schema": {"type": "string"}}
        for name, description in descriptions.items()
    }
    return {status: {"description": phrase(status), "headers": headers}}


class DescribedApi(FastAPI):
    """A FastAPI whose OpenAPI also tells what the layers around every operation answer."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(problem.pop("$defs"), Problem=problem)
    components["headers"] = {
        "X-Request-ID": {
            "description": "The client's, if well-formed, else a new one",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
        }
    }
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            responses.update({str(status): answer for status, answer in problems(*ALWAYS).items()})
            for response in responses.values():
                response.setdefault("headers", {})["X-Request-ID"] = REQUEST_ID
            operation["responses"] = dict(sorted(responses.items()))
    return schema
