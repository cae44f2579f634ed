import errno
import json
import os
import signal

import pytest
import torch

from jogak import storage
from jogak.errors import StorageError, UserError
from jogak.training import Interrupted, checkpoint, fit
from jogak.training.averaging import NoAverage
from jogak.training.distributed import Ranks
from jogak.training.position import Position
from jogak.training.run import Run, tensors_of
from jogak.training.step import Stepper
from tests.unit.training.tiny import Loader, Tiny, collate

CPU = torch.device("cpu")
TIMINGS = {"seconds", "tokens_per_second", "share_of_peak"}


class Stopping(Tiny):
    """Sends this process a signal in the middle of its n-th loss, or n-th validation."""

    def __init__(self, *, at_loss=0, at_validation=0, number=signal.SIGTERM, times=1, **train):
        super().__init__(**train)
        self.left, self.validations, self.number, self.times = at_loss, at_validation, number, times

    def _signal(self):
        for _ in range(self.times):
            os.kill(os.getpid(), self.number)

    def loss(self, batch):
        self.left -= 1
        if self.left == 0:
            self._signal()
        return super().loss(batch)

    def validate(self):
        self.validations -= 1
        if self.validations == 0:
            self._signal()
        return super().validate()


def bits(folder):
    return {n: t.numpy().tobytes() for n, t in Run(folder).weights().items()}


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in found]


VARIANTS = {
    "plain": {},
    "ema": {"average": "ema", "ema_every": 2},
    "last": {"average": "last", "average_last": 2, "save_every": 5},
    "accumulate, cosine": {"accumulate": 3, "schedule": "cosine", "save_every": 7},
    "bfloat16": {"precision": "bfloat16", "schedule": "linear"},
    "best": {"final": "best", "validate_every": 3, "keep": 1},
}


