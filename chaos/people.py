"""Accounts by the hundred, each with a password and a token, and what they ask: whole requests,
from client addresses of their own."""

from urllib.parse import urlencode

from bench.items import insert_items

from api import PASSWORD, hash_of_password
from chaos.stack import Stack

COUNT = 500
UPLOAD_BYTES = 2**20
LIMIT = "d5a0ad1c"
MULTIPART = f"Content-Type: multipart/form-data; boundary={LIMIT}"


def add_people(stack: Stack) -> list[str]:
    """Their tokens."""
    series = f"generate_series(0, {COUNT - 1}) AS n"
    stack.query(
        "INSERT INTO accounts (id, email, password_hash, stamp, created_at, confirmed_at)"
        f" SELECT gen_random_uuid(), 'user' || n || '@example.org', '{hash_of_password()}',"
        f" 'x', now(), now() FROM {series}"
    )
    stack.query(
        "INSERT INTO tokens (digest, account_id, created_at, expires_at)"
        " SELECT sha256(('token-of-user' || n)::bytea), id, now(), now() + interval '1 day'"
        f" FROM {series} JOIN accounts ON email = 'user' || n || '@example.org'; ANALYZE"
    )
    return [f"token-of-user{n}" for n in range(COUNT)]


def address(client: int) -> str:
    """The header of a load balancer that nginx believes."""
    return f"X-Forwarded-For: 198.18.{client // 250 % 250}.{client % 250 + 1}"


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def request(method: str, path: str, client: int, *headers: str, body: str = "") -> str:
    """The whole text."""
    length = (f"Content-Length: {len(body)}",) if body else ()
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", address(client), *headers, *length)
    return "\r\n".join([*lines, "", body])


def login(client: int) -> str:
    """With the right password."""
    form = "Content-Type: application/x-www-form-urlencoded"
    body = urlencode({"username": f"user{client % COUNT}@example.org", "password": PASSWORD})
    return request("POST", "/login", client, form, body=body)


def upload(client: int, token: str, content: str) -> str:
    part = 'Content-Disposition: form-data; name="file"; filename="a.bin"'
    body = f"--{LIMIT}\r\n{part}\r\n\r\n{content}\r\n--{LIMIT}--\r\n"
    return request("POST", "/api/media", client, bearer(token), MULTIPART, body=body)


def logins(stack: Stack) -> list[str]:
    add_people(stack)
    return [login(n) for n in range(COUNT)]


def pages(stack: Stack) -> list[str]:
    """Of a hundred items each."""
    for _ in range(5):
        insert_items(stack.servers.postgresql, stack.database_url, stack.bearer)
    token = bearer(stack.bearer.token)
    return [request("GET", "/api/media?limit=100", n, token) for n in range(COUNT)]


def uploads(stack: Stack) -> list[str]:
    """Of 1 MiB each."""
    contents = (f"{n:08}" * (UPLOAD_BYTES // 8) for n in range(3))
    return [upload(n, stack.bearer.token, content) for n, content in enumerate(contents)]
