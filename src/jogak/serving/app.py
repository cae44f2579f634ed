"""The application: every route, and what it calls."""

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.middleware.cors import CORSMiddleware

from jogak import __version__
from jogak.api import Model
from jogak.errors import UserError, nearest
from jogak.hub.pretrained import Pretrained
from jogak.looking.page import hashes
from jogak.serving import errors, schema, tasks
from jogak.serving.engine import Engine
from jogak.serving.errors import Refused
from jogak.serving.gate import Gate
from jogak.serving.metrics import Meter
from jogak.serving.served import Served
from jogak.serving.settings import Settings
from jogak.serving.strict import StrictRoute
from jogak.serving.writing import Stream, Writing, unless_left

GONE = Response(status_code=499)  # nobody reads it
PAGE = {"page.js", "words.js", "page.css"}


class Server:
    """The models under their names, the engine that they run in, the settings: what the routes share."""

    def __init__(self, models: Mapping[str, Model | Pretrained], settings: Settings) -> None:
        self.settings, self.meter = settings, Meter()
        self.engine = Engine(queue=settings.queue, meter=self.meter)
        self.models = {name: Served(name, model, settings, self.engine) for name, model in models.items()}

    def find(self, name: str) -> Served:
        """Raises: Refused for a name that no model has."""
        if name not in self.models:
            told = f"there is no model '{name[:80]}' here{nearest(name[:80], self.models)}"
            raise Refused(404, told, param="model", code="model_not_found")
        return self.models[name]

    async def write(self, asked: schema.ChatAsked | schema.CompletionAsked, request: Request) -> Response:
        writing = Writing(self.find(asked.model), asked)
        if isinstance(asked, schema.CompletionAsked):
            self.check_count("prompt", asked.prompt)
        await asyncio.to_thread(writing.prepare)
        writing.submit(self.engine, self.settings.timeout)
        note = request.scope["state"]["note"]
        note["prompt"] = sum(len(one.ids) for one in writing.prompts)
        if self.settings.log_prompts:
            note["asked"] = json.dumps(asked.model_dump(include={"messages", "prompt"}), ensure_ascii=False)
        if asked.stream:
            return Stream(writing)
        answer = await unless_left(request, asyncio.ensure_future(writing.whole()))
        if answer is None:
            return GONE
        note["output"] = answer["usage"]["completion_tokens"]
        return JSONResponse(answer)

    async def call(self, request: Request, function: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What a function gives in the engine's thread; None where the client leaves before.

        Raises: TimedOut and what the function raises.
        """
        return await unless_left(request, self.engine.call(function, self.settings.timeout))

    def check_count(self, name: str, given: Sequence[object]) -> None:
        most = self.settings.max_inputs
        if len(given) > most:
            raise UserError(f"{name} has {len(given)} entries, more than the {most} that are allowed; send them apart")


def create(models: Mapping[str, Model | Pretrained], settings: Settings) -> FastAPI:
    """The application that serves `models` by their names."""
    server = Server(models, settings)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        server.engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(server.engine.stop)

    app = FastAPI(
        title="jogak",
        version=__version__,
        description="Sequence models by OpenAI's HTTP interface, and every other task of theirs.",
        docs_url=None,  # they would be fetched from elsewhere
        redoc_url=None,
        lifespan=running,
    )
    app.state.server = server
    for router in (_written(server), _others(server), _told(server)):
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Gate, settings=settings, meter=server.meter)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schema.Failure, "description": "What was wrong with the request, in one sentence."},
    "5XX": {"model": schema.Failure, "description": "The server is about to stop, or has failed."},
}
EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}


def _written(server: Server) -> APIRouter:
    """Text, as OpenAI has it."""
    router = APIRouter(route_class=StrictRoute, responses=FAILURES)

    @router.post("/v1/chat/completions", responses={200: {"model": schema.ChatWritten, "content": EVENTS}})
    async def chat(asked: schema.ChatAsked, request: Request) -> Response:
        """The answer to a conversation."""
        return await server.write(asked, request)

    @router.post("/v1/completions", responses={200: {"model": schema.CompletionWritten, "content": EVENTS}})
    async def completions(asked: schema.CompletionAsked, request: Request) -> Response:
        """How texts go on; of a model that reads a source (a translator), its answers to them."""
        return await server.write(asked, request)

    return router


def _others(server: Server) -> APIRouter:
    """Every other task, and looking inside."""
    router = APIRouter(route_class=StrictRoute, responses=FAILURES)

    @router.post("/v1/embeddings", responses={200: {"model": schema.EmbeddingsWritten}})
    async def embeddings(asked: schema.EmbeddingsAsked, request: Request) -> Response:
        """A vector for each text."""
        served = server.find(asked.model)
        server.check_count("input", asked.input)
        found = await server.call(request, lambda: tasks.embedded(served, asked))
        return GONE if found is None else JSONResponse(found)

    @router.post("/v1/run", responses={200: {"model": schema.RunWritten}})
    async def run(asked: schema.RunAsked, request: Request) -> Response:
        """The model's own task on each text: translate, classify, go on, compare."""
        served, found = server.find(asked.model), list[dict[str, Any]]()
        server.check_count("input", asked.input)
        for turn in tasks.turns(served, asked):
            answers = await server.call(request, turn)
            if answers is None:
                return GONE
            found += answers
        return Response(tasks.told(served, found), media_type="application/json")

    @router.post("/v1/look", responses={200: {"content": {"text/html": {}}}})
    async def look(asked: schema.LookAsked, request: Request) -> Response:
        """Every attention map of an answer, as a page that needs nothing else."""
        served = server.find(asked.model)
        page = await server.call(request, lambda: tasks.looked(served, asked))
        return GONE if page is None else HTMLResponse(page)

    return router


def _told(server: Server) -> APIRouter:
    """What the server says of itself, and its page."""
    router = APIRouter(responses={"4XX": FAILURES["4XX"]})

    @router.get("/v1/models", response_model=schema.ModelsTold)
    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [served.told() for served in server.models.values()]}

    @router.get("/v1/models/{model}", response_model=schema.ModelTold)
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return server.find(model).told()

    @router.get("/healthz", response_model=schema.Health)
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @router.get("/readyz", response_model=schema.Health, responses={503: FAILURES["5XX"]})
    async def readyz() -> dict[str, str]:
        """Whether requests are taken."""
        if not server.engine.ready:
            raise Refused(503, "no requests are taken: the server is about to stop, or its engine has ended")
        return {"status": "ready"}

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics() -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(server.meter.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(_asset("page.html"), headers={"Content-Security-Policy": _policy()})

    @router.get("/page/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in PAGE:
            raise Refused(404, "there is no such part of the page")
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        return Response(_asset(name), media_type=kind, headers={"Cache-Control": "no-cache"})

    return router


def _asset(name: str) -> bytes:
    return (resources.files("jogak.serving") / name).read_bytes()


def _policy() -> str:
    """The page asks this server alone; the maps that it shows in a frame bring the only script that is not a file."""
    script, style = hashes()
    return (
        f"default-src 'none'; connect-src 'self'; script-src 'self' 'sha256-{script}'; style-src 'self' "
        f"'sha256-{style}'; img-src 'self' data:; frame-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
