"""How answers are found: what the run says, changed by what is asked for."""

from collections.abc import Mapping
from typing import Any

from jogak import config
from jogak.decoding.settings import CHANCE, Sampling, in_recipe, of_recipe, settings
from jogak.errors import UserError
from jogak.models import Decoder, Model

# What a beam search cannot have beside it.
_NO_BEAM = ("temperature", "best_of", "penalty_alpha", "draft_tokens", "logprobs", *CHANCE)
# What the search of jogak.decoding.search does by itself.
_SEARCH = ("beam", "length_penalty", "max_length", "n_best", "batch")


def decode_with(decode: config.Decode, **changes: Any) -> config.Decode:  # noqa: ANN401
    """`decode` with other values of its fields, under their names here or in Python; None leaves one as it is.

    Asking for n answers of a beam widens it to n. What the run says of a beam steps back where chance is asked for,
    and what it says of chance where a beam is.

    Raises: UserError for a value that does not fit.
    """
    given = {in_recipe(name): value for name, value in changes.items() if value is not None}
    decode = config.validate(config.Decode, {**decode.model_dump(), **given}, "decode", {})
    if decode.method == "auto":
        plain = config.Decode()
        other = [name for name in _NO_BEAM if getattr(decode, name) != getattr(plain, name)]
        if any(name in given for name in other) and "beam" not in given:
            decode = decode.model_copy(update={"beam": 1, "beam_groups": 1, "diversity_penalty": 0.0})
            if "n_best" not in given:
                decode = decode.model_copy(update={"n_best": 1})
        elif given.get("beam", 1) > 1 and not any(name in given for name in other):
            decode = decode.model_copy(update={name: getattr(plain, name) for name in other})
            other = []
        if not other and decode.n_best > decode.beam and "n_best" in given and "best_of" not in given:
            decode = decode.model_copy(update={"beam": decode.n_best})
    of_recipe(decode)
    return decode


def is_search(decode: config.Decode) -> bool:
    """Whether nothing is asked for but a plain search."""
    plain = config.Decode()
    return all(
        getattr(decode, name) == getattr(plain, name) for name in type(decode).model_fields if name not in _SEARCH
    )


def decoding_of(decode: config.Decode, changes: Mapping[str, Any]) -> Sampling:
    """The settings of one request: as the run says, changed by name, in Python's names or a recipe's.

    Raises: UserError as decode_with.
    """
    given = dict(changes)
    bad = given.pop("bad_ids", None)
    return settings(of_recipe(decode_with(decode, **given)), bad_ids=bad)


def as_draft(model: Model | None) -> Decoder | None:
    """A model whose guesses another one judges.

    Raises: UserError for one that does not write.
    """
    if model is not None and not isinstance(model, Decoder):
        raise UserError("the draft model writes nothing; give a language model, or a translator to a translator")
    return model
