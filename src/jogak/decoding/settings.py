"""What may be asked of decoding: every setting with its range, and which of them exclude each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from jogak import config
from jogak.errors import UserError, nearest

# What a recipe's `decode` section calls otherwise; all else has one name everywhere.
IN_RECIPES = {"max_new_tokens": "max_length", "min_new_tokens": "min_length", "n": "n_best"}
_NUMBERS = [name for name in (*config.WHOLE, *config.REAL) if name not in IN_RECIPES.values()]
CHANCE = ("top_k", "top_p", "min_p", "typical_p", "seed")  # one of these alone asks for sampling
CONSTRAINTS = ("regex", "json_schema", "grammar")


@dataclass(frozen=True)
class Sampling:
    """How one request is decoded; the defaults are greedy. See jogak.decoding.processors for the order in which
    the settings that change probabilities are applied, and for their equations.

    max_new_tokens, min_new_tokens: units of an answer, the end mark not counted among the least.
    temperature: 0 takes the likeliest unit; None is 1 where another setting of chance is given, and 0 else.
    stop: texts that end an answer, themselves left out. bad_words: texts that no answer holds, however they are cut
    into units; bad_ids: sequences of ids that none holds.
    seed: what chance is drawn from; None: a fresh one, told in the answer. logprobs: likeliest units told beside each.
    n: answers; best_of: of how many, the likeliest a unit.
    beam, beam_groups, diversity_penalty, length_penalty: beam search (see search). method "mbr": minimum Bayes risk
    among the answers of the beam and `mbr_samples` samples (see risk). penalty_alpha, with top_k candidates:
    contrastive search. draft_tokens: units guessed ahead (see speculative).
    regex, json_schema, grammar: what the whole answer must be (see constrain).

    Raises: UserError that names a setting and its range, or two that exclude each other.
    """

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str, ...] = ()
    bad_ids: tuple[tuple[int, ...], ...] = ()
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: int = 0
    n: int = 1
    best_of: int | None = None
    beam: int = 1
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 0.6
    method: Literal["auto", "mbr"] = "auto"
    mbr_samples: int = 32
    penalty_alpha: float = 0.0
    draft_tokens: int = 0
    regex: str | None = None
    json_schema: Mapping[str, Any] | str | bool | None = field(default=None, hash=False)
    grammar: str | None = None

    def __post_init__(self) -> None:
        for name in (*IN_RECIPES, *_NUMBERS):
            value = getattr(self, name)
            free = value is None and _DEFAULTS[name] is None
            wrong = None if free else config.out_of_range(IN_RECIPES.get(name, name), value)
            if wrong is not None:
                raise UserError(f"{name} {wrong}, got {value!r}")
        self._check_texts()
        self._check_together()

    @property
    def heat(self) -> float:
        """The temperature that is meant; 0: greedy."""
        if self.temperature is not None:
            return self.temperature
        if self.method == "mbr":
            return 1.0
        asked = self.penalty_alpha == 0 and any(getattr(self, name) != _DEFAULTS[name] for name in CHANCE)
        return 1.0 if asked or (self.beam == 1 and (self.best_of or self.n) > 1) else 0.0

    @property
    def constrained(self) -> bool:
        return any(getattr(self, name) is not None for name in CONSTRAINTS)

    def _check_texts(self) -> None:
        if self.method not in ("auto", "mbr"):
            raise UserError(f"method must be auto or mbr, got {self.method!r}")
        for name in ("stop", "bad_words"):
            texts = getattr(self, name)
            texts = (texts,) if isinstance(texts, str) else tuple(texts)
            if not all(isinstance(text, str) and text for text in texts):
                raise UserError(f"{name} must be texts that are not empty, got {list(texts)!r}")
            object.__setattr__(self, name, texts)
        sequences = tuple(tuple(ids) for ids in self.bad_ids)
        if not all(ids and all(isinstance(n, int) and n >= 0 for n in ids) for ids in sequences):
            raise UserError(f"bad_ids must be sequences of ids, none of them empty, got {self.bad_ids!r}")
        object.__setattr__(self, "bad_ids", sequences)
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} cannot both say what the answer must be; give one of them")
        for name in ("regex", "grammar"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), str):
                raise UserError(f"{name} must be a text, got {getattr(self, name)!r}")

    def _check_together(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"min_new_tokens ({self.min_new_tokens}) cannot be more than max_new_tokens ({self.max_new_tokens})"
            )
        if self.best_of is not None and self.best_of < self.n:
            raise UserError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
        if self.method == "mbr":
            self._check_risk()
        elif self.beam > 1:
            self._exclude("beam", ("temperature", "best_of", "penalty_alpha", "draft_tokens", "logprobs", *CHANCE))
            if self.n > self.beam:
                raise UserError(f"n ({self.n}) cannot be more than beam ({self.beam}); raise beam")
        if self.beam % self.beam_groups:
            raise UserError(f"beam_groups ({self.beam_groups}) must divide beam ({self.beam})")
        if self.diversity_penalty and self.beam_groups == 1:
            raise UserError("diversity_penalty sets groups of beams apart; set beam_groups to at least 2")
        if self.penalty_alpha:
            self._exclude("penalty_alpha", ("temperature", "n", "best_of", "draft_tokens"))
            if self.top_k < 2:
                raise UserError(
                    f"contrastive search chooses among top_k candidates; set top_k to 2 at least, got {self.top_k}"
                )
        if self.method == "auto" and self.heat == 0 and self.beam == 1 and (self.best_of or self.n) > 1:
            raise UserError("several greedy answers would be one and the same; set temperature above 0, or beam")

    def _check_risk(self) -> None:
        self._exclude("method mbr", ("best_of", "penalty_alpha", "draft_tokens", "logprobs"))
        if self.n > self.beam + self.mbr_samples:
            raise UserError(
                f"n ({self.n}) cannot be more than beam ({self.beam}) and mbr_samples ({self.mbr_samples}) together"
            )
        if self.temperature == 0 and self.mbr_samples:
            raise UserError("samples at temperature 0 would be one and the same; raise it, or set mbr_samples to 0")

    def _exclude(self, name: str, others: tuple[str, ...]) -> None:
        for other in others:
            if getattr(self, other) not in (_DEFAULTS[other], None) and (other, getattr(self, other)) != (
                "temperature",
                0,
            ):
                raise UserError(f"{other} and {name} cannot be set together; leave one of them out")


_DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Sampling)}


def settings(given: Sampling | None = None, /, **changes: Any) -> Sampling:  # noqa: ANN401
    """`given`, or the defaults, with changes by name; None leaves a setting as it is.

    Raises: UserError for an unknown name (with the nearest known one) or a value out of range.
    """
    for name in changes:
        if name not in _DEFAULTS:
            raise UserError(f"decoding has no setting '{name}'{nearest(name, _DEFAULTS)}")
    return replace(given or Sampling(), **{n: v for n, v in changes.items() if v is not None})


def in_recipe(name: str) -> str:
    """What a recipe calls a setting."""
    return IN_RECIPES.get(name, name)


def of_recipe(decode: config.Decode) -> Sampling:
    """The settings that a `decode` section stands for.

    Raises: UserError for keys that do not fit together.
    """
    given = decode.model_dump(exclude={"batch"})
    names = {ours: name for name, ours in IN_RECIPES.items()}
    return Sampling(**{names.get(name, name): value for name, value in given.items()})
