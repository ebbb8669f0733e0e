"""What an object store refuses, in words for operators."""

import re
from collections.abc import Iterator

from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

MISSING = (NotFoundError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
CODE = re.compile("<Code>([A-Za-z0-9]{1,64})</Code>")
# In obstore's dump, such as `kind: ConnectionRefused`, and of these the innermost.
KIND = re.compile(r"(?:\bkind: |\bInvalidCertificate\(\s*)(\w+)")
VAGUE = ("Connect", "Request", "Other", "InvalidData", "Uncategorized")
_KEY = ("AWS_ACCESS_KEY_ID", "a key that the object store knows")
_POLICY = "a bucket whose policy lets this key get, put, delete and list (docs/operations.md)"
# Code of S3: the variable to blame, what was expected, what was found. No retry mends these.
REFUSALS = {
    "AccessDenied": ("MEDIA_STORE_URL", _POLICY, "access denied"),
    "AllAccessDisabled": ("MEDIA_STORE_URL", _POLICY, "access denied"),
    "AuthorizationHeaderMalformed": ("AWS_REGION", "the region of the bucket", "another one"),
    "ExpiredToken": ("AWS_SESSION_TOKEN", "a token that is still good", "one that has expired"),
    "InvalidAccessKeyId": (*_KEY, "one that it does not know"),
    "InvalidBucketName": ("MEDIA_STORE_URL", "the name of a bucket", "no such bucket"),
    "InvalidToken": ("AWS_SESSION_TOKEN", "the token of this key", "another one"),
    "NoCredentials": (*_KEY, "none, neither given nor found"),
    "NoSuchBucket": ("MEDIA_STORE_URL", "a bucket that is there", "no such bucket"),
    "PermanentRedirect": ("AWS_REGION", "the region of the bucket", "another one"),
    "RequestTimeTooSkewed": ("MEDIA_STORE_URL", "a clock that is right here", "a wrong one"),
    "SignatureDoesNotMatch": ("AWS_SECRET_ACCESS_KEY", "the secret of the key", "another one"),
}


class NoCredentials(Exception):
    """No key was given, and the machine, the container and the AWS profile have none."""


class StoreAway(Exception):
    """The object store does not answer, or refuses; in one line."""


ERRORS = (OSError, BaseError, NoCredentials, StoreAway)


def refusal(error: BaseException) -> str:
    """One of REFUSALS, or nothing where the store may only be away."""
    for each in _chain(error):
        if (found := CODE.search(str(each))) and found[1] in REFUSALS:
            return found[1]
        if isinstance(each, UnauthenticatedError | NoCredentials):
            return "NoCredentials"
        if isinstance(each, PermissionDeniedError):  # an answer to HEAD has no code
            return "AccessDenied"
    return ""


def is_missing(error: BaseException) -> bool:
    """Whether there is nothing under the key, though there is a bucket."""
    return isinstance(error, MISSING) and not refusal(error)


def reason(error: BaseException) -> str:
    """One word: S3's code, or what of the connection failed; nothing where that is not told."""
    for each in _chain(error):
        if found := CODE.search(str(each)):
            return found[1]
        kinds = [kind for kind in KIND.findall(str(each)) if kind not in VAGUE]
        if kinds:
            return str(kinds[-1])
    return ""


def described(error: BaseException) -> str:
    """In a line for the log: obstore adds a dump of its insides, and S3 what was signed."""
    text, _, _ = str(error).partition("\n\nDebug source")
    said = re.sub(r"(?s):?\s*<\?xml.*", "", text)
    return " ".join(f"{type(error).__name__}: {said} {reason(error)}".split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
