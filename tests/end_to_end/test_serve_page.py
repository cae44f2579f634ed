"""The server's page in a real browser: every way of asking, streaming, stopping, attention, keyboard, two languages."""

import re

import pytest

from tests.browser import Watched, holds
from tests.unit.serving import models
from tests.unit.serving.models import serving, slow, until

pytest.importorskip("fastapi")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]
READY = "html[data-ready=yes]"
MADE = {
    "chat": models.chatter,
    "tr": models.translator,
    "cl": models.classifier,
    "emb": models.embedder,
    "lm": lambda folder: models.language_model(folder, "gru"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    given = {}
    for name, make in MADE.items():
        (root / name).mkdir()
        given[name] = make(root / name)
    with serving(given) as running:
        yield running


@pytest.fixture
def page(browser, server):
    watched = Watched(browser)
    watched.page.goto(server.url)
    watched.page.wait_for_selector(READY, state="attached")
    yield watched.page
    watched.page.close()
    refusals = "Failed to load resource: the server responded with a status of 400"  # told of every one
    assert [error for error in watched.errors if not error.startswith(refusals)] == []
    assert [url for url in watched.requests if not url.startswith((server.url, f"blob:{server.url}", "data:"))] == []


def choose(page, model, **settings):
    page.select_option("#model", model)
    for name, value in settings.items():
        page.fill(f"#field-{name}", str(value))


def say(page, text, key="Enter"):
    page.fill("#ask", text)
    page.press("#ask", key)


def answers(page, count):
    """The texts of that many answers, once they are there."""
    holds(page, f"document.querySelectorAll('article .foot').length === {count}")
    return page.locator("article.theirs .text").all_inner_texts()


def test_a_conversation(page, server):
    choose(page, "chat", temperature=0, max_tokens=12)
    assert page.locator("#modes [aria-checked=true]").inner_text() == "Chat"
    say(page, "안녕하세요")
    first = answers(page, 1)
    model = server.state.models["chat"].model
    asked = [{"role": "user", "content": "안녕하세요"}]
    assert page.evaluate("history_")[1]["content"] == model.generate([model.chat(asked)], 12, temperature=0.0).text[0]
    assert page.locator("article.mine .text").inner_text() == "안녕하세요"
    page.fill("#field-system", "짧게")
    say(page, "다시")
    answers(page, 2)
    assert len(page.evaluate("history_")) == 4
    page.locator("#clear").click()
    assert page.locator("article").count() == 0
    assert page.evaluate("history_") == []
    assert first


def test_markup_stays_text(page):
    choose(page, "lm", max_tokens=2)
    say(page, "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>")
    answers(page, 1)
    assert page.evaluate("window.hacked") is None
    assert page.locator("article img, article script").count() == 0


def test_text_goes_on_and_lines_can_be_broken(page):
    choose(page, "lm", max_tokens=6)
    assert page.locator("#modes [aria-checked=true]").inner_text() == "Write on"  # it has no template
    page.fill("#ask", "파일을")
    page.press("#ask", "Shift+Enter")
    page.keyboard.type("저장")
    page.click("#send")
    answers(page, 1)
    assert page.locator("article .given").inner_text() == "파일을\n저장"
    assert "6 tokens" in page.locator("article .foot").inner_text()
    assert "cut at the most tokens" in page.locator("article .foot").inner_text()


def test_a_translation_streams_or_is_searched_for(page, server):
    choose(page, "tr", max_tokens=10)
    say(page, "저장")
    answers(page, 1)
    page.check("#field-search")
    say(page, "저장")
    page.wait_for_selector(".said li")
    assert page.locator(".said li > span").first.inner_text().strip() == (
        server.state.models["tr"].model.run("저장").answers[0].text.strip()
    )


@pytest.mark.parametrize("model", ["cl", "emb"])
def test_other_tasks(page, model):
    choose(page, model)
    assert page.locator("#modes").is_hidden()  # there is nothing else to do with it
    say(page, "a b")
    page.wait_for_selector(".said li")
    if model == "cl":
        page.fill("#field-count", "3")
        say(page, "b")
        holds(page, "document.querySelectorAll('.said li').length === 4")
        assert float(page.locator(".said").last.locator(".score").first.inner_text()) <= 1


def test_an_answer_is_stopped_and_its_slot_is_free(page, server):
    lane = server.state.models["lm"].lane
    slow(server, "lm", 0.03)
    for stopping in (lambda: page.click("#stop"), lambda: page.keyboard.press("Escape")):
        choose(page, "lm", max_tokens=3000, temperature=1)
        say(page, "파일")
        holds(page, "document.querySelector('article .text')?.innerText.length > 6")
        assert page.locator("article.busy").count() == 1
        assert page.locator("#send").is_disabled()
        stopping()
        page.wait_for_selector("article .foot")
        assert "stopped" in page.locator("article .foot").inner_text()
        assert page.locator("#status").inner_text() == "Stopped."
        until(lambda: lane.batcher.running == 0)
        page.click("#clear")


def test_the_attention_of_an_answer_is_beside_it(page):
    choose(page, "chat", max_tokens=5)
    say(page, "가나")
    answers(page, 1)
    page.get_by_role("button", name="Attention").click()
    frame = page.frame_locator("#map")
    frame.locator(READY).wait_for(state="attached")
    tokens = frame.locator("#queries button").all_inner_texts()
    assert (
        len(tokens) == 1 + 6 + 1 + 1 + 5
    )  # <|user|>, the bytes of what was said, a line end, <|assistant|>, the answer
    assert tokens[0] == "<|user|>"
    assert page.evaluate("document.activeElement.id") == "attention-heading"
    left, right = (page.locator(part).bounding_box() for part in ("#log", "#map"))
    assert right["x"] >= left["x"] + left["width"]
    frame.locator("#grid button").first.click()  # it lives: the address of the view is kept without leave to reload
    page.click("#close")
    assert page.locator("#attention").is_hidden()
    page.click("#language")
    page.get_by_role("button", name="어텐션").click()
    assert page.frame_locator("#map").locator("#overview-heading").inner_text() == "층과 헤드"


def test_what_is_refused_is_told_and_what_was_asked_is_kept(page):
    choose(page, "lm", temperature=7)
    say(page, "파일")
    page.wait_for_selector("#failure:not([hidden])")
    assert page.locator("#failure").inner_text() == "temperature must be from 0 to 2, got 7"
    assert page.locator("#failure").get_attribute("role") == "alert"
    assert page.input_value("#ask") == "파일"
    page.fill("#field-temperature", "1")
    page.fill("#field-max_tokens", "2")
    page.click("#send")
    answers(page, 1)
    assert page.locator("#failure").is_hidden()
    say(page, "  ")
    assert page.locator("#failure").inner_text() == "Write something first."


def test_the_keyboard_reaches_everything(page):
    choose(page, "chat", max_tokens=3)
    assert page.evaluate("document.activeElement.id") in ("model", "field-max_tokens")
    page.focus("#modes [aria-checked=true]")
    page.keyboard.press("ArrowRight")
    assert page.locator("#modes [aria-checked=true]").inner_text() == "Write on"
    assert page.evaluate("document.activeElement.dataset.mode") == "write"
    page.keyboard.press("ArrowLeft")
    seen = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {"skip", "model", "language", "theme", "log", "ask", "clear", "send", "field-temperature", "field-seed"}
    assert wanted <= seen


def test_a_screen_reader_is_told_everything(page):
    """Every control has a name, the languages are marked, what happens is announced."""
    choose(page, "chat", max_tokens=3)
    say(page, "a")
    answers(page, 1)
    holds(page, "document.getElementById('status').textContent.startsWith('Answer: ')")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, iframe, .log, .modes')]
        .filter((e) => !(e.ariaLabel || e.title || e.innerText?.trim() || e.labels?.[0]?.innerText.trim()))
        .map((e) => e.id || e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#language").get_attribute("lang") == "ko"
    assert page.locator("h1").count() == 1


def test_korean_and_english(page):
    assert page.locator("html").get_attribute("lang") == "en"
    words = page.evaluate("Object.keys(WORDS.en).filter((word) => !(word in WORDS.ko)).length")
    assert words == 0
    page.click("#language")
    assert page.locator("html").get_attribute("lang") == "ko"
    assert page.locator("#send").inner_text() == "보내기"
    assert page.locator("#clear").inner_text() == "지우기"
    left = page.evaluate("document.body.innerText.match(/Settings|Clear|Stop|Model/g)")
    assert left is None


def test_light_and_dark(browser, server):
    seen = {}
    for dark in (False, True):
        watched = Watched(browser, dark=dark)
        watched.page.goto(server.url)
        watched.page.wait_for_selector(READY, state="attached")
        background = "getComputedStyle(document.body).backgroundColor"
        seen[dark] = sum(map(int, re.findall(r"\d+", watched.page.evaluate(background))))
        watched.page.close()
    assert seen[False] > 600
    assert seen[True] < 150


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_runs_out_of_the_window(browser, server, width):
    watched = Watched(browser, width=width, height=800)
    page = watched.page
    page.goto(server.url)
    page.wait_for_selector(READY, state="attached")
    choose(page, "lm", max_tokens=30)
    say(page, "가나다라마바사" * 60)
    answers(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_key_is_asked_for_on_the_page(browser, tmp_path):
    (tmp_path / "lm").mkdir()
    with serving({"lm": models.language_model(tmp_path / "lm")}, api_key="geheim") as own:
        page = browser.new_page()
        page.goto(own.url)
        page.wait_for_selector("#failure:not([hidden])")
        assert "API key" in page.locator("#failure").inner_text()
        page.fill("#field-key", "geheim")
        page.press("#field-key", "Tab")
        page.wait_for_selector(READY, state="attached")
        page.fill("#field-max_tokens", "3")
        say(page, "a")
        answers(page, 1)
        page.close()
