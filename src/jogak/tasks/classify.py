"""Classification: one label for a text, with an encoder or a decoder and a pooling head.

Rows are kept as (source: the label, target: the text), so that what is held out is decided by a hash of the text, and
equal texts are always on one side.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jogak import config, models, storage
from jogak.codecs.text import TextCodec
from jogak.data.batch import IGNORE, Batch, Units
from jogak.data.batching import Loader
from jogak.data.sources import Row, read_rows
from jogak.data.split import Split, split_rows
from jogak.data.tokens import Limits, TokenStore
from jogak.errors import UserError
from jogak.models import Classifier
from jogak.tasks._classes import ClassEvaluation, Ints, accuracy, evaluate, macro_f1
from jogak.tasks._start import copy_weights
from jogak.tasks.contract import Progress, Trace

LABELS = "labels.json"
MEASURED = 64  # texts classified together


@dataclass(frozen=True)
class Labelled:
    """One answer: a label and its probability; cut: units of the text that were not read, 0 where all were."""

    text: str
    score: float
    cut: int = 0

    @property
    def faults(self) -> list[str]:
        return [f"the last {self.cut} units were not read; data.max_length is shorter"] if self.cut else []

    def plain(self) -> dict[str, object]:
        return {"text": self.text, "score": self.score, **({"cut": self.cut} if self.cut else {})}


class Labeller:
    """Texts to labels, with a trained model, its codec, and the labels' names (see tasks.contract.Predictor)."""

    name = "label"
    fills_catalogues = False

    def __init__(
        self, model: Classifier, codec: TextCodec, labels: Sequence[str], longest: int, n_best: int = 1
    ) -> None:
        """longest: units that are read of a text. n_best: labels told of each."""
        self.model, self.codec, self.labels, self.longest, self.n_best = model, codec, labels, longest, n_best

    def __call__(
        self,
        texts: Sequence[str],
        where: Sequence[str] = (),
        *,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Labelled]]:
        """The n likeliest labels of each text, likeliest first. What is read together changes none of them.

        Raises: UserError for an empty text.
        """
        names = where or [f"text {number}" for number in range(1, len(texts) + 1)]
        for text, name in zip(texts, names, strict=True):
            if not text.strip():
                raise UserError(f"{name}: is empty; give something to classify")
        ids = self.codec.encode_all(list(texts))
        found: list[list[Labelled]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        resting = self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), MEASURED):
                chosen = order[start : start + MEASURED]
                best = self._probabilities([ids[i] for i in chosen]).topk(min(self.n_best, len(self.labels)))
                for index, p, n in zip(chosen, best.values.tolist(), best.indices.tolist(), strict=True):
                    cut = max(0, len(ids[index]) - self.longest)
                    found[index] = [Labelled(self.labels[int(c)], q, cut) for c, q in zip(n, p, strict=True)]
                done(len(chosen))
        finally:
            self.model.train(resting)
        return found

    def fits(self, text: str) -> bool:
        return len(self.codec.encode(text)) <= self.longest

    def classes(self, texts: Sequence[str]) -> Ints:
        """The number of the likeliest class of each text."""
        number = {label: n for n, label in enumerate(self.labels)}
        return np.array([number[answers[0].text] for answers in self(texts)], dtype=np.int64)

    def _probabilities(self, rows: Sequence[Sequence[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        rows = [[self.codec.bos_id, *row[: self.longest]] for row in rows]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.codec.pad_id] * (longest - len(row)) for row in rows], device=device)
        mask = torch.arange(longest, device=device) < torch.tensor([[len(row)] for row in rows], device=device)
        with torch.inference_mode():
            return self.model(ids, mask).float().softmax(-1)


class LabelCodec:
    """A codec as a store of labelled texts asks for it: the label's number, and the ids of the text."""

    def __init__(self, codec: TextCodec, labels: Sequence[str]) -> None:
        self.codec, self.number = codec, {label: n for n, label in enumerate(labels)}
        self.vocab_size = max(codec.vocab_size, len(labels))
        self.digest = f"labels {codec.digest} {' '.join(map(repr, labels))}"

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        ids = self.codec.encode_all([text for _, text in pairs])
        return [([self.number[label]], row) for (label, _), row in zip(pairs, ids, strict=True)]


