"""What a user can do, as functions: load, train, compare, run, evaluate, look, plan, names, build_data.

The command and the Python user call the same ones.
"""

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch

from jogak import config, families, models, registry, storage
from jogak.comparing.recipes import Comparison, distinct, entry, with_mixer
from jogak.comparing.report import write as write_report
from jogak.data import builders
from jogak.data.embedded import embedded_names
from jogak.decoding.answers import Generation, Piece
from jogak.decoding.generate import Generator
from jogak.decoding.prefix import PrefixCache
from jogak.errors import UserError, nearest
from jogak.hub import folder
from jogak.hub.checkpoint import Checkpoint, is_checkpoint, is_hub_name, locate
from jogak.hub.export import export as write_checkpoint
from jogak.hub.predictors import predictor
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import read
from jogak.hub.runs import export_run
from jogak.hub.verify import Report
from jogak.hub.verify import verify as verify_checkpoint
from jogak.hub.writing import chat_settings
from jogak.hub.writing import generator as generator_of
from jogak.layers.quantised import is_quantised, quantise
from jogak.looking import Panel, collect, write
from jogak.ops.quantised import Kind
from jogak.tasks._chat import Chat, from_terminal, talk
from jogak.tasks._decode import decoding_of, to_stream
from jogak.tasks._inputs import ENDINGS, Runner
from jogak.tasks.contract import Evaluation, Predictor, Result, Trained, Writes, results
from jogak.training import fit, machine
from jogak.training.run import Run, load_into, write_packed

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")  # files of sound; all but .wav need the package soundfile
CHAT_BYTES = 1 << 29  # of states that a conversation keeps, so that its history is read once

Overrides = Sequence[str] | Mapping[str, object]


class Model:
    """A trained model with its codec, ready to do its task.

    folder: the run. trained: what its task makes of it. recipe, module, codec: what it was trained by, the torch
    module, what turns inputs into units.
    """

    def __init__(self, folder: Path, trained: Trained) -> None:
        self.folder, self.trained = folder, trained
        self.recipe, self.module, self.codec = trained.recipe, trained.module, trained.codec

    def run(self, x: str | Sequence[str], **settings: Any) -> Result | list[Result]:  # noqa: ANN401
        """Do the task on one text, or on many at once.

        settings: keys of a recipe's `decode` section, changed for this time; what is None is as the run says.

        Raises: UserError for an empty or over-long text, or a setting that the task does not have.
        """
        return results(self.trained.predictor(**settings), x)

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        stream: Literal[False] = ...,
        **settings: Any,  # noqa: ANN401
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        stream: Literal[True],
        **settings: Any,  # noqa: ANN401
    ) -> Iterator[Piece]: ...

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        stream: bool = False,
        **settings: Any,
    ) -> Generation | Iterator[Piece]:
        """What the model writes behind a prompt (of a translator: its answer to a source), a text or ids.

        stream: its pieces while they come. settings: of jogak.decoding.settings; what is not given is as the run says.
        Of several answers (n) the best; `generator` gives them all.

        Raises: UserError for a model that does not write, or settings that do not fit.
        """
        made = self.generator()
        ids = made.encode(prompt) if isinstance(prompt, str) else list(prompt)
        decode = to_stream(self.recipe.decode, settings) if stream else self.recipe.decode
        asked = decoding_of(decode, settings)
        return made.stream([ids], asked) if stream else made.generate([ids], asked)[0][0]

    def generator(self, *, cache: PrefixCache | None = None, draft: "Model | None" = None) -> Generator:
        """The model ready to write many requests at once. cache: prompts that begin alike are read once. draft: a
        smaller model with the same codec, for draft_tokens.

        Raises: UserError for a model that does not write, or a draft that does not fit.
        """
        trained = self.trained
        if not isinstance(trained, Writes):
            raise UserError(f"{self.folder}: this model writes nothing; run() gives its answers")
        if draft is not None and draft.codec.digest != self.codec.digest:
            raise UserError(f"{draft.folder}: a draft needs the codec of {self.folder}; train it from that run")
        return trained.generator(cache, None if draft is None else draft.module)

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


def _predictor(model: Model | Pretrained, **settings: Any) -> Predictor:  # noqa: ANN401
    return model.trained.predictor(**settings) if isinstance(model, Model) else predictor(model, **settings)


def load(
    name: str | Path,
    *,
    dtype: str | None = None,
    device: str = "auto",
    revision: str | None = None,
    token: str | None = None,
) -> Model | Pretrained:
    """The model in a run's folder, an imported one, one in a Hugging Face checkpoint, or under a name on the hub.

    dtype: of a checkpoint's weights, float32 or bfloat16, or int8 or int4 for its matrices; None: as they are stored.
    revision, token: of the hub.

    Raises: UserError if there is none, it is damaged, or a newer version of jogak wrote it.
    """
    path = Path(name)
    if is_checkpoint(path) or (not path.exists() and is_hub_name(name)):
        found = locate(name, revision=revision, token=token)
        loaded = Pretrained.of(read(Checkpoint(found), _dtype(dtype), pick_device(device)))
    elif folder.is_imported(path):
        loaded = folder.load(path, _dtype(dtype), pick_device(device))
    else:
        loaded = load_run(path, device=device)
    _pack(loaded, dtype, str(name))
    return loaded


def _pack(model: Model | Pretrained, dtype: str | None, where: str) -> None:
    """Give a model that was loaded the matrices that are asked for; of a run in bfloat16 nothing else changes."""
    held = is_quantised(model.module)
    if held is not None and dtype not in (None, held):
        raise UserError(f"{where}: its matrices are kept in {held}; load {dtype} from what it was made of")
    if held is None and (dtype in ("int8", "int4") or (dtype == "bfloat16" and isinstance(model, Model))):
        quantise(model.module, cast(Kind, dtype))


