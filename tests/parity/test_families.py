"""Every family: a tiny random model of `transformers` in, the same numbers and the same tensors back out.

One test over all files of `jogak.families`; a new one is found by its name, and its TINY says what is tried.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jogak import families, models
from jogak.errors import UserError
from jogak.families._fields import Fields
from jogak.hub import keymap
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.export import export
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import plan, read
from jogak.hub.runs import of_run
from jogak.hub.verify import verify
from jogak.hub.write import write
from jogak.mixers import Context
from jogak.models import Decoder, EncoderDecoder
from tests.parity.family_inputs import Inputs, inputs_of

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

Case = tuple[nn.Module, Path, Inputs]
CASES = [(name, architecture) for name in families.names() for architecture in families.find(name).TINY]
WRITTEN = [case for case in CASES if hasattr(families.find(case[0]), "write_config")]  # runs go out as these
DASHED = ("openai_gpt",)  # families whose model type has a dash
PRESENT = ("esm",)  # saved with present keys; the older ones that transformers writes by default are test_esm.py's
ALONE = ("recurrent_gemma",)  # padding on the left changes what theirs writes: in test_recurrent_gemma.py without it
CLOSE = 1e-4  # of the largest entry
pytestmark = pytest.mark.filterwarnings("ignore")


def configuration(name: str, architecture: str) -> Any:
    """The tiny configuration as `transformers` has it, without special ids outside of its vocabulary."""
    fields = families.find(name).TINY[architecture]
    stored = getattr(families.find(name), "MODEL_TYPE", name)
    given = transformers.AutoConfig.for_model(stored.replace("_", "-") if name in DASHED else stored, **fields)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = getattr(given, key, None)
        if key not in fields and isinstance(value, int) and value >= (getattr(given, "vocab_size", None) or 0) > 0:
            setattr(given, key, None)
    return given


def cases(*, writes: bool = False, topology: str = "") -> Any:
    """Those of a topology, or whose head writes; as a parameter of a test."""
    found = []
    for name, architecture in CASES:
        if writes and name in ALONE:
            continue
        fields = {**configuration(name, architecture).to_dict(), "architectures": [architecture]}
        given = families.find(name).read_config(Fields(fields, name))
        fits = given.topology != "encoder" and given.head.kind == "units" if writes else given.head.kind != "classes"
        if fits and topology in ("", given.topology):
            found.append((name, architecture))
    return pytest.mark.parametrize("case", found, ids="-".join, indirect=True)


@cache
def theirs(name: str, architecture: str) -> nn.Module:
    """A random tiny model of `transformers`, every one of its numbers drawn: no bias zero, no norm one."""
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(configuration(name, architecture)).eval()
    learned = {n for n, p in model.named_parameters() if p.requires_grad} | {n for n, _ in model.named_buffers()}
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key in learned and tensor.is_floating_point():  # what is worked out (sines, cosines) stays
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


@cache
def folder(name: str, architecture: str, root: Path) -> Path:
    path = root / f"{name}-{architecture}"
    theirs(name, architecture).save_pretrained(path, save_original_format=name not in PRESENT)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(params=CASES, ids="-".join, scope="module")
def case(request: pytest.FixtureRequest, root: Path) -> Case:
    name, architecture = request.param
    model = theirs(name, architecture)
    return model, folder(name, architecture, root), inputs_of(model)


def close(ours: Tensor, wanted: Tensor, real: Tensor | None = None, tolerance: float = CLOSE) -> None:
    ours, wanted = ours.float(), wanted.float()
    assert ours.shape == wanted.shape
    error = (ours - wanted).abs()
    if real is not None:
        error = error[real]
    assert float(error.max()) <= tolerance * float(wanted.abs().max())


@torch.no_grad()
def test_outputs(case: Case) -> None:
    model, path, inputs = case
    ours = read(Checkpoint(path)).model
    close(ours(*inputs.ours), inputs.output(model), inputs.real)
    if inputs.masked:  # and without any padding
        close(ours(*inputs.bare().ours), inputs.bare().output(model))


@torch.no_grad()
def test_bfloat16(case: Case) -> None:
    """Our bfloat16 is as near to float32 as theirs is, within twice and a part in a hundred."""
    model, path, inputs = case
    exact = inputs.output(model)
    narrow = inputs.to(torch.bfloat16)
    lost = (narrow.output(copy.deepcopy(model).to(torch.bfloat16)).float() - exact).abs()
    ours = read(Checkpoint(path), torch.bfloat16).model(*narrow.ours).float()
    found = (ours - exact).abs()
    if inputs.real is not None:
        lost, found = lost[inputs.real], found[inputs.real]
    assert float(found.max()) <= 2 * float(lost.max()) + 0.01 * float(exact.abs().max())


@torch.no_grad()
@cases(topology="decoder")
def test_cached_steps(case: Case) -> None:
    """Left-padded prompts in two parts and then unit by unit, against their one pass over the real ones."""
    model, path, inputs = case
    ours = read(Checkpoint(path)).model
    assert isinstance(ours, Decoder)
    ids = inputs.bare().ours[0]
    wanted = inputs.bare().output(model)
    mask = torch.ones(ids.shape[0], ids.shape[1] + 3, dtype=torch.bool)
    mask[:, :3] = False
    padded = torch.cat([ids[:, :3], ids], dim=1)
    parts, state = [], None
    for begin, end in [(0, 5), (5, 8), *((t, t + 1) for t in range(8, padded.shape[1]))]:
        y, state = ours.decode(padded[:, begin:end], state, Context(mask=mask[:, begin:end]))
        parts.append(y)
    close(torch.cat(parts, dim=1)[:, 3:], wanted)


@torch.no_grad()
@cases(topology="encoder-decoder")
def test_cross_attention_steps(case: Case) -> None:
    """A padded source, read once, then unit by unit."""
    model, path, inputs = case
    ours = read(Checkpoint(path)).model
    assert isinstance(ours, EncoderDecoder)
    source, ids, source_mask = inputs.ours[:3]
    context, parts, state = ours.read(source, source_mask), [], None
    for t in range(ids.shape[1]):
        y, state = ours.decode(ids[:, t : t + 1], state, context)
        parts.append(y)
    close(torch.cat(parts, dim=1), inputs.output(model), inputs.real)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
@cases(writes=True)
def test_generation(case: Case, beams: int) -> None:
    model, path, inputs = case
    ours = Pretrained.of(read(Checkpoint(path)))
    given, kwargs = inputs.prompt()
    start = ours.special("decoder_start_token_id", -1)
    settings = {"decoder_start_token_id": start} if start >= 0 else {}
    plain = transformers.GenerationConfig(pad_token_id=0, eos_token_id=7, **settings)
    ours.fields = {**ours.fields, "eos_token_id": 7}
    (path / "generation_config.json").unlink(missing_ok=True)
    search = transformers.GenerationMixin.generate  # whisper's own leaves the first id out of what it gives
    wanted = search(model, **kwargs, generation_config=plain, max_new_tokens=12, num_beams=beams, do_sample=False)
    skip = 1 if isinstance(ours.module, EncoderDecoder) else given[0].shape[1]
    found = ours.generate(*given[:1], max_new_tokens=12, mask=given[1], beam=beams)
    for row, answer in zip(wanted[:, skip:].tolist(), found.ids, strict=True):
        cut = row[: row.index(7) + 1] if 7 in row else row
        assert answer == cut


@torch.no_grad()
def test_out_again(case: Case, tmp_path: Path) -> None:
    """What goes out is what came in, key for key, and `transformers` loads all of it."""
    model, path, _ = case
    made = read(Checkpoint(path))
    tensors = keymap.their_tensors(made.model, made.table, prefixed=not keymap.bare(made.given))
    write(tmp_path / "out", made.checkpoint.config, tensors, path)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert sorted(before.keys() - made.found.dropped) == sorted(after)
    for key, tensor in after.items():
        assert torch.equal(tensor, before[key]), key
    again, told = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not set(told["missing_keys"]) - set(made.found.dropped)  # those they work out
    assert not told["unexpected_keys"]
    expected = model.state_dict()
    assert all(torch.equal(t, expected[k]) for k, t in again.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("case", WRITTEN, ids="-".join, indirect=True)
def test_own_models_go_out(case: Case, tmp_path: Path) -> None:
    """A model that jogak built, its configuration worked back into config.json by the family."""
    model, path, inputs = case
    came = read(Checkpoint(path))
    torch.manual_seed(3)
    own = models.build(came.given)
    for parameter in own.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    wrapped = of_run(tmp_path, own.eval(), came.given, {"pad_token_id": 0})
    export(wrapped, tmp_path / "out")
    theirs = type(model).from_pretrained(tmp_path / "out", **getattr(wrapped.family, "SETTLED", {}))
    close(own(*inputs.ours), inputs.output(theirs.eval()), inputs.real)


def test_verify(case: Case) -> None:
    """Every check of `jogak verify` is made and holds: keys, tensors back, outputs, each block, what is written."""
    _, path, _ = case
    report = verify(path)
    assert report.holds, report.table()
    assert report.against == transformers.__version__
    given = read(Checkpoint(path)).given
    sides = [(model, side) for model in given.towers or [given] for side in model.topology.split("-")]
    depth = sum(model.stack("encoder" if side == "encoder" else "decoder").depth for model, side in sides)
    assert len(report.blocks) == depth + len(sides)
    assert max(report.blocks.values()) <= CLOSE
    assert report.departs is None
    assert report.text is (True if given.topology != "encoder" and given.head.kind == "units" else None)


def test_dropped_added_and_misshaped_keys(case: Case, tmp_path: Path) -> None:
    _, path, _ = case
    tensors = load_file(path / "model.safetensors")
    (tmp_path / "config.json").write_text((path / "config.json").read_text())
    made = read(Checkpoint(path))
    needed = sorted(set(made.found.names.values()))
    victim = needed[len(needed) // 2]

    def refused(changed: dict[str, Tensor]) -> str:
        save_file(changed, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError) as error:
            read(Checkpoint(tmp_path))
        return str(error.value)

    assert victim in refused({k: t for k, t in tensors.items() if k != victim})
    assert "'surprise.weight'" in refused({**tensors, "surprise.weight": torch.zeros(2)})
    wrong = torch.cat([tensors[victim], tensors[victim]])
    assert f"'{victim}'" in (told := refused({**tensors, victim: wrong}))
    assert str(list(wrong.shape)) in told
    assert "\n" not in told


WRONG = ("x", "", -1, 0, 1, 2**62, 1.5, float("nan"), True, [], ["x"], [[]], {"a": 1})


def test_fields_of_any_type(case: Case) -> None:
    """Whatever a field of config.json holds, it is read or refused in one sentence; nothing else comes up."""
    _, path, _ = case
    checkpoint = Checkpoint(path)
    family, refusals = families.find(checkpoint.model_type, checkpoint.config), 0
    for value in WRONG:
        for changed in each_field(checkpoint.config, value):
            try:
                family.read_config(Fields(changed, "config.json", checkpoint.entries))
            except UserError as error:
                refusals += 1
                told = str(error)
                if "\n" in told or len(told) > 500:
                    pytest.fail(told)
    assert refusals > 50


def each_field(given: dict[str, Any], value: object, kind: type = object) -> Iterator[dict[str, Any]]:
    """given once for every field of it or of a section of it that is of a kind, with value there."""
    for field, before in given.items():
        if type(before) is dict and field.endswith("_config"):
            yield from ({**given, field: section} for section in each_field(before, value, kind))
        if (type(before) is kind or kind is object) and not (kind is int and field.endswith("_id")):
            yield {**given, field: value}


def test_huge_sizes_are_refused_before_they_are_allocated(case: Case) -> None:
    _, path, _ = case
    checkpoint = Checkpoint(path)
    refusals = 0
    for changed in each_field(checkpoint.config, 2**23, int):
        checkpoint.config = changed
        try:
            plan(checkpoint)  # on the meta device: all that it takes is time
        except UserError:
            refusals += 1
    assert refusals >= 4


def test_every_family_says_what_it_supports() -> None:
    for name in families.names():
        family = families.find(name)
        assert family.SUPPORTS
        assert family.TINY
        json.dumps(family.TINY)
