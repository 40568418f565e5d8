"""The `codex` backend: OpenAI's Codex CLI, interactive, in the pane, without its shared daemon.

Its home is ours (`seat.folder/codex/home`), unless the user's own login is asked for. State and tokens come from the rollout file of
its conversation, where turns begin, end and are broken off; no hook tells of an interrupt or an error of the API.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.files import write_atomic, write_json
from lab.process import Identity
from org.agents import base, cli
from org.agents.base import Cost, Launch, Retry, Seat, Told
from org.agents.conversations import LAUNCHED, Conversations
from org.agents.event import known, read_events
from org.agents.hook import CHILD
from org.agents.lines import LINE, Grown, backwards, opened, parsed
from org.agents.prices import Usage, total
from org.agents.screens import codex_box, codex_retry
from org.wake import FIRST

PROGRAM = cli.Program("codex", "@openai/codex", (0, 169, 0))
EVENTS = ("SessionStart", "UserPromptSubmit", "PermissionRequest", "Stop")
ADDING = ("SessionStart", "UserPromptSubmit")
"""Those of them whose hooks may add to the context."""
KEY = "OPENAI_API_KEY"
EVENT = b'"event_msg"'
"""Stands in every record that tells of the state."""
URL = "https://api.openai.com/v1"
PROVIDER = "orgctl"
READY = 3.0
"""Seconds after which a conversation that is gone on with counts as open: until the first prompt nothing tells (it takes about 1 s)."""
SLOW = 20.0
"""Seconds after which a first start that said nothing shows something that wants an answer."""
QUIET = {
    "features.apps": False, "features.plugins": False, "features.image_generation": False,
    "features.shell_snapshot": False,  # would write the whole environment, with the key in it, into a file of its home
    "features.goals": False,  # with a goal it begins turn after turn by itself, without end
    "mcp_servers.codex_tui": {"command": "true", "enabled": False},  # the name is taken, so its tools for threads and worktrees are gone
}  # fmt: skip
"""Parts that fetch something, offer what no researcher needs, keep what must not lie in a file, or work where nobody sees it."""

PATIENCE = {"request_max_retries": 0, "stream_max_retries": 10}
"""Codex tries again in two ways: by the request, of which nothing is shown, and by the turn, which it shows. Only the second is used, over
some minutes as Claude Code does."""


class Codex(base.Backend):
    name = "codex"
    spends_money = True
    typed = True
    sent_on = True

    def missing(self, settings: dict[str, Any]) -> str | None:
        logged_in = (user_home() / "auth.json").exists()
        return PROGRAM.missing(settings, KEY, bool(os.environ.get(KEY)), logged_in, "run `codex login` once by hand")

    def launch(self, seat: Seat) -> Launch:
        settings = cli.read(self.name, seat.settings)
        own = settings.credentials == "env"
        wanted = configuration(seat, settings)
        env, secrets = cli.identity(seat.agent), {}
        argv = [PROGRAM.find(settings) or PROGRAM.name, "--no-daemon", "--dangerously-bypass-hook-trust"]
        if own:
            home = seat.folder / "codex" / "home"
            write_atomic(home / "config.toml", "".join(f"{key} = {toml(value)}\n" for key, value in wanted.items()))
            write_json(home / "hooks.json", {"hooks": hooks()})
            cli.lay_skills(seat.skills, home / "skills")
            env |= {"CODEX_HOME": str(home), "HOME": str(home.parent)}  # below HOME it would find the user's own skills
            secrets = {KEY: os.environ[KEY]} if os.environ.get(KEY) else {}
        else:
            wanted["hooks"] = hooks()
            argv += [word for key, value in wanted.items() for word in ("-c", f"{key}={toml(value)}")]
        argv += [*settings.flags, *_conversation(seat, settings)]
        if own:
            return Launch(argv, seat.cwd, env, secrets)
        path = seat.folder / "codex" / "argv.json"  # too long for tmux's command line
        write_json(path, {"argv": argv})
        return Launch(cli.from_file(path), seat.cwd, env, secrets)

    def told(self, seat: Seat, pid: int) -> Told | None:
        process = Identity.of(pid)
        if process is None:
            return None
        began = process.began()
        mine = Conversations.of(seat.folder, self.name)
        path = rollout(home(seat), mine.current) if mine.current else None
        now = time.time()
        found = state(backwards(path, EVENT) if path else iter(()), read_events(seat.home, seat.agent, 20), began, now)
        if path is not None and (found is None or found.state == "idle"):
            states = (state(backwards(one, EVENT), [], began, now) for one in subagents(home(seat), path))
            found = next((Told("working", one.since, "a subagent of it works") for one in states if one and one.state == "working"), found)
        age = now - began
        if found is None and path is not None and age > READY:
            return Told("idle", began, "gone on with, nothing said yet")
        if found is None and age > SLOW:
            return Told("needs_person", began, "has not begun: look what its pane shows")
        return found

    def box(self, screen: str) -> str | None:
        return codex_box(screen)

    def retry(self, screen: str) -> Retry | None:
        return codex_retry(screen)

    def cost(self, seat: Seat) -> Cost | None:
        mine = Conversations.of(seat.folder, self.name)
        folder = home(seat)
        files = [one for id in mine.given if (path := rollout(folder, id)) for one in (path, *subagents(folder, path))]
        if seat.settings.get("credentials") != "login":  # the home is ours: agents that it started are in it too
            files = sorted(folder.glob("sessions/*/*/*/rollout-*.jsonl"))
        return total((one for path in files for one in _tally(path)), mine.priced)


BACKEND = Codex()


# what is laid down


def home(seat: Seat) -> Path:
    """Its CODEX_HOME: ours, or the user's where their login is used."""
    return user_home() if seat.settings.get("credentials") == "login" else seat.folder / "codex" / "home"


