"""Errors as callers see them: RFC 9457 problem details, from one place."""

import http
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from fastapi.exceptions import (
    RequestValidationError,
    ValidationException,
    WebSocketRequestValidationError,
)
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

log = logging.getLogger(__name__)

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
NO_REQUEST_ID = "-"
# RFC 9110's names, of which Python 3.13 is the first to know.
RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
MOST_MISTAKES = 20  # told of one request, which may hold thousands
CLIENT_CLOSED_REQUEST = 499  # nginx's number, for logs and metrics: nobody is there to read it

Handler = Callable[[Request, Exception], Awaitable[Response]]


class ServiceError(Exception):
    """An error with an answer: subclasses set `status`, `title` and perhaps `headers`.

    The message is for the caller. What only the operator should read goes to the log.
    """

    status = 500
    title: str | None = None
    headers: Mapping[str, str] = {}

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or "")
        self.detail = detail


class Unavailable(ServiceError):
    """Something the request needs is away for the moment."""

    status = 503
    headers = {"Retry-After": "2"}

    def __init__(self, detail: str = "A service this request needs is away. Try again shortly."):
        super().__init__(detail)


def phrase(status: int) -> str:
    """The standard title of an HTTP status."""
    try:
        return RENAMED.get(status) or http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_body(
    status: int,
    *,
    title: str | None = None,
    detail: str | None = None,
    request_id: str = NO_REQUEST_ID,
    **more: Any,
) -> bytes:
    """An RFC 9457 problem as UTF-8 JSON; `more` are extension members."""
    title = title or phrase(status)
    problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail or title,
        "request_id": request_id,
        **more,
    }
    return json.dumps(problem, ensure_ascii=False).encode()


def problem_response(
    request: Request,
    status: int,
    *,
    title: str | None = None,
    detail: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """A problem as a response, carrying the id of the request it answers."""
    request_id = getattr(request.state, "request_id", NO_REQUEST_ID)
    body = problem_body(status, title=title, detail=detail, request_id=request_id, **more)
    return Response(body, status, dict(headers or {}), media_type=PROBLEM_JSON)


async def on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(
        request, error.status, title=error.title, detail=error.detail, headers=error.headers
    )


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What Starlette and FastAPI raise themselves: 404, 405, 400, 413."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    headers = {"Allow": allowed_methods(request)} if status == 405 else error.headers
    detail = error.detail if error.detail != phrase(status) else None
    detail = _unreadable(request, error) or detail
    return problem_response(request, status, detail=detail, headers=headers)


def _unreadable(request: Request, error: HTTPException) -> str:
    """What is wrong with JSON of which FastAPI says no more than that it cannot be parsed."""
    if error.status_code != 400 or not _is_json(_media_type(request)):
        return ""
    match error.__cause__:
        case UnicodeDecodeError(start=position):
            return f"body: expected JSON in UTF-8; it is not at byte {position + 1}"
        case RecursionError():
            return "body: expected JSON; it is nested too deeply"
        case ValueError():  # the last that Python's json raises
            return "body: expected JSON; one of its numbers has too many digits"
    return ""


def allowed_methods(request: Request) -> str:
    """Every method of a path, for `Allow`: the router names those of the first route that fits."""
    path = request.scope["path"]  # request.url fails where the Host header is no host
    routes = iter_route_contexts(request.app.routes)
    fitting = (route.methods or () for route in routes if route.path_regex.match(path))
    return ", ".join(sorted({method for methods in fitting for method in methods}))


async def on_validation_error(request: Request, error: Exception) -> Response:
    """422 with the place and reason of the mistakes, never the value: it may be a password. 415
    where the body is of another type than the operation takes, and so was not read."""
    assert isinstance(error, ValidationException)
    if isinstance(error, RequestValidationError) and (expected := unmet_types(request)):
        types = ", ".join(expected)
        detail = f"The body has to be {types}."
        return problem_response(request, 415, detail=detail, headers={"Accept": types})
    errors = [_told(mistake) for mistake in error.errors()[:MOST_MISTAKES]]
    detail = "; ".join(f"{mistake['in']}: {mistake['message']}" for mistake in errors)
    return problem_response(request, 422, detail=detail, errors=errors)


def _told(mistake: Mapping[str, Any]) -> dict[str, str]:
    if mistake.get("type") == "json_invalid":  # what FastAPI has as its place is a position
        position = mistake["loc"][-1] + 1
        return {"in": "body", "message": f"expected JSON; it is not valid at character {position}"}
    place = ".".join(map(str, mistake["loc"]))
    return {"in": place, "message": mistake["msg"].removeprefix("Value error, ")}


def unmet_types(request: Request) -> Collection[str]:
    """The media types that OpenAPI has for a body, where there is one and it is none of them."""
    if request.headers.get("content-length", "0") == "0" and not _is_chunked(request):
        return ()
    route: Any = request.scope["route"]
    operation = request.app.openapi()["paths"].get(route.path, {}).get(request.method.lower(), {})
    types: Mapping[str, Any] = operation.get("requestBody", {}).get("content", {})
    given = _media_type(request)
    return () if given in types or (_is_json(given) and JSON in types) else types


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    """As FastAPI tells."""
    return media_type == JSON or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def _is_chunked(request: Request) -> bool:
    return "transfer-encoding" in request.headers


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client went away before its body was complete: no error of the service."""
    return problem_response(request, CLIENT_CLOSED_REQUEST, title="Client Closed Request")


def exception_handlers(*, debug: bool) -> dict[type[Exception], Handler]:
    """The handler of every error but those that nobody expects, which are RequestLayer's to answer.
    With `debug` they log where an error came from."""
    told = _logging if debug else _silent
    return {
        ServiceError: told(on_service_error),
        HTTPException: told(on_http_exception),
        # Never logged: it holds what was sent.
        RequestValidationError: on_validation_error,
        WebSocketRequestValidationError: on_validation_error,
        ClientDisconnect: on_disconnect,
    }


def _silent(handler: Handler) -> Handler:
    return handler


def _logging(handler: Handler) -> Handler:
    async def logged(request: Request, error: Exception) -> Response:
        log.info("handled_error", exc_info=error)
        return await handler(request, error)

    return logged
