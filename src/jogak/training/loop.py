"""Training: updates until the recipe's steps, minutes or patience are used up, resumable to the bit at any moment."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from jogak import storage
from jogak.errors import UserError
from jogak.tasks.contract import Task
from jogak.training import averaging, checkpoint, distributed, generators, machine, optimiser, precision, report
from jogak.training import run as runs
from jogak.training.distributed import Ranks
from jogak.training.options import apply_options, is_compile_failure
from jogak.training.position import Position, Window
from jogak.training.progress import Display, Figures, clock
from jogak.training.schedule import progress
from jogak.training.signals import Cut, Interrupted, Stopper, describe
from jogak.training.step import NotFinite, Stepper
from jogak.training.tracking import Events

_SAMPLES = 10  # shown in the report


def fit(task: Task, folder: Path, *, resume: bool = False, overwrite: bool = False) -> dict[str, float]:
    """Train as `task.recipe.train` says into the run `folder`; the final validation's figures, "step" and "seconds".

    resume: go on with the run that is there, to the same bits as if it had never stopped; begins where there is
    none. overwrite: replace the run that is there. Under torchrun every process calls this, and the first writes.

    Raises: UserError for a run that cannot be started or gone on with, or a loss that is not finite; StorageError
    if the disk refuses; Interrupted after a signal, when everything is saved.
    """
    folder = Path(folder)
    train = task.recipe.train
    with ExitStack() as stack:
        ranks = stack.enter_context(distributed.session(train.device))
        display = Display.standard(train.steps, speaks=ranks.main)
        claim = ExitStack()
        stack.enter_context(claim)

        def start() -> list[Any]:
            step = runs.check_start(folder, task.recipe, resume=resume, overwrite=overwrite)
            claim.enter_context(runs.claimed(folder))
            chosen = precision.choose(train.precision, task.recipe.model.width, ranks.device)
            about = {"precision": chosen, "processes": ranks.world, "machine": machine.describe(ranks.device)}
            kept = runs.begin(runs.Run(folder), task.recipe, overwrite=overwrite, about=about)
            task.save_codec(folder)
            return [step, kept, about]

        step, kept, about = ranks.on_main(start)
        stack.enter_context(generators.untouched(ranks.device))
        stack.enter_context(machine.deterministic(ranks.device))
        machine.keep_freed_memory()
        stop = Stopper(ranks.world == 1, display.notice)
        trainer = Trainer(task, runs.Run(folder), ranks, stop, display, kept["precision"])
        stack.callback(trainer.close)
        if (figures := trainer.open(step, kept, about, resume=resume)) is not None:
            return figures
        stack.enter_context(stop.listening())
        stack.enter_context(display)
        return trainer.train()


class Trainer:
    """A run under way: steps, and between them what is due."""

    def __init__(
        self, task: Task, run: runs.Run, ranks: Ranks, stop: Stopper, display: Display, chosen: precision.Precision
    ) -> None:
        self.task, self.run, self.ranks, self.stop, self.display = task, run, ranks, stop, display
        self.config = task.recipe.train
        generators.seed(self.config.seed, ranks.rank)
        task.model.to(ranks.device).train()
        apply_options(task.model, self.config, ranks.device)
        self.average = self._build_average()
        self.stepper = Stepper(task, ranks, chosen, self.average)
        self.precision: precision.Precision = chosen
        self.position = Position()
        self.saved = 0  # step of the newest checkpoint
        self.samples: list[dict[str, str]] = []
        self._records: runs.Records | None = None
        self._events: Events | None = None
        self._signal = 0
        self._started = time.monotonic()  # moved back on resume by what was used before

    # ------------------------------------------------------------ opening and closing

    def open(
        self, step: int | None, kept: Mapping[str, Any], about: Mapping[str, Any], *, resume: bool
    ) -> dict[str, float] | None:
        """Begin, or go on from the checkpoint of `step`; the final figures, if nothing is left to do."""
        kept_bytes = 0 if step is None else self._restore(step)
        if (figures := self._finished_before()) is not None:
            return figures
        if self.ranks.main:
            self._records = runs.Records(self.run.metrics, kept_bytes)
            if self.config.tensorboard:
                self._events = Events(self.run.events, self.position.step, self.display.notice)
        if step is not None:
            self.display.notice(f"{self.run.folder}: going on from step {step}")
            self._compare_machines(kept, about)
        elif step is None and resume:
            self.display.notice(f"{self.run.folder}: no checkpoint to go on from; beginning")
        threads = torch.get_num_threads()
        self._peak = machine.peak(self.precision, str(self.ranks.device), threads) * self.ranks.world
        return None

    def close(self) -> None:
        """Let go of the files."""
        if self._records is not None:
            self._records.close()
        if self._events is not None:
            self._events.close()

    def _restore(self, step: int) -> int:
        """Everything as it was in the checkpoint; returns the bytes of metrics.jsonl that belong to it."""
        found = checkpoint.read(self.run.checkpoints, step)
        if len(found.ranks) != self.ranks.world:
            raise UserError(
                f"{self.run.folder}: made by {len(found.ranks)} processes, and this is {self.ranks.world}; "
                f"resume with torchrun --nproc-per-node {len(found.ranks)}"
            )
        mine = found.ranks[self.ranks.rank]
        runs.load_into(self.task.model, found.model, str(checkpoint.path(self.run.checkpoints, step)))
        optimiser.load(self.stepper.optimiser, self.task.model, found.optimiser)
        self.average.load(found.average, found.state["snapshots"])
        self.stepper.loader.load_state_dict(mine["loader"])
        self.stepper.sums.copy_(torch.tensor(mine["sums"], dtype=torch.float64))
        self.position = Position.of(found.state["position"])
        self.saved = step
        self._started = time.monotonic() - self.position.seconds
        generators.restore(mine["generators"], self.ranks.device)
        return found.state["metrics_bytes"]

    def _compare_machines(self, kept: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        before, now = kept.get("machine", {}), about["machine"]
        if changed := [f"{k} {before.get(k)} is now {now[k]}" for k in now if before.get(k) != now[k]]:
            self.display.notice(f"the machine is not the same, so the last bits may differ: {', '.join(changed)}")

    def _build_average(self) -> averaging.Average:
        if not self.ranks.main:  # who validates and writes
            return averaging.NoAverage()
        return averaging.build(self.task.model, self.config, self._saved_parameters)

    def _saved_parameters(self, step: int) -> Mapping[str, Tensor]:
        return checkpoint.read_weights(self.run.checkpoints, step, averaged=False)

    # ------------------------------------------------------------ the run

    def train(self) -> dict[str, float]:
        """Steps until the run is over; the final figures."""
        try:
            return self._run()
        except NotFinite as error:
            good = f"step-{self.saved} in {self.run.checkpoints}" if self.saved else "none yet"
            advice = "look at those rows, or lower train.rate"
            raise UserError(f"{error}; last good checkpoint: {good}; {advice}") from None
        except Exception as error:
            if self.config.compile and is_compile_failure(error):
                why = str(error).strip().splitlines()[0]
                raise UserError(f"train.compile: torch could not compile the model ({why}); set it to false") from error
            raise

    def _run(self) -> dict[str, float]:
        try:
            while not self._settle():
                if self._asked_to_stop():
                    self._leave()
                self._step()
            return self._finish()
        except Cut:  # out of a validation
            self._leave()

    def _step(self) -> None:
        start = time.perf_counter()
        position = self.position
        self._signal = self.stepper.update(position, self._elapsed(), self.stop.number)
        due = position.step % self.config.log_every == 0
        sums = self.stepper.sums.tolist() if due else []  # waits for a GPU, so it belongs to the step's time
        position.window.seconds += time.perf_counter() - start
        if due:
            self._log(*self.ranks.sum(sums))
        self.display.step(position.step, self._progress(), self._left())

    def _asked_to_stop(self) -> bool:
        """Processes stop together, once they have told each other."""
        return bool(self.stop.number if self.ranks.world == 1 else self._signal)

    def _settle(self) -> str:
        """Validate and save where that is due at this step; why the run is over, or ""."""
        position, train = self.position, self.config
        due = position.step % train.validate_every == 0 or bool(self._over())
        if position.step and due and position.validated != position.step:
            self._validate()
        if position.step and position.step % train.save_every == 0:
            self._save()
        return self._over()

    def _over(self) -> str:
        position, train = self.position, self.config
        if position.step >= train.steps:
            return "steps"
        if train.minutes is not None and position.seconds >= 60 * train.minutes:
            return "minutes"
        if train.patience is not None and position.since_best >= train.patience:
            return "patience"
        return ""

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _progress(self) -> float:
        return progress(self.config, self.position.step, self._elapsed())

    def _left(self) -> float | None:
        done = self._progress()
        return self._elapsed() * (1 - done) / done if 0 < done < 1 else None

    # ------------------------------------------------------------ what is due between steps

    def _log(self, loss: float, plain: float) -> None:
        """One line of measurements over the steps since the last."""
        position, window = self.position, self.position.window
        targets, seconds = max(window.targets, 1), max(window.seconds, 1e-9)
        per_second, share = window.tokens / seconds, window.flops / seconds / self._peak
        figures = {"loss": loss / targets, "nll": plain / targets, "rate": self.stepper.rate}
        figures["gradient_norm"] = float(self.stepper.norm)
        speed = {"tokens_per_second": per_second, "share_of_peak": share}
        self._record("train", {**figures, "tokens": position.tokens}, speed)
        self.display.figures(Figures(figures["loss"], per_second, share, self.precision))
        self.stepper.sums.zero_()
        position.window = Window()

    def _record(self, kind: str, figures: Mapping[str, float], timings: Mapping[str, float]) -> None:
        """A line of metrics.jsonl; `seconds` and `timings` are the only entries that a second run does not repeat."""
        step = self.position.step
        if self._records is not None:
            self._records.write({"kind": kind, "step": step, **figures, "seconds": self._elapsed(), **timings})
        if self._events is not None:
            self._events.scalars(step, kind, {**figures, **timings})

    def _validate(self) -> None:
        """Measure on held-out examples with the weights that would be kept; save them if they are the best."""
        self.stepper.check()
        found = self.ranks.on_main(self._look)
        better = self.position.judge(self.task.metric, found["figures"])
        self.samples = found["samples"]
        self.display.validation(self.position.step, found["figures"], best=better)

        def write() -> None:
            self._record("validation", found["figures"], {})
            self._report("")

        self.ranks.on_main(write)
        if better:
            self._save()

    def _look(self) -> dict[str, Any]:
        model, device = self.task.model, self.ranks.device
        model.eval()
        try:
            with ExitStack() as stack:
                stack.enter_context(averaging.wearing(model, self.average.weights()))
                stack.enter_context(generators.untouched(device))
                stack.enter_context(torch.no_grad())
                stack.enter_context(precision.autocast(self.precision, device))
                stack.enter_context(self.stop.may_cut())
                figures = {name: float(value) for name, value in self.task.validate().items()}
                return {"figures": figures, "samples": self.task.samples(_SAMPLES)}
        finally:
            model.train()

    def _save(self) -> None:
        """Write the checkpoint of this step, if it is not there, then remove those that are no longer needed."""
        step, train = self.position.step, self.config
        if self.saved == step:
            return
        self.stepper.check()
        if step % train.save_every == 0:
            self.average.snapshot(step)
        mine = {
            "loader": dict(self.stepper.loader.state_dict()),
            "generators": generators.capture(self.ranks.device),
            "sums": self.stepper.sums.tolist(),
        }
        ranks = self.ranks.gather(mine)
        self.ranks.on_main(lambda: self._write_checkpoint(step, ranks))
        self.saved = step

    def _write_checkpoint(self, step: int, ranks: list[dict[str, Any]]) -> None:
        state = {
            "position": {**self.position.state(), "seconds": self._elapsed()},
            "snapshots": sorted(self.average.needs()),
            "metrics_bytes": self._records.sync() if self._records is not None else 0,
        }
        whole = checkpoint.Checkpoint(
            model=runs.tensors_of(self.task.model),
            optimiser=optimiser.tensors(self.stepper.optimiser, self.task.model),
            average=self.average.weights(),
            ranks=ranks,
            state=state,
        )
        checkpoint.write(self.run.checkpoints, step, whole)
        checkpoint.prune(self.run.checkpoints, self.config.keep, {self.position.best_step, *self.average.needs()})

    def _leave(self) -> NoReturn:
        """Save and stop, because a signal said so."""
        number = self._signal or self.stop.number
        self._save_if_begun()
        at = f"step {self.position.step} of {self.config.steps}"
        where = "" if str(self.run.folder) == self.task.recipe.run else f" run={self.run.folder}"
        raise Interrupted(
            f"stopped by {describe(number)} at {at}; saved in {self.run.folder}; "
            f"go on with: jogak train {self.run.config_file} --resume{where}",
            number,
        )

    def _save_if_begun(self) -> None:
        if self.position.step:
            self._save()

    # ------------------------------------------------------------ the end

    def _finished_before(self) -> dict[str, float] | None:
        """The figures of a run that needs no more steps."""

        def look() -> dict[str, Any] | None:
            return storage.read_json(self.run.finished) if self.run.finished.exists() else None

        told = self.ranks.on_main(look)
        if told is None or told["done"] != self.position.step or not self._over():
            return None
        self.display.notice(f"{self.run.folder}: finished already ({told['why']}); for more, raise train.steps")
        return told["figures"]

    def _finish(self) -> dict[str, float]:
        """The last validation, the last checkpoint, model.safetensors, the report; finished.json seals them."""
        position, why = self.position, self._over()
        self._save()
        best = self.config.final == "best" or (self.config.final == "auto" and self.config.patience is not None)
        at = position.best_step if best else position.step
        found = position.best_figures if best else position.figures
        figures = {**found, "step": float(at), "seconds": self._elapsed()}

        def write() -> None:
            runs.write_model(self.run, self._weights_of(at), at)
            self._report(why)
            storage.write_json(self.run.finished, {"done": position.step, "why": why, "figures": figures})

        self.ranks.on_main(write)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
        self.display.notice(f"done after {position.step} steps, {clock(self._elapsed())}: {shown}  ({self.run.model})")
        return figures

    def _weights_of(self, step: int) -> dict[str, Tensor]:
        if step != self.position.step:
            return checkpoint.read_weights(self.run.checkpoints, step, averaged=True)
        return {**runs.tensors_of(self.task.model), **(self.average.weights() or {})}

    def _report(self, why: str) -> None:
        records = self._records.read() if self._records is not None else []
        position = self.position
        status = {"why": why, "step": position.step, "best_step": position.best_step, "metric": self.task.metric}
        report.write(self.run.report, self.task.recipe, records, self.samples, status)
