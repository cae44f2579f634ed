"""Attention as one PNG for a paper or a README: the mean over a layer's heads, and every head beside it."""

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from jogak.errors import UserError
from jogak.looking.fonts import cover, stand_in, warn_of
from jogak.looking.panel import Floats, Kind, Panel
from jogak.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.image import AxesImage

RAMP = ("#fbfaf6", "#dbe7ec", "#9cc3d6", "#4e8db8", "#28548f", "#161f4a")  # the page's, in light
LABELS = 48  # most tick labels along one side


def write_png(
    path: str | Path,
    panels: Sequence[Panel],
    *,
    title: str,
    source: str = "",
    output: str = "",
    kind: Kind | None = None,
    layer: int | None = None,
    dpi: int = 150,
) -> None:
    """Draw one layer of one panel: the mean of its heads with all labels, and each head small.

    kind: which panel; None: cross-attention where there is one, else the first that has maps. layer: its number in
    the stack; None: the last that has maps. Characters for which this machine has no font are spelled out in Latin
    letters, with a warning that names a font to install.

    Raises: UserError without matplotlib, or where there is no such panel or layer; StorageError if the disk refuses.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("pictures need matplotlib; install it with: pip install 'jogak[look]'") from None
    panel, index = _choose(panels, kind, layer)
    texts = [title, source, output, *panel.queries, *panel.keys]
    families, missing = cover(texts)
    if missing:
        warn_of(missing)
    # Text is text: a token such as "$x$" is not mathematics.
    with mpl.rc_context({"font.family": families, "text.parse_math": False, "text.usetex": False}):
        figure = Figure(figsize=(13, 6.8), layout="constrained", facecolor="white")
        _draw(figure, panel, index, [stand_in(text, missing) for text in texts])
        content = BytesIO()
        figure.savefig(content, format="png", dpi=dpi)
    write_bytes(Path(path), content.getvalue())


def _choose(panels: Sequence[Panel], kind: Kind | None, layer: int | None) -> tuple[Panel, int]:
    """The panel to draw, and which of its maps."""
    able = [p for p in panels if p.layers and kind in (None, p.kind)]
    if not able:
        what = "attention map" if kind is None else f"{kind} attention map"
        without = "; ".join(f"{p.title}: {_names(p)}" for p in panels if p.without)
        raise UserError(f"there is no {what} to draw{f' (layers without one: {without})' if without else ''}")
    panel = next((p for p in able if p.kind == "cross"), able[0])
    layer = panel.layers[-1] if layer is None else layer
    if layer not in panel.layers:
        known = ", ".join(map(str, panel.layers))
        raise UserError(f"layer {layer} of {panel.title} has no map; these have: {known}")
    return panel, panel.layers.index(layer)


def _names(panel: Panel) -> str:
    return ", ".join(f"layer {number} ({mixer})" for number, mixer in panel.without)


def _draw(figure: "Figure", panel: Panel, index: int, texts: Sequence[str]) -> None:
    """texts: title, source, output, then the labels of the queries and of the keys."""
    title, source, output, *labels = texts
    queries, keys = labels[: len(panel.queries)], labels[len(panel.queries) :]
    caption = " → ".join(_shorten(text, 90) for text in (source, output) if text)
    figure.suptitle(f"{_shorten(title, 100)}\n{caption}" if caption else _shorten(title, 100), fontsize=13)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.1, 1))[0]
    large = left.subplots()
    mean = panel.head_mean(index)
    image = _heat(large, mean, f"{panel.title}, layer {panel.layers[index]}: mean of {panel.heads[index]} heads")
    _label(large, queries, keys)
    large.set_xlabel("read")
    large.set_ylabel("reads, to write this token" if panel.rows_write else "reads")
    left.colorbar(image, ax=large, shrink=0.6, label="weight; a row sums to 1")
    _draw_heads(right, panel, index)
    if panel.without:
        figure.supxlabel(f"No attention map: {_names(panel)}", fontsize=9)


def _draw_heads(figure: "FigureBase", panel: Panel, index: int) -> None:
    count = panel.heads[index]
    columns = math.ceil(math.sqrt(count))
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False).ravel()
    for head, axes in enumerate(grid):
        if head >= count:
            axes.set_axis_off()
            continue
        _heat(axes, panel.weights[index, head], f"head {head + 1}", fontsize=9)
        axes.set(xticks=[], yticks=[])


def _heat(axes: "Axes", weights: Floats, title: str, fontsize: float = 11) -> "AxesImage":
    """The map; its colours run from 0 to the map's largest weight."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("jogak", RAMP)
    axes.set_title(title, fontsize=fontsize)
    return axes.imshow(weights, cmap=colours, vmin=0, vmax=float(weights.max()), aspect="auto", interpolation="none")


def _label(axes: "Axes", queries: Sequence[str], keys: Sequence[str]) -> None:
    """As many tokens as there is room for: all of them up to LABELS, then every second, third, ..."""
    for axis, tokens in ((axes.yaxis, queries), (axes.xaxis, keys)):
        every = math.ceil(len(tokens) / LABELS)
        shown = [_shorten(token, 16) for token in tokens[::every]]
        axis.set_ticks(range(0, len(tokens), every), labels=shown, fontsize=10 if len(shown) <= 24 else 7)
    for text in axes.get_xticklabels():
        text.set(rotation=55, ha="right", rotation_mode="anchor")


def _shorten(text: str, room: int) -> str:
    text = " ".join(text.split()) or "␣" * max(1, len(text))
    return text if len(text) <= room else text[: room - 1] + "…"
