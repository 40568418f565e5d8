"""What anybody under the same user id can lay where the controller writes: it is moved aside, and no duty waits for it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from comms.mailbox import Mail
from lab.files import write_atomic
from lab.requests import ask, wait_answer
from org import prompt, reports
from org.controller import Controller, shut_down
from tests.conftest import until
from tests.org.test_standup import meet, one, open_again

pytestmark = pytest.mark.slow
__all__ = ["one"]


def lay(path: Path, folder: bool = True) -> Path:
    """A folder that holds something, or a plain file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        path = path / "something"
    path.write_text("in the way")
    return path


def closed(one: Controller) -> bool:
    """Let the deadline of the last standup pass: is it over?"""
    meeting = one.lab.state.direction.standup
    assert meeting is not None
    meeting.deadline = 0.0
    one.standups.attend()
    return one.lab.state.direction.standup is not None and one.lab.state.direction.standup.closed is not None


def test_only_what_lies_below_the_organisations_own_folder_is_moved_aside(tmp_path: Path) -> None:
    lay(tmp_path / "own" / "a", folder=False)
    lay(tmp_path / "own" / "b.md")
    (tmp_path / "own" / "link").symlink_to("nowhere")
    for name in ("a/deep/b.md", "b.md", "link/c.md"):
        write_atomic(tmp_path / "own" / name, "ours", tmp_path / "own")
        assert (tmp_path / "own" / name).read_text() == "ours"
    assert (tmp_path / "own" / "a.kept").read_text() == (tmp_path / "own" / "b.md.kept" / "something").read_text() == "in the way"
    lay(tmp_path / "theirs.md")
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "theirs.md", "ours")
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "theirs.md", "ours", tmp_path / "own")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "theirs.md"], "and no draft is left"


@pytest.mark.parametrize(("what", "folder"), [("standups/1/digest.md", True), ("standups/1", False), ("standups", False)])
def test_no_standup_is_kept_open_by_what_lies_where_its_digest_belongs(one: Controller, what: str, folder: bool) -> None:
    meet(one)
    place = one.home.org / what
    if place.is_dir():
        place.rename(place.with_name("taken-away"))
    left = lay(place, folder)
    assert closed(one)
    assert (one.home.org / "standups" / "1" / "digest.md").read_text().startswith("# Standup 1")
    assert not left.is_file() and list(one.home.org.glob("**/*.kept")), "it is moved aside, not deleted"
    meet(one)
    assert closed(one) and len(one.lab.state.direction.standups) == 2


def test_a_standup_opens_where_a_file_lies_in_the_place_of_its_folder(one: Controller) -> None:
    lay(one.home.org / "standups", folder=False)
    meet(one)
    reports.submit(one.home, one.lab.state, "r1", "Done: nothing.", 2000)
    assert closed(one) and one.lab.state.direction.standup and one.lab.state.direction.standup.reported == ["r1"]


def test_reports_by_file_and_by_mail_are_taken_whatever_lies_in_their_place(one: Controller) -> None:
    meet(one)
    lay(one.home.org / "standups" / "1" / "r1.md")
    lay(one.home.org / "standups" / "1" / "r2.md")
    reports.submit(one.home, one.lab.state, "r1", "Done: nothing.", 2000)
    Mail(one.home.comms).send("r2", "lab", "Done: nothing.")
    one.standups.attend()
    inbox = one.home.comms / "inbox" / "lab"
    inbox.rename(inbox.with_name("taken-away"))
    lay(inbox, folder=False)
    assert closed(one) and one.lab.state.direction.standup and one.lab.state.direction.standup.reported == ["r1", "r2"]


def test_letters_are_written_once_whatever_lies_where_their_mark_belongs(one: Controller) -> None:
    one._tell()
    (one.home.org / "told.json").unlink()
    lay(one.home.org / "told.json")
    meet(one)
    one._tell()
    mail = Mail(one.home.comms)
    assert [message.kind for message in mail.take("r1")] == ["standup"]
    for mark in ('{"fact": "x"}', '{"fact": 1e999}', "{}", f'{{"fact": {10**12}}}'):
        (one.home.org / "told.json").write_text(mark)
        one = open_again(one.home.root)
        one._tell()
        assert mail.take("r1") == [], mark
        one.standups.open("again", "lab")
        one._tell()
        assert [message.kind for message in mail.take("r1")][-1] == "standup", mark
        assert closed(one)
        one._tell()
        mail.take("r1")


