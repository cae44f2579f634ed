"""Proof that a checkpoint is read rightly: its keys, its tensors on the way back, and, where `transformers` is
installed, its outputs there and here, block by block, and the text that both write.

Legend: B batch, T time, D model width.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jogak.errors import UserError
from jogak.hub import keymap
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import Plan, plan, read
from jogak.models import Classifier, Coder, Decoder, EncoderDecoder, Towers

CLOSE = 1e-4  # of the largest number
ROWS, LENGTH, WRITTEN = 2, 12, 16
NOT_THERE = "transformers is not installed"
OUTPUTS = (  # the first that is there
    "logits",
    "logits_per_image",
    "text_embeds",
    "image_embeds",
    "prediction_outputs",
    "prediction_logits",
    "prediction_output",
    "regression_outputs",
    "last_hidden_state",
)


@dataclass
class Report:
    """What was found; `holds` only if everything that was checked does.

    keys: "" or what is wrong with them. dropped: keys that are left out knowingly. changed: keys whose tensors do not
    come back the same. outputs and blocks: largest differences, as a part of the largest number; departs: the
    first block that is not within CLOSE. text: whether greedy ids agree. against: the version of transformers;
    alone: why nothing is compared with it. None elsewhere: not checked.
    """

    folder: str
    family: str
    keys: str = ""
    dropped: list[str] = field(default_factory=list)
    tensors: int = 0
    changed: list[str] = field(default_factory=list)
    against: str | None = None
    alone: str = ""
    outputs: float | None = None
    blocks: dict[str, float] = field(default_factory=dict)
    departs: str | None = None
    text: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing that was checked fails."""
        near = self.outputs <= CLOSE if self.outputs is not None else self.alone in ("", NOT_THERE)
        return not self.keys and not self.changed and near and self.text is not False

    def to_dict(self) -> dict[str, object]:
        """As plain data."""
        return {**asdict(self), "holds": self.holds}

    def table(self) -> str:
        """As lines to read."""
        left = f" ({len(self.dropped)} left out: {', '.join(self.dropped[:3])})" if self.dropped else ""
        lines = [f"{self.folder}: {self.family}", f"  keys         {self.keys or f'all known{left}'}"]
        if not self.keys:
            lost = f"{len(self.changed)} of {self.tensors} differ: {', '.join(self.changed[:3])}"
            lines.append(f"  round trip   {lost if self.changed else f'all {self.tensors} tensors equal'}")
        if self.alone:
            lines.append(f"  outputs      not compared: {self.alone}")
        elif self.outputs is not None:
            lines.append(f"  outputs      {_told(self.outputs)} from transformers {self.against}")
            if self.blocks:
                where = "none departs" if self.departs is None else f"the first that departs: {self.departs}"
                lines.append(f"  blocks       {len(self.blocks)} compared, {where}")
                worst = max(self.blocks, key=lambda name: self.blocks[name])
                lines.append(f"               largest {self.blocks[worst]:.1e}, in {worst}")
            else:
                lines.append("  blocks       not compared: those of transformers are not found")
        if self.text is not None:
            told = "the same, token for token" if self.text else "NOT the same"
            lines.append(f"  greedy text  {told}")
        lines.append("  holds" if self.holds else "  DOES NOT HOLD")
        return "\n".join(lines)


def _told(value: float) -> str:
    return f"{value:.1e} of the largest number" + ("" if value <= CLOSE else f", more than {CLOSE}")


def verify(folder: Path) -> Report:
    """Check a checkpoint in every way that is possible here.

    Raises: UserError where it cannot be read at all: no such folder, damaged files, an unsupported family.
    """
    checkpoint = Checkpoint(folder)
    report = Report(str(folder), checkpoint.model_type)
    try:
        made = plan(checkpoint)
    except UserError as error:
        if "key '" not in str(error):
            raise
        report.keys = str(error).removeprefix(f"{folder}: ")
        return report
    report.dropped = made.found.dropped
    made = read(checkpoint, checkpoint.dtype)
    report.tensors, report.changed = _round_trip(made)
    theirs = _theirs(checkpoint, getattr(made.family, "SETTLED", {}))
    if isinstance(theirs, str):
        report.alone = theirs
    else:
        report.against, model = theirs
        if checkpoint.dtype != torch.float32:
            made = read(checkpoint, torch.float32)
        with torch.no_grad():
            _compare(report, made, model)
    return report


def _round_trip(made: Plan) -> tuple[int, list[str]]:
    """How many tensors there are, and the keys of those that do not come back bit for bit."""
    ours, reader, changed = keymap.our_tensors(made.model), made.checkpoint.reader(), list[str]()
    count = 0
    for step in made.found.steps:
        for key, tensor in zip(step.theirs, step.rule.back([ours[o].detach() for o in step.ours]), strict=True):
            count += 1
            before = reader.get(made.found.names[key])
            # As bits, so that a NaN is equal to itself.
            if before.dtype != tensor.dtype or not torch.equal(_bits(before), _bits(tensor)):
                changed.append(key)
    return count, changed


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)  # flat, since one number alone has no last axis


def _theirs(checkpoint: Checkpoint, settled: Mapping[str, object]) -> tuple[str, nn.Module] | str:
    """The version of transformers and the model as it loads it, float32; or why it does not.

    settled: fields of config.json without which theirs hides some of its input by chance.
    """
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError:
        return NOT_THERE
    name = (checkpoint.config.get("architectures") or [""])[0]
    kind = getattr(library, name, None) or library.AutoModel
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    settings = {"dtype": torch.float32, "local_files_only": True, "trust_remote_code": False}
    settings |= settled
    try:
        return library.__version__, kind.from_pretrained(checkpoint.folder, **settings).eval()
    except Exception as error:  # whatever another library says of what jogak has read
        why = " ".join(str(error).split())[:200] or type(error).__name__
        return f"transformers {library.__version__} does not load it ({why})"


