"""Answers that match a regular expression, a JSON schema or a grammar, whatever the model would rather say.

Through llguidance, which says after any units which units may follow: it alone of the kept libraries has no
dependency, one wheel for every Python of a platform, takes all three kinds of constraint, and rolls back (xgrammar
needs transformers and triton to be installed; outlines-core has no grammars). It sees units as bytes, so that a
character spelt in byte pieces is as good as one with a piece of its own. Installed with the extra `constrain`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jogak.decoding.answers import Codec
from jogak.decoding.settings import Sampling
from jogak.errors import UserError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


class _Units:
    """A codec as llguidance asks for it."""

    def __init__(self, codec: Codec) -> None:
        pieces = codec.spelling.pieces
        self.eos_token_id, self.bos_token_id = codec.eos_id, codec.bos_id
        self.special_token_ids = [n for n, piece in enumerate(pieces) if not piece or n == codec.eos_id]
        self.tokens = [piece or f"<{n}>".encode() for n, piece in enumerate(pieces)]
        self._single = {piece[0]: n for n, piece in enumerate(pieces) if len(piece) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        """Any spelling: it is only asked for parts that must come, which we do not use."""
        raw = text if isinstance(text, bytes) else text.encode()
        return [self._single[byte] for byte in raw if byte in self._single]


class Constraints:
    """What makes constraints for the answers of one codec; the work for its vocabulary is done once."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    @cached_property
    def tokenizer(self) -> "LLTokenizer":
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError:
            raise UserError(
                "regex, json_schema and grammar need llguidance; install it with pip install 'jogak[constrain]'"
            ) from None
        if self.codec.eos_id >= len(self.codec.spelling.pieces):
            raise UserError("regex, json_schema and grammar need a tokenizer, and an end mark that closes the answer")
        return LLTokenizer(TokenizerWrapper(_Units(self.codec)), eos_token=self.codec.eos_id)

    def of(self, given: Sampling, before: Sequence[int] = ()) -> "Constraint | None":
        """The constraint that `given` asks for, if any; before: the prompt.

        Raises: UserError for an expression, schema or grammar that cannot be used, with the reason.
        """
        if not given.constrained:
            return None
        tokenizer = self.tokenizer
        name, grammar = _grammar(given)
        spelling = self.codec.spelling
        if spelling.strips and not spelling.written(before):
            grammar = _after_a_space(grammar)  # the codec drops it from the text again
        return Constraint(_matcher(tokenizer, name, grammar), name, self.codec.eos_id)


def _matcher(tokenizer: "LLTokenizer", name: str, grammar: Mapping[str, Any]) -> "LLMatcher":
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, json.dumps(grammar), log_level=0)
    if matcher.is_error():
        raise UserError(f"{name} cannot be used: {_reason(matcher)}")
    return matcher


def _reason(matcher: "LLMatcher") -> str:
    """What a matcher says of its error, without its state and the grammar's lines."""
    told = matcher.get_error().split("\n<state>")[0].split("\n   1 |")[0]
    return " ".join(told.split()) or "unknown reason"


def _grammar(given: Sampling) -> tuple[str, dict[str, Any]]:
    """Which constraint is asked for, as llguidance writes it."""
    if given.regex is not None:
        from llguidance import LLMatcher

        return "regex", {"grammars": json.loads(LLMatcher.grammar_from_regex(given.regex))["grammars"]}
    if given.grammar is not None:
        return "grammar", {"grammars": [{"lark_grammar": given.grammar}]}
    schema = given.json_schema
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise UserError(
                f"json_schema cannot be used: not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
            ) from None
    if not isinstance(schema, Mapping | bool):
        raise UserError(f"json_schema cannot be used: a schema is an object, got {schema!r}")
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if isinstance(schema, Mapping):
        schema = {"x-guidance": options, **schema}
    return "json_schema", {"grammars": [{"json_schema": schema}]}


def _after_a_space(grammar: Mapping[str, Any]) -> dict[str, Any]:
    inner = {**grammar["grammars"][0], "name": "answer"}
    return {"grammars": [{"name": "whole", "lark_grammar": 'start: " " @answer'}, inner]}


class Constraint:
    """The rule (processors.Rule) of one answer. It follows whichever units it is asked about: it goes back to where
    they part from those it saw last."""

    def __init__(self, matcher: "LLMatcher", name: str, end: int) -> None:
        self.matcher, self.name, self.end = matcher, name, end
        self._seen: list[int] = []

    def allowed(self, answer: Sequence[int]) -> Tensor:
        """bool [V]: units after which the answer can still become what it must be; the end mark where it is. None of
        them where it cannot any more."""
        if not self._follow(answer):
            return torch.zeros(self.end + 1, dtype=torch.bool)
        packed = torch.frombuffer(bytearray(self.matcher.compute_bitmask()), dtype=torch.uint8)
        bits = (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        if self.matcher.is_error():
            raise UserError(f"{self.name} cannot be followed any further: {_reason(self.matcher)}")
        return bits.flatten().bool()

    def complete(self, answer: Sequence[int]) -> bool:
        """Whether the answer is what it must be, as it stands."""
        return self._follow(answer) and self.matcher.is_accepting()

    def _follow(self, answer: Sequence[int]) -> bool:
        """Go to where the answer stands; whether that can be reached."""
        if self.end in answer:
            return False
        same = 0
        for ours, theirs in zip(self._seen, answer, strict=False):
            if ours != theirs:
                break
            same += 1
        if same < len(self._seen):
            self.matcher.rollback(len(self._seen) - same)
            del self._seen[same:]
        new = list(answer[same:])
        count = self.matcher.try_consume_tokens(new) if new else 0
        self._seen += new[:count]
        return count == len(new)
