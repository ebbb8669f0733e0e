"""What `schemathesis run` has to know of this service and OpenAPI cannot say.

With CREDENTIALS in the environment, requests carry that bearer token.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData

from api import PASSWORD

LEAVER = "lin@example.org"
CREDENTIALS = os.environ.get("CREDENTIALS", "")


@schemathesis.auth(refresh_interval=None)
class Bearer:
    """The token of the run; each logout ends a login of its own, as it would end the run."""

    def get(self, case: Any, context: Any) -> str | None:
        is_login = CREDENTIALS and not CREDENTIALS.startswith("key_")
        if is_login and context.operation.label == "POST /logout":
            return log_in(case.operation.base_url)
        return CREDENTIALS or None

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {data}"}


def log_in(base_url: str) -> str:
    form = {"username": LEAVER, "password": PASSWORD}
    answer = requests.post(f"{base_url.rstrip('/')}/login", data=form, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A key that came with another upload is refused, and so is a time that is over: both are
    well-formed, so here they are made good."""
    key = (case.headers or {}).get("Idempotency-Key")
    if key and case.operation.label == "POST /api/media" and positive(case, "header"):
        case.headers["Idempotency-Key"] = f"{key[:-1][:150]}{uuid4()}{key[-1]}"
    if (
        case.operation.label == "POST /api/keys"
        and positive(case, "body")
        and case.body.get("expires_at")
    ):
        case.body["expires_at"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def positive(case: Any, location: str) -> bool:
    """Whether this part of the request is as OpenAPI has it."""
    part = {str(name.value): part for name, part in case.meta.components.items()}.get(location)
    return part is not None and part.mode.is_positive


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """A form has words alone: a title that is null arrives as the word. schemathesis knows that,
    but cannot tell for a form with a file."""
    accepted = isinstance(failure, AcceptedNegativeData)
    return not (accepted and case.operation.label == "POST /api/media" and only_types(case.body))


def only_types(form: Any) -> bool:
    """Whether a word stands where another type was meant to offend."""
    title, public = form.get("title", ""), form.get("public", False)
    return not isinstance(title, str) or not isinstance(public, bool)
