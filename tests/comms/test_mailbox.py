"""Promises of mailboxes with many real processes at them: no word lost, none told twice, nobody stopped."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from comms.mailbox import Mail, MailError
from comms.message import LIMIT_BYTES, compose, render


@pytest.fixture
def mail(tmp_path: Path) -> Mail:
    return Mail(tmp_path / "comms")


def files(mail: Mail, folder: str) -> list[str]:
    place = mail.root / folder
    return sorted(path.name for path in place.iterdir() if path.is_file() and not path.name.startswith("."))


def start(code: str, mail: Mail, *args: str) -> subprocess.Popen[str]:
    head = "import sys\nfrom pathlib import Path\nfrom comms.mailbox import Mail\nmail = Mail(Path(sys.argv[1]))\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, str(mail.root), *args], stdout=subprocess.PIPE, text=True
    )


def output(child: subprocess.Popen[str]) -> list[str]:
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 0
    return said.split()


# ---------------------------------------------------------------------- one to one


def test_mail_is_new_until_it_is_read_and_stays_readable(mail: Mail) -> None:
    first = mail.send("chief", "r1", "Try a lower LR.", "assignment", about="E0001")
    second = mail.send("r2", "r1", "It diverged for me.")
    assert mail.inbox("r1") == [first, second] == mail.inbox("r1")
    assert mail.inbox("r2") == []
    assert mail.read("r1", first.id) == first
    assert mail.inbox("r1") == [second]
    assert mail.read("r1", first.id) == first
    assert mail.take("r1") == [second]
    assert mail.take("r1") == [] == mail.inbox("r1")
    assert mail.find(second.id) == second
    assert files(mail, "inbox/r1/cur") == [f"{first.id}.md", f"{second.id}.md"]
    assert files(mail, "inbox/r1/tmp") == []


def test_what_does_not_exist_is_one_line(mail: Mail) -> None:
    other = compose("a", "b", "x").id
    with pytest.raises(MailError, match=rf"r1 has no message {other}"):
        mail.read("r1", other)
    with pytest.raises(MailError, match=rf"no message {other}"):
        mail.find(other)


@pytest.mark.parametrize("name", ["../r2", "", "/", "..", "R1", "*", "a\n"])
def test_no_name_or_id_is_a_path(mail: Mail, name: str) -> None:
    mail.send("chief", "r1", "hello")
    other = compose("a", "b", "x").id
    acts: list[Callable[[], object]] = [
        lambda: mail.inbox(name),
        lambda: mail.take(name),
        lambda: mail.channel(name),
        lambda: mail.post("r1", name, "x"),
        lambda: mail.send("r1", name, "x"),
        lambda: mail.send(name, "r1", "x"),
        lambda: mail.read(name, other),
        lambda: mail.read("r1", name),
        lambda: mail.find(name),
        lambda: mail.channel("all", after=name or "x"),
    ]
    for act in acts:
        with pytest.raises(MailError):
            act()
    assert sorted(os.listdir(mail.root / "inbox")) == ["r1"]


def test_a_mailbox_that_leads_elsewhere_is_not_used(tmp_path: Path, mail: Mail) -> None:
    (tmp_path / "elsewhere").mkdir()
    mail.send("chief", "r1", "hello")
    box = mail.root / "inbox/r1"
    (box / "new").rename(tmp_path / "new")
    (box / "new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MailError, match=r"new is no folder"):
        mail.send("chief", "r1", "hello")
    with pytest.raises(MailError, match=r"new is no folder"):
        mail.take("r1")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert mail.send("chief", "r2", "others still get theirs") in mail.inbox("r2")


def test_mail_that_cannot_be_written_is_refused_and_leaves_nothing(mail: Mail) -> None:
    mail.send("chief", "r1", "hello")
    with pytest.raises(MailError, match="put the long part into a file"):
        mail.send("chief", "r1", "x" * LIMIT_BYTES)
    (mail.root / "inbox/r2").write_text("a file")
    with pytest.raises(MailError, match="is no folder"):
        mail.send("chief", "r2", "hello")
    assert len(files(mail, "inbox/r1/new")) == 1 and files(mail, "inbox/r1/tmp") == []


FULL = """
import resource
from comms.mailbox import MailError
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    mail.send("chief", "r1", "x" * 9000)
except MailError as error:
    sys.stdout.write(f"refused {error}")
