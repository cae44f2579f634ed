import warnings
from io import BytesIO

import numpy as np
import pytest

from jogak.errors import UserError
from jogak.looking import Panel, fonts, picture, write_png

SOURCE = ["나는", "은행에", "갔다", "</s>"]
TARGET = ["I", "went", "to", "the", "$x_1$", ""]


def make(kind="cross", layers=2, heads=3, **more):
    queries, keys = (SOURCE, SOURCE) if kind == "encoder" else (TARGET, SOURCE)
    scores = np.exp(np.random.default_rng(1).normal(0, 2, (layers, heads, len(queries), len(keys))))
    return Panel(f"{kind} title", kind, queries, keys, scores / scores.sum(-1, keepdims=True), **more)


def drawn(monkeypatch, tmp_path, panels, **more):
    """The matplotlib figure that write_png saved."""
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1])
    write_png(tmp_path / "a.png", panels, **{"title": "T", "dpi": 50, **more})
    return figures[0]


def all_axes(figure):
    return [axes for sub in figure.subfigs for axes in sub.axes]


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(picture, "cover", lambda texts: fonts.cover(texts, []))


def test_the_picture_is_the_mean_and_every_head(monkeypatch, tmp_path):
    panel = make(heads=3)
    axes = all_axes(drawn(monkeypatch, tmp_path, [make("encoder"), panel], layer=1))
    images = [np.asarray(a.images[0].get_array()) for a in axes if a.images]
    np.testing.assert_allclose(images[0], panel.weights[0].mean(0))
    heads = [i for i in images if i.shape == (6, 4)][-3:]
    np.testing.assert_allclose(heads, panel.weights[0])


def test_every_token_is_a_label(monkeypatch, tmp_path, no_fonts):
    with pytest.warns(UserWarning, match="fonts-noto-cjk"):
        axes = all_axes(drawn(monkeypatch, tmp_path, [make()]))[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["naneun", "eunhaenge", "gatda", "</s>"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["I", "went", "to", "the", "$x_1$", "␣"]


def test_the_file_is_a_png_of_the_asked_size(tmp_path):
    from matplotlib.image import imread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a machine without Korean fonts
        write_png(tmp_path / "a.png", [make()], title="T", source="나는 은행에 갔다", output="I went", dpi=50)
    pixels = imread(BytesIO((tmp_path / "a.png").read_bytes()))
    assert pixels.shape[:2] == (340, 650)
    assert pixels[..., :3].std() > 0.1  # not an empty sheet


def test_korean_is_drawn_in_korean_where_a_font_has_it(monkeypatch, tmp_path):
    families, missing = fonts.cover(["나는 은행에 갔다"])
    if missing:
        pytest.skip("no Korean font on this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of every glyph that it lacks
        axes = all_axes(drawn(monkeypatch, tmp_path, [make()], source="나는 은행에 갔다"))[0]
    assert [t.get_text() for t in axes.get_xticklabels()][:2] == ["나는", "은행에"]
    assert len(families) > 1


def test_romanisation_of_every_letter():
    # Initials ㄱ..ㅎ before ㅏ; vowels after silent ㅇ; finals after 아. Values: Revised Romanisation of Korean, 2000.
    assert fonts.stand_in("가까나다따라마바빠사싸아자짜차카타파하", set("가까나다따라마바빠사싸아자짜차카타파하")) == (
        "gakkanadattaramabappasassaajajjachakatapaha"
    )
    assert fonts.stand_in("의워웨위", set("의워웨위")) == "uiwowewi"
    assert fonts.stand_in("각산닫말밤합맛강꽃밭앞", set("각산닫말밤합맛강꽃밭앞")) == (
        "gaksandatmalbamhapmatgangkkotbatap"
    )


def test_other_scripts_are_numbered_and_known_letters_stay():
    assert fonts.stand_in("a銀은", {"銀", "은"}) == "a[U+9280]eun"
    assert fonts.stand_in("은 a", set()) == "은 a"


def test_cover_names_only_what_is_needed():
    assert fonts.cover(["plain text"]) == (["DejaVu Sans"], set())
    assert fonts.cover(["가"], ["no such family"])[1] in (set("가"), set())
    private = "\U0010fffd"  # the last character for private use, which fonts do not have
    assert fonts.cover([private])[1] == {private}


def test_a_hybrid_names_its_other_layers(monkeypatch, tmp_path):
    panel = make("encoder", layers=1, without=((2, "mamba"),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = drawn(monkeypatch, tmp_path, [panel])
    assert figure.get_supxlabel() == "No attention map: layer 2 (mamba)"


def test_what_is_not_there_is_refused(tmp_path):
    nothing = Panel("Encoder self-attention", "encoder", ["a"], ["a"], np.zeros((0, 0, 1, 1)), without=((1, "lstm"),))
    with pytest.raises(UserError, match=r"no attention map to draw \(.*layer 1 \(lstm\)"):
        write_png(tmp_path / "a.png", [nothing], title="T")
    with pytest.raises(UserError, match="no decoder attention map"):
        write_png(tmp_path / "a.png", [make()], title="T", kind="decoder")
    with pytest.raises(UserError, match="layer 3 of cross title has no map; these have: 1, 2"):
        write_png(tmp_path / "a.png", [make()], title="T", layer=3)
    assert list(tmp_path.iterdir()) == []


def test_long_sequences_thin_their_labels(monkeypatch, tmp_path):
    words = [f"w{i}" for i in range(300)]
    panel = Panel("P", "encoder", words, words, np.full((1, 1, 300, 300), 1 / 300))
    axes = all_axes(drawn(monkeypatch, tmp_path, [panel]))[0]
    labels = [t.get_text() for t in axes.get_yticklabels()]
    assert labels[0] == "w0"
    assert 20 <= len(labels) <= picture.LABELS
    assert labels[1] == f"w{int(axes.get_yticks()[1])}"
