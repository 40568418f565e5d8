"""One private tmux server: clean environment, configuration, commands with a timeout, the poll. Used by `org.grid`.

The server is started with an environment built from nothing, so no key of the user's reaches a pane by itself. The
poll is one raw `list-panes` whose fields cannot hold the separator: libtmux's listing fails on a pane whose directory
has a newline.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from lab.errors import UserError
from org.agents.base import path

OLDEST = (3, 2)
TIMEOUT = 10.0
"""Seconds a command may take; a server that is slower counts as unknown."""
COMMAND_LIMIT = 14_000
"""Bytes of one command: tmux refuses messages above 16 kB."""
PLACEHOLDER = ["sleep", "2147483647"]
"""What a new pane runs until its agent takes its place. Two words, so that tmux executes it without a shell."""
WIDTHS = (110, 150)
"""Columns from which the status line holds some of its hints, and all."""
INSTALL = "install it (Debian: apt-get install tmux, macOS: brew install tmux)"

COLOURS = {
    "starting": "yellow", "working": "green", "waiting": "cyan", "idle": "colour245", "paused": "yellow",
    "needs_person": "colour208", "rate_limited": "yellow", "taken_over": "magenta", "dead": "red", "failed": "red", "unknown": "colour245",
}  # fmt: skip
"""Colour of the dot on a pane's border, by the agent's state."""

_FIELDS = (
    "@orgctl_home", "@agent", "@role", "session_id", "window_id", "window_index", "window_width", "window_height",
    "window_zoomed_flag", "window_active", "pane_id", "pane_index", "pane_active", "pane_pid", "pane_dead",
    "pane_dead_status", "pane_dead_signal", "pane_in_mode", "pane_pipe",
    f"==:#{{pane_start_command}},{' '.join(PLACEHOLDER)}", "window_name",
)  # fmt: skip
_FORMAT = "|".join(f"#{{{field}}}" for field in _FIELDS)


def version() -> tuple[int, int] | None:
    """(major, minor) of the tmux on PATH; None when there is none. A development build counts as newest."""
    try:
        out = subprocess.run(["tmux", "-V"], capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"(\d+)\.(\d+)", out)
    return (int(found[1]), int(found[2])) if found else (99, 0)


def base_environment() -> dict[str, str]:
    """The environment of the whole server: nothing of the user's but what a terminal program needs."""
    mine = os.environ
    language = next((mine[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if mine.get(name)), "")
    if not language.lower().replace("-", "").endswith("utf8"):
        language = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    kept = {key: mine[key] for key in ("HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMUX_TMPDIR") if mine.get(key)}
    kept.setdefault("HOME", str(Path.home()))
    kept["TERM"] = mine.get("TERM") or "xterm-256color"
    return {**kept, "PATH": path(), "LANG": language, "LC_ALL": language}


def pane_terminal() -> str:
    """The terminal that panes believe in: tmux's own where this machine describes it."""
    roots = ("/usr/share", "/lib", "/etc", "/usr/lib", "/usr/local/share", "/opt/homebrew/share")
    files = (Path(root) / "terminfo" / folder / "tmux-256color" for root in roots for folder in ("t", "74"))
    return "tmux-256color" if any(file.is_file() for file in files) else "screen-256color"


def options(name: str, default_size: str) -> list[list[str]]:
    """Our configuration as arguments of set-option; it replaces the user's."""
    colours = "".join(f"#{{?#{{==:#{{@state}},{state}}},#[fg={colour}],}}" for state, colour in COLOURS.items())
    title = "#{?@label,#{@label},#{@agent}}"
    border = f" {colours}●#[default] #{{?pane_active,#[bold],#[fg=colour250]}}{title}#[default] "
    all_hints = "^b z zoom · ^b n next · ^b t take over · ^b d leave it running · #[fg=colour250]%H:%M "
    hints = fitting("^b d leave ", "^b n next · ^b t take over · ^b d leave ", all_hints)
    gone = "#{?pane_dead,#[fg=red]exited #{pane_dead_status}#{pane_dead_signal} #[default],}"
    wanted: dict[str, dict[str, str]] = {
        "-s": {"escape-time": "10", "default-terminal": pane_terminal(), "focus-events": "on"},
        "-g": {
            "base-index": "0", "default-size": default_size, "history-limit": "20000", "mouse": "on",
            "update-environment": "", "renumber-windows": "off", "set-titles": "off", "status-interval": "5",
            "status-style": "bg=colour236,fg=colour250", "status-left-length": "60", "status-right-length": "80",
            "status-left": f"#[bg=colour31,fg=colour231,bold] {fitting('', '', 'orgctl · ')}{name} #[default] ",
            "status-right": f"#[fg=colour245]{hints}",
        },
        "-gw": {
            "pane-base-index": "0", "remain-on-exit": "on", "window-size": "latest", "aggressive-resize": "off",
            "allow-rename": "off", "automatic-rename": "off", "mode-keys": "vi", "window-status-format": " #I #W ",
            "window-status-current-format": "#[bg=colour24,fg=colour231,bold] #I #W#{?window_zoomed_flag, zoomed,} ",
            "pane-border-status": "top", "pane-border-format": border + gone, "pane-border-indicators": "off",
            "pane-border-style": "fg=colour240", "pane-active-border-style": "fg=colour39",
        },
    }  # fmt: skip
    return [[scope, key, value] for scope, options in wanted.items() for key, value in options.items()]


def fitting(short: str, middle: str, long: str) -> str:
    """One of three texts, by the width of the terminal: the list of windows, whose number grows as it narrows, has to fit beside them."""
    narrow, middling = (f"#{{e|<:#{{client_width}},{columns}}}" for columns in WIDTHS)
    return f"#{{?{narrow},{short},#{{?{middling},{middle},{long}}}}}"


def keys(root: Path, program: str) -> list[list[str]]:
    """Our key bindings as arguments of bind-key: Ctrl-b t takes the pane over that one looks at, or gives it back."""
    here = shlex.quote(str(root)).replace("#", "##")
    env = f"ORGCTL_HOME={here} ORGCTL_PROGRAM={program}"
    take = f"said=$({env} orgctl takeover --toggle '#{{@agent}}' 2>&1 | tail -n 1); tmux display-message -d 4000 \"$said\""
    return [["-T", "prefix", "t", "run-shell", "-b", take]]


def word(text: str) -> str:
    """One argument for tmux's command line, where a trailing `;` would end the command."""
    return text[:-1] + "\\;" if text.endswith(";") else text


def chain(commands: list[list[str]]) -> list[str]:
    """Several commands as the arguments of one call."""
    return [part for command in commands for part in (";", *command)][1:]


def size(words: list[str]) -> int:
    """Bytes that a command takes on its way to the server."""
    return sum(len(part.encode()) + 1 for part in words)


@dataclass(frozen=True)
class Pane:
    """One line of the poll. `agent` is "" for a pane that somebody else made; `exit_signal` a name ("SIGKILL") or
    None."""

    home: str
    agent: str
    role: str
    session_id: str
    window_id: str
    window_index: int
    columns: int
    rows: int
    zoomed: bool
    window_active: bool
    pane_id: str
    pane_index: int
    pane_active: bool
    pid: int
    dead: bool
    exit_status: int | None
    exit_signal: str | None
    in_mode: bool
    piped: bool
    placeholder: bool
    window: str

    @classmethod
    def parse(cls, line: str) -> Pane | None:
        """A pane from a line in `_FORMAT`, else None. The window's name comes last: only it may hold the separator."""
        parts = line.split("|", len(_FIELDS) - 1)
        if len(parts) != len(_FIELDS):
            return None
        text = dict(zip(_FIELDS[:-2], parts, strict=False))
        try:
            return cls(
                home=unquote(text["@orgctl_home"]),
                agent=text["@agent"],
                role=text["@role"],
                session_id=text["session_id"],
                window_id=text["window_id"],
                window_index=int(text["window_index"]),
                columns=int(text["window_width"]),
                rows=int(text["window_height"]),
                zoomed=text["window_zoomed_flag"] == "1",
                window_active=text["window_active"] == "1",
                pane_id=text["pane_id"],
                pane_index=int(text["pane_index"]),
                pane_active=text["pane_active"] == "1",
                pid=int(text["pane_pid"] or 0),
                dead=text["pane_dead"] == "1",
                exit_status=int(text["pane_dead_status"]) if text["pane_dead_status"] else None,
                exit_signal=_signal_name(text["pane_dead_signal"]),
                in_mode=text["pane_in_mode"] not in ("", "0"),
                piped=text["pane_pipe"] == "1",
                placeholder=parts[-2] == "1",
                window=parts[-1],
            )
        except ValueError:
            return None


def _signal_name(number: str) -> str | None:
    if not number or number == "0":
        return None
    try:
        return signal.Signals(int(number)).name
    except ValueError:
        return number


@dataclass(frozen=True)
class Answer:
    """What looking found. `kind`: up, down, foreign (serves the directory `other`), or unknown (could not look)."""

    kind: str
    panes: list[Pane]
    other: str = ""

    def find(self, agent: str) -> Pane | None:
        return next((pane for pane in self.panes if pane.agent == agent), None)


class Tmux:
    """The server on one private socket, as the home `root` sees it."""

    def __init__(self, socket: str, root: Path) -> None:
        self.socket = socket
        self.root = root

    @property
    def mark(self) -> str:
        """The home's path as an option value without spaces, separators or anything that tmux expands."""
        return quote(str(self.root), safe="/")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command. A timeout comes back as return code 124. Raises UserError when tmux is gone."""
        command = ["tmux", "-u", "-f", "/dev/null", "-L", self.socket, *words]
        try:
            return subprocess.run(
                command, capture_output=True, timeout=TIMEOUT, check=False, env=base_environment(), cwd="/",
                encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer in {TIMEOUT:.0f} s")
        except OSError as error:
            raise UserError(f"tmux cannot be started ({error.strerror}): {INSTALL}") from error

    def must(self, *words: str) -> str:
        """Output of a command that has to work. Raises UserError with tmux's own words."""
        done = self.run(*words)
        if done.returncode:
            why = done.stderr.strip() or f"return code {done.returncode}"
            raise UserError(f"tmux {words[0]} failed on {self.socket}: {why}: see `orgctl status`, then `orgctl up`")
        return done.stdout

    def feed(self, *words: str) -> None:
        """A command that has to work, over standard input: no length limit, and nobody sees it in a list of processes.
        Raises UserError with tmux's own words."""
        line = shlex.join(words) + "\n"
        command = ["tmux", "-u", "-f", "/dev/null", "-L", self.socket, "source-file", "-"]
        try:
            done = subprocess.run(
                command, input=line.encode(), capture_output=True, timeout=TIMEOUT, check=False, env=base_environment(), cwd="/"
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"tmux {words[0]} failed on {self.socket}: no answer in {TIMEOUT:.0f} s") from error
        except OSError as error:
            raise UserError(f"tmux cannot be started ({error.strerror}): {INSTALL}") from error
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip() or f"return code {done.returncode}"
            raise UserError(f"tmux {words[0]} failed on {self.socket}: {why}: see `orgctl status`, then `orgctl up`")

    def put(self, pane: str, text: str) -> None:
        """Paste a text into a pane, as a terminal would: in brackets where the program asks for them. No Enter follows.
        Raises UserError when the pane is gone."""
        buffer = f"orgctl-{os.getpid()}-{time.monotonic_ns()}"
        command = ["tmux", "-u", "-f", "/dev/null", "-L", self.socket]
        loaded = subprocess.run(
            [*command, "load-buffer", "-b", buffer, "-"], input=text.encode(), capture_output=True, timeout=TIMEOUT, check=False,
            env=base_environment(), cwd="/",
        )  # fmt: skip
        if loaded.returncode:
            raise UserError(f"tmux load-buffer failed on {self.socket}: {loaded.stderr.decode('utf-8', 'replace').strip()}")
        self.must("paste-buffer", "-p", "-r", "-d", "-b", buffer, "-t", pane)

    def batch(self, commands: list[list[str]]) -> None:
        """Several commands in as few calls as tmux's limit allows. A pane that just went spoils the rest of its
        call."""
        pending: list[list[str]] = []
        for command in commands:
            if pending and size(chain([*pending, command])) > COMMAND_LIMIT:
                self.run(*chain(pending))
                pending = []
            pending.append(command)
        if pending:
            self.run(*chain(pending))

    def look(self) -> Answer:
        """All panes of the server, in one call."""
        done = self.run("list-panes", "-a", "-F", _FORMAT)
        if done.returncode:
            lost = "error connecting" in done.stderr and ("No such file" in done.stderr or "refused" in done.stderr)
            return Answer("down" if lost or "no server running" in done.stderr else "unknown", [])
        panes = [pane for line in done.stdout.split("\n") if (pane := Pane.parse(line))]
        others = {pane.home for pane in panes} - {str(self.root)}
        if others:
            return Answer("foreign", [], others.pop() or "something that is not orgctl")
        return Answer("up" if panes else "unknown", panes)
