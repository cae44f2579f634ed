"""What is done in one turn of the engine besides text that comes unit by unit: vectors, whole tasks, attention maps."""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jogak.errors import UserError
from jogak.hub.pretrained import Pretrained
from jogak.serving import schema
from jogak.serving.served import Served

AT_ONCE = 8  # texts of a task that are answered in one turn
A_UNIT = 16  # characters, at most


def embedded(served: Served, asked: schema.EmbeddingsAsked) -> dict[str, Any]:
    """The vectors of the texts.

    Raises: UserError for a model that gives none, texts that are empty or too long, and other widths than its own.
    """
    model = served.model
    if not served.embeds or not isinstance(model, Pretrained):
        raise UserError(f"model '{served.name}' gives no embeddings; an encoder of text from a checkpoint does")
    rows = model.encode(asked.input)
    for number, row in enumerate(rows):
        if not asked.input[number] or not row:
            raise UserError(f"input[{number}] is empty; give a text")
        if len(row) > model.max_length:
            raise UserError(
                f"input[{number}] has {len(row)} tokens, and the model reads {model.max_length}; shorten it"
            )
    if asked.dimensions not in (None, model.config.width):
        raise UserError(f"dimensions must be {model.config.width}, the model's own, got {asked.dimensions}")
    vectors = model.embed(asked.input).tolist()
    if asked.encoding_format == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{len(v)}f", *v)).decode("ascii") for v in vectors]
    count = sum(map(len, rows))
    return {
        "object": "list",
        "model": served.name,
        "data": [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def turns(served: Served, asked: schema.RunAsked) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The model's task on a few texts at a time, so that others get their steps in between.

    Raises: UserError for a model that reads no text, and texts that are too long.
    """
    if "run" not in served.abilities:
        raise UserError(f"model '{served.name}' does not read text; in Python, model.module takes numbers")
    texts, most = asked.input, A_UNIT * served.settings.max_prompt
    for number, text in enumerate(texts):
        if len(text) > most:
            raise UserError(f"input[{number}] has {len(text)} characters, more than {most}; shorten it")
    step = len(texts) if served.embeds else AT_ONCE  # embeddings are compared with one another

    def answers(part: Sequence[str], first: int) -> list[dict[str, Any]]:
        where = [f"input[{n}]" for n in range(first, first + len(part))]
        found = served.predictor(asked.settings)(part, where)
        return [
            {"index": n, "answers": [answer.plain() for answer in ours], "faults": list(ours[0].faults)}
            for n, ours in enumerate(found, first)
        ]

    for first in range(0, len(texts), step):
        yield lambda part=texts[first : first + step], first=first: answers(part, first)


def told(served: Served, found: Sequence[dict[str, Any]]) -> bytes:
    """The answers as JSON; what is no number in JSON is null."""
    content = {"object": "list", "model": served.name, "task": served.task, "data": list(found)}
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(json.loads(json.dumps(content, default=str), parse_constant=lambda name: None))
    return text.encode("utf-8", "replace")


def looked(served: Served, asked: schema.LookAsked) -> str:
    """The page of every attention map of an answer: one that was given, or the one that the model gives to a text.

    Raises: UserError for a model that reads no text, and where it is not said what to look at.
    """
    if "look" not in served.abilities:
        raise UserError(f"model '{served.name}' does not read text, so that there is nothing to look at")
    text, prompt, answer = asked.input, asked.prompt_token_ids, asked.token_ids
    if text is not None and prompt is None and answer is None:
        if not text.strip():
            raise UserError("input is empty; give a text to look at")
        panels, output = served.look_at(text)
        return served.page(panels, text, output, asked.language)
    if text is None and prompt is not None and answer is not None:
        return served.page(served.look(prompt, answer), "", "", asked.language)
    raise UserError("give either input, or prompt_token_ids and token_ids of an answer")
