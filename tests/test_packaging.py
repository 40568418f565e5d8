"""The wheel: what it carries, what it leaves off the import path, and that an organisation can be founded from it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def told(argv: list[str | Path], cwd: Path, **env: str) -> str:
    """Run, expect success, and give back what was printed."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8", **env}
    done = subprocess.run(list(map(str, argv)), cwd=cwd, env=clean, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "pip wheel --quiet --no-deps --no-index --no-build-isolation --disable-pip-version-check"
    told([sys.executable, "-m", *build.split(), "--wheel-dir", folder, ROOT], folder)
    (made,) = folder.glob("orgctl-*.whl")
    return made


def environment(folder: Path, *what: str | Path) -> Path:
    """A fresh virtual environment in which pip installed `what`. Returns its `bin`.

    Dependencies come from the environment of the tests, as a plain path: .pth files in there are not followed, so an
    editable install of orgctl in it stays out.
    """
    told([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    install = "install --quiet --no-deps --no-index --no-build-isolation --ignore-installed --disable-pip-version-check"
    told([sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *install.split(), *what], folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment in which orgctl is installed from the wheel."""
    return environment(tmp_path_factory.mktemp("installed") / "venv", wheel)


def test_the_wheel_carries_designs_roles_skills_and_every_file_of_the_task(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {f"org/designs/{path.name}" for path in (ROOT / "org" / "designs").glob("*.yaml")}
    expected |= {f"roles/{path.relative_to(ROOT / 'roles')}" for path in (ROOT / "roles").rglob("*.md")}
    expected |= {f"tasks/nanochat/{path.name}" for path in (ROOT / "tasks" / "nanochat").glob("*.yaml")}
    code = {f"tasks/nanochat/workspace/nanochat/{path.name}" for path in (ROOT / "nanochat").glob("*.py")}
    assert {"org/designs/chief.yaml", "roles/researcher.md", "tasks/nanochat/task.yaml"} < expected and len(code) > 3
    assert expected | code <= inside, f"missing: {sorted((expected | code) - inside)}"
    strangers = [name for name in inside if name.split("/")[0] not in (
        "orgctl.py", "org", "lab", "tasks", "worktrees", "comms", "roles", "orgctl-0.1.0.dist-info",
    ) or "__pycache__" in name]
    assert not strangers


def test_nothing_but_the_rooms_is_importable_from_an_installation(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util as u, org, orgctl\n"
        "print(org.__file__)\n"
        "print([n for n in ('nanochat', 'tests', 'benchmarks', 'docs') if u.find_spec(n)])"
    )
    where, found = told([installed / "python", "-P", "-c", code], tmp_path).splitlines()
    assert Path(where).is_relative_to(installed.parent) and found == "[]"


def test_an_installed_orgctl_helps_and_examines_the_machine(installed: Path, tmp_path: Path) -> None:
    said = told([installed / "orgctl", "--help"], tmp_path)
    for command in ("up", "status", "attach", "down", "logs", "doctor", "report"):
        assert f" {command} " in said
    said = told([installed / "orgctl", "doctor"], tmp_path)
    assert "torch" in said and "orgctl up can work here" in said


def test_an_installed_orgctl_founds_a_research_repository(installed: Path, tmp_path: Path) -> None:
    home = tmp_path / "research"
    told([installed / "orgctl", "init", "research", "--scale", "tiny"], tmp_path)
    tracked = told(["git", "ls-files"], home).splitlines()
    assert "nanochat/gpt.py" in tracked and "nanochat/train.py" in tracked
    assert told(["git", "branch", "--list", "org/trunk"], home).strip()
    assert (home / ".org" / "org.yaml").is_file() and (home / ".org" / "data" / "manifest.json").is_file()


def test_an_editable_install_runs_the_checkout_from_anywhere(tmp_path: Path) -> None:
    bin_ = environment(tmp_path / "venv", "-e", ROOT)
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    assert not (site / "tasks").exists(), "a copy would hide the checkout's package of that name"
    code = "import importlib.util as u, tasks.spec as t, org\nprint(t.__file__, org.__file__, u.find_spec('nanochat'))"
    said = told([bin_ / "python", "-P", "-c", code], tmp_path).strip()
    assert said == f"{ROOT / 'tasks' / 'spec.py'} {ROOT / 'org' / '__init__.py'} None"
    assert "doctor" in told([bin_ / "orgctl", "--help"], tmp_path)