class LabelLoader:
    """The batches of a loader over such a store, with the label as the only target of each row, at its first place."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __next__(self) -> Batch:
        return labelled(next(self.loader))

    def state_dict(self) -> Mapping[str, int]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, int], /) -> None:
        self.loader.load_state_dict(state)


def labelled(batch: Batch) -> Batch:
    """A batch of (label, text) pairs as one of texts whose target is the label."""
    assert batch.source is not None
    targets = torch.full_like(batch.targets, IGNORE)
    targets[:, 0] = batch.source.ids[:, 0]
    return Batch(Units(batch.units.ids, batch.units.mask), targets, None, batch.rows, len(targets))


def read_split(data: config.Data) -> Split:
    """The labelled rows that `data` names, some of them held out by the hash of their text.

    Raises: UserError naming file and line of what cannot be read.
    """
    return split_rows(partial(read_rows, data.sources, data.label, data.text), data.test, data.validation)


def _model(recipe: config.Recipe, codec: TextCodec, labels: Sequence[str]) -> Classifier:
    head = recipe.model.head
    if head.kind != "classes":
        raise UserError(f"model.head.kind: classification needs 'classes', got '{head.kind}'")
    if head.classes not in (None, len(labels)):
        raise UserError(f"model.head.classes: {head.classes} is set and the data has {len(labels)}; set it to null")
    given = recipe.model.model_copy(update={"head": head.model_copy(update={"classes": len(labels)})})
    model = models.build(given, codec.vocab_size)
    if not isinstance(model, Classifier):
        raise UserError("model.topology: classification trains 'encoder' and 'decoder'; set one of them")
    return model


def build(recipe: config.Recipe, *, start: tuple[Classifier, TextCodec] | None = None) -> "Classify":
    """The task of a recipe: rows split and encoded, codec trained, model drawn from `train.seed`.

    start: a trained model and its codec to go on from. Raises: UserError for what does not fit.
    """
    if recipe.data.validation < 1:
        raise UserError("data.validation: classification needs at least 1 held-out text to choose checkpoints by")
    if recipe.train.pack:
        raise UserError("train.pack: a row has one label, so several texts cannot share it; set it to false")
    if recipe.train.bpe_dropout:
        raise UserError("train.bpe_dropout: classification reads every text in one spelling; set it to 0")
    split = read_split(recipe.data)
    labels = sorted({row.source for row in split.train()})
    if len(labels) < 2:
        raise UserError(f"the training data has {len(labels)} label, and a choice needs 2; check data.label")
    codec = TextCodec.train((row.target for row in split.train()), recipe.codec) if start is None else start[1]
    limits = Limits(recipe.data.max_length)
    store = TokenStore.cached(Path(recipe.run) / "data", split.train, LabelCodec(codec, labels), limits, split.digest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = _model(recipe, codec, labels)
    if start is not None:
        copy_weights(start[0], model)
    return Classify(recipe, model, codec, labels, store, split.validation)


def load(recipe: config.Recipe, folder: Path) -> "TrainedClassifier":
    """The task's model, codec and labels as the run in `folder` describes them, without the trained weights."""
    codec, labels = TextCodec.load(folder), storage.read_json(folder / LABELS)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{folder / LABELS}: damaged: a list of labels is expected; restore it")
    return TrainedClassifier(recipe, _model(recipe, codec, labels), codec, labels)


