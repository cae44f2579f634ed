"""TensorBoard events, where the extra `track` is installed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Events:
    """Scalars for TensorBoard in a folder; nothing happens where TensorBoard is missing, and one notice says so."""

    def __init__(self, folder: Path, after: int, tell: Callable[[str], None]) -> None:
        """after: the step that the run goes on from; what a killed run wrote beyond it is hidden."""
        self._writer: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import writer
        except ImportError:
            tell("no TensorBoard events: install them with pip install 'jogak[track]', or set train.tensorboard=false")
            return
        self._writer = writer.SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write values under `group/name`."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
