"""Beam search with the 2017 Transformer: jogak, `transformers` generate and CTranslate2, taking turns.

All three have the same weights (post-norm, tied, sinusoids) and translate the same sentences, their lengths
log-normal, each to the same number of units: the end is forbidden until then, so that nobody gains by stopping early.
Sentences go in batches of like lengths. `same answers`: how many of a program's best answers are jogak's.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import _marian
import torch
from _side_by_side import CLOCKS, PRECISIONS, circumstances, ratio, table, take_turns
from torch import Tensor
from training import SHAPES, Shape, build, lengths

from jogak.decoding.search import Settings, search
from jogak.models import EncoderDecoder

Answers = list[tuple[int, ...]]


def sources(shape: Shape, count: int, seed: int) -> list[Tensor]:
    """Sentences of random units, each ended, shortest first."""
    drawn = lengths(shape, mixed=True, seed=seed)
    chosen = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    random_ids = torch.Generator().manual_seed(seed)
    units = [torch.randint(3, shape.vocab, (drawn[i][0] - 1,), generator=random_ids) for i in chosen.tolist()]
    return [torch.cat([u, torch.tensor([_marian.END])]) for u in units]


def batched(given: list[Tensor], size: int) -> list[tuple[Tensor, Tensor]]:
    """Padded batches and their masks."""
    found = []
    for start in range(0, len(given), size):
        part = given[start : start + size]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=_marian.PAD)
        found.append((ids, torch.arange(ids.shape[1]) < torch.tensor([len(p) for p in part]).unsqueeze(1)))
    return found


def jogaks(model: EncoderDecoder, batches: list[tuple[Tensor, Tensor]], beam: int, units: int) -> Callable[[], Answers]:
    def run() -> Answers:
        answers: Answers = []
        for ids, mask in batches:
            never = tuple((_marian.END, _marian.PAD) for _ in ids)
            settings = Settings(end=_marian.END, max_length=units, beam=beam, forbidden=never)
            with torch.inference_mode():
                context = model.read(ids, None if bool(mask.all()) else mask)
                start = torch.full((len(ids), 1), _marian.START)
                answers += [found[0].ids for found in search(model, start, context, settings)]
        return answers

    return run


def transformers(
    model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]], beam: int, units: int
) -> Callable[[], Answers]:
    def run() -> Answers:
        answers: Answers = []
        for ids, mask in batches:
            with torch.inference_mode():
                found = model.generate(  # pyright: ignore[reportCallIssue]
                    input_ids=ids,
                    attention_mask=mask.long(),
                    num_beams=beam,
                    min_new_tokens=units,
                    max_new_tokens=units,
                    bad_words_ids=[[_marian.PAD]],
                    do_sample=False,
                )
            answers += [tuple(row[1 : units + 1].tolist()) for row in found]
        return answers

    return run


def ctranslate2s(folder: Path, batches: list[tuple[Tensor, Tensor]], beam: int, units: int) -> Callable[[], Answers]:
    import ctranslate2

    translator = ctranslate2.Translator(
        str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=torch.get_num_threads()
    )

    def run() -> Answers:
        answers: Answers = []
        for ids, mask in batches:
            texts = [[str(u) for u in row[real].tolist()] for row, real in zip(ids, mask, strict=True)]
            found = translator.translate_batch(
                texts,
                beam_size=beam,
                min_decoding_length=units,
                max_decoding_length=units,
                suppress_sequences=[[str(_marian.PAD)]],
                max_batch_size=len(texts),
            )
            answers += [tuple(int(u) for u in one.hypotheses[0]) for one in found]
        return answers

    return run


def agreement(theirs: Answers, ours: Answers) -> str:
    return f"{sum(a == b for a, b in zip(theirs, ours, strict=True)) / len(ours):.0%}"


def compare(shape: Shape, options: argparse.Namespace) -> list[list[str]]:
    """The table's rows, in all precisions; CTranslate2 in float32 only."""
    rows: list[list[str]] = []
    given = batched(sources(shape, options.sentences, options.seed), options.batch)
    for precision in options.precisions:
        torch.manual_seed(options.seed)
        ours = build(shape).eval()
        marian = _marian.like(ours).eval()
        _marian.copy_weights(ours, marian)
        beam, units = options.beam, options.units
        programs: dict[str, Callable[[], Answers]] = {
            "jogak": jogaks(ours.to(PRECISIONS[precision]), given, beam, units),
            "transformers": transformers(marian.to(PRECISIONS[precision]), given, beam, units),
        }
        with tempfile.TemporaryDirectory() as folder:
            if precision == "float32":
                _marian.save_for_ctranslate2(ours, Path(folder))
                programs["CTranslate2"] = ctranslate2s(Path(folder), given, beam, units)
            answers = {name: run() for name, run in programs.items()}
            taken = take_turns(programs, options.rounds, options.clock)
        for name, seconds in taken.items():
            median = statistics.median(seconds)
            rate = options.sentences * units / median
            rest = ["", ""]
            if name != "jogak":
                rest = [ratio(seconds, taken["jogak"]), agreement(answers[name], answers["jogak"])]
            rows.append([f"{options.shape}, {precision}", name, f"{median:.2f}", f"{rate:,.0f}", *rest])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--units", type=int, default=24, help="of each answer")
    parser.add_argument("--batch", type=int, default=64, help="sentences translated together, by all programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    head = ["shape, precision", "program", "seconds", "units/s", "jogak is faster by", "same answers"]
    print(table(head, compare(shape, options)))
    print(
        f"\n{shape}. {options.sentences} sentences, beam {options.beam}, {options.units} units each, in batches of "
        f"{options.batch}. Medians of {options.rounds} turns; least and most of the pairs."
    )
    print(circumstances("transformers", "ctranslate2"))


if __name__ == "__main__":
    main()
