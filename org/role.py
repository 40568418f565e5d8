"""A role: the Markdown file that tells an agent what it is for, and the skills (how-tos) that the file lists.

Called by `org.design`, which checks that every role exists and hashes what was read: roles and skills are source code
of the organisation. A role file may open with YAML front matter: `title`, and `skills` (names of files in `skills/`
beside it, or of shipped ones).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab.errors import UserError
from org.agents.lines import opened
from org.written import PlainLoader

SHIPPED = Path(__file__).resolve().parent.parent / "roles"
"""Lies beside the rooms in a source checkout and in an installed wheel alike."""
CHIEF = "chief-scientist"
"""The role that promotes and orders confirmations where a design leaves that to a chief."""
SKEPTIC = "skeptic"
"""The role whose review a promotion waits for, where a design says `promotion: skeptic`."""
RESEARCHERS = ("researcher", "solo", "autoresearch")
"""Roles whose agents are called r1, r2, ..."""
LIMIT_BYTES = 100_000
HUMAN = "human"
"""The role of a seat that only a person fills."""


@dataclass(frozen=True)
class Role:
    """One role with the text of its skills. `files`: `roles/<name>.md` and `roles/skills/<skill>.md` -> content."""

    name: str
    title: str
    text: str
    skills: dict[str, str]
    files: dict[str, bytes]

    def hashes(self) -> dict[str, str]:
        """SHA-256 (hex) of each file that the role consists of."""
        return {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}


def find(*folders: Path) -> dict[str, Path]:
    """Role name -> file, of the shipped roles and of `folders`; a later folder's file replaces one of the same name."""
    return {path.stem: path for folder in (SHIPPED, *folders) for path in sorted(folder.glob("*.md"))}


def load(name: str, path: Path) -> Role:
    """Read a role and its skills. Raises UserError naming the file when one is missing, unreadable or malformed."""
    raw = _read(path, f"role {name}")
    title, skills, text = _front_matter(path, raw)
    if not text.strip():
        raise UserError(f"{path}: says nothing: a role is told in words, as in {SHIPPED / 'researcher.md'}")
    files = {f"roles/{name}.md": raw}
    texts: dict[str, str] = {}
    for skill in skills:
        own, ours = path.parent / "skills" / f"{skill}.md", SHIPPED / "skills" / f"{skill}.md"
        content = _read(ours if ours.is_file() and not own.is_file() else own, f"skill {skill} (listed by {path})")
        files[f"roles/skills/{skill}.md"] = content
        texts[skill] = content.decode("utf-8", "replace")
    return Role(name, title or name, text, texts, files)


def _read(path: Path, what: str) -> bytes:
    try:
        with opened(path) as handle:
            found = handle.read(LIMIT_BYTES + 1)
    except OSError as error:  # also for what is no file: a pipe would hold up who opens it for ever
        why = f"{path} cannot be read: {error.strerror}"
        raise UserError(f"{what}: {why}: write that file or choose another role") from error
    if len(found) > LIMIT_BYTES:
        raise UserError(f"{what}: {path} has more than {LIMIT_BYTES:,} bytes, all of which its agent would read each time: shorten it")
    return found


def _front_matter(path: Path, raw: bytes) -> tuple[str, list[str], str]:
    """(title, skill names, the text after the front matter)."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    if not text.startswith("---\n"):
        return "", [], text
    head, found, body = text[4:].partition("\n---\n")
    if not found:
        raise UserError(f"{path}: the front matter has no closing line `---`: add one")
    try:
        fields = yaml.load(head, PlainLoader) or {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise UserError(f"{path}: line {line}: malformed YAML in the front matter: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: malformed YAML in the front matter: write `title` and `skills` only") from error
    if not isinstance(fields, dict) or not set(fields) <= {"title", "skills"}:
        raise UserError(f"{path}: the front matter may hold `title` and `skills` only")
    title, skills = fields.get("title", ""), fields.get("skills") or []
    if not isinstance(title, str):
        raise UserError(f"{path}: title: must be text")
    if not isinstance(skills, list) or not all(isinstance(item, str) and item and "/" not in item for item in skills):
        raise UserError(f"{path}: skills: must be a list of names of files in {path.parent / 'skills'}, without .md")
    return title, skills, body
