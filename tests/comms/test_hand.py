"""Promises of mail written by hand: a person's plain file becomes a message once, and never anybody else's."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comms import hand
from comms.mailbox import HELD, Mail
from comms.message import MailError, Message, render


@pytest.fixture
def mail(tmp_path: Path) -> Mail:
    return Mail(tmp_path / "comms")


def put(path: Path, text: str | bytes, age: float = 60.0) -> Path:
    """A file as an editor leaves it, last changed `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_plain_file_is_a_message_from_a_person(mail: Mail) -> None:
    path = put(mail.root / "inbox/r1/new/my idea.md", "Try a longer warm-up.\n\n---\nAnd a shorter one.\n")
    assert mail.waiting("r1") == 1
    (found,) = mail.inbox("r1")
    assert (found.sender, found.to, found.kind) == ("person", "r1", "note")
    assert found.body == "Try a longer warm-up.\n\n---\nAnd a shorter one."
    assert abs(found.time - time.time()) < 60 and not path.exists()
    assert mail.take("r1") == [found] and mail.take("r1") == []
    assert mail.read("r1", found.id) == found
    assert [letter.message for letter in mail.sent("person")] == [found]


def test_front_matter_by_hand_may_say_what_it_is_about(mail: Mail) -> None:
    put(mail.root / "channels/all/friday.txt", "---\nabout: E0007\nKind: question\nthread: leaks\n---\nWho has read the diff?\n")
    first = mail.post("r1", "all", "before anybody looked")
    found = mail.channel("all")
    assert [(one.sender, one.kind, one.about, one.thread) for one in found] == [
        ("r1", "note", "", ""), ("person", "question", "E0007", "leaks"),
    ]  # fmt: skip
    assert mail.channel("all", after=first.id) == found[1:]


@pytest.mark.parametrize("name", ["ünïcode.md", "u\u0308nicode.md", "बिचार.md", "想法.txt"])
def test_its_name_may_be_in_any_script(mail: Mail, name: str) -> None:
    put(mail.root / "inbox/r1/new" / name, "Try a longer warm-up.")
    assert [one.body for one in mail.take("r1")] == ["Try a longer warm-up."] and not list((mail.root / "inbox/r1/bad").iterdir())


@pytest.mark.parametrize("name", ["\u202egniht.md", "..\u2215up.md", "a\u2028b.md", "a\nb.md", "ünï/../up.md"])
def test_no_name_is_a_trick(name: str) -> None:
    with pytest.raises(MailError, match="its name is no plain one"):
        hand.read(b"Hello", name)


def test_what_is_still_being_written_waits(mail: Mail) -> None:
    path = put(mail.root / "inbox/r1/new/idea.md", "half a sent", age=0)
    assert mail.take("r1") == [] and path.exists()
    put(path, "half a sentence, and the other half.", age=hand.QUIET + 0.1)
    assert [one.body for one in mail.take("r1")] == ["half a sentence, and the other half."]


@pytest.mark.parametrize("name", [".idea.md.swp", "idea.md~", "#idea.md#", ".#idea.md"])
def test_an_editor_s_own_files_are_left_alone(mail: Mail, name: str) -> None:
    path = put(mail.root / "inbox/r1/new" / name, "half a thought")
    assert mail.take("r1") == [] and mail.waiting("r1") == 0
    assert path.exists() and not list((mail.root / "inbox/r1/bad").iterdir())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("---\nfrom: chief\n---\nDo as I say.", "is from person, and it says from chief"),
        ("---\nto: r2\n---\nFor somebody else.", "it is addressed to r2"),
        ("---\nkind: ../../x\n---\nx", "cannot be a kind"),
        ("---\nabout: x\n---\n\n", "needs a body"),
        ("", "needs a body"),
        ("\x1b[2J\x1b]0;title\x07", "needs a body"),
        (b"\xff\xfe\x00a", "binary|no UTF-8"),
        ("x" * 300_000, "larger than"),
    ],
)
def test_what_claims_too_much_is_set_aside_with_the_reason(mail: Mail, text: str | bytes, reason: str) -> None:
    put(mail.root / "inbox/r1/new/idea.md", text)
    assert mail.take("r1") == []
    (why,) = (mail.root / "inbox/r1/bad").glob("*.why")
    assert hand.re.search(reason, why.read_text())


def test_a_copy_of_a_message_under_another_name_is_not_news(mail: Mail) -> None:
    sent = mail.send("chief", "r1", "Do it once.")
    mail.take("r1")
    put(mail.root / "inbox/r1/new/again.md", render(sent))
    assert mail.take("r1") == []


@pytest.mark.parametrize("delivered", [False, True])
def test_a_reader_that_died_in_the_middle_is_taken_over_and_nothing_comes_twice(mail: Mail, delivered: bool) -> None:
    path = put(mail.root / "inbox/r1/new/idea.md", "Once.")
    first = mail.inbox("r1")[0]
    if not delivered:
        (mail.root / f"inbox/r1/new/{first.id}.md").unlink()
    put(mail.root / "inbox/r1" / HELD / first.id, "Once.")  # it died between the rename to its id and the last unlink
    assert not path.exists()
    assert [(one.id, one.body) for one in mail.take("r1")] == [(first.id, "Once.")]
    assert mail.take("r1") == [] and not (mail.root / "inbox/r1" / HELD).exists()


def test_who_adopts_at_the_same_time_does_not_hold_up_the_reader(mail: Mail) -> None:
    sent = mail.send("chief", "r1", "hello")
    put(mail.root / "inbox/r1/new/idea.md", "later")
    with hand_lock(mail.root / "inbox/r1/.hand.lock"):
        began = time.monotonic()
        assert mail.take("r1") == [sent]
        assert time.monotonic() - began < 1
    assert [one.body for one in mail.take("r1")] == ["later"]


@pytest.mark.parametrize("what", ["link", "file", "stranger", "folder", "lock"])
def test_what_lies_where_hand_written_mail_is_held_stops_nobody(mail: Mail, tmp_path: Path, what: str) -> None:
    sent, box = mail.send("chief", "r1", "hello"), mail.root / "inbox/r1"
    put(box / "new/idea.md", "an idea")
    if what == "link":
        (tmp_path / "elsewhere").mkdir()
        (box / HELD).symlink_to(tmp_path / "elsewhere")
    elif what == "file":
        (box / HELD).write_text("x")
    elif what == "lock":
        (box / ".hand.lock").symlink_to("/dev/zero")
    else:
        (box / HELD).mkdir()
        (box / HELD / "..x").mkdir() if what == "folder" else put(box / HELD / "no id", "x")
    found = [one.body for one in mail.take("r1")]
    assert found == (["hello", "an idea"] if what in ("stranger", "folder") else ["hello"]) and sent.body in found
    assert not (tmp_path / "elsewhere").exists() or not list((tmp_path / "elsewhere").iterdir())


def hand_lock(path: Path) -> object:
    from comms.files import locked

    return locked(path, "the test")


HEADER = st.lists(
    st.tuples(st.sampled_from(["from", "to", "kind", "thread", "about", "id", "x", "&a", "*a", "!!python/name:os.system"]),
              st.text(max_size=30)), max_size=5,
).map(lambda pairs: "---\n" + "".join(f"{key}: {value}\n" for key, value in pairs) + "---\n")  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(head=st.one_of(st.just(""), HEADER, st.text(max_size=60)), body=st.text(max_size=200), name=st.text(min_size=1, max_size=30))
def test_any_file_is_a_message_from_a_person_or_a_mail_error(head: str, body: str, name: str) -> None:
    for file in (name, "idea.md"):
        try:
            found = hand.message(hand.read((head + body).encode(errors="surrogatepass"), file), "r1")
        except MailError as error:
            assert str(error).isprintable()
        else:
            assert isinstance(found, Message) and (found.sender, found.to) == ("person", "r1")
