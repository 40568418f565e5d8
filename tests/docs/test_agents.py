"""The example of docs/agents.md is a backend that works, found through its entry point as another package would offer it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from comms.mailbox import Mail
from lab.home import Home
from org.agents import base
from org.agents.event import read_events
from tests.conftest import until

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"


def test_the_example_backend_is_short_and_answers_its_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_env: dict[str, str]
) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert code.count("\n") < 60
    package = tmp_path / "site"
    (package / "parrot-1.dist-info").mkdir(parents=True)
    (package / "parrot-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot\nVersion: 1\n")
    assert 'parrot = "parrot:BACKEND"' in code
    (package / "parrot-1.dist-info" / "entry_points.txt").write_text("[orgctl.backends]\nparrot = parrot:BACKEND\n")
    (package / "parrot.py").write_text(code)
    monkeypatch.syspath_prepend(str(package))
    assert "parrot" in base.names()
    backend = base.load("parrot")
    assert "word" in str(backend.missing({})) and backend.missing({"word": "yes"}) is None

    home = Home(tmp_path / "research")
    home.make()
    home.settings.write_text("name: t\n")
    mail = Mail(home.comms)
    seat = base.Seat(home, "r1", "researcher", "parrot", None, {"word": "I hear"})
    launch = backend.launch(seat)
    env = {**clean_env, **base.seat_env(seat), **launch.env}
    process = subprocess.Popen(launch.argv, cwd=launch.cwd, env=env)
    try:
        mail.send("person", "r1", "hello", about="E0001")
        (answer,) = until(lambda: mail.inbox("person"), "an answer")
        assert (answer.sender, answer.body.strip(), answer.about) == ("r1", "I hear: hello", "E0001")
        until(lambda: [one["state"] for one in read_events(home, "r1", 9)] == ["idle", "working", "idle"], "its states")
    finally:
        process.kill()
        process.wait()