def test_a_request_that_cannot_be_answered_where_it_should_holds_up_none_behind_it(one: Controller) -> None:
    pile = one.home.requests
    body = json.dumps({"kind": "budget", "actor": "chief", "body": {"area": "data", "gpu_hours": 1}})
    (pile / "0.json").write_text(body)
    lay(pile / "done" / "0.json")
    (pile / f"{'1' * 250}.json").write_text(body)
    (pile / "2.json").write_text("no request")
    lay(pile / "bad", folder=False)
    good = ask(one.home, "budget", "chief", {"area": "data", "gpu_hours": 2})
    one._requests()
    assert wait_answer(one.home, good, 0) and not list(pile.glob("*.json"))
    assert json.loads((pile / "done" / "0.json").read_text())["ok"]
    assert [path.read_text() for path in (pile / "bad").iterdir()] == ["no request"]


def test_what_was_asked_for_is_done_once_though_it_cannot_be_answered(one: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = len(one.lab.ledger.facts("budget"))
    asked = ask(one.home, "budget", "chief", {"area": "data", "gpu_hours": 2})
    with monkeypatch.context() as disk:
        disk.setattr("org.controller.answer", full)
        for _ in range(3):
            assert "No space left" in one._requests()
    assert one._requests() == "" and (wait_answer(one.home, asked, 0) or {})["ok"]
    assert len(one.lab.ledger.facts("budget")) == before + 1 and not one.carried_out


@pytest.mark.parametrize("place", ["requests/done", "requests/bad"])
def test_a_link_out_of_the_organisations_folder_is_in_the_way(one: Controller, place: str) -> None:
    folder = one.home.org / place
    if folder.exists():
        folder.rename(folder.with_name("taken-away"))
    folder.symlink_to("/proc")
    (one.home.requests / "2.json").write_text("no request")
    asked = ask(one.home, "budget", "chief", {"area": "data", "gpu_hours": 2})
    assert one._requests() == "" and one._requests() == ""
    assert (wait_answer(one.home, asked, 0) or {})["ok"] and len(one.lab.ledger.facts("budget")) == 1
    assert folder.with_name(f"{folder.name}.kept").is_symlink() and not list(one.home.requests.glob("*.json"))


def test_controller_agents_and_levers_write_whatever_lies_there(one: Controller) -> None:
    org, seat = one.home.org, one.team.seats["r1"]
    lay(one.home.controller)
    lay(org / "assignments", folder=False)
    seat.folder.rename(seat.folder.with_name("taken-away"))
    lay(seat.folder, folder=False)
    lay(one.home.comms / "inbox" / "r9" / "new", folder=False)
    one._heartbeat()
    assert "heartbeat" in one.home.controller.read_text()
    ask(one.home, "assign", "chief", {"agent": "r1", "areas": ["data"], "why": "w"})
    one._requests()
    assert list((org / "assignments").glob("W*.yaml")) and len(one.lab.state.direction.assignments) == 1
    one.team.found_worktrees()
    lay(seat.prompt)
    lay(seat.skills / "stray.md")
    assert prompt.told(seat, prompt.lay_down(one.home, one.design, one.task, seat))


def test_the_time_of_for_is_over_whatever_becomes_of_its_file(one: Controller) -> None:
    assert not one._over()
    one.home.until.write_text(json.dumps({"time": time.time() + 1.5}))
    assert not one._over()
    one.home.until.unlink()
    lay(one.home.until)
    until(one._over, "its time is over", 10)


def test_the_controller_stops_whatever_lies_where_its_own_files_are(one: Controller) -> None:
    lay(one.home.until)
    lay(one.home.controller)
    lay(one.home.root / ".git" / "orgctl", folder=False)
    shut_down(one.home, one.lab, one.grid, keep_runs=False)
    assert not one.home.until.exists() and not one.home.controller.exists()
