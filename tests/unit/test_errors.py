"""The errors a user sees."""

import pytest

from jogak.errors import JogakError, StorageError, UserError, nearest


def test_a_near_word_is_offered_and_only_that() -> None:
    assert nearest("stpes", ["steps", "seed", "rate"]) == "; did you mean 'steps'?"


def test_without_a_near_word_everything_known_is_listed_in_order() -> None:
    assert nearest("xyz", {"rate", "seed"}) == "; known: rate, seed"


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert nearest("xyz", []) == ""


def test_korean_names_are_near_each_other() -> None:
    assert nearest("번역하가", ["번역하기", "요약하기"]) == "; did you mean '번역하기'?"


@pytest.mark.parametrize(
    ("error", "code", "builtin"), [(UserError, 2, ValueError), (StorageError, 1, OSError)], ids=["user", "storage"]
)
def test_exit_codes_and_what_python_code_may_catch(
    error: type[JogakError], code: int, builtin: type[Exception]
) -> None:
    with pytest.raises(builtin) as caught:
        raise error("model.safetensors: damaged")
    assert isinstance(caught.value, JogakError)
    assert caught.value.exit_code == code
    assert str(caught.value) == "model.safetensors: damaged"
