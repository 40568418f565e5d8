"""Promises of the memory: what was tried, said or read is found with its source and what it is worth, by whoever may see it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comms.mailbox import Mail
from lab.home import Home
from org import passages, recall
from org.memory import Memory
from org.recall import search
from tests.org import sample


@pytest.fixture
def story(tmp_path: Path) -> sample.Story:
    return sample.tell(Home(tmp_path / "research"))


@pytest.fixture
def memory(story: sample.Story, tmp_path: Path) -> Iterator[Memory]:
    (tmp_path / "papers").mkdir()
    with Memory(story.home, [str(tmp_path / "papers")]) as one:
        yield one


def found(memory: Memory, query: str, asker: str | None = None, limit: int = 10) -> list[tuple[str, str]]:
    """(source, what it is worth) of the finds."""
    memory.update()
    return [(hit.cite, hit.trust) for hit in search(memory, query, asker, limit)]


def test_an_idea_is_found_with_what_became_of_it(memory: Memory) -> None:
    assert found(memory, "momentum") == [("E0002", "neutral")]
    assert found(memory, "was training without a warm-up tried?")[0] == ("E0003", "crashed")
    assert found(memory, "larger steps")[0] == ("E0001", "promoted")
    assert found(memory, "warm-ups") == found(memory, "warm up") == found(memory, "warm* up") == [("E0003", "crashed")]
    assert found(memory, "MUON_MOMENTUM 0.97")[0] == ("E0002", "neutral")
    (hit,) = search(memory, "averages noise", None)
    assert hit.outcome == "neutral, effect -0.0010" and hit.who == "r2" and "averages noise" in hit.snippet
    assert hit.figures["low"] == pytest.approx(-0.004) and hit.title == "more momentum averages noise"


def test_the_index_follows_the_ledger(memory: Memory, story: sample.Story) -> None:
    assert found(memory, "wider heads") == [("E0004", "queued")]
    story.verdict("E0004", "worse", 0.02)
    assert found(memory, "wider heads") == [("E0004", "worse")]
    new = story.propose("r1", "narrower heads on a wider body")
    assert set(found(memory, "heads")) == {("E0004", "worse"), (new, "proposed")}
    story.ledger.append("withdrawn", {"why": "a tokenizer of characters is enough"}, new)
    assert found(memory, "tokenizer") == [(new, "withdrawn")]
    back = {"commit": "f" * 40, "parent": sample.SECOND, "experiment": "", "why": "no better", "reverts": "E0001"}
    story.ledger.append("trunk", back, "f" * 40)
    assert found(memory, "larger steps")[0] == ("E0001", "reverted")


def test_what_is_disowned_is_forgotten(memory: Memory, story: sample.Story) -> None:
    story.verdict("E0004", "improved", -1.0)
    fact, new = story.ledger.facts("verdict")[-1], story.propose("lab", "wider heads of gold")
    assert set(found(memory, "wider heads")) == {("E0004", "improved"), (new, "proposed")}
    proposal = story.ledger.facts("proposal")[-1]
    story.ledger.append("disowned", {"facts": [fact.id, proposal.id], "why": ["forged", "forged"]})
    assert found(memory, "wider heads") == [("E0004", "queued")]


def test_changes_verdicts_and_reviews_are_searched_as_one_find(memory: Memory, story: sample.Story) -> None:
    story.ledger.append("review", {"finding": "doubt", "text": "the zirconium schedule leaks"}, "E0002", "r1")
    body = {"number": 2, "parent": sample.FIRST, "commit": "9" * 40, "diff": "+ZIRCONIUM = 3\n", "changed": ["a.py"], "ignored": []}
    story.ledger.append("attempt", body, "E0002", "r2")
    memory.update()
    (hit,) = search(memory, "zirconium", None)
    assert hit.cite == "E0002" and hit.parts == ["review", "diff"]


def test_what_stands_unchanged_around_a_change_was_not_tried(memory: Memory, story: sample.Story) -> None:
    diff = "--- a/gpt.py\n+++ b/gpt.py\n@@ -1,3 +1,3 @@ def zirconium():\n COOLDOWN = 0.4\n-PLATINUM = 3\n+PLATINUM = 4\n"
    body = {"number": 2, "parent": sample.FIRST, "commit": "9" * 40, "diff": diff, "changed": ["gpt.py"], "ignored": []}
    story.ledger.append("attempt", body, "E0002", "r2")
    assert [cite for cite, _ in found(memory, "platinum 4")] == ["E0002"]
    assert found(memory, "cooldown") == found(memory, "zirconium") == []


def test_a_name_that_is_written_in_several_ways_is_found_by_each(memory: Memory, story: sample.Story) -> None:
    knob = story.propose("r1", "MATRIX_LR 0.02 -> 0.03 lowers val_bpb")
    said = story.propose("r2", "a larger learning rate for the embeddings")
    for query in ("learning rate", "LR", "learning-rates", "was a larger learning rate tried?"):
        assert {knob, said} <= {cite for cite, _ in found(memory, query)}, query
    (first, *_) = search(memory, "larger learning rate", None)
    assert first.cite == said and first.share == 1.0
    assert all(hit.share >= 0.5 for hit in search(memory, "was a larger learning rate tried?", None) if hit.cite == knob)
    assert found(memory, '"learning rate"') == [(said, "proposed")], "in quotes it is what stands there"
    assert knob not in {cite for cite, _ in found(memory, "already")}, "lr is no part of another word"


def test_a_digest_is_one_find_however_often_it_was_mailed(memory: Memory, story: sample.Story) -> None:
    digest = story.home.org / "standups/1/digest.md"
    digest.parent.mkdir(parents=True)
    digest.write_text("# Standup 1\n\nNobody tried the axolotl.\n")
    sent = Mail(story.home.comms).send("lab", "r1", digest.read_text(), kind="digest", about="S0001")
    assert found(memory, "axolotl") == [(".org/standups/1/digest.md:3", "digest")]
    assert found(memory, sent.id) == [(sent.id, "claimed")]


def test_mail_is_a_claim_and_its_recipient_s_own(memory: Memory, story: sample.Story) -> None:
    mail = Mail(story.home.comms)
    private = mail.send("r1", "chief", "The quokka run beats everything.", about="E0003")
    public = mail.post("r2", "all", "A quokka is no optimiser.")
    assert set(found(memory, "quokka")) == {(private.id, "claimed"), (public.id, "claimed")}
    for agent in ("chief", "r1"):
        assert set(found(memory, "quokka", agent)) == {(private.id, "claimed"), (public.id, "claimed")}
    assert found(memory, "quokka", "r2") == [(public.id, "claimed")]
    assert found(memory, private.id, "r2") == [] and found(memory, private.id) == [(private.id, "claimed")]
    assert found(memory, "what of E0003?") == [("E0003", "crashed"), (private.id, "claimed")]
    hit = next(hit for hit in search(memory, "quokka", None) if hit.cite == private.id)
    assert hit.outcome.startswith("crashed") and (hit.who, hit.to) == ("r1", "chief")


def test_private_mail_does_not_crowd_out_what_may_be_seen(memory: Memory, story: sample.Story) -> None:
    mail = Mail(story.home.comms)
    mine = mail.send("r1", "r2", "wombat " + "and other words " * 200)
    memory.update()
    rows = [("message", f"20260131T120000-{n:06d}-0123abcd", "note", 0, "chief", "r1x", 1.0, "", "", "wombat") for n in range(6000)]
    with memory._writing():
        memory._add("letters", rows)
    assert [(hit.cite, hit.trust) for hit in search(memory, "wombat", "r2")] == [(mine.id, "claimed")]


def test_new_mail_read_mail_and_deleted_mail(memory: Memory, story: sample.Story) -> None:
    mail = Mail(story.home.comms)
    sent = mail.send("r1", "chief", "one platypus")
    assert found(memory, "platypus") == [(sent.id, "claimed")]
    mail.take("chief")
    assert found(memory, "platypus") == [(sent.id, "claimed")]
    bad = story.home.comms / "inbox/chief/new" / f"{sent.id[:-1]}{'e' if sent.id.endswith('f') else 'f'}.md"
    bad.write_text("platypus without front matter")
    assert found(memory, "platypus") == [(sent.id, "claimed")] and bad.exists()
    (story.home.comms / f"inbox/chief/cur/{sent.id}.md").unlink()
    assert found(memory, "platypus") == []


def test_papers_digests_and_notes_are_cited_by_line(memory: Memory, story: sample.Story, tmp_path: Path) -> None:
    paper = tmp_path / "papers/2024/muon.md"
    paper.parent.mkdir()
    paper.write_text("# Muon\n\nfirst\n\n## Why\n\nNewton-Schulz\nnarwhal iterations\northogonalise\n")
    digest = story.home.org / "standups/0001/digest.md"
    digest.parent.mkdir(parents=True)
    digest.write_text("# Standup 1\n\nNobody tried the narwhal.\n")
    (digest.parent / "r1.md").write_text("narwhal narwhal narwhal")
    note = story.home.org / "notes/deep/er.txt"
    note.parent.mkdir(parents=True)
    note.write_text("a narwhal note")
    (tmp_path / "papers/link.md").symlink_to("/etc/passwd")
    (tmp_path / "papers/binary.md").write_bytes(b"narwhal\0")
    expected = {(f"{paper}:8", "library"), (".org/standups/0001/digest.md:3", "digest"), (".org/notes/deep/er.txt:1", "note")}
    assert set(found(memory, "narwhal")) == expected
    assert set(found(memory, "narwhal", "r1")) == expected
    paper.write_text("# Muon\n\nwithout the animal, longer\n")
    note.unlink()
    assert found(memory, "narwhal") == [(".org/standups/0001/digest.md:3", "digest")]


def test_folders_of_a_library_may_lie_in_each_other(story: sample.Story, tmp_path: Path) -> None:
    (tmp_path / "papers/deep").mkdir(parents=True)
    (tmp_path / "papers/deep/one.md").write_text("a narwhal")
    with Memory(story.home, [str(tmp_path / "papers"), str(tmp_path / "papers/deep"), str(tmp_path / "gone")]) as memory:
        assert [cite for cite, _ in found(memory, "narwhal")] == [f"{tmp_path}/papers/deep/one.md:1"]
        before = memory.db.execute("SELECT max(id) FROM records").fetchone()
        assert len(found(memory, "narwhal")) == 1 and memory.db.execute("SELECT max(id) FROM records").fetchone() == before


def test_the_index_can_be_deleted_broken_or_swapped_and_loses_nothing(memory: Memory, story: sample.Story) -> None:
    mail = Mail(story.home.comms)
    mail.send("r1", "chief", "a capybara claims momentum")
    memory.update()
    queries = ("momentum", "capybara", "warm-up", "E0001")
    before = [search(memory, query, None) for query in queries]
    memory.close()
    for harm in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"no database at all" * 1000),
        lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        lambda path: (path.unlink(), sqlite3.connect(path).execute("CREATE TABLE facts (id)").connection.close()),
    ):
        harm(memory.path)
        with Memory(story.home, memory.library) as anew:
            anew.update()
            assert [search(anew, query, None) for query in queries] == before


def test_another_ledger_is_another_memory(memory: Memory, story: sample.Story, tmp_path: Path) -> None:
    assert found(memory, "momentum") == [("E0002", "neutral")]
    story.ledger.close()
    for file in story.home.org.glob("ledger.db*"):
        file.unlink()
    sample.Story(story.home).propose("r1", "nothing of the kind")
    assert found(memory, "momentum") == [] and found(memory, "nothing of the kind") == [("E0001", "proposed")]


def test_a_malformed_fact_stops_no_question(memory: Memory, story: sample.Story) -> None:
    story.ledger.append("proposal", {"agent": "r1"}, "E0099", "r1")
    story.ledger.append("verdict", {"verdict": "improved"}, "E0002", "r1")
    story.ledger.append("review", {"finding": [], "text": "\ud800 axolotl"}, "E0002", "r1")
    story.ledger.append("trunk", {"experiment": ["E0002"]}, "x", "r1")
    assert found(memory, "axolotl") == [("E0002", "neutral")]


HARD = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(['"', "'", "*", "(", ")", "AND", "OR", "NOT", "NEAR(", "^", ":", "body:", "-", "+", "--", ";", "\0",
                              "momentum", "E0002", "warm*", "{", "}", "\\", "ü", "漢", "🙂", "\ud800", "_"]), max_size=12).map(" ".join),
)  # fmt: skip


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HARD)
def test_no_question_is_syntax(memory: Memory, text: str) -> None:
    if not memory.db.execute("SELECT 1 FROM experiments").fetchone():
        memory.update()
    for hit in search(memory, text, "r1"):
        assert hit.snippet.isprintable()


@pytest.mark.parametrize(
    ("text", "words", "phrases", "exact"),
    [
        ('"warm up" muon', ("muon",), ("warm up",), ()),
        ('an unclosed "quote here', ("an", "unclosed", "quote", "here"), (), ()),
        ("what of e0007, E0012?", ("what", "of"), (), ("E0007", "E0012")),
        ("lr=0.02 MATRIX_LR val_bpb", ("lr", "0.02", "MATRIX_LR", "val_bpb"), (), ()),
        ('"" ** -- ___', (), (), ()),
    ],
)
def test_a_question_is_taken_apart(text: str, words: tuple[str, ...], phrases: tuple[str, ...], exact: tuple[str, ...]) -> None:
    assert recall.parse(text) == recall.Query(phrases, words, exact)


def test_a_hyphen_more_or_less_is_no_other_word(memory: Memory, story: sample.Story) -> None:
    closed = story.propose("r1", "no warmup at all")
    assert dict(found(memory, "warm-up")).keys() == {"E0003", closed}


def test_a_phrase_must_stand_together(memory: Memory, story: sample.Story) -> None:
    apart, together = story.propose("r1", "warm lamps light up"), story.propose("r1", "we warm up slowly")
    assert found(memory, '"warm up"')[0] == (together, "proposed")
    assert apart not in dict(found(memory, '"warm up" slowly lamps'))


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.sampled_from("ab #\n\\section{}"), max_size=4000), st.integers(1, 40))
def test_passages_hold_every_line_at_its_number(text: str, times: int) -> None:
    text = text * times
    lines, seen = text.split("\n"), set()
    for one in passages.cut(text):
        for number, line in enumerate(one.body.split("\n"), start=one.line):
            assert lines[number - 1].rstrip() == line.rstrip()
            seen.add(number)
    assert {number for number, line in enumerate(lines, start=1) if line.strip()} <= seen


ASK = """
import sys
from pathlib import Path
from lab.home import Home
from org.memory import Memory
from org.recall import search
with Memory(Home(Path(sys.argv[1]))) as memory:
    memory.update()
    print(*(hit.cite for hit in search(memory, "momentum", None)))
"""


@pytest.mark.slow
def test_many_who_ask_at_once_build_one_index(story: sample.Story) -> None:
    Mail(story.home.comms).send("r1", "chief", "nothing")
    argv = [sys.executable, "-c", ASK, str(story.home.root)]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={**os.environ}) for _ in range(6)]
    assert [child.communicate(timeout=120)[0] for child in children] == ["E0002\n"] * 6
    with Memory(story.home) as memory:
        assert memory.db.execute("SELECT count(*) FROM letters").fetchone() == (1,)
        assert memory.db.execute("SELECT count(*) FROM records WHERE kind='proposal'").fetchone() == (4,)
