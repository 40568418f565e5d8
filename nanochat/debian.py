"""Text out of Debian 12 packages: reference prose (`debian-docs`) and source code (`debian-source`), nothing installed.

Called by `corpus.py`. Notable choices: packages are fetched by apt-get, which checks them, and read as streams with dpkg-deb; each
kind of text is taken in its plainest form (rst before HTML); one document in 50 is held out, by its file.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from nanochat.corpus import CODE, SHORTEST, TELLING, Corpus, at_most, cache, fresh, mark, part_of, pieces, size
from nanochat.errors import DataError

ONE_IN = 50  # documents: one is held out
HELD_BYTES = 4_000_000  # of validation text of each kind, at most, or its share where that is more
BOILERPLATE = 200  # characters; a longer paragraph of code (a licence) is kept once
LARGEST = 400_000  # bytes; larger source files are tables that a program wrote
LETTERS = 0.6  # of a source file's characters, blanks included; fewer and it is a table of numbers


@dataclass(frozen=True)
class Package:
    """A Debian package and the files of it that we read: paths, without the leading slash, that `files` matches."""

    name: str
    files: str


DOCS = (
    Package("anarchism", r"/markdown/.*\.md\.gz$"),
    Package("apache2-doc", r"/manual/en/.*\.html$"),
    Package("cmake-doc", r"/_sources/.*\.rst\.txt$"),
    Package("debian-handbook", r"/html/en-US/.*\.html$"),
    Package("debian-policy", r"/_sources/.*\.rst\.txt$"),
    Package("debian-reference-en", r"\.en\.html$"),
    Package("dict-foldoc", r"\.dict\.dz$"),
    Package("dict-gcide", r"\.dict\.dz$"),
    Package("dict-jargon", r"\.dict\.dz$"),
    Package("dict-wn", r"\.dict\.dz$"),
    Package("gimp-help-en", r"/help/en/.*\.html$"),
    Package("git-doc", r"/git-doc/.*\.txt$"),
    Package("libreoffice-help-en-us", r"/en-US/text/.*\.html$"),
    Package("linux-doc-6.1", r"/_sources/(?!translations).*\.rst\.txt$"),
    Package("llvm-14-doc", r"/_sources/.*\.(rst|md)\.txt$"),
    Package("manpages", r"/man/man\d/"),
    Package("manpages-dev", r"/man/man\d/"),
    Package("octave-doc", r"/octave\.html/.*\.html$"),
    Package("perl-doc", r"\.pod$|\.3perl\.gz$"),
    Package("postgresql-doc-15", r"/html/.*\.html$"),
    Package("python-django-doc", r"/html/(?!genindex|_modules|search).*\.html$"),
    Package("python3.11-doc", r"/_sources/.*\.rst\.txt$"),
    Package("racket-doc", r"\.html$"),
    Package("sqlite3-doc", r"\.html$"),
    Package("vim-doc", r"/html/.*\.html$"),
)
"""Prose. A package of another release may have another name: then apt-get says so."""
SOURCE = (
    Package("emacs-el", r"\.el\.gz$"),
    Package("golang-1.19-src", r"/src/(?!.*/testdata/).*\.(go|s)$"),
    Package(
        "linux-source-6.1", r"/(?!.*(/drm/amd/include/|/Documentation/)).*(\.(c|h|S|rs|py|sh)|/Kconfig|/Makefile)$"
    ),
    Package("rust-src", r"/(library|compiler|src/(tools|librustdoc|bootstrap))/(?!.*/tests?/).*\.rs$"),
    Package("sbcl-source", r"\.(lisp|c|h|S)$"),
)


def docs(room: int, packages: tuple[Package, ...] = DOCS) -> Corpus:
    """At most `room` bytes of training prose; a paragraph that came before is dropped. Raises DataError."""
    return _corpus(packages, room, "prose", TELLING)


def source(room: int, packages: tuple[Package, ...] = SOURCE) -> Corpus:
    """At most `room` bytes of training code; a copied file, or a long paragraph such as a licence, is kept once. Raises DataError."""
    return _corpus(packages, room, "code", BOILERPLATE)


def _corpus(packages: tuple[Package, ...], room: int, kind: str, telling: int) -> Corpus:
    debs = fetch([package.name for package in packages], cache("debian"))
    documents: dict[str, str] = {}
    known: set[int] = set()
    with ProcessPoolExecutor(min(len(packages), len(os.sched_getaffinity(0)))) as pool:
        for found in pool.map(texts, packages, [debs[package.name] for package in packages]):
            for name, text in found.items():
                if (copy := mark(text)) in known:
                    continue
                known.add(copy)
                rest = fresh(text, known, telling).strip() + "\n"
                if len(rest) >= SHORTEST:
                    documents[name] = rest
    held = {name: text for name, text in documents.items() if part_of(name, ONE_IN) == 0}
    training = at_most({name: text for name, text in documents.items() if name not in held}, room)
    held = at_most(held, max(HELD_BYTES, size(training.values()) // (ONE_IN - 1)))
    versions = " ".join(f"{deb.name.removesuffix('.deb')}:{_sha(deb)[:12]}" for deb in debs.values())
    description = {"held_out": f"one in {ONE_IN} files", f"debian_{kind}": versions}
    return Corpus(training, held, dict.fromkeys(held, kind), _copies(held), description)


def _copies(held: dict[str, str]) -> list[str]:
    """The downloads, and the folders of this machine where the same files lie because their package is installed."""
    paths = {Path("/", re.sub(r"(?<=\.tar\.xz)/.*|:\d{5}$", "", name.split("/", 1)[1])) for name in held}
    return [str(cache("debian").resolve()), *sorted({str(path.parent) for path in paths if path.exists()})]


# --- packages --------------------------------------------------------------------------------------------------------


def fetch(names: list[str], folder: Path) -> dict[str, Path]:
    """The packages' .deb files in `folder`, by name; those not there yet are downloaded by apt-get. Raises DataError."""
    for tool in ("dpkg-deb", "apt-get"):
        if not shutil.which(tool):
            raise DataError(
                f"{tool} is missing: the debian corpora are assembled on a Debian 12 machine; load them elsewhere as `files`"
            )
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not _deb(name, folder)]
    if missing:
        got = subprocess.run(
            ["apt-get", "-q", "download", *missing], cwd=folder, capture_output=True, text=True, errors="replace"
        )
        missing = [name for name in names if not _deb(name, folder)]
        if missing:
            said = [line for line in got.stderr.splitlines() if line.startswith("E:")] or ["no reason given"]
            raise DataError(
                f"apt-get download {missing[0]}: {said[0][3:]}: run apt-get update; the recipe is for Debian 12"
            )
    return {name: deb for name in names if (deb := _deb(name, folder))}


