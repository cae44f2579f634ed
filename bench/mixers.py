"""Recurrent mixers: the selective scan, Mamba beside `transformers` without kernels, decoding far along, long inputs.

scan: state updates a second of the fused selective scan, forward and backward, beside the chunked form in torch, and
the share of this machine's measured memory bandwidth that it moves (inputs read and outputs written once).
peer: a 4-layer Mamba of width 768, beside the same model of `transformers`, in alternating turns.
decode: tokens a second of every mixer whose state does not grow, at two positions.
long: seconds of one training step of a layer, against length.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _side_by_side import circumstances, ratio, table, take_turns
from torch import Tensor

from jogak import config, mixers, models
from jogak.errors import UserError
from jogak.mixers import Mixer
from jogak.models import Decoder
from jogak.ops.selective_scan import FORMS

DEPTH, WIDTH, VOCABULARY = 4, 768, 1000


def bandwidth(seconds: float = 1.0) -> float:
    """Bytes a second that copying a tensor reads and writes, at best."""
    source = torch.ones(32 << 20)
    target, best, until = torch.empty_like(source), 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begin = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - begin))
    return best


def scan(rounds: int) -> None:
    """B=2, T=1024, D=1536, N=16: a layer of mamba-130m."""
    batch, length, width, states = 2, 1024, 1536, 16
    torch.manual_seed(0)
    x, z = torch.randn(2, batch, length, width)
    dt = F.softplus(torch.randn(batch, length, width) - 3)
    b, c = torch.randn(2, batch, length, states)
    a = -torch.arange(1.0, states + 1).repeat(width, 1)
    leaves = [t.requires_grad_() for t in (x, dt, a, b, c, torch.ones(width), z, torch.zeros(batch, states, width))]
    weight = torch.randn(batch, length, width)
    forms = {name: FORMS[name] for name in ("fused", "chunked")}
    graphs = {name: form(*leaves)[0] for name, form in forms.items()}

    def forward(name: str) -> Callable[[], object]:
        return torch.no_grad()(lambda: forms[name](*leaves))

    def backward(name: str) -> Callable[[], object]:
        return lambda: torch.autograd.grad(graphs[name], leaves, weight, retain_graph=True)

    programs = {f"{name} forward": forward(name) for name in forms}
    taken = take_turns({**programs, **{f"{name} backward": backward(name) for name in forms}}, rounds)
    updates, large = batch * length * width * states, 4 * batch * length * width
    moved, peak = {"fused forward": 4 * large, "fused backward": 7 * large}, bandwidth()
    rows = []
    for name, times in taken.items():
        middle = statistics.median(times)
        share = f"{100 * moved[name] / middle / peak:.0f}%" if name in moved else ""
        other = ratio(taken[name.replace("fused", "chunked")], times) if "fused" in name else ""
        rows.append([name, f"{1e3 * middle:.1f}", f"{updates / middle / 1e9:.2f}", share, other])
    print(table(["selective scan", "ms", "G updates/s", f"of {peak / 1e9:.0f} GB/s", "times chunked"], rows))


def ours() -> Decoder:
    """Pre-norm RMS blocks of Mamba alone, with a tied head."""
    stack = {"depth": DEPTH, "pattern": ["mamba"], "feedforward": None, "norm": "rms", "placement": "pre"}
    given = {
        "topology": "decoder",
        "width": WIDTH,
        "position": "none",
        "tie": "output",
        "scale_embedding": False,
        "dropout": 0.0,
        "decoder": stack,
    }
    model = models.build(config.validate(config.Model, given, "bench", {}), VOCABULARY)
    assert isinstance(model, Decoder)
    return model


def theirs() -> torch.nn.Module:
    """The same sizes in `transformers`, which without compiled kernels loops over time."""
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": DEPTH}
    return MambaForCausalLM(MambaConfig(**sizes, use_mambapy=False))


def peer(length: int, rounds: int, *, training: bool, warm: bool = True) -> None:
    """One forward pass, or one step without the optimiser, of a single sequence; no warm-up where it takes minutes."""
    own, other = ours(), theirs()
    ids = torch.randint(VOCABULARY, (1, length), generator=torch.Generator().manual_seed(0))

    def run(model: torch.nn.Module) -> None:
        with torch.set_grad_enabled(training):
            given = model(ids)
            logits: Tensor = given if isinstance(given, Tensor) else given.logits
            if training:
                F.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
                model.zero_grad()

    programs = {"jogak": lambda: run(own), "transformers": lambda: run(other)}
    if warm:
        taken = take_turns(programs, rounds)
    else:
        run(own)
        taken: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(rounds):
            for name, program in programs.items():
                begin = time.perf_counter()
                program()
                taken[name].append(time.perf_counter() - begin)
    what = "training" if training else "forward"
    rows = [[n, f"{statistics.median(t):.3f}", f"{length / statistics.median(t):.0f}"] for n, t in taken.items()]
    rows[0].append(ratio(taken["transformers"], taken["jogak"]))
    rows[1].append("")
    print(table([f"{what} at T={length}", "s", "tokens/s", "times transformers"], rows))


def recurrent(width: int) -> dict[str, Mixer]:
    """Every registered mixer whose state does not grow, as a decoder builds it."""
    found = {}
    for name in mixers.names():
        try:
            kind = mixers.kind(name)
            mixer = mixers.build(name, d_model=width, **({} if kind.causal_only else {"causal": True}))
        except (UserError, TypeError):
            continue  # needs options of its own, such as what it wraps; or reads a memory only
        if mixer.causal and not mixer.state_grows:
            found[name] = mixer.eval()
    return found


def decode(rounds: int, near: int = 256, far: int = 32768, steps: int = 100, width: int = 256) -> None:
    """Steps of one row behind `near` and behind `far` positions, in turns."""
    rows = []
    for name, mixer in recurrent(width).items():
        x = torch.randn(1, 4096, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            states, state = {}, None
            _, states[near] = mixer(x[:, :near])
            for begin in range(0, far, x.shape[1]):
                _, state = mixer(x[:, : min(x.shape[1], far - begin)], state)
            states[far] = state

            def run(at: int, mixer: Mixer = mixer, states: dict = states, x: Tensor = x) -> None:
                state = states[at]
                for t in range(steps):
                    _, state = mixer.step(x[:, t : t + 1], state)

            taken = take_turns({str(at): torch.no_grad()(lambda at=at: run(at)) for at in states}, rounds)
        speeds = [f"{steps / statistics.median(t):.0f}" for t in taken.values()]
        rows.append([name, *speeds, ratio(taken[str(near)], taken[str(far)])])
    print(table([f"step, width {width}", f"tokens/s at {near}", f"at {far}", "far / near"], rows))


def long(names: list[str], rounds: int, width: int = 256) -> None:
    """Seconds of forward and backward of one layer and one row, up to 32k positions; linear where us/token stay."""
    rows = []
    for name in names:
        kind = mixers.kind(name)
        mixer = mixers.build(name, d_model=width, **({} if kind.causal_only else {"causal": True}))
        for length in (1024, 4096, 16384, 32768):
            x = torch.randn(1, length, width)

            def run(mixer: Mixer = mixer, x: Tensor = x) -> None:
                mixer(x)[0].sum().backward()
                mixer.zero_grad()

            middle = statistics.median(take_turns({name: run}, rounds)[name])
            rows.append([f"{name} T={length}", f"{middle:.3f}", f"{1e6 * middle / length:.1f}"])
    print(table([f"training, width {width}", "s", "us/token"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["scan", "peer", "peer-long", "decode", "long"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=1024, help="of `peer-long`, whose peer takes T squared")
    parser.add_argument("--mixers", default="mamba,mamba2", help="of `long`, by comma")
    given = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "scan": lambda: scan(given.rounds),
        "peer": lambda: (peer(1024, given.rounds, training=False), peer(256, min(2, given.rounds), training=True))[0],
        "peer-long": lambda: peer(given.length, 1, training=True, warm=False),
        "decode": lambda: decode(given.rounds),
        "long": lambda: long(given.mixers.split(","), min(3, given.rounds)),
    }
    for part in given.parts:
        if part not in parts:
            parser.error(f"there is no part '{part}'; known: {', '.join(parts)}")
        parts[part]()
        print()
    print(circumstances("transformers", "numba"))


if __name__ == "__main__":
    main()
