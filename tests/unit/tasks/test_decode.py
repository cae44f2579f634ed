"""Settings of decoding through tasks: what the run says, what is asked for instead, and what gives way to what."""

import re

import pytest

from jogak import config
from jogak.decoding.settings import Sampling
from jogak.errors import UserError
from jogak.tasks import language_model
from jogak.tasks._chat import Chat, plain, talk
from jogak.tasks._decode import decode_with, decoding_of, is_search
from jogak.tasks._generate import Sampler
from jogak.tasks.language_model import TrainedLanguageModel, Writer
from jogak.tasks.translate import TrainedTranslation, Translator
from tests.unit.decoding.writers import codec, decoder, translator

RUN = config.Decode(beam=5, max_length=16)


def trained(kind=TrainedLanguageModel, **decode):
    recipe = config.Recipe.model_validate(
        {"task": "language_model", "data": {"sources": "a.txt"}, "decode": {"max_length": 16, **decode}}
    )
    return kind(recipe, decoder() if kind is TrainedLanguageModel else translator(), codec())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"beam": 5}),
        ({"beam": None, "n_best": None}, {"beam": 5}),
        ({"n_best": 3}, {"beam": 5, "n_best": 3}),
        ({"n_best": 8}, {"beam": 8, "n_best": 8}),
        ({"temperature": 0.8}, {"beam": 1, "temperature": 0.8}),
        ({"temperature": 0.8, "n_best": 4}, {"beam": 1, "n_best": 4}),
        ({"seed": 3}, {"beam": 1, "seed": 3}),
        ({"method": "mbr", "min_p": 0.1}, {"beam": 5, "method": "mbr", "min_p": 0.1}),
        ({"stop": ["a"], "regex": "a+"}, {"beam": 5, "stop": ("a",), "regex": "a+"}),
        ({"max_new_tokens": 3, "min_new_tokens": 2, "n": 2}, {"max_length": 3, "min_length": 2, "n_best": 2}),
    ],
    ids=str,
)
def test_what_is_asked_for_changes_what_the_run_says(changes, expected):
    found = decode_with(RUN, **changes)
    assert {name: getattr(found, name) for name in expected} == expected


