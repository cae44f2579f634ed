import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest

from jogak.errors import StorageError, UserError
from jogak.looking import Panel, write_html
from jogak.looking.page import embed_json, quantise

EVIL = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1"><!--<script>'


def random_panel(kind="cross", layers=2, heads=3, queries=4, keys=5, labels=None, **more):
    scores = np.exp(np.random.default_rng(0).normal(0, 1.5, (layers, heads, queries, keys)))
    q, k = labels or ([f"q{i}" for i in range(queries)], [f"k{i}" for i in range(keys)])
    return Panel("Title", kind, q, k, scores / scores.sum(-1, keepdims=True), **more)


def page_of(tmp_path, panels, **more):
    write_html(tmp_path / "look.html", panels, **{"title": "T", **more})
    return (tmp_path / "look.html").read_text(encoding="utf-8")


def data_of(page):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_weights_survive_within_the_stated_error():
    weights = np.linspace(0, 1, 100_001)
    back = (quantise(weights) / 255.0) ** 2
    assert back[0] == 0
    assert back[-1] == 1
    assert (np.abs(back - weights) <= np.sqrt(weights) / 255 + 1 / 510**2 + 1e-12).all()
    assert np.abs(back - weights)[weights >= 0.9].max() <= 0.004
    assert np.abs(back - weights)[np.abs(weights - 0.01) < 1e-3].max() <= 0.0004 * 1.1


def test_the_page_holds_the_weights_in_reading_order(tmp_path):
    panels = [random_panel("encoder", queries=5), random_panel("cross", layers=3, heads=1, queries=2)]
    data = data_of(page_of(tmp_path, panels))
    stored = np.frombuffer(zlib.decompress(base64.b64decode(data["weights"])), np.uint8)
    expected = np.concatenate([p.weights.ravel() for p in panels])
    np.testing.assert_allclose((stored / 255.0) ** 2, expected, atol=0.004)
    assert [p["heads"] for p in data["panels"]] == [[3, 3], [1, 1, 1]]


def test_heads_that_a_layer_lacks_take_no_room(tmp_path):
    weights = random_panel().weights.copy()
    weights[1, 1:] = np.nan
    panel = Panel(
        "Title", "cross", list("abcd"), list("abcde"), weights, layers=(2, 4), without=((1, "mamba"), (3, "lstm"))
    )
    data = data_of(page_of(tmp_path, [panel]))
    stored = zlib.decompress(base64.b64decode(data["weights"]))
    assert len(stored) == (3 + 1) * 4 * 5
    assert data["panels"][0]["heads"] == [3, 1]
    assert data["panels"][0]["layers"] == [2, 4]
    assert data["panels"][0]["without"] == [[1, "mamba"], [3, "lstm"]]
    assert [len(s) for s in data["panels"][0]["spread"]] == [4, 2]


def test_thirty_tokens_six_layers_eight_heads_stay_below_a_megabyte(tmp_path):
    panels = [random_panel(kind, 6, 8, 30, 30) for kind in ("encoder", "decoder", "cross")]
    write_html(tmp_path / "a.html", panels, title="T")
    assert (tmp_path / "a.html").stat().st_size < 1_000_000


def test_tokens_and_titles_cannot_become_markup(tmp_path):
    labels = [EVIL, "<script>", "&lt;", "은행"], ["{{script}}", "\u2028", '"', "'", "-->"]
    page = page_of(tmp_path, [random_panel(labels=labels)], title=EVIL, source=EVIL, output=EVIL)
    data = data_of(page)
    assert data["panels"][0]["queries"] == labels[0]
    assert data["panels"][0]["keys"] == labels[1]
    assert data["title"] == data["source"] == data["output"] == EVIL
    assert page.count("<script") == page.count("</script") == 2
    assert "<img" not in page
    assert "\u2028" not in page


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path):
    page = page_of(tmp_path, [random_panel(queries=1, keys=1, labels=(["\ud83d"], ["a"]))], title="\udead")
    assert data_of(page)["panels"][0]["keys"] == ["a"]


def test_embedded_json_reads_back():
    value = {"a": ["<!--", "</SCRIPT >", "&amp;", "나는 은행에 갔다", "\u2029"]}
    assert json.loads(embed_json(value)) == value
    assert not set("<>&\u2028\u2029") & set(embed_json(value))


def test_only_its_own_script_and_style_may_run(tmp_path):
    page = page_of(tmp_path, [random_panel()])
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'")
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert not re.search(r"\b(?:src|href)\s*=|url\(|@import|https?://", page.replace('src="data:', ""))


@pytest.mark.parametrize("language", ["en", "ko"])
def test_language_of_the_page(tmp_path, language):
    page = page_of(tmp_path, [random_panel()], language=language)
    assert f'<html lang="{language}">' in page
    assert data_of(page)["language"] == language


def test_both_languages_say_everything():
    """The page looks words up by name; a name that one language lacks would show as an error only there."""
    from importlib import resources

    words = (resources.files("jogak.looking") / "words.js").read_text(encoding="utf-8")
    english, korean = words.split("\n  ko: {")
    korean = korean.split("\n  },")[0]
    names = [set(re.findall(r"(?:^|, |\{)\s*(\w+): [\"`]", part, re.MULTILINE)) for part in (english, korean)]
    assert len(names[0]) > 25
    assert names[0] == names[1]


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(UserError, match="no attention panels"):
        write_html(tmp_path / "a.html", [], title="T")
    with pytest.raises(UserError, match="not 'fr'"):
        write_html(tmp_path / "a.html", [random_panel()], title="T", language="fr")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        write_html(tmp_path / "file" / "a.html", [random_panel()], title="T")
    assert not (tmp_path / "a.html").exists()
