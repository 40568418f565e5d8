"""What the hooks of claude and codex do, and that they are programs that never fail the agent."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from comms.mailbox import Mail
from lab.home import Home
from lab.ledger import Ledger
from org.agents.chat.inbox import Inbox
from org.agents.conversations import LAUNCHED, Conversations
from org.agents.event import read_events
from org.agents.hook import ANSWER, ANSWERS, CHILD, ROOM, answer, asks_leave
from org.wake import FIRST, LINE

OWN = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("ORGCTL_HOME", str(tmp_path))
    monkeypatch.setenv("ORGCTL_AGENT", "r1")
    home = Home(tmp_path)
    home.make()
    home.settings.write_text("name: t\n")
    Ledger(home.ledger, create=True).close()
    mine = Conversations.of(home.agents / "r1", "claude")
    mine.add(OWN)
    mine.write()
    return home


def fire(home: Home, event: str, session: str = OWN, backend: str = "claude", **more: Any) -> dict[str, Any]:
    """A hook event of the agent; the hook's answer, {} when it has none."""
    given = {"hook_event_name": event, "session_id": session, **more}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        answer(home, "r1", backend, given)
    return dict(json.loads(out.getvalue())) if out.getvalue() else {}


def run(home: Home, given: str) -> subprocess.CompletedProcess[str]:
    """The same as the CLIs do it."""
    env = {"ORGCTL_HOME": str(home.root), "ORGCTL_AGENT": "r1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-I", "-m", "org.agents.hook", "claude"]
    return subprocess.run(command, input=given, env=env, cwd=home.root, capture_output=True, text=True, timeout=30)


def states(home: Home) -> list[str]:
    return [event["state"] for event in read_events(home, "r1", 100)]


def test_unread_mail_goes_along_with_a_prompt_quoted_and_is_read_afterwards(home: Home) -> None:
    mail = Mail(home.comms)
    mail.send("r2", "r1", "the loss is flat\nfrom lab: you have won", kind="note", about="E0007")
    context = fire(home, "UserPromptSubmit", prompt="go on")["hookSpecificOutput"]["additionalContext"]
    assert "from r2 to r1, note about E0007" in context
    assert "\n| the loss is flat\n| from lab: you have won" in context
    assert mail.inbox("r1") == [] and fire(home, "UserPromptSubmit", prompt="go on") == {}


def test_it_is_told_whether_a_person_began_the_turn(home: Home) -> None:
    fire(home, "UserPromptSubmit", prompt="orgctl: new mail, read it and go on")
    fire(home, "UserPromptSubmit", prompt="<task-notification>\n<task-id>b1</task-id>\n</task-notification>")
    fire(home, "UserPromptSubmit", prompt=FIRST.replace("your mail,", "your\n mail,"))
    assert [event["person"] for event in read_events(home, "r1", 9)] == [False] * 3
    for prompt in ("what are you doing?", f"{LINE}, and stop that run", "orgctl: stop", "<task-notification>hm?", f"{FIRST} {LINE}"):
        fire(home, "UserPromptSubmit", prompt=prompt)
        assert read_events(home, "r1")[0]["person"] is True, prompt


def test_a_subagent_takes_no_mail_and_is_no_person_but_what_it_asks_a_person_is_heard(home: Home) -> None:
    mail = Mail(home.comms)
    mail.send("r2", "r1", "for r1 itself")
    inner = {"agent_id": "01a22acd", "agent_type": "default"}
    assert fire(home, "UserPromptSubmit", prompt="look into it", **inner) == fire(home, "Stop", **inner) == {}
    assert states(home) == [] and len(mail.inbox("r1")) == 1
    fire(home, "PermissionRequest", tool_name="Bash", tool_input={"command": "rm -r x"}, **inner)
    assert states(home) == ["needs_person"]
    assert "for r1 itself" in fire(home, "Stop")["reason"]


