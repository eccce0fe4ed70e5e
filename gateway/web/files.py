"""The files of the console's pages: read once, served to who has access, never cached."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from offhook.gateway.web.access import Access

__all__ = ["HEADERS", "PageFiles"]

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageFiles:
    """The page at `path`, which is `page` in `folder`, and its other files at `path`/static/. `headers`: of each."""

    def __init__(
        self, path: str, folder: Path, page: str, access: Access, headers: Mapping[str, str] = HEADERS
    ) -> None:
        self._path, self._page_name, self._access, self._headers = path, page, access, headers
        self._files = {
            file.relative_to(folder).as_posix(): (file.read_bytes(), TYPES[file.suffix])
            for file in folder.rglob("*")
            if file.suffix in TYPES
        }

    def routes(self) -> list[web.RouteDef]:
        return [web.get(self._path, self._page), web.get(f"{self._path}/static/{{name:.+}}", self._static)]

    async def _page(self, request: web.Request) -> web.Response:
        return await self._file(request, self._page_name)

    async def _static(self, request: web.Request) -> web.Response:
        return await self._file(request, request.match_info["name"])

    async def _file(self, request: web.Request, name: str) -> web.Response:
        await self.check_access(request)
        if name not in self._files:
            raise web.HTTPNotFound(text="no such file\n", headers=HEADERS)
        body, kind = self._files[name]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=self._headers)

    async def check_access(self, request: web.Request, *, acts: bool = False) -> None:
        """As `Access.check`; a refusal has the page's headers, too."""
        try:
            await self._access.check(request, acts=acts)
        except web.HTTPException as refused:
            refused.headers.update(HEADERS)
            raise
