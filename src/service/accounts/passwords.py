"""Password hashes: argon2id, in threads, in all workers never more at once than there are cores."""

import asyncio
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from service.resources import Resources

Result = TypeVar("Result")

# OWASP's parameters for argon2id: 19 MiB and two passes (20 ms).
_hashes = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
# Verified where there is no account, so that the answer takes as long.
NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$4l9I421BJb6gkU+Pe9m"
    "S2g$2VEK6X1jb4tcUU0cJL/UOB1+dXdg9L/QOqbeSWroP+M"
)


async def hash_password(resources: Resources, password: str) -> str:
    return await _in_thread(resources, _hashes.hash, _prepared(password))


async def verify_password(resources: Resources, password: str, password_hash: str | None) -> bool:
    """Whether the password is the hash's. Takes as long where there is no hash."""
    candidate = _prepared(password), password_hash or NOBODY
    matches = await _in_thread(resources, _hashes.verify, *candidate)
    return matches and password_hash is not None


async def _in_thread(
    resources: Resources, function: Callable[..., Result], *arguments: str
) -> Result:
    loop = asyncio.get_running_loop()
    async with resources.cpu_gate:
        return await loop.run_in_executor(resources.hashing, function, *arguments)


def _prepared(password: str) -> str:
    """RFC 8265 section 4.2.2: keyboards compose the same letter in different ways."""
    return unicodedata.normalize("NFC", password)