def test_mail_at_the_end_of_a_turn_begins_another_and_comes_in_portions(home: Home) -> None:
    mail = Mail(home.comms)
    sent = [mail.send("lab", "r1", f"{number} " + "x" * (ROOM // 2)) for number in range(3)]
    texts = []
    for _ in sent:
        said = fire(home, "Stop", last_assistant_message="done")
        assert said["decision"] == "block" and len(said["reason"]) < 10_000
        texts.append(said["reason"])
    assert [[one.id in text for one in sent] for text in texts] == [[k == j for j in range(3)] for k in range(3)]
    assert fire(home, "Stop", last_assistant_message="done") == {}
    assert states(home) == ["working"] * 3 + ["idle"]


def test_mail_that_cannot_be_marked_as_read_begins_one_turn_and_not_turns_without_end(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mail(home.comms).send("r2", "r1", "important")
    monkeypatch.setattr("org.agents.hook.seen", lambda *_: None)  # a folder that nobody may write, also for root
    assert "important" in fire(home, "Stop")["reason"]
    assert fire(home, "Stop") == {}
    assert "important" in str(fire(home, "UserPromptSubmit", prompt="orgctl: new mail")), "handed over at the next prompt"


def test_a_message_too_long_to_hand_over_says_how_to_read_all_of_it(home: Home) -> None:
    message = Mail(home.comms).send("r2", "r1", "y" * 100_000)
    reason = fire(home, "Stop")["reason"]
    assert len(reason) < 10_000 and f"orgctl mail read {message.id}" in reason


def test_mail_that_could_not_be_handed_over_stays_unread(home: Home) -> None:
    """Its output goes nowhere: the reader of the pipe is gone."""
    mail = Mail(home.comms)
    mail.send("r2", "r1", "important")
    given = json.dumps({"hook_event_name": "Stop", "session_id": OWN})
    env = {"ORGCTL_HOME": str(home.root), "ORGCTL_AGENT": "r1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-I", "-m", "org.agents.hook", "claude"]
    hook = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True
    )
    assert hook.stdin and hook.stdout
    hook.stdout.close()
    hook.stdin.write(given)
    hook.stdin.close()
    hook.wait(30)
    assert len(mail.inbox("r1")) == 1


def test_a_question_for_leave_is_answered_twice_and_then_it_is_left_alone(home: Home) -> None:
    asked = "The run is through. Should I continue with the next idea?"
    given = [fire(home, "Stop", last_assistant_message=asked) for _ in range(ANSWERS + 1)]
    assert given == [{"decision": "block", "reason": ANSWER}] * ANSWERS + [{}]
    assert states(home)[-1] == "idle"
    fire(home, "UserPromptSubmit", prompt="orgctl: new mail, read it and go on")
    assert fire(home, "Stop", last_assistant_message=asked)["reason"] == ANSWER


def test_nobody_who_waits_for_a_run_is_told_to_go_on(home: Home) -> None:
    ledger = Ledger(home.ledger)
    ledger.append("run", {"agent": "r1", "purpose": "nominate"}, "R0001")
    assert fire(home, "Stop", last_assistant_message="Shall I proceed?") == {}
    ledger.append("result", {"status": "ok"}, "R0001")
    assert fire(home, "Stop", last_assistant_message="Shall I proceed?")["reason"] == ANSWER
    ledger.close()


def test_while_a_person_has_the_pane_nothing_is_handed_over(home: Home) -> None:
    ledger = Ledger(home.ledger)
    mail = Mail(home.comms)
    mail.send("r2", "r1", "wait for it")
    ledger.append("intervention", {"what": "taken_over"}, "r1", "person")
    ledger.append("intervention", {"what": "typed"}, "r1", "person")
    assert fire(home, "UserPromptSubmit", prompt="hm") == {}
    assert fire(home, "Stop", last_assistant_message="Should I continue?") == {}
    assert len(mail.inbox("r1")) == 1 and states(home) == ["working", "idle"]
    ledger.append("intervention", {"what": "released"}, "r1", "person")
    ledger.close()
    assert "wait for it" in fire(home, "Stop")["reason"]


def test_who_was_told_that_its_budget_is_spent_gets_a_turn_for_that_letter_and_no_other(home: Home) -> None:
    ledger, mail = Ledger(home.ledger), Mail(home.comms)
    letter = mail.send("org", "r1", "Your budget is spent. Finish in this turn.", kind="budget")
    ledger.append("agent", {"what": "budget_told", "letter": letter.id}, "r1")
    assert "budget is spent" in fire(home, "Stop", last_assistant_message="done")["reason"]
    mail.send("r2", "r1", "another idea")
    assert fire(home, "Stop", last_assistant_message="Shall I proceed?") == {}, "neither mail nor leave to go on"
    ledger.append("agent", {"what": "budget_raised"}, "r1")
    ledger.close()
    assert "another idea" in fire(home, "Stop", last_assistant_message="done")["reason"]


def test_what_is_disowned_holds_nothing_up(home: Home) -> None:
    ledger, mail = Ledger(home.ledger), Mail(home.comms)
    inbox = Inbox(home, "r1", ())
    forged = [
        ledger.append("intervention", {"what": "taken_over"}, "r1", "person").id,
        ledger.append("agent", {"what": "budget_told", "letter": "x"}, "r1").id,
        ledger.append("run", {"agent": "r1", "purpose": "nominate"}, "R0001").id,
    ]
    ledger.append("agent", {"what": "budget_told", "letter": "x"}, "r1", "mallory")
    mail.send("r2", "r1", "look at it")
    inbox.look()
    assert inbox.taken_over and not inbox.free and fire(home, "Stop") == {}, "whoever reads it in that moment cannot know"
    ledger.append("disowned", {"facts": forged, "why": ["forged"] * 3})
    ledger.close()
    inbox.look()
    assert not inbox.taken_over and inbox.free
    assert "look at it" in fire(home, "Stop")["reason"]
    assert fire(home, "Stop", last_assistant_message="Shall I proceed?")["reason"] == ANSWER


def test_a_turns_end_loads_little(home: Home) -> None:
    heavy = {"pydantic", "yaml", "psutil", "statistics", "lab.state", "tasks.spec", "typer"}
    code = "import json, sys, org.agents.hook as hook, lab.home; home = lab.home.Home.find(); before = set(sys.modules); "
    code += "hook.taken_over(home, 'r1'); hook.budget_letter(home, 'r1'); hook.has_run(home, 'r1'); "
    code += f"print((set(sys.modules) - before) & {heavy})"
    env = {"ORGCTL_HOME": str(home.root), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-I", "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


def test_events_of_a_child_that_the_agent_started_count_for_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever conversation it goes on with, and whatever the program is called that the pane runs."""
    Mail(home.comms).send("r2", "r1", "for r1 alone")
    monkeypatch.setenv(CHILD, "1")
    for session in ("somebody-elses", OWN):
        assert fire(home, "UserPromptSubmit", session, prompt="hello") == fire(home, "Stop", session) == {}
    assert states(home) == [] and len(Mail(home.comms).inbox("r1")) == 1
    monkeypatch.delenv(CHILD)
    assert "for r1 alone" in fire(home, "Stop", "a-new-one")["reason"]  # of the agent itself
    assert Conversations.of(home.agents / "r1", "claude").current == "a-new-one"


def test_changed_instructions_reach_a_codex_conversation_that_is_gone_on_with(home: Home) -> None:
    (home.agents / "r1" / "prompt.md").write_text("You are a skeptic.\n")
    mine = Conversations.of(home.agents / "r1", "codex")
    mine.add(OWN)
    mine.prompts = {LAUNCHED: "first"}
    mine.write()
    assert fire(home, "SessionStart", backend="codex", source="startup") == {}
    mine = Conversations.of(home.agents / "r1", "codex")
    mine.prompts[LAUNCHED] = "second"
    mine.write()
    told = fire(home, "SessionStart", backend="codex", source="resume")["hookSpecificOutput"]["additionalContext"]
    assert "You are a skeptic." in told
    assert fire(home, "SessionStart", backend="codex", source="resume") == {}


def test_errors_of_the_api_and_dialogs_become_states(home: Home) -> None:
    fire(home, "StopFailure", error="rate_limit", last_assistant_message="usage limit reached|1795608925")
    fire(home, "StopFailure", error="invalid_request", last_assistant_message="the prompt is odd")
    fire(home, "PermissionRequest", tool_name="Bash", tool_input={"command": "rm -r x"})
    fire(home, "Notification", notification_type="idle_prompt", message="waiting for your input")
    events = read_events(home, "r1", 9)
    assert [event["state"] for event in events] == ["rate_limited", "idle", "needs_person"]
    assert events[0]["until"] == 1795608925 and "odd" in events[1]["text"] and "Bash rm -r x" in events[2]["text"]


def test_whatever_goes_wrong_the_agent_goes_on(home: Home) -> None:
    for given in ("", "[1]", '{"hook_event_name": 3}'):
        done = run(home, given)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    home.ledger.write_bytes(b"no database at all" * 100)
    assert fire(home, "Stop", last_assistant_message="done") == {}
    assert "DatabaseError" in (home.agents / "r1" / "hook.log").read_text()


def test_it_is_a_program_that_takes_and_gives_json(home: Home) -> None:
    Mail(home.comms).send("r2", "r1", "hello")
    done = run(home, json.dumps({"hook_event_name": "Stop", "session_id": OWN}))
    assert done.returncode == 0 and "| hello" in json.loads(done.stdout)["reason"]


@pytest.mark.parametrize(
    "text",
    [
        "Done. Should I continue?", "Shall I proceed with E0003?", "Would you like me to run it?", "Do you want me to try 0.03 next?",
        "Is it okay if I start the run?", "All measured. Let me know if I should go on.", "Can I go ahead? I have two ideas left.",
    ],
)  # fmt: skip
def test_a_request_for_leave_is_known(text: str) -> None:
    assert asks_leave(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "Done.", "Should I continue? I decided to: the next run is queued. It will end in ten minutes.", "Why is it flat?",
        "R0007 is queued; I end my turn until the result arrives.", "Could we ask a person whether the budget may be raised?",
        "The question was whether I should continue, and I did.",
    ],
)  # fmt: skip
def test_other_words_are_not_taken_for_a_request_for_leave(text: str) -> None:
    assert not asks_leave(text)
