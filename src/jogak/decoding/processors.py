"""What changes the logits before a unit is chosen: pure functions of logits [B V], each with a value for every row.

Units that no answer may hold (padding, the beginning mark, slots of other examples) are put off before all else, and
the log-probabilities that are told are those of what is left. Then these run in this order; a setting that is off for
every row costs nothing:

| step | setting | what it does |
| --- | --- | --- |
| 1 | `repetition_penalty` | units of the prompt and the answer: l / r where l > 0, else l r (1909.05858, section 4.1) |
| 2 | `presence_penalty`, `frequency_penalty` | units of the answer: l - presence - frequency x times it came |
| 3 | `no_repeat_ngram_size` | no run of n units of prompt and answer comes twice (1705.04304, section 2.5) |
| 4 | `bad_ids` | no unit that would end one of these sequences |
| 5 | `min_new_tokens` | no end mark before so many units |
| 6 | `bad_words`, `regex`, `json_schema`, `grammar` | only units with which the text stays as it must be |
| 7 | `temperature` | l / T |
| 8 | `top_k` | the k likeliest, and what ties with the k-th |
| 9 | `top_p` | the fewest likeliest whose probabilities sum to p at least (1904.09751) |
| 10 | `min_p` | what is at least min_p times as likely as the likeliest (2407.01082) |
| 11 | `typical_p` | the fewest whose -log p is nearest to the entropy, that sum to p at least (2202.00666) |

8 to 11 never leave a row empty. Legend: B rows, V vocabulary, T units so far. history [B T]: ids of the prompt and of
the answer, whose first stands at column `start` (one for all rows, or [B]); -1 where there is none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from jogak.decoding.settings import Sampling
from jogak.errors import UserError

OFF = -torch.inf
Begin = int | Tensor
GLANCE = 256  # the likeliest that are looked at before a whole row is sorted


class Rule(Protocol):
    """What an answer's text must be: which units may follow an answer's units so far."""

    def allowed(self, answer: Sequence[int]) -> Tensor:
        """bool [V] on the CPU; ids beyond it are not allowed."""
        ...


def _count(history: Tensor, width: int) -> Tensor:
    """How often each unit stands in history [B T]: float [B V]."""
    counts = torch.zeros(history.shape[0], width + 1, device=history.device)
    places = history.masked_fill(history < 0, width)
    return counts.scatter_add_(1, places, torch.ones_like(places, dtype=counts.dtype))[:, :width]


def _answers(history: Tensor, start: Begin) -> Tensor:
    """The answers' part of history."""
    if isinstance(start, int):
        return history[:, start:]
    return history.masked_fill(torch.arange(history.shape[1], device=history.device) < start.unsqueeze(1), -1)


def repetition(logits: Tensor, history: Tensor, penalty: Tensor) -> Tensor:
    """l / r where l > 0, else l r, for units that stand in history; r [B]."""
    r = penalty.unsqueeze(1)
    changed = torch.where(logits > 0, logits / r, logits * r)
    return torch.where(_count(history, logits.shape[1]) > 0, changed, logits)


