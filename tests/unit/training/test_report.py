import json
import re
import shutil
import subprocess

import pytest

from jogak.training import report
from tests.unit.training.tiny import Tiny

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SAMPLES = [{"source": "</script><b>나는</b>", "reference": "I <!-- me", "output": "나는 \u2028 I"}]


def records(steps):
    for step in range(1, steps + 1):
        yield {"kind": "train", "step": step, "loss": 5 / step, "nll": 4 / step, "rate": 0.1, "gradient_norm": 1.0,
               "seconds": 0.5 * step, "tokens_per_second": 1000.0, "share_of_peak": 0.5}  # fmt: skip
        if step % 10 == 0:
            yield {"kind": "validation", "step": step, "loss": 3 / step, "accuracy": 50 - abs(step - 20), "seconds": 9}


def page(tmp_path, steps=30):
    status = {"why": "steps", "step": steps, "best_step": 20, "metric": "accuracy"}
    report.write(tmp_path / "report.html", Tiny().recipe, list(records(steps)), SAMPLES, status)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def data_of(text):
    return json.loads(re.search(r"^const data = (.*);$", text, re.MULTILINE)[1])


def test_the_page_holds_everything_and_asks_the_network_for_nothing(tmp_path):
    text = page(tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(["']?http|fetch\(|XMLHttpRequest""", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert text.count("</script>") == 1
    data = data_of(text)
    assert [c["title"] for c in data["charts"]] == ["Loss", "accuracy", "Learning rate", "Speed"]
    assert data["charts"][0]["series"][1]["points"] == [[10, 0.3], [20, 0.15], [30, 0.1]]
    assert data["samples"] == SAMPLES
    assert data["config"].startswith("task: tiny")
    tiles = {t["name"]: t["value"] for t in data["tiles"]}
    assert (tiles["accuracy, last"], tiles["accuracy, best"], tiles["steps"]) == ("40", "50", "30")


def test_long_curves_are_thinned_and_keep_their_last_point(tmp_path):
    points = data_of(page(tmp_path, steps=5001))["charts"][2]["series"][0]["points"]
    assert len(points) <= 800
    assert points[-1] == [5001, 0.1]


def test_what_is_not_finite_is_left_out_of_the_curves(tmp_path):
    status = {"why": "", "step": 2, "best_step": 0, "metric": "accuracy"}
    odd = [{**r, "nll": float("nan")} for r in records(2)]
    report.write(tmp_path / "report.html", Tiny().recipe, odd, [], status)
    assert [c["title"] for c in data_of((tmp_path / "report.html").read_text())["charts"]] == ["Learning rate", "Speed"]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_draws_it_and_hovering_tells_the_figures(tmp_path):
    move = """<script>
      const area = document.querySelector("svg"), box = area.getBoundingClientRect();
      area.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 54, clientY: box.top + 50 }));
    </script>"""
    (tmp_path / "hover.html").write_text(page(tmp_path).replace("</body>", move + "</body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--dump-dom", (tmp_path / "hover.html").as_uri()]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert found.count("<svg") == 4
    assert found.count('stroke-width="1.9"') == 5  # one curve more than charts: loss has two
    assert "NaN" not in found
    assert "step 1:  training 4  ·  validation 0.3" in found
    assert "&lt;/script&gt;&lt;b&gt;나는" in found
    assert "all steps done" in found