# ---------------------------------------------------------------- outputs


def _compare(report: Report, made: Plan, theirs: Any) -> None:  # noqa: ANN401  # a model of transformers
    ours, given = _inputs(made, theirs)
    found, wanted = _Watched(), _Watched()
    coders = _coders(made.model)
    beside = {side: blocks for side, coder in coders.items() if (blocks := _blocks(theirs, side, coder)) is not None}
    with found.watching({side: coders[side].stack.blocks for side in beside}), wanted.watching(beside):
        output, told = made.model(*ours), theirs(**given)
    report.outputs = _distance(output, next(told[name] for name in OUTPUTS if name in told))
    report.blocks = {name: _distance(x, wanted.kept[name].reshape(x.shape)) for name, x in found.kept.items()}
    report.departs = next((name for name, value in report.blocks.items() if not value <= CLOSE), None)  # or NaN
    if report.departs is None and report.blocks and not report.outputs <= CLOSE:
        report.departs = "what follows the blocks"
    if isinstance(made.model, Decoder) and made.given.head.kind == "units":
        report.text = _same_text(made, theirs, ours[0])


def _inputs(made: Plan, theirs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:  # noqa: ANN401
    """Random inputs, for our module and for theirs."""
    generator = torch.Generator().manual_seed(0)
    model, given = made.model, made.given

    def ids(size: int, length: int) -> Tensor:
        return torch.randint(min(10, size - 1), size, (ROWS, length), generator=generator)

    if isinstance(model, Towers):
        assert model.first.encoder.input is not None
        pixels, words = model.first.encoder.input.example(ROWS), ids(model.second.config.vocab_size or 1, LENGTH)
        return [pixels, words], {"pixel_values": pixels, "input_ids": words}
    size = given.vocab_size or 1
    first = next(iter(_coders(model).values()))
    raw = ids(given.source_vocab_size or size, LENGTH) if first.input is None else first.input.example(ROWS)
    ours, named = [raw], {theirs.main_input_name: raw}
    if isinstance(model, EncoderDecoder):
        target = ids(size, LENGTH // 2)
        ours.append(target)
        named["decoder_input_ids"] = target
    return ours, named


def _coders(model: nn.Module) -> dict[str, Coder]:
    if isinstance(model, Classifier):
        return {model.config.topology: model.coder}
    if isinstance(model, Towers):
        return {"vision": model.first.encoder, "text": model.second.encoder}
    return {side: coder for side in ("encoder", "decoder") if (coder := getattr(model, side, None)) is not None}


def _blocks(theirs: nn.Module, side: str, coder: Coder) -> Iterable[nn.Module] | None:
    """The blocks of theirs: its outermost list of as many modules as ours has, in the part that is named after side
    if there is one; None where that is not one alone."""
    lists = {n: m for n, m in theirs.named_modules() if isinstance(m, nn.ModuleList)}
    outer = {n: m for n, m in lists.items() if not any(n.startswith(f"{other}.") for other in lists)}
    fits = {n: m for n, m in outer.items() if len(m) == len(coder.stack.blocks)}
    named = [m for n, m in fits.items() if {side, f"{side}_model"} & set(n.split("."))] or list(fits.values())
    return named[0] if len(named) == 1 else None


class _Watched:
    """What the first block of each side reads and what every block writes, by name, in the order of the model.

    Blocks are watched themselves, since what a model of transformers calls its hidden states differs: some leave out
    the embedding, some norm the last one.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, sides: Mapping[str, Iterable[nn.Module]]) -> Iterator[None]:
        handles = []
        for side, blocks in sides.items():
            for number, block in enumerate(blocks, 1):
                if number == 1:
                    handles.append(block.register_forward_pre_hook(self._before(f"{side} embedding"), with_kwargs=True))
                handles.append(block.register_forward_hook(self._after(f"{side} block {number}")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self.kept[name] = inputs[0] if inputs else next(t for t in named.values() if isinstance(t, Tensor))

        return keep

    def _after(self, name: str) -> Callable[[nn.Module, object, Any], None]:
        def keep(module: nn.Module, inputs: object, output: Any) -> None:  # noqa: ANN401  # a tensor, or a tuple
            self.kept[name] = output if isinstance(output, Tensor) else output[0]

        return keep


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def _same_text(made: Plan, theirs: Any, given: Tensor) -> bool:  # noqa: ANN401
    """Whether both go on alike, greedily, with no ids that end or are forbidden."""
    library: Any = importlib.import_module("transformers")
    model = Pretrained.of(made)
    start = model.special("decoder_start_token_id", model.special("bos_token_id", 0))
    plain = library.GenerationConfig(pad_token_id=0, eos_token_id=None, decoder_start_token_id=start)
    theirs.generation_config = plain
    settings: dict[str, Any] = {"max_new_tokens": WRITTEN, "do_sample": False, "num_beams": 1}
    if made.given.input is None:
        settings["attention_mask"] = torch.ones_like(given)
    # The class's own generate may be another (Whisper's cuts and joins), which is asked for nothing here.
    write = library.GenerationMixin.generate
    wanted = write(theirs, **{theirs.main_input_name: given}, generation_config=plain, **settings)
    skip = 1 if isinstance(made.model, EncoderDecoder) else given.shape[1]
    found = model.generate(given, max_new_tokens=WRITTEN, end=-1, start=start).ids
    return found == wanted[:, skip:].tolist()
