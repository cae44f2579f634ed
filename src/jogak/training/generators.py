"""The random generators that training draws from: seeded, saved, restored, and given back as they were found."""

import base64
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(number: int, rank: int) -> None:
    """Seed torch, python and numpy for process `rank`; no two ranks draw the same numbers."""
    words = np.random.SeedSequence([number, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[1]))
    np.random.seed(int(words[2]))


def capture(device: torch.device) -> dict[str, Any]:
    """The state of every generator as plain JSON data."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": _text(torch.cuda.get_rng_state(device)) if device.type == "cuda" else None,
        "python": random.getstate(),
        "numpy": [str(kind), np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
    }


def restore(state: Mapping[str, Any], device: torch.device) -> None:
    """Go on drawing where `capture` was called."""
    torch.set_rng_state(_tensor(state["torch"]))
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(_tensor(state["cuda"]), device)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), place, has_gauss, cached))


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside the block, the generators are afterwards as they were before."""
    before = capture(device)
    try:
        yield
    finally:
        restore(before, device)


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
