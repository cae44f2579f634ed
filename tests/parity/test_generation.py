"""What checkpoints write under settings of decoding, beside `transformers`; and what it has not, beside itself."""

from pathlib import Path

import pytest
import torch

from jogak.errors import UserError
from jogak.hub.checkpoint import Checkpoint
from jogak.hub.pretrained import Pretrained
from jogak.hub.read import read

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

VOCABULARY, END = 60, 7
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": VOCABULARY, "bos_token_id": 1}
T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2, "vocab_size": VOCABULARY}
PROMPTS = torch.tensor([[3, 9, 4, 9, 4, 11], [5, 6, 8, 12, 5, 6]])


def made(name: str, folder: Path):
    torch.manual_seed(0)
    if name == "gpt2":
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT, eos_token_id=END))
    else:
        given = transformers.T5Config(**T5, eos_token_id=END, pad_token_id=0, decoder_start_token_id=0)
        theirs = transformers.T5ForConditionalGeneration(given)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(2.5)
    theirs.eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return theirs, Pretrained.of(read(Checkpoint(folder)))


@pytest.fixture(scope="module", params=["gpt2", "t5"])
def pair(request, tmp_path_factory):
    return made(request.param, tmp_path_factory.mktemp(request.param))


SETTINGS = [
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "min_new_tokens": 9},
    {"bad_ids": [[13], [9, 4], [20, 21]]},
    {"beam": 4, "no_repeat_ngram_size": 1},
    {"beam": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    {"min_new_tokens": 12},
]


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_is_written_is_what_transformers_writes(pair, settings):
    theirs, ours = pair
    names = {"bad_ids": "bad_words_ids", "beam": "num_beams"}
    given = {names.get(name, name): value for name, value in settings.items()}
    if "beam" in settings:  # probabilities of what is left, as ours are
        given["renormalize_logits"] = True
    plain = transformers.GenerationConfig(pad_token_id=0, eos_token_id=END, decoder_start_token_id=0)
    wanted = theirs.generate(
        PROMPTS,
        attention_mask=torch.ones_like(PROMPTS),
        generation_config=plain,
        max_new_tokens=12,
        do_sample=False,
        **given,
    )
    skip = PROMPTS.shape[1] if "gpt" in type(theirs).__name__.lower() else 1
    found = ours.generate(PROMPTS, 12, **settings)
    for row, answer in zip(wanted[:, skip:].tolist(), found.ids, strict=True):
        assert answer == (row[: row.index(END) + 1] if END in row else row)


@torch.no_grad()
def test_several_end_marks_each_end_an_answer(pair):
    _, ours = pair
    free = ours.generate(PROMPTS, 10, end=-1).ids
    ends = [END, free[0][2], free[1][4]]
    fields, ours.fields = ours.fields, {**ours.fields, "eos_token_id": ends}
    try:
        for settings in ({}, {"repetition_penalty": 1.0000001}, {"beam": 3}, {"temperature": 1.0, "top_k": 1}):
            found = ours.generate(PROMPTS, 10, **settings).ids
            if "beam" not in settings:
                expected = [row[: next(n for n, unit in enumerate(row) if unit in ends) + 1] for row in free]
                assert found == expected
            assert all(unit not in ends for row in found for unit in row[:-1])
            assert any(row[-1] in ends[1:] for row in found)
    finally:
        ours.fields = fields


@torch.no_grad()
def test_samples_are_from_the_checkpoints_own_distribution(pair):
    """First units of 3,000 seeds against the softmax of transformers' logits, cut to the likeliest eight."""
    from scipy.stats import chisquare

    theirs, ours = pair
    row = PROMPTS[:1]
    given = (
        {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.int64)} if ours.config.topology == "encoder-decoder" else {}
    )
    logits = theirs(row, **given).logits[0, -1] / 1.5
    p = logits.masked_fill(logits < logits.topk(8).values[-1], -torch.inf).softmax(-1).double()
    found = ours.generate(row, 1, temperature=1.5, top_k=8, n=1000, seed=5, end=-1).ids
    found += [
        r for seed in (6, 7) for r in ours.generate(row, 1, temperature=1.5, top_k=8, n=1000, seed=seed, end=-1).ids
    ]
    counts = torch.tensor([r[0] for r in found]).bincount(minlength=VOCABULARY)
    kept = p * 3000 > 5
    assert counts[p == 0].sum() == 0
    ratio = counts[kept].sum() / p[kept].sum()
    assert chisquare(counts[kept].numpy(), (p[kept] * ratio).numpy()).pvalue > 0.01


@torch.no_grad()
def test_streams_speculation_and_padding(pair):
    _, ours = pair
    whole = ours.generate(PROMPTS, 8, end=-1).ids
    pieces = list(ours.generate(PROMPTS, 8, end=-1, stream=True))
    assert [[n for piece in pieces if piece.index == row for n in piece.ids] for row in range(2)] == whole
    assert ours.generate(PROMPTS, 8, end=-1, draft_tokens=3).ids == whole
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), PROMPTS], dim=1)
    mask = torch.arange(9).expand(2, 9) >= 3
    assert (
        ours.generate(padded, 8, mask=mask, end=-1, repetition_penalty=1.2).ids
        == ours.generate(PROMPTS, 8, end=-1, repetition_penalty=1.2).ids
    )


def test_settings_that_do_not_fit_are_told(pair):
    _, ours = pair
    with pytest.raises(UserError, match="top_p must be a number from 0 to 1, got 2"):
        ours.generate(PROMPTS, top_p=2)
    with pytest.raises(UserError, match="decoding has no setting 'tempature'; did you mean 'temperature'"):
        ours.generate(PROMPTS, tempature=2)