"""


def test_a_disk_that_fills_up_leaves_no_half_message(mail: Mail) -> None:
    first = mail.send("chief", "r1", "hello")
    said = start(FULL, mail).communicate(timeout=60)[0]
    assert said.startswith("refused mail for r1 cannot be written") and "\n" not in said
    assert mail.inbox("r1") == [first]
    assert files(mail, "inbox/r1/tmp") == files(mail, "inbox/r1/bad") == []


# ---------------------------------------------------------------------- hostile files


def hostile(name: str) -> Callable[[Path], None]:
    good = compose("r9", "r1", "fine")
    makers: dict[str, Callable[[Path], object]] = {
        "huge": lambda new: (new / f"{good.id}.md").write_bytes(render(good) + b"x" * LIMIT_BYTES),
        "sparse terabyte": lambda new: os.truncate(_touch(new / f"{good.id}.md"), 1 << 40),
        "binary": lambda new: (new / f"{good.id}.md").write_bytes(os.urandom(1000)),
        "empty": lambda new: (new / f"{good.id}.md").write_bytes(b""),
        "link": lambda new: (new / f"{good.id}.md").symlink_to("/etc/passwd"),
        "dangling link": lambda new: (new / f"{good.id}.md").symlink_to("/nonexistent"),
        "endless device": lambda new: (new / f"{good.id}.md").symlink_to("/dev/zero"),
        "pipe": lambda new: os.mkfifo(new / f"{good.id}.md"),
        "socket": lambda new: _bind(new / f"{good.id}.md"),
        "folder": lambda new: (new / f"{good.id}.md").mkdir(),
        "full folder": lambda new: (new / f"{good.id}.md" / "deep").mkdir(parents=True),
        "no id": lambda new: (new / "hello.md").write_bytes(render(good)),
        "other id": lambda new: (new / f"{compose('a', 'b', 'x').id}.md").write_bytes(render(good)),
        "no md": lambda new: (new / good.id).write_bytes(render(good)),
        "escapes in its name": lambda new: (new / "\x1b[31m\n.md").write_bytes(b""),
        "undecodable name": lambda new: Path(os.fsdecode(os.fsencode(new) + b"/\xff\xfe.md")).write_bytes(b""),
        "longest name": lambda new: (new / ("n" * 255)).write_bytes(b""),
        "for somebody else": lambda new: (new / f"{good.id}.md").write_bytes(render(compose("r9", "r2", "x"))),
        "future": lambda new: (new / "99991231T235959-999999-ffffffff.md").write_bytes(
            render(good).replace(good.id.encode(), b"99991231T235959-999999-ffffffff")
        ),
        "yaml bomb": lambda new: (new / f"{good.id}.md").write_bytes(
            b"---\na: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\n---\n\nx"
        ),
    }
    return lambda new: (makers[name](new), None)[1]


def _touch(path: Path) -> Path:
    path.touch()
    return path


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path may not exceed some hundred bytes
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


KINDS = [
    "huge", "sparse terabyte", "binary", "empty", "link", "dangling link", "endless device", "pipe", "socket", "folder",
    "full folder", "no id", "other id", "no md", "escapes in its name", "undecodable name", "longest name",
    "for somebody else", "future", "yaml bomb",
]  # fmt: skip


@pytest.mark.parametrize("place", ["inbox", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_stops_nobody_and_is_put_away_with_the_reason(mail: Mail, kind: str, place: str) -> None:
    before = mail.send("r2", "r1", "before") if place == "inbox" else mail.post("r2", "all", "before")
    box = mail.root / ("inbox/r1" if place == "inbox" else "channels/all")
    hostile(kind)(box / "new" if place == "inbox" else box)
    after = mail.send("r2", "r1", "after") if place == "inbox" else mail.post("r2", "all", "after")
    found = mail.take("r1") if place == "inbox" else mail.channel("all")
    assert found == [before, after]
    bad = sorted(os.listdir(box / "bad"))
    assert len(bad) == 2 and bad[1] == bad[0] + ".why", bad
    why = (box / "bad" / bad[1]).read_text()
    assert why.count("\n") == 1 and why.strip().isprintable() and ": " in why
    assert (mail.take("r1") if place == "inbox" else mail.channel("all", after.id)) == []


def test_a_forged_second_copy_of_a_read_message_is_not_news(mail: Mail) -> None:
    message = mail.send("chief", "r1", "Do it once.")
    mail.take("r1")
    (mail.root / f"inbox/r1/new/{message.id}.md").write_bytes(render(message).replace(b"once", b"twice"))
    assert mail.take("r1") == []
    assert mail.read("r1", message.id) == message


def test_a_forged_id_of_the_far_future_does_not_stop_a_channel(mail: Mail) -> None:
    mail.post("r1", "all", "one")
    (mail.root / "channels/all/99991231T235959-999999-ffffffff.md").write_bytes(b"x")
    (mail.root / "channels/all/20261399T250000-000000-ffffffff.md").write_bytes(b"x")
    last = mail.post("r1", "all", "two")
    assert [message.body for message in mail.channel("all")] == ["one", "two"]
    assert mail.channel("all", after=last.id) == []


# ---------------------------------------------------------------------- many processes

SEND = "for n in range(int(sys.argv[3])): print(mail.send(sys.argv[2], 'r1', f'message {n}').id, flush=True)"
TAKE = """
import time
idle = time.monotonic()
while time.monotonic() - idle < 1.5:
    for message in mail.take('r1'):
        print(message.id, flush=True)
        idle = time.monotonic()
