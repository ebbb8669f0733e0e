"""Assets: their names, how the app serves them, and what it collects for nginx."""

import gzip
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import Api, assert_problem
from servers import ROOT
from service import static
from service.app import APPLICATIONS, create_app
from service.pages import Application
from service.settings import Settings
from service.static import FOLDER, Asset, accepts_gzip, assets, collect, url

pytestmark = pytest.mark.anyio

SWAGGER_UI = FOLDER / "swagger-ui"
LARGEST = "swagger-ui-bundle.js"


@pytest.fixture(autouse=True)
def no_compressed_bytes_of_another_test() -> Iterator[None]:
    Asset.compressed.cache_clear()
    yield
    Asset.compressed.cache_clear()


# names


def test_a_name_holds_the_beginning_of_the_contents_digest() -> None:
    for name, asset in assets().items():
        digest = hashlib.sha256((asset.path).read_bytes()).hexdigest()
        stem, _, extension = name.rpartition(".")
        assert url(name) == f"/static/{stem}.{digest[:12]}.{extension}"


def test_no_two_assets_have_one_name() -> None:
    files = [path for path in FOLDER.rglob("*") if path.suffix in static.TYPES]
    assert len(files) == len(assets()) >= 6


def test_an_asset_that_is_not_there_is_a_mistake_in_the_code() -> None:
    with pytest.raises(KeyError):
        url("nothing.css")


# serving


