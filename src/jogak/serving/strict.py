"""Bodies as they must be: JSON in UTF-8, without what JSON does not have, and not too deep."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from jogak.serving.errors import Refused

DEEPEST = 200  # brackets within brackets
HALF = re.compile(r"\\u[dD][89a-fA-F]")


class StrictRequest(Request):
    """Its body is JSON in UTF-8, without numbers that JSON does not have."""

    async def json(self) -> Any:  # noqa: ANN401
        if not hasattr(self, "_read"):
            self._read = _parse(await self.body())
        return self._read


class StrictRoute(APIRoute):
    """Reads the body before anything else, so that what is wrong with it is told as it is."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            if request.method == "POST":
                kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
                if kind != "application/json":
                    raise Refused(415, "the body must be JSON; send it as Content-Type: application/json")
                await request.json()
            return await handler(request)

        return strict


def _parse(raw: bytes) -> Any:  # noqa: ANN401
    def no_number(name: str) -> None:
        raise ValueError(f"{name} is no number in JSON")

    try:
        text = raw.decode("utf-8")
        if max_depth(text) > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} brackets")
        found = json.loads(text, parse_constant=no_number)
        if HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        return found
    except UnicodeEncodeError:
        raise Refused(400, "the body has half a surrogate pair, which is no text", code="invalid_json") from None
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is not UTF-8 at byte {error.start}", code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}", code="invalid_json") from None


def max_depth(text: str) -> int:
    """At most how many brackets are open at once (those within strings are counted too)."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest
