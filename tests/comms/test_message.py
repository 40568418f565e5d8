"""Promises of one message: what is written is what is read, and a hostile file is refused before it can do harm."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comms.message import (
    LIMIT_BYTES,
    MailError,
    Message,
    clean,
    compose,
    microseconds,
    new_id,
    parse,
    render,
)

ID = "20260131T120000-000000-0123abcd"
NAME = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)


def file(body: str = "hello", **fields: str) -> bytes:
    """A message file by hand; a field given as "" is left out."""
    values = {"id": ID, "from": "r1", "to": "r2", "kind": "note", "time": "2026-01-31T12:00:00+00:00"}
    values |= {name.rstrip("_"): value for name, value in fields.items()}
    header = "".join(f"{name}: {value}\n" for name, value in values.items() if value)
    return f"---\n{header}---\n\n{body}\n".encode()


@settings(deadline=None, max_examples=200)
@given(
    sender=NAME, to=NAME, kind=NAME, body=st.text(max_size=300), about=st.text(max_size=60), thread=st.text(max_size=60)
)
def test_what_is_written_is_what_is_read(sender: str, to: str, kind: str, body: str, about: str, thread: str) -> None:
    if not clean(body).strip():
        with pytest.raises(MailError, match="empty"):
            compose(sender, to, body)
        return
    message = compose(sender, to, body, kind, thread, about)
    assert parse(render(message), message.id) == message
    assert all(letter.isprintable() or letter in "\n\t\xa0" or not letter.isascii() for letter in message.body)


def test_a_body_stays_as_it_was_written() -> None:
    body = "# Result\n\n```python\n\tx = 1\n```\n---\nid: forged\n---\n  trailing  \n\nüñ 漢 🙂"
    message = compose("r1", "r2", body)
    assert parse(render(message), message.id).body == body


def test_a_message_is_a_file_that_people_can_read() -> None:
    message = compose("r1", "chief", "It works.", "result", "E0004", "E0004: matrix LR: +20%")
    head = render(message).decode().splitlines()
    assert head[0] == "---" and f"id: {message.id}" in head and "from: r1" in head and "to: chief" in head
    assert head[-2:] == ["", "It works."]


def test_ids_sort_by_time_and_never_repeat_even_across_processes() -> None:
    code = "from comms.message import new_id\nfor _ in range(2000): print(new_id())"
    before = new_id()
    time.sleep(0.001)
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lists = [child.communicate(timeout=60)[0].split() for child in children]
    time.sleep(0.001)
    after = new_id()
    for ids in lists:
        assert ids == sorted(ids) and before < ids[0] and ids[-1] < after
    together = [identity for ids in lists for identity in ids]
    assert len(together) == 6000 == len(set(together))


def test_an_id_follows_another_even_when_the_clock_was_set_back() -> None:
    ahead = new_id()
    hour = f"{ahead[:9]}{(int(ahead[9:11]) + 1) % 24:02d}{ahead[11:]}"
    later = max(hour, ahead)
    assert new_id(after=later) > later
    assert microseconds(new_id(after="99991231T235959-999999-ffffffff")) < microseconds(
        "99990101T000000-000000-00000000"
    )


def test_terminal_escapes_and_invisible_letters_never_reach_a_reader() -> None:
    body = "\x1b[31mred\x1b[0m \x1b]0;title\x07ok\x00\x08 a\u202eb \x9b31m\r\nnext\rlast\ud800"
    message = compose("r1", "r2", body)
    assert message.body == "red ok ab 31m\nnext\nlast"
    assert parse(file("\x1b[2Jcleared \u2066x"), ID).body == "cleared x"
    assert compose("r1", "r2", "x", about="two\nlines\x1b[1m").about == "two lines"


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "-rf", "A", "x" * 65, "a\n", "a b", "é", "a\0"])
def test_names_cannot_leave_the_mailbox(name: str) -> None:
    for arguments in ((name, "r2"), ("r1", name), ("r1", f"#{name}")):
        with pytest.raises(MailError, match="cannot be"):
            compose(*arguments, "hello")
    with pytest.raises(MailError):
        compose("r1", "r2", "hello", kind=name)


def test_a_message_that_is_too_long_is_refused_and_not_cut() -> None:
    with pytest.raises(MailError, match="put the long part into a file"):
        render(compose("r1", "r2", "x" * LIMIT_BYTES))
    with pytest.raises(MailError, match="about of a message has 501 characters"):
        compose("r1", "r2", "x", about="y" * 501)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]\n"
HOSTILE = {
    "empty": (b"", "no front matter"),
    "no header": (b"hello\n", "no front matter"),
    "unclosed header": (b"---\nid: x\n", "no front matter"),
    "empty header": (b"---\n---\n\nx", "front matter without id"),
    "binary": (file("a\0b"), "NUL"),
    "not UTF-8": (file() + b"\xff\xfe", "no UTF-8"),
    "too large": (file("x" * LIMIT_BYTES), "larger than"),
    "large header": (file(about="y" * 9000), "front matter larger"),
    "aliases": (file(thread="&t hello", about="*t"), "anchors or aliases"),
    "bomb": (f"---\n{BOMB}---\n\nx".encode(), "anchors|flat"),
    "tag": (file(about="!!python/object/apply:os.system ['true']"), "tags|flat"),
    "short tag": (file(about="!x y"), "tags"),
    "nested": (file(about="{a: {b: c}}"), "flat"),
    "list": (b"---\n- a\n- b\n---\n\nx", "flat"),
    "scalar": (b"---\nhello\n---\n\nx", "flat"),
    "deep": (b"---\n" + b"[" * 4000 + b"\n---\n\nx", "flat"),
    "malformed": (file(about="'open"), "malformed YAML in line"),
    "two documents": (b"---\nid: a\n...\n%YAML 1.1\n---\n\nx", "front matter|malformed|flat"),
    "field twice": (file() .replace(b"kind: note", b"kind: note\nkind: order"), "twice"),
    "complex key": (b"---\n? [a, b]\n: c\n---\n\nx", "flat"),
    "other id": (file(id="20260131T120000-000000-ffffffff"), "is not its file name"),
    "path as sender": (file(from_="../../r1"), "cannot be a sender"),
    "path as recipient": (file(to="'#../x'"), "cannot be a recipient"),
    "no time": (file(time="yesterday"), "no ISO 8601"),
    "time out of range": (file(time="9999-12-31T23:59:59-23:59"), "no ISO 8601|not the time in its id"),
    "forged time": (file(time="2026-01-31T13:00:00"), "not the time in its id"),
    "no kind": (file(kind=""), "front matter without kind"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_quickly_with_its_reason_on_one_line(name: str) -> None:
    data, reason = HOSTILE[name]
    started = time.monotonic()
    with pytest.raises(MailError, match=reason) as caught:
        parse(data, ID)
    assert time.monotonic() - started < 2
    assert str(caught.value).isprintable()


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.text(max_size=400).map(lambda text: f"---\n{text}\n---\n\nx".encode(errors="replace")),
    )
)
def test_any_bytes_are_a_message_or_a_mail_error(data: bytes) -> None:
    try:
        found = parse(data, ID)
    except MailError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(found, Message)


@pytest.mark.parametrize(
    "identity", ["", "x", "../" + ID, ID + "\n", ID.upper(), "20261399T990000-000000-0123abcd", ID[:-1]]
)
def test_what_is_no_id_is_refused(identity: str) -> None:
    with pytest.raises(MailError, match="no message id"):
        parse(file(id=identity), identity)


def test_an_id_from_the_far_future_cannot_hold_up_the_order() -> None:
    with pytest.raises(MailError, match="future"):
        parse(file(id="99991231T235959-999999-ffffffff"), "99991231T235959-999999-ffffffff")
