"""Contrastive search: likely units that do not say the same again.

Of the k likeliest units v, the one with the largest
    (1 - alpha) p(v) - alpha max_j cos(h_v, h_j),
h_v what the model makes of v, h_j of each position before. Source: Su et al. 2022 (2202.06417), equation 5.

Legend: B rows, K candidates, V vocabulary, D width, T positions so far.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from jogak.decoding.processors import Chain, Forbidden
from jogak.decoding.sampling import Generates, Row, Start, Token, likeliest, why
from jogak.mixers import EMPTY


@torch.inference_mode()
def contrast(
    model: Generates,
    start: Start,
    before: Tensor,
    rows: Sequence[Row],
    chain: Chain,
    forbidden: Forbidden,
    end: int,
) -> Iterator[list[Token]]:
    """The units of all rows, a step at a time. before: hidden [B T D] of the prompts.

    Every step runs the model on the K candidates of each row, and goes on from the state of the one that is chosen.
    """
    settings = rows[0].settings
    logits, state, history = start.logits, start.state, start.history
    width, alpha = history.shape[1], settings.penalty_alpha
    past = normalize(before.float(), dim=-1)
    done = [False] * len(rows)
    for step in range(settings.max_new_tokens):
        logits = forbidden(logits)
        k = min(settings.top_k, logits.shape[1])
        scores = chain(logits, history, width, done) if chain else logits
        probability, units = scores.softmax(-1).topk(k, dim=-1)
        spread = torch.arange(len(rows), device=units.device).repeat_interleave(k)
        x, ahead = model.hidden(units.reshape(-1, 1), state.reorder(spread, spread), EMPTY)
        made = normalize(x[:, -1].float(), dim=-1).view(len(rows), k, -1)
        same = (made @ past.transpose(1, 2)).masked_fill((history < 0).unsqueeze(1), -torch.inf).amax(-1)
        value = ((1 - alpha) * probability - alpha * same).masked_fill(probability == 0, -torch.inf)
        best = value.argmax(-1)
        unit = units.gather(1, best.unsqueeze(1)).squeeze(1)
        found = _told(logits, unit, rows, done, end, step)
        yield found
        if all(done):
            return
        chosen = torch.arange(len(rows), device=best.device) * k + best
        state = ahead.reorder(chosen, chosen)
        logits = model.head(x[chosen])[:, -1]
        past = torch.cat([past, made[torch.arange(len(rows)), best].unsqueeze(1)], dim=1)
        history = torch.cat([history, unit.unsqueeze(1)], dim=1)


def _told(logits: Tensor, unit: Tensor, rows: Sequence[Row], done: list[bool], end: int, step: int) -> list[Token]:
    log_probs = (logits.gather(1, unit.unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)).tolist()
    found: list[Token] = []
    for number, (row, chosen) in enumerate(zip(rows, unit.tolist(), strict=True)):
        if not done[number]:
            reason = why(row, chosen, end, step + 1)
            top = likeliest(logits[number : number + 1], row)[0]
            found.append(Token(number, chosen, log_probs[number], top, reason))
            done[number] = reason is not None
    return found
