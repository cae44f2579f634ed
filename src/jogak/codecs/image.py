"""Pictures to numbers: resized, cropped, scaled and normed, as the settings beside a checkpoint say.

Legend: B batch, C channels, H W height and width in pixels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from jogak.codecs._settings import kind, settings
from jogak.errors import UserError
from jogak.families._fields import Fields

if TYPE_CHECKING:
    from PIL.Image import Image

Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers
LARGEST = 2**14  # pixels along one side that settings may ask for
LONGEST = 2**17  # pixels of the longer side, where the shorter one is given

# What each kind of processor does where its settings do not say.
_HALF, _CLIP_MEAN, _CLIP_STD = (
    (0.5, 0.5, 0.5),
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {"size": 224, "square": True, "resample": 2, "crop": False, "mean": _HALF, "std": _HALF},
    "deit": {"size": 256, "square": True, "resample": 3, "crop": True, "mean": _HALF, "std": _HALF},
    "clip": {"size": 224, "square": False, "resample": 3, "crop": True, "mean": _CLIP_MEAN, "std": _CLIP_STD},
}
_KINDS = {"ViT": "vit", "DeiT": "deit", "CLIP": "clip"}


@dataclass(frozen=True)
class Pictures:
    """(crop(resize(picture)) scale - mean) / std: a picture -> float32 [C H W].

    resize: height and width, or the shorter side alone; None: as it is. crop: height and width of the middle that is
    kept, with zeros around a smaller picture; None: all. white: what is transparent lies on white; otherwise
    transparency is left out of account. Resizing is PIL's, whose filters take in every pixel of a picture that shrinks.
    """

    resize: tuple[int, int] | int | None = (224, 224)
    resample: Filter = "bilinear"
    crop: tuple[int, int] | None = None
    scale: float | None = 1 / 255
    mean: tuple[float, ...] | None = _HALF
    std: tuple[float, ...] | None = _HALF
    white: bool = True

    @classmethod
    def read(cls, path: str | Path) -> "Pictures":
        """As preprocessor_config.json says, in the folder of a checkpoint or itself.

        Raises: UserError for settings that are missing, damaged, or not supported.
        """
        given = settings(path, "image_processor")
        default = DEFAULTS[kind(given, "image_processor", _KINDS)]
        for name in ("do_pad", "do_flip_channel_order", "do_reduce_labels"):
            given.only(name, False)
        normed = given.flag("do_normalize", True)
        cropped = given.flag("do_center_crop", default["crop"])
        return cls(
            resize=_size(given, default) if given.flag("do_resize", True) else None,
            resample=FILTERS[given.integer("resample", default["resample"], least=0, most=len(FILTERS) - 1)],
            crop=_sides(given, "crop_size", 224) if cropped else None,
            scale=given.positive("rescale_factor", 1 / 255) if given.flag("do_rescale", True) else None,
            mean=_channels(given, "image_mean", default["mean"]) if normed else None,
            std=_channels(given, "image_std", default["std"]) if normed else None,
            white=given.flag("do_convert_rgb", not default["square"]),
        )

    def encode(self, picture: "str | Path | Image | np.ndarray | Tensor") -> Tensor:
        """A file, a PIL picture, or bytes [H W] or [H W C] (uint8; C: grey, RGB or RGBA) -> float32 [C H W].

        Raises: UserError for what is no picture.
        """
        image = self._rgb(_open(picture))
        if self.resize is not None:
            image = image.resize(self._new_size(*image.size), _filter(self.resample))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if self.crop is not None:
            pixels = _middle(pixels, *self.crop)
        scaled = pixels.float() if self.scale is None else (pixels.double() * self.scale).float()
        if self.mean is None or self.std is None:
            return scaled.contiguous()
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((scaled - mean) / std).contiguous()

    def encode_all(self, pictures: "Iterable[str | Path | Image | np.ndarray | Tensor]") -> Tensor:
        """Several pictures -> float32 [B C H W].

        Raises: UserError where they do not come out at one size.
        """
        found = [self.encode(picture) for picture in pictures]
        if not found or any(f.shape != found[0].shape for f in found):
            sizes = sorted({tuple(f.shape[1:]) for f in found})
            raise UserError(f"pictures of sizes {sizes} make no batch; set resize to a height and a width, or crop")
        return torch.stack(found)

    def _rgb(self, image: "Image") -> "Image":
        from PIL import Image

        if image.mode.startswith(("I", "F")):
            raise UserError(f"a picture has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits")
        see_through = "A" in image.getbands() or "transparency" in image.info
        if not (self.white and see_through):
            return image.convert("RGB")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")

    def _new_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, as PIL has them."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        short, long = sorted((width, height))
        other = int(self.resize * long / short)
        if other > LONGEST:
            raise UserError(f"a picture of {width} x {height} would be {other} long; cut it first")
        return (self.resize, other) if width <= height else (other, self.resize)


def _open(picture: "str | Path | Image | np.ndarray | Tensor") -> "Image":
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError("pictures need pillow; pip install 'jogak[pictures]'") from None
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, str | Path):
        try:
            with Image.open(picture) as image:
                image.load()
                return ImageOps.exif_transpose(image)  # upright, as a camera's note says
        except FileNotFoundError:
            raise UserError(f"{picture}: there is no such file") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{picture}: not a picture that can be read ({error})") from None
    given = np.asarray(picture)
    if given.dtype != np.uint8 or given.ndim not in (2, 3) or (given.ndim == 3 and given.shape[2] not in (1, 3, 4)):
        raise UserError(
            f"a picture must be uint8 [height, width] or [height, width, 1, 3 or 4], got {given.dtype} "
            f"{list(given.shape)}"
        )
    if 0 in given.shape:
        raise UserError(f"a picture of {list(given.shape)} has no pixels")
    return Image.fromarray(given[..., 0] if given.ndim == 3 and given.shape[2] == 1 else given)


def _filter(name: Filter) -> Any:  # noqa: ANN401  # PIL.Image.Resampling
    from PIL.Image import Resampling

    return Resampling(FILTERS.index(name))


def _middle(pixels: Tensor, height: int, width: int) -> Tensor:
    """pixels [C H W] -> [C height width], with zeros around where there are fewer."""
    for axis, wanted in ((1, height), (2, width)):
        there = pixels.shape[axis]
        if there >= wanted:
            pixels = pixels.narrow(axis, (there - wanted) // 2, wanted)
            continue
        shape = list(pixels.shape)
        shape[axis] = wanted
        grown = pixels.new_zeros(shape)
        grown.narrow(axis, -((there - wanted) // 2), there).copy_(pixels)
        pixels = grown
    return pixels


# ---------------------------------------------------------------- settings


def _size(given: Fields, default: Mapping[str, Any]) -> tuple[int, int] | int:
    if not isinstance(given.raw("size"), dict):
        side = given.integer("size", default["size"], most=LARGEST)
        return (side, side) if default["square"] else side
    parts = given.section("size")
    if "shortest_edge" in parts and "longest_edge" not in parts:
        return parts.integer("shortest_edge", most=LARGEST)
    return _sides(given, "size", default["size"])


def _sides(given: Fields, name: str, default: int) -> tuple[int, int]:
    """Height and width: a mapping of both, or one number for both."""
    if isinstance(given.raw(name), dict):
        parts = given.section(name)
        return parts.integer("height", most=LARGEST), parts.integer("width", most=LARGEST)
    side = given.integer(name, default, most=LARGEST)
    return side, side


def _channels(given: Fields, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    values = given.raw(name)
    if values is None:
        return default
    values = values if isinstance(values, list) else [values] * 3
    if len(values) != 3:
        raise UserError(f"{given.where}: '{name}' must have a number for each of red, green and blue, got {values}")
    each = Fields({f"{name}[{i}]": value for i, value in enumerate(values)}, given.where)
    return tuple(each.positive(n) if name == "image_std" else each.number(n) for n in each)
