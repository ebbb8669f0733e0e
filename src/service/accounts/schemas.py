"""Bodies of the account requests and answers."""

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr


def _address(value: str) -> str:
    """One address in lower case. Refuses what cannot be one; only a mail that arrives proves it."""
    value = value.strip().lower()
    if not re.fullmatch(
        r"[^@\s<>(),;:\\\"\[\]]+@[^@\s<>(),;:\\\"\[\]]+\.[^@\s<>(),;:\\\"\[\].]+", value
    ):
        raise ValueError("not a mail address")
    return value


Email = Annotated[
    str, Field(max_length=320, examples=["ada@example.org"]), AfterValidator(_address)
]
# NIST SP 800-63B 5.1.1.2: at least 8, no rules of composition. The upper bound limits the work.
Password = Annotated[
    SecretStr, Field(min_length=8, max_length=1024, examples=["correct horse battery staple"])
]


class NewAccount(BaseModel):
    email: Email
    password: Password


class Confirmation(BaseModel):
    token: str = Field(max_length=500)


class Accepted(BaseModel):
    """The same whether the address was known or not."""

    detail: str = "If the address can be used, a mail is on its way."


class AccessToken(BaseModel):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(description="seconds")


class AccountView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    created_at: datetime
