"""The grid: a board window, and windows in which every agent is its pane's own process, on one private tmux server.

Called by the controller (ensure, observe, label), the commands (attach, logs, down) and the board. Everything here
may be done twice: it looks first and does the smallest thing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shlex
import signal
import sys
import time
from pathlib import Path
from urllib.parse import quote

import libtmux
import psutil
from libtmux.exc import LibTmuxException

from lab.errors import UserError
from lab.home import MAIN, Home
from lab.process import Identity
from org import layout, screenlog, strays
from org.panes import BOARD, NAME, PaneSpec, PaneState, check, reap, state_of, zombie
from org.tmux import (
    COLOURS,
    INSTALL,
    OLDEST,
    PLACEHOLDER,
    Answer,
    Pane,
    Tmux,
    chain,
    keys,
    options,
    version,
    word,
)

SCREENS_SECONDS = 0.5

tmux_version = version


class Grid:
    """The panes of one session. Raises UserError for a bad name, for no tmux, and for one older than 3.2."""

    def __init__(self, name: str, home: Home) -> None:
        if not NAME.match(name):
            raise UserError(f"session name {name!r}: use a-z, 0-9 and -, at most 31 characters (--name)")
        found = version()
        if found is None:
            raise UserError(f"tmux is not installed: {INSTALL}")
        if found < OLDEST:
            raise UserError(f"tmux {found[0]}.{found[1]} is too old, orgctl needs 3.2: install a newer one")
        self.name = name
        self.home = home
        self.socket = f"orgctl-{name}"
        self._tmux = Tmux(self.socket, home.root if home.program == MAIN else home.org)
        self._server = libtmux.Server(socket_name=self.socket, config_file="/dev/null")
        self._seen: list[str] = []
        self._screens: dict[str, str] = {}
        self._screens_at = -SCREENS_SECONDS

    # looking

    def running(self) -> bool:
        """Is the server of this very session up?"""
        return self._tmux.look().kind == "up"

    def check_free(self) -> None:
        """Raises UserError when a server of this name serves another directory, or does not answer."""
        self._mine()

    def observe(self) -> dict[str, PaneState] | None:
        """Panes by agent, the board among them. None: could not look, so nothing is known. {}: looked, and there is
        none (the server is down, or one of this name serves another directory)."""
        answer = self._tmux.look()
        if answer.kind == "unknown":
            return None
        seen = {pane.agent: state_of(pane) for pane in answer.panes if pane.agent}
        if any(pane.untold and zombie(pane.pid) for pane in seen.values()):
            self._let_it_reap()
        self._seen = [pane.pane_id for pane in seen.values() if not pane.dead]
        return seen

    def _let_it_reap(self) -> None:
        """Have the server look which of its children ended. One that ends while libutempter, within tmux, holds the handler of
        SIGCHLD (tmux issue 311) stays a zombie, and nobody hears how it ended, until another child ends."""
        server = self._tmux.run("display-message", "-p", "#{pid}").stdout.strip()
        if server.isdigit():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(server), signal.SIGCHLD)

    def clients_on(self, agent: str) -> float | None:
        """Seconds since somebody last typed while looking at this agent's pane; None when nobody is looking at it."""
        pane = self._tmux.look().find(agent)
        if pane is None:
            return None
        lines = self._tmux.run("list-clients", "-F", "#{client_activity}|#{pane_id}").stdout.splitlines()
        times = [line.split("|")[0] for line in lines if line.endswith(f"|{pane.pane_id}")]
        return min((max(0.0, time.time() - int(text)) for text in times if text.isdigit()), default=None)

    def capture(self, agent: str, lines: int | None = None, escapes: bool = False) -> str:
        """The agent's visible screen, or its last `lines` lines with history; `escapes` keeps the colours."""
        command = ["capture-pane", "-p", "-t", self._need(agent).pane_id]
        command += ["-e"] if escapes else []
        command += ["-S", str(-lines)] if lines else []
        text = self._tmux.must(*command).rstrip("\n")
        return "\n".join(text.split("\n")[-lines:]) if lines else text

    def shown(self, pane: PaneState) -> str:
        """The visible screen of a pane that was seen a moment ago; "" when it cannot be had. All screens come in one call, which
        holds for half a second: a call for each agent would cost several times the rest of a look."""
        if time.monotonic() - self._screens_at > SCREENS_SECONDS:
            end = secrets.token_hex(8)
            words = [word for one in self._seen for word in (["capture-pane", "-p", "-t", one], ["display-message", "-p", end])]
            pieces = self._tmux.run(*chain(words)).stdout.split(f"{end}\n")[:-1]
            self._screens, self._screens_at = dict(zip(self._seen, pieces, strict=False)), time.monotonic()
        return self._screens.get(pane.pane_id, "")

    # acting

    def ensure(self, board: PaneSpec, panes: list[PaneSpec], size: tuple[int, int] = (220, 50)) -> list[str]:
        """Create what is missing, restart what died, touch nothing that is well. Returns the agents it (re)started.

        `size` is columns and rows of a terminal, for windows that nobody has looked at yet. Raises UserError when the
        server of this name belongs to another directory, or tmux does not do as told.
        """
        specs = [board, *panes]
        if board.agent != BOARD or len({spec.agent for spec in specs}) != len(specs):
            raise ValueError("the board's agent is called 'board', and every agent is there once")
        for spec in specs:
            check(spec)
        answer = self._mine()
        if answer.kind == "down":
            self._start(board, size)
            answer = self._mine()
        for pane in answer.panes:
            if pane.placeholder and not pane.agent:  # left by a creation that was cut short
                self._tmux.run("kill-pane", "-t", pane.pane_id)
                answer = self._mine()
        missing = [spec for spec in specs if answer.find(spec.agent) is None]
        if missing:
            self._place(missing, answer.panes, size)
            answer = self._mine()
        wanted = [spec for spec in specs if (pane := self._need(spec.agent, answer)).dead or pane.placeholder]
        left = strays.begun(self.home) if wanted else {}
        for spec in wanted:
            self.respawn(spec, left.get(spec.agent, []))
        return [spec.agent for spec in wanted]

    def respawn(self, pane: PaneSpec, left: list[psutil.Process] | None = None) -> None:
        """Start (again) what the pane should run, as its own process; what ran there before is gone afterwards, with all that it
        started (`left`, where that is known already)."""
        check(pane)
        left = strays.find(self.home, pane.agent) if left is None else left
        there = self._need(pane.agent)
        command = ["respawn-pane", "-k", "-t", there.pane_id, "-c", str(pane.cwd).replace("#", "##")]  # a format
        for key, value in pane.env.items():
            command += ["-e", f"{key}={value}"]
        argv = pane.argv if len(pane.argv) > 1 else ["env", *pane.argv]  # a single word would go through a shell
        before = [] if there.dead else [Identity.of(there.pid)]
        self._tmux.feed(*command, "--", *argv)
        reap(before)
        strays.end(left)

    def paste(self, agent: str, text: str) -> None:
        """Put a text into an agent's input, without Enter. Raises UserError when it has no pane."""
        self._tmux.put(self._need(agent).pane_id, text)

    def enter(self, agent: str) -> None:
        """Press Enter in an agent's pane, with nothing in front of it."""
        self._tmux.must("send-keys", "-t", self._need(agent).pane_id, "Enter")

    def end(self, agent: str) -> None:
        """End what runs in an agent's pane and all that it started; the pane stays and shows its last words."""
        pane = self._need(agent)
        process = None if pane.dead else Identity.of(pane.pid)
        if process is not None:
            process.signal_group(signal.SIGTERM)
            reap([process])
        strays.end(strays.find(self.home, agent))

    def remove(self, agent: str) -> None:
        """Close an agent's pane and end what runs in it; nothing when there is none."""
        pane = self._tmux.look().find(agent)
        if pane is None:
            return
        before = [] if pane.dead else [Identity.of(pane.pid)]
        self._tmux.run("kill-pane", "-t", pane.pane_id)
        reap(before)
        strays.end(strays.find(self.home, agent))
        self._arrange({pane.window_id})

    def label(self, labels: dict[str, str], states: dict[str, str] | None = None) -> None:
        """The text on each agent's border (before the first it is the name); `states` colours the dot before it. Text
        is untrusted: shown as it is, on one line, cut at 200 characters. Agents without a pane are passed over."""
        at = {pane.agent: pane.pane_id for pane in self._tmux.look().panes if pane.agent}
        commands: list[list[str]] = []
        for agent, text in labels.items():
            if agent in at:
                plain = "".join(char if char.isprintable() else " " for char in text[:200]).replace("#", "##")
                commands.append(["set-option", "-p", "-t", at[agent], "@label", word(plain)])
        for agent, state in (states or {}).items():
            if agent in at and state in COLOURS:
                commands.append(["set-option", "-p", "-t", at[agent], "@state", state])
        self._tmux.batch(commands)

    def relayout(self, columns: int, rows: int) -> None:
        """Spread the agents over windows for a terminal of that size: no pane below 60x12, at most eight a window.
        Agents keep their panes and go on undisturbed."""
        answer = self._tmux.look()
        agents = [pane for pane in answer.panes if pane.agent and pane.agent != BOARD]
        agents.sort(key=lambda pane: (pane.window_index, pane.pane_index))
        at = {pane.agent: pane for pane in agents}
        window_of = {pane.agent: pane.window_id for pane in agents}
        present = [list(group) for _, group in itertools.groupby(window_of, key=lambda agent: window_of[agent])]
        wanted = layout.split(list(at), columns, rows - 1)
        if present == wanted:
            self._arrange(set(window_of.values()), (columns, rows - 1))
            return
        for number, group in enumerate(wanted, start=1):
            if any(window_of[agent] == window_of[group[0]] for agent in at if agent not in group):
                out = ["break-pane", "-d", "-P", "-F", "#{window_id}", "-n", f"grid-{number}"]
                window_of[group[0]] = self._tmux.must(*out, "-s", at[group[0]].pane_id).strip()
            for before, agent in itertools.pairwise(group):
                if window_of[agent] != window_of[before]:
                    libtmux.Pane(server=self._server, pane_id=at[agent].pane_id).join(at[before].pane_id)
                    window_of[agent] = window_of[before]
                    self._tmux.must("select-layout", "-t", at[agent].pane_id, "tiled")  # makes room for the next one
        windows = [window_of[group[0]] for group in wanted]
        commands = []
        for start in (1000, 1):  # out of the way first: a number in use is refused
            for number, window in enumerate(windows, start=start):
                commands.append(["move-window", "-d", "-s", window, "-t", f"{agents[0].session_id}:{number}"])
        for number, window in enumerate(windows, start=1):
            commands.append(["rename-window", "-t", window, f"grid-{number}"])
        watched = [pane.pane_id for pane in answer.panes if pane.window_active and pane.pane_active]
        commands += [[select, "-t", pane] for pane in watched for select in ("select-window", "select-pane")]
        self._tmux.batch(commands)
        self._arrange(set(windows), (columns, rows - 1))

    def attach_argv(self, agent: str | None = None) -> list[str]:
        """What to execute (os.execvp) to look at the session, at an agent's pane if one is named. Works inside
        another tmux; in a pane of this very server it only switches. Raises UserError when nothing runs or there is
        no such pane."""
        answer = self._mine()
        if answer.kind == "down":
            raise UserError(f"session {self.name} is not running: start it with `orgctl up`")
        select: list[list[str]] = []
        if agent is not None:
            pane = self._need(agent, answer).pane_id
            select = [["select-window", "-t", pane], ["select-pane", "-t", pane]]
        tmux = ["tmux", "-u", "-L", self.socket]
        if Path(os.environ.get("TMUX", "").split(",")[0]).name == self.socket:
            return [*tmux, *chain(select or [["display-message", "you are attached already"]])]
        return [*tmux, *chain([["attach-session", "-t", answer.panes[0].session_id], *select])]

    def log_to(self, agent: str, path: Path) -> None:
        """Append all that the pane shows, escapes included, to `path` (two files of 4 MB at most); nothing if it is so, or when its
        process has ended: tmux refuses that."""
        pane = self._need(agent)
        target = quote(str(path), safe="/")
        there = self._tmux.run("show-options", "-pqv", "-t", pane.pane_id, "@log").stdout.strip()
        if pane.piped and there == target:
            return
        writer = shlex.join([sys.executable, "-I", "-S", str(Path(screenlog.__file__).resolve()), str(path)])
        escaped = writer.replace("%", "%%").replace("#", "##")  # tmux expands both in this command
        done = self._tmux.run("pipe-pane", "-O", "-t", pane.pane_id, word(escaped))
        if done.returncode == 0:
            self._tmux.must("set-option", "-p", "-t", pane.pane_id, "@log", word(target))
        elif not self._need(agent).dead:
            raise UserError(f"tmux pipe-pane failed on {self.socket}: {done.stderr.strip()}: see `orgctl status`, then `orgctl up`")

    def kill(self) -> None:
        """End the server, every process that was in a pane and all that was started there; nothing when it is down or another
        directory's."""
        answer = self._tmux.look()
        if answer.kind == "up":
            there = [Identity.of(pane.pid) for pane in answer.panes if not pane.dead]
            socket = self._tmux.run("display-message", "-p", "#{socket_path}").stdout.strip()
            self._tmux.run("kill-server")
            if Path(socket).name == self.socket:
                Path(socket).unlink(missing_ok=True)  # tmux leaves the file of its dead socket behind
            reap(there)
            strays.end([process for left in strays.begun(self.home).values() for process in left])

    # making windows and panes

    def _mine(self) -> Answer:
        """What there is, when that is certain and ours. Raises UserError otherwise."""
        answer = self._tmux.look()
        remedy = f"`tmux -L {self.socket} kill-server` ends it"
        if answer.kind == "unknown":
            raise UserError(f"the tmux server {self.socket} does not answer: {remedy}")
        if answer.kind == "foreign":
            raise UserError(
                f"session {self.name} is running already for {answer.other}: choose another name with --name, or stop "
                f"that one (`orgctl down` there; {remedy} too)"
            )
        return answer

    def _need(self, agent: str, answer: Answer | None = None) -> Pane:
        answer = answer or self._mine()
        found = answer.find(agent)
        if found is None:
            names = ", ".join(sorted(pane.agent for pane in answer.panes if pane.agent)) or "none, run `orgctl up`"
            raise UserError(f"no pane for agent {agent!r} in session {self.name}: there is {names}")
        return found

    def _start(self, board: PaneSpec, size: tuple[int, int]) -> None:
        """Start the server with our options and the board's pane, in one call, so that nothing half-made can be left.
        `-o` refuses to overwrite: of two directories starting at once, one fails."""
        columns, rows = str(size[0]), str(size[1] - 1)  # less the status line
        commands = [["start-server"], ["set-option", "-s", "-o", "@orgctl_home", word(self._tmux.mark)]]
        commands += [["set-option", "-q", *words] for words in options(self.name, f"{columns}x{rows}")]
        commands += [["bind-key", *map(word, words)] for words in keys(self.home.root, self.home.program)]
        first = ["new-session", "-d", "-s", self.name, "-n", BOARD, "-x", columns, "-y", rows, "-c", "/", "--"]
        commands.append([*first, *PLACEHOLDER])
        for key, value in (("@agent", board.agent), ("@role", board.role)):
            commands.append(["set-option", "-p", "-t", f"={self.name}:0.0", key, value])
        commands.append(["set-option", "-w", "-t", f"={self.name}:0", "pane-border-status", "off"])
        self._tmux.must(*chain(commands))

    def _place(self, missing: list[PaneSpec], panes: list[Pane], size: tuple[int, int]) -> None:
        """Make a pane for each missing agent: first where windows have room, then in new windows."""
        session = panes[0].session_id
        queue = []
        for spec in missing:
            if spec.agent == BOARD:
                self._create(spec, ["new-window", "-d", "-n", BOARD, "-t", f"{session}:"])
            else:
                queue.append(spec)
        grid = [pane for pane in panes if pane.window.startswith("grid-")]
        for _, group in itertools.groupby(grid, key=lambda pane: pane.window_id):
            inside = list(group)
            last = inside[-1].pane_id
            for _ in range(layout.capacity(inside[0].columns, inside[0].rows) - len(inside)):
                if queue:
                    last = self._create(queue.pop(0), ["split-window", "-d", "-t", last])
        used = {pane.window for pane in grid}
        names = (name for name in map("grid-{}".format, itertools.count(1)) if name not in used)
        specs = {spec.agent: spec for spec in queue}
        for agents, name in zip(layout.split(list(specs), size[0], size[1] - 1), names, strict=False):
            last = self._create(specs[agents[0]], ["new-window", "-d", "-n", name, "-t", f"{session}:"])
            for agent in agents[1:]:
                last = self._create(specs[agent], ["split-window", "-d", "-t", last])
        self._arrange({pane.window_id for pane in self._mine().panes if pane.window.startswith("grid-")})

    def _create(self, spec: PaneSpec, command: list[str]) -> str:
        """Make one pane with the placeholder in it and mark it as the agent's; returns its id."""
        done = self._server.cmd(*command, "-P", "-F", "#{pane_id}", "-c", "/", "--", *PLACEHOLDER)
        if done.returncode or not done.stdout:
            why = " ".join(done.stderr)
            raise UserError(f"tmux {command[0]} failed for agent {spec.agent}: {why}: try a larger terminal")
        pane = libtmux.Pane(server=self._server, pane_id=str(done.stdout[0]))
        try:
            pane.set_option("@agent", spec.agent)
            pane.set_option("@role", spec.role)
        except LibTmuxException as error:
            raise UserError(f"tmux lost the new pane of agent {spec.agent} ({error}): run `orgctl up` again") from error
        if spec.agent == BOARD:
            self._tmux.must("set-option", "-w", "-t", str(pane.pane_id), "pane-border-status", "off")
        if command[0] == "split-window":
            self._tmux.must("select-layout", "-t", str(pane.pane_id), "tiled")  # makes room for the next split
        return str(pane.pane_id)

    def _arrange(self, windows: set[str], size: tuple[int, int] | None = None) -> None:
        """Give windows the preset that suits their panes and size; one in which somebody zoomed a pane is left alone.

        `size` is what they will have once shown: tmux resizes a window only when a client comes to look at it.
        """
        panes = self._tmux.look().panes
        commands = []
        for window in windows:
            inside = [pane for pane in panes if pane.window_id == window]
            if inside and not inside[0].zoomed and all(pane.agent != BOARD for pane in inside):
                found = layout.arrange(len(inside), *(size or (inside[0].columns, inside[0].rows)))
                commands.append(["select-layout", "-t", window, found.preset if found else "tiled"])
        self._tmux.batch(commands)
