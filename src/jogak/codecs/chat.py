"""Conversations to text, by the Jinja template that lies beside a checkpoint.

A template comes from whoever made the checkpoint, so it runs in Jinja's sandbox, sees plain data alone and changes
nothing. What it is given, and what it may call, is what `transformers` gives it (apply_chat_template).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from jogak import storage
from jogak.errors import UserError, nearest

FILE, OTHERS, OLDER, SETTINGS = (
    "chat_template.jinja",
    "additional_chat_templates",
    "chat_template.json",
    "tokenizer_config.json",
)
Message = Mapping[str, Any]  # role, content, and what else a template reads
_REASONING = ("reasoning_content", "thinking", "reasoning")


def render(
    folder: Path,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    template: str | None = None,
    **more: Any,  # noqa: ANN401  # JSON
) -> str:
    """The conversation as one text, special tokens written out: encode it without adding others.

    add_generation_prompt: end with what stands before an answer. tools, documents: JSON schemas and texts that some
    templates show. template: the name of one of several; else 'tool_use' where there are tools, or 'default'. more:
    what a template reads besides, such as enable_thinking.

    Raises: UserError where there is no template, it refuses the conversation, or something given is no plain data.
    """
    found = templates(folder)
    name = _chosen(folder, found, template, tools is not None)
    given = {
        "messages": [_reasoned(m) for m in _plain(list(messages), "messages")],
        "tools": _plain(None if tools is None else list(tools), "tools"),
        "documents": _plain(None if documents is None else list(documents), "documents"),
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        return _compiled(found[name]).render({**special_tokens(folder), **_plain(more, "settings"), **given})
    except TemplateError as error:
        raise UserError(f"{folder}: the chat template '{name}' says: {_sentence(error)}") from None
    except Exception as error:  # whatever the code of somebody else runs into
        told = f"{type(error).__name__}: {_sentence(error)}"
        raise UserError(f"{folder}: the chat template '{name}' fails on this conversation ({told})") from None


def templates(folder: Path) -> dict[str, str]:
    """The templates in a folder, by name.

    Raises: UserError for a damaged file.
    """
    found: dict[str, str] = {}
    settings = _object(folder / SETTINGS).get("chat_template")
    given = _object(folder / OLDER).get("chat_template") if settings is None else settings
    if isinstance(given, str):
        found["default"] = given
    elif isinstance(given, list):
        for entry in given:
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("name", "template")):
                raise UserError(f"{folder / SETTINGS}: 'chat_template' must be text, or a list of names and templates")
            found[entry["name"]] = entry["template"]
    files = {file.stem: file for file in sorted((folder / OTHERS).glob("*.jinja"))}
    if (folder / FILE).is_file():
        files["default"] = folder / FILE
    for name, file in files.items():
        try:
            found[name] = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: not UTF-8 at byte {error.start}; restore it") from None
    return found


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens that a folder names, such as bos_token."""
    fields = {**_object(folder / "special_tokens_map.json"), **_object(folder / SETTINGS)}
    extra = fields.get("extra_special_tokens")
    named = {name: token for name, token in fields.items() if name.endswith("_token")}
    given = {**named, **(extra if isinstance(extra, dict) else {})}
    content = {name: t.get("content") if isinstance(t, dict) else t for name, t in given.items()}
    return {name: token for name, token in content.items() if isinstance(token, str)}


def _chosen(folder: Path, found: Mapping[str, str], name: str | None, tools: bool) -> str:
    if not found:
        raise UserError(f"{folder / FILE}: there is no such file: the model has no chat template; give it plain text")
    if name is None:
        name = next((n for n in (("tool_use",) if tools else ()) + ("default",) if n in found), None)
        if name is None:
            raise UserError(f"{folder}: has several chat templates; name one of {', '.join(sorted(found))}")
    if name not in found:
        raise UserError(f"{folder}: has no chat template '{name}'{nearest(name, found)}")
    return name


def _object(file: Path) -> dict[str, Any]:
    found = storage.read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _plain(value: Any, where: str) -> Any:  # noqa: ANN401  # JSON
    """A copy of plain data: text, numbers, truth values, lists and mappings; nothing that has methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{where}[{number}]") for number, part in enumerate(value)]
    raise UserError(f"{where}: a conversation is plain data (as JSON has it), got {type(value).__name__}")


def _reasoned(message: object) -> dict[str, Any]:
    """A message whose reasoning can be read under each name that templates have for it."""
    if not isinstance(message, dict):
        raise UserError(f"messages: each must be a mapping with role and content, got {type(message).__name__}")
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# ---------------------------------------------------------------- Jinja


class _Generation(Extension):
    """`{% generation %}`: what the assistant says, marked for those who train on it alone; here it is as it stands."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Names(Namespace):
    """A namespace of the template's own variables, which cannot be given what belongs to Python."""

    def __setitem__(self, name: str, value: object) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"'{name}' is no name for a variable")
        super().__setitem__(name, value)


def _namespace(**given: object) -> _Names:
    names = _Names()
    for name, value in given.items():
        names[name] = value
    return names


def _dict(*given: Any, **named: Any) -> dict[str, Any]:  # noqa: ANN401
    """The class itself would give away others."""
    return dict(*given, **named)


def _refuse(message: object) -> None:
    raise TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _json(value: object, ensure_ascii: bool = False, indent: int | None = None, **how: Any) -> str:  # noqa: ANN401
    """As JSON; Jinja's own filter would escape what HTML knows."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **how)


@lru_cache(maxsize=16)
def _compiled(template: str):  # noqa: ANN202  # jinja2.Template
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "namespace": _namespace,
        "dict": _dict,
    }
    return environment.from_string(template)
