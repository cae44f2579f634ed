"""Translation: text in one language to text in another, with an encoder-decoder.

Source of the loss and of the search: Vaswani et al. 2017 (1706.03762) sections 5.4 and 6.1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jogak import config, models
from jogak.codecs.text import Encoded, TextCodec
from jogak.data.batch import IGNORE, Batch, Units
from jogak.data.batching import Loader, read_once
from jogak.data.sources import Row, read_rows
from jogak.data.split import Split, split_rows
from jogak.data.splitting import Splitting
from jogak.data.tokens import Limits, TokenStore
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.decoding.search import Hypothesis, Settings, search, together
from jogak.decoding.settings import of_recipe
from jogak.errors import UserError
from jogak.models import EncoderDecoder
from jogak.tasks._decode import as_draft, decode_with, is_search
from jogak.tasks._evaluation import Evaluation
from jogak.tasks._evaluation import evaluate as measure
from jogak.tasks._generate import Sampler
from jogak.tasks._loss import token_loss
from jogak.tasks._scores import chrf
from jogak.tasks._start import copy_weights
from jogak.tasks.contract import Progress, Trace

VALIDATION_TOKENS = 8000  # padded positions in one batch when only the loss is measured


@dataclass(frozen=True)
class Translation:
    """One answer: its text and ids, its score (length-normalised log-probability) and log-probability.

    ended: False where max_length cut it. lost: placeholders of the source that the answer does not have.
    """

    text: str
    ids: tuple[int, ...]
    score: float
    log_prob: float
    ended: bool
    lost: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        return [f"the translation lacks {placeholder}" for placeholder in self.lost]

    def plain(self) -> dict[str, object]:
        told: dict[str, object] = {"text": self.text, "score": self.score, "log_prob": self.log_prob}
        if not self.ended:
            told["cut"] = True
        return {**told, "lost": list(self.lost)} if self.lost else told


class Translator:
    """Texts to translations, with a trained model and its codec (see tasks.contract.Predictor)."""

    name = "translation"
    fills_catalogues = True

    def __init__(self, model: EncoderDecoder, codec: TextCodec, decode: config.Decode, max_source: int) -> None:
        self.model, self.codec, self.decode, self.max_source = model, codec, decode, max_source

    def __call__(
        self,
        texts: Sequence[str],
        where: Sequence[str] = (),
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Translation]]:
        """The n best translations of each text, best first; `done` is told how many texts each batch finished.

        where: what errors call each text ("file:line"). Texts of like length are translated together, which changes
        none of them.

        Raises: UserError for a text that is empty or longer than what the model was trained for.
        """
        names = where or [f"text {number}" for number in range(1, len(texts) + 1)]
        encoded = [self._encode(text, name) for text, name in zip(texts, names, strict=True)]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        found: list[list[Translation]] = [[] for _ in texts]
        resting = self.model.training
        self.model.eval()
        try:
            batch = together(self.model, self.decode.batch, self.decode.beam)
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                for index, answers in zip(chosen, self._translate([encoded[i] for i in chosen]), strict=True):
                    found[index] = answers
                done(len(chosen))
        finally:
            self.model.train(resting)
        return found

    def best(self, texts: Sequence[str]) -> list[str]:
        """The best translation of each text."""
        return [answers[0].text for answers in self(texts)]

    def fits(self, text: str) -> bool:
        """Whether the text is no longer than what the model was trained for."""
        return len(self.codec.encode_source(text).ids) <= self.max_source

    def _encode(self, text: str, name: str) -> Encoded:
        if not text.strip():
            raise UserError(f"{name}: is empty; give something to translate")
        encoded = self.codec.encode_source(text)
        if len(encoded.ids) > self.max_source:
            shown = text if len(text) <= 40 else text[:37] + "..."
            raise UserError(
                f"{name}: '{shown}' has {len(encoded.ids)} tokens and the model was trained for at most "
                f"{self.max_source}; split it into sentences"
            )
        return encoded

    def _translate(self, sources: Sequence[Encoded]) -> list[list[Translation]]:
        units = pad([[*s.ids, self.codec.eos_id] for s in sources], self.codec.pad_id, self.device)
        settings = Settings(
            end=self.codec.eos_id,
            max_length=self.decode.max_length,
            beam=self.decode.beam,
            length_penalty=self.decode.length_penalty,
            n_best=self.decode.beam,
            forbidden=tuple(tuple(self.codec.forbidden(s.slots)) for s in sources),
        )
        prompt = torch.full((len(sources), 1), self.codec.bos_id, device=self.device)
        with torch.inference_mode():
            context = self.model.read(units.ids, units.mask)
            found = search(self.model, prompt, context, settings)
        return [
            self._answers(source, hypotheses)[: self.decode.n_best]
            for source, hypotheses in zip(sources, found, strict=True)
        ]

    def _answers(self, source: Encoded, hypotheses: Sequence[Hypothesis]) -> list[Translation]:
        """Translations, those that keep every placeholder first, then by score."""
        answers = [
            Translation(
                self.codec.decode(h.ids, source.slots),
                h.ids,
                h.score,
                h.log_prob,
                h.ended,
                tuple(self.codec.lost(h.ids, source.slots)),
            )
            for h in hypotheses
        ]
        return sorted(answers, key=lambda a: (len(a.lost), -a.score))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def pad(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> Units:
    """Rows of ids, padded on the right: [B T] and its mask, which is None where all rows are as long."""
    longest = max(len(r) for r in rows)
    ids = torch.tensor([[*r, *[pad_id] * (longest - len(r))] for r in rows], device=device)
    lengths = torch.tensor([len(r) for r in rows], device=device)
    if int(lengths.min()) == longest:
        return Units(ids)
    return Units(ids, torch.arange(longest, device=device) < lengths.unsqueeze(1))


def read_split(data: config.Data) -> Split:
    """The rows that `data` names, some of them held out by the hash of their target.

    Raises: UserError naming file and line of what cannot be read.
    """
    return split_rows(partial(read_rows, data.sources, data.source, data.target), data.test, data.validation)


def load(recipe: config.Recipe, folder: Path) -> "TrainedTranslation":
    """The task's model and codec as the run in `folder` describes them, without the trained weights."""
    codec = TextCodec.load(folder)
    return TrainedTranslation(recipe, _model(recipe, codec), codec)


