"""Proof that a checkpoint is read rightly: its keys, its tensors on the way back, and, where `transformers` is
installed, its outputs there and here, block by block, and the text that both write.

Legend: B batch, T time, D model width.
"""

import importlib
from collections.abc import Iterator
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
from jogak.models import Classifier, Coder, Decoder, Encoder, EncoderDecoder

CLOSE = 1e-4  # of the largest number
ROWS, LENGTH, WRITTEN = 2, 12, 16


@dataclass
class Report:
    """What was found; `holds` only if everything that was checked does.

    keys: "" or what is wrong with them. dropped: keys that are left out knowingly. changed: keys whose tensors do not
    come back the same. outputs and blocks: largest differences, as a part of the largest number; departs: the
    first block that is not within CLOSE. text: whether greedy ids agree. against: the version of transformers, None
    where it is not installed or does not have the model; None elsewhere: not checked.
    """

    folder: str
    family: str
    keys: str = ""
    dropped: list[str] = field(default_factory=list)
    tensors: int = 0
    changed: list[str] = field(default_factory=list)
    against: str | None = None
    outputs: float | None = None
    blocks: dict[str, float] = field(default_factory=dict)
    departs: str | None = None
    text: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing that was checked fails."""
        near = self.outputs is None or self.outputs <= CLOSE
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
        if self.against is None:
            lines.append("  outputs      not compared: transformers is not installed, or does not load it")
        elif self.outputs is not None:
            lines.append(f"  outputs      {_told(self.outputs)} from transformers {self.against}")
            if self.blocks:
                where = "none departs" if self.departs is None else f"the first that departs: {self.departs}"
                lines.append(f"  blocks       {len(self.blocks)} compared, {where}")
                worst = max(self.blocks, key=lambda name: self.blocks[name])
                lines.append(f"               largest {self.blocks[worst]:.1e}, in {worst}")
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
    theirs = _theirs(checkpoint)
    if theirs is not None:
        version, model = theirs
        report.against = version
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
        reader.done()
    return count, changed


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _theirs(checkpoint: Checkpoint) -> tuple[str, nn.Module] | None:
    """The version of transformers and the model as it loads it, float32; None where it cannot."""
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError:
        return None
    name = (checkpoint.config.get("architectures") or [""])[0]
    kind = getattr(library, name, None) or library.AutoModel
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    model = kind.from_pretrained(checkpoint.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False)
    return library.__version__, model.eval()


# ---------------------------------------------------------------- outputs


def _compare(report: Report, made: Plan, theirs: Any) -> None:  # noqa: ANN401  # a model of transformers
    ours, given = _inputs(made, theirs)
    kept: dict[str, list[Tensor]] = {}
    with _watching(made, kept):
        found = made.model(*ours)
    told = theirs(**given, output_hidden_states=True)
    wanted = next(told[name] for name in ("logits", "last_hidden_state") if name in told)
    report.outputs = _distance(found, wanted)
    names = {"encoder": "encoder_hidden_states", "decoder": "decoder_hidden_states"}
    for side, states in kept.items():
        beside = told.get(names[side]) if len(kept) > 1 else told.get("hidden_states")
        if beside is None or len(beside) != len(states):
            continue
        for index, (a, b) in enumerate(zip(states, beside, strict=True)):
            name = f"{side} block {index}" if index else f"{side} embedding"
            report.blocks[name] = _distance(a, b) if a.shape == b.shape else float("inf")
    report.departs = next((name for name, value in report.blocks.items() if value > CLOSE), None)
    if isinstance(made.model, Decoder) and made.given.head.kind == "units" and made.given.input is None:
        report.text = _same_text(made, theirs, ours[0])


def _inputs(made: Plan, theirs: Any) -> tuple[list[Tensor], dict[str, Tensor]]:  # noqa: ANN401
    """Random inputs, for our module and for theirs."""
    generator = torch.Generator().manual_seed(0)
    model, given = made.model, made.given

    def ids(size: int, length: int) -> Tensor:
        return torch.randint(min(10, size - 1), size, (ROWS, length), generator=generator)

    size = given.vocab_size or 1
    first = _first(model)
    raw = ids(given.source_vocab_size or size, LENGTH) if first.input is None else first.input.example(ROWS)
    ours, named = [raw], {theirs.main_input_name: raw}
    if isinstance(model, EncoderDecoder):
        target = ids(size, LENGTH // 2)
        ours.append(target)
        named["decoder_input_ids"] = target
    return ours, named


def _first(model: nn.Module) -> Coder:
    if isinstance(model, Classifier):
        return model.coder
    if isinstance(model, Encoder | EncoderDecoder):
        return model.encoder
    assert isinstance(model, Decoder)
    return model.decoder


def _coders(model: nn.Module) -> dict[str, Coder]:
    if isinstance(model, Classifier):
        return {model.config.topology: model.coder}
    return {side: coder for side in ("encoder", "decoder") if (coder := getattr(model, side, None)) is not None}


@contextmanager
def _watching(made: Plan, kept: dict[str, list[Tensor]]) -> Iterator[None]:
    """Keep what every stack reads and what each of its blocks writes; the last one normed, as transformers has it."""
    handles = []
    for side, coder in _coders(made.model).items():
        states = kept.setdefault(side, [])

        def before(module: nn.Module, inputs: tuple[Tensor, ...], states: list[Tensor] = states) -> None:
            states.append(inputs[0])

        def after(
            module: nn.Module, inputs: object, output: tuple[Tensor, object], states: list[Tensor] = states
        ) -> None:
            states.append(output[0])

        def last(module: nn.Module, inputs: object, output: Tensor, states: list[Tensor] = states) -> None:
            states[-1] = output

        handles.append(coder.stack.register_forward_pre_hook(before))
        handles += [block.register_forward_hook(after) for block in coder.stack.blocks]
        if coder.stack.final_norm is not None:
            handles.append(coder.stack.final_norm.register_forward_hook(last))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def _same_text(made: Plan, theirs: Any, ids: Tensor) -> bool:  # noqa: ANN401
    """Whether both go on alike, greedily, with no ids that end or are forbidden."""
    library: Any = importlib.import_module("transformers")
    model = Pretrained.of(made)
    start = model.special("decoder_start_token_id", model.special("bos_token_id", 0))
    plain = library.GenerationConfig(pad_token_id=0, eos_token_id=None, decoder_start_token_id=start)
    theirs.generation_config = plain
    settings: dict[str, Any] = {"max_new_tokens": WRITTEN, "do_sample": False, "num_beams": 1}
    wanted = theirs.generate(ids, attention_mask=torch.ones_like(ids), generation_config=plain, **settings)
    skip = 1 if isinstance(made.model, EncoderDecoder) else ids.shape[1]
    found = model.generate(ids, max_new_tokens=WRITTEN, end=-1, start=start).ids
    return found == wanted[:, skip:].tolist()
