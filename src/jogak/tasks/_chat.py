"""A conversation with a model that writes: its history, its template, and the terminal that it is held in."""

import sys
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Generator_
from contextlib import closing
from dataclasses import replace
from typing import TextIO

from jogak.decoding.generate import Generator
from jogak.decoding.settings import Sampling
from jogak.errors import UserError

Message = dict[str, str]  # role (system, user, assistant) and content
PROMPT, HELP = "> ", "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer"
PLAIN_STOP = "\nUser:"


def plain(messages: Sequence[Message]) -> str:
    """The conversation as a play, for models that have no template of their own; it ends where the model goes on."""
    names = {"user": "User", "assistant": "Assistant"}
    told = [
        f"{m['content']}\n" if m["role"] == "system" else f"{names[m['role']]}: {m['content'].strip()}"
        for m in messages
    ]
    return "\n".join([*told, "Assistant:"])


class Chat:
    """made: the model. template: ids of a conversation, up to where the model answers; None: `plain`.

    asked: how answers are decoded. system: what the model is told before all else.
    """

    def __init__(
        self,
        made: Generator,
        asked: Sampling,
        *,
        template: Callable[[Sequence[Message]], list[int]] | None = None,
        system: str | None = None,
    ) -> None:
        if made.reads_source:
            raise UserError("this model answers one text at a time and knows no conversation; leave out --chat")
        self.made, self.template, self.plain = made, template or self._plain, template is None
        stop = (*asked.stop, PLAIN_STOP) if self.plain else asked.stop
        self.asked = replace(asked, stop=stop)
        self._first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self._first)
        self.forgotten = 0  # messages that had to go, so that the rest has room

    def clear(self) -> None:
        self.messages, self.forgotten = list(self._first), 0

    def say(self, text: str) -> Generator_[str, None, None]:
        """The answer to what is said, piece by piece; what came of it is remembered, even where it is broken off.

        Raises: UserError for what is too long even alone.
        """
        before, forgotten = list(self.messages), self.forgotten
        self.messages.append({"role": "user", "content": text})
        try:
            pieces = self.made.stream([self._fitting()], self.asked)
        except UserError:
            self.messages, self.forgotten = before, forgotten
            raise
        told: list[str] = []
        try:
            for piece in pieces:
                part = piece.text if told or not self.plain else piece.text.lstrip()
                if part:
                    told.append(part)
                    yield part
        finally:
            self.messages.append({"role": "assistant", "content": "".join(told)})

    def _plain(self, messages: Sequence[Message]) -> list[int]:
        return self.made.encode(plain(messages))

    def _fitting(self) -> list[int]:
        """The conversation's ids; its oldest turns are forgotten where it is longer than the model has places for."""
        while True:
            ids = self.template(self.messages)
            room = None if self.made.longest is None else self.made.longest - self.asked.max_new_tokens
            first = len(self._first)
            if room is None or len(ids) <= room or len(self.messages) - first < 3:  # nothing but what is asked now
                return ids
            del self.messages[first : first + 2]
            self.forgotten += 2


def talk(chat: Chat, lines: Iterator[str], out: TextIO, warn: Callable[[str], None]) -> None:
    """Hold a conversation: each line is said, each answer written while it comes."""
    for line in lines:
        said = line.strip()
        if not said:
            continue
        if said in ("/exit", "/quit"):
            return
        if said == "/clear":
            chat.clear()
            warn("forgotten; a new conversation begins")
        elif said.startswith("/") and " " not in said:
            warn(HELP)
        else:
            _answer(chat, said, out, warn)


def _answer(chat: Chat, said: str, out: TextIO, warn: Callable[[str], None]) -> None:
    before = chat.forgotten
    try:
        with closing(chat.say(said)) as pieces:
            for piece in pieces:
                out.write(piece)
                out.flush()
    except UserError as error:
        warn(str(error))
    except KeyboardInterrupt:
        warn("stopped")
    if chat.forgotten > before:
        warn(f"the {chat.forgotten - before} oldest messages were left out: the model has no room for them")
    out.write("\n")
    out.flush()


def from_terminal() -> Iterator[str]:
    """Lines from the keyboard, with a prompt and editing where there is one, until Ctrl-D."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401  # input() then knows the arrow keys

    print(HELP, file=sys.stderr)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print(file=sys.stderr)
            return