"""
READ = """
import time
idle = time.monotonic()
while time.monotonic() - idle < 1.5:
    for message in mail.inbox('r1'):
        mail.read('r1', message.id)
        idle = time.monotonic()
"""


@pytest.mark.slow
def test_many_writers_and_takers_hand_over_every_message_exactly_once(mail: Mail) -> None:
    takers = [start(TAKE, mail) for _ in range(3)]
    writers = [start(SEND, mail, f"w{n}", "60") for n in range(4)]
    sent = [identity for writer in writers for identity in output(writer)]
    taken = [identity for taker in takers for identity in output(taker)]
    taken += [message.id for message in mail.take("r1")]
    assert len(sent) == 240 and sorted(taken) == sorted(sent)
    assert files(mail, "inbox/r1/cur") == sorted(f"{identity}.md" for identity in sent)
    assert files(mail, "inbox/r1/new") == files(mail, "inbox/r1/bad") == []


@pytest.mark.slow
def test_readers_by_id_beside_a_taker_lose_nothing(mail: Mail) -> None:
    readers = [start(READ, mail) for _ in range(2)]
    taker = start(TAKE, mail)
    sent = output(start(SEND, mail, "w0", "80"))
    taken = output(taker)
    for reader in readers:
        output(reader)
    assert set(taken) <= set(sent) and len(taken) == len(set(taken))
    assert files(mail, "inbox/r1/cur") == sorted(f"{identity}.md" for identity in sent)


POST = "for n in range(int(sys.argv[3])): print(mail.post(sys.argv[2], 'all', f'{sys.argv[2]} {n}').id, flush=True)"


@pytest.mark.slow
def test_a_follower_of_a_busy_channel_misses_and_repeats_nothing(mail: Mail) -> None:
    posters = [start(POST, mail, f"w{n}", "40") for n in range(3)]
    seen: list[str] = []
    while any(poster.poll() is None for poster in posters):
        seen += [message.id for message in mail.channel("all", after=seen[-1] if seen else "")]
    seen += [message.id for message in mail.channel("all", after=seen[-1] if seen else "")]
    posted = [identity for poster in posters for identity in output(poster)]
    assert len(posted) == 120 and seen == sorted(posted)


def killed(child: subprocess.Popen[str], seconds: float) -> list[str]:
    """Let a process get going (its first word), run for that long, and die by SIGKILL; what it had said until then."""
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(seconds)  # not a wait: the moment of the kill is what varies
    child.kill()
    said = (first + child.stdout.read()).split()
    child.wait()
    child.stdout.close()
    return said


@pytest.mark.slow
def test_writers_killed_at_any_moment_leave_whole_messages_only(mail: Mail) -> None:
    draw = random.Random(3)
    told: list[str] = []
    for number in range(10):
        told += killed(start(SEND, mail, f"w{number}", "100000"), draw.uniform(0, 0.1))
    found = [message.id for message in mail.inbox("r1")]
    assert set(told) <= set(found), "a message that was reported as sent is there"
    assert len(found) <= len(told) + 10, "at most the one in hand of each writer was not reported"
    assert files(mail, "inbox/r1/bad") == []


@pytest.mark.slow
def test_takers_killed_at_any_moment_lose_and_repeat_nothing(mail: Mail) -> None:
    draw = random.Random(5)
    sent = [mail.send("chief", "r1", f"message {n}").id for n in range(200)]
    take_one = "while True:\n    for m in mail.inbox('r1')[:3]: print(mail.read('r1', m.id).id, flush=True)"
    told: list[str] = []
    for _ in range(8):
        told += killed(start(take_one, mail), draw.uniform(0, 0.06))
        new, cur = files(mail, "inbox/r1/new"), files(mail, "inbox/r1/cur")
        assert sorted(new + cur) == sorted(f"{identity}.md" for identity in sent)
    assert len(told) == len(set(told)), "nothing is new twice"
    rest = [message.id for message in mail.take("r1")]
    assert not set(rest) & set(told)
    assert len(rest) + len(told) >= len(sent) - 8, "each killed reader had at most one message in hand"


def test_a_dead_poster_s_lock_holds_nobody_up_and_a_living_one_is_named(
    mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.post("r1", "all", "one")
    hold = "import fcntl, os, time\nf = open(mail.root / 'channels/all/.lock', 'r+')\nfcntl.flock(f, fcntl.LOCK_EX)\n"
    hold += "f.truncate(0)\nf.write(f'{os.getpid()}')\nf.flush()\nprint('held', flush=True)\ntime.sleep(600)"
    child = start(hold, mail)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        monkeypatch.setattr("comms.mailbox.LOCK_SECONDS", 0.2)
        with pytest.raises(MailError, match=f"channel all is held by process {child.pid}"):
            mail.post("r1", "all", "two")
    finally:
        child.kill()
        child.communicate()
    mail.post("r1", "all", "two")
    assert [message.body for message in mail.channel("all")] == ["one", "two"]