def _deb(name: str, folder: Path) -> Path | None:
    found = sorted(folder.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _sha(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def members(deb: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files in a package, those of a .tar.xz or .zip in it included. Raises DataError."""
    process = subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            yield from _unpacked(archive)
    except (tarfile.TarError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{deb} cannot be unpacked ({error}): delete it and prepare again") from error
    finally:
        assert process.stdout
        process.stdout.close()
        code = process.wait()
    if code:
        raise DataError(f"{deb} cannot be unpacked (dpkg-deb exits {code}): delete it and prepare again")


def _unpacked(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        handle = archive.extractfile(member) if member.isreg() else None
        if handle is None:
            continue
        path = member.name.removeprefix("./")
        if path.endswith(".tar.xz"):
            with tarfile.open(fileobj=handle, mode="r|xz") as inner:
                for name, raw in _unpacked(inner):
                    yield f"{path}/{name}", raw
        else:
            yield path, handle.read()


def texts(package: Package, deb: Path) -> dict[str, str]:
    """The package's documents as plain text: name -> text, in the order of the names."""
    wanted = re.compile(package.files)
    found: dict[str, str] = {}
    for path, raw in members(deb):
        if not wanted.search("/" + path):
            continue
        name = f"{package.name}/{path}"
        if path.endswith((".gz", ".dz")):
            try:
                raw = gzip.decompress(raw)
            except (OSError, EOFError) as error:
                raise DataError(
                    f"{deb}: {path} cannot be read ({error}): delete the package and prepare again"
                ) from error
            path = path[:-3]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        text = text.replace("\r\n", "\n").replace("\0", "")
        if path.endswith(".html"):
            text = html_text(text)
        elif re.search(r"/man/man\d/", path):
            text = man_text(text)
        elif path.endswith(".dict"):
            found |= {f"{name}:{number:05d}": entry for number, entry in enumerate(pieces(_entries(text)))}
            continue
        elif path.rsplit(".", 1)[-1].lower() in CODE and (len(raw) > LARGEST or _table(text)):
            continue
        found[name] = text
    return {name: found[name] for name in sorted(found)}


def _table(text: str) -> bool:
    letters = sum(map(len, re.findall(r"[A-Za-z_\s]+", text)))
    numbers = sum(map(len, re.findall(r"0x\w+|\d+", text)))
    return letters < LETTERS * len(text) or numbers > 0.3 * len(text)


# --- plain text ------------------------------------------------------------------------------------------------------


def _entries(text: str) -> str:
    """A dictionary with a blank line before each headword, which begins its line."""
    return re.sub(r"\n+(?=\S)", "\n\n", text)


SILENT = {"script", "style", "head", "nav", "svg", "button", "form", "select", "noscript"}
BLOCK = set(
    re.findall(
        r"\w+",
        "p div section article h1 h2 h3 h4 h5 h6 ul ol dl table pre blockquote hr header footer main aside figure",
    )
)
SPACE = {"li": "\n- ", "td": " ", "th": " ", **dict.fromkeys(("br", "dt", "dd", "tr", "caption"), "\n")}


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.silent: list[str] = []
        self.pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            self.silent.append(tag)
        elif not self.silent:
            self.pre += tag == "pre"
            self.out.append(SPACE.get(tag, "\n\n" if tag in BLOCK else ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in SILENT:
            if tag in self.silent:
                while self.silent.pop() != tag:
                    pass
        elif not self.silent:
            self.pre = max(0, self.pre - (tag == "pre"))
            if tag in BLOCK:
                self.out.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.out.append(data if self.pre else re.sub(r"\s+", " ", data))


def html_text(source: str) -> str:
    """The text of a page: paragraphs behind blank lines, preformatted parts as they are, no scripts and menus."""
    parser = _Html()
    parser.feed(source)
    with contextlib.suppress(AssertionError):
        parser.close()
    return tidy("".join(parser.out))


def tidy(text: str) -> str:
    """Without blanks at the ends of lines and without more than one blank line."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t\xa0]+\n", "\n", text)).strip() + "\n"


MAN_ESCAPES = {
    "\\-": "-",
    "\\&": "",
    "\\e": "\\",
    "\\(aq": "'",
    "\\(dq": '"',
    "\\(bu": "*",
    "\\(em": "--",
    "\\(en": "-",
    "\\(co": "(C)",
}
MAN_ESCAPE = re.compile(r"\\f(\[\w*\]|\(\w\w|.)|\\s[+-]?\d|\\\((..)|\\\[(\w+)\]|\\\*\((..)|\\[-&e|^/,%: 0c]|\\$")


def _unescaped(line: str) -> str:
    def plain(match: re.Match[str]) -> str:
        return MAN_ESCAPES.get(match[0], " " if match[0] in ("\\ ", "\\0") else "")

    return MAN_ESCAPE.sub(plain, re.sub(r'(?<!\\)\\".*', "", line))


def man_text(source: str) -> str:
    """A manual page without its troff: headings and paragraphs behind blank lines, fonts dropped."""
    out, filled, term = (
        [""],
        True,
        False,
    )  # lines; whether source lines flow together; whether the next is a term, alone

    def say(text: str) -> None:
        nonlocal term
        if not text:
            out.extend(["", ""])
        elif not filled:
            out.append(text)
        else:
            out[-1] = f"{out[-1]} {text}" if out[-1] else text
        if term:
            out.append("")
            term = False

    for line in source.splitlines():
        if not line.startswith((".", "'")):
            say(_unescaped(line))
            continue
        found = re.match(r"[.']\s*([A-Za-z]+)\s*(.*)", line)
        if not found:  # a comment
            continue
        request, words = found[1], re.findall(r'"((?:[^"]|"")*)"|(\S+)', _unescaped(found[2]))
        said = [quoted or bare for quoted, bare in words]
        if request in ("SH", "SS", "TH"):
            out += ["", " ".join(said[:2] if request == "TH" else said), "", ""]
        elif request in ("PP", "P", "LP", "TP", "IP", "HP", "TQ", "sp"):
            out += ["", ""]
            term = request in ("TP", "TQ")
            if request == "IP" and said:
                out += [said[0], ""]
        elif request in ("nf", "EX", "fi", "EE"):
            filled = request in ("fi", "EE")
            out.append("")
        elif request in ("B", "I", "SM", "SB"):
            say(" ".join(said))
        elif request in ("BR", "BI", "IB", "IR", "RB", "RI"):
            say("".join(said))
        elif request == "br":
            out.append("")
    return tidy("\n".join(out))
