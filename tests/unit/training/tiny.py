"""A small real task: the next byte of Korean and English sentences, by a causal convolution with dropout."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from jogak import config, storage

IGNORE = -100
_TEXT = (
    "나는 어제 은행에 가서 돈을 찾았다. The bank of the river was green. 봄이 오면 꽃이 핀다. "
    "A patchwork is sewn from many pieces. 조각보는 여러 조각을 이어 만든다. Rain fell on the roof all night. "
    "아침에는 안개가 짙었다. She read the letter twice and smiled. 바람이 불어 문이 닫혔다. Bread and salt."
)
WIDTH = 24


@dataclass(frozen=True)
class Units:
    ids: Tensor
    mask: Tensor | None = None

    def to(self, device):
        return Units(self.ids.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class Batch:
    units: Units
    targets: Tensor
    rows: tuple[int, ...]
    real_targets: int
    source: None = None

    def to(self, device):
        return Batch(self.units.to(device), self.targets.to(device), self.rows, self.real_targets)


def examples(count: int = 120) -> list[list[int]]:
    """Stretches of the text, of different lengths."""
    data = _TEXT.encode()
    return [list(data[(7 * i) % 300 : (7 * i) % 300 + 9 + (5 * i) % 23]) for i in range(count)]


def collate(data: list[list[int]], rows: tuple[int, ...]) -> Batch:
    longest = max(len(data[r]) for r in rows) - 1
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    targets = torch.full((len(rows), longest), IGNORE)
    for place, row in enumerate(rows):
        units = torch.tensor(data[row])
        ids[place, : len(units) - 1], targets[place, : len(units) - 1] = units[:-1], units[1:]
    mask = targets != IGNORE
    return Batch(Units(ids, mask), targets, rows, int(mask.sum()))


class Loader:
    """Batches of `size` examples, shuffled anew each epoch; process r of w takes batches r, r + w, r + 2w, ..."""

    def __init__(self, data, size, seed, rank=0, world=1):
        self.data, self.size, self.seed, self.rank, self.world = data, size, seed, rank, world
        self.drawn = 0

    def __iter__(self):
        return self

    def __next__(self) -> Batch:
        per_epoch = len(self.data) // self.size
        epoch, index = divmod(self.drawn * self.world + self.rank, per_epoch)
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        self.drawn += 1
        return collate(self.data, tuple(order[index * self.size : (index + 1) * self.size].tolist()))

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


class Model(nn.Module):
    """Tied embedding, causal convolution over four bytes, dropout, norm: ids [B T] -> logits [B T 256]."""

    def __init__(self, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 4)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.embedding.weight
        self.dropout = nn.Dropout(dropout)
        self.gradient_checkpointing = False

    def forward(self, ids):
        x = self.dropout(self.embedding(ids)).transpose(1, 2)
        y = functional.gelu(self.mix(functional.pad(x, (3, 0)))).transpose(1, 2)
        return self.head(self.norm(self.dropout(y) + x.transpose(1, 2)))


class Tiny:
    """Keeps `jogak.tasks.contract.Task`."""

    name, metric = "tiny", "accuracy"

    def __init__(self, dropout: float = 0.2, size: int = 4, **train):
        settings = {
            "steps": 24, "rate": 1e-2, "warmup": 4, "validate_every": 8, "save_every": 8, "log_every": 3,
            "precision": "float32", "device": "cpu", "tensorboard": False, **train,
        }  # fmt: skip
        tree = {"task": "tiny", "run": "runs/tiny", "data": {"sources": ["text"]}, "train": settings}
        self.recipe = config.parse_recipe(tree, "tiny.yaml")
        self.size = size
        self.data = examples()
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.train.seed)
            self.model = Model(dropout)
        self.held_out = collate(self.data, tuple(range(0, 120, 7)))

    def loader(self, rank, world):
        return Loader(self.data, self.size, self.recipe.train.seed, rank, world)

    def loss(self, batch):
        logits = self.model(batch.units.ids).float().flatten(0, 1)
        smooth = self.recipe.train.label_smoothing
        trained = functional.cross_entropy(logits, batch.targets.flatten(), reduction="sum", label_smoothing=smooth)
        with torch.no_grad():
            plain = functional.cross_entropy(logits, batch.targets.flatten(), reduction="sum")
        return trained, plain

    def validate(self):
        torch.rand(3)  # a validation that draws must not disturb training
        logits = self.model(self.held_out.units.ids).float()
        real = self.held_out.targets != IGNORE
        loss = functional.cross_entropy(logits[real], self.held_out.targets[real])
        right = (logits[real].argmax(-1) == self.held_out.targets[real]).float().mean()
        return {"loss": float(loss), "accuracy": 100 * float(right)}

    def samples(self, count):
        shown = []
        for row in range(count):
            data = self.data[row]
            guess = self.model(torch.tensor([data[:-1]])).argmax(-1)[0].tolist()
            words = [bytes(d).decode("utf-8", "replace") for d in (data[:-1], data[1:], guess)]
            shown.append(dict(zip(("source", "reference", "output"), words, strict=True)))
        return shown

    def save_codec(self, folder: Path):
        storage.write_json(folder / "tokenizer.json", {"kind": "bytes"})


def train_here(folder: str, settings: dict, dropout: float = 0.2, kill_at_operation: int | None = None) -> None:
    """Train in this process, for tests that start it and kill it, or let it kill itself in a save."""
    torch.set_num_threads(1)
    if kill_at_operation is not None:
        _kill_at(kill_at_operation)
    from jogak.training import fit

    fit(Tiny(dropout, **settings), Path(folder), resume=True)


def _kill_at(operation: int) -> None:
    """SIGKILL this process just before the n-th of its calls that make files durable, move or remove them."""
    left = [operation]

    def counting(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "rmdir", "truncate", "mkdir", "unlink"):
        setattr(os, name, counting(getattr(os, name)))
