"""Typed configuration: YAML and dotted overrides in, validated and immutable objects out.

A recipe is one YAML file with the sections of `Recipe`. Every mistake is one sentence that names the file, the
line and the key, and the nearest right key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jogak.errors import UserError, nearest
from jogak.registry import preset_text

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """A section of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ---------------------------------------------------------------- model


class Mixer(BaseModel):
    """A mixer by its registered name, with whatever options its constructor takes (checked when it is built)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})


def _mixer(value: Any) -> Any:  # noqa: ANN401
    return {"name": value} if isinstance(value, str) else value


MixerChoice = Annotated[Mixer, BeforeValidator(_mixer)]


def _pattern(value: Any) -> Any:  # noqa: ANN401
    return value if isinstance(value, list | tuple) else [value]


Activation = Literal["relu", "gelu", "gelu_tanh", "silu", "quick_gelu", "relu2", "tanh", "linear"]


class FeedForward(Strict):
    """The part of a block that works on each position alone."""

    width: Positive | None = None  # None: 4 * the model's width
    activation: Activation | Literal["geglu", "geglu_tanh", "swiglu", "reglu"] = "relu"
    bias: bool = True
    experts: Positive | None = None  # a mixture: so many feedforwards of this kind, and a router
    chosen: Positive = 2  # of experts: how many each position goes to
    norm_chosen: bool = True  # of experts: the weights of those that are chosen add up to one


class Stack(Strict):
    """Blocks in a row; their mixers follow `pattern`, repeated until `depth` blocks are filled."""

    depth: Annotated[int, Field(ge=0)] = 6
    pattern: Annotated[tuple[MixerChoice, ...], BeforeValidator(_pattern), Field(min_length=1)] = (
        Mixer(name="attention"),
    )
    causal: bool | None = None  # an encoder that looks back only; None: where it hands over its states
    cross: MixerChoice | None = None  # decoder of an encoder-decoder; None there: attention, where there is a memory
    feedforward: FeedForward | None = FeedForward()
    feedforwards: tuple[FeedForward | None, ...] | None = None  # a repeating pattern of them, instead of one for all
    # rms_plus_one: scaled by 1 + weight; batch: each number over the batch, where rows are never padded
    norm: Literal["layer", "rms", "rms_plus_one", "batch"] = "layer"
    # parallel: mixer and feedforward read one norm, parallel_apart: each its own; plain: no residual, no norm
    placement: Literal["pre", "post", "sandwich", "parallel", "parallel_apart", "plain"] = "post"
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    norm_bias: bool = True  # of norm: layer
    first_norm: bool = True  # before the first mixer; without it where the embedding is normed already
    share_position: bool = False  # every block adds the first one's position bias to its scores (T5)
    final_norm: bool | None = None  # None: wherever the placement leaves the residual stream unnormed (pre, ...)


class Head(Strict):
    """What stands behind the last stack: a score for every unit at each position, or for every class of a sequence."""

    # values: numbers that a sequence has; forecast: how a series goes on; patches: each position's part of a series
    # again; none: what the last stack wrote
    kind: Literal["units", "classes", "vector", "values", "forecast", "patches", "none"] = "units"
    classes: Positive | None = None  # None: what the data has
    # of vector: how many numbers a sequence becomes; None: the model's width. Of values: how many; of forecast: how far
    size: Positive | None = None
    bounds: tuple[float, float] | None = None  # of values: a sigmoid between them
    # of all but units and patches: which positions make it up; unit: the first that holds the unit pool_id; all: of
    # forecast, one behind another
    pool: Literal["mean", "max", "first", "last", "unit", "convolutions", "all"] = "mean"
    pool_id: Annotated[int, Field(ge=0)] | None = None  # of pool: unit; None: the unit with the highest number
    pool_norm: bool = False  # of vector and none: what is pooled is normed
    widths: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3, 4, 5)  # of pool: convolutions
    channels: Positive = 100  # of pool: convolutions, for each width
    dropout: Fraction = 0.0  # of classes, values, forecast and patches: before them
    voters: Positive = 1  # of classes: so many first positions each have scores of their own; their mean counts
    dense: Activation | None = None  # of classes and none: what is pooled goes through a layer with this activation
    dense_size: Positive | None = None  # of classes: what that layer gives; None: the model's width
    class_bias: bool = True  # of classes: scores have one
    # of units and classes: a layer with this activation and a norm before the scores
    transform: Activation | None = None
    transform_bias: bool = True
    bias: bool = False  # of units
    scale: float | None = None  # of units: what the head reads is multiplied by it
    softcap: Annotated[float, Field(gt=0)] | None = None  # of units: c tanh(score / c)


class Model(Strict):
    """Embeddings, one or two stacks, a head."""

    topology: Literal["encoder", "decoder", "encoder-decoder", "towers"] = "encoder-decoder"
    towers: tuple["Model", "Model"] | None = None  # of topology towers: two encoders whose vectors are compared
    vocab_size: Positive | None = None  # None: what the codec has
    source_vocab_size: Positive | None = None  # of an encoder-decoder's encoder; None: vocab_size
    width: Positive = 512
    input: MixerChoice | None = None  # what the first stack reads instead of units: a module of layers.inputs
    # added to the embedding; halves: all sines before all cosines; inclusive: so, and the slowest is 1/10000 exactly
    position: Literal["none", "sinusoidal", "sinusoidal_halves", "sinusoidal_inclusive", "learned"] = "sinusoidal"
    position_offset: Annotated[int, Field(ge=0)] = 0  # the number of the first position
    max_length: Positive = 1024  # of a learned position table; and where data is cut
    token_types: Positive | None = None  # kinds of units (first and second sentence), each with an embedding
    embedding_norm: bool = False  # after the sum of the embeddings
    hidden_id: Annotated[int, Field(ge=0)] | None = None  # this unit is zero, the others scaled up: layers.masking
    contacts_end: Annotated[int, Field(ge=0)] | None = None  # an encoder says what touches, without this unit
    encoder: Stack | None = None
    decoder: Stack | None = None
    head: Head = Head()
    handover: Literal["memory", "state", "both"] = "memory"  # what a decoder gets of its encoder: outputs, last states
    reverse_source: bool = False  # the encoder of an encoder-decoder reads its source backwards (1409.3215)
    # output: decoder embedding = head; embeddings: decoder embedding = encoder embedding; all: all three
    tie: Literal["none", "output", "embeddings", "all"] = "all"
    # multiply by sqrt(width), as in 1706.03762 section 3.4, or by this number
    scale_embedding: bool | Annotated[float, Field(gt=0)] = True
    dropout: Fraction = 0.1
    init: Literal["xavier", "normal"] = "xavier"

    @model_validator(mode="after")
    def _stacks_fit_topology(self) -> "Model":
        for side in ("encoder", "decoder"):
            wanted, given = side in self.topology.split("-"), getattr(self, side) is not None
            if given and not wanted:
                raise ValueError(f"topology '{self.topology}' has no {side}; remove '{side}'")
        if self.topology == "encoder-decoder" and self.head.kind in ("classes", "values"):
            raise ValueError(f"'head.kind: {self.head.kind}' needs topology 'encoder' or 'decoder'")
        if self.topology != "encoder-decoder" and self.decoder is not None and self.decoder.cross is not None:
            raise ValueError("'decoder.cross' needs topology 'encoder-decoder', which gives it something to read")
        if self.decoder is not None and self.decoder.causal is not None:
            raise ValueError("'decoder.causal' says nothing, since a decoder always is; remove it")
        for key in ("hidden_id", "contacts_end"):
            if self.topology != "encoder" and getattr(self, key) is not None:
                raise ValueError(f"'{key}' needs topology 'encoder', which sees a sequence whole; remove it")
        if (self.topology == "towers") != (self.towers is not None):
            raise ValueError("topology 'towers' and the two models in 'towers' need each other; give both or neither")
        for tower in self.towers or ():
            if tower.topology != "encoder" or tower.head.kind != "vector":
                raise ValueError("'towers' must be two models of topology 'encoder' and 'head.kind: vector'")
        if self.head.kind in ("vector", "forecast", "patches") and self.topology != "encoder":
            raise ValueError(f"'head.kind: {self.head.kind}' needs topology 'encoder'")
        self._handover_fits()
        return self

    def _handover_fits(self) -> None:
        two = self.topology == "encoder-decoder"
        for key in ("handover", "reverse_source", "source_vocab_size"):
            if not two and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"'{key}' needs topology 'encoder-decoder'; remove it")
        if self.source_vocab_size not in (None, self.vocab_size) and self.tie in ("all", "embeddings"):
            raise ValueError("'source_vocab_size' needs embeddings apart; set 'tie' to 'output' or 'none'")
        if self.handover == "memory":
            return
        if self.encoder is not None and self.encoder.causal is False:
            raise ValueError(
                f"handover '{self.handover}' needs an encoder that looks back only; remove 'encoder.causal'"
            )
        if self.handover == "state" and self.decoder is not None and self.decoder.cross is not None:
            raise ValueError("handover 'state' leaves 'decoder.cross' nothing to read; set 'handover' to 'both'")

    def stack(self, side: Literal["encoder", "decoder"]) -> Stack:
        """The configuration of one side, with defaults filled in."""
        stack: Stack = getattr(self, side) or Stack()
        if side == "encoder" and stack.causal is None:
            stack = stack.model_copy(update={"causal": self.handover != "memory"})
        reads = self.topology == "encoder-decoder" and self.handover != "state"
        if side == "decoder" and reads and stack.cross is None:
            stack = stack.model_copy(update={"cross": Mixer(name="attention")})
        return stack


# ---------------------------------------------------------------- recipe


class Codec(Strict):
    """How text becomes units: a tokenizer trained on the data, or one read from a file."""

    kind: Literal["bpe", "unigram", "wordpiece", "bytes"] = "bpe"
    vocab_size: Positive = 4000
    file: str | None = None  # a tokenizer.json to read instead of training one
    byte_fallback: bool = True  # a character outside the vocabulary becomes its UTF-8 bytes


class Data(Strict):
    """Where examples come from and how they are split."""

    sources: Annotated[tuple[str, ...], BeforeValidator(_pattern), Field(min_length=1)]
    source: str = "source"  # field that is read
    target: str = "target"  # field that is to be produced
    text: str = "text"  # field that is read where nothing is translated: a language model's, a classifier's
    label: str = "label"  # field of a classifier's answer
    test: Annotated[int, Field(ge=0)] = 500  # examples held out for the last measurement, by hash of the target
    validation: Annotated[int, Field(ge=0)] = 300  # held out for early stopping and choosing checkpoints
    max_length: Positive = 256  # units; longer training examples are left out, and counted
    drop_longer_than: Annotated[float, Field(gt=1)] | None = None  # ratio of lengths above which a pair is dropped


class Train(Strict):
    """How the model is fitted."""

    seed: int = 0
    steps: Positive = 2000
    minutes: Annotated[float, Field(gt=0)] | None = None  # wall-clock budget; the schedule then follows time used
    batch_tokens: Positive = 1000  # padded positions of source + target in one batch, per process
    pack: bool = False  # several examples to a row, all batches of one shape, instead of padding
    accumulate: Positive = 1  # batches in one step
    rate: Annotated[float, Field(gt=0)] = 1e-3  # peak learning rate
    schedule: Literal["inverse_sqrt", "cosine", "linear", "constant"] = "inverse_sqrt"
    warmup: Annotated[int, Field(ge=0)] = 400  # steps
    final_rate: Annotated[float, Field(ge=0)] = 0.0  # fraction of the peak at the end of cosine and linear
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    label_smoothing: Fraction = 0.1
    bpe_dropout: Fraction = 0.0  # how often a piece is split into those that it was merged from (1910.13267)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast where a probe shows it faster
    average: Literal["none", "ema", "last"] = "none"
    ema_decay: Fraction = 0.999
    ema_every: Positive = 4  # steps between updates of the average, each with ema_decay ** ema_every
    average_last: Positive = 5  # checkpoints
    validate_every: Positive = 500  # steps
    save_every: Positive = 500  # steps
    keep: Positive = 5  # checkpoints; the best one is kept besides
    patience: Positive | None = None  # validations without a better metric before stopping
    final: Literal["auto", "last", "best"] = "auto"  # weights of model.safetensors; auto: best where patience is set
    gradient_checkpointing: bool = False
    compile: bool = False
    log_every: Positive = 20  # steps
    tensorboard: bool = True  # events beside metrics.jsonl, where the extra `track` is installed
    device: str = "auto"


INFINITY = float("inf")

# The least and the most of decoding's numbers, in a recipe, an option or a request alike.
WHOLE: dict[str, tuple[int, float]] = {
    "max_length": (1, INFINITY),
    "min_length": (0, INFINITY),
    "n_best": (1, 1024),
    "best_of": (1, 1024),
    "beam": (1, 1024),
    "beam_groups": (1, 1024),
    "mbr_samples": (0, 1024),
    "top_k": (0, INFINITY),
    "no_repeat_ngram_size": (0, INFINITY),
    "logprobs": (0, 100),
    "draft_tokens": (0, 64),
    "seed": (0, 2**63 - 1),
}
REAL: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "diversity_penalty": (0.0, 100.0),
    "length_penalty": (-100.0, 100.0),
    "penalty_alpha": (0.0, 1.0),
}


def out_of_range(name: str, value: object) -> str | None:
    """What decoding's number `name` must be, where `value` is not that."""
    least, most = {**WHOLE, **REAL}[name]
    kinds, kind = ((int,), "a whole number") if name in WHOLE else ((int, float), "a number")
    if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:  # NaN is in no range
        return None
    if most == WHOLE["seed"][1]:
        return f"must be {kind} from 0 to 2^63 - 1"
    return f"must be {kind} " + (f"at least {least:g}" if most == INFINITY else f"from {least:g} to {most:g}")


