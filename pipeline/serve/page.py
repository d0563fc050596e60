"""The page: the files of one folder, each at an address of its own, so that no path leads anywhere else."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    "/static/style.css": ("style.css", "text/css"),
    **{f"/static/{file.name}": (file.name, "text/javascript") for file in sorted(_STATIC.glob("*.js"))},
}
PAGE_PATHS = frozenset(_FILES)


def add_page(app: FastAPI) -> None:
    """The routes of the page, left out of the API's schema."""
    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _sender(name, kind), methods=["GET"], include_in_schema=False)


def _sender(name: str, kind: str):
    async def send() -> FileResponse:
        return FileResponse(_STATIC / name, media_type=f"{kind}; charset=utf-8")

    return send