@pytest.mark.parametrize("name", sorted(assets()))
async def test_an_asset_is_served_for_ever(embedded_api: Api, name: str) -> None:
    answer = await embedded_api.client.get(url(name), headers={"Accept-Encoding": "identity"})
    assert answer.status_code == 200
    assert answer.content == assets()[name].path.read_bytes()
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in answer.headers
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("page.css", "text/css; charset=utf-8"),
        ("docs.js", "text/javascript; charset=utf-8"),
        ("favicon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
async def test_an_asset_has_its_type(embedded_api: Api, name: str, content_type: str) -> None:
    answer = await embedded_api.client.get(url(name))
    assert answer.headers["content-type"] == content_type


@pytest.mark.parametrize("name", sorted(assets()))
async def test_who_takes_gzip_gets_fewer_bytes(embedded_api: Api, name: str) -> None:
    answer = await embedded_api.client.get(url(name), headers={"Accept-Encoding": "gzip, br"})
    content = assets()[name].path.read_bytes()
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == content  # the client has unpacked it
    assert int(answer.headers["content-length"]) < len(content)


async def test_each_form_has_an_etag_of_its_own(embedded_api: Api) -> None:
    """RFC 9110 section 8.8.3.3: a strong one may not stand for two of them."""
    tags = set()
    for coding in ("gzip", "identity"):
        asked = {"Accept-Encoding": coding}
        etag = (await embedded_api.client.get(url("page.css"), headers=asked)).headers["etag"]
        again = asked | {"If-None-Match": etag}
        answer = await embedded_api.client.get(url("page.css"), headers=again)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
        assert answer.headers["vary"] == "Accept-Encoding"
        tags.add(etag)
    assert len(tags) == 2


@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_head_tells_what_get_would(embedded_api: Api, coding: str) -> None:
    asked = {"Accept-Encoding": coding, "X-Request-ID": "the-same-for-both"}
    got = await embedded_api.client.get(url("docs.js"), headers=asked)
    head = await embedded_api.client.head(url("docs.js"), headers=asked)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers


@pytest.mark.parametrize(
    "name",
    [
        "page.css",
        "page.000000000000.css",
        f"{assets()['page.css'].public_name}.gz",
        assets()["page.css"].public_name.upper(),
        "swagger-ui/LICENSE",
        "..%2fpages.py",
        "%2e%2e/pages.py",
        "..%5cpages.py",
        "%00",
        "",
        "x" * 5000,
    ],
    ids=lambda name: name[:24] or "nothing",
)
async def test_another_name_is_404_which_nobody_remembers(embedded_api: Api, name: str) -> None:
    answer = await embedded_api.client.get(f"/static/{name}")
    assert_problem(answer, 404)


async def test_no_cache_remembers_that_the_next_releases_asset_was_missing(
    embedded_api: Api,
) -> None:
    answer = await embedded_api.client.get("/static/page.000000000000.css")
    assert answer.headers["cache-control"] == "no-store"


async def test_an_asset_can_only_be_read(embedded_api: Api) -> None:
    answer = await embedded_api.client.post(url("page.css"))
    assert_problem(answer, 405)
    assert answer.headers["allow"] == "GET, HEAD"


async def test_a_browser_finds_an_icon_where_it_looks_for_one(embedded_api: Api) -> None:
    answer = await embedded_api.client.get("/favicon.ico")
    assert answer.content == (FOLDER / "favicon.svg").read_bytes()
    assert answer.headers["content-type"].startswith("image/svg+xml")
    assert answer.headers["cache-control"] == "public, max-age=86400"  # this name has no digest


async def test_nothing_is_compressed_before_it_is_asked_for(
    embedded_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a while and memory of the worker's own; behind nginx it is never asked for."""

    def compress(*_: Any, **__: Any) -> bytes:
        raise AssertionError("compressed")

    monkeypatch.setattr(gzip, "compress", compress)
    create_app(embedded_settings).warm_up()


async def test_an_asset_is_compressed_once(
    embedded_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compress = gzip.compress
    monkeypatch.setattr(gzip, "compress", lambda *a, **k: calls.append(1) or compress(*a, **k))
    for _ in range(3):
        await embedded_api.client.get(url(LARGEST), headers={"Accept-Encoding": "gzip"})
    assert calls == [1]


@pytest.mark.parametrize(
    "field",
    ["gzip", "GZIP", "x-gzip", "br, gzip", "deflate,gzip;q=0.5", "gzip; q=1.0", "gzip ;q=0.001"],
)
def test_gzip_is_sent_to_who_names_it(field: str) -> None:
    assert accepts_gzip(field)


@pytest.mark.parametrize(
    "field",
    ["", "identity", "br", "*", "gzip;q=0", "gzip;q=0.0", "gzip; q=0.000", "gzipped", ";,;"],
)
def test_gzip_is_not_sent_to_who_does_not(field: str) -> None:
    assert not accepts_gzip(field)


# collecting


def test_what_is_collected_is_what_pages_link_to(tmp_path: Path) -> None:
    written = collect(tmp_path / "static")
    plain = {asset.public_name for asset in assets().values()}
    found = {path.name for path in (tmp_path / "static").iterdir()}
    assert found == plain | {f"{name}.gz" for name in plain}
    assert written == len(found)
    for name in assets():
        path = tmp_path / url(name).removeprefix("/")
        assert path.read_bytes() == assets()[name].path.read_bytes()


def test_each_has_a_compressed_one_beside_it_that_is_smaller(tmp_path: Path) -> None:
    collect(tmp_path)
    for path in tmp_path.glob("*.gz"):
        plain = path.with_suffix("").read_bytes()
        assert gzip.decompress(path.read_bytes()) == plain
        assert path.stat().st_size < len(plain)


def test_it_is_the_same_on_every_replica(tmp_path: Path) -> None:
    """nginx makes its ETag of time and size."""
    seen = []
    for name in ("one", "two"):
        Asset.compressed.cache_clear()
        collect(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        seen.append([(file.name, file.read_bytes(), file.stat().st_mtime) for file in files])
    assert seen[0] == seen[1]


def test_anybody_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        collect(tmp_path / "static")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "static").stat().st_mode) == 0o755
    for path in (tmp_path / "static").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_the_release_before_stays(tmp_path: Path) -> None:
    older = tmp_path / "page.000000000000.css"
    older.write_text("body { }")
    tmp_path.chmod(0o750)
    collect(tmp_path)
    collect(tmp_path)
    assert older.read_text() == "body { }"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750  # somebody else's decision


def test_a_disk_that_is_full_leaves_the_file_before_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(tmp_path)
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    def fchmod(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fchmod)
    with pytest.raises(OSError, match="No space left"):
        collect(tmp_path)
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


# what is vendored


def test_swagger_ui_is_the_release_that_is_pinned() -> None:
    pinned = json.loads((ROOT / "package.json").read_text())["dependencies"]["swagger-ui-dist"]
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned)
    assert locked["node_modules/swagger-ui-dist"]["version"] == pinned
    assert f'PACKAGE_VERSION:"{pinned}"' in (SWAGGER_UI / LARGEST).read_text()


def test_swagger_ui_comes_with_its_licences() -> None:
    assert "Apache License" in (SWAGGER_UI / "LICENSE").read_text()
    for name in ("NOTICE", f"{LARGEST}.LICENSE.txt"):
        assert (SWAGGER_UI / name).stat().st_size


def test_the_pages_are_built_from_the_sources_that_are_there() -> None:
    """Where this fails, `make assets`."""
    built = (SWAGGER_UI.parent / "pages" / "SOURCES").read_text()
    sources = [path for path in (ROOT / "frontend").rglob("*") if path.is_file()]
    names = sorted(str(path.relative_to(ROOT)) for path in (*sources, ROOT / "package-lock.json"))
    digests = [hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in names]
    assert built == "".join(f"{d}  {n}\n" for d, n in zip(digests, names, strict=True))


def test_a_page_comes_with_the_licences_of_what_is_in_it() -> None:
    for library, licence in (("lit-html", "BSD 3-Clause"), ("uplot", "MIT")):
        assert licence in (SWAGGER_UI.parent / "pages" / f"LICENSE.{library}").read_text()


@pytest.mark.parametrize("page", APPLICATIONS, ids=lambda page: page.name)
def test_no_page_weighs_more_than_a_photograph(page: Application) -> None:
    loaded = [assets()[name].compressed() for name in ("app.css", f"{page.name}.js")]
    assert sum(map(len, loaded)) < 100_000


def test_the_lock_names_no_registry() -> None:
    assert "resolved" not in (ROOT / "package-lock.json").read_text()


def test_no_asset_points_to_a_source_map_that_is_not_there() -> None:
    for asset in assets().values():
        assert b"sourceMappingURL" not in asset.plain()


def test_no_style_loads_anything_from_elsewhere() -> None:
    for name, asset in assets().items():
        if name.endswith(".css"):
            text = asset.path.read_text()
            assert "@import" not in text
            loaded = re.findall(r"url\(\s*[\"']?([^\"')]*)", text)
            assert all(address.startswith("data:") for address in loaded), name
