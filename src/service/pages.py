"""Pages for people: what they share, the landing page and the API's documentation.

Everything a page loads comes from this origin, and none has a line of script or style in itself:
its policy allows neither.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from service import static
from service.etags import not_modified
from service.routing import readable
from service.settings import Settings

DOCS = "/docs"
OPENAPI = "/openapi.json"
# Its icons are data: addresses; pictures and sounds an operation answered with are blob: ones.
SWAGGER_UI_SOURCES = {
    "script_src": "'self'",
    "connect_src": "'self'",
    "img_src": "'self' data: blob:",
    "media_src": "blob:",
}

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="{icon}" type="image/svg+xml">
{links}
</head>
<body>
{body}
</body>
</html>
"""
_CARD = """<main>
<img src="{icon}" alt="">
<h1>{title}</h1>
{body}
</main>"""
_LANDING = """<p>{description}</p>
<ul>
{items}
</ul>"""
_ITEM = '<li><a href="{path}"><strong>{name}</strong> {meaning}</a></li>'
_LINK = '<a href="{path}">{name}</a>'
_DOCS = """<div id="docs" data-openapi="{openapi}">
<noscript>This page needs JavaScript. <a href="{openapi}">{openapi}</a> holds the same.</noscript>
</div>"""

_APPLICATION = """<header>
<a class="home" href="/"><img src="{icon}" alt="">{title}</a>
{links}
</header>
<main>
<h1>{heading}</h1>
<div id="{name}"{data}></div>
<noscript>This page needs JavaScript.</noscript>
</main>"""


def headers(caching: str, **sources: str) -> dict[str, str]:
    """Of a page; `sources` are what its policy allows beyond styles and pictures of this origin,
    such as `form_action="'self'"`."""
    policy = {
        "default-src": "'none'",
        "style-src": "'self'",
        "img-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        **{name.replace("_", "-"): allowed for name, allowed in sources.items()},
    }
    return {
        "Cache-Control": caching,
        "Content-Security-Policy": "; ".join(f"{name} {policy[name]}" for name in policy),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def card(title: str, body: str) -> str:
    """A page with a little on it. `body` is HTML."""
    icon, links = static.url("favicon.svg"), _style("page.css")
    title = escape(title)
    shown = _CARD.format(icon=icon, title=title, body=body)
    return _HTML.format(icon=icon, title=title, links=links, body=shown)


@dataclass(frozen=True)
class Application:
    """A page that a script fills, `pages/NAME.js` of the assets. It may load and ask this origin;
    `sources` are what its policy allows beyond that, and `data` what the script is told, as
    attributes of the element it fills."""

    name: str
    heading: str
    meaning: str
    sources: Mapping[str, str] = field(default_factory=dict)
    data: Callable[[Settings], Mapping[str, object]] = lambda _: {}

    @property
    def path(self) -> str:
        return f"/{self.name}"

    def html(self, title: str, others: Sequence["Application"], settings: Settings) -> str:
        links = [_LINK.format(path=other.path, name=other.heading) for other in others]
        own = _LINK.format(path=self.path, name=self.heading)
        links[links.index(own)] = own.replace("<a ", '<a aria-current="page" ')
        icon, shown = static.url("favicon.svg"), f"{self.heading} - {title}"
        body = _APPLICATION.format(
            icon=icon,
            title=escape(title),
            links="\n".join(links),
            heading=self.heading,
            name=self.name,
            data="".join(f' data-{k}="{escape(str(v))}"' for k, v in self.data(settings).items()),
        )
        loaded = f"{_style('app.css')}\n{_script(f'{self.name}.js')}"
        return _HTML.format(icon=icon, title=escape(shown), links=loaded, body=body)


OPERATIONS = Application("operations", "Operations", "Everything about it, for who runs it")


def routes(
    title: str, description: str, applications: Sequence[Application], settings: Settings
) -> APIRouter:
    """The landing page at `/`, the applications and, where the API is documented, `/docs`."""
    router = APIRouter(include_in_schema=False)
    landing = _landing(title, description, applications, documented=settings.docs_enabled)
    _add(router, "/", landing, headers("no-cache"))
    for each in applications:
        allowed = {"script_src": "'self'", "connect_src": "'self'", **each.sources}
        html = each.html(title, applications, settings)
        _add(router, each.path, html, headers("no-cache", **allowed))
    if settings.docs_enabled:
        _add(router, DOCS, _documentation(title), headers("no-cache", **SWAGGER_UI_SOURCES))
    return router


def _add(router: APIRouter, path: str, html: str, headers: dict[str, str]) -> None:
    """A page that is the same for everybody, made once."""
    body = html.encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers["ETag"] = etag

    @readable(router, path)
    async def page(request: Request) -> Response:
        if not_modified(request.headers, etag):
            return Response(status_code=304, headers=headers)
        return HTMLResponse(body, headers=headers)


def _landing(
    title: str, description: str, applications: Sequence[Application], *, documented: bool
) -> str:
    items = [(each.path, each.heading, each.meaning) for each in applications]
    if documented:
        items.append((DOCS, "API documentation", "Every operation, to read and to try out"))
        items.append((OPENAPI, "OpenAPI", "The same for programs"))
    items.append(("/health", "Health", "Whether all is well, for people and load balancers"))
    rows = (_ITEM.format(path=path, name=name, meaning=meaning) for path, name, meaning in items)
    return card(title, _LANDING.format(description=escape(description), items="\n".join(rows)))


def _documentation(title: str) -> str:
    links = [
        _style("swagger-ui.css"),
        _style("docs.css"),
        _script("swagger-ui-bundle.js"),
        _script("docs.js"),
    ]
    return _HTML.format(
        icon=static.url("favicon.svg"),
        title=f"{escape(title)} API",
        links="\n".join(links),
        body=_DOCS.format(openapi=OPENAPI),
    )


def _style(name: str) -> str:
    return f'<link rel="stylesheet" href="{static.url(name)}">'


def _script(name: str) -> str:
    """One that waits for the page, and for the scripts before it."""
    return f'<script src="{static.url(name)}" defer></script>'
