"""A recipe with other mixers in it, and the report of a comparison."""

import pytest

from jogak import config, registry
from jogak.comparing import recipes, report
from jogak.errors import UserError


def recipe_of(topology="decoder", **sides):
    tree = {"task": "x", "run": "runs/r", "data": {"sources": "a"}, "model": {"topology": topology, **sides}}
    return config.parse_recipe(tree, "test")


ROTARY = {"pattern": [{"name": "attention", "heads": 4, "position": "rotary"}], "depth": 3}


def test_options_of_a_mixer_that_is_there_are_kept():
    changed = recipes.with_mixer(recipe_of(decoder=ROTARY), "attention")
    assert changed.run == "runs/r/attention"
    assert changed.model.decoder is not None
    assert changed.model.decoder.depth == 3
    assert changed.model.decoder.pattern[0].options == {"heads": 4, "position": "rotary"}


def test_mixers_joined_take_turns():
    changed = recipes.with_mixer(recipe_of(decoder=ROTARY), "attention+attention")
    assert changed.model.decoder is not None
    assert [m.name for m in changed.model.decoder.pattern] == ["attention", "attention"]


@pytest.mark.skipif("bidirectional" not in registry.names("mixers"), reason="no mixer that runs others both ways")
def test_an_encoder_runs_a_causal_mixer_both_ways():
    changed = recipes.with_mixer(recipe_of("encoder-decoder"), "gru")
    assert changed.model.encoder is not None
    assert changed.model.decoder is not None
    assert changed.model.encoder.pattern[0].options == {"inner": "gru"}
    assert changed.model.decoder.pattern[0].name == "gru"


def test_an_unknown_mixer_is_told():
    with pytest.raises(UserError, match="did you mean 'attention'"):
        recipes.with_mixer(recipe_of(), "atention")
    with pytest.raises(UserError, match="nothing to compare"):
        recipes.distinct(["", " "])


def entry(name, value):
    judged = [{"seconds": 1.0, "bits": value + 1}, {"seconds": 2.0, "bits": value}]
    return report.Entry(name, 1000, 64, 10, 2.0, 500.0, {"loss": 1.5, "bits": value}, judged)


def test_the_best_comes_first_whichever_way_the_metric_goes(tmp_path):
    entries = [entry("첫째", 2.0), entry("<b>", 1.0)]
    assert [e.name for e in report.ranked(entries, "-bits")] == ["<b>", "첫째"]
    assert [e.name for e in report.ranked(entries, "bits")] == ["첫째", "<b>"]
    page = report.write(tmp_path, entries, "-bits", recipe_of())
    text = page.read_text(encoding="utf-8")
    assert "첫째" in text
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
    assert text.count("<polyline") == 2
    assert "http" not in text
    lines = (tmp_path / "compare.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| <b>")]
