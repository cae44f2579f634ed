"""What each process of test_distributed.py does under torchrun; writes what it found into the folder given."""

import shutil
import sys
from pathlib import Path

import torch

from jogak import storage
from jogak.errors import UserError
from jogak.training import distributed, fit
from jogak.training.averaging import NoAverage
from jogak.training.distributed import Ranks
from jogak.training.position import Position
from jogak.training.run import tensors_of
from jogak.training.step import Stepper
from tests.unit.training.tiny import Tiny


def gradients(task: Tiny, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Those of the first update."""
    stepper = Stepper(task, ranks, "float32", NoAverage())
    kept: dict[str, torch.Tensor] = {}
    parameters = dict(task.model.named_parameters())
    stepper.optimiser.register_step_pre_hook(lambda *_: kept.update({n: p.grad.clone() for n, p in parameters.items()}))
    stepper.update(Position(), 0.0, 0)
    return kept


class BrokenOnSecond(Tiny):
    def loss(self, batch):
        trained, plain = super().loss(batch)
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3 and distributed.dist.get_rank() == 1:
            trained = trained * float("inf")
        return trained, plain


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with distributed.session("cpu") as ranks:
        found = gradients(Tiny(dropout=0.0, clip=None, accumulate=2), ranks)
        storage.write_tensors(out / f"gradients-{ranks.rank}.safetensors", found)

        task = Tiny(average="ema", accumulate=2)
        fit(task, out / "whole")
        storage.write_tensors(out / f"weights-{ranks.rank}.safetensors", tensors_of(task.model))

        if ranks.main:  # as if both had been killed after step 16
            shutil.copytree(out / "whole", out / "parts")
            shutil.rmtree(out / "parts" / "checkpoints" / "step-24")
            for name in ("finished.json", "model.safetensors"):
                (out / "parts" / name).unlink()
        ranks.gather(None)
        fit(Tiny(average="ema", accumulate=2), out / "parts", resume=True)

        for name, task, resume in (
            ("whole", Tiny(average="ema", accumulate=2), False),
            ("broken", BrokenOnSecond(), False),
        ):
            try:
                fit(task, out / name, resume=resume)
            except UserError as error:
                storage.write_text(out / f"{name}-{ranks.rank}.txt", str(error))


main(Path(sys.argv[1]))
