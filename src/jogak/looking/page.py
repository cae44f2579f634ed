"""Attention panels as one HTML file that needs nothing else: no network, no fonts, no libraries.

The file carries its own content security policy, which forbids every request and every script but its own.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jogak.errors import UserError
from jogak.looking.panel import Panel
from jogak.storage import write_text

LEVELS = 255  # steps of the weights stored in a page
SCRIPTS = ("words.js", "maps.js", "overview.js", "tokens.js", "heatmap.js", "page.js")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def write_html(
    path: str | Path,
    panels: Sequence[Panel],
    *,
    title: str,
    source: str = "",
    output: str = "",
    language: Literal["en", "ko"] = "en",
) -> None:
    """Write the page that shows `panels`; source, output: the texts whose tokens they show.

    language: what the page's own words are in when it opens (it has a switch).

    Raises: UserError without panels, StorageError if the disk refuses.
    """
    write_text(Path(path), render(panels, title=title, source=source, output=output, language=language))


def render(panels: Sequence[Panel], *, title: str, source: str, output: str, language: str) -> str:
    """The text of the page.

    Raises: UserError without panels, or for a language that the page does not speak.
    """
    if not panels:
        raise UserError("there is nothing to look at: no attention panels were given")
    if language not in ("en", "ko"):
        raise UserError(f"the page speaks 'en' and 'ko', not '{language}'")
    script, style = _script(), _asset("page.css")
    slots = {
        "language": language,
        "title": html.escape(title),
        "script_hash": _hash(script),
        "style_hash": _hash(style),
        "style": style,
        "data": embed_json(_content(panels, title, source, output, language)),
        "script": script,
    }
    # One pass: what a slot is filled with is never searched for slots again.
    page = _SLOT.sub(lambda match: slots[match[1]], _asset("page.html"))
    return page.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair has no UTF-8


def hashes() -> tuple[str, str]:
    """What a content security policy calls the script and the style of every page: SHA-256, in base 64."""
    return _hash(_script()), _hash(_asset("page.css"))


def _script() -> str:
    script = "\n".join(_asset(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{script}\n}})();'


def _content(panels: Sequence[Panel], title: str, source: str, output: str, language: str) -> dict[str, object]:
    stored = b"".join(quantise(p.weights[layer, :n]).tobytes() for p in panels for layer, n in enumerate(p.heads))
    return {
        "title": title,
        "source": source,
        "output": output,
        "language": language,
        "panels": [_describe(p) for p in panels],
        "weights": base64.b64encode(zlib.compress(stored, 6)).decode("ascii"),
    }


def _describe(panel: Panel) -> dict[str, object]:
    return {
        "title": panel.title,
        "kind": panel.kind,
        "queries": panel.queries,
        "keys": panel.keys,
        "layers": panel.layers,
        "heads": panel.heads,
        "without": panel.without,
        "rowsWrite": panel.rows_write,
        "spread": [[round(s, 2) for s in panel.spread(layer)] for layer in range(len(panel.layers))],
    }


def quantise(weights: NDArray[np.floating]) -> NDArray[np.uint8]:
    """One byte a weight on a square-root scale, `q = round(255 sqrt(w))`, read back as `w = (q / 255) ** 2`.

    The error is at most sqrt(w) / 255 + 1 / 510 ** 2: 0.004 for a weight near 1, 0.0004 for one of 0.01, and 0 stays 0.
    """
    return np.rint(np.sqrt(np.clip(weights, 0, 1)) * LEVELS).astype(np.uint8)


def embed_json(value: object) -> str:
    """JSON that may stand inside a `<script>` element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    unsafe = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return text.translate(str.maketrans(unsafe))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    return (resources.files("jogak.looking") / name).read_text(encoding="utf-8")