def export(model: str | Path | Model | Pretrained, output: str | Path, *, dtype: str | None = None) -> Path:
    """Write a run, an imported model or a checkpoint as a Hugging Face checkpoint that `transformers` loads.

    dtype: bfloat16, int8 or int4: in jogak's own form instead, its matrices kept so, which jogak alone reads.

    Raises: UserError where no family can hold the model, or there is something at `output` already.
    """
    loaded = load(model, device="cpu", dtype=dtype) if isinstance(model, str | Path) else model
    kind = is_quantised(loaded.module)
    if dtype is not None and kind is not None:
        if isinstance(loaded, Model):
            write_packed(Run(loaded.folder), loaded.module, Path(output))
        else:
            folder.save(loaded, Path(output))
    elif kind is not None:
        raise UserError(f"{loaded.folder}: its matrices are {kind}, which no other program reads; name it as the dtype")
    elif isinstance(loaded, Model):
        export_run(loaded.trained, loaded.folder, Path(output))
    else:
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
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": None, "int4": None}
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
    if (kind := run.kind) is not None:
        quantise(trained.module, kind, numbers=False)
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
    if start is not None and (kind := is_quantised(start.module)) is not None:
        raise UserError(f"{from_}: its matrices are {kind}, which do not learn; start from what it was made of")
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


def run(
    model: str | Path | Model | Pretrained,
    x: str | Sequence[str],
    **settings: Any,  # noqa: ANN401
) -> Result | list[Result]:
    """Do the task of a model, or of the one that has a name, on one text or on many at once.

    Raises: UserError for an empty or over-long text, or a setting that the model does not have.
    """
    return results(_predictor(load(model) if isinstance(model, str | Path) else model, **settings), x)


def run_inputs(
    model: str | Path,
    inputs: Sequence[str],
    *,
    as_json: bool = False,
    output: Path | None = None,
    device: str = "auto",
    dtype: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Do the model's task on texts, files and folders, or on standard input where there are none.

    Answers go to standard output, or to `output`: a file, or for a folder a folder.
    """
    _check_inputs(inputs, output)
    loaded = load(model, device=device, dtype=dtype)
    field = loaded.trained.field if isinstance(loaded, Model) else "text"
    predictor = _predictor(loaded, **settings)
    runner = Runner(predictor, field=field, as_json=as_json, warn=_warn)
    if _check_sounds(model, inputs, hears=getattr(predictor, "reads_sound", False)):
        _emit(_texts(runner, inputs), output)
        return
    for name in filter(_is_folder, inputs):
        assert output is not None
        for written in runner.folder(Path(name), output):
            print(written, file=sys.stderr)
    others = [name for name in inputs if not _is_folder(name)]
    if others or not inputs:
        _emit(_answers(runner, others), output)


def chat(
    model: str | Path,
    *,
    system: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> None:
    """Hold a conversation in the terminal, or with the lines of standard input; answers come while they are written.

    system: what the model is told before all else. settings: as of Model.generate.

    Raises: UserError for a model that knows no conversation, or settings with which nothing can be streamed.
    """
    loaded = load(model, device=device, dtype=dtype)
    cache = PrefixCache(CHAT_BYTES)
    if isinstance(loaded, Pretrained):
        made = generator_of(loaded, cache=cache)
        asked = decoding_of(config.Decode(), {**chat_settings(loaded), **settings})
        talking = Chat(made, asked, template=loaded.chat if loaded.has_chat else None, system=system)
    else:
        decode = to_stream(loaded.recipe.decode, settings)
        talking = Chat(loaded.generator(cache=cache), decoding_of(decode, settings), system=system)
    talk(talking, from_terminal(), sys.stdout, _warn)


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
        elif ending in (*ENDINGS, *SOUNDS) and not there and len(name.split()) == 1:
            raise UserError(f"{name}: there is no such file")
        elif there and ending not in (*ENDINGS, *SOUNDS):
            raise UserError(f"{name}: files of this kind are not read; known: {', '.join([*ENDINGS, *SOUNDS])}")
        elif there and ending in (".po", ".pot") and len(inputs) > 1:
            raise UserError(f"{name}: a catalogue cannot share its output; translate it alone, or the folder it is in")


def _check_sounds(model: object, inputs: Sequence[str], *, hears: bool) -> bool:
    """Whether the inputs are files of sound and the model hears; refuses one without the other."""
    sounds = [name for name in inputs if Path(name).suffix in SOUNDS and _is_file(name)]
    if hears and len(sounds) < max(1, len(inputs)):
        raise UserError(f"{model}: hears files of sound ({', '.join(SOUNDS)}) and reads nothing else; give their names")
    if sounds and not hears:
        raise UserError(f"{sounds[0]}: is a file of sound, and {model} does not hear")
    return hears


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
    model: str | Path | Model,
    data: Sequence[str] | None = None,
    *,
    device: str = "auto",
    **settings: Any,  # noqa: ANN401
) -> Evaluation:
    """Measure a model on its own held-out test, or on all of `data`, beside the baselines of its task.

    settings: keys of a recipe's `decode` section, changed for this time. Raises: UserError if there is nothing to
    measure on, or the task has no such setting.
    """
    loaded = model if isinstance(model, Model) else load_run(model, device=device)
    return loaded.trained.evaluate(data, _progress, **settings)


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
    from jogak.models.cost import cost  # brings triton, where there is one: a tenth of a second for every verb
    from jogak.models.plan import describe

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