def presence_frequency(logits: Tensor, answer: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """l - presence [count > 0] - frequency count, with the counts of answer [B t]; presence, frequency [B]."""
    counts = _count(answer, logits.shape[1])
    return logits - presence.unsqueeze(1) * (counts > 0) - frequency.unsqueeze(1) * counts


def no_repeat_ngram(logits: Tensor, history: Tensor, size: Tensor) -> Tensor:
    """-inf for units that would make a run of `size` [B] units that history already has; 0: off."""
    for n in sorted(set(size.tolist()) - {0}):
        if history.shape[1] < n:
            continue
        runs = history.unfold(1, n, 1)
        last = history[:, history.shape[1] - n + 1 :].unsqueeze(1)
        again = (runs[..., :-1] == last).all(-1) & (runs >= 0).all(-1) & (size == n).unsqueeze(1)
        logits = _ban(logits, runs[..., -1].masked_fill(~again, logits.shape[1]))
    return logits


def _ban(logits: Tensor, units: Tensor) -> Tensor:
    """-inf for units [B k]; V stands for none."""
    banned = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    return logits.masked_fill(banned.scatter_(1, units, True)[:, :-1], OFF)


def without(logits: Tensor, history: Tensor, bad: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """-inf for a unit that would end one of the sequences `bad[row]`, which may begin in the prompt."""
    banned: list[tuple[int, int]] = []
    for row, sequences in enumerate(bad):
        longest = max(map(len, sequences), default=1) - 1
        tail = history[row, max(0, history.shape[1] - longest) :].tolist() if longest else []
        for sequence in sequences:
            if len(sequence) == 1 or tail[-len(sequence) + 1 :] == list(sequence[:-1]):
                banned.append((row, sequence[-1]))
    return _put_off(logits, banned)


def not_yet(logits: Tensor, length: Begin, least: Tensor, ends: Sequence[int]) -> Tensor:
    """-inf for the end marks in rows whose answer has fewer than `least` [B] units; length: those it has."""
    early = [row for row, few in enumerate((least > length).tolist()) if few]
    return _put_off(logits, [(row, end) for row in early for end in ends])


def ruled(logits: Tensor, history: Tensor, start: Begin, rules: Sequence[Sequence[Rule]]) -> Tensor:
    """-inf for what a row's rules do not allow."""
    logits = logits.clone()
    for row, ours in enumerate(rules):
        if not ours:
            continue
        answer = history[row, start if isinstance(start, int) else int(start[row]) :].tolist()
        for rule in ours:
            allowed = rule.allowed(answer)[: logits.shape[1]].to(logits.device)
            logits[row, : len(allowed)].masked_fill_(~allowed, OFF)
            logits[row, len(allowed) :] = OFF
    return logits


def _put_off(logits: Tensor, banned: Sequence[tuple[int, int]]) -> Tensor:
    banned = [(row, unit) for row, unit in banned if unit < logits.shape[1]]
    if not banned:
        return logits
    rows, units = torch.tensor(banned, device=logits.device).T
    return logits.index_put((rows, units), logits.new_full((), OFF))


def temperature(logits: Tensor, value: Tensor) -> Tensor:
    """l / T; rows with T = 0 are greedy and stay as they are."""
    return logits / torch.where(value > 0, value, 1.0).unsqueeze(1)


def top_k(logits: Tensor, k: Tensor) -> Tensor:
    """-inf below the k-th largest; 0: off."""
    wanted = k.clamp(max=logits.shape[1])
    most = int(wanted.max())
    if most == 0:
        return logits
    least = logits.topk(most, dim=1).values.gather(1, (wanted - 1).clamp(min=0).unsqueeze(1))
    return logits.masked_fill((logits < least) & (wanted > 0).unsqueeze(1), OFF)


def top_p(logits: Tensor, p: Tensor) -> Tensor:
    """-inf but for the fewest likeliest units whose probabilities sum to p at least; 1: off."""
    log_z = logits.logsumexp(-1, keepdim=True)

    def cut(values: Tensor, units: Tensor) -> tuple[Tensor, Tensor, bool]:
        mass = (values - log_z).double().exp()
        before = mass.cumsum(1) - mass
        kept = before < p.unsqueeze(1)
        kept[:, 0] = True
        return kept, units, bool((~kept[:, -1] | (p == 1)).all())

    return _keep(logits, -logits, cut, p == 1)


def min_p(logits: Tensor, p: Tensor) -> Tensor:
    """-inf where a unit is less than p times as likely as the likeliest; 0: off."""
    return logits.masked_fill(logits < logits.amax(1, keepdim=True) + p.log().unsqueeze(1), OFF)


def typical(logits: Tensor, p: Tensor) -> Tensor:
    """-inf but for the fewest units that sum to p at least, nearest first: |-log p(unit) - entropy|; 1: off."""
    log_p = logits.log_softmax(-1)
    weight = log_p.exp()
    entropy = -torch.where(weight > 0, weight * log_p, 0.0).sum(1, keepdim=True)
    distance = (-log_p - entropy).abs()

    def cut(_: Tensor, units: Tensor) -> tuple[Tensor, Tensor, bool]:
        mass = weight.gather(1, units).double()
        kept = (mass.cumsum(1) - mass) < p.unsqueeze(1)
        kept[:, 0] = True
        return kept, units, bool((~kept[:, -1] | (p == 1)).all())

    return _keep(logits, distance, cut, p == 1)


def _keep(
    logits: Tensor, order: Tensor, cut: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, bool]], off: Tensor
) -> Tensor:
    """-inf for all that `cut` does not keep, of the units sorted by `order`, smallest first, ties by number.

    Most rows are decided by their first few, which are found much sooner than a whole row is sorted.
    """
    width = logits.shape[1]
    if width > 4 * GLANCE:
        units = order.topk(GLANCE, dim=1, largest=False).indices.sort(1).values
        units = units.gather(1, order.gather(1, units).argsort(dim=1, stable=True))
        kept, units, decided = cut(logits.gather(1, units), units)
        if decided:
            return _only(logits, kept, units, off)
    units = order.argsort(dim=1, stable=True)
    kept, units, _ = cut(logits.gather(1, units), units)
    return _only(logits, kept, units, off)