@pytest.mark.parametrize("stop", [{"at_loss": 11}, {"at_validation": 2}], ids=["in a step", "in a validation"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_by_a_signal_and_resumed_is_as_never_stopped(tmp_path, variant, stop):
    settings = VARIANTS[variant]
    whole = fit(Tiny(**settings), tmp_path / "whole")
    with pytest.raises(Interrupted) as caught:
        fit(Stopping(**stop, **settings), tmp_path / "parts")
    assert caught.value.exit_code == 143
    assert f"go on with: jogak train {tmp_path}/parts/config.yaml --resume" in str(caught.value)
    parts = fit(Tiny(**settings), tmp_path / "parts", resume=True)
    assert bits(tmp_path / "whole") == bits(tmp_path / "parts")
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert {**whole, "seconds": 0} == {**parts, "seconds": 0}


def test_ctrl_c_saves_and_a_second_one_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in a shell's background
    with pytest.raises(Interrupted, match=r"Ctrl-C at step 5 of 24") as caught:
        fit(Stopping(at_loss=5, number=signal.SIGINT), tmp_path / "one")
    assert caught.value.exit_code == 130
    assert checkpoint.steps(tmp_path / "one" / "checkpoints") == [5]
    with pytest.raises(KeyboardInterrupt):
        fit(Stopping(at_loss=5, number=signal.SIGINT, times=2), tmp_path / "two")
    assert checkpoint.steps(tmp_path / "two" / "checkpoints") == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_says_so_and_more_steps_go_on(tmp_path, capsys):
    folder = tmp_path / "run"
    first = fit(Tiny(validate_every=10), folder)
    before = (folder / "metrics.jsonl").read_bytes()
    assert fit(Tiny(validate_every=10), folder, resume=True) == first
    assert "finished already" in capsys.readouterr().err
    assert (folder / "metrics.jsonl").read_bytes() == before
    more = fit(Tiny(steps=32), folder, resume=True)
    assert more["step"] == 32
    assert Run(folder).recipe().train.steps == 32


class Gradients(Stepper):
    """Keeps the gradients of its update."""

    def update_once(self):
        kept = {}
        self.optimiser.register_step_pre_hook(
            lambda *_: kept.update({n: p.grad.clone() for n, p in self.task.model.named_parameters()})
        )
        self.update(Position(), 0.0, 0)
        return kept


class Uneven(Tiny):
    """Batches of the sizes given, so that their numbers of targets differ."""

    def __init__(self, sizes, **train):
        super().__init__(dropout=0.0, clip=None, **train)
        self.sizes = sizes

    def loader(self, rank, world):
        return Cuts(self.data, self.sizes)


class Cuts(Loader):
    def __init__(self, data, sizes):
        super().__init__(data, max(sizes), 0)
        self.sizes = sizes

    def __next__(self):
        start = sum(self.sizes[: self.drawn])
        self.drawn += 1
        return rows_of(self.data, range(start, start + self.sizes[self.drawn - 1]))


def rows_of(data, rows):
    return collate(data, tuple(rows))


def test_accumulating_parts_of_a_batch_gives_the_gradient_of_the_whole():
    whole = Gradients(Uneven([12]), Ranks(CPU), "float32", NoAverage()).update_once()
    parts = Gradients(Uneven([2, 7, 3], accumulate=3), Ranks(CPU), "float32", NoAverage()).update_once()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_loss_in_metrics_is_the_mean_over_real_targets(tmp_path):
    fit(Tiny(steps=3, log_every=3, label_smoothing=0.0, dropout=0.0, rate=1e-12), tmp_path / "run")
    task = Tiny(dropout=0.0)
    loader = task.loader(0, 1)
    batches = [next(loader) for _ in range(3)]
    total = sum(float(task.loss(b)[1]) for b in batches)
    found = lines(tmp_path / "run")[0]
    assert found["nll"] == pytest.approx(total / sum(b.real_targets for b in batches), rel=1e-5)
    assert found["loss"] == pytest.approx(found["nll"])
    assert found["tokens"] == sum(b.real_targets for b in batches)


def test_validation_sees_the_averaged_weights_and_model_holds_them(tmp_path):
    seen = []

    class Looking(Tiny):
        def validate(self):
            seen.append({n: t.clone() for n, t in tensors_of(self.model).items()})
            assert not self.model.training
            return super().validate()

    task = Looking(average="ema", ema_decay=0.5, steps=8)
    fit(task, tmp_path / "run")
    final = Run(tmp_path / "run").weights()
    assert all(torch.equal(seen[-1][n], final[n]) for n in final)
    raw = storage.read_tensors(tmp_path / "run" / "checkpoints" / "step-8" / "model.safetensors")[0]
    assert not torch.equal(raw["norm.bias"], final["norm.bias"])
    assert all(torch.equal(raw[n], t) for n, t in tensors_of(task.model).items())


def test_validating_more_often_changes_nothing_else(tmp_path):
    fit(Tiny(validate_every=24), tmp_path / "seldom")
    fit(Tiny(validate_every=2), tmp_path / "often")
    assert bits(tmp_path / "seldom") == bits(tmp_path / "often")


class Told(Tiny):
    """A validation that finds what the test says."""

    def __init__(self, found, **train):
        super().__init__(validate_every=1, save_every=100, steps=50, keep=1, **train)
        self.found = iter(found)

    def validate(self):
        return {"loss": 1.0, "accuracy": next(self.found)}


def test_early_stopping_keeps_the_best(tmp_path):
    folder = tmp_path / "run"
    task = Told([1.0, 5.0, 4.0, 5.0, 3.0, 9.0], patience=3)
    figures = fit(task, folder)
    assert (figures["accuracy"], figures["step"]) == (5.0, 2)
    assert json.loads((folder / "finished.json").read_text())["why"] == "patience"
    assert checkpoint.steps(folder / "checkpoints") == [2, 5]  # the best, and the last one
    best = storage.read_tensors(folder / "checkpoints" / "step-2" / "model.safetensors")[0]
    assert all(torch.equal(best[n], t) for n, t in Run(folder).weights().items())


def test_without_patience_the_last_weights_are_kept(tmp_path):
    task = Told([5.0, 1.0, 2.0], final="last")
    task.recipe = task.recipe.model_copy(update={"train": task.recipe.train.model_copy(update={"steps": 3})})
    assert fit(task, tmp_path / "run")["accuracy"] == 2.0
    assert all(torch.equal(t, Run(tmp_path / "run").weights()[n]) for n, t in tensors_of(task.model).items())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_rows_of_and_checkpoint(tmp_path, what):
    class Broken(Tiny):
        calls = 0

        def loss(self, batch):
            self.calls += 1
            trained, plain = super().loss(batch)
            if self.calls == 7:
                self.rows = batch.rows
                trained = trained * float("nan") if what == "loss" else trained.sqrt() * 0 + (trained * 0).sqrt()
            return trained, plain

    task = Broken(save_every=4)
    with pytest.raises(UserError) as caught:
        fit(task, tmp_path / "run")
    message = str(caught.value)
    assert "not finite at step 7" in message
    assert ", ".join(map(str, sorted(task.rows))) in message
    assert f"last good checkpoint: step-4 in {tmp_path}/run/checkpoints" in message
    assert checkpoint.is_good(tmp_path / "run" / "checkpoints", 4)
    assert all(p.isfinite().all() for p in task.model.parameters())


def test_a_full_disk_stops_with_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real = storage.write_tensors

    def full(path, tensors, metadata=None):
        if "step-16" in str(path):
            with storage.storing(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        real(path, tensors, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_tensors", full)
        with pytest.raises(StorageError, match="the disk is full") as caught:
            fit(Tiny(), folder)
    assert caught.value.exit_code == 1
    assert checkpoint.is_good(folder / "checkpoints", 8)
    fit(Tiny(), folder, resume=True)
    fit(Tiny(), tmp_path / "whole")
    assert bits(folder) == bits(tmp_path / "whole")


def test_a_damaged_checkpoint_is_told_and_the_named_way_works(tmp_path):
    folder = tmp_path / "run"
    fit(Tiny(steps=20), folder)
    broken = folder / "checkpoints" / "step-20"
    (broken / "optimiser.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"step-20/optimiser\.safetensors: damaged .* step-16 is whole") as caught:
        fit(Tiny(steps=24), folder, resume=True)
    assert caught.value.exit_code == 2
    broken.rename(broken.with_name("step-20.damaged"))
    fit(Tiny(steps=24), folder, resume=True)
    fit(Tiny(steps=24), tmp_path / "whole")
    assert checkpoint.steps(folder / "checkpoints") == [8, 16, 24]
    assert bits(folder) == bits(tmp_path / "whole")
    assert lines(folder) == lines(tmp_path / "whole")


def test_a_time_budget_ends_the_run_and_is_remembered(tmp_path):
    task = Tiny(steps=100_000, minutes=0.4 / 60, schedule="linear", save_every=1000, validate_every=10**6)
    figures = fit(task, tmp_path / "run")
    assert 0.4 <= figures["seconds"] < 5
    rates = [line["rate"] for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert max(rates) <= 1e-2
    assert rates[-1] < 0.2 * max(rates)
    last = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    state = checkpoint.read(tmp_path / "run" / "checkpoints", last).state
    assert state["position"]["seconds"] >= 0.4
    again = fit(Tiny(**{**task.recipe.train.model_dump(), "minutes": 0.4 / 60}), tmp_path / "run", resume=True)
    assert again == figures


def test_gradient_checkpointing_is_switched_on_or_refused(tmp_path):
    task = Tiny(steps=1, gradient_checkpointing=True)
    fit(task, tmp_path / "run")
    assert task.model.gradient_checkpointing is True
    task = Tiny(steps=1, gradient_checkpointing=True)
    del task.model.gradient_checkpointing
    with pytest.raises(UserError, match="Model does not offer it"):
        fit(task, tmp_path / "other")


def test_compile_without_a_compiler_is_refused_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"train\.compile needs a C\+\+ compiler"):
        fit(Tiny(steps=1, compile=True), tmp_path / "run")


def test_the_callers_generators_are_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fit(Tiny(steps=2), tmp_path / "run")
    assert torch.equal(torch.rand(2), expected)
