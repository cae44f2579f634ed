"""Series cut into patches: what is taken away of each channel, what is missing, what is refused."""

import pytest
import torch

from jogak import config, models
from jogak.errors import UserError
from jogak.layers.inputs.series import Series
from jogak.layers.norm import build_norm


def made(**options: object) -> config.Model:
    options = {"length": 12, "channels": 2, "patch": 4, **options}
    return config.Model.model_validate(
        {
            "topology": "encoder",
            "width": 8,
            "input": {"name": "series", **options},
            "encoder": {
                "depth": 1,
                "norm": "batch",
                "placement": "pre",
                "pattern": [{"name": "attention", "heads": 2}],
            },
            "head": {"kind": "forecast", "size": 3},
            "tie": "none",
        }
    )


def test_measures() -> None:
    """By the definition, one channel at a time; what is missing has no part in it."""
    x = torch.tensor([[1.0, 2.0, torch.nan, 5.0], [0.0, 0.0, 0.0, 0.0]]).T.unsqueeze(0)
    loc, scale = Series(4, 4, 2, 2).measure(x)
    known = torch.tensor([1.0, 2.0, 5.0])
    assert torch.allclose(loc.flatten(), torch.stack([known.mean(), torch.tensor(0.0)]))
    assert torch.allclose(scale.flatten(), torch.tensor([known.var(correction=0) + 1e-5, 1e-5]).sqrt())
    loc, scale = Series(4, 4, 2, 2, scale="mean").measure(x)
    assert torch.allclose(loc, torch.zeros(1, 1, 2))
    assert torch.allclose(scale.flatten(), torch.tensor([8 / 3, 1e-10]))
    loc, scale = Series(4, 4, 2, 2, scale="none").measure(x)
    assert loc.tolist() == [[[0.0, 0.0]]]
    assert scale.tolist() == [[[1.0, 1.0]]]


def test_patches_end_where_the_series_ends() -> None:
    """The first values are left out where a whole number of strides does not reach them."""
    made = Series(2, 11, 1, 4, 3, scale="none", position="learned")
    with torch.no_grad():
        made.position.zero_()
        made.weight.copy_(torch.tensor([[[1.0, 0, 0, 0], [0, 0, 0, 1.0]]]))  # the first and the last of each patch
    x = torch.arange(11.0).view(1, 11, 1)
    assert made(x).tolist() == [[[1, 4], [4, 7], [7, 10]]]


def test_missing_values_by_mask_and_by_nan_are_one() -> None:
    torch.manual_seed(0)
    model = models.build(made()).eval()
    x, mask = torch.randn(3, 12, 2), torch.rand(3, 12, 2) < 0.7
    found = model(x.masked_fill(~mask, torch.nan))
    assert torch.equal(found, model(x, mask))
    assert torch.equal(found, model(x.masked_fill(~mask, 7.0), mask))
    row = mask.all(2)
    assert torch.equal(model(x, row), model(x, row.unsqueeze(2).expand(-1, -1, 2)))


def test_forecasts_move_with_the_series() -> None:
    """A series that is shifted and stretched goes on shifted and stretched; channels and rows are apart."""
    torch.manual_seed(0)
    model = models.build(made()).eval()
    x = torch.randn(3, 12, 2)
    y = model(x)
    assert y.shape == (3, 3, 2)
    assert torch.allclose(model(x * 5 + 100), y * 5 + 100, atol=1e-2)
    assert torch.allclose(model(x[1:2]), y[1:2], atol=1e-6)
    assert torch.allclose(model(x.flip(2)), y.flip(2), atol=1e-6)


def test_batch_norm_learns_of_the_batch_and_keeps_it() -> None:
    torch.manual_seed(0)
    norm = build_norm("batch", 3, 1e-5)
    x = torch.randn(4, 5, 3) * 2 + 1
    y = norm(x)
    assert torch.allclose(y.flatten(0, 1).mean(0), torch.zeros(3), atol=1e-6)
    kept = x.flatten(0, 1).mean(0) * 0.1
    wanted = (x - kept) / (0.9 + 0.1 * x.flatten(0, 1).var(0) + 1e-5).sqrt()
    assert torch.allclose(norm.eval()(x), wanted, atol=1e-5)


def test_a_forecaster_learns() -> None:
    """Sines of any height go on as sines do."""
    torch.manual_seed(0)
    model = models.build(made(scale="std"))
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        begin, size = torch.rand(32, 1, 2) * 6, torch.rand(32, 1, 2) * 9 + 1
        wave = size * torch.sin(begin + torch.arange(15).view(1, 15, 1))
        loss = ((model(wave[:, :12]) - wave[:, 12:]) / size).square().mean()
        loss.backward()
        steps.step()
        steps.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch": 13}, "holds no patch of 13"),
        ({"scale": "x"}, "scale must be std, mean or none"),
        ({"stide": 2}, "has no option 'stide'; did you mean 'stride'"),
    ],
)
def test_refusals(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        models.build(made(**changes), device="meta")


def test_refusals_of_what_does_not_fit_together() -> None:
    given = made()
    with pytest.raises(UserError, match="values \\['batch', 12, 2\\]"):
        models.build(given)(torch.randn(1, 11, 2))
    text = config.Model.model_validate(
        {**given.model_dump(exclude={"input", "encoder", "head"}), "vocab_size": 9, "encoder": {"norm": "batch"}}
    )
    with pytest.raises(UserError, match="'batch' would count padding"):
        models.build(text, device="meta")
    plain = text.model_copy(update={"head": given.head, "encoder": config.Stack(depth=1)})
    with pytest.raises(UserError, match="'forecast' needs a series"):
        models.build(plain, device="meta")
    with pytest.raises(UserError, match="there is no norm 'lyer'"):
        build_norm("lyer", 3, 1e-5)  # pyright: ignore[reportArgumentType]
