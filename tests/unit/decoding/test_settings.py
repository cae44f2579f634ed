"""What may be asked of decoding: ranges are told with their names, and what cannot be together is."""

import re
from dataclasses import fields

import pytest

from jogak import config
from jogak.decoding.settings import IN_RECIPES, Sampling, of_recipe, settings
from jogak.errors import UserError

INFINITY = float("inf")
NAMES = [field.name for field in fields(Sampling)]
NUMBERS = {**config.WHOLE, **config.REAL}


@pytest.mark.parametrize("name", [n for n in NAMES if IN_RECIPES.get(n, n) in NUMBERS])
def test_a_number_out_of_range_is_told_with_its_name_and_range(name):
    least, most = NUMBERS[IN_RECIPES.get(name, name)]
    wrong = [least - 1, "1", float("nan"), True] + ([most * 2 + 1] if most != INFINITY else [])
    if IN_RECIPES.get(name, name) in config.WHOLE:
        wrong.append(1.5)
    for value in wrong:
        with pytest.raises(UserError, match=rf"^{name} must be a .*number (at least|from) [\d.-]+( to .*)?, got"):
            settings(None, **{name: value})


@pytest.mark.parametrize("name", list(NUMBERS))
def test_a_recipe_says_the_same_of_the_same_numbers(name):
    least, most = NUMBERS[name]
    for value in (least - 1, *([most * 2 + 1] if most != INFINITY else [])):
        with pytest.raises(UserError, match=rf"'{name}': must be a .*number (at least|from)"):
            config.validate(config.Decode, {name: value}, "decode", {})


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"beam": 4, "temperature": 0.5}, "temperature and beam cannot be set together"),
        ({"beam": 4, "top_p": 0.5}, "top_p and beam cannot be set together"),
        ({"beam": 2, "n": 3}, "n (3) cannot be more than beam (2)"),
        ({"beam": 4, "beam_groups": 3}, "beam_groups (3) must divide beam (4)"),
        ({"beam_groups": 2}, "beam_groups (2) must divide beam (1)"),
        ({"beam": 4, "diversity_penalty": 1.0}, "set beam_groups to at least 2"),
        ({"n": 2, "temperature": 0}, "several greedy answers would be one and the same"),
        ({"best_of": 2, "n": 3}, "best_of (2) cannot be less than n (3)"),
        ({"penalty_alpha": 0.6}, "set top_k to 2 at least"),
        ({"penalty_alpha": 0.6, "top_k": 4, "temperature": 0.3}, "temperature and penalty_alpha"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens (9) cannot be more than max_new_tokens (3)"),
        ({"regex": "a", "grammar": "start: /a/"}, "regex and grammar cannot both"),
        ({"regex": 3}, "regex must be a text"),
        ({"stop": ["", "a"]}, "stop must be texts that are not empty"),
        ({"bad_ids": [[]]}, "bad_ids must be sequences of ids, none of them empty"),
        ({"method": "best"}, "method must be auto or mbr"),
        ({"method": "mbr", "temperature": 0}, "samples at temperature 0"),
        ({"method": "mbr", "n": 40}, "n (40) cannot be more than beam (1) and mbr_samples (32)"),
        ({"method": "mbr", "best_of": 4}, "best_of and method mbr cannot be set together"),
        ({"temprature": 1}, "decoding has no setting 'temprature'; did you mean 'temperature'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(asked, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        settings(None, **asked)


def test_defaults_are_greedy_and_one_setting_of_chance_asks_for_sampling():
    assert Sampling().heat == 0
    for name, value in {"top_k": 5, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "seed": 1, "n": 2}.items():
        assert settings(None, **{name: value}).heat == 1, name
    assert settings(None, top_k=5, temperature=0).heat == 0
    assert settings(None, top_k=4, penalty_alpha=0.6).heat == 0


def test_a_recipe_holds_every_setting_and_none_means_leave_it():
    known = set(config.Decode.model_fields) - {"batch"}
    assert known == {IN_RECIPES.get(name, name) for name in NAMES} - {"bad_ids"}
    assert of_recipe(config.Decode()) == Sampling()
    given = config.Decode.model_validate({"stop": "끝", "max_length": 7, "n_best": 2, "temperature": 0.5})
    assert of_recipe(given) == Sampling(stop=("끝",), max_new_tokens=7, n=2, temperature=0.5)
    assert settings(Sampling(top_k=3), top_k=None, seed=4) == Sampling(top_k=3, seed=4)
