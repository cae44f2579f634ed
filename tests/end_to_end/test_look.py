"""The attention page in a real browser, of a real (untrained) model."""

import re

import numpy as np
import pytest
import torch

from jogak import config, models
from jogak.looking import Panel, collect, write_html
from tests.browser import Watched, holds

pytestmark = pytest.mark.browser

SOURCE = ["나는", "은행", "에", "<script>window.hacked=1</script>", ".", "</s>"]
TARGET = ["<s>", "I", "went", "to", "the", "bank", "."]
WRITTEN = [*TARGET[1:], "</s>"]
READY = "html[data-ready=yes]"


@pytest.fixture(scope="module")
def panels():
    torch.manual_seed(3)
    stack = {"depth": 3, "pattern": [{"name": "attention", "heads": 4}]}
    given = {
        "width": 32,
        "vocab_size": 30,
        "encoder": stack,
        "decoder": {**stack, "cross": {"name": "attention", "heads": 2}},
    }
    model = models.build(config.Model.model_validate(given))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)  # sharper maps than an untrained model's
    return collect(
        model, range(3, 9), range(10, 17), source_labels=SOURCE, target_labels=TARGET, written_labels=WRITTEN
    )


@pytest.fixture(scope="module")
def look(tmp_path_factory, panels):
    path = tmp_path_factory.mktemp("look") / "look.html"
    write_html(path, panels, title="<b>은행</b>", source="나는 은행에 갔다.", output="I went to the bank.")
    return path


@pytest.fixture
def watched(browser):
    watched = Watched(browser)
    yield watched
    watched.page.close()
    assert watched.errors == []
    assert [url for url in watched.requests if not url.startswith("file:")] == []


def long_panel(length=400, layers=2, heads=2):
    weights = np.zeros((layers, heads, length, length))
    weights[..., np.arange(length), (np.arange(length) * 7) % length] = 1
    words = [f"낱말{i}" for i in range(length)]
    return Panel("Encoder self-attention", "encoder", words, words, weights)


def chip(page, side, index):
    return page.locator(f"#{side} button").nth(index)


def reading(page):
    return page.locator("#reading").inner_text()


def test_the_page_opens_on_the_last_layers_cross_attention(watched, look):
    page = watched.open(look, ready=READY)
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Cross-attention"
    assert page.locator("#lines-heading").inner_text() == "Cross-attention · Layer 3, mean of its 2 heads"
    assert page.locator("#title").inner_text() == "<b>은행</b>"
    assert page.locator("#texts").inner_text() == "나는 은행에 갔다. → I went to the bank."
    assert page.locator("#keys button").all_inner_texts() == SOURCE
    assert page.locator("#queries button").all_inner_texts() == WRITTEN
    assert page.locator("#grid button").count() == 3 * (2 + 1)
    assert watched.requests == [look.resolve().as_uri()]


def test_markup_in_tokens_stays_text(watched, look):
    page = watched.open(look, ready=READY)
    chip(page, "queries", 1).hover()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script").count() == 0


def test_hovering_a_token_says_what_it_reads(watched, look, panels):
    page = watched.open(look, "#3/2/1", READY)
    weights = panels[2].weights[1, 0]
    chip(page, "queries", 4).hover()
    best = int(weights[4].argmax())
    token, weight = re.findall(r"^“bank” reads: (\S+) ([\d.]+)", reading(page))[0]
    assert token == SOURCE[best]
    assert float(weight) == pytest.approx(weights[4, best], abs=0.009)  # stored in 8 bits, shown in hundredths
    shades = page.locator("#keys button").evaluate_all("list => list.map(b => getComputedStyle(b).backgroundColor)")
    brightness = [sum(map(int, re.findall(r"\d+", s)[:3])) for s in shades]
    assert int(np.argmin(brightness)) == best
    page.locator("#title").hover()
    assert "bank" not in reading(page)


def test_hovering_a_read_token_says_who_reads_it(watched, look, panels):
    page = watched.open(look, "#3/2/1", READY)
    chip(page, "keys", 1).hover()
    best = int(panels[2].weights[1, 0][:, 1].argmax())
    assert reading(page).startswith(f"“은행” is read by: {WRITTEN[best]}")


def test_a_click_holds_and_escape_lets_go(watched, look):
    page = watched.open(look, ready=READY)
    chip(page, "queries", 2).click()
    assert chip(page, "queries", 2).get_attribute("aria-pressed") == "true"
    chip(page, "queries", 5).hover()
    assert reading(page).startswith("“to” reads (held)")
    chip(page, "keys", 1).hover()
    assert "“to” reads “은행” with 0." in reading(page)
    assert page.url.endswith("#3/3/mean/q3")
    page.locator("#title").hover()
    assert reading(page).startswith("“to” reads (held)")
    page.keyboard.press("Escape")
    assert "to” reads" not in reading(page)
    assert chip(page, "queries", 2).get_attribute("aria-pressed") == "false"


