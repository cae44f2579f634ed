"""Answers in OpenAI's form, whole or while they come, put together from what the engine tells.

Legend: a request holds prompts, each with n answers; answer i of prompt p is choice p n + i.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jogak.decoding.answers import Piece
from jogak.decoding.batching import Prepared
from jogak.errors import JogakError, UserError
from jogak.serving import schema
from jogak.serving.engine import Broken, Engine, Inbox, Ticket
from jogak.serving.errors import refused
from jogak.serving.served import Served

FINISH = {"end": "stop", "stop": "stop", "length": "length"}


@dataclass
class Choice:
    """One answer while it comes. bare: whether its text begins without blanks."""

    bare: bool = False
    text: str = ""
    ids: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    reason: str | None = None

    def add(self, piece: Piece) -> str:
        """Take a piece; what it adds to the text."""
        if piece.error is not None and not piece.ids:
            raise UserError(piece.error)
        new = piece.text.lstrip() if self.bare and not self.text else piece.text
        self.text += new
        self.ids += piece.ids
        self.scores += piece.scores
        self.top += piece.top[: len(piece.ids)]
        self.reason = None if piece.reason is None else FINISH[piece.reason]
        return new

    @property
    def rank(self) -> float:
        return sum(self.scores) / max(1, len(self.scores))


class Writing:
    """One HTTP request for text: what it asks for, its place at the engine, its answers."""

    def __init__(self, served: Served, asked: schema.ChatAsked | schema.CompletionAsked) -> None:
        self.served, self.asked = served, asked
        self.chat = isinstance(asked, schema.ChatAsked)
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.prompts: list[Prepared] = []
        self.cached = 0
        self.choices: list[Choice] = []
        self.tickets: list[Ticket] = []
        self.engine: Engine | None = None
        self.inbox: Inbox | None = None

    # ------------------------------------------------------------ before

    def prepare(self) -> None:
        """Everything that can be done away from the event loop, and that can be refused.

        Raises: UserError.
        """
        asked, lane = self.asked, self.served.lane
        self.served.writer("chat" if self.chat else "completions")
        assert lane is not None
        if isinstance(asked, schema.ChatAsked):
            messages = [m.model_dump(exclude_none=True) for m in asked.messages]
            rows = [self.served.chat_ids(messages, asked.chat_template_kwargs or {})]
        else:
            rows = [self.served.prompt_ids(prompt) for prompt in asked.prompt]
        for ids in rows:
            given = self.served.sampling(_settings(asked), ids, chat=self.chat)
            self.prompts.append(lane.batcher.prepare(ids, given))
        bare = self.chat and self.served.plain
        self.choices = [Choice(bare) for one in self.prompts for _ in range(one.asked.n)]

    def submit(self, engine: Engine, timeout: float) -> None:
        assert self.served.lane is not None
        self.engine, self.inbox = engine, Inbox()
        self.tickets = engine.submit(self.served.lane, self.prompts, self.inbox, timeout)

    def leave(self) -> None:
        """The client is gone, or is told no more: whatever still runs for it is let go."""
        if self.engine is not None and self.inbox is not None:
            self.inbox.leave()
            self.engine.cancel(self.tickets)

    # ------------------------------------------------------------ while it comes

    async def _heard(self) -> AsyncIterator[list[tuple[int, Piece, str]]]:
        """Choices that something came of: their number, the piece, what it adds to their text."""
        assert self.inbox is not None
        first = [0]
        for one in self.prompts:
            first.append(first[-1] + one.asked.n)
        async for events in self.inbox.events(len(self.choices)):
            heard: list[tuple[int, Piece, str]] = []
            for place, piece in events:
                assert isinstance(piece, Piece)
                number = first[place] + piece.index
                self.cached += piece.cached if piece.index == 0 else 0
                heard.append((number, piece, self.choices[number].add(piece)))
            yield heard

    async def whole(self) -> dict[str, Any]:
        """The answers, once all of them are there."""
        try:
            async for _ in self._heard():
                pass
        finally:
            self.leave()
        return self._envelope(self._chosen(), usage=self.usage())

    def _chosen(self) -> list[dict[str, Any]]:
        """The choices that are told: of best_of answers the n likeliest a unit."""
        found: list[dict[str, Any]] = []
        first = 0
        for one in self.prompts:
            ours = self.choices[first : first + one.asked.n]
            first += one.asked.n
            if one.asked.n > self.asked.n:
                ours = sorted(ours, key=lambda choice: -choice.rank)[: self.asked.n]
            for choice in ours:
                ids = _kept(choice, self.served)
                told: dict[str, Any] = {"index": len(found), "finish_reason": choice.reason, "logprobs": None}
                if self.chat:
                    told["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
                else:
                    told["text"] = choice.text
                if self._with_logprobs:
                    told["logprobs"] = self._logprobs(choice.ids[:ids], choice.scores, choice.top, 0)
                if self.asked.return_token_ids:
                    told |= {"token_ids": choice.ids[:ids], "prompt_token_ids": one.ids}
                found.append(told)
        return found

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events: pieces as they come, then usage where it is asked for, then [DONE].

        An error that comes too late for a status of its own is an event.
        """
        try:
            if begun := b"".join(self._begun(number) for number in range(len(self.choices))):
                yield begun
            offsets = [0] * len(self.choices)
            async for heard in self._heard():
                parts: list[bytes] = []
                for number, piece, new in heard:
                    parts += self._told(number, piece, new, offsets[number])
                    offsets[number] += len(new)
                if parts:
                    yield b"".join(parts)
            options = self.asked.stream_options
            if options is not None and options.include_usage:
                yield _event(self._envelope([], usage=self.usage()))
            yield b"data: [DONE]\n\n"
        except JogakError as error:
            yield _event(refused(error).content()) + b"data: [DONE]\n\n"
        except Exception as error:
            yield _event(refused(Broken(f"this failed inside the server ({type(error).__name__})")).content())
        finally:
            self.leave()

    def _told(self, number: int, piece: Piece, new: str, offset: int) -> list[bytes]:
        """The events of one piece: what is new, and at the end why it ended."""
        found: list[bytes] = []
        if new or (piece.ids and (self._with_logprobs or self.asked.return_token_ids)):
            told = self._piece(number, {"content": new} if self.chat else new)
            if self._with_logprobs:
                told["logprobs"] = self._logprobs(piece.ids, piece.scores, piece.top, offset)
            if self.asked.return_token_ids:
                told["token_ids"] = list(piece.ids)
            found.append(_event(self._envelope([told])))
        if piece.reason is not None:
            told = {**self._piece(number, {} if self.chat else ""), "finish_reason": FINISH[piece.reason]}
            found.append(_event(self._envelope([told])))
        return found

    def _begun(self, number: int) -> bytes:
        """What is told of an answer before there is any of it."""
        told = self._piece(number, {"role": "assistant", "content": ""} if self.chat else "")
        if self.asked.return_token_ids:
            told |= {"prompt_token_ids": self.prompts[number // self.prompts[0].asked.n].ids, "token_ids": []}
        return _event(self._envelope([told])) if self.chat or self.asked.return_token_ids else b""

    def _piece(self, number: int, content: dict[str, str] | str) -> dict[str, Any]:
        part = {"delta": content} if self.chat else {"text": content}
        return {"index": number, **part, "logprobs": None, "finish_reason": None}

    # ------------------------------------------------------------ parts of an answer

    def _envelope(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:  # noqa: ANN401
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if self.asked.stream else "chat.completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "choices": choices,
            **more,
        }

    def usage(self) -> dict[str, Any]:
        prompt = sum(len(one.ids) for one in self.prompts)
        written = sum(len(choice.scores) for choice in self.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    @property
    def _with_logprobs(self) -> bool:
        return self.asked.logprobs is not None and self.asked.logprobs is not False  # 0 asks for them too

    def _logprobs(
        self,
        ids: Sequence[int],
        scores: Sequence[float],
        top: Sequence[tuple[tuple[int, float], ...]],
        offset: int,
    ) -> dict[str, Any]:
        asked = self.asked
        tops = [top[n] if n < len(top) else () for n in range(len(ids))]
        if isinstance(asked, schema.ChatAsked):
            count = asked.top_logprobs or 0
            content = [
                {**self._unit(n, score), "top_logprobs": [self._unit(*pair) for pair in likely[:count]]}
                for n, score, likely in zip(ids, scores, tops, strict=False)
            ]
            return {"content": content, "refusal": None}
        texts, offsets = [self._text(n) for n in ids], list[int]()
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        likely = [{self._text(n): _finite(p) for n, p in one[: asked.logprobs or 0]} for one in tops]
        return {
            "tokens": texts,
            "token_logprobs": [_finite(score) for score in scores[: len(ids)]],
            "top_logprobs": likely if asked.logprobs else None,
            "text_offset": offsets,
        }

    def _unit(self, number: int, score: float) -> dict[str, Any]:
        assert self.served.made is not None
        raw = self.served.made.codec.spelling.written((number,))
        return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(score), "bytes": list(raw)}

    def _text(self, number: int) -> str:
        assert self.served.made is not None
        return self.served.made.codec.spelling.written((number,)).decode("utf-8", "replace")


def _finite(score: float) -> float:
    """JSON knows no infinity; OpenAI says -9999 for what cannot come."""
    return score if math.isfinite(score) else -9999.0


def _kept(choice: Choice, served: Served) -> int:
    """Units of which something is in the text: those of a stop text behind it are not told."""
    assert served.made is not None
    pieces = [served.made.codec.spelling.written((unit,)) for unit in choice.ids]
    text, total = choice.text.encode("utf-8", "replace"), 0
    begin = b"".join(pieces).find(text)
    if choice.reason != "stop" or begin < 0:
        return len(pieces)
    for count, piece in enumerate(pieces):
        if total >= begin + len(text):
            return count
        total += len(piece)
    return len(pieces)


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


def _settings(asked: schema.ChatAsked | schema.CompletionAsked) -> dict[str, Any]:
    """What a request says of sampling, in decoding's names."""
    same = ("temperature", "top_p", "top_k", "min_p", "typical_p", "presence_penalty", "frequency_penalty")
    also = ("repetition_penalty", "no_repeat_ngram_size", "bad_words", "stop", "seed", "regex", "grammar", "n")
    given = {name: getattr(asked, name) for name in (*same, *also)}
    given |= {"max_tokens": asked.max_tokens, "min_new_tokens": asked.min_tokens, "json_schema": _schema(asked)}
    if isinstance(asked, schema.ChatAsked):
        if asked.max_completion_tokens is not None:
            if asked.max_tokens is not None:
                raise UserError("max_tokens and max_completion_tokens are one setting; give one of them")
            given["max_tokens"] = asked.max_completion_tokens
        if asked.top_logprobs and not asked.logprobs:
            raise UserError("top_logprobs needs logprobs to be true")
        given["logprobs"] = asked.top_logprobs if asked.logprobs else None
    else:
        given["logprobs"] = asked.logprobs
        if asked.best_of is not None and asked.best_of < asked.n:
            raise UserError(f"best_of ({asked.best_of}) cannot be less than n ({asked.n})")
        if asked.best_of is not None and asked.best_of > asked.n:
            if asked.stream:
                raise UserError("best_of knows no answer before the end; leave out stream")
            given["n"] = asked.best_of
    given["stop"] = None if asked.stop is None else tuple(asked.stop)
    given["bad_words"] = None if asked.bad_words is None else tuple(asked.bad_words)
    return given


def _schema(asked: schema.Sampled) -> dict[str, Any] | bool | None:
    form = asked.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        raise UserError("response_format.json_schema is missing; add it, with a name and a schema")
    return form.json_schema.schema_


# ---------------------------------------------------------------- clients that leave


class Stream(Response):
    """Server-sent events; the request is let go as soon as its client is."""

    media_type = "text/event-stream"

    def __init__(self, writing: Writing) -> None:
        self.writing, self.status_code, self.background = writing, 200, None
        self.body = b""
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(_watch(receive, self.writing))
        events = self.writing.events()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for part in events:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watch.cancel()
            self.writing.leave()


async def _watch(receive: Receive, writing: Writing) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    writing.leave()


async def unless_left(request: Request, waited: "asyncio.Future[Any]") -> Any:  # noqa: ANN401
    """What is waited for; where the client leaves before, it is cancelled and None."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({waited, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not waited.done():
            waited.cancel()
            await asyncio.wait({waited})
            return None
        return waited.result()
    finally:
        watch.cancel()
        waited.cancel()
