"""Every failure in the shape that OpenAI's clients read, with a sentence that says what, where and how to mend it."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jogak.errors import JogakError, UserError, nearest
from jogak.serving import schema
from jogak.serving.engine import Broken, Busy, Closed, TimedOut

log = logging.getLogger("jogak.serving")
KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(JogakError):
    """A request that is not answered: the status, and what OpenAI's error object says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def content(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.content(), status_code=self.status, headers=self.headers)


def refused(error: Exception) -> Refused:
    """What a client is told of an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return Refused(429, str(error), code="queue_full", headers={"Retry-After": str(error.retry)})
    if isinstance(error, Closed):
        return Refused(503, str(error), code="stopping", headers={"Retry-After": "5"})
    if isinstance(error, TimedOut):
        return Refused(408, str(error), code="timeout")
    if isinstance(error, UserError):
        return Refused(400, str(error), param=_param(str(error)))
    if isinstance(error, Broken):
        return Refused(500, str(error), code="failed")
    log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return Refused(500, f"this failed inside the server ({type(error).__name__}); its log says where", code="failed")


def _param(sentence: str) -> str | None:
    """The field that a sentence is about, where it begins with one."""
    first = sentence.split(" ", 1)[0].rstrip(":")
    return {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}.get(
        first, first if first in _FIELDS else None
    )


_FIELDS = {*schema.ChatAsked.model_fields, *schema.CompletionAsked.model_fields, "json_schema"}

# ---------------------------------------------------------------- what pydantic says, in one sentence

_ASKED = {f"/v1/{name}": kind for name, kind in (
    ("chat/completions", schema.ChatAsked),
    ("completions", schema.CompletionAsked),
    ("embeddings", schema.EmbeddingsAsked),
    ("run", schema.RunAsked),
    ("look", schema.LookAsked),
)}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": "ge",
    "less_than_equal": "le",
    "greater_than": "gt",
    "less_than": "lt",
    "finite_number": "finite",
}
_TYPES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "string_unicode": "a text without halves of surrogate pairs",
}


_SIZES = {
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
}


def invalid(path: str, errors: Sequence[Mapping[str, Any]]) -> Refused:
    """The first mistake in a request's body: its field, what it must be, what it is."""
    error = errors[0]
    kind = _ASKED.get(path)
    where = [part for part in error["loc"][1:] if isinstance(part, int) or _is_field(part)]
    name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in where).lstrip(".") or None
    param = name or "the body"
    if error["type"] == "extra_forbidden":
        known = kind.model_fields if kind is not None and len(where) == 1 else ()
        return Refused(
            400, f"unknown field '{param}'{nearest(str(where[-1]), known)}", param=name, code="unknown_field"
        )
    if error["type"] == "missing":
        return Refused(400, f"{param} is missing; add it", param=name, code="missing")
    must = _TYPES.get(error["type"]) or _range(kind, where, error)
    message = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if must is not None:
        message = f"must be {must}"
    elif error["type"] in _SIZES:
        message = _SIZES[error["type"]].format_map(error["ctx"])
    return Refused(400, f"{param} {message}{_got(error.get('input'))}", param=name, code="invalid")


def _is_field(part: object) -> bool:
    """Whether a part of pydantic's path is a name in the request, not that of a type."""
    return isinstance(part, str) and not (
        part in ("str", "int", "float", "bool", "none", "body")
        or part.startswith(("list[", "function-", "constrained"))
    )


def _range(kind: type[schema.Asked] | None, where: Sequence[object], error: Mapping[str, Any]) -> str | None:
    """What a number must be, both bounds of it."""
    if error["type"] not in _BOUNDS:
        return None
    field = kind.model_fields.get(str(where[0])) if kind is not None and len(where) == 1 else None
    bounds: dict[str, float] = {}
    for constraint in field.metadata if field is not None else ():
        bounds |= {name: value for name in ("ge", "le") if (value := getattr(constraint, name, None)) is not None}
    if "ge" in bounds and "le" in bounds:
        most = (
            "2^31 - 1" if bounds["le"] == schema.WHOLE else "2^63 - 1" if bounds["le"] > 2**62 else f"{bounds['le']:g}"
        )
        return f"from {bounds['ge']:g} to {most}"
    return str(error["msg"]).removeprefix("Input should be ")


def _got(given: object) -> str:
    """What was given, where that is short: a number or a truth value, never a text (it may be a prompt)."""
    return f", got {given!r}" if isinstance(given, int | float) and abs(given) < 1e30 else ""


# ---------------------------------------------------------------- where FastAPI meets them


def install(app: FastAPI) -> None:
    """Have the application tell every error in that shape."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return refused(error).response()

    async def body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid(request.url.path, error.errors()).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        told = {404: f"there is no {request.url.path} here", 405: f"{request.method} means nothing here"}
        return Refused(
            error.status_code, told.get(error.status_code, str(error.detail)), headers=error.headers
        ).response()

    app.add_exception_handler(JogakError, ours)
    app.add_exception_handler(RequestValidationError, body)
    app.add_exception_handler(HTTPException, http)
