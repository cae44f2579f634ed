"""A file's name is its registered name."""

from pathlib import Path

import pytest

import jogak.mixers
from jogak import registry
from jogak.errors import UserError


def test_names_are_the_modules_without_what_they_share() -> None:
    assert "attention" in registry.names("mixers")
    assert "contract" not in registry.names("mixers")


def test_a_new_file_is_a_new_name_and_nobody_edits_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "patchwork.py").write_text("MIXER = 'sewn'\n", encoding="utf-8")
    (tmp_path / "_thread.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(jogak.mixers, "__path__", [*jogak.mixers.__path__, str(tmp_path)])
    assert "patchwork" in jogak.mixers.names()
    assert "_thread" not in jogak.mixers.names()
    assert registry.find("mixers", "patchwork").MIXER == "sewn"


@pytest.mark.parametrize(
    ("package", "name", "sentence"),
    [
        ("mixers", "atention", "there is no mixer called 'atention'; did you mean 'attention'?"),
        ("mixers", "contract", "there is no mixer called 'contract'"),
        ("mixers", "../config", "there is no mixer called '../config'"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(package: str, name: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.find(package, name)
    assert str(caught.value).startswith(sentence)


def test_presets_are_read_by_name() -> None:
    for name in registry.preset_names():
        text = registry.preset_text(name)
        assert "topology:" in text or "preset:" in text
    assert {"transformer-base", "transformer-big"} <= set(registry.preset_names())


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no preset called 'transformer-bsae'; did you mean 'transformer-base'"):
        registry.preset_text("transformer-bsae")
