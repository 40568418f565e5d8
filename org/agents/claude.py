"""The `claude` backend: Claude Code, interactive, as the pane's own process.

Its configuration folder is ours (`seat.folder/claude`), unless the user's own login is asked for. State comes from the record that
Claude Code keeps of each of its processes, which is right even after Esc, where no hook fires; tokens from its transcripts.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from lab.files import read_json, write_atomic, write_json
from lab.process import Identity
from org.agents import base, cli
from org.agents.base import Cost, Launch, Retry, Seat, Told
from org.agents.conversations import Conversations
from org.agents.event import read_events
from org.agents.hook import CHILD
from org.agents.lines import Grown, opened
from org.agents.prices import Usage, total
from org.agents.screens import claude_box, claude_retry
from org.wake import FIRST

PROGRAM = cli.Program("claude", "@anthropic-ai/claude-code", (2, 1, 330))
EVENTS = ("SessionStart", "UserPromptSubmit", "PermissionRequest", "Notification", "Stop", "StopFailure", "SessionEnd")
KEY = "ORGCTL_ANTHROPIC_API_KEY"
"""The API key reaches Claude Code through a helper that prints this variable: under its usual name it would first ask whether to
use it, and to answer that beforehand a part of the key would have to be written into a file."""
QUIET = {
    "DISABLE_AUTOUPDATER": "1", "DISABLE_TELEMETRY": "1", "DISABLE_ERROR_REPORTING": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "CLAUDE_CODE_DISABLE_FEEDBACK_SURVEY": "1",
    "CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL": "1", "CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION": "false",
    "CLAUDE_CODE_DISABLE_CRON": "1", "CLAUDE_CODE_DISABLE_WORKFLOWS": "1",
}  # fmt: skip
"""No updates of itself, nothing sent home, no list of plugins fetched (by git, with the user's own ssh key if need be), no text in the
input box that nobody typed, nothing that starts turns by itself."""
ALLOWED = (
    "Bash",
    "Read",
    "Glob",
    "Grep",
    "Skill",
    "Agent",
    "Task",
    "TodoWrite",
    "ToolSearch",
    "Monitor",
    "TaskStop",
    "TaskOutput",
)
WEB = ("WebFetch", "WebSearch")
SLOW = 20.0
"""Seconds after which a Claude Code that has not opened its conversation (it takes about 1 s) shows something that wants an answer."""
DENIED = (
    "AskUserQuestion", "EnterPlanMode", "ExitPlanMode",  # would sit at a dialog
    "EnterWorktree", "ExitWorktree",  # it has one
    "SendMessage", "ListAgents",  # other agents of this machine are reached by mail, where it is seen
    "ScheduleWakeup", "CronCreate", "RemoteTrigger",
)  # fmt: skip


class Claude(base.Backend):
    name = "claude"
    spends_money = True
    typed = True
    sent_on = True

    def missing(self, settings: dict[str, Any]) -> str | None:
        keyed = any(os.environ.get(name) for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"))
        return PROGRAM.missing(settings, "ANTHROPIC_API_KEY", keyed, logged_in(), "run `claude` once by hand and log in")

    def launch(self, seat: Seat) -> Launch:
        settings = cli.read(self.name, seat.settings)
        folder, own = seat.folder / "claude", settings.credentials == "env"
        write_json(folder / "settings.json", settings_file(seat, settings, helper=own and KEY in credentials(settings)))
        secrets = credentials(settings) if own else {}
        write_atomic(folder / "shell.sh", f"unset {KEY} ANTHROPIC_AUTH_TOKEN\nexport {CHILD}=1\n")
        env = {**QUIET, **cli.identity(seat.agent), "CLAUDE_ENV_FILE": str(folder / "shell.sh")}
        argv = [
            PROGRAM.find(settings) or PROGRAM.name,
            "--settings",
            str(folder / "settings.json"),
            "--setting-sources",
            "user",
        ]
        argv += ["--strict-mcp-config", "--permission-mode", "dontAsk"]
        if own:
            env["CLAUDE_CONFIG_DIR"] = str(config(seat))
            no_questions(config(seat) / ".claude.json", [seat.cwd, seat.home.root])
            cli.lay_skills(seat.skills, config(seat) / "skills")
        else:
            cli.lay_skills(seat.skills, folder / "plugin" / "skills")
            write_json(
                folder / "plugin" / ".claude-plugin" / "plugin.json",
                {"name": "orgctl", "description": "Skills of this role"},
            )
            argv += ["--plugin-dir", str(folder / "plugin")]
        if settings.model:
            argv += ["--model", settings.model]
        if settings.effort:
            argv += ["--effort", settings.effort]
        return Launch([*argv, *_conversation(seat, settings)], seat.cwd, env, secrets)

    def told(self, seat: Seat, pid: int) -> Told | None:
        process = Identity.of(pid)
        if process is None:
            return None
        record = recorded(config(seat) / "sessions", process)
        if record is None:
            late = time.time() - process.began() > SLOW
            return Told("needs_person", None, "has not come up: look what its pane shows") if late else None
        return state(record, read_events(seat.home, seat.agent, 20), time.time())

    def box(self, screen: str) -> str | None:
        return claude_box(screen)

    def retry(self, screen: str) -> Retry | None:
        return claude_retry(screen)

    def cost(self, seat: Seat) -> Cost | None:
        mine = Conversations.of(seat.folder, self.name)
        requests: dict[str, Usage] = {}  # a conversation that was forked or resumed repeats those before
        for path in (path for id in mine.given for path in transcripts(config(seat), id)):
            requests |= usage(path)
        return total(requests.values(), mine.priced)


BACKEND = Claude()


# what is laid down


def config(seat: Seat) -> Path:
    """Its configuration folder: ours, or the user's where their login is used."""
    if seat.settings.get("credentials") == "login":
        return user_config()
    return seat.folder / "claude" / "config"


def user_config() -> Path:
    return Path(os.environ.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def logged_in() -> bool:
    """Is there a login of the user's? Where a keychain holds it nobody can look, and it is believed."""
    return (user_config() / ".credentials.json").exists() or os.uname().sysname == "Darwin"


def credentials(settings: cli.Settings) -> dict[str, str]:
    """What the environment offers, under the names by which it is handed over; {} when there is no key."""
    key, token = os.environ.get("ANTHROPIC_API_KEY"), os.environ.get("ANTHROPIC_AUTH_TOKEN")
    found = {KEY: key} if key else {"ANTHROPIC_AUTH_TOKEN": token} if token else {}
    url = settings.base_url or os.environ.get("ANTHROPIC_BASE_URL")
    return {**found, "ANTHROPIC_BASE_URL": url} if found and url else found


def settings_file(seat: Seat, settings: cli.Settings, helper: bool) -> dict[str, Any]:
    """Hooks and permissions. In mode `dontAsk` whatever is not allowed here is refused, and no dialog opens."""
    cwd = str(seat.cwd)
    plain = re.fullmatch(r"[\w./@+=:, -]+", cwd) is not None  # no character that a pattern gives a meaning
    edit = f"Edit(/{cwd}/**)" if plain else "Edit"
    found: dict[str, Any] = {
        "hooks": cli.hooks("claude", EVENTS),
        "permissions": {
            "allow": [*ALLOWED, edit, *(WEB if settings.network else ())],
            "deny": [*DENIED, *(() if settings.network else WEB)],
            "defaultMode": "dontAsk",
        },
        "attribution": {"commit": "", "pr": ""},
        "promptSuggestionEnabled": False, "spinnerTipsEnabled": False, "awaySummaryEnabled": False,
        "disableDeepLinkRegistration": "disable",
    }  # fmt: skip
    if helper:
        found["apiKeyHelper"] = f"printenv {KEY}"
    return found


def no_questions(path: Path, folders: list[Path]) -> None:
    """Answer beforehand what a first start asks: theme, tour, and whether the folders are trusted. What Claude Code keeps in the same
    file stays."""
    found = read_json(path) or {}
    wanted = {
        **found,
        "hasCompletedOnboarding": True,
        "hasSeenAutoDefaultNudge": True,
        "theme": found.get("theme") or "dark",
    }
    projects = found.get("projects")
    projects = dict(projects) if isinstance(projects, dict) else {}
    for folder in folders:
        known = projects.get(str(folder))
        known = known if isinstance(known, dict) else {}
        projects[str(folder)] = {**known, "hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    wanted["projects"] = projects
    if wanted != found:
        write_json(path, wanted)


def _conversation(seat: Seat, settings: cli.Settings) -> list[str]:
    """The words that go on with the latest conversation that is there, or begin one. An id that was taken without a word being said
    cannot be used again."""
    mine = Conversations.of(seat.folder, "claude")
    mine.priced = cli.priced(settings.base_url or os.environ.get("ANTHROPIC_BASE_URL"))
    text = cli.told(seat)
    hash = cli.digest(text)
    words = ["--append-system-prompt-file", str(seat.prompt)] if text else []
    there = next((id for id in mine.latest() if transcripts(config(seat), id)), None)
    if there:
        if mine.prompts.get(there) != hash:  # else it would be told what it was told when it began
            words += ["--system-prompt-snapshot", "off"]
        mine.write()
        return [*words, *settings.flags, "--resume", there]
    fresh = mine.given[-1] if mine.given and mine.given[-1] != mine.current else str(uuid.uuid4())
    mine.add(fresh)
    mine.prompts[fresh] = hash
    mine.write()
    return [*words, *settings.flags, "--session-id", fresh, "--", FIRST]


# what it says of itself


def recorded(folder: Path, process: Identity) -> dict[str, Any] | None:
    """The record of the Claude Code that is this process, or the topmost one below it: `command` may be a script that starts it. Below
    that one are those that the agent itself started."""
    level = [process]
    while level:
        for one in level:
            record = read_json(folder / f"{one.pid}.json")
            if record is not None and _of(record, one):
                return record
        level = [child for one in level for child in _children(one.pid)]
    return None


def _children(pid: int) -> list[Identity]:
    try:
        return [found for child in psutil.Process(pid).children() if (found := Identity.of(child.pid))]
    except psutil.Error:
        return []


def _of(record: dict[str, Any], process: Identity) -> bool:
    """Is the record of this very process, and not of an earlier one of that number? Its start is in clock ticks since boot."""
    try:
        return abs(int(record["procStart"]) / os.sysconf("SC_CLK_TCK") - process.started) < 1.0
    except (KeyError, TypeError, ValueError):
        return True  # not Linux, or a version that does not say


def state(record: dict[str, Any], events: list[dict[str, Any]], now: float) -> Told | None:
    """The state by Claude Code's own record {status, waitingFor, statusUpdatedAt (ms)}, with what the hooks know beyond it."""
    status, moment = record.get("status"), record.get("statusUpdatedAt")
    since = moment / 1000 if isinstance(moment, int | float) and 0 < moment < 1e14 else None
    last = events[-1] if events else {}
    text = str(last.get("text") or "")
    if status == "busy":
        return Told("working", since, text if last.get("state") == "working" else "")
    if status == "waiting":
        what = str(record.get("waitingFor") or "")
        return Told(
            "needs_person", since, text if last.get("state") == "needs_person" and text else what or "shows a dialog"
        )
    if status != "idle":
        return None
    fresh = since is None or float(last.get("time") or 0) >= since - 5
    if last.get("state") == "rate_limited" and fresh:
        return cli.limited(float(last["time"]), text, last.get("until"), now)
    return Told("idle", since, text if last.get("state") == "idle" and fresh else "")


# what it cost


def transcripts(folder: Path, id: str) -> list[Path]:
    """Files of one conversation: its own and its subagents'. [] when nothing was said in it yet."""
    own = [path for path in folder.glob(f"projects/*/{id}.jsonl") if _spoken(path)]
    return [*own, *sorted(folder.glob(f"projects/*/{id}/**/*.jsonl"))] if own else []


def _spoken(path: Path) -> bool:
    """Was anything said in this transcript? It is opened before that, and then cannot be resumed."""
    try:
        with opened(path) as handle:
            return any(b'"type":"user"' in line or b'"type":"assistant"' in line for line in handle)
    except OSError:
        return False


_tallies: dict[Path, tuple[Grown, dict[str, Usage]]] = {}
"""Per transcript: how far it was read, and its requests so far."""


def usage(path: Path) -> dict[str, Usage]:
    """Tokens of each request, by its id. A message stands in several lines, one for each of its blocks; the last has the final count."""
    grown, requests = _tallies.setdefault(path, (Grown(path), {}))
    for record in grown.new():
        if found := _request(record):
            requests[found[0]] = found[1]
    return requests


def _request(record: dict[str, Any]) -> tuple[str, Usage] | None:
    try:
        message = record["message"]
        counts, id = message["usage"], str(message["id"])
        hour = int((counts.get("cache_creation") or {}).get("ephemeral_1h_input_tokens") or 0)
        written = int(counts.get("cache_creation_input_tokens") or 0)
        fed, cached = int(counts.get("input_tokens") or 0), int(counts.get("cache_read_input_tokens") or 0)
        made = int(counts.get("output_tokens") or 0)
        return id, Usage(str(message["model"]), fed, cached, max(0, written - hour), hour, made)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
