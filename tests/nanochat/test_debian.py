"""Promises about text from Debian packages: read without installing, plain, once, and the same every time."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from nanochat import corpus as nc
from nanochat import debian
from nanochat.debian import Package
from nanochat.errors import DataError
from tests.nanochat.test_corpus import SETTINGS, shared, words

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is missing: this is no Debian")
MANUAL = r""".\" a comment
.TH OPEN 2 2023-01-01 "Linux"
.SH NAME
open \- open a file
.SH DESCRIPTION
The
.BR open ()
call opens the file \fIpathname\fP
and returns a \(aqdescriptor\(aq.
.PP
.nf
    int fd;
    fd = open("x");
.fi
.TP
.B O_CREAT
Make it.
"""


def build(name: str, files: dict[str, bytes], folder: Path) -> Path:
    """A .deb as dpkg-deb makes it, in `folder`."""
    root = folder / f"{name}.tree"
    for path, raw in {"DEBIAN/control": CONTROL.format(name).encode(), **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(raw)
    deb = folder / f"{name}_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", root, deb], check=True, capture_output=True)
    shutil.rmtree(root)
    return deb


CONTROL = "Package: {}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <n@example.org>\nDescription: text\n"


@pytest.fixture
def debs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that packages are kept in, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nc.cache("debian").mkdir(parents=True)
    return nc.cache("debian")


@needs_dpkg
def test_docs_are_split_by_file_deduplicated_and_hidden(debs: Path) -> None:
    boiler = "This page belongs to the manual of the program, and its licence is printed on every single page of it."
    files = {f"usr/share/doc/m/{n}.html": f"<p>{boiler}</p><p>{words(n, 60)}</p>".encode() for n in range(200)}
    build("manual", {**files, "usr/share/doc/m/copy.html": files["usr/share/doc/m/1.html"], "usr/bin/x": b"\0"}, debs)
    corpus = debian.docs(10**9, (Package("manual", r"\.html$"),))
    assert corpus == debian.docs(10**9, (Package("manual", r"\.html$"),))
    assert len(corpus.training) + len(corpus.validation) == 200
    assert 2 <= len(corpus.validation) <= 15 and set(corpus.kinds) == set(corpus.validation)
    everything = "".join([*corpus.training.values(), *corpus.validation.values()])
    assert everything.count(boiler) == 1 and not shared(corpus)
    assert corpus.mask == [str(debs)]
    assert corpus.description["debian_prose"].startswith("manual_1.0_all:")
    assert nc.size(debian.docs(20_000, (Package("manual", r"\.html$"),)).training.values()) <= 20_000


@needs_dpkg
def test_source_is_read_out_of_an_archive_in_the_package_without_copies_and_tables(debs: Path, tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    for number in range(150):
        path = tree / f"kernel/{number}.c"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words(number, 60))
    (tree / "kernel/same.c").write_text(words(3, 60))
    (tree / "kernel/table.h").write_text("0x1234, 0xffff,\n" * 200)
    (tree / "kernel/notes.txt").write_text(words(1000, 60))
    with tarfile.open(tmp_path / "linux.tar.xz", "w:xz") as archive:
        archive.add(tree, "linux")
    build("linux", {"usr/src/linux.tar.xz": (tmp_path / "linux.tar.xz").read_bytes()}, debs)
    corpus = debian.source(10**9, (Package("linux", r"\.[ch]$"),))
    names = {name.rsplit("/", 1)[1] for part in (corpus.training, corpus.validation) for name in part}
    assert len(names) == 150 and "table.h" not in names and "notes.txt" not in names
    assert set(corpus.kinds.values()) == {"code"}


@needs_dpkg
def test_each_kind_of_file_becomes_plain_text(debs: Path) -> None:
    page = """<html><head><title>T</title><style>p {}</style></head><body><nav>menu</nav><h1>Heading</h1><p>One &amp;
      two<br>three</p><ul><li>first</li><li>second</li></ul><pre>  if x:\n      y</pre><script>var z</script></body></html>"""
    entry = b"abacus\n   A frame with balls.\nabbot\n   A monk.\n"
    dictzip = gzip.compress(entry)
    files = {
        "usr/share/man/man2/open.2.gz": gzip.compress(MANUAL.encode()),
        "usr/share/doc/page.html": page.encode(),
        "usr/share/doc/latin.html": "<p>caf\xe9</p>".encode("latin-1"),
        "usr/share/dictd/d.dict.dz": dictzip[:3]
        + bytes([dictzip[3] | 4])
        + dictzip[4:10]
        + b"\x04\0RA\0\0"
        + dictzip[10:],
    }
    found = debian.texts(Package("kinds", "."), build("kinds", files, debs))
    assert (
        found["kinds/usr/share/doc/page.html"]
        == "Heading\n\nOne & two\nthree\n\n- first\n- second\n\n  if x:\n      y\n"
    )
    assert found["kinds/usr/share/doc/latin.html"] == "caf\xe9\n"
    assert found["kinds/usr/share/dictd/d.dict.dz:00000"] == "abacus\n   A frame with balls.\n\nabbot\n   A monk.\n"
    expected = """OPEN 2

NAME

open - open a file

DESCRIPTION

The open() call opens the file pathname and returns a 'descriptor'.

    int fd;
    fd = open("x");

O_CREAT
Make it.
"""
    assert found["kinds/usr/share/man/man2/open.2.gz"] == expected


@needs_dpkg
def test_a_damaged_package_is_one_line(debs: Path) -> None:
    deb = build("bad", {f"usr/share/doc/{n}.html": words(n, 200).encode() for n in range(20)}, debs)
    deb.write_bytes(deb.read_bytes()[:20_000])
    with pytest.raises(
        DataError, match=r"bad_1.0_all.deb cannot be unpacked .*: delete it and prepare again"
    ) as caught:
        debian.docs(10**9, (Package("bad", r"\.html$"),))
    assert "\n" not in str(caught.value)


@needs_dpkg
@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt-get is missing: this is no Debian")
def test_missing_packages_are_downloaded_once_and_checked_by_apt(
    debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    index = ""
    for name in ("one", "two"):
        raw = build(name, {"usr/share/doc/a.html": words(1, 60).encode()}, archive).read_bytes()
        index += f"{CONTROL.format(name)}Filename: ./{name}_1.0_all.deb\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n\n"
    (archive / "Packages").write_text(index)
    for path in ("state/lists/partial", "cache/archives/partial", "etc/parts"):
        (tmp_path / "apt" / path).mkdir(parents=True)
    (tmp_path / "apt/status").write_text("")
    (tmp_path / "apt/etc/sources.list").write_text(f"deb [trusted=yes] file:{archive} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::State "{tmp_path}/apt/state"; Dir::State::status "{tmp_path}/apt/status"; Dir::Cache "{tmp_path}/apt/cache";\n'
        f'Dir::Etc "{tmp_path}/apt/etc"; Dir::Etc::Parts "{tmp_path}/apt/etc/parts"; Dir::Log "{tmp_path}/apt";\n'
        f'APT::Sandbox::User "root"; Debug::NoLocking "true";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
    found = debian.fetch(["one", "two"], debs)
    assert found == {name: debs / f"{name}_1.0_all.deb" for name in ("one", "two")}
    assert found["one"].read_bytes() == (archive / "one_1.0_all.deb").read_bytes()
    with pytest.raises(DataError, match=r"apt-get download three: .*: run apt-get update; the recipe is for Debian 12"):
        debian.fetch(["one", "three"], debs)
    shutil.rmtree(archive)
    assert debian.fetch(["one", "two"], debs) == found


@pytest.mark.parametrize("tool", ["dpkg-deb", "apt-get"])
def test_without_the_tools_of_debian_one_line_says_so(
    debs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    other = {"dpkg-deb": "apt-get", "apt-get": "dpkg-deb"}[tool]
    (tmp_path / other).write_text("#!/bin/sh\n")
    os.chmod(tmp_path / other, 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{tool} is missing: .* Debian 12 machine; load them elsewhere as `files`"):
        nc.documents({**SETTINGS, "corpus": "debian-docs"})


@needs_dpkg
def test_the_recipes_name_each_package_once() -> None:
    names = [package.name for package in (*debian.DOCS, *debian.SOURCE)]
    assert len(names) == len(set(names))
