"""Pictures of captured screens: what a terminal shows is what the PNG shows."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

from PIL import Image

from tests.conftest import until

SCRIPT = Path(__file__).parents[2] / "docs" / "picture.py"
RED, PAPER = (224, 108, 117), (18, 21, 26)


def picture(tmp_path: Path, text: str, *options: str) -> Image.Image:
    out = tmp_path / "out.png"
    subprocess.run([sys.executable, str(SCRIPT), str(out), *options], input=text.encode(), check=True)
    return Image.open(out).convert("RGB")


def colours(image: Image.Image, columns: int, column: int) -> set[tuple[int, int, int]]:
    """Colours inside one cell of a line of `columns` cells (type of 15 pixels: 9 wide, a margin of 15)."""
    assert image.width == columns * 9 + 30
    cell = image.crop((15 + column * 9, 15, 24 + column * 9, 15 + image.height - 30))
    return {colour for _, colour in cell.getcolors(4096) or []}  # type: ignore[misc]


def test_colours_blocks_and_reverse_are_drawn_in_their_cells(tmp_path: Path) -> None:
    text = "\x1b[31m█\x1b[0m \x1b[48;5;196m \x1b[0m\x1b[38;2;1;2;3m█\x1b[0m\x1b[7m \x1b[0m\x1b]0;title\x07."
    image = picture(tmp_path, text)
    assert colours(image, 6, 0) == {RED}
    assert colours(image, 6, 1) == {PAPER}
    assert colours(image, 6, 2) == {(255, 0, 0)}
    assert colours(image, 6, 3) == {(1, 2, 3)}
    assert colours(image, 6, 4) == {(204, 208, 214)}
    assert PAPER in colours(image, 6, 5) and len(colours(image, 6, 5)) > 1


def test_lines_meet_without_gaps(tmp_path: Path) -> None:
    image = picture(tmp_path, "┌─┐\n│ │\n└─┘")
    across = [image.getpixel((x, 15 + (image.height - 30) // 6)) for x in range(15 + 4, 15 + 27 - 5)]
    down = [image.getpixel((15 + 4, y)) for y in range(15 + 10, image.height - 15 - 10)]
    assert PAPER not in across and PAPER not in down


def test_wide_letters_take_two_cells_and_marks_none(tmp_path: Path) -> None:
    assert picture(tmp_path, "字e\u0301").width == 3 * 9 + 30
    assert picture(tmp_path, "x", "--columns", "80").width == 80 * 9 + 30


def test_a_real_screen_becomes_a_picture(tmp_path: Path) -> None:
    socket = f"t{uuid.uuid4().hex[:10]}"
    tmux = ["tmux", "-u", "-L", socket, "-f", "/dev/null"]
    say = "printf '\\033[31m██\\033[0m'; exec sleep 1000"
    try:
        subprocess.run([*tmux, "new-session", "-d", "-x", "40", "-y", "5", "sh", "-c", say], check=True)
        capture = [*tmux, "capture-pane", "-e", "-p"]
        text = until(
            lambda: (found := subprocess.run(capture, capture_output=True).stdout.decode()).strip() and found, "it", 10
        )
        image = picture(tmp_path, text, "--columns", "40")
        assert colours(image, 40, 0) >= {RED} and colours(image, 40, 3) == {PAPER}
    finally:
        subprocess.run([*tmux, "kill-server"], capture_output=True)


def test_nothing_to_draw_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "x.png")], input=b"\n", capture_output=True)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and not (tmp_path / "x.png").exists()
