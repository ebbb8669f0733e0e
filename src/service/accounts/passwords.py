"""Password hashes: argon2id, in threads, in all workers never more at once than there are cores."""

import asyncio
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from service.resources import Resources

Result = TypeVar("Result")

# NIST SP 800-63B 5.1.1.2: at least 8, no rules of composition, none that is guessed first. The
# upper bound limits the work.
MIN_PASSWORD_CHARACTERS = 8
MAX_PASSWORD_CHARACTERS = 1024

# OWASP's parameters for argon2id: 19 MiB and two passes (20 ms).
_hashes = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
# Verified where there is no account, so that the answer takes as long.
NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$4l9I421BJb6gkU+Pe9m"
    "S2g$2VEK6X1jb4tcUU0cJL/UOB1+dXdg9L/QOqbeSWroP+M"
)


async def hash_password(resources: Resources, password: str) -> str:
    return await _in_thread(resources, _hash, password)


async def verify_password(resources: Resources, password: str, password_hash: str | None) -> bool:
    """Whether the password is the hash's. Takes as long where there is no hash, and no longer for
    one that is nobody's, as it has more characters than a password may."""
    if len(password) > MAX_PASSWORD_CHARACTERS:
        password, password_hash = "", None
    matches = await _in_thread(resources, _verify, password, password_hash or NOBODY)
    return matches and password_hash is not None


async def _in_thread(
    resources: Resources, function: Callable[..., Result], *arguments: str
) -> Result:
    loop = asyncio.get_running_loop()
    async with resources.cpu_gate:
        return await loop.run_in_executor(resources.hashing, function, *arguments)


def _hash(password: str) -> str:
    return _hashes.hash(_prepared(password))


def _verify(password: str, password_hash: str) -> bool:
    return _hashes.verify(_prepared(password), password_hash)


def _prepared(password: str) -> str:
    """RFC 8265 section 4.2.2: keyboards compose the same letter in different ways. Accents without
    end on one letter take time with the square of their number (1,024 of them some milliseconds).
    """
    return unicodedata.normalize("NFC", password)
