"""Reports in whatever form agents write them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lab.records import Review
from org import reports
from org.factcheck import Witness, check
from org.recorded import Known
from org.reports import parse, read, render
from tests.org.test_factcheck import TASK
from tests.org.witnesses import ledger


@pytest.mark.parametrize(
    "text",
    [
        "## Done since the last standup\n\n- E0001 improved.\n\n## Learned\n\nSteps matter.\n\n## Next\n- E0002\n\n## Blocked\n\nnobody",
        "Done: E0001 improved.\nLearned: Steps matter.\nNext: E0002\nBlocked: nobody",
        "**Done:** E0001 improved.\n\n**Learned**\nSteps matter.\n**Next:** E0002\n**Blocked by:** nobody",
        "done\nE0001 improved.\nLEARNT\nSteps matter.\nnext\nE0002\nblocked\nnobody",
        "E0001 improved.\n# Learned\nSteps matter.\n# Next steps\nE0002\n# Blocked\nnobody",
    ],
)
def test_sections_are_found_however_they_are_marked(text: str) -> None:
    found = parse(text, 6000)
    assert "E0001 improved." in found.done and "Steps matter." in found.learned and "Steps" not in found.done
    assert found.next.strip().endswith("E0002") and found.blocked.strip() == "nobody" and not found.note


def test_a_word_that_opens_a_sentence_is_no_heading() -> None:
    found = parse("Done with E0001 at last.\nNext to nothing came of E0002.\nBlocked runs were withdrawn.", 6000)
    assert len(found.done.splitlines()) == 3 and not found.next and not found.blocked


def test_what_is_rendered_is_read_again_with_its_signature() -> None:
    said = {"done": "- E0001: improved.", "learned": "- a", "next": "- b\n- c", "blocked": ""}
    found = parse(render("S0001", "r1", said), 6000)
    assert found.signed == ["r1"] and (found.done, found.learned, found.next, found.blocked) == (
        "- E0001: improved.",
        "- a",
        "- b\n- c",
        "",
    )


def test_a_novel_is_cut_and_says_so() -> None:
    found = parse("word " * 10_000, 500)
    assert len(found.done) <= 500 and found.note == "cut after 500 of 50,000 characters"


def test_escapes_and_controls_do_not_get_through() -> None:
    assert parse("Done: \x1b[31mred\x07\u202e E0001", 6000).done.split() == ["red", "E0001"]


def test_a_file_that_is_no_report_is_named_and_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (tmp_path / "link.md").symlink_to(tmp_path / "secret")
    (tmp_path / "folder.md").mkdir()
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "huge.md").write_bytes(b"x" * (reports.LIMIT_BYTES + 1))
    (tmp_path / "binary.md").write_bytes(b"\0\1\2")
    for name, why in (
        ("link", "no plain file"),
        ("folder", "no plain file"),
        ("pipe", "no plain file"),
        ("huge", "bytes"),
        ("binary", "no text"),
    ):
        with pytest.raises(ValueError, match=why):
            read(tmp_path / f"{name}.md")
    assert read(tmp_path / "nobody.md") is None
    (tmp_path / "latin.md").write_bytes("Größe".encode("latin-1"))
    assert read(tmp_path / "latin.md") == "Gr\ufffd\ufffde"


def test_what_an_optimiser_reports_is_never_flagged(tmp_path: Path) -> None:
    state = ledger(tmp_path)
    known, agents = Known(state, TASK), ("chief", "r1", "r2", "r3")
    for agent in agents[1:]:
        said = reports.own(state, agent, 0.0, 1e12, "bits per byte", "goes on.")
        assert not [
            one
            for name, text in said.items()
            for one in check(text, known, Witness(agent, agents), name)
            if one.flags
        ]
    assert (
        "E0001: improved and promoted, -0.019 bits per byte"
        in reports.own(state, "r1", 0.0, 1e12, "bits per byte", "goes on.")["done"]
    )
    state.experiments["E0001"].reviews.append(Review(5.0, "r3", "ok", "it holds"))
    said = reports.own(state, "r3", 0.0, 1e12, "bits per byte", "reviews what is improved.")
    assert "- reviewed E0001 (ok)." in said["done"] and "- reviews what is improved." in said["next"]
    assert not check(said["done"], known, Witness("r3", agents))[0].flags, "a review is no claim to what was reviewed"
    assert "- waiting for fresh seeds: E0004." in reports.own(state, "r2", 0.0, 1e12, "bits per byte", "goes on.")["done"], "in one line"
    for name in ("E0001", "E0003", "E0005", "E0007", "E0009"):
        state.experiments[name].params = {"MATRIX_LR": 0.03}
    state.experiments["E0002"].params = state.experiments["E0008"].params = {"MOMENTUM": 0.9}
    learned = {name: reports.own(state, name, 0.0, 1e12, "bits per byte", "goes on.")["learned"] for name in ("r1", "r2")}
    assert learned["r1"] == "- MATRIX_LR: promoted E0001; crashed E0003; worse E0005; inconclusive E0007; bought E0009."
    assert learned["r2"] == "- MOMENTUM: neutral E0002; reverted E0008."
    for agent, text in learned.items():
        (one,) = check(text, known, Witness(agent, agents), "learned")
        assert one.claim and not one.flags, "knobs that came to several ends"
    assert reports.own(state, "r1", 1e11, 1e12, "bits per byte", "goes on.")["done"] == "- nothing finished.", "only what is new"


def test_a_line_of_blanks_takes_no_time() -> None:
    began = time.perf_counter()
    assert reports.parse("## done" + " " * 3000 + "\nE0001", 6000).done == "E0001"
    reports.parse("## done" + " " * 3000 + ": x\n**done" + " " * 2000 + "x", 6000)
    assert time.perf_counter() - began < 1.0
