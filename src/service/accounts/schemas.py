"""Bodies of the account requests and answers."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from service.accounts import addresses


def _encodable(password: SecretStr) -> SecretStr:
    """JSON can name half of a surrogate pair, which is no character and has no bytes."""
    try:
        password.get_secret_value().encode()
    except UnicodeEncodeError:
        raise ValueError("not Unicode text") from None
    return password


Email = Annotated[
    str,
    Field(
        max_length=addresses.MAX_CHARACTERS,
        examples=["ada@example.org"],
        json_schema_extra={"format": "email"},
    ),
    AfterValidator(addresses.normalise),
]
# NIST SP 800-63B 5.1.1.2: at least 8, no rules of composition. The upper bound limits the work.
Password = Annotated[
    SecretStr,
    Field(min_length=8, max_length=1024, examples=["correct horse battery staple"]),
    AfterValidator(_encodable),
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