class Classify:
    """What training asks of classification (see tasks.contract.Task)."""

    name = "classify"
    metric = "accuracy"

    def __init__(
        self,
        recipe: config.Recipe,
        model: Classifier,
        codec: TextCodec,
        labels: Sequence[str],
        store: TokenStore,
        validation: Sequence[Row],
    ) -> None:
        """store: encoded training texts. validation: held-out rows as text."""
        self.recipe, self.model, self.codec, self.labels = recipe, model, codec, labels
        self.store, self.validation = store, validation
        self.labeller = Labeller(model, codec, labels, recipe.data.max_length)

    def loader(self, rank: int, world: int) -> LabelLoader:
        train, codec = self.recipe.train, self.codec
        return LabelLoader(
            Loader(
                self.store,
                batch_tokens=train.batch_tokens,
                seed=train.seed,
                pad_id=codec.pad_id,
                bos_id=codec.bos_id,
                eos_id=codec.eos_id,
                rank=rank,
                world=world,
            )
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums over the rows of the label-smoothed loss and of -log p(label)."""
        logits, wanted = self.model(batch.units.ids, batch.units.mask).float(), batch.targets[:, 0]
        nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        smoothing = self.recipe.train.label_smoothing
        if not smoothing:
            return nll, nll.detach()
        spread = -logits.log_softmax(-1).mean(-1).sum()
        return (1 - smoothing) * nll + smoothing * spread, nll.detach()

    def validate(self) -> dict[str, float]:
        """loss: -log p of the label in nats (of labels that training has); accuracy and macro F1 in points of 100."""
        number = {label: n for n, label in enumerate(self.labels)}
        rows = self.validation
        told = self.labeller.classes([row.target for row in rows])
        wanted = np.array([number.get(row.source, -1) for row in rows], dtype=np.int64)
        return {"loss": self._loss(), "accuracy": accuracy(told, wanted), "macro_f1": macro_f1(told, wanted)}

    def _loss(self) -> float:
        number = {label: n for n, label in enumerate(self.labels)}
        known = [row for row in self.validation if row.source in number]
        if not known:
            return 0.0
        total = 0.0
        ids = self.codec.encode_all([row.target for row in known])
        for start in range(0, len(known), MEASURED):
            p = self.labeller._probabilities(ids[start : start + MEASURED])
            wanted = [number[row.source] for row in known[start : start + MEASURED]]
            total -= float(p[range(len(wanted)), wanted].clamp_min(1e-30).log().sum())
        return total / len(known)

    def samples(self, count: int) -> list[dict[str, str]]:
        rows = self.validation[:count]
        answers = self.labeller([row.target for row in rows]) if rows else []
        return [
            {"source": row.target, "reference": row.source, "output": found[0].text}
            for row, found in zip(rows, answers, strict=True)
        ]

    def save_codec(self, folder: Path) -> None:
        self.codec.save(folder)
        storage.write_json(folder / LABELS, list(self.labels))


class TrainedClassifier:
    """A classifier at work (see tasks.contract.Trained)."""

    def __init__(self, recipe: config.Recipe, module: Classifier, codec: TextCodec, labels: Sequence[str]) -> None:
        self.recipe, self.module, self.codec, self.labels = recipe, module, codec, labels

    @property
    def field(self) -> str:
        return self.recipe.data.text

    def predictor(self, *, n_best: float | None = None, **settings: float | None) -> Labeller:
        if given := sorted(name for name, value in settings.items() if value is not None):
            option = f"--{given[0].replace('_', '-')}"
            raise UserError(f"a label is not searched for; leave out {option}")
        return Labeller(self.module, self.codec, self.labels, self.recipe.data.max_length, int(n_best or 1))

    def evaluate(self, data: Sequence[str] | None, progress: Progress, **settings: float | None) -> ClassEvaluation:
        """Accuracy and macro F1 beside the commonest class and naive Bayes over words."""
        given, labeller = self.recipe.data, self.predictor(**settings)
        try:
            split = read_split(given)
            held_out, training = split.test, list(split.train())
        except UserError:
            if data is None:
                raise
            held_out, training = [], []  # the training data is gone: measured without the baselines that need it
        rows: Sequence[Row] = held_out if data is None else list(read_rows(data, given.label, given.text))
        if not rows:
            raise UserError("there are no examples to measure on; give sources, or hold some out with data.test")
        texts = [row.target for row in rows]
        number = {label: n for n, label in enumerate(self.labels)}
        with progress("classifying", len(rows)) as done:
            answers = labeller(texts, [row.where for row in rows], done=done)
        told = np.array([number[found[0].text] for found in answers], dtype=np.int64)
        cut = sum(bool(found[0].cut) for found in answers)
        return evaluate(rows, told, self.labels, training, cut=cut)

    def trace(self, text: str) -> Trace:
        """The text as the model reads it, and its label."""
        answer = self.predictor()([text], ["the text"])[0][0]
        ids = [self.codec.bos_id, *self.codec.encode(text)[: self.recipe.data.max_length]]
        return Trace(ids, (), self.codec.labels(ids), output=answer.text)