def _model(recipe: config.Recipe, codec: TextCodec) -> EncoderDecoder:
    if recipe.model.source_vocab_size not in (None, codec.vocab_size):
        raise UserError("model.source_vocab_size: one codec reads both sides of a translation; remove it")
    model = models.build(recipe.model, codec.vocab_size)
    if not isinstance(model, EncoderDecoder):
        raise UserError(f"model.topology: translation needs 'encoder-decoder', got '{recipe.model.topology}'")
    return model


def build(recipe: config.Recipe, *, start: tuple[EncoderDecoder, TextCodec] | None = None) -> "Translate":
    """The task of a recipe: data split and encoded, codec trained, model drawn from `train.seed`.

    start: a trained model and its codec to go on from. Raises: UserError for what does not fit.
    """
    if recipe.data.validation < 1:
        raise UserError("data.validation: translation needs at least 1 held-out pair to choose checkpoints by")
    if recipe.train.pack and recipe.train.bpe_dropout:
        raise UserError("train.bpe_dropout: it makes examples longer, which packed rows have no room for; set one to 0")
    of_recipe(recipe.decode)  # refuses now what it would refuse later
    split = read_split(recipe.data)
    codec = TextCodec.train(_texts(split), recipe.codec) if start is None else start[1]
    limits = Limits(recipe.data.max_length, recipe.data.drop_longer_than)
    store = TokenStore.cached(Path(recipe.run) / "data", split.train, codec, limits, split.digest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = _model(recipe, codec)
    if start is not None:
        copy_weights(start[0], model)
    return Translate(recipe, model, codec, store, split.validation)


def _texts(split: Split) -> Iterator[str]:
    for row in split.train():
        yield row.source
        yield row.target


class Translate:
    """What training asks of translation (see tasks.contract.Task)."""

    name = "translate"
    metric = "chrF"

    def __init__(
        self,
        recipe: config.Recipe,
        model: EncoderDecoder,
        codec: TextCodec,
        store: TokenStore,
        validation: Sequence[Row],
    ) -> None:
        """store: encoded training pairs. validation: held-out pairs as text."""
        self.recipe, self.model, self.codec, self.store, self.validation = recipe, model, codec, store, validation
        # While training, answers are the likeliest unit at each step: a beam says the same at many times the cost.
        greedy = recipe.decode.model_copy(update={"beam": 1, "n_best": 1})
        self.translator = Translator(model, codec, greedy, recipe.data.max_length)

    def loader(self, rank: int, world: int) -> Loader:
        train = self.recipe.train
        return Loader(
            self.store,
            batch_tokens=train.batch_tokens,
            seed=train.seed,
            rank=rank,
            world=world,
            pack=train.pack,
            splitting=self._splitting(),
            **self._special,
        )

    def _splitting(self) -> Splitting | None:
        rate = self.recipe.train.bpe_dropout
        return Splitting(self.codec.parts(), rate, self.recipe.data.max_length) if rate else None

    @property
    def _special(self) -> dict[str, int]:
        return {"pad_id": self.codec.pad_id, "bos_id": self.codec.bos_id, "eos_id": self.codec.eos_id}

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the real targets of the label-smoothed loss and of -log p(target)."""
        return self._loss(batch, self.recipe.train.label_smoothing)

    def _loss(self, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        # A compiled model would be compiled anew for every length of a row.
        return pair_loss(self.model, batch, smoothing, padded=self.recipe.train.compile)

    def validate(self) -> dict[str, float]:
        """loss: -log p of a target in nats, mean over the validation targets; chrF of greedy answers."""
        if not self.validation:
            raise UserError("there are no validation examples; set data.validation to at least 1")
        outputs = self.translator.best([row.source for row in self.validation])
        return {"loss": self._validation_loss(), "chrF": chrf(outputs, [row.target for row in self.validation])}

    def _validation_loss(self) -> float:
        store = TokenStore.of(self.codec.encode_pairs([(row.source, row.target) for row in self.validation]))
        total, targets = 0.0, 0
        with torch.no_grad():
            for batch in read_once(store, batch_tokens=VALIDATION_TOKENS, **self._special):
                total += float(self._loss(batch.to(self.translator.device), 0.0)[1])
                targets += batch.real_targets
        return total / targets

    def samples(self, count: int) -> list[dict[str, str]]:
        rows = self.validation[:count]
        outputs = self.translator.best([row.source for row in rows])
        return [
            {"source": row.source, "reference": row.target, "output": output}
            for row, output in zip(rows, outputs, strict=True)
        ]

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)


def pair_loss(model: EncoderDecoder, batch: Batch, smoothing: float, *, padded: bool = False) -> tuple[Tensor, Tensor]:
    """Sums over the real targets of the label-smoothed loss and of -log p(target).

    Training on a CPU reads a batch without its padding where that is faster; padded: never.
    """
    learns, here = torch.is_grad_enabled() and not padded, batch.targets.device.type == "cpu"
    if learns and here and batch.padded and model.in_a_row(batch.longest):
        batch = batch.in_a_row()
    assert batch.source is not None
    context = model.read(batch.source.ids, batch.source.mask, batch.source.segments)
    # Padding stands behind the targets, where a causal decoder cannot see it and nothing is predicted: no mask.
    hidden, _ = model.hidden(batch.units.ids, None, replace(context, segments=batch.units.segments))
    if batch.real_targets == batch.targets.numel():
        return token_loss(model, hidden.flatten(0, 1), batch.targets.flatten(), smoothing)
    real = batch.targets != IGNORE
    return token_loss(model, hidden[real], batch.targets[real], smoothing)


class TrainedTranslation:
    """A translator at work (see tasks.contract.Trained)."""

    def __init__(self, recipe: config.Recipe, module: EncoderDecoder, codec: TextCodec) -> None:
        self.recipe, self.module, self.codec = recipe, module, codec

    @property
    def field(self) -> str:
        return self.recipe.data.source

    def predictor(self, **settings: Any) -> Translator | Sampler:  # noqa: ANN401  # texts and numbers
        decode, longest = decode_with(self.recipe.decode, **settings), self.recipe.data.max_length
        if is_search(decode):
            return Translator(self.module, self.codec, decode, longest)
        return Sampler(self.generator(), of_recipe(decode), decode.batch, longest)

    def generator(self, cache: PrefixCache | None = None, draft: models.Model | None = None) -> Generator:
        """The model ready to write by any way of decoding; see Generator for cache and draft."""
        given = self.recipe.model
        longest = given.max_length if given.position == "learned" else None
        return Generator(self.module, self.codec, longest=longest, cache=cache, draft=as_draft(draft))

    def evaluate(self, data: Sequence[str] | None, progress: Progress, **settings: Any) -> Evaluation:  # noqa: ANN401
        """chrF and BLEU beside copying the source and looking it up in the training pairs."""
        given = self.recipe.data
        try:
            split = read_split(given)
            held_out, training = split.test, list(split.train())
        except UserError:
            if data is None:
                raise
            held_out, training = [], []  # the training data is gone: measured without the baseline that needs it
        rows: Sequence[Row] = held_out if data is None else list(read_rows(data, given.source, given.target))
        with progress("translating", len(rows)) as done:
            return measure(self.predictor(**settings), rows, training, done=done)

    def trace(self, text: str) -> Trace:
        source = self.codec.encode_source(text)
        answer = self.predictor()([text], ["the text"])[0][0]
        written = [*answer.ids, self.codec.eos_id]
        read = [self.codec.bos_id, *written[:-1]]
        ids = [*source.ids, self.codec.eos_id]
        labels = [self.codec.labels(row, source.slots) for row in (ids, read, written)]
        return Trace(ids, read, *labels, output=answer.text)
