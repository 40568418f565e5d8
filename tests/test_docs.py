"""The README and the pages under docs/ name commands, files and pictures that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.test_roles import parse

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = sorted(
    (page.name, found[1], page.parent)
    for page in PAGES
    for found in re.finditer(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    if "://" not in found[1]
)
COMMANDS = sorted(
    {
        (page.name, line)
        for page in PAGES
        for found in re.finditer(r"`(orgctl[^`\n]*)`|^    (?:[^`\n]*&& )?(orgctl .*)$", page.read_text(), re.MULTILINE)
        for line in re.split(r"\s{2,}(?=orgctl )", re.sub(r"\s+#.*?(?=\s{2,}orgctl |$)", "", found[1] or found[2]))
    }
)


@pytest.mark.parametrize(("page", "target", "folder"), LINKS)
def test_a_link_leads_somewhere(page: str, target: str, folder: Path) -> None:
    assert (folder / target).exists()


@pytest.mark.parametrize(("page", "line"), COMMANDS)
@pytest.mark.slow
def test_a_documented_command_exists_with_its_options(page: str, line: str) -> None:
    shown = line.replace("[--json]", "--json").replace("[--keep-runs]", "--keep-runs").replace("...", "words")
    try:
        parse(shown)
    except Exception as error:  # a command that is named in a sentence, not called, may lack its arguments
        if type(error).__name__ != "MissingParameter" or len(shlex.split(shown)) > 3:
            raise


def test_the_readme_begins_with_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.index("make up") < text.index("make test") < text.index("pip install")
    assert len(COMMANDS) > 20 and len(LINKS) > 5
