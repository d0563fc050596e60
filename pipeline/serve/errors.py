"""Errors as clients of the OpenAI API expect them: one object with a sentence in it, never the input again."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from data.errors import UserError
from pipeline.serve.generation_queue import QueueFull

# Parameters of the OpenAI API that are taken at the value that changes nothing: what to say of any other.
_LEAVE_OUT = "not supported here; leave it out"
NEUTRAL_ONLY = {
    "n": "one answer a request; ask again for another",
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "logit_bias", "logprobs"), _LEAVE_OUT),
    **dict.fromkeys(("tools", "tool_choice", "parallel_tool_calls"), _LEAVE_OUT),
    "response_format": "only text is answered here; leave it out",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SHOWN = 5


NOT_KEPT = "Nothing was kept: the server cannot write its feedback just now; its log says why."
log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """How every error reads, as clients of the OpenAI API expect it."""

    error: ErrorDetail


# What any route may answer beside success, for the schema.
ERRORS: dict[int | str, dict] = {
    400: {"model": ErrorBody, "description": "not readable, or nothing that the model can be asked"},
    401: {"model": ErrorBody, "description": "no token, or not the right one"},
    403: {"model": ErrorBody, "description": "a request of another site"},
    404: {"model": ErrorBody, "description": "nothing of that id or name"},
    409: {"model": ErrorBody, "description": "nothing to choose from"},
    413: {"model": ErrorBody, "description": "more bytes than chat.max_body_bytes"},
    422: {"model": ErrorBody, "description": "a field of a wrong shape"},
    429: {"model": ErrorBody, "description": "the queue is full; Retry-After says when to come back"},
    500: {"model": ErrorBody, "description": "a failure of the server"},
    503: {
        "model": ErrorBody,
        "description": "the feedback cannot be written, as on a full disk; Retry-After says when to try again",
    },
}


class Refused(Exception):
    """A request that cannot be met, with the status that says so."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)


class BodyTooLarge(HTTPException):
    """A body that turned out too big while it was read; FastAPI would make 400 of anything but its own kind of error."""

    def __init__(self, limit: int):
        self.limit = limit
        super().__init__(413)


def error_response(
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
    code: str | None = None,
) -> JSONResponse:
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers=dict(headers or {}))


def too_large(limit: int) -> JSONResponse:
    """413, with what is too big, the limit and what helps."""
    return error_response(
        413,
        f"The request is too large: its body may have at most {limit} bytes. Shorten the text, or leave earlier turns out; "
        "who runs the server can raise chat.max_body_bytes.",
        code="body_too_large",
    )


def _place(error: Mapping) -> list[str]:
    """Where in the body. What is no field but a name of a type, as among several that a field may have, says nothing to a client."""
    if error["type"] == "json_invalid":
        # Behind it stands the number of a character.
        return ["body"]
    return [
        str(p)
        for p in error["loc"]
        if not (isinstance(p, str) and (not p.isidentifier() or p[:1].isupper() or p == "str"))
    ]


def _reason(error: Mapping) -> str:
    """What is wrong, without the input itself; of one that is too long its length helps."""
    field = error["loc"][1] if len(error["loc"]) > 1 else None
    if error["type"] == "json_invalid":
        return f"not JSON at character {error['loc'][-1]}: {error['ctx']['error']}"
    if error["type"] == "extra_forbidden":
        return "not known here; leave it out"
    if field in NEUTRAL_ONLY:
        return NEUTRAL_ONLY[field]
    if error["type"] not in ("string_too_long", "too_long"):
        return error["msg"]
    what = "characters" if error["type"] == "string_too_long" else "items"
    return f"Too long: at most {error['ctx']['max_length']} {what}, got {len(error['input'])}. Shorten it."


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What may be asked of an address. The framework names the methods of its first route alone."""
    asked = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    return {m for m in known if any(r.matches({**asked, "method": m})[0] is Match.FULL for r in app.routes)}


def add_handlers(app: FastAPI) -> None:
    """Every failure that a client can cause, as one shape."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError):
        found = error.errors()
        # Places and reasons only: the input may be long, private, or no text that JSON can hold.
        lines = dict.fromkeys(f"{'.'.join(_place(e))}: {_reason(e)}" for e in found[:_SHOWN])
        message = "; ".join(lines).encode("utf-8", "replace").decode()
        kind = request.headers.get("content-type", "")
        if found[0]["loc"] == ("body",) and "json" not in kind.lower():
            # As curl sends it by itself; the body was not even read.
            sent = kind.split(";")[0][:60] or "nothing in particular"
            message = f"body: sent as {sent}, expected JSON with the header Content-Type: application/json"
        return error_response(422, message, param=".".join(_place(found[0])[1:])[:200] or None)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException):
        nowhere = error.status_code == 404 and error.detail == "Not Found"
        said = (
            "There is nothing at this address; GET /openapi.json lists what there is." if nowhere else str(error.detail)
        )
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return error_response(error.status_code, said, headers)

    @app.exception_handler(BodyTooLarge)
    async def large(request: Request, error: BodyTooLarge):
        return too_large(error.limit)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused):
        return error_response(error.status, error.message, param=error.param, code=error.code)

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull):
        return error_response(
            429, f"Too many wait already; {error}.", {"retry-after": str(error.retry_after)}, code="queue_full"
        )

    @app.exception_handler(UserError)
    async def store(request: Request, error: UserError):
        # The store's: a full disk, or another process that writes. It names a path, which is for whoever runs the server.
        log.error("%s", " ".join(error.problems))
        return error_response(503, NOT_KEPT, {"retry-after": "10"}, code="not_kept")
