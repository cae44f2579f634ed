"""What a user can do, as functions: load, train, compare, run, evaluate, look, plan, names, build_data.

The command and the Python user call the same ones.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from jogak import config, families, models, registry, storage
from jogak.comparing.recipes import Comparison, distinct, entry, with_mixer
from jogak.comparing.report import write as write_report
from jogak.data import builders
from jogak.data.embedded import embedded_names
from jogak.errors import UserError, nearest
from jogak.hub import folder
from jogak.hub.checkpoint import Checkpoint, is_checkpoint, is_hub_name, locate
from jogak.hub.export import export as write_checkpoint
from jogak.hub.export import of_run
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import read
from jogak.hub.verify import Report
from jogak.hub.verify import verify as verify_checkpoint
from jogak.looking import Panel, collect, write
from jogak.models.cost import cost
from jogak.models.plan import describe
from jogak.tasks._inputs import ENDINGS, Runner
from jogak.tasks.contract import Answer, Evaluation, Trained
from jogak.training import fit, machine
from jogak.training.run import Run, load_into

Overrides = Sequence[str] | Mapping[str, object]


@dataclass(frozen=True)
class Result:
    """What a model made of one input: the best answer, its score, every answer asked for, seconds taken."""

    value: str
    score: float
    answers: tuple[Answer, ...]
    seconds: float


class Model:
    """A trained model with its codec, ready to do its task.

    folder: the run. trained: what its task makes of it. recipe, module, codec: what it was trained by, the torch
    module, what turns inputs into units.
    """

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self.trained = folder, trained
        self.recipe, self.module, self.codec = trained.recipe, trained.module, trained.codec

    def run(
        self,
        x: str | Sequence[str],
        *,
        beam: int | None = None,
        n_best: int | None = None,
        max_length: int | None = None,
    ) -> Result | list[Result]:
        """Do the task on one text, or on many at once; what is None is as the run says.

        Raises: UserError for an empty or over-long text, or a setting that the task does not have.
        """
        texts = [x] if isinstance(x, str) else list(x)
        start = perf_counter()
        found = self.trained.predictor(beam=beam, n_best=n_best, max_length=max_length)(texts)
        seconds = (perf_counter() - start) / max(1, len(texts))
        results = [Result(a[0].text, a[0].score, tuple(a), seconds) for a in found]
        return results[0] if isinstance(x, str) else results

    def look(self, text: str) -> list[Panel]:
        """Every attention map of the model while it answers `text`."""
        return self._looked(text)[0]

    def write_look(self, text: str, path: Path) -> None:
        """`look`, written as a page (.html) or a picture (.png)."""
        panels, output = self._looked(text)
        write(path, panels, title=f"{self.folder.name}: attention", source=text, output=output)

    def _looked(self, text: str) -> tuple[list[Panel], str]:
        trace = self.trained.trace(text)
        panels = collect(
            self.module,
            trace.source_ids,
            trace.target_ids,
            source_labels=trace.source_labels,
            target_labels=trace.target_labels,
            written_labels=trace.written_labels,
        )
        return panels, trace.output


def load(
    name: str | Path,
    *,
    dtype: str | None = None,
    device: str = "auto",
    revision: str | None = None,
    token: str | None = None,
) -> Model | Pretrained:
    """The model in a run's folder, an imported one, one in a Hugging Face checkpoint, or under a name on the hub.

    dtype: of a checkpoint's weights, float32 or bfloat16; None: as they are stored. revision, token: of the hub.

    Raises: UserError if there is none, it is damaged, or a newer version of jogak wrote it.
    """
    path = Path(name)
    if is_checkpoint(path) or (not path.exists() and is_hub_name(name)):
        found = locate(name, revision=revision, token=token)
        return Pretrained.of(read(Checkpoint(found), _dtype(dtype), pick_device(device)))
    if folder.is_imported(path):
        return folder.load(path, _dtype(dtype), pick_device(device))
    if dtype not in (None, "float32"):
        raise UserError(f"{name}: a run is kept in float32; dtype is for checkpoints")
    return load_run(path, device=device)


def export(model: str | Path | Model | Pretrained, output: str | Path) -> Path:
    """Write a run, an imported model or a checkpoint as a Hugging Face checkpoint that `transformers` loads.

    Raises: UserError where no family can hold the model, or there is something at `output` already.
    """
    loaded = load(model, device="cpu") if isinstance(model, str | Path) else model
    if isinstance(loaded, Model):
        given = loaded.module.config.model_copy(update={"vocab_size": loaded.codec.vocab_size})
        ids = {f"{role}_token_id": getattr(loaded.codec, f"{role}_id") for role in ("pad", "bos", "eos")}
        loaded = of_run(loaded.folder, loaded.module, given, {n: i for n, i in ids.items() if i is not None})
    write_checkpoint(loaded, Path(output))
    return Path(output)


def import_(name: str | Path, output: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """Read a Hugging Face checkpoint, from a folder or the hub, and write it in jogak's own form.

    Raises: UserError if it cannot be read, or there is something at `output` already.
    """
    found = locate(name, revision=revision, token=token)
    checkpoint = Checkpoint(found)
    folder.save(Pretrained.of(read(checkpoint, checkpoint.dtype)), Path(output))
    return Path(output)


def verify(name: str | Path, *, revision: str | None = None, token: str | None = None) -> Report:
    """Check a Hugging Face checkpoint, from a folder or the hub: keys, tensors there and back, outputs, text.

    Raises: UserError if it cannot be read at all.
    """
    return verify_checkpoint(locate(name, revision=revision, token=token))


def _dtype(name: str | None) -> torch.dtype | None:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is not None and name not in known:
        raise UserError(f"there is no dtype '{name}'{nearest(name, known)}")
    return None if name is None else known[name]


def load_run(name: str | Path, *, device: str = "auto") -> Model:
    """The model in a run's folder.

    Raises: UserError if there is none, it is damaged, or a newer version of jogak wrote it.
    """
    run = Run(Path(name))
    recipe = run.recipe()
    trained = registry.find("tasks", recipe.task).load(recipe, run.folder)
    load_into(trained.module, run.weights(), str(run.model))
    trained.module.to(pick_device(device)).eval()
    return Model(run.folder, trained)


def pick_device(name: str) -> torch.device:
    """The device called `name`; auto: a GPU where there is one.

    Raises: UserError if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device '{name}' here; use auto, cpu, or cuda with a GPU") from None
    return device


