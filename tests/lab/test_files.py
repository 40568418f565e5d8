"""Files that others left: read when they are plain, refused with the reason when they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.files import read_json, read_plain, write_json
from org import passages


def test_only_a_plain_file_of_a_bearable_size_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "good.json", {"a": 1})
    (tmp_path / "link.json").symlink_to(tmp_path / "good.json")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "huge.json").write_text('{"a": 1' + " " * 100 + "}")
    for name, why in (("link", "no plain file"), ("folder", "no plain file"), ("pipe", "no plain file"), ("huge", "108 bytes")):
        with pytest.raises(ValueError, match=why):
            read_plain(tmp_path / f"{name}.json", 50)
        assert read_json(tmp_path / f"{name}.json", 50) is None
    assert passages.read(tmp_path / "folder.json") is passages.read(tmp_path / "link.json") is None
    assert read_plain(tmp_path / "nobody") is None and read_json(tmp_path / "nobody") is None
    assert read_json(tmp_path / "good.json", 50) == {"a": 1}
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert read_json(tmp_path / "deep.json") is None
