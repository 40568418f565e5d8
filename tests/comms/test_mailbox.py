"""Promises of mailboxes with many real processes at them: no word lost, none told twice, nobody stopped."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import messages as storm
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


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is locked for root")
def test_who_locks_an_inbox_stops_nobody_who_looks_after_many(mail: Mail) -> None:
    mail.send("chief", "r1", "Try a lower LR.")
    place = mail.root / "inbox" / "r1" / "new"
    place.chmod(0)
    try:
        assert (mail.waiting("r1"), mail.oldest("r1"), mail.peek("r1")) == (0, "", [])
    finally:
        place.chmod(0o700)


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

    def put(new: Path) -> None:
        before = set(os.listdir(new))
        makers[name](new)
        for path in (new / one for one in os.listdir(new) if one not in before and one not in FOLDERS):
            os.utime(path, (1, 1), follow_symlinks=False)  # finished: nobody writes into it any more

    return put


FOLDERS = ("tmp", "bad", "new", "cur")


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


GOOD = compose("r9", "r1", "fine")
NAMES = st.one_of(
    st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40),
    st.just(f"{GOOD.id}.md"),
    st.from_regex(r"2026[0-9]{4}T[0-9]{6}-[0-9]{6}-[0-9a-f]{8}\.md", fullmatch=True),
    st.sampled_from(["idea.md", "..md", "...", "-rf.md", "CON.txt", "a b.txt", "tmp", "bad", "x.md~", "\udcff.md"]),
)
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.sampled_from(range(len(render(GOOD)))), st.binary(max_size=8)).map(  # one of ours with a dent
        lambda dent: render(GOOD)[: dent[0]] + dent[1] + render(GOOD)[dent[0] + len(dent[1]) :]
    ),
    st.text(max_size=100).map(lambda text: f"---\n{text}\n---\n{text}".encode(errors="replace")),
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strangers=st.lists(st.tuples(NAMES, CONTENTS), max_size=5), place=st.sampled_from(["inbox", "channel"]))
@pytest.mark.slow
def test_whatever_lies_in_a_mailbox_the_mail_beside_it_arrives(
    tmp_path_factory: pytest.TempPathFactory, strangers: list[tuple[str, bytes]], place: str
) -> None:
    mail = Mail(tmp_path_factory.mktemp("any"))
    put, look = (mail.send, mail.take) if place == "inbox" else (mail.post, mail.channel)
    to, box = ("r1", mail.root / "inbox/r1/new") if place == "inbox" else ("all", mail.root / "channels/all")
    before = put("r2", to, "before")
    for name, data in strangers:
        with suppress(OSError, UnicodeEncodeError):  # a name that is taken, too long here, or can be no name (other halves of pairs)
            (box / name).write_bytes(data)
            os.utime(box / name, (1, 1))
    after = put("r2", to, "after")
    found = look(to)
    assert [message for message in found if message.sender == "r2"] == [before, after]
    for message in found:
        assert message in (before, after) or message.to.removeprefix("#") == to
    assert [message for message in look(to) if message not in found] == []


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
        monkeypatch.setattr("comms.files.LOCK_SECONDS", 0.2)
        with pytest.raises(MailError, match=f"channel all is held by process {child.pid}"):
            mail.post("r1", "all", "two")
    finally:
        child.kill()
        child.communicate()
    mail.post("r1", "all", "two")
    assert [message.body for message in mail.channel("all")] == ["one", "two"]


# ---------------------------------------------------------------------- order


def another_process(patch: pytest.MonkeyPatch, nanoseconds: int) -> None:
    """From now on as in a process that has just begun, whose clock stands."""
    patch.setattr("comms.message._last", 0)
    patch.setattr("comms.message.clock.time_ns", lambda: nanoseconds)


def test_one_sender_s_messages_stay_in_order_when_the_clock_is_set_back(mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ids, back = time.time_ns(), [], [0, 3600, 0, 7200, 80000]
    for seconds in back:
        for act, to in ((mail.send, "r1"), (mail.post, "all")):
            another_process(monkeypatch, now - seconds * 10**9)
            ids.append(act("r2", to, str(seconds)).id)
    assert ids == sorted(ids)
    words = [str(seconds) for seconds in back]
    assert [message.body for message in mail.take("r1")] == words == [message.body for message in mail.channel("all")]


def test_two_processes_of_one_sender_within_a_microsecond_stay_in_order(mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ids = time.time_ns(), []
    for _ in range(6):
        another_process(monkeypatch, now)
        ids.append(mail.send("r2", "r1", "x").id)
    assert ids == sorted(ids) and len({identity[:22] for identity in ids}) == 6


def test_a_list_that_misses_a_message_hands_out_no_later_one_of_its_sender(mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    """What readdir may do while files are renamed into a folder: miss the first and see the second."""
    missed, other, seen = mail.send("r2", "r1", "one"), mail.send("r3", "r1", "two"), mail.send("r2", "r1", "three")
    real, calls = os.listdir, []

    def first_without(folder: Path) -> list[str]:
        found = real(folder)
        if Path(folder).name == "new":
            calls.append(folder)
            return [name for name in found if len(calls) > 1 or missed.id not in name]
        return found

    monkeypatch.setattr("comms.files.os.listdir", first_without)
    assert mail.take("r1") == [missed, other, seen]


def test_a_forged_line_in_what_was_sent_holds_nobody_up(mail: Mail) -> None:
    first = mail.send("r2", "r1", "one")
    with open(mail.root / "sent/r2", "ab") as handle:
        handle.write(b"99991231T235959-999999-ffffffff r1\n\xff\xfe no line ../../x\n20269999T000000-000000-00000000 r1\n" + b"x" * 5000)
    second = mail.send("r2", "r1", "two")
    assert mail.take("r1") == [first, second]
    (mail.root / "sent/r3").mkdir()
    with pytest.raises(MailError, match="sent/r3"):
        mail.send("r3", "r1", "three")


# ---------------------------------------------------------------------- threads and acknowledgements


def test_an_answer_joins_the_thread_and_each_agent_sees_its_part(mail: Mail) -> None:
    question = mail.send("chief", "r1", "Why did it diverge?", "question", about="E0004")
    assert mail.reply(question.id, "r1") == (question.id, "E0004")
    answer = mail.send("r1", "chief", "No warm-up.", "answer", *mail.reply(question.id, "r1"))
    public = mail.post("chief", "all", "Always warm up.", thread=mail.reply(answer.id, "chief")[0])
    mail.send("r2", "chief", "something else", thread="other")
    mail.take("r1")
    whole = [question, answer, public]
    assert mail.thread(question.id) == mail.thread(answer.id) == mail.thread(public.id, "chief") == whole
    assert mail.thread(question.id, "r2") == [public]
    with pytest.raises(MailError, match="cannot be answered"):
        mail.reply(question.id, "r2")
    with pytest.raises(MailError, match="no thread"):
        mail.thread("nowhere")
    assert [message.body for message in mail.thread("other", "chief")] == ["something else"]


def test_a_sender_sees_what_became_of_its_words(mail: Mail) -> None:
    letter, post = mail.send("chief", "r1", "Take E0004."), mail.post("chief", "all", "Standup at nine.")
    assert [(one.message, one.read, one.acknowledged) for one in mail.sent("chief")] == [(post, None, {}), (letter, False, {})]
    mail.read("r1", letter.id)
    assert [one.read for one in mail.sent("chief", 1)] == [None] and mail.sent("chief")[1].read is True
    for _ in range(2):
        assert mail.acknowledge("r1", letter.id) == letter
    mail.acknowledge("r2", post.id)
    mail.acknowledge("r1", post.id)
    newest, older = mail.sent("chief")
    assert list(older.acknowledged) == ["r1"] and set(newest.acknowledged) == {"r1", "r2"}
    assert abs(older.acknowledged["r1"] - time.time()) < 60
    with pytest.raises(MailError, match="r2 has no message"):
        mail.acknowledge("r2", letter.id)
    assert mail.inbox("chief") == []


def test_counting_makes_and_moves_nothing(mail: Mail) -> None:
    assert mail.waiting("r1") == 0 and mail.peek("r1") == [] and not mail.root.exists()
    sent = [mail.send("chief", "r1", word) for word in ("one", "two", "three")]
    (mail.root / "inbox/r1/new/x.md").symlink_to("/dev/zero")
    assert mail.waiting("r1") == 4 and mail.peek("r1", 2) == sent[:2]
    assert mail.waiting("r1") == 4 and mail.inbox("r1") == sent
    with pytest.raises(MailError):
        mail.waiting("../r1")


def test_looking_over_somebody_s_shoulder_moves_nothing(mail: Mail) -> None:
    message = mail.send("chief", "r1", "one")
    (mail.root / "inbox/r1/new" / f"{compose('a', 'b', 'x').id}.md").write_bytes(b"no message")
    assert mail.look("r1", message.id) == message and mail.places() == ["r1"]
    assert len(files(mail, "inbox/r1/new")) == 2 and files(mail, "inbox/r1/bad") == []


@pytest.mark.slow
def test_a_storm_of_writers_and_readers_killed_at_random_keeps_every_promise(tmp_path: Path) -> None:
    found = storm.stress(tmp_path, writers=4, readers=4, count=800, kill_every=0.2)
    assert found.messages + found.in_hand >= 800 and found.kills >= 5
    assert found.problems == 0, found
