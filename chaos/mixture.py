"""Some of everything that clients do, in the proportions of `SHARES`; what is deleted was there."""

import random
from collections.abc import Callable, Iterator

from bench.items import insert_received

from chaos.people import COUNT, bearer, login, request, upload
from chaos.stack import Stack

PART_BYTES = 5000
SHARES = {
    "me": 0.30,
    "pages": 0.20,
    "one": 0.15,
    "ranges": 0.10,
    "public": 0.10,
    "keys": 0.03,
    "wrong": 0.09,
    "uploads": 0.01,
    "deletions": 0.015,
    "logins": 0.005,
}
WRONG = (
    ("GET", "/api/media/00000000-0000-0000-0000-000000000000", 404),
    ("GET", "/nothing/here", 404),
    ("GET", "/api/media?limit=1000", 422),
    ("PUT", "/api/media", 405),
    ("GET", "/api/accounts/me?stranger", 401),
)


class Mixture:
    """`original` is an item with PART_BYTES and more."""

    def __init__(self, stack: Stack, tokens: list[str], original: str) -> None:
        self.stack = stack
        self.tokens = tokens
        self.owner = stack.bearer
        self.original = original

    def requests(self, count: int) -> list[str]:
        """In any order; what was not deleted is not deleted twice."""
        made = [
            text
            for kind, share in SHARES.items()
            for text in self.alone(kind, round(count * share))
        ]
        random.shuffle(made)
        return made

    def alone(self, kind: str, count: int) -> list[str]:
        """Of one kind."""
        return list(getattr(self, f"_{kind}")(count))

    def _each(self, count: int, make: Callable[[int, str], str]) -> Iterator[str]:
        for n in range(count):
            yield make(n, bearer(self.tokens[n % len(self.tokens)]))

    def _me(self, count: int) -> Iterator[str]:
        return self._each(count, lambda n, who: request("GET", "/api/accounts/me", n, who))

    def _pages(self, count: int) -> Iterator[str]:
        return self._each(count, lambda n, who: request("GET", "/api/media?limit=20", n, who))

    def _one(self, count: int) -> Iterator[str]:
        own = bearer(self.owner.token)
        path = f"/api/media/{self.original}"
        return self._each(count, lambda n, _: request("GET", path, n, own))

    def _ranges(self, count: int) -> Iterator[str]:
        own, path = bearer(self.owner.token), f"/media/{self.original}/a.bin"

        def some(n: int, _: str) -> str:
            return request("GET", path, n, own, f"Range: bytes={n % 1000}-{n % 1000 + PART_BYTES}")

        return self._each(count, some)

    def _public(self, count: int) -> Iterator[str]:
        """Past nginx's cache, as somebody who is logged in."""
        return self._each(count, lambda n, who: request("GET", "/api/public/media", n, who))

    def _keys(self, count: int) -> Iterator[str]:
        return self._each(count, lambda n, who: request("GET", "/api/keys", n, who))

    def _wrong(self, count: int) -> Iterator[str]:
        def some(n: int, who: str) -> str:
            method, path, status = WRONG[n % len(WRONG)]
            return request(method, path, n, who if status != 401 else "X-Nobody: 1")

        return self._each(count, some)

    def _uploads(self, count: int) -> Iterator[str]:
        return (upload(n, self.tokens[n % COUNT], f"{n:06}" * 100) for n in range(count))

    def _logins(self, count: int) -> Iterator[str]:
        return (login(n * 7) for n in range(count))

    def _deletions(self, count: int) -> Iterator[str]:
        url, own = self.stack.database_url, bearer(self.owner.token)
        ids = insert_received(self.stack.servers.postgresql, url, self.owner, count, 100)
        return (request("DELETE", f"/api/media/{i}", n, own) for n, i in enumerate(ids))
