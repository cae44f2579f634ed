"""Looking inside: attention maps as one self-contained page, or as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jogak.errors import UserError
from jogak.looking.attention import collect
from jogak.looking.page import write_html
from jogak.looking.panel import Panel
from jogak.looking.picture import write_png

__all__ = ["Panel", "collect", "write", "write_html", "write_png"]


def write(
    path: str | Path,
    panels: Sequence[Panel],
    *,
    title: str,
    source: str = "",
    output: str = "",
    language: Literal["en", "ko"] = "en",
) -> None:
    """Write panels as the file's name asks: `.html` a page to explore (in `language`), `.png` a picture to print.

    Raises: UserError for any other name, StorageError if the disk refuses.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".html", ".htm"):
        write_html(path, panels, title=title, source=source, output=output, language=language)
    elif suffix == ".png":
        write_png(path, panels, title=title, source=source, output=output)
    else:
        raise UserError(f"{path}: attention is written as .html or .png; give the file one of these endings")