def user_home() -> Path:
    return Path(os.environ.get("CODEX_HOME") or Path.home() / ".codex")


def hooks() -> dict[str, Any]:
    """Ours. Mail is handed over whole; Codex warns of a limit at events that add nothing to the context."""
    return cli.hooks("codex", EVENTS) | cli.hooks("codex", ADDING, additionalContextLimit=0)


def configuration(seat: Seat, settings: cli.Settings) -> dict[str, Any]:
    """Dotted key -> value. The sandbox is off, since git's files of a worktree and the organisation lie outside of it."""
    found: dict[str, Any] = {
        "approval_policy": "never",
        "sandbox_mode": "danger-full-access",
        "check_for_update_on_startup": False,
        "web_search": "live" if settings.network else "disabled",
        "allow_login_shell": False,  # it would set PATH anew, and `orgctl` were not found
        "analytics.enabled": False,
        "feedback.enabled": False,
        "notice.hide_full_access_warning": True,
        "tui.animations": False,
        "tui.show_tooltips": False,
        "tui.auto_recap": False,
        "tui.disable_paste_burst": True,
        "shell_environment_policy.exclude": [KEY],  # its own requests need the key; a model that prints its environment would write it down
        f"shell_environment_policy.set.{CHILD}": "1",
        **QUIET,
    }
    if settings.model:
        found["model"] = settings.model
    if settings.effort:
        found["model_reasoning_effort"] = settings.effort
    if text := cli.told(seat):
        found["developer_instructions"] = text
    found["projects"] = {
        str(folder): {"trust_level": "trusted"} for folder in dict.fromkeys([seat.cwd, seat.home.root])
    }
    url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
    if settings.credentials == "env":
        provider = {"name": PROVIDER, "base_url": url or URL, "env_key": KEY, "wire_api": "responses", **PATIENCE}
        found["model_provider"] = PROVIDER
        found["shell_environment_policy.set.HOME"] = str(Path.home())  # of the shell; it has another one itself
        found["model_providers"] = {PROVIDER: provider}
    return found


