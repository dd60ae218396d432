"""The page: a few files beside this module, read when they are asked for: nobody pays before."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

_FILES = Path(__file__).with_name("page")
_TYPES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
    "format.js": ("format.js", "text/javascript"),
    "main.js": ("main.js", "text/javascript"),
    "mesh.js": ("mesh.js", "text/javascript"),
    "quantiles.js": ("quantiles.js", "text/javascript"),
    "view.js": ("view.js", "text/javascript"),
}

# Nothing from elsewhere, nothing inline, and (trusted types) no text that becomes HTML, not even by mistake.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


async def answer(request: web.Request) -> web.Response:
    """The page, or a file that belongs to it."""
    try:
        name, kind = _TYPES[request.match_info.get("name", "")]
    except KeyError:
        raise web.HTTPNotFound from None
    return web.Response(body=_read(name), content_type=kind, charset="utf-8")


def _read(name: str) -> bytes:
    return (_FILES / name).read_bytes()
