"""What `jogak run` does with a model of sound whose positions say letters: files to text (tasks.contract.Predictor).

Legend: B batch, T positions, V units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jogak.codecs.audio import Sound, Waves, read
from jogak.codecs.letters import Letters
from jogak.decoding import ctc
from jogak.errors import UserError
from jogak.models import Encoder

if TYPE_CHECKING:
    from jogak.hub.pretrained import Pretrained


@dataclass(frozen=True)
class Heard:
    """A text, its log-probability, and the ids of its letters."""

    text: str
    score: float
    ids: list[int]
    faults: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        return {"text": self.text, "score": self.score, "ids": self.ids}


class Transcriber:
    """Files of sound to what is said in them; beam: sequences that are kept, 1 takes the likeliest letters."""

    name, fills_catalogues, reads_sound = "text", False, True

    def __init__(self, model: "Pretrained", beam: int = 1, n_best: int = 1) -> None:
        self.model, self.beam, self.n_best = model, max(beam, n_best), n_best
        self.waves = Waves.read(model.folder)
        self.letters = Letters.read(model.folder, model.special("pad_token_id", 0))

    def __call__(
        self, texts: Sequence[str], where: Sequence[str] = (), *, done: Callable[[int], None] = lambda count: None
    ) -> list[list[Heard]]:
        found: list[list[Heard]] = []
        for name in texts:
            sound, rate = read(name)
            found.append(self.hear(sound, rate))
            done(1)
        return found

    @torch.inference_mode()
    def hear(self, sound: Sound, rate: int | None = None) -> list[Heard]:
        """Samples [time] of one channel, so many a second -> the likeliest texts, best first."""
        values = self.waves.encode(sound, rate).unsqueeze(0)
        model = self.model
        scores = model.module(values.to(model.device, model.dtype))[0].float().log_softmax(-1).cpu()
        found = ctc.decode(scores, self.letters.blank, self.beam, self.n_best)
        return [Heard(self.letters.decode(ids), score, ids) for ids, score in found]

    def fits(self, text: str) -> bool:
        return True


def can_transcribe(model: "Pretrained") -> bool:
    """Whether a checkpoint reads samples and has a score for each letter at every position."""
    given = model.config
    reads = given.input is not None and given.input.name == "waves"
    return isinstance(model.module, Encoder) and reads and given.head.kind == "units"


def transcriber(model: "Pretrained", beam: int = 1, n_best: int = 1) -> Transcriber:
    """Raises: UserError for another kind of model."""
    if not can_transcribe(model):
        raise UserError(f"{model.folder}: this model does not write what it hears letter by letter; wav2vec2 does")
    return Transcriber(model, beam, n_best)