def _only(logits: Tensor, kept: Tensor, units: Tensor, off: Tensor) -> Tensor:
    keeps = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, units, kept)
    return logits.masked_fill(~(keeps | off.unsqueeze(1)), OFF)


# ---------------------------------------------------------------- all of them


class Forbidden:
    """-inf on the units that a row's answer never holds, added to the few columns of logits that it concerns."""

    def __init__(self, forbidden: Sequence[Sequence[int]], device: torch.device) -> None:
        units = sorted({u for row in forbidden for u in row})
        self.columns = torch.tensor(units, device=device, dtype=torch.int64)
        place = {u: i for i, u in enumerate(units)}
        self.added = torch.zeros(len(forbidden), len(units), device=device)
        for m, row in enumerate(forbidden):
            self.added[m, [place[u] for u in row]] = OFF

    def select(self, rows: Tensor) -> "Forbidden":
        """Those of these rows."""
        chosen = Forbidden((), self.columns.device)
        chosen.columns, chosen.added = self.columns, self.added[rows]
        return chosen

    def __call__(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """float32 logits [B V] of `rows` [B] (None: all) with -inf where a unit is forbidden; may change `logits`."""
        logits = logits.float()
        if len(self.columns):
            added = self.added if rows is None else self.added[rows]
            logits[:, self.columns] += added.to(logits.device)
        return logits


@dataclass(frozen=True)
class Step:
    """One processor that is on for some row, with its values: a tensor [B] or a sequence, one for each row."""

    name: str
    apply: Callable[..., Tensor]  # (logits, history, start, *values)
    values: tuple[Any, ...]

    def select(self, rows: Sequence[int]) -> "Step":
        def pick(value: Any) -> Any:  # noqa: ANN401
            return (
                value[torch.tensor(rows, device=value.device)]
                if isinstance(value, Tensor)
                else [value[row] for row in rows]
            )

        return Step(self.name, self.apply, tuple(pick(value) for value in self.values))


# Setting(s), the value(s) at which a row has it off, and how it is applied, in the order of the table above.
_NUMBERS: tuple[tuple[tuple[str, ...], tuple[float, ...], Callable[..., Tensor]], ...] = (
    (("repetition_penalty",), (1.0,), lambda l, h, s, r: repetition(l, h, r)),
    (
        ("presence_penalty", "frequency_penalty"),
        (0.0, 0.0),
        lambda l, h, s, p, f: presence_frequency(l, _answers(h, s), p, f),
    ),
    (("no_repeat_ngram_size",), (0,), lambda l, h, s, n: no_repeat_ngram(l, h, n)),
)
_CHOICE: tuple[tuple[tuple[str, ...], tuple[float, ...], Callable[..., Tensor]], ...] = (
    (("heat",), (1.0,), lambda l, h, s, t: temperature(l, t)),
    (("top_k",), (0,), lambda l, h, s, k: top_k(l, k)),
    (("top_p",), (1.0,), lambda l, h, s, p: top_p(l, p)),
    (("min_p",), (0.0,), lambda l, h, s, p: min_p(l, p)),
    (("typical_p",), (1.0,), lambda l, h, s, p: typical(l, p)),
)


class Chain:
    """The processors that are on for some of the rows, in their order: logits [B V] -> logits [B V]."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    @classmethod
    def of(
        cls,
        rows: Sequence[Sampling],
        ends: int | Sequence[int],
        device: torch.device,
        rules: Sequence[Sequence[Rule]] = (),
    ) -> "Chain":
        """The chain of `rows`; ends: the end mark, or several; rules: those of each row."""
        ends = (ends,) if isinstance(ends, int) else tuple(ends)
        steps = _numbers(_NUMBERS, rows, device)
        if any(row.bad_ids for row in rows):
            steps.append(Step("bad_ids", lambda l, h, s, bad: without(l, h, bad), ([row.bad_ids for row in rows],)))
        if any(row.min_new_tokens for row in rows):
            least = torch.tensor([row.min_new_tokens for row in rows], device=device)
            steps.append(Step("min_new_tokens", lambda l, h, s, n: not_yet(l, h.shape[1] - s, n, ends), (least,)))
        if any(rules):
            steps.append(Step(RULES, ruled, (list(rules),)))
        return cls(steps + _choice(rows, device))

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)

    def select(self, rows: Sequence[int]) -> "Chain":
        """The chain of these rows."""
        return Chain([step.select(rows) for step in self.steps])

    def __call__(self, logits: Tensor, history: Tensor, start: Begin, done: Sequence[bool] = ()) -> Tensor:
        """logits [B V] of what follows history [B T]; done: rows that have ended, for which anything will do.

        Raises: UserError where a row is left with nothing.
        """
        logits, empty = self.apply(logits, history, start)
        for row, sentence in empty.items():
            if row >= len(done) or not done[row]:
                raise UserError(sentence)
        return logits

    def apply(self, logits: Tensor, history: Tensor, start: Begin) -> tuple[Tensor, dict[int, str]]:
        """The same, and what to say of the rows that were left with nothing, where it was before that happened."""
        told: dict[int, str] = {}
        for step in self.steps:
            before, logits = logits, step.apply(logits, history, start, *step.values)
            if step.name in MAY_EMPTY and bool((empty := logits.amax(1) == OFF).any()):
                for row in empty.nonzero().flatten().tolist():
                    told[row] = (
                        f"{step.name} and what was forbidden before leave nothing that may come next; allow more"
                    )
                logits = torch.where(empty.unsqueeze(1), before, logits)
        return logits, told


RULES = "bad_words or the constraint"
MAY_EMPTY = ("no_repeat_ngram_size", "bad_ids", "min_new_tokens", RULES)


def _numbers(
    table: Sequence[tuple[tuple[str, ...], tuple[float, ...], Callable[..., Tensor]]],
    rows: Sequence[Sampling],
    device: torch.device,
) -> list[Step]:
    steps: list[Step] = []
    for names, off, apply in table:
        values = [[getattr(row, name) for row in rows] for name in names]
        if any(value != nothing for column, nothing in zip(values, off, strict=True) for value in column):
            steps.append(Step(names[0], apply, tuple(torch.tensor(column, device=device) for column in values)))
    return steps


def _choice(rows: Sequence[Sampling], device: torch.device) -> list[Step]:
    """What shapes chance; a greedy row takes the likeliest unit whatever these say, so that it has none of them on."""
    if all(row.heat == 0 for row in rows):
        return []
    plain = Sampling(temperature=1.0)
    return _numbers(_CHOICE, [row if row.heat > 0 else plain for row in rows], device)
