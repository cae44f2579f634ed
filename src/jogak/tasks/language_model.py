"""Language modelling: the next unit of running text, with a decoder; in use, text that goes on where a text ends.

Bits per byte = sum of -log2 p(unit) / bytes of the text, the ends of documents included, whatever the codec.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jogak import config, models
from jogak.codecs.text import TextCodec, nfc
from jogak.data.batch import Batch
from jogak.data.documents import Document, TextSplit, read_documents, split_text
from jogak.data.tokens import Limits, TokenStore
from jogak.data.windows import WindowLoader, read_windows
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.decoding.search import Hypothesis, Settings, search, together
from jogak.decoding.settings import of_recipe
from jogak.errors import UserError
from jogak.mixers import EMPTY, Context
from jogak.models import Decoder, EncoderDecoder
from jogak.tasks._bits import Bits, measure
from jogak.tasks._decode import as_draft, decode_with, is_search
from jogak.tasks._generate import Sampler
from jogak.tasks._loss import token_loss
from jogak.tasks._start import copy_weights
from jogak.tasks.contract import Progress, Trace

MEASURED_TOKENS = 8192  # positions of one batch when only the loss is measured
NAME = "language_model"


@dataclass(frozen=True)
class Continuation:
    """One answer: the text that follows, its ids, its score (length-normalised log-probability), log-probability.

    ended: False where max_length cut it.
    """

    text: str
    ids: tuple[int, ...]
    score: float
    log_prob: float
    ended: bool

    @property
    def faults(self) -> list[str]:
        return []

    def plain(self) -> dict[str, object]:
        told: dict[str, object] = {"text": self.text, "score": self.score, "log_prob": self.log_prob}
        return told if self.ended else {**told, "cut": True}


class Writer:
    """Texts to what follows them, with a trained model and its codec (see tasks.contract.Predictor)."""

    name = "continuation"
    fills_catalogues = False

    def __init__(self, model: Decoder, codec: TextCodec, decode: config.Decode, longest: int | None = None) -> None:
        """longest: positions that the model has places for; None: any number."""
        self.model, self.codec, self.decode, self.longest = model, codec, decode, longest

    def __call__(
        self,
        texts: Sequence[str],
        where: Sequence[str] = (),
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Continuation]]:
        """The n best continuations of each text, best first. What is written together changes none of them.

        Raises: UserError for a text that is longer than what the model has places for.
        """
        names = where or [f"text {number}" for number in range(1, len(texts) + 1)]
        prompts = [self._prompt(text, name) for text, name in zip(texts, names, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i]))
        found: list[list[Continuation]] = [[] for _ in texts]
        resting = self.model.training
        self.model.eval()
        try:
            batch = together(self.model, self.decode.batch, self.decode.beam)
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                for index, answers in zip(chosen, self._write([prompts[i] for i in chosen]), strict=True):
                    found[index] = answers
                done(len(chosen))
        finally:
            self.model.train(resting)
        return found

    def fits(self, text: str) -> bool:
        return self._fits(1 + len(self.codec.encode(text)))

    def _fits(self, units: int) -> bool:
        return self.longest is None or units + self.decode.max_length <= self.longest

    def _prompt(self, text: str, name: str) -> list[int]:
        ids = [self.codec.bos_id, *self.codec.encode(text)]
        if not self._fits(len(ids)):
            raise UserError(
                f"{name}: has {len(ids)} tokens, and with decode.max_length={self.decode.max_length} more they are "
                f"beyond the {self.longest} positions of the model; shorten it, or ask for less with --max-length"
            )
        return ids

    def _write(self, prompts: Sequence[Sequence[int]]) -> list[list[Continuation]]:
        """Prompts stand at the right, so that all of them end where writing begins."""
        device = next(self.model.parameters()).device
        longest = max(map(len, prompts))
        padded = [[self.codec.pad_id] * (longest - len(p)) + list(p) for p in prompts]
        lengths = torch.tensor([len(p) for p in prompts], device=device).unsqueeze(1)
        mask = torch.arange(longest, device=device) >= longest - lengths
        settings = Settings(
            end=self.codec.eos_id,
            max_length=self.decode.max_length,
            beam=self.decode.beam,
            length_penalty=self.decode.length_penalty,
            n_best=self.decode.n_best,
            forbidden=(tuple(self.codec.forbidden({})),) * len(prompts),
        )
        context = EMPTY if bool(mask.all()) else Context(mask=mask)
        found = search(self.model, torch.tensor(padded, device=device), context, settings)
        return [[self._answer(h, p) for h in ours] for ours, p in zip(found, prompts, strict=True)]

    def _answer(self, found: Hypothesis, prompt: Sequence[int]) -> Continuation:
        text = self.codec.spelling.text(found.ids, prompt)  # a space between the two is part of it
        return Continuation(text, found.ids, found.score, found.log_prob, found.ended)


class _Documents:
    """A codec as a store of documents asks for it: no source, and a target that ends in the end mark."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec, self.vocab_size, self.digest = codec, codec.vocab_size, f"documents {codec.digest}"

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        return [([], [*ids, self.codec.eos_id]) for ids in self.codec.encode_all([text for _, text in pairs])]


