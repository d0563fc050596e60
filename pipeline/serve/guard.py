"""Nothing passes unless it may: host, origin and identity are checked before any route is looked for.

A page in the user's browser must not reach the server by another name (DNS rebinding) or post to it from elsewhere (CSRF); who has no
token gets no further than the page that asks for it. The guard stands in front of the router, so a new route cannot lack it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.consent import ASKED_PREFIX
from pipeline.serve.errors import error_response
from pipeline.serve.page import PAGE_PATHS
from pipeline.serve.settings import ServeSettings

COOKIE = "thumbloop"
IDENTITY = "thumbloop.identity"
# The page itself holds no secret; its script asks for the token.
PUBLIC = PAGE_PATHS | {"/api/login"}
_SESSION = re.compile(r"([A-Za-z0-9_-]{16})\.([0-9a-f]{64})")
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Who asks: the pseudonym that votes are kept under, and what turns in the queue are counted by."""

    rater: str
    client: str


class Guard:
    """Middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServeSettings):
        self.app, self.settings = app, settings
        own = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()}
        self._hosts = own | {name.lower() for name in settings.allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            # No route is a websocket; an unanswered one is refused by the server.
            return
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            # The place and the type: a message or a whole trace might hold what somebody said.
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "?"
            log.error("a request failed: %s at %s", type(error).__name__, place)
            if not begun:
                answer = error_response(500, "Something failed on the server; its log names the place.")
                await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Headers):
        host = headers.get("host", "")
        if not self._knows(host):
            return error_response(400, "This server is not known by that name; chat.allowed_hosts lists others.")
        if not _same_origin(headers, host, reads=scope["method"] in ("GET", "HEAD")):
            return error_response(403, "Requests from other sites are refused.")
        identity = self._identity(scope, headers)
        if identity is None and scope["path"] not in PUBLIC:
            return error_response(
                401, "A token is needed: Authorization: Bearer TOKEN.", {"www-authenticate": "Bearer"}
            )
        scope[IDENTITY] = identity
        return None

    def _knows(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        # A bare address cannot be rebound; only names can.
        return self.settings.open_to_others

    def _identity(self, scope: Scope, headers: Headers) -> Identity | None:
        peer = (scope.get("client") or ("local", 0))[0]
        token = self.settings.token
        if token is None:
            return Identity(self.settings.rater, peer)
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), token):
            return Identity(self.settings.rater, peer)
        session = read_session(token, headers.get("cookie", ""))
        return Identity(f"{ASKED_PREFIX}{session}", f"{ASKED_PREFIX}{session}") if session else None


def new_session(token: str) -> str:
    """A cookie's value: a pseudonym drawn at random, and the proof that who got it knew the token."""
    name = secrets.token_urlsafe(12)
    return f"{name}.{_seal(token, name)}"


def read_session(token: str, cookies: str) -> str | None:
    """The pseudonym in the cookies, if it was sealed with this token."""
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    found = _SESSION.fullmatch(morsel.value) if morsel else None
    return found[1] if found and _same(found[2], _seal(token, found[1])) else None


def is_token(given: str, token: str) -> bool:
    """Compared in a time that does not tell how much of it was right."""
    return _same(given, token)


def _seal(token: str, name: str) -> str:
    return hmac.new(token.encode(), name.encode(), hashlib.sha256).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _same_origin(headers: Headers, host: str, *, reads: bool) -> bool:
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        return False
    # A form that is sent from elsewhere navigates too, but it posts.
    site, navigates = headers.get("sec-fetch-site"), reads and headers.get("sec-fetch-mode") == "navigate"
    # A link from elsewhere may open the page, and nothing more: what it opens runs no command.
    return site in (None, "same-origin", "none") or navigates
