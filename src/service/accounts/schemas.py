"""Bodies of the account requests and answers."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from service.accounts import addresses

# NIST SP 800-63B 5.1.1.2: at least 8, no rules of composition. The upper bound limits the work.
MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 1024


def _password(password: SecretStr) -> SecretStr:
    text = password.get_secret_value()
    if not MIN_PASSWORD_CHARACTERS <= len(text) <= MAX_PASSWORD_CHARACTERS:
        raise ValueError(
            f"expected {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters"
        )
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can name half of a surrogate pair, which has no bytes
        raise ValueError("expected Unicode text") from None
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
Password = Annotated[
    SecretStr,
    Field(
        examples=["correct horse battery staple"],
        json_schema_extra={
            "minLength": MIN_PASSWORD_CHARACTERS,
            "maxLength": MAX_PASSWORD_CHARACTERS,
        },
    ),
    AfterValidator(_password),
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
