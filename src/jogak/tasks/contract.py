"""What training asks of a task, and of the loader that feeds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from jogak import config

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
    metric: str  # the figure of `validate` that chooses the best checkpoint; higher is better

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
