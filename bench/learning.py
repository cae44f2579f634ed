"""Whether every mixer learns what its paper says: two layers, the same budget, on six problems, to a table.

Each finished cell is a line of FILE, and a cell that stands there is not run again: stop at any time, and go on.

    python bench/learning.py [--file runs/learning.jsonl] [--mixers a b] [--problems text copying] [--show]
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from _side_by_side import circumstances, table

from jogak import config, mixers, models
from jogak.comparing import probes, trial
from jogak.comparing.problems import DigitsProblem, ProbeProblem, Problem, TextProblem
from jogak.comparing.trial import Budget, Shape
from jogak.data.documents import PYDOC, read_documents
from jogak.errors import UserError

# What a mixer needs besides its defaults at width 64; attention alone cannot tell where a position is.
OPTIONS: dict[str, dict[str, Any]] = {"attention": {"heads": 4, "position": "rotary"}}


LONGER = (128, 256, 1024, 4096)  # positions of induction heads that no mixer was trained at


@dataclass(frozen=True)
class Cell:
    """A problem and the budget that every mixer gets on it."""

    make: Callable[[], Problem]
    budget: Budget


def _text() -> Problem:
    return TextProblem("".join(d.text for d in read_documents([PYDOC])), length=128)


def _induction() -> Problem:
    """Trained at 64 positions, measured at up to 64 times as many."""
    longer = [ProbeProblem(f"at {n}", probes.InductionHeads(n, 4), examples=64) for n in LONGER]
    return ProbeProblem("induction heads", probes.InductionHeads(64, 4), also=tuple(longer))


CELLS = {
    "text": Cell(_text, Budget(steps=400, rows=32, rate=3e-3)),
    "copying": Cell(
        lambda: ProbeProblem("copying", probes.Copying(8, 48)), Budget(steps=800, rows=32, rate=3e-3, enough=0.99)
    ),
    "selective copying": Cell(
        lambda: ProbeProblem("selective copying", probes.SelectiveCopying(8, 56)),
        Budget(steps=1500, rows=32, rate=3e-3, enough=0.99),
    ),
    "induction heads": Cell(
        _induction,
        Budget(steps=600, rows=32, rate=3e-3, enough=0.99),
    ),
    "associative recall": Cell(
        lambda: ProbeProblem("associative recall", probes.AssociativeRecall(4, 32, keys=8, values=8)),
        Budget(steps=1500, rows=32, rates=(5e-3, 2e-3), enough=0.99),
    ),
    "digits": Cell(DigitsProblem.load, Budget(steps=1000, rows=32, rate=3e-3)),
    "long copying": Cell(
        lambda: ProbeProblem("long copying", probes.LongCopying(64, 32)),
        Budget(steps=500, rows=32, rate=3e-3, enough=0.99),
    ),
}


def key(problem: str, mixer: config.Mixer, shape: Shape, budget: Budget) -> str:
    """What a cell's figure depends on, as text."""
    told = {"problem": problem, "mixer": mixer.model_dump(), "shape": asdict(shape), "budget": asdict(budget)}
    return json.dumps(told, sort_keys=True)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The finished cells by key; a last line that was cut off by a kill is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["key"]] = record
    return found


def append(file: Path, record: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = not file.exists() or file.read_bytes()[-1:] in (b"", b"\n")
    with file.open("a", encoding="utf-8") as lines:
        lines.write(("" if whole else "\n") + json.dumps(record, ensure_ascii=False) + "\n")


def fitting(names: list[str], shape: Shape) -> dict[str, config.Mixer]:
    """The mixers that a decoder can be made of; the others are told."""
    found: dict[str, config.Mixer] = {}
    for name in names:
        mixer = config.Mixer(name=name, **OPTIONS.get(name, {}))
        try:
            models.build(shape.model([mixer], 4), device="meta")
        except UserError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
        except TypeError as error:  # a mixer that cannot be built from its name alone, as Bidirectional
            print(f"{name}: left out: {error}", file=sys.stderr)
        else:
            found[name] = mixer
    return found


def run(options: argparse.Namespace) -> None:
    done, shape = read(options.file), Shape()
    for name, cell in CELLS.items():
        if name not in options.problems:
            continue
        problem = cell.make()
        budget = replace(cell.budget, seed=options.seed, seconds=options.seconds)
        for mixer_name, mixer in fitting(options.mixers, shape).items():
            cell_key = key(name, mixer, shape, budget)
            if cell_key in done:
                continue
            found = trial.run(problem, mixer_name, [mixer], shape, budget)
            done[cell_key] = {"key": cell_key, **found.to_dict()}
            append(options.file, done[cell_key])
            print(
                f"{name:<20} {mixer_name:<18} {found.value:.3f}  {found.steps} steps, {found.seconds:.0f} s, "
                f"{found.tokens_per_second:,.0f} tokens/s",
                flush=True,
            )


def show(options: argparse.Namespace) -> None:
    """The table of all finished cells, as docs/RESULTS.md has it."""
    done, shape, rows = read(options.file), Shape(), []
    floors: dict[str, float] = {}
    longer: list[list[str]] = []
    for mixer_name, mixer in fitting(options.mixers, shape).items():
        cells, parameters = [], ""
        for name, cell in CELLS.items():
            budget = replace(cell.budget, seed=options.seed, seconds=options.seconds)
            record = done.get(key(name, mixer, shape, budget))
            if record is None:
                cells.append("")
                continue
            floors[name] = record["floor"]
            if record["also"]:
                figures = [record["value"], *record["also"].values()]
                longer.append([mixer_name, *(f"{100 * figure:.1f}" for figure in figures)])
            parameters = f"{record['parameters']:,}" if name == "text" else parameters
            value = f"{record['value']:.2f}" if name == "text" else f"{100 * record['value']:.1f}"
            cut = "" if record["steps"] == budget.steps or _stopped_early(record, budget) else "*"
            cells.append(value + cut)
        rows.append([mixer_name, *cells, parameters])
    blind = [f"{floors[n]:.2f}" if n == "text" else f"{100 * floors[n]:.1f}" for n in CELLS if n in floors]
    rows.append(["(without looking)", *(blind if len(blind) == len(CELLS) else [""] * len(CELLS)), ""])
    head = ["mixer", *("text, bits/byte" if n == "text" else f"{n}, %" for n in CELLS), "parameters (text)"]
    print(table(head, rows))
    print()
    print(table(["induction heads, %", "64 (trained)", *map(str, LONGER)], longer))
    print(
        f"\nTwo layers of width {shape.width}; * stopped by the clock after {options.seconds:.0f} s. {circumstances()}"
    )


def _stopped_early(record: dict[str, Any], budget: Budget) -> bool:
    return budget.enough is not None and record["value"] >= budget.enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, default=Path("runs/learning.jsonl"))
    parser.add_argument("--mixers", nargs="+", default=mixers.names())
    parser.add_argument("--problems", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seconds", type=float, default=150.0, help="of training that a cell gets at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch finds them")
    parser.add_argument("--show", action="store_true", help="only print the table")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.show:
        run(options)
    show(options)


if __name__ == "__main__":
    main()