class Decode(Strict):
    """How an answer is found; what the keys mean together is checked by jogak.decoding.settings."""

    beam: int = 1  # 1: greedy
    length_penalty: float = 0.6  # alpha of GNMT's ((5 + length) / 6) ** alpha
    max_length: int = 256
    n_best: int = 1
    batch: Positive = 64  # sequences decoded together
    method: Literal["auto", "mbr"] = "auto"  # auto: what the other keys ask for; mbr: minimum Bayes risk
    mbr_samples: int = 32  # drawn for method mbr, beside the best of the beam
    temperature: float | None = None  # null: 1 where another key of chance is set, and greedy else
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    min_length: int = 0
    bad_words: Annotated[tuple[str, ...], BeforeValidator(_pattern)] = ()
    stop: Annotated[tuple[str, ...], BeforeValidator(_pattern)] = ()
    seed: int | None = None  # null: another one each time
    logprobs: int = 0
    best_of: int | None = None
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    penalty_alpha: float = 0.0
    draft_tokens: int = 0
    regex: str | None = None
    json_schema: dict[str, Any] | bool | str | None = None
    grammar: str | None = None

    @field_validator(*WHOLE, *REAL, mode="before")
    @classmethod
    def _in_range(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        wrong = None if value is None else out_of_range(info.field_name, value)
        if wrong is not None:
            raise ValueError(wrong)
        return value


class Recipe(Strict):
    """Everything a training run needs, and everything its folder's config.yaml says of it afterwards."""

    task: str
    run: str = "runs/run"  # folder to write
    data: Data
    codec: Codec = Codec()
    model: Model = Model()
    train: Train = Train()
    decode: Decode = Decode()


# ---------------------------------------------------------------- reading

S = TypeVar("S", bound=BaseModel)


def read_recipe(path: str | Path, overrides: Sequence[str] | Mapping[str, object] = ()) -> Recipe:
    """The recipe in the YAML file `path`, with overrides such as `train.steps=100` or `{"train.steps": 100}`.

    `model` may be a preset's name, or a mapping whose key `preset` names what the other keys change.

    Raises: UserError naming file, line and key.
    """
    path = Path(path)
    tree, lines = read_yaml(path)
    for key, value in pairs(overrides):
        _set(tree, key, value)
        lines[tuple(key.split("."))] = 0
    return parse_recipe(tree, str(path), lines)


def parse_recipe(tree: dict[str, Any], where: str, lines: Mapping[tuple[str, ...], int] | None = None) -> Recipe:
    """A validated recipe from plain data; `where` (and `lines`) are what errors name."""
    tree = dict(tree)
    if "model" in tree:
        try:
            tree["model"] = _expand_preset(tree["model"])
        except UserError as error:
            raise UserError(f"{_place(where, ('model', 'preset'), lines or {})}: 'model': {error}") from None
    return validate(Recipe, tree, where, lines or {})


def read_preset(name: str) -> Model:
    """The model configuration of a published model."""
    return validate(Model, _preset_tree(name), f"preset {name}", {})


def validate(kind: type[S], tree: object, where: str, lines: Mapping[tuple[str, ...], int]) -> S:
    """`kind` built from plain data, its first mistake told in one sentence."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        path = tuple(str(p) for p in first["loc"] if not str(p).startswith("function-"))
        place = _place(where, path, lines)
        key = ".".join(path) or "the file"
        if first["type"] == "extra_forbidden":
            known = _fields_at(kind, path[:-1])
            raise UserError(f"{place}: unknown key '{key}'{nearest(path[-1], known)}") from None
        if first["type"] == "missing":
            raise UserError(f"{place}: key '{key}' is missing; add it") from None
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if first["type"] == "model_type":
            message = "should be a section of keys and values"
        shown = repr(first["input"])
        got = "" if isinstance(first["input"], dict) else f" (got {shown[:77] + '...' if len(shown) > 80 else shown})"
        raise UserError(f"{place}: '{key}': {message}{got}") from None


def _place(where: str, path: Sequence[str], lines: Mapping[tuple[str, ...], int]) -> str:
    """Where the key at `path` was written: file and line, or an override (whose line is 0)."""
    line = next((lines[tuple(path[:n])] for n in range(len(path), 0, -1) if tuple(path[:n]) in lines), None)
    if line is None:
        return where
    return f"{where}:{line}" if line else "override"


def to_yaml(section: BaseModel) -> str:
    """The section as YAML that reads back to an equal object."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The mapping in a YAML file, and the line of each of its keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[str, ...], int] = {}
        _mark_lines(node, (), lines)
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else type(tree).__name__
        raise UserError(f"{path}: a mapping of keys to values is expected, found {found}")
    return tree, lines


def _mark_lines(
    node: yaml.Node | None, path: tuple[str, ...], lines: dict[tuple[str, ...], int], inside: tuple[yaml.Node, ...] = ()
) -> None:
    """Note the line of every key below `node`; a key given twice and a node inside itself are mistakes."""
    if node in inside and node is not None:
        raise yaml.MarkedYAMLError(problem="an anchor that holds itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            if inner in lines:
                twice = f"key '{'.'.join(inner)}' is there twice (first in line {lines[inner]})"
                raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
            lines[inner] = key.start_mark.line + 1
            _mark_lines(value, inner, lines, (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*path, str(index)] = value.start_mark.line + 1
            _mark_lines(value, (*path, str(index)), lines, (*inside, node))


def pairs(overrides: Sequence[str] | Mapping[str, object]) -> list[tuple[str, object]]:
    """Dotted keys and values of overrides such as `train.steps=100`, values read as YAML."""
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs: list[tuple[str, object]] = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UserError(f"'{text}' is not an override; write key=value, for example train.steps=100")
        try:
            pairs.append((key, yaml.safe_load(value)))
        except yaml.YAMLError:
            raise UserError(f"the value of override '{text}' is not valid YAML; quote it") from None
    return pairs


def _set(tree: dict[str, Any], dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        child = tree.get(name)
        if name == "model" and isinstance(child, str):
            child = {"preset": child}
        elif child is None:
            child = {}
        if not isinstance(child, dict):
            raise UserError(f"override '{dotted}': '{name}' holds {child!r}, not a section")
        tree[name] = dict(child)
        tree = tree[name]
    tree[last] = value


def _expand_preset(model: object) -> object:
    if isinstance(model, str):
        model = {"preset": model}
    if not isinstance(model, dict) or "preset" not in model:
        return model
    changes = dict(model)
    return _merge(_preset_tree(str(changes.pop("preset"))), changes)


def _preset_tree(name: str) -> dict[str, Any]:
    """What a preset's file says; its key `preset` names another, which the other keys change."""
    changes = yaml.safe_load(preset_text(name))
    base = changes.pop("preset", None)
    return changes if base is None else _merge(_preset_tree(base), changes)


def _merge(base: Any, changes: Any) -> Any:  # noqa: ANN401
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return {k: _merge(base.get(k), changes[k]) if k in changes else base[k] for k in {**base, **changes}}


def _fields_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that the section at `path` inside `kind` may have."""
    current: type[BaseModel] | None = kind
    for name in path:
        if current is None:
            return []
        field = current.model_fields.get(name)
        current = _model_in(field.annotation) if field else current  # a list index stays in its section
    return list(current.model_fields) if current else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
    return None
