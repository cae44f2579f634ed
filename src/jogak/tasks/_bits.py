"""Bits per byte of a model with their interval, beside those of honest baselines."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from jogak.tasks._ngrams import ORDER, baselines

BOOTSTRAP = 1000  # resamples behind a 95% interval


@dataclass(frozen=True)
class BitsPerByte:
    """A value with its 95% bootstrap interval over windows; lower is better."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Bits:
    """Bits per byte of the model and of each baseline on the same text (see tasks.contract.Evaluation).

    unigram, ngram: None where no training text is known.
    """

    bytes: int
    documents: int
    model: BitsPerByte
    uniform: BitsPerByte
    unigram: BitsPerByte | None
    ngram: BitsPerByte | None
    texts: Sequence[str]

    def to_dict(self) -> dict[str, object]:
        named = {"model": self.model, "ngram": self.ngram, "unigram": self.unigram, "uniform": self.uniform}
        figures = {name: None if found is None else asdict(found) for name, found in named.items()}
        return {"bytes": self.bytes, "documents": self.documents, "bits_per_byte": figures}

    def to_rows(self) -> list[dict[str, str]]:
        """The texts that were measured; there is no answer to them."""
        return [{"source": "", "reference": text, "output": ""} for text in self.texts]

    def shown(self, count: int) -> str:
        """The beginnings of `count` of the texts."""
        chosen = [self.texts[n * len(self.texts) // count] for n in range(min(count, len(self.texts)))]
        return "".join(f"\n\n  text       {text[:200]!r}" for text in chosen)

    def table(self) -> str:
        lines = [f"{self.bytes:,} held-out bytes     bits per byte (lower is better)"]
        named = (
            ("model", self.model),
            (f"{ORDER}-gram, Witten-Bell", self.ngram),
            ("unigram", self.unigram),
            ("uniform", self.uniform),
        )
        lines += [f"  {name:<22} {found}" for name, found in named if found is not None]
        if self.ngram is None:
            lines.append("  n-gram and unigram     not measured: the training text is not to be had")
        return "\n".join(lines)


def measure(texts: Sequence[str], windows: Sequence[tuple[float, int]], training: Sequence[str]) -> Bits:
    """Figures of the model from the (bits, units) of each of its windows, and of baselines that read `training`."""
    size = sum(len(text.encode()) for text in texts)
    spent, units = np.array([b for b, _ in windows]), np.array([n for _, n in windows])
    told = baselines(training or [""], texts)
    grain = max(1, len(told.uniform) // max(1, len(windows)))  # baselines resample spans as long as the model's windows

    def baseline(found: np.ndarray) -> BitsPerByte:
        starts = np.arange(0, len(found), grain)
        return _interval(np.add.reduceat(found, starts), np.diff(np.append(starts, len(found))), size)

    return Bits(
        size,
        len(texts),
        model=_interval(spent, units, size),
        uniform=baseline(told.uniform),
        unigram=baseline(told.unigram) if training else None,
        ngram=baseline(told.ngram) if training else None,
        texts=texts,
    )


def _interval(spent: np.ndarray, units: np.ndarray, size: int) -> BitsPerByte:
    """Bits per byte with the interval of resampled windows, whose bytes are taken to be in proportion to units."""
    per_unit = units.sum() / size
    chosen = np.random.default_rng(0).integers(len(spent), size=(BOOTSTRAP, len(spent)))
    samples = spent[chosen].sum(axis=1) / units[chosen].sum(axis=1) * per_unit
    low, high = np.percentile(samples, [2.5, 97.5])
    return BitsPerByte(float(spent.sum() / size), float(low), float(high))