def read_split(data: config.Data) -> TextSplit:
    """The documents that `data` names; its end is held out, `validation` and `test` windows of `max_length` bytes.

    Raises: UserError naming file and line of what cannot be read.
    """
    held_out = (data.max_length * data.validation, data.max_length * data.test)
    return split_text(lambda: read_documents(data.sources, data.text), *held_out)


def store_of(codec: TextCodec, documents: Sequence[Document]) -> TokenStore:
    """The documents encoded, in memory."""
    return TokenStore.of(_Documents(codec).encode_pairs([("", d.text) for d in documents]))


def _model(recipe: config.Recipe, codec: TextCodec) -> Decoder:
    model = models.build(recipe.model, codec.vocab_size)
    if not isinstance(model, Decoder) or isinstance(model, EncoderDecoder):
        raise UserError(f"model.topology: a language model needs 'decoder', got '{recipe.model.topology}'")
    if recipe.model.position == "learned" and recipe.model.max_length < recipe.data.max_length:
        raise UserError(
            f"model.max_length: {recipe.model.max_length} learned positions are fewer than "
            f"data.max_length={recipe.data.max_length}; raise it"
        )
    return model


def build(recipe: config.Recipe, *, start: tuple[Decoder, TextCodec] | None = None) -> "LanguageModel":
    """The task of a recipe: text split and encoded, codec trained, model drawn from `train.seed`.

    start: a trained model and its codec to go on from. Raises: UserError for what does not fit.
    """
    if recipe.data.validation < 1:
        raise UserError("data.validation: a language model needs at least 1 held-out window to choose checkpoints by")
    if recipe.train.bpe_dropout:
        raise UserError("train.bpe_dropout: windows of running text are of one spelling; set it to 0")
    of_recipe(recipe.decode)  # refuses now what it would refuse later
    split = read_split(recipe.data)
    codec = TextCodec.train(_texts(split), recipe.codec) if start is None else start[1]
    store = TokenStore.cached(Path(recipe.run) / "data", split.train, _Documents(codec), Limits(), split.digest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = _model(recipe, codec)
    if start is not None:
        copy_weights(start[0], model)
    return LanguageModel(recipe, model, codec, store, split.validation)


def _texts(split: TextSplit) -> Iterator[str]:
    return (row.target for row in split.train())


def load(recipe: config.Recipe, folder: Path) -> "TrainedLanguageModel":
    """The task's model and codec as the run in `folder` describes them, without the trained weights."""
    codec = TextCodec.load(folder)
    return TrainedLanguageModel(recipe, _model(recipe, codec), codec)


def bits(
    model: Decoder,
    codec: TextCodec,
    documents: Sequence[Document],
    length: int,
    *,
    apart: bool,
    done: Callable[[int], None] = lambda count: None,
) -> list[tuple[float, int]]:
    """(bits, units) of each window of the documents, read in windows of `length`, nothing carried between them."""
    store = store_of(codec, documents)
    device = next(model.parameters()).device
    found: list[tuple[float, int]] = []
    for batch in read_windows(store, length=length, batch_tokens=MEASURED_TOKENS, bos_id=codec.bos_id, apart=apart):
        nll = _nll(model, batch.to(device)).sum(1) / math.log(2)
        found += [(row, batch.targets.shape[1]) for row in nll.tolist()]
        done(batch.targets.numel())
    return found


def _nll(model: Decoder, batch: Batch) -> Tensor:
    """-log p of every target, in nats: [B T]."""
    hidden, _ = model.hidden(batch.units.ids, None, Context(segments=batch.units.segments))
    logits = model.head(hidden).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view_as(
        batch.targets
    )


class LanguageModel:
    """What training asks of language modelling (see tasks.contract.Task)."""

    name = NAME
    metric = "-bits_per_byte"

    def __init__(
        self,
        recipe: config.Recipe,
        model: Decoder,
        codec: TextCodec,
        store: TokenStore,
        validation: Sequence[Document],
    ) -> None:
        """store: encoded training documents. validation: what is held out for choosing checkpoints."""
        self.recipe, self.model, self.codec, self.store, self.validation = recipe, model, codec, store, validation
        greedy = recipe.decode.model_copy(update={"beam": 1, "n_best": 1})
        self.writer = Writer(model, codec, greedy, places(recipe.model))

    def loader(self, rank: int, world: int) -> WindowLoader:
        train = self.recipe.train
        return WindowLoader(
            self.store,
            length=self.recipe.data.max_length,
            batch_tokens=train.batch_tokens,
            seed=train.seed,
            bos_id=self.codec.bos_id,
            apart=train.pack,
            rank=rank,
            world=world,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the targets of the (label-smoothed) loss and of -log p(target)."""
        hidden, _ = self.model.hidden(batch.units.ids, None, Context(segments=batch.units.segments))
        smoothing = self.recipe.train.label_smoothing
        return token_loss(self.model, hidden.flatten(0, 1), batch.targets.flatten(), smoothing)

    def validate(self) -> dict[str, float]:
        """loss: -log p of a unit in nats; bits_per_byte of the validation text."""
        with torch.no_grad():
            found = bits(
                self.model, self.codec, self.validation, self.recipe.data.max_length, apart=self.recipe.train.pack
            )
        total, units = sum(b for b, _ in found), sum(n for _, n in found)
        return {"loss": total * math.log(2) / units, "bits_per_byte": total / byte_count(self.validation)}

    def samples(self, count: int) -> list[dict[str, str]]:
        """How the model goes on in the middle of a line of the validation text, beside how the text does."""
        lines = [line for d in self.validation for line in d.text.splitlines() if len(line) >= 8]
        chosen = [lines[n * len(lines) // count] for n in range(min(count, len(lines)))]
        halves = [(line[: len(line) // 2], line[len(line) // 2 :]) for line in chosen]
        short = self.writer.decode.model_copy(update={"max_length": min(64, self.writer.decode.max_length)})
        writer = Writer(self.model, self.codec, short, self.writer.longest)
        answers = writer([source for source, _ in halves]) if halves else []
        return [
            {"source": source, "reference": rest, "output": found[0].text}
            for (source, rest), found in zip(halves, answers, strict=True)
        ]

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)


def places(given: config.Model) -> int | None:
    """How many positions a model can tell apart; None: any number."""
    return given.max_length if given.position == "learned" else None


def byte_count(documents: Sequence[Document]) -> int:
    """Bytes of UTF-8 of the texts as the codec reads them (NFC)."""
    return sum(len(nfc(d.text).encode()) for d in documents)


class TrainedLanguageModel:
    """A language model at work (see tasks.contract.Trained)."""

    def __init__(self, recipe: config.Recipe, module: Decoder, codec: TextCodec) -> None:
        self.recipe, self.module, self.codec = recipe, module, codec

    @property
    def field(self) -> str:
        return self.recipe.data.text

    def predictor(self, **settings: Any) -> Writer | Sampler:  # noqa: ANN401  # texts and numbers
        decode = decode_with(self.recipe.decode, **settings)
        if is_search(decode):
            return Writer(self.module, self.codec, decode, places(self.recipe.model))
        return Sampler(self.generator(), of_recipe(decode), decode.batch)

    def generator(self, cache: PrefixCache | None = None, draft: models.Model | None = None) -> Generator:
        """The model ready to write by any way of decoding; see Generator for cache and draft."""
        longest = places(self.recipe.model)
        return Generator(self.module, self.codec, longest=longest, cache=cache, draft=as_draft(draft))

    def evaluate(self, data: Sequence[str] | None, progress: Progress, **settings: Any) -> Bits:  # noqa: ANN401
        """Bits per byte beside uniform, unigram and n-gram baselines that read the same training text."""
        if asked := sorted(name for name, value in settings.items() if value is not None):
            raise UserError(f"bits per byte are measured without decoding; leave out {', '.join(asked)}")
        given = self.recipe.data
        try:
            split = read_split(given)
            held_out, training = split.test, [row.target for row in split.train()]
        except UserError:
            if data is None:
                raise
            held_out, training = [], []  # the training data is gone: measured without the baselines that need it
        documents = held_out if data is None else list(read_documents(data, given.text))
        if not documents:
            raise UserError("there is no text to measure on; give sources, or hold some out with data.test")
        with progress("measuring", sum(len(d.text) for d in documents)) as done, torch.inference_mode():
            windows = bits(
                self.module, self.codec, documents, given.max_length, apart=self.recipe.train.pack, done=done
            )
        return measure([nfc(d.text) for d in documents], windows, training)

    def trace(self, text: str) -> Trace:
        """The text and what the model writes behind it, as it reads them."""
        answer = self.predictor()([text], ["the text"])[0][0]
        written = [*self.codec.encode(text), *answer.ids, self.codec.eos_id]
        read = [self.codec.bos_id, *written[:-1]]
        labels = self.codec.labels
        return Trace((), read, (), labels(read), labels(written), answer.text)
