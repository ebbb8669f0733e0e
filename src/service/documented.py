"""Problem answers as OpenAPI describes them."""

from typing import Any

from pydantic import BaseModel, Field

from service.errors import PROBLEM_JSON, phrase


class Problem(BaseModel):
    """RFC 9457."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    request_id: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "model": Problem,
            "description": phrase(status),
            "content": {PROBLEM_JSON: {"schema": schema}},
        }
        for status in statuses
    }
