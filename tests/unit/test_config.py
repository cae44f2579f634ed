"""Configuration: what is right reads back equal, every mistake is one sentence with file, line and key."""

from pathlib import Path

import pytest

from jogak import config
from jogak.errors import UserError

MINIMAL = "task: translate\ndata:\n  sources: [a.jsonl]\n"


def recipe(tmp_path: Path, text: str, overrides: list[str] | dict[str, object] | None = None) -> config.Recipe:
    path = tmp_path / "요리법.yaml"
    path.write_text(text, encoding="utf-8")
    return config.read_recipe(path, overrides or [])


def mistake(tmp_path: Path, text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        recipe(tmp_path, text, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(tmp_path / "요리법.yaml"), "FILE")


def test_a_minimal_recipe_takes_every_default(tmp_path: Path) -> None:
    read = recipe(tmp_path, MINIMAL)
    assert read == config.Recipe(task="translate", data=config.Data(sources=("a.jsonl",)))


def test_a_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    first = recipe(
        tmp_path,
        MINIMAL + "run: 실행/첫째\nmodel: transformer-big\ntrain: {rate: 1e-3, minutes: 2.5}\n",
        ["model.encoder.pattern=[{name: attention, heads: 4}, attention]", "train.clip=null"],
    )
    again = recipe(tmp_path, config.to_yaml(first))
    assert again == first
    assert again.model.encoder is not None
    assert again.model.encoder.pattern[0].options == {"heads": 4}
    assert again.train.clip is None


@pytest.mark.parametrize("overrides", [["train.steps=7", "run=결과"], {"train.steps": 7, "run": "결과"}])
def test_overrides_replace_what_the_file_says(tmp_path: Path, overrides: list[str] | dict[str, object]) -> None:
    read = recipe(tmp_path, MINIMAL + "train: {steps: 9, seed: 5}\n", overrides)
    assert (read.train.steps, read.train.seed, read.run) == (7, 5, "결과")


def test_a_preset_is_a_start_that_other_keys_change(tmp_path: Path) -> None:
    read = recipe(tmp_path, MINIMAL + "model:\n  preset: transformer-base\n  decoder: {depth: 2}\n")
    assert read.model.encoder is not None
    assert read.model.decoder is not None
    assert (read.model.width, read.model.encoder.depth, read.model.decoder.depth) == (512, 6, 2)
    assert read.model.decoder.pattern[0].options["heads"] == 8


def test_an_override_may_name_a_preset_and_change_it(tmp_path: Path) -> None:
    read = recipe(tmp_path, MINIMAL, ["model=transformer-big", "model.width=64"])
    assert (read.model.width, read.model.dropout) == (64, 0.3)


def test_overrides_leave_the_tree_of_another_reading_alone(tmp_path: Path) -> None:
    assert recipe(tmp_path, MINIMAL, ["data.test=3"]).data.test == 3
    assert recipe(tmp_path, MINIMAL).data.test == config.Data(sources=("x",)).test


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.Train().steps = 3  # pyright: ignore[reportAttributeAccessIssue]  # that is the point


@pytest.mark.parametrize(
    ("added", "sentence"),
    [
        ("trian:\n  steps: 3\n", "FILE:4: unknown key 'trian'; did you mean 'train'?"),
        ("train:\n  seed: 1\n  step: 3\n", "FILE:6: unknown key 'train.step'; did you mean 'steps'?"),
        (
            "model:\n  encoder:\n    feedforward: {widht: 4}\n",
            "FILE:6: unknown key 'model.encoder.feedforward.widht'; did you mean 'width'?",
        ),
        (
            "model:\n  preset: transformer-base\n  widht: 3\n",
            "FILE:6: unknown key 'model.widht'; did you mean 'width'?",
        ),
        (
            "model: transformer-bse\n",
            "FILE:4: 'model': there is no preset called 'transformer-bse'; did you mean 'transformer-base'?",
        ),
        (
            "model:\n  encoder:\n    pattern: [{heads: 2}]\n",
            "FILE:6: key 'model.encoder.pattern.0.name' is missing; add it",
        ),
        ("train:\n  steps: -1\n", "FILE:5: 'train.steps': should be greater than 0 (got -1)"),
        (
            "train:\n  schedule: cosin\n",
            "FILE:5: 'train.schedule': should be 'inverse_sqrt', 'cosine', 'linear' or 'constant' (got 'cosin')",
        ),
        ("train: 5\n", "FILE:4: 'train': should be a section of keys and values (got 5)"),
        ("model:\n  encoder: 5\n", "FILE:5: 'model.encoder': should be a section of keys and values (got 5)"),
        (
            "model:\n  topology: decoder\n  encoder: {depth: 2}\n",
            "FILE:4: 'model': topology 'decoder' has no encoder; remove 'encoder'",
        ),
        ("run: a\nrun: b\n", "FILE:5: not valid YAML: key 'run' is there twice (first in line 4)"),
        ("run: [a\n", "FILE:5: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("run: &a [*a]\n", "FILE:4: not valid YAML: an anchor that holds itself"),
        (
            "run: !!python/object:os.system x\n",
            "FILE:4: not valid YAML: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object:os.system'",
        ),
    ],
)
def test_a_mistake_in_the_file_names_line_and_key(tmp_path: Path, added: str, sentence: str) -> None:
    assert mistake(tmp_path, MINIMAL + added) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "FILE: a mapping of keys to values is expected, found nothing"),
        ("- a\n", "FILE: a mapping of keys to values is expected, found list"),
        ("task: translate\n", "FILE: key 'data' is missing; add it"),
        ("task: translate\ndata: {source: ko}\n", "FILE:2: key 'data.sources' is missing; add it"),
    ],
)
def test_a_file_that_lacks_something_says_what(tmp_path: Path, text: str, sentence: str) -> None:
    assert mistake(tmp_path, text) == sentence


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.step=100", "override: unknown key 'train.step'; did you mean 'steps'?"),
        ("train.steps=0", "override: 'train.steps': should be greater than 0 (got 0)"),
        ("steps", "'steps' is not an override; write key=value, for example train.steps=100"),
        ("task.x=3", "override 'task.x': 'task' holds 'translate', not a section"),
        ("train.steps=[1", "the value of override 'train.steps=[1' is not valid YAML; quote it"),
        ("model=transformer-gib", "override: 'model': there is no preset called 'transformer-gib'"),
    ],
)
def test_a_mistake_in_an_override_is_said_to_be_there(tmp_path: Path, override: str, sentence: str) -> None:
    assert mistake(tmp_path, MINIMAL, [override]).startswith(sentence)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"없음\.yaml: there is no such file"):
        config.read_recipe(tmp_path / "없음.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        config.read_recipe(tmp_path)
    (tmp_path / "cp949.yaml").write_bytes("task: 번역\n".encode("cp949"))
    with pytest.raises(UserError, match=r"cp949.yaml: not UTF-8 at byte 6; save it as UTF-8"):
        config.read_recipe(tmp_path / "cp949.yaml")


def test_only_the_decoder_of_an_encoder_decoder_reads_a_memory() -> None:
    assert config.Model().stack("decoder").cross == config.Mixer(name="attention")
    assert config.Model(topology="decoder").stack("decoder").cross is None
    with pytest.raises(ValueError, match=r"decoder\.cross"):
        config.Model(topology="decoder", decoder=config.Stack(cross=config.Mixer(name="attention")))