def test_the_address_brings_the_view_back(watched, look):
    page = watched.open(look, "#1/2/3/k2", READY)
    assert page.locator("#lines-heading").inner_text() == "Encoder self-attention · Layer 2, head 3"
    assert reading(page).startswith("“은행” is read by (held)")
    page.goto(look.resolve().as_uri() + "#9/99/99/q99")  # beyond everything: the nearest view there is
    page.wait_for_function("document.getElementById('lines-heading').textContent.includes('Layer 3, head 2')")


def test_arrow_keys_walk_the_grid(watched, look):
    page = watched.open(look, "#1/1/1", READY)
    page.locator("#grid button[aria-pressed=true]").focus()
    for key, name in [
        ("ArrowRight", "Layer 1, head 2"),
        ("ArrowDown", "Layer 2, head 2"),
        ("End", "Layer 2, mean of its 4 heads"),
        ("ArrowLeft", "Layer 2, head 4"),
        ("Home", "Layer 2, head 1"),
        ("ArrowUp", "Layer 1, head 1"),
        ("ArrowUp", "Layer 1, head 1"),
    ]:
        page.keyboard.press(key)
        assert page.locator("#lines-heading").inner_text().endswith(name)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == name
    page.locator("#head").select_option("-1")
    assert page.locator("#grid button[aria-pressed=true]").get_attribute("aria-label") == "Layer 1, mean of its 4 heads"


def test_arrow_keys_walk_the_tokens_and_tabs(watched, look):
    page = watched.open(look, ready=READY)
    chip(page, "keys", 0).focus()
    page.keyboard.press("ArrowRight")
    assert reading(page).startswith("“은행” is read by")
    page.keyboard.press("ArrowDown")
    assert reading(page).startswith("“I” reads")
    page.keyboard.press("Enter")
    assert reading(page).startswith("“I” reads (held)")
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Decoder self-attention"
    assert page.locator("#grid button").count() == 3 * 5


