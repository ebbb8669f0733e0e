"""What `schemathesis run` has to know of this service and OpenAPI cannot say."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import requests
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData

from api import PASSWORD
from service.accounts.known_passwords import is_known, is_of_address

LEAVER = "lin@example.org"
UPLOAD = "POST /api/media"  # media


def still_ahead(new_key: Any) -> None:
    """A time that is over is well-formed and refused."""
    if positive(new_key, "body") and new_key.body.get("expires_at"):
        new_key.body["expires_at"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def harder_to_guess(account: Any) -> None:
    """So is a password that is on a list."""
    if positive(account, "body"):
        password, email = account.body["password"], account.body.get("email", "")
        if is_known(password) or is_of_address(password, email):
            account.body["password"] = PASSWORD


# media: from here
def never_used(upload: Any) -> None:
    """So is an Idempotency-Key that came with another upload."""
    key = (upload.headers or {}).get("Idempotency-Key")
    if key and positive(upload, "header"):
        upload.headers["Idempotency-Key"] = f"{key[:-1][:150]}{uuid4()}{key[-1]}"


# media: to here


def of_another_login(logout: Any) -> None:
    """It would end the run's own."""
    bearer = (logout.headers or {}).get("Authorization", "")
    if bearer and not bearer.startswith("Bearer key_"):
        logout.headers["Authorization"] = f"Bearer {log_in(logout.operation.base_url)}"


def log_in(base_url: str) -> str:
    form = {"username": LEAVER, "password": PASSWORD}
    answer = requests.post(f"{base_url.rstrip('/')}/login", data=form, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def positive(case: Any, location: str) -> bool:
    """Whether this part of the request is as OpenAPI has it."""
    parts = case.meta.components if case.meta else {}
    return any(name.value == location and part.mode.is_positive for name, part in parts.items())


MADE = {
    **dict.fromkeys(("POST /api/accounts", "POST /api/accounts/password/reset"), harder_to_guess),
    UPLOAD: never_used,  # media
    "POST /api/keys": still_ahead,
    "POST /logout": of_another_login,
}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if make := MADE.get(case.operation.label):
        make(case)


# media: from here
@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """A form has words alone: a title that is null arrives as the word. schemathesis knows that,
    but cannot tell for a form with a file."""
    accepted = isinstance(failure, AcceptedNegativeData)
    return not (accepted and case.operation.label == UPLOAD and only_types(case.body))


def only_types(form: dict[str, Any]) -> bool:
    """Whether a word stands where another type was meant to offend."""
    title, public = form.get("title", ""), form.get("public", False)
    return not isinstance(title, str) or not isinstance(public, bool)


# media: to here
