"""What every operation may answer, as OpenAPI describes it."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp

from service.errors import PROBLEM_JSON, phrase, problem_body

# Whatever the operation; 414, 502 and 504 by a proxy.
ALWAYS = (400, 413, 414, 421, 429, 431, 500, 502, 503, 504)
NOTHING: Mapping[str, str] = {}
UNREADABLE = (400, 415, 422)  # what a request's body may be
AGAIN = {"Retry-After": "seconds"}
# What goes with a problem of this status.
HEADERS = {
    401: {"WWW-Authenticate": "how to log in"},
    403: {"WWW-Authenticate": "what the token lacks"},
    415: {"Accept": "what the body may be"},
    416: {"Content-Range": "the size, such as `bytes */28231`"},
    426: {"Upgrade": "the protocol to use instead", "Sec-WebSocket-Version": "its version"},
    **dict.fromkeys((429, 502, 503, 504), AGAIN),
}
EXAMPLES = {
    400: "body: expected JSON in UTF-8; it is not at byte 12",
    401: "A valid bearer token is needed.",
    403: "This API key may only read.",
    404: "There is no such item.",
    409: "An account has at most 100 keys. Delete one first.",
    412: "It has changed since: If-Match names another version.",
    413: "The request brings more than 65536 bytes.",
    414: "The address is longer than 8 KiB.",
    415: "The body has to be application/json.",
    416: "The content has 28231 bytes.",
    421: "This service does not answer for that host.",
    422: "body.password: expected 8 to 1024 characters",
    426: "This is a WebSocket: a handshake (RFC 6455) opens it.",
    429: "Too many attempts. Try again later.",
    431: "A header field is longer than 8 KiB, or there are too many.",
    502: "The service is away. Try again shortly.",
    503: "A service this request needs is away. Try again shortly.",
    504: "The service took too long. Try again shortly.",
}
MISTAKES = {"errors": [{"in": "body.password", "message": "expected 8 to 1024 characters"}]}
ID = "c9d9da5f386e262ed9c1f92b04d96150"
REQUEST_ID = {
    "description": "The client's, if well-formed, else a new one",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$", "examples": [ID]},
}


class Mistake(BaseModel):
    """One thing wrong with a request."""

    place: str = Field(alias="in", examples=["body.password"])
    message: str = Field(examples=["expected 8 to 1024 characters"])


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=[EXAMPLES[422]])
    request_id: str = Field(
        description="also in the header X-Request-ID, and in the log", examples=[ID]
    )
    errors: list[Mistake] | None = Field(None, description="each mistake, where there are several")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems; ALWAYS is added later."""
    return {status: {"description": phrase(status)} for status in statuses}


def asks_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A header that a request may have, for `parameters`."""
    shape = {"type": "string", **schema}
    return {"name": name, "in": "header", "description": description, "schema": shape}


def answers(
    status: int,
    required: Mapping[str, str] = NOTHING,
    optional: Mapping[str, str] = NOTHING,
    **more: Any,
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for this status: headers with what each means, and `more`."""
    headers = {
        name: {
            "description": meaning,
            "required": name in required,
            "schema": {"type": "string"},
        }
        for name, meaning in {**required, **optional}.items()
    }
    return {status: {"description": phrase(status), "headers": headers, **more}}


def leads_to(operation: str, **parameters: str) -> dict[str, Any]:
    """A link from an answer to an operation, whose `parameters` stand at these places of the
    answer."""
    places = {name: f"$response.body#{place}" for name, place in parameters.items()}
    return {operation: {"operationId": operation, "parameters": places}}


class DescribedApi(FastAPI):
    """A FastAPI that knows the layer around it, which answers what nobody caught, and tells in its
    OpenAPI what that layer answers."""

    def build_middleware_stack(self) -> ASGIApp:
        """Without the outermost of Starlette's, which would do the same once more."""
        outermost = super().build_middleware_stack()
        return outermost.app if isinstance(outermost, ServerErrorMiddleware) else outermost

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(problem.pop("$defs"), Problem=problem)
    components["headers"] = {"X-Request-ID": REQUEST_ID}
    components["responses"] = shared = {}
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"] | {str(status): {} for status in ALWAYS}
            for status in responses:
                if status >= "400":
                    name = phrase(int(status)).replace(" ", "")
                    shared[name] = _named(_problem(int(status)))
                    responses[status] = {"$ref": f"#/components/responses/{name}"}
                else:
                    _named(responses[status])
            operation["responses"] = dict(sorted(responses.items()))
    return schema


def _named(response: dict[str, Any]) -> dict[str, Any]:
    named = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    response["headers"] = response.get("headers", {}) | named
    return response


def _problem(status: int) -> dict[str, Any]:
    """The answer that every problem of this status is."""
    mistakes: dict[str, Any] = MISTAKES if status == 422 else {}
    example = problem_body(status, detail=EXAMPLES.get(status), request_id=ID, **mistakes)
    shape = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": json.loads(example)}
    return answers(status, HEADERS.get(status, NOTHING), content={PROBLEM_JSON: shape})[status]
