"""What training asks of a task and of the loader that feeds it, and what everything else asks of a trained model.

A task is a module of this package with two functions: `build(recipe, *, start=None)` gives what is trained, a Task;
`load(recipe, folder)` gives the same model at work, a Trained.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from jogak import config
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.models import Model

if TYPE_CHECKING:
    from jogak.data.batch import Batch


class Loader(Protocol):
    """Endless batches in an order that only its seed decides; it can say where it is, and go on from there."""

    def __next__(self) -> "Batch": ...

    def state_dict(self) -> Mapping[str, int]:
        """The position in the data: what `load_state_dict` needs so that the same batches follow."""
        ...

    def load_state_dict(self, state: Mapping[str, int], /) -> None: ...


class Task(Protocol):
    """A model, the data it learns from, and how well it does: what `jogak.training.fit` is given."""

    name: str
    recipe: config.Recipe
    model: nn.Module
    metric: str  # the figure of `validate` that chooses the best checkpoint: higher is better; "-NAME": lower is

    def loader(self, rank: int, world: int) -> Loader:
        """The training batches of process `rank` of `world`."""
        ...

    def loss(self, batch: "Batch", /) -> tuple[Tensor, Tensor]:
        """Sums over the batch's real targets: the loss that is trained, and the plain negative log-likelihood."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures on the held-out validation examples with the model as it stands; "loss" and `metric` among them."""
        ...

    def samples(self, count: int) -> list[dict[str, str]]:
        """At most `count` held-out examples as {"source", "reference", "output"}."""
        ...

    def save_codec(self, folder: Path) -> None:
        """Put what the codec needs (tokenizer.json) into the run's folder."""
        ...


# ---------------------------------------------------------------- a trained model at work

# Given what is being done and how much of it there is, a block in which each count done is told.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


class Answer(Protocol):
    """One answer to one input: `score` is what answers are ranked by, higher first."""

    @property
    def text(self) -> str: ...

    @property
    def score(self) -> float: ...

    @property
    def faults(self) -> Sequence[str]:
        """What the person who asked must be warned of: "the translation lacks %s"."""
        ...

    def plain(self) -> dict[str, object]:
        """All that is known of it, as plain data."""
        ...


class Predictor(Protocol):
    """Inputs to answers, with settings of its own for how they are searched for.

    name: what an answer is called where it is written as data ("translation"). fills_catalogues: whether a .po can be
    filled with answers.
    """

    @property
    def name(self) -> str: ...

    @property
    def fills_catalogues(self) -> bool: ...

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = ...
    ) -> Sequence[Sequence[Answer]]:
        """The best answers to each text, best first; where: what errors call each text; done: told each count."""
        ...

    def fits(self, text: str) -> bool:
        """Whether the text is no longer than what the model can take."""
        ...


@dataclass(frozen=True)
class Result:
    """What a model made of one input: the best answer, its score, every answer asked for, seconds taken."""

    value: str
    score: float
    answers: tuple[Answer, ...]
    seconds: float


def results(predictor: Predictor, x: str | Sequence[str]) -> Result | list[Result]:
    """What a predictor makes of one text, or of many at once."""
    texts = [x] if isinstance(x, str) else list(x)
    start = perf_counter()
    found = predictor(texts)
    seconds = (perf_counter() - start) / max(1, len(texts))
    made = [Result(a[0].text, a[0].score, tuple(a), seconds) for a in found]
    return made[0] if isinstance(x, str) else made


class Evaluation(Protocol):
    """Figures of a model beside its baselines."""

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        ...

    def to_rows(self) -> list[dict[str, str]]:
        """One for each held-out example: what was asked, what was wanted, what came."""
        ...

    def table(self) -> str:
        """As lines to read, intervals included."""
        ...

    def shown(self, count: int) -> str:
        """`count` of the examples, as lines to read; "" for none."""
        ...


@dataclass(frozen=True)
class Trace:
    """What a model reads while it answers one input: what is looked at. Labels are one for each id; see looking."""

    source_ids: Sequence[int] = ()
    target_ids: Sequence[int] = ()
    source_labels: Sequence[str] = ()
    target_labels: Sequence[str] = ()
    written_labels: Sequence[str] = ()
    output: str = ""


class Trained(Protocol):
    """A trained model with what its task needs; `field` is what is read of an input that is a record."""

    recipe: config.Recipe
    module: Model
    codec: Any

    @property
    def field(self) -> str: ...

    def predictor(self, **settings: Any) -> Predictor:  # noqa: ANN401  # numbers and texts
        """The model as a function of inputs; settings: fields of config.Decode, None = as the run says.

        Raises: UserError for a setting that means nothing here.
        """
        ...

    def evaluate(self, data: Sequence[str] | None, progress: Progress, **settings: Any) -> Evaluation:  # noqa: ANN401
        """Measure on the run's own held-out test, or on all of the sources `data`.

        Raises: UserError if there is nothing to measure on.
        """
        ...

    def trace(self, text: str) -> Trace:
        """What the model reads while it answers `text`."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A trained model that writes."""

    def generator(self, cache: PrefixCache | None = None, draft: Model | None = None) -> Generator:
        """The model ready to write by any way of decoding; see Generator for cache and draft.

        Raises: UserError for a draft that does not fit.
        """
        ...