def toml(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(
        value, str
    ):  # TOML's escapes are JSON's, but it wants DEL escaped and has no halves of surrogate pairs
        plain = value.encode("utf-8", "replace").decode()
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _conversation(seat: Seat, settings: cli.Settings) -> list[str]:
    mine = Conversations.of(seat.folder, "codex")
    mine.priced = cli.priced(settings.base_url or os.environ.get("OPENAI_BASE_URL"))
    mine.prompts[LAUNCHED] = cli.digest(cli.told(seat))
    mine.write()
    there = next((id for id in mine.latest() if rollout(home(seat), id)), None)
    return ["resume", there] if there else ["--", FIRST]


# what it says of itself


def rollout(folder: Path, id: str) -> Path | None:
    """The file of a conversation. Its name ends in the id."""
    return next(iter(folder.glob(f"sessions/*/*/*/rollout-*-{id}.jsonl")), None)


def subagents(folder: Path, main: Path) -> list[Path]:
    """The files of the subagents of the conversation in `main`. They are younger, and name its session."""
    id = _session(main)
    return [path for path in folder.glob("sessions/*/*/*/rollout-*.jsonl") if path.name > main.name and _session(path) == id] if id else []


_sessions: dict[Path, str] = {}
"""Per rollout: the session that its first line names."""


def _session(path: Path) -> str:
    if path not in _sessions:
        try:
            with opened(path) as handle:
                payload = (parsed(handle.readline(LINE)) or {}).get("payload")
        except OSError:
            return ""
        if not isinstance(payload, dict):
            return ""
        _sessions[path] = str(payload.get("session_id") or "")
    return _sessions[path]


def state(records: Iterator[dict[str, Any]], events: list[dict[str, Any]], began: float, now: float) -> Told | None:
    """The state by the last records of a rollout (newest first), with what the hooks know beyond it. What is older than the process
    belongs to an earlier life; None when this one has said nothing yet."""
    last = next((event for event in reversed(events) if _begun(event) >= began), None)
    trouble = ""
    for record in records:
        moment = _seconds(record.get("timestamp"))
        if moment is None or moment < began:
            break
        payload = record.get("payload")
        payload = payload if isinstance(payload, dict) else {}
        kind = payload.get("type") if record.get("type") == "event_msg" else None
        if kind == "error":
            trouble = trouble or str(payload.get("message") or "error")
        elif kind == "turn_aborted":
            return Told("idle", moment, "interrupted")
        elif kind == "task_complete":
            return ended(payload, trouble, moment, now)
        elif kind == "task_started":
            if last and last["state"] == "needs_person" and float(last["time"]) > moment:
                return Told("needs_person", float(last["time"]), str(last.get("text") or ""))
            return Told("working", moment, "")
    if last is None:
        return None
    return Told(str(last["state"]), float(last["time"]), str(last.get("text") or ""))


def _begun(event: dict[str, Any]) -> float:
    """A hook that outlives its Codex writes when the next one is up already: which one it belongs to its own start tells."""
    moment = event.get("begun")
    return float(moment if isinstance(moment, int | float) and known(moment) else event["time"])


def ended(payload: dict[str, Any], trouble: str, moment: float, now: float) -> Told:
    """A turn is over: well, or with an error of the API, which may be a limit."""
    from org.agents.hook import LIMITED
    from org.agents.limit import ends

    fault = payload.get("error")
    fault = fault if isinstance(fault, dict) else {}
    text = said(trouble or str(fault.get("message") or ""))
    if text and (LIMITED.search(text) or "limit" in str(fault.get("codex_error_info") or "")):
        return cli.limited(moment, f"model error: {text}"[:500], ends(text, moment), now)
    if text:
        return Told("idle", moment, f"model error: {text}"[:500])
    return Told("idle", moment, str(payload.get("last_agent_message") or "").strip().split("\n")[-1][:300])


def said(text: str) -> str:
    """The sentence in an error of the API, which Codex passes on as the JSON that it got."""
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', text)
    return found[1] if found else text


def _seconds(stamp: object) -> float | None:
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        return None


# what it cost

_tallies: dict[Path, tuple[Grown, list[Usage], list[str]]] = {}
"""Per rollout: how far it was read, its requests so far, and the model of the latest turn."""


def _tally(path: Path) -> list[Usage]:
    grown, requests, model = _tallies.setdefault(path, (Grown(path), [], [""]))
    if grown.offset == 0:
        requests.clear()
    for record in grown.new():
        payload = record.get("payload")
        if not isinstance(payload, dict):
            continue
        if record.get("type") == "turn_context":
            model[0] = str(payload.get("model") or model[0])
        elif record.get("type") == "token_usage_record" and isinstance(payload.get("usage"), dict):
            requests.append(_usage(payload["usage"], model[0]))
    return requests


def _usage(counts: dict[str, Any], model: str) -> Usage:
    """Input as this API counts it holds the cached and written tokens too."""
    names = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens")
    given, cached, written, made = (value if isinstance(value := counts.get(name), int) else 0 for name in names)
    return Usage(model, max(0, given - cached - written), cached, written, 0, made)
