"""A chat agent's terminal: the conversation scrolls above, below it stand what is under way, what is queued, the line being typed
and the status. Called by `__main__`; fulfils `loop.Screen`.

prompt_toolkit edits the line (history, paste, wide characters, resizing) while Rich prints above it. Everything that models, tools
and mail say is stripped of terminal escapes first.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.patch_stdout import StdoutProxy
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from comms.mailbox import Message
from lab.text import clean, printable
from org.agents.chat.transcript import Call, Result

TYPING_SECONDS = 60.0
"""A draft that nobody has touched for so long holds nothing up."""
PREVIEW = 6
"""Lines of a result that are shown."""
FAINT = "grey58"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
STATES = {
    "working": "ansigreen",
    "idle": "ansibrightblack",
    "needs_person": "ansibrightred",
    "rate_limited": "ansiyellow",
    "paused": "ansiyellow",
}


class Terminal:
    """The screen of one agent. `submit` gets what a person typed, `interrupt` says whether there was something to stop."""

    def __init__(self, submit: Callable[[str], None], interrupt: Callable[[], bool], status: Callable[[], str]) -> None:
        self.submit, self.interrupt, self.status = submit, interrupt, status
        self.state, self.doing, self.since = "starting", "", time.monotonic()
        self.queued: list[str] = []
        self._proxy = StdoutProxy(sleep_between_writes=0.05, raw=True)
        self._paragraph = self._live = ""
        self._code = self._talking = False
        self._lines: list[str] = []
        self._touched = 0.0
        self.buffer = Buffer(multiline=True, on_text_changed=self._changed)
        self.app: Application[None] = Application(
            layout=self._layout(), key_bindings=self._keys(), full_screen=False, erase_when_done=True, min_redraw_interval=0.05,
        )  # fmt: skip
        self.app.ttimeoutlen = 0.05

    @property
    def width(self) -> int:
        try:
            return max(20, os.get_terminal_size(sys.__stdout__.fileno() if sys.__stdout__ else 1).columns)
        except OSError:
            return 80

    @property
    def typing(self) -> bool:
        return bool(self.buffer.text) and time.monotonic() - self._touched < TYPING_SECONDS

    def close(self) -> None:
        self.flush()
        self._proxy.close()

    def refresh(self) -> None:
        self.app.invalidate()

    # What the loop shows

    def said(self, piece: str) -> None:
        if not self._talking:
            piece = piece.lstrip("\n")
            if not piece:
                return
            self._talking = True
            self._print(Text(""))
        self._paragraph += printable(piece)
        while "\n" in self._paragraph:
            line, self._paragraph = self._paragraph.split("\n", 1)
            self._line(line)
        if not self._code and cell_len(self._paragraph) > self.width:
            wrapped = [one.plain for one in Text(self._paragraph).wrap(self._console(), self.width)]
            for row in wrapped[:-1]:
                self._print(Text(row.rstrip()))
            self._paragraph = wrapped[-1]
        self._live = self._paragraph or " "
        self.refresh()

    def thought(self, piece: str) -> None:
        if not self._paragraph:
            self._live = ""
            self.refresh()

    def flush(self) -> None:
        if self._paragraph.strip():
            self._line(self._paragraph)
        self._paragraph = self._live = ""
        self._code = self._talking = False

    def person(self, text: str) -> None:
        self._print(Text(f"\n› {printable(text)}", "bold cyan"))

    def mail(self, messages: Sequence[Message]) -> None:
        for one in messages:
            about = f" · {clean(one.about, 100)}" if one.about else ""
            self._print(Text(f"\n✉ from {clean(one.sender, 64)}: {clean(one.kind, 64)}{about}", "bold magenta"))
            self._some(printable(one.body).strip().split("\n"), FAINT)

    def called(self, call: Call) -> None:
        first = clean(next(iter(call.arguments.values()), ""), 4 * self.width)
        self._print(Text.assemble("\n", (f"● {clean(call.name, 30)} ", "bold green"), first))
        if call.name == "edit":
            old, new = (printable(call.arguments.get(name, "")).rstrip().split("\n") for name in ("old", "new"))
            self._some([f"- {line}" for line in old], "red")
            self._some([f"+ {line}" for line in new], "green")
        self._lines = []
        self.refresh()

    def printed(self, piece: str) -> None:
        self._lines = [line for line in piece.splitlines() if line.strip()][-1:] or self._lines
        self.refresh()

    def result(self, call: Call, result: Result, seconds: float) -> None:
        self._lines = []
        self._some(
            printable(result.text).rstrip().split("\n"),
            "red" if result.failed else FAINT,
            f"{seconds:.1f} s" if seconds >= 1 else "",
        )

    def note(self, text: str, style: str = "") -> None:
        self.flush()
        self._print(Text(f"· {printable(text)}", style or FAINT))

    def _line(self, line: str) -> None:
        """A whole line of the model's: code is not wrapped at words."""
        fence = line.lstrip().startswith("```")
        style = "cyan" if self._code or fence else "bold" if line.startswith("#") else ""
        self._code ^= fence
        self._print(Text(line, style))

    def _some(self, lines: list[str], style: str, more: str = "") -> None:
        """The first lines, a row each."""
        shown = lines if len(lines) <= PREVIEW + 1 else lines[:PREVIEW]
        ends = [f"… {len(lines) - len(shown)} more lines"] if len(shown) < len(lines) else []
        ends += [more] if more else []
        rows = [*shown, *([" · ".join(ends)] if ends else [])]
        for row in rows:
            text = Text(f"  │ {row.expandtabs(4)}", style)
            text.truncate(self.width, overflow="ellipsis")
            self._print(text)

    def _console(self) -> Console:
        return Console(file=self._proxy, force_terminal=True, color_system="256", width=self.width, highlight=False)  # type: ignore[arg-type]

    def _print(self, text: Text) -> None:
        self._console().print(text, overflow="fold")

    # What stands below

    def _layout(self) -> Layout:
        def rows(text: Callable[[], StyleAndTextTuples], shown: Condition) -> ConditionalContainer:
            return ConditionalContainer(
                Window(FormattedTextControl(text), dont_extend_height=True, wrap_lines=False), shown
            )

        edge = Window(height=1, char="─", style="fg:ansibrightblack")
        control = BufferControl(self.buffer, input_processors=[BeforeInput("› ", "bold fg:ansicyan")])
        line = Window(control, wrap_lines=True, height=Dimension(min=1, max=8), dont_extend_height=True)
        busy = Condition(lambda: self.state in ("working", "rate_limited"))
        waiting = Condition(lambda: bool(self.queued))
        status = Window(FormattedTextControl(self._status), height=1)
        return Layout(
            HSplit([rows(self._doing, busy), rows(self._queue, waiting), edge, line, status]), focused_element=line
        )

    def _doing(self) -> StyleAndTextTuples:
        if self._live.strip():
            return [("", clean(self._live, 2000))]
        seconds = time.monotonic() - self.since
        spin = SPINNER[int(seconds * 4) % len(SPINNER)]
        last = f"  {clean(self._lines[-1])}" if self._lines else ""
        text = f"{self.doing} {seconds:.0f} s{last}"
        return [
            ("fg:ansigreen", f"{spin} "),
            ("fg:ansibrightblack", set_cell_size(text, max(1, self.width - 3)).rstrip()),
        ]

    def _queue(self) -> StyleAndTextTuples:
        rows = [set_cell_size(f"  queued: {clean(text, 300)}", self.width - 1).rstrip() for text in self.queued[:3]]
        more = [f"  and {len(self.queued) - 3} more"] if len(self.queued) > 3 else []
        return [("fg:ansicyan", "\n".join([*rows, *more]))]

    def _status(self) -> StyleAndTextTuples:
        hint = "Esc interrupts" if self.state in ("working", "rate_limited") else "/help"
        state = self.state.replace("_", " ")
        room = max(1, self.width - cell_len(state) - cell_len(hint) - 5)
        rest = set_cell_size(f" · {self.status()}", room)
        return [(f"fg:{STATES.get(self.state, 'ansiyellow')}", f"● {state}"), ("fg:ansibrightblack", f"{rest} {hint}")]

    # Keys

    def _changed(self, _: Buffer) -> None:
        self._touched = time.monotonic()

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            text = self.buffer.text.strip()
            if text:
                self.buffer.append_to_history()
                self.buffer.reset()
                self.submit(text)

        @keys.add("c-j")
        def _(event: KeyPressEvent) -> None:
            self.buffer.insert_text("\n")

        @keys.add("escape", eager=True)
        def _(event: KeyPressEvent) -> None:
            self.interrupt()

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            if not self.interrupt():
                if not self.buffer.text:
                    self.note("nothing is going on; /quit ends the agent")
                self.buffer.reset()

        @keys.add("c-d")
        def _(event: KeyPressEvent) -> None:
            if not self.buffer.text:
                self.note("/quit ends the agent; Ctrl-b d leaves it running")

        return keys
