"""Papers as PDF: read as pages, cited by page, and no file whatever stops a question."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from org import pdf, recall
from org.memory import Memory
from tests.org import sample


def paper(*pages: str) -> bytes:
    """A PDF with a page for each text."""
    buffer = io.BytesIO()
    with PdfPages(buffer) as book:
        for text in pages:
            page = Figure()
            page.text(0.1, 0.5, text)
            book.savefig(page)
    return buffer.getvalue()


def hand_made(content: bytes, kids: str = "3 0 R") -> bytes:
    """A PDF of one page with that compressed content."""
    data = zlib.compress(content)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count 1 >>".encode(),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R "
        b"/Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(data), data),
    ]
    found, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(found))
        found += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return found + b"xref\n0 5\n0000000000 65535 f \n%strailer << /Root 1 0 R /Size 5 >>\nstartxref\n%d\n%%%%EOF" % (table, len(found))


def test_a_paper_is_found_by_page_and_what_is_no_paper_is_named_once(tmp_path: Path) -> None:
    story, library = sample.Story(sample.Home(tmp_path)), tmp_path / "papers"
    library.mkdir()
    (library / "muon.pdf").write_bytes(paper("about something else", "the narwhal opti-\nmiser"))
    (library / "broken.PDF").write_bytes(b"%PDF-1.7 narwhal")
    (library / "locked.md").write_text("a narwhal")
    note = story.home.org / "notes/mine.pdf"
    note.parent.mkdir(parents=True)
    note.write_bytes(paper("a narwhal"))
    heard: list[str] = []
    with Memory(story.home, [str(library)]) as memory:
        memory.update(heard.append)
        first, second = sorted(recall.search(memory, "narwhal", None), key=lambda hit: hit.cite)
        assert (first.cite, second.cite) == ("papers/locked.md:1", "papers/muon.pdf#page=2")
        assert (second.page, second.trust, second.title) == (2, "library", "muon.pdf") and "optimiser" in second.snippet
        assert heard[0] == "reading 2 papers as PDF, once" and f"{library}/broken.PDF: is broken" in heard[1] and len(heard) == 2
        memory.update(heard.append)
        assert len(heard) == 2, "what was read, or could not be, is not read again"
        (library / "muon.pdf").write_bytes(paper("no animal on any page"))
        memory.update(heard.append)
        assert [hit.cite for hit in recall.search(memory, "narwhal", None)] == ["papers/locked.md:1"]


def test_one_question_reads_for_a_while_and_the_next_goes_on(tmp_path: Path) -> None:
    story, library = sample.Story(sample.Home(tmp_path)), tmp_path / "papers"
    library.mkdir()
    for name in ("a", "b"):
        (library / f"{name}.pdf").write_bytes(paper("a narwhal"))
    heard: list[str] = []
    with Memory(story.home, [str(library)]) as memory:
        memory.update(heard.append, patience=0)
        assert heard[-1] == "papers as PDF that are not read yet: 1; the next question goes on with them"
        memory.update(patience=0)
        assert len(recall.search(memory, "narwhal", None)) == 2


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "is broken"), (hand_made(b"BT /F 9 Tf (a) Tj ET " * 20_000_000), "is broken"), (hand_made(b"", kids="2 0 R"), "is broken"),
     (hand_made(b"BT ET"), "holds no text")],
    ids=["empty", "bomb", "circle", "picture"],
)  # fmt: skip
def test_a_hostile_paper_costs_a_line(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(data)
    found, said = pdf.pages(path)
    assert said.startswith(why) and sum(map(len, found)) <= pdf.PAGE_CHARS


def test_a_paper_that_takes_too_long_keeps_the_pages_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(paper("one", "two"))
    monkeypatch.setattr(pdf, "SECONDS", 0)
    assert pdf.pages(path) == ([], "takes more than 0 s to read")
