"""Text that comes unit by unit: never half a character, never a part of a stop text, and in the end the whole text."""

import codecs
from collections.abc import Sequence

from jogak.codecs.text import Spelling


class Writing:
    """One answer's text while its units come.

    What may still turn out to be the beginning of a stop text, or is not yet a whole UTF-8 character, is held back.
    The parts that `take` gives, with `finish`, are the text of all units up to the first stop text.

    before: the ids of the prompt, which decide whether the answer keeps its leading space.
    """

    def __init__(self, spelling: Spelling, stop: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._spelling, self._stop = spelling, tuple(stop)
        self._strips = spelling.strips and not spelling.written(before)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._ready: list[str] = []
        self.length = 0  # characters so far, those held back among them
        self.stopped = False
        self.kept = 0  # units of which something is in the text, once it is stopped
        self._ends: list[int] = []  # characters after each unit, where stop texts are looked for

    def feed(self, unit: int) -> bool:
        """Take a unit; whether a stop text is there now."""
        raw = self._spelling.written((unit,))
        if self._strips and raw:
            raw, self._strips = raw.removeprefix(b" "), False
        self._add(self._decoder.decode(raw))
        return self.stopped

    def _add(self, text: str) -> None:
        if self.stopped:
            return
        self._held += text
        self.length += len(text)
        if not self._stop:
            self._ready.append(self._held)
            self._held = ""
            return
        self._ends.append(self.length)
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            cut = self.length - len(self._held) + min(found)
            self._ready.append(self._held[: min(found)])
            self._held, self.stopped, self.length = "", True, cut
            self.kept = sum(end < cut for end in self._ends) + 1 if cut else 0
            return
        keep = max(_overlap(self._held, stop) for stop in self._stop)
        self._ready.append(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]

    def take(self) -> str:
        """What can be told since the last call."""
        told, self._ready = "".join(self._ready), []
        return told

    def finish(self) -> str:
        """What is left at the end, an unfinished character as U+FFFD."""
        if not self.stopped:
            self._add(self._decoder.decode(b"", final=True))
        if not self.stopped:
            self._ready.append(self._held)
            self._held = ""
        return self.take()


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))
