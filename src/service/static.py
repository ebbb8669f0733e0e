"""Files that pages link to: styles, scripts, pictures.

Each is served under a name that changes with its content, so that caches may keep it for ever.
`service static` writes them for nginx, with each name as here; what nginx has not, the app serves.
"""

import asyncio
import gzip
import hashlib
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.errors import ServiceError
from service.etags import not_modified
from service.routing import readable

FOLDER = Path(__file__).parent / "assets"
PREFIX = "/static/"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}
FOR_EVER = "public, max-age=31536000, immutable"
FOR_A_DAY = "public, max-age=86400"
# Of every collected file: nginx makes its ETag of time and size, and replicas have to agree.
MODIFIED = 315_532_800  # 1980-01-01, the earliest time a zip archive knows

router = APIRouter(include_in_schema=False)


class AssetNotFound(ServiceError):
    """Also while a release is rolled out, for the next one's files: no cache may remember it."""

    status = 404
    headers = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class Asset:
    """One file, and the first 12 hexadecimal digits of its SHA-256."""

    path: Path
    digest: str

    @property
    def public_name(self) -> str:
        return f"{self.path.stem}.{self.digest}{self.path.suffix}"

    def plain(self) -> bytes:
        return self.path.read_bytes()

    @cache  # noqa: B019  (assets live as long as the process)
    def compressed(self) -> bytes:
        """As gzip; the same bytes each time. Takes 50 ms for the largest."""
        return gzip.compress(self.plain(), mtime=0)


@cache
def assets() -> Mapping[str, Asset]:
    """Every asset by the name it has in the source."""
    return {path.name: _asset(path) for path in FOLDER.rglob("*") if path.suffix in TYPES}


def _asset(path: Path) -> Asset:
    with open(path, "rb") as file:
        return Asset(path, hashlib.file_digest(file, "sha256").hexdigest()[:12])


@cache
def _public() -> Mapping[str, Asset]:
    return {asset.public_name: asset for asset in assets().values()}


def url(name: str) -> str:
    """The public path of an asset, such as `/static/page.0123456789ab.css`. Raises KeyError."""
    return PREFIX + assets()[name].public_name


@readable(router, PREFIX + "{name}")
async def serve(name: str, request: Request) -> Response:
    """An asset by its public name, which is compared and never made a path."""
    asset = _public().get(name)
    if asset is None:
        raise AssetNotFound
    return await _answer(asset, request, FOR_EVER)


@readable(router, "/favicon.ico")
async def favicon(request: Request) -> Response:
    """Where browsers look for the icon of what is no page, such as `/health`."""
    return await _answer(assets()["favicon.svg"], request, FOR_A_DAY)


async def _answer(asset: Asset, request: Request, caching: str) -> Response:
    compressed = accepts_gzip(",".join(request.headers.getlist("accept-encoding")))
    etag = f'"{asset.digest}-gzip"' if compressed else f'"{asset.digest}"'
    headers = {
        "Cache-Control": caching,
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if not_modified(request.headers, etag):
        return Response(status_code=304, headers=headers)
    headers["Content-Type"] = TYPES[asset.path.suffix]
    if compressed:
        headers["Content-Encoding"] = "gzip"
    # Nothing is read or compressed before it is asked for: behind nginx that is never.
    read = asset.compressed if compressed else asset.plain
    return Response(await asyncio.to_thread(read), headers=headers)


def accepts_gzip(field: str) -> bool:
    """Whether an Accept-Encoding allows gzip (RFC 9110 section 12.5.3); `*` alone is no wish."""
    for item in field.lower().split(","):
        coding, *parameters = (part.strip() for part in item.split(";"))
        if coding in ("gzip", "x-gzip"):
            weights = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
            return not weights or weights[0].strip("0.") != ""
    return False


def collect(folder: Path) -> int:
    """Write every asset into a folder, each with its `.gz` beside it; returns how many files.

    What else is there stays: clients may still ask for the files of the release before. Raises
    OSError.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    for asset in assets().values():
        _write(folder / asset.public_name, asset.plain())
        _write(folder / f"{asset.public_name}.gz", asset.compressed())
    return 2 * len(assets())


def _write(target: Path, content: bytes) -> None:
    """A file that anybody may read; who opens it sees all of it or the one before."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(draft, "xb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.utime(draft, (MODIFIED, MODIFIED))
        os.replace(draft, target)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
