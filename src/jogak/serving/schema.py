"""What may be asked, field by field: OpenAI's names, and jogak's own settings beside them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

WHOLE = 2**31 - 1
TEXT: dict[str, Any] = {"type": "string"}
IDS: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": WHOLE}}


class Asked(BaseModel):
    """Unknown fields and wrong types are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _prompts(value: object) -> object:
    """A text, ids, or a list of these as the list that is meant."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(n) is int for n in value)):
        return [value]
    return value


def _said(value: object) -> object:
    """What was said as one text; it may come in parts."""
    if not isinstance(value, list):
        return value
    parts: list[str] = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError('must be a text, or parts of the form {"type": "text", "text": ...}; only text is read')
        parts.append(part["text"])
    return "".join(parts)


def _one_or_many(item: dict[str, Any], most: int) -> dict[str, Any]:
    return {"anyOf": [item, {"type": "array", "minItems": 1, "maxItems": most, "items": item}]}


SOME = 1024  # texts in one request, before the server's own limit
Text = Annotated[str, Field(min_length=1, max_length=256)]
Few = Annotated[
    list[Text],
    Field(max_length=16),
    BeforeValidator(_texts),
    WithJsonSchema(_one_or_many({**TEXT, "minLength": 1, "maxLength": 256}, 16)),
]
Texts = Annotated[
    list[str],
    Field(min_length=1, max_length=SOME),
    BeforeValidator(_texts),
    WithJsonSchema(_one_or_many(TEXT, SOME)),
]
Ids = Annotated[list[Annotated[int, Field(ge=0, le=WHOLE)]], Field(min_length=1)]
Prompts = Annotated[
    list[str | Ids],
    Field(min_length=1, max_length=SOME),
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [*_one_or_many(TEXT, SOME)["anyOf"], *_one_or_many(IDS, SOME)["anyOf"]]}),
]
Content = Annotated[
    str,
    BeforeValidator(_said),
    WithJsonSchema(
        {
            "anyOf": [
                TEXT,
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": TEXT},
                    },
                },
            ]
        }
    ),
]


class Named(BaseModel):
    """A JSON schema under a name."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True, serialize_by_alias=True)
    name: str = Field(max_length=64)
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")


class Format(Asked):
    """What an answer must be; json_schema says it for type json_schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Named | None = None


class StreamOptions(Asked):
    include_usage: bool = False


class Sampled(Asked):
    """How one answer is written; what is not given is as the model's own settings say."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1, le=WHOLE)
    min_tokens: int | None = Field(None, ge=0, le=WHOLE)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=WHOLE)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=WHOLE)
    bad_words: list[Text] | None = Field(None, max_length=64)
    stop: Few | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    response_format: Format | None = None
    regex: str | None = None
    grammar: str | None = None
    return_token_ids: bool = False
    user: str | None = None
    metadata: dict[str, str] | None = None


class Message(Asked):
    """refusal, reasoning_content: as clients hand back what they were given."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None


class ChatAsked(Sampled):
    """max_completion_tokens: OpenAI's newer name for max_tokens. chat_template_kwargs: what a checkpoint's template
    reads besides."""

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1, le=WHOLE)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None


class CompletionAsked(Sampled):
    """prompt: texts, or ids of the model's own tokenizer. best_of: so many are written, the n likeliest a unit told."""

    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1, le=128)


class EmbeddingsAsked(Asked):
    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, le=WHOLE)
    user: str | None = None


class RunAsked(Asked):
    """settings: keys of a recipe's decode section, or what else the model's task has."""

    model: str
    input: Texts
    settings: dict[str, Any] = Field(default_factory=dict)


class LookAsked(Asked):
    """Either a text, which is answered first, or the ids of a prompt and of the answer to it."""

    model: str
    input: str | None = None
    prompt_token_ids: Ids | None = None
    token_ids: Ids | None = None
    language: Literal["en", "ko"] = "en"


# ---------------------------------------------------------------- answers, as the OpenAPI description has them


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    prompt_tokens_details: dict[str, int] | None = None


class Choice(BaseModel):
    model_config = ConfigDict(extra="allow")
    index: int
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None


class Said(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: str | None = None


class ChatChoice(Choice):
    message: Said


class CompletionChoice(Choice):
    text: str


class Written(BaseModel):
    id: str
    created: int
    model: str
    usage: Usage


class ChatWritten(Written):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class CompletionWritten(Written):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class Embedded(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsWritten(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Embedded]
    usage: Usage


class ModelTold(BaseModel):
    """abilities: which of chat, completions, embeddings, run and look the model has; defaults: its own settings."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "jogak"
    task: str
    abilities: list[str]
    defaults: dict[str, Any]


class ModelsTold(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelTold]


class Ran(BaseModel):
    """answers: best first, each as plain data with its text and score; faults: what the best must be warned of."""

    index: int
    answers: list[dict[str, Any]]
    faults: list[str]


class RunWritten(BaseModel):
    object: Literal["list"] = "list"
    model: str
    task: str
    data: list[Ran]


class Health(BaseModel):
    status: str


class Complaint(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """Every error, as OpenAI's clients read it."""

    error: Complaint