def test_arrow_keys_walk_the_heat_map(watched, look):
    page = watched.open(look, ready=READY)
    page.locator("#map-canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert "“went” reads “은행” with" in reading(page)
    page.keyboard.press("Enter")
    assert "“went” reads (held)" in reading(page)
    page.keyboard.press("Enter")
    assert "(held)" not in reading(page)


def test_the_heat_map_shows_the_weights(watched, tmp_path):
    """Each cell that is picked with the pointer has the weight, and the colour, that its place in the matrix says."""
    weights = np.zeros((1, 1, 3, 3))
    weights[0, 0] = [[1, 0, 0], [0, 0.25, 0.75], [0.5, 0.5, 0]]
    panel = Panel("P", "encoder", ["하나", "둘", "셋"], ["하나", "둘", "셋"], weights)
    write_html(tmp_path / "a.html", [panel], title="T")
    page = watched.open(tmp_path / "a.html", "#1/1/1", READY)
    box = page.locator("#map-canvas").bounding_box()
    side = 40  # the largest cell that "fit" makes
    found = {}
    for y in range(10, int(box["height"]) - 5, side):
        for x in range(10, min(int(box["width"]), 400), side):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if not page.locator("#tip").is_visible():
                continue
            query, key, weight = re.findall(r"“(.*)” reads “(.*)” with ([\d.]+)", page.locator("#tip").inner_text())[0]
            page.locator("#title").hover()
            # A corner of the cell, where no number is written.
            corner = page.evaluate(
                """([x, y]) => [...document.getElementById('map-canvas').getContext('2d')
                .getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]""",
                [x, y],
            )
            found[query, key] = float(weight), sum(corner[:3])
    names = ["하나", "둘", "셋"]
    assert len(found) == 9
    for q, query in enumerate(names):
        for k, key in enumerate(names):
            assert found[query, key][0] == pytest.approx(weights[0, 0, q, k], abs=0.006)
    assert found["하나", "하나"][1] < 200  # dark
    assert found["하나", "둘"][1] > 600  # nearly white


def test_zooming_and_the_colour_of_rows(watched, look):
    page = watched.open(look, ready=READY)
    before = page.locator("#map-size").bounding_box()["height"]
    page.locator("#zoom-in").click()
    larger = page.locator("#map-size").bounding_box()["height"]
    assert larger > before
    page.locator("#language").click()  # redraws everything, and keeps what one looks at
    assert page.locator("#map-size").bounding_box()["height"] == pytest.approx(larger, abs=3)
    page.locator("#zoom-fit").click()
    assert page.locator("#map-size").bounding_box()["height"] == pytest.approx(before, abs=3)
    page.locator("#by-row").check()
    assert page.locator("#ramp-top").inner_text() == "max"


def test_korean_and_english(watched, look):
    page = watched.open(look, ready=READY)
    page.locator("#language").click()
    assert page.evaluate("document.documentElement.lang") == "ko"
    assert page.locator("[role=tab]").all_inner_texts() == ["인코더 셀프 어텐션", "디코더 셀프 어텐션", "교차 어텐션"]
    assert page.locator("#lines-heading").inner_text() == "교차 어텐션 · 3층, 헤드 2개의 평균"
    chip(page, "queries", 4).hover()
    assert reading(page).startswith("‘bank’ → 읽는 토큰")
    page.locator("#language").click()
    assert page.locator("#overview-heading").inner_text() == "Layers and heads"


def test_light_and_dark(browser, look):
    seen = {}
    for dark in (False, True):
        watched = Watched(browser, dark=dark)
        page = watched.open(look, ready=READY)
        background = "() => getComputedStyle(document.body).backgroundColor"
        seen[dark] = page.evaluate(background)
        page.locator("#theme").click()
        assert page.evaluate(background) != seen[dark]
        assert watched.errors == []
        page.close()
    assert sum(map(int, re.findall(r"\d+", seen[False]))) > 600
    assert sum(map(int, re.findall(r"\d+", seen[True]))) < 150


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_runs_out_of_the_window(browser, tmp_path, look, width):
    write_html(tmp_path / "long.html", [long_panel()], title="긴 글 " * 40, source="가나다 " * 300, language="ko")
    for path in (look, tmp_path / "long.html"):
        watched = Watched(browser, width=width, height=800)
        page = watched.open(path, ready=READY)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in ("#overview", "#lines", "#heat"):
            box = page.locator(part).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        page.close()


def test_hundreds_of_tokens(watched, tmp_path):
    write_html(tmp_path / "long.html", [long_panel(400)], title="long")
    assert (tmp_path / "long.html").stat().st_size < 200_000  # packed: almost all weights are zero
    page = watched.open(tmp_path / "long.html", "#1/1/1", READY)
    canvas = page.locator("#map-canvas").bounding_box()
    assert canvas["height"] <= 900  # the part in view only
    page.locator("#queries button").nth(399).hover()
    assert reading(page) == f"“낱말399” reads: 낱말{399 * 7 % 400} 1.00"
    visible = """([side, index]) => { const line = document.getElementById(side), b = line.children[index];
      const [l, t] = [line, b].map(e => e.getBoundingClientRect());
      return t.top >= l.top && t.bottom <= l.bottom; }"""
    assert page.evaluate(visible, ["keys", 399 * 7 % 400])  # what it reads was scrolled into sight
    chip(page, "queries", 300).click()
    page.locator("#map-canvas").focus()
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert "낱말301" in reading(page)
    assert page.evaluate("document.getElementById('map').scrollTop") > 0  # the row was brought into view


def test_layers_without_maps_are_named(watched, tmp_path):
    weights = np.full((1, 2, 1, 1), 1.0)
    some = Panel("Encoder self-attention", "encoder", ["a"], ["a"], weights, (2,), ((1, "mamba"), (3, "mamba")))
    none = Panel("Decoder self-attention", "decoder", ["a"], ["a"], np.zeros((0, 0, 1, 1)), without=((1, "lstm"),))
    write_html(tmp_path / "a.html", [none, some], title="T")
    page = watched.open(tmp_path / "a.html", ready=READY)
    assert "layers 1 (lstm)" in page.locator("#without").inner_text()
    assert "no attention map to show" in page.locator("#without").inner_text()
    assert not page.locator("#heat").is_visible()
    page.locator("[role=tab]").nth(1).click()
    assert "layers 1, 3 (mamba)" in page.locator("#without").inner_text()
    assert page.locator("#lines-heading").inner_text().endswith("Layer 2, mean of its 2 heads")


def test_what_is_done_before_the_weights_are_there_waits_for_them(watched, look):
    """A window that is resized, a language or a tab chosen while they are unpacked: no error, and it is heeded."""
    slowly = """const given = Response.prototype.arrayBuffer;
    Response.prototype.arrayBuffer = async function () {
        await new Promise((go) => { window.go = go; });
        return given.call(this);
    };"""
    watched.page.add_init_script(slowly)
    page = watched.open(look, ready="#tabs button")
    holds(page, "!!window.go")
    page.set_viewport_size({"width": 900, "height": 700})
    page.click("#language")
    page.click("#theme")
    page.locator("#tabs button").first.click()
    page.keyboard.press("Escape")
    page.mouse.move(300, 400)
    assert page.locator("#grid button").count() == 0
    page.evaluate("window.go()")
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    assert page.locator("#grid button").count() > 0
    assert page.locator("#overview-heading").inner_text() == "층과 헤드"
    assert page.locator("#tabs button").first.get_attribute("aria-selected") == "true"


def test_a_damaged_page_says_so(watched, tmp_path, look):
    text = look.read_text(encoding="utf-8")
    (tmp_path / "a.html").write_text(re.sub(r'"weights":"[^"]*"', '"weights":"eJwDAAAAAAE="', text), encoding="utf-8")
    page = watched.open(tmp_path / "a.html")
    page.wait_for_selector("#failure:not([hidden])")
    assert "damaged" in page.locator("#failure").inner_text()
    assert not page.locator("#heat").is_visible()