def test_a_beam_makes_what_the_run_says_of_chance_step_back():
    sampled = config.Decode(temperature=0.7, top_p=0.9)
    assert decode_with(sampled, beam=4).temperature is None
    assert decode_with(sampled, beam=4).top_p == 1.0
    with pytest.raises(UserError, match="temperature and beam cannot be set together"):
        decode_with(sampled, beam=4, temperature=0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"top_p": 1.5}, "decode: 'top_p': must be a number from 0 to 1 (got 1.5)"),
        ({"beam": 0}, "decode: 'beam': must be a whole number from 1 to 1024 (got 0)"),
        ({"seed": -1}, "'seed': must be a whole number from 0 to 2^63 - 1"),
        ({"tempature": 1}, "unknown key 'tempature'; did you mean 'temperature'"),
        ({"method": "best"}, "'method'"),
        ({"beam": 2, "best_of": 3}, "best_of and beam cannot be set together"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        decode_with(RUN, **changes)


def test_a_recipe_with_settings_that_do_not_fit_is_refused_before_anything_is_read():
    given = trained().recipe.model_copy(update={"decode": config.Decode(beam=4, temperature=0.5)})
    with pytest.raises(UserError, match="temperature and beam"):
        language_model.build(given)


def test_plain_searches_stay_plain():
    assert is_search(RUN)
    assert not is_search(decode_with(RUN, stop=["a"]))
    assert isinstance(trained().predictor(beam=3), Writer)
    assert isinstance(trained(TrainedTranslation).predictor(beam=3), Translator)
    assert isinstance(trained().predictor(temperature=0.3), Sampler)
    assert decoding_of(RUN, {"temperature": 1.0, "bad_ids": [[3]]}) == Sampling(
        max_new_tokens=16, temperature=1.0, bad_ids=((3,),)
    )


@pytest.mark.parametrize("kind", [TrainedLanguageModel, TrainedTranslation])
def test_both_ways_of_searching_say_the_same(kind):
    """A predictor that searches, and one that generates with a setting which changes nothing."""
    made, texts = trained(kind), ["저장 open", "it", "저장했습니다"]
    for asked in ({"beam": 1}, {"beam": 3, "n_best": 2}):
        plain_, other = made.predictor(**asked)(texts), made.predictor(**asked, bad_words=["zzzzzz"])(texts)
        assert [[a.text for a in row] for row in plain_] == [[a.text for a in row] for row in other]
        assert [[a.ids for a in row] for row in plain_] == [[a.ids for a in row] for row in other]


def test_samples_come_with_their_seed_and_data():
    made = trained(temperature=1.2)
    (answers,) = made.predictor(seed=5, n_best=2, logprobs=2)(["저장"])
    told = answers[0].plain()
    assert told["seed"] == 5
    assert told["reason"] in ("end", "length")
    assert len(told["top"]) == len(answers[0].generation.scores)
    again = made.predictor(seed=5, n_best=2, logprobs=2)(["저장"])[0]
    assert [a.text for a in again] == [a.text for a in answers]


def test_texts_that_do_not_fit_are_told():
    made = trained(TrainedTranslation)
    with pytest.raises(UserError, match="text 1: is empty"):
        made.predictor(temperature=1.0)([" "])
    with pytest.raises(UserError, match=r"text 2: has .* more than the model takes"):
        made.predictor(temperature=1.0)(["a", "긴 글 " * 200])


# ---------------------------------------------------------------- conversations


def chat(**changes):
    made = trained().generator()
    settings = {"system": "짧게 답해.", **changes}
    made.longest = settings.pop("longest", None)
    return Chat(made, Sampling(max_new_tokens=12, **settings.pop("asked", {})), **settings)


class Out(list):
    def write(self, text):
        self.append(text)

    def flush(self):
        pass


def test_a_conversation_has_a_memory():
    talking = chat()
    first = "".join(talking.say("안녕"))
    talking.asked = Sampling(max_new_tokens=5)
    list(talking.say("again"))
    assert [m["role"] for m in talking.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert talking.messages[2]["content"] == first
    told = plain(talking.messages[:4])
    assert told == f"짧게 답해.\n\nUser: 안녕\nAssistant: {first.strip()}\nUser: again\nAssistant:"
    talking.clear()
    assert talking.messages == [{"role": "system", "content": "짧게 답해."}]


def test_answers_are_those_of_the_whole_conversation():
    talking = chat()
    text = "".join(talking.say("저장"))
    (whole,) = talking.made.generate([talking.made.encode(plain(talking.messages[:2]))], talking.asked)[0]
    assert text == whole.text.lstrip()
    assert talking.asked.stop == ("\nUser:",)


def test_a_template_of_the_models_own_is_used_instead():
    seen = []

    def template(messages):
        seen.append([m["content"] for m in messages])
        return codec().encode("|".join(m["content"] for m in messages))

    talking = chat(template=template)
    list(talking.say("하나"))
    assert seen == [["짧게 답해.", "하나"]]
    assert talking.asked.stop == ()


def test_the_oldest_turns_go_where_there_is_no_room():
    talking = chat(longest=120)
    for number in range(4):
        list(talking.say(f"질문 {number}"))
    assert talking.forgotten > 0
    assert talking.messages[0]["role"] == "system"
    assert talking.messages[1]["role"] == "user"
    with pytest.raises(UserError, match="beyond the 120 positions"):
        list(talking.say("긴 글 " * 60))
    assert talking.messages[-1]["role"] == "assistant"  # what was refused was not said


def test_talking_in_a_terminal():
    talking, out, told = chat(), Out(), []
    talk(talking, iter(["안녕\n", "\n", "/what\n", "/clear\n", "다시\n", "/exit\n", "never\n"]), out, told.append)  # pyright: ignore[reportArgumentType]
    assert "".join(out).count("\n") >= 2
    assert talking.messages[1]["content"] == "다시"
    assert len(talking.messages) == 3
    assert "Ctrl-C stops an answer" in told[0]
    assert "forgotten" in told[1]


def test_an_answer_that_is_stopped_is_remembered_as_far_as_it_came():
    class Impatient(Out):
        def flush(self):
            if len(self) == 3:
                raise KeyboardInterrupt

    talking, out, told = chat(), Impatient(), []
    talk(talking, iter(["저장\n", "다시\n"]), out, told.append)  # pyright: ignore[reportArgumentType]
    assert told == ["stopped"]
    assert talking.messages[2]["content"] == "".join(out[:3])
    assert len(talking.messages) == 5


def test_a_translator_knows_no_conversation():
    with pytest.raises(UserError, match="knows no conversation; leave out --chat"):
        Chat(trained(TrainedTranslation).generator(), Sampling())
