"""Bodies of the account requests and answers."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from service.accounts import addresses, known_passwords
from service.accounts.known_passwords import OWN_ADDRESS
from service.accounts.models import ApiKey
from service.accounts.passwords import MAX_PASSWORD_CHARACTERS, MIN_PASSWORD_CHARACTERS
from service.texts import VISIBLE_LINE

MAX_KEY_YEARS = 10


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
    if known_passwords.is_known(text):
        raise ValueError("expected one that is not among the commonest")
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

LinkToken = Annotated[
    str,
    Field(
        max_length=500,
        description="from the mail",
        examples=["WyI3NDcyMDkyNjEwYzg0YzMxIiwic3RhbXAiXQ.awRryg.KhSB9clmFFXKn-7PSYJox65Db8E"],
    ),
]


class NewAccount(BaseModel):
    email: Email
    password: Password

    @field_validator("password")
    @classmethod
    def _is_not_the_address(cls, password: SecretStr, info: ValidationInfo) -> SecretStr:
        email = info.data.get("email", "")  # not there where it is none
        if known_passwords.is_of_address(password.get_secret_value(), email):
            raise ValueError(OWN_ADDRESS)
        return password


class Confirmation(BaseModel):
    token: LinkToken


class Forgotten(BaseModel):
    email: Email


class PasswordReset(BaseModel):
    token: LinkToken
    password: Password


class Accepted(BaseModel):
    """The same whether the address was known or not."""

    detail: str = "If the address can be used, a mail is on its way."


class LoginForm(BaseModel):
    """RFC 6749 section 4.3.2; there are no scopes, and any client may log in."""

    grant_type: Literal["password"] = "password"
    username: str = Field(
        min_length=1, description="the mail address", examples=["ada@example.org"]
    )
    password: str = Field(
        min_length=1,
        examples=["correct horse battery staple"],
        json_schema_extra={"format": "password"},
    )


class AccessToken(BaseModel):
    """RFC 6749 section 5.1."""

    access_token: str = Field(examples=["CdAxHyDHs3Ub6JiZ-hR33D2I6oGCzqgS1tIzkBBBg6s"])
    token_type: Literal["bearer"] = "bearer"
    expires_in: int = Field(description="seconds", examples=[86400])


class AccountView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID = Field(examples=["74720926-10c8-4c31-a453-192fbae165d0"])
    email: str = Field(examples=["ada@example.org"])
    created_at: datetime = Field(examples=["2026-11-23T16:37:30.327951Z"])


Scope = Literal["read", "write"]


def _written_moment(value: Any) -> Any:
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a time such as 2030-01-31T12:00:00Z")  # not a count of seconds
    return value


def _in_bounds(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    now = datetime.now(UTC)
    if not now < moment < now + timedelta(days=366 * MAX_KEY_YEARS):
        raise ValueError(f"expected a time in the future, at most {MAX_KEY_YEARS} years ahead")
    return moment


class NewKey(BaseModel):
    """What a key is for, what it may do, and until when."""

    # An end that is misspelt would be a key without one.
    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str,
        Field(max_length=100, examples=["backup"]),
        VISIBLE_LINE,
        AfterValidator(str.strip),
    ]
    scopes: list[Scope] = Field(
        min_length=1, max_length=2, examples=[["read"]], description="`write` includes `read`"
    )
    expires_at: Annotated[
        AwareDatetime | None,
        Field(
            description="with a time zone; none: until it is deleted",
            examples=["2030-01-31T12:00:00Z"],
        ),
        BeforeValidator(_written_moment),
        AfterValidator(_in_bounds),
    ] = None


class KeyView(BaseModel):
    """A key as its owner sees it, without the key."""

    id: UUID = Field(examples=["0b4dbb4e-4f0c-4b8a-9f57-0d5a3c0f6f0e"])
    name: str = Field(examples=["backup"])
    scopes: list[Scope] = Field(examples=[["read"]])
    ending: str = Field(description="the key's last characters", examples=["x7Qf"])
    created_at: datetime = Field(examples=["2026-11-23T16:37:30.327951Z"])
    expires_at: datetime | None = Field(examples=["2030-01-31T12:00:00Z"])
    last_used_at: datetime | None = Field(description="to the hour", examples=[None])

    @classmethod
    def of(cls, row: ApiKey, **more: Any) -> Self:
        names = ("id", "name", "ending", "created_at", "expires_at", "last_used_at")
        scopes: list[Scope] = ["read", "write"] if row.may_write else ["read"]
        return cls(**{name: getattr(row, name) for name in names}, scopes=scopes, **more)


class IssuedKey(KeyView):
    """With the key: it is shown this once, and used as a bearer token."""

    key: str = Field(examples=["key_CdAxHyDHs3Ub6JiZ-hR33D2I6oGCzqgS1tIzkBBx7Qf"])


class KeyList(BaseModel):
    """Newest first, at most 100."""

    items: list[KeyView]
