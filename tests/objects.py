"""What tests of the storage do again and again."""

from service.folder import BATCH
from service.settings import Settings, load
from service.storage import Storage


def settings_of(variables: dict[str, str]) -> Settings:
    """As the service loads them, without the files of this machine."""
    return load(variables, secrets_directory="absent", dotenv="absent").settings


async def content(storage: Storage, key: str, start: int = 0, end: int | None = None) -> bytes:
    if end is None:
        end = await storage.size(key) or 0
    return b"".join([chunk async for chunk in storage.read(key, start, end)])


async def keys_older_than(storage: Storage, seconds: float) -> list[str]:
    batches = [batch async for batch in storage.older_than(seconds)]
    assert all(0 < len(batch) <= BATCH for batch in batches)
    return sorted(key for batch in batches for key in batch)
