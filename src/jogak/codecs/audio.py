"""Sound to numbers: log-mel frames or waves, as the settings beside a checkpoint say; and files of sound.

Legend: N parts, B batch, C mel bands, T frames or samples, F frequencies.
"""

import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jogak.codecs._settings import kind, settings
from jogak.errors import UserError

Sound = Tensor | np.ndarray | Sequence[float]


class Heard(NamedTuple):
    """What a model reads, and which of its places are real (True); None: all are to be read."""

    values: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class LogMel:
    """max(log10 M |STFT(x)|^2, its largest - 8) / 4 + 1: sound in parts of `seconds` -> float32 [N C T].

    M: triangles that are evenly spaced on Slaney's mel scale, from 0 to 8000 Hz, each of one area. rate: samples a
    second. window, hop: samples of a frame (Hann) and from one to the next. The last part is filled up with silence.

    Source: Radford et al. 2022 (2212.04356) section 2.2 and its published code.
    """

    bands: int = 80
    rate: int = 16000
    window: int = 400
    hop: int = 160
    seconds: int = 30

    @classmethod
    def read(cls, path: str | Path) -> "LogMel":
        """As preprocessor_config.json says, in the folder of a checkpoint or itself.

        Raises: UserError for settings that are missing, damaged, or not supported.
        """
        given = settings(path, "feature_extractor")
        kind(given, "feature_extractor", {"Whisper": "mel"})
        given.only("padding_value", 0.0)
        given.only("dither", 0.0)
        given.only("padding_side", "right")
        return cls(
            bands=given.integer("feature_size", 80, most=4096),
            rate=given.integer("sampling_rate", 16000, most=2**20),
            window=given.integer("n_fft", 400, least=2, most=2**16),
            hop=given.integer("hop_length", 160, most=2**16),
            seconds=given.integer("chunk_length", 30, most=3600),
        )

    def encode(self, sound: Sound, rate: int | None = None) -> Heard:
        """Samples [T] of one channel, from -1 to 1 -> frames [N C T] and which of them are real [N T].

        rate: samples a second of what is given, where it is not the codec's. Sound that is longer than `seconds` is
        never cut off: N grows.

        Raises: UserError for what is no sound.
        """
        x = _samples(sound, rate, self.rate)
        length = self.seconds * self.rate
        parts = max(1, -(-len(x) // length))
        x = F.pad(x, (0, parts * length - len(x))).view(parts, length)
        x = F.pad(x.unsqueeze(1), (self.window // 2, self.window // 2), mode="reflect").squeeze(1)
        shape = torch.hann_window(self.window)
        spectrum = torch.stft(x, self.window, self.hop, window=shape, center=False, return_complex=True)
        power = spectrum[..., : length // self.hop].abs().square()
        mel = triangles(self.bands, self.window, self.rate) @ power
        log = mel.clamp_min(1e-10).log10()
        log = log.maximum(log.amax((1, 2), keepdim=True) - 8)
        ends = (torch.tensor(_length(sound, rate, self.rate)) - torch.arange(parts) * length).clamp(0, length)
        mask = torch.arange(0, length // self.hop) * self.hop < ends.unsqueeze(1)
        return Heard((log + 4) / 4, mask)


@dataclass(frozen=True)
class Waves:
    """(x - mean(x)) / sqrt(var(x) + 1e-7), each sound for itself, zeros behind it: sounds -> float32 [B T].

    norm: False leaves the samples as they are. masked: whether a model of this kind is told where padding is.

    Source: Baevski et al. 2020 (2006.11477) section 4.2 and its published code.
    """

    rate: int = 16000
    norm: bool = True
    masked: bool = False

    @classmethod
    def read(cls, path: str | Path) -> "Waves":
        """As preprocessor_config.json says, in the folder of a checkpoint or itself.

        Raises: UserError for settings that are missing, damaged, or not supported.
        """
        given = settings(path, "feature_extractor")
        kind(given, "feature_extractor", {"Wav2Vec2": "waves"})
        given.only("padding_value", 0.0)
        given.only("padding_side", "right")
        given.only("feature_size", 1)
        return cls(
            rate=given.integer("sampling_rate", 16000, most=2**20),
            norm=given.flag("do_normalize", True),
            masked=given.flag("return_attention_mask", False),
        )

    def encode(self, sound: Sound, rate: int | None = None) -> Tensor:
        """Samples [T] of one channel -> float32 [T]; rate: samples a second, where it is not the codec's.

        Raises: UserError for what is no sound.
        """
        x = _samples(sound, rate, self.rate)
        if not len(x):
            raise UserError("a sound has no samples; leave it out")
        return (x - x.mean()) / (x.var(correction=0) + 1e-7).sqrt() if self.norm else x

    def encode_all(self, sounds: Sequence[Sound], rate: int | None = None) -> Heard:
        """Several sounds -> [B T], and which samples are real where the model is to know.

        Raises: UserError for what is no sound.
        """
        rows = [self.encode(sound, rate) for sound in sounds]
        if not rows:
            raise UserError("there is no sound; give at least one")
        values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
        return Heard(values, mask if self.masked else None)


# ---------------------------------------------------------------- the mel scale


@lru_cache(maxsize=8)
def triangles(bands: int, window: int, rate: int, highest: float = 8000.0) -> Tensor:
    """Weights of F = window / 2 + 1 frequencies in each band: float32 [C F].

    Slaney's scale: linear up to 1000 Hz (15 mels), from there 27 mels for each factor of 6.4. Each triangle has the
    area 1 over Hz. Source: Slaney 1998, Auditory Toolbox, Technical Report 1998-010.
    """
    step = math.log(6.4) / 27
    top = 3 * highest / 200 if highest < 1000 else 15 + math.log(highest / 1000) / step
    mels = torch.linspace(0, top, bands + 2, dtype=torch.float64)
    corners = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp(step * (mels - 15)))
    frequencies = torch.linspace(0, rate // 2, window // 2 + 1, dtype=torch.float64)
    low, middle, high = (corners[i : i + bands].unsqueeze(1) for i in range(3))
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return (rising.minimum(falling).clamp_min(0) * 2 / (high - low)).float()


# ---------------------------------------------------------------- samples


def _samples(sound: Sound, rate: int | None, wanted: int) -> Tensor:
    """One channel of float32 samples at the rate that is wanted."""
    x = torch.as_tensor(sound)
    if x.dim() != 1 or x.is_complex():
        raise UserError(f"a sound must be one channel of samples [time], got {list(x.shape)}; take their mean first")
    if len(x) and not x.is_floating_point():
        raise UserError(f"samples must be numbers from -1 to 1, got {x.dtype}; divide them by their largest value")
    x = x.float()
    if not bool(x.isfinite().all()):
        raise UserError("a sound holds NaN or infinity; leave those samples out")
    return x if rate is None else resample(x, rate, wanted)


def _length(sound: Sound, rate: int | None, wanted: int) -> int:
    return len(sound) if rate is None else -(-len(sound) * wanted // rate)


def resample(x: Tensor, rate: int, wanted: int, *, crossings: int = 16, part: float = 0.95) -> Tensor:
    """Samples [T] at another rate, float32 [ceil(T wanted / rate)].

    y(t) = sum_i x_i h(t - i), h a sinc that passes `part` of what the lower rate can hold, under a Hann window
    `crossings` of its zeros wide on each side. Source: Smith, Digital Audio Resampling, 1984-2020.

    Raises: UserError for rates below 1.
    """
    if rate < 1 or wanted < 1:
        raise UserError(f"a rate must be at least 1 sample a second, got {rate} and {wanted}")
    shared = math.gcd(rate, wanted)
    rate, wanted = rate // shared, wanted // shared
    if rate == wanted or not len(x):
        return x
    cut = min(rate, wanted) * part / rate  # of the frequencies that x can hold
    reach = math.ceil(crossings / cut)
    # Output n lies at n rate / wanted: with wanted phases, each a filter of its own, that repeat every `rate` samples.
    phase = torch.arange(wanted, dtype=torch.float64).unsqueeze(1) * rate / wanted
    at = torch.arange(-reach, reach + rate, dtype=torch.float64) - phase
    hann = torch.cos(at * cut * math.pi / (2 * crossings)).square().masked_fill(at.abs() * cut >= crossings, 0)
    kernel = (cut * torch.sinc(at * cut) * hann).float().unsqueeze(1)
    count = -(-len(x) * wanted // rate)
    padded = F.pad(x, (reach, reach + rate)).view(1, 1, -1)
    return F.conv1d(padded, kernel, stride=rate).squeeze(0).T.flatten()[:count]


# ---------------------------------------------------------------- files


def read(path: str | Path, rate: int | None = None) -> tuple[Tensor, int]:
    """The mean of all channels of a file, float32 [T] from -1 to 1, and its samples a second.

    rate: the rate that is wanted; None: the file's own. Whole-number WAV needs nothing else; other files need the
    package soundfile.

    Raises: UserError where the file cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    try:
        samples, own = _wav(file)
    except (wave.Error, EOFError) as error:
        samples, own = _other(file, str(error) or "it ends early")
    mono = samples.mean(0)
    return (mono, own) if rate is None else (resample(mono, own, rate), rate)


def _wav(file: Path) -> tuple[Tensor, int]:
    """[channels T] of a WAV file of whole numbers."""
    with wave.open(str(file), "rb") as opened:
        width, channels, rate = opened.getsampwidth(), opened.getnchannels(), opened.getframerate()
        raw = np.frombuffer(opened.readframes(opened.getnframes()), np.uint8)
    raw = raw[: len(raw) // (width * channels) * (width * channels)]
    if width == 1:  # unsigned
        whole = raw.astype(np.int32) - 128
    else:  # little endian: moved to the top of 32 bits, which keeps the sign, and back
        wide = np.zeros((len(raw) // width, 4), np.uint8)
        wide[:, 4 - width :] = raw.reshape(-1, width)
        whole = wide.view("<i4").reshape(-1) >> (8 * (4 - width))
    scaled = torch.from_numpy(whole.astype(np.float64) / 2 ** (8 * width - 1)).float()
    return scaled.view(-1, channels).T, rate


def _other(file: Path, why: str) -> tuple[Tensor, int]:
    try:
        import soundfile  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise UserError(
            f"{file}: not a WAV file of whole numbers ({why}); pip install soundfile reads others"
        ) from None
    try:
        samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise UserError(f"{file}: not a sound that can be read ({error})") from None
    return torch.from_numpy(samples.T.copy()), rate