def train(
    recipe: str | Path,
    overrides: Overrides = (),
    *,
    resume: bool = False,
    from_: str | None = None,
    overwrite: bool = False,
    mixer: str | None = None,
) -> dict[str, float]:
    """Train what a recipe says into its run's folder; the final figures.

    from_: a run whose weights and codec it starts from. mixer: one for every block of the recipe's model, instead of
    those it names. Raises: UserError naming what is wrong and where.
    """
    read = config.read_recipe(recipe, overrides)
    if mixer is not None:
        read = read.model_copy(update={"model": models.with_mixer(read.model, mixer)})
    module = registry.find("tasks", read.task)
    start = None if from_ is None else load_run(from_, device="cpu")
    task = module.build(read, start=None if start is None else (start.module, start.codec))
    return fit(task, Path(read.run), resume=resume, overwrite=overwrite)


def compare(
    recipe: str | Path,
    names: Sequence[str],
    overrides: Overrides = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Comparison:
    """Train what a recipe says once with each mixer, into folders below its run; a table, and a page beside them.

    names: mixers, or several that take turns in the blocks ("mamba+attention"). A mixer that the recipe's pattern
    has already keeps its options there. resume: go on with what is there.

    Raises: UserError naming what is wrong and where, before anything is trained.
    """
    read = config.read_recipe(recipe, overrides)
    module = registry.find("tasks", read.task)
    plans = {name: with_mixer(read, name) for name in distinct(names)}
    for changed in plans.values():
        models.build(changed.model, changed.codec.vocab_size, device="meta")  # refuses now what it would refuse later
    entries, metric = [], ""
    for name, changed in plans.items():
        task, folder = module.build(changed), Path(changed.run)
        figures = fit(task, folder, resume=resume, overwrite=overwrite)
        entries.append(entry(name, task.model, changed, figures, Run(folder).metrics))
        metric = task.metric
    return Comparison(entries, metric, write_report(Path(read.run), entries, metric, read))


def run(model: str | Path | Model, x: str | Sequence[str], **settings: int | None) -> Result | list[Result]:
    """`Model.run` on a model or its name."""
    return (model if isinstance(model, Model) else load_run(model)).run(x, **settings)


def run_inputs(
    model: str | Path,
    inputs: Sequence[str],
    *,
    as_json: bool = False,
    output: Path | None = None,
    device: str = "auto",
    **settings: int | None,
) -> None:
    """Do the model's task on texts, files and folders, or on standard input where there are none.

    Answers go to standard output, or to `output`: a file, or for a folder a folder.
    """
    _check_inputs(inputs, output)
    loaded = load_run(model, device=device)
    predictor = loaded.trained.predictor(**settings)
    runner = Runner(predictor, field=loaded.trained.field, as_json=as_json, warn=_warn)
    for name in filter(_is_folder, inputs):
        assert output is not None
        for written in runner.folder(Path(name), output):
            print(written, file=sys.stderr)
    others = [name for name in inputs if not _is_folder(name)]
    if others or not inputs:
        _emit(_answers(runner, others), output)


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112  # a sentence can be longer than pathlib takes for a file's name


def _is_file(name: str) -> bool:
    return os.path.isfile(name)  # noqa: PTH113  # as above


def _check_inputs(inputs: Sequence[str], output: Path | None) -> None:
    """Refuse before a model is loaded what cannot be read or written."""
    for name in inputs:
        ending, there = Path(name).suffix, _is_file(name)
        if _is_folder(name):
            if output is None:
                raise UserError(f"{name}: is a folder; say with --output where the answers are to go")
        elif ending in ENDINGS and not there and len(name.split()) == 1:
            raise UserError(f"{name}: there is no such file")
        elif there and ending not in ENDINGS:
            raise UserError(f"{name}: files of this kind are not read; known: {', '.join(ENDINGS)}")
        elif there and ending in (".po", ".pot") and len(inputs) > 1:
            raise UserError(f"{name}: a catalogue cannot share its output; translate it alone, or the folder it is in")


def _answers(runner: Runner, inputs: Sequence[str]) -> Iterator[bytes]:
    if not inputs:
        yield from (line.encode() for line in runner.stdin())
    texts: list[str] = []
    for name in inputs:
        if _is_file(name):
            yield from _texts(runner, texts)
            texts = []
            yield from runner.file(Path(name))
        else:
            texts.append(name)
    yield from _texts(runner, texts)


def _texts(runner: Runner, texts: Sequence[str]) -> Iterator[bytes]:
    return (line.encode() for line in runner.texts(texts))


def _emit(parts: Iterable[bytes], output: Path | None) -> None:
    if output is not None:
        storage.write_bytes(output, b"".join(parts))
        return
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


def _warn(sentence: str) -> None:
    print(f"jogak: {sentence}", file=sys.stderr)


def evaluate(
    model: str | Path | Model, data: Sequence[str] | None = None, *, beam: int | None = None, device: str = "auto"
) -> Evaluation:
    """Measure a model on its own held-out test, or on all of `data`, beside the baselines of its task.

    Raises: UserError if there is nothing to measure on.
    """
    loaded = model if isinstance(model, Model) else load_run(model, device=device)
    return loaded.trained.evaluate(data, _progress, beam=beam)


def look(model: str | Path | Model, text: str, output: str | Path = "look.html") -> Path:
    """Write every attention map of one input as a page (.html) or a picture (.png)."""
    loaded = model if isinstance(model, Model) else load_run(model)
    loaded.write_look(text, Path(output))
    return Path(output)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error where that is a terminal; the block is given what to call with each count done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        job = bar.add_task(what, total=total)
        yield lambda count: bar.advance(job, count)


def plan(name: str, overrides: Overrides = (), *, length: int | None = None) -> str:
    """What the model of a preset or recipe would cost, as lines to read; it is not built.

    length: units on each side of one example; None: the recipe's longest, or 512.
    """
    recipe = None
    if name in registry.preset_names() and not Path(name).exists():
        if overrides:
            raise UserError("overrides change a recipe; give a recipe's file to plan with them")
        given = config.read_preset(name)
    elif Path(name).exists() or Path(name).suffix in (".yaml", ".yml"):
        recipe = config.read_recipe(name, overrides)
        given = recipe.model
        if given.vocab_size is None:
            given = given.model_copy(update={"vocab_size": recipe.codec.vocab_size})
    else:
        raise UserError(f"{name}: neither a preset nor a recipe's file{nearest(name, registry.preset_names())}")
    found = cost(given, length or (recipe.data.max_length if recipe else 512))
    speed = machine.peak("float32", "cpu", torch.get_num_threads())
    return describe(name, given, found, speed, None if recipe is None else recipe.train)


def names(kind: str) -> list[str]:
    """What there is of a kind: mixers, tasks, families (each with what it supports), presets, data.

    Raises: UserError for another kind.
    """
    known = {
        "mixers": lambda: registry.names("mixers"),
        "tasks": lambda: registry.names("tasks"),
        "families": lambda: [f"{name}: {families.find(name).SUPPORTS}" for name in families.names()],
        "presets": registry.preset_names,
        "data": lambda: [*(f"embedded:{n}" for n in [*embedded_names(), "languages", "pydoc"]), *builders.names()],
    }
    if kind not in known:
        raise UserError(f"there is no list of '{kind}'{nearest(kind, known)}")
    return known[kind]()


def build_data(name: str, output: Path, options: Sequence[str] = ()) -> Path:
    """Build a data set from public packages into a folder; the file that it wrote. Uses the network.

    options: key=value for the builder; a list is written a,b.

    Raises: UserError for what it does not know or cannot fetch.
    """
    build = builders.find(name).build
    known = {key: p.default for key, p in inspect.signature(build).parameters.items() if key != "out"}
    given: dict[str, str | list[str]] = {}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign:
            raise UserError(f"'{option}' is not an option; write key=value; known: {', '.join(known)}")
        if key not in known:
            raise UserError(f"data set '{name}' has no option '{key}'{nearest(key, known)}")
        given[key] = value if isinstance(known[key], str) else [part for part in value.split(",") if part]
    return build(output, **given)  # pyright: ignore[reportArgumentType]  # as the defaults of `known` say
