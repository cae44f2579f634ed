"""Beam search with the 2017 Transformer: jogak, `transformers` generate and CTranslate2, taking turns.

All three have the same weights (post-norm, tied, sinusoids) and translate the same sentences, in batches of like
lengths. Either the weights are random and the sentences too, their lengths log-normal, each translated to the same
number of units: the end is forbidden until then, so that nobody gains by stopping early. Or, with `--run`, they are a
trained run's and its held-out sentences', which end where they end: what a user waits for. Answers are ranked by
their log-probability, the one way that all three have. `same answers`: how many of a program's best are jogak's.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import _marian
import torch
from _side_by_side import CLOCKS, PRECISIONS, circumstances, ratio, table, take_turns
from torch import Tensor
from training import SHAPES, Shape, build, lengths

import jogak
from jogak.decoding.search import Settings, search
from jogak.models import EncoderDecoder
from jogak.tasks import translate

Answers = list[tuple[int, ...]]


@dataclass(frozen=True)
class Search:
    """beam wide, units long at most; fixed: no shorter either."""

    beam: int
    units: int
    fixed: bool


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


def jogaks(model: EncoderDecoder, batches: list[tuple[Tensor, Tensor]], search_: Search) -> Callable[[], Answers]:
    never = (_marian.PAD, _marian.END) if search_.fixed else (_marian.PAD,)

    def run() -> Answers:
        answers: Answers = []
        for ids, mask in batches:
            forbidden = tuple(never for _ in ids)
            settings = Settings(
                end=_marian.END, max_length=search_.units, beam=search_.beam, length_penalty=0, forbidden=forbidden
            )
            with torch.inference_mode():
                context = model.read(ids, None if bool(mask.all()) else mask)
                start = torch.full((len(ids), 1), _marian.START)
                answers += [found[0].ids for found in search(model, start, context, settings)]
        return answers

    return run


def transformers(
    model: torch.nn.Module, batches: list[tuple[Tensor, Tensor]], search_: Search
) -> Callable[[], Answers]:
    def run() -> Answers:
        answers: Answers = []
        for ids, mask in batches:
            with torch.inference_mode():
                found = model.generate(  # pyright: ignore[reportCallIssue]
                    input_ids=ids,
                    attention_mask=mask.long(),
                    num_beams=search_.beam,
                    min_new_tokens=search_.units if search_.fixed else 1,
                    max_new_tokens=search_.units,
                    bad_words_ids=[[_marian.PAD]],
                    do_sample=False,
                    length_penalty=0.0,
                )
            answers += [until_end(row[1:].tolist()) for row in found]
        return answers

    return run


def until_end(units: list[int]) -> tuple[int, ...]:
    stop = next((i for i, u in enumerate(units) if u in (_marian.END, _marian.PAD)), len(units))
    return tuple(units[:stop])


def ctranslate2s(folder: Path, batches: list[tuple[Tensor, Tensor]], search_: Search) -> Callable[[], Answers]:
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
                beam_size=search_.beam,
                length_penalty=0.0,
                min_decoding_length=search_.units if search_.fixed else 1,
                max_decoding_length=search_.units,
                suppress_sequences=[[str(_marian.PAD)]],
                max_batch_size=len(texts),
            )
            answers += [tuple(int(u) for u in one.hypotheses[0]) for one in found]
        return answers

    return run


def agreement(theirs: Answers, ours: Answers) -> str:
    return f"{sum(a == b for a, b in zip(theirs, ours, strict=True)) / len(ours):.0%}"


def random_model(options: argparse.Namespace) -> tuple[EncoderDecoder, list[Tensor]]:
    """Of the shape that is asked for, and sentences for it."""
    shape = SHAPES[options.shape]
    torch.manual_seed(options.seed)
    return build(shape).eval(), sources(shape, options.sentences, options.seed)


def trained_model(options: argparse.Namespace) -> tuple[EncoderDecoder, list[Tensor]]:
    """A run's, and its held-out sentences, shortest first."""
    loaded = jogak.load(options.run, device="cpu")
    rows = translate.read_split(loaded.recipe.data).test[: options.sentences]
    encoded = [loaded.codec.encode_source(row.source).ids for row in rows]
    assert (loaded.codec.pad_id, loaded.codec.bos_id, loaded.codec.eos_id) == (_marian.PAD, _marian.START, _marian.END)
    return loaded.module, [torch.tensor([*ids, _marian.END]) for ids in sorted(encoded, key=len)]


def compare(options: argparse.Namespace) -> list[list[str]]:
    """The table's rows, in all precisions; CTranslate2 in float32 only."""
    rows: list[list[str]] = []
    search_ = Search(options.beam, options.units, fixed=options.run is None)
    for precision in options.precisions:
        ours, sentences = (random_model if options.run is None else trained_model)(options)
        given = batched(sentences, options.batch)
        marian = _marian.like(ours).eval()
        _marian.copy_weights(ours, marian)
        programs: dict[str, Callable[[], Answers]] = {
            "jogak": jogaks(ours.to(PRECISIONS[precision]), given, search_),
            "transformers": transformers(marian.to(PRECISIONS[precision]), given, search_),
        }
        with tempfile.TemporaryDirectory() as folder:
            if precision == "float32":
                _marian.save_for_ctranslate2(ours, Path(folder))
                programs["CTranslate2"] = ctranslate2s(Path(folder), given, search_)
            answers = {name: run() for name, run in programs.items()}
            taken = take_turns(programs, options.rounds, options.clock)
        for name, seconds in taken.items():
            median = statistics.median(seconds)
            rate = sum(map(len, answers[name])) / median
            rest = ["", ""]
            if name != "jogak":
                rest = [ratio(seconds, taken["jogak"]), agreement(answers[name], answers["jogak"])]
            rows.append([f"{options.run or options.shape}, {precision}", name, f"{median:.2f}", f"{rate:,.0f}", *rest])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo", help="of a model with random weights")
    parser.add_argument("--run", help="a trained run instead, post-norm")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--units", type=int, default=24, help="of each answer")
    parser.add_argument("--batch", type=int, default=64, help="sentences translated together, by all programs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    head = ["shape, precision", "program", "seconds", "units/s", "jogak is faster by", "same answers"]
    print(table(head, compare(options)))
    ends = f"{options.units} units each" if options.run is None else f"at most {options.units} units"
    print(
        f"\n{options.sentences} sentences, beam {options.beam}, {ends}, in batches of {options.batch}. "
        f"Medians of {options.rounds} turns; least and most of the pairs."
    )
    print(circumstances("transformers", "ctranslate2"))


if __name__ == "__main__":
    main()
