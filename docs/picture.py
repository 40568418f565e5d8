"""Render a captured terminal screen to a PNG, so that the documentation shows what is really there.

    tmux -L orgctl-NAME capture-pane -e -p -t %0 | python docs/picture.py board.png

To capture a whole client with its borders and status line, attach inside another tmux and capture that one's pane.
Reads text with SGR escapes (16, 256 and true colours, bold, dim, italic, underline, reverse) from standard input.
Draws with DejaVu Sans Mono, which ships with matplotlib; lines and blocks are drawn as shapes, so that they meet.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (204, 208, 214), (18, 21, 26)
BASIC = [
    (46, 52, 64), (224, 108, 117), (126, 190, 118), (222, 184, 102),
    (97, 160, 224), (198, 128, 212), (86, 182, 194), INK,
    (106, 114, 128), (240, 128, 136), (152, 216, 142), (240, 206, 128),
    (126, 186, 244), (216, 156, 230), (116, 208, 218), (255, 255, 255),
]  # fmt: skip
"""The sixteen colours that a terminal's theme chooses; the other 240 are fixed by xterm."""
ESCAPE = re.compile(r"\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.|([\x0e\x0f])")
LINE_DRAWING = dict(zip("lqkxmjtuvwn", "┌─┐│└┘├┤┴┬┼", strict=True))
"""What the VT100's alternate character set, which tmux marks by SO and SI, means in Unicode."""
ARMS = {
    "─": "lr", "│": "ud", "┌": "rd", "┐": "ld", "└": "ru", "┘": "lu",
    "├": "rud", "┤": "lud", "┬": "lrd", "┴": "lru", "┼": "lrud",
    "╭": "rd", "╮": "ld", "╰": "ru", "╯": "lu", "━": "LR", "┃": "UD",
    "╴": "l", "╵": "u", "╶": "r", "╷": "d", "╸": "L", "╺": "R",
}  # fmt: skip
"""Which of left, right, up, down a line character reaches; capitals for heavy strokes."""

_SWITCHES = {
    1: {"bold": True}, 2: {"dim": True}, 3: {"italic": True}, 4: {"underline": True}, 7: {"reverse": True},
    22: {"bold": False, "dim": False}, 23: {"italic": False}, 24: {"underline": False}, 27: {"reverse": False},
}  # fmt: skip
"""What an SGR code turns on or off."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Style:
    """How a cell is drawn. None: the terminal's own colour."""

    ink: Colour | None = None
    paper: Colour | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    reverse: bool = False

    def colours(self) -> tuple[Colour, Colour]:
        """(ink, paper) as they are seen."""
        ink, paper = self.ink or INK, self.paper or PAPER
        if self.reverse:
            ink, paper = paper, ink
        if self.dim:
            ink = _mix(ink, paper, 0.45)
        return ink, paper


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def indexed(number: int) -> Colour:
    """Colour of the 256-colour palette: 16 of the theme, a 6x6x6 cube, 24 greys."""
    if number < 16:
        return BASIC[number]
    if number < 232:
        red, green, blue = (number - 16) // 36, (number - 16) // 6 % 6, (number - 16) % 6
        levels = (0, 95, 135, 175, 215, 255)
        return levels[red], levels[green], levels[blue]
    grey = 8 + 10 * (min(number, 255) - 232)
    return grey, grey, grey


def restyle(style: Style, codes: str) -> Style:
    """The style after one SGR sequence (its numbers, joined by `;` or `:`)."""
    numbers = [int(part) if part else 0 for part in re.split("[;:]", codes)]
    while numbers:
        code = numbers.pop(0)
        if code == 0:
            style = Style()
        elif code in (38, 48) and numbers:
            kind = numbers.pop(0)
            count = 1 if kind == 5 else 3
            values, numbers = numbers[:count], numbers[count:]
            if len(values) == count:
                colour = indexed(values[0]) if kind == 5 else (values[0], values[1], values[2])
                style = replace(style, ink=colour) if code == 38 else replace(style, paper=colour)
        elif code in _SWITCHES:
            for name, on in _SWITCHES[code].items():
                style = replace(style, **{name: on})  # type: ignore[arg-type]
        elif 30 <= code <= 37 or 90 <= code <= 97:
            style = replace(style, ink=BASIC[code - 30 if code < 90 else code - 82])
        elif 40 <= code <= 47 or 100 <= code <= 107:
            style = replace(style, paper=BASIC[code - 40 if code < 100 else code - 92])
        elif code == 39:
            style = replace(style, ink=None)
        elif code == 49:
            style = replace(style, paper=None)
    return style


def parse(text: str) -> list[list[tuple[str, Style]]]:
    """Lines of cells. A wide character is followed by an empty cell; combining marks join the cell before them."""
    style, drawing = Style(), False
    lines: list[list[tuple[str, Style]]] = []
    for raw in text.rstrip("\n").split("\n"):
        cells: list[tuple[str, Style]] = []
        place = 0
        while place < len(raw):
            found = ESCAPE.match(raw, place)
            if found:
                if found[1] is not None:
                    style = restyle(style, found[1])
                elif found[2]:
                    drawing = found[2] == "\x0e"
                place = found.end()
                continue
            letter = raw[place]
            place += 1
            if unicodedata.combining(letter) and cells:
                cells[-1] = (cells[-1][0] + letter, cells[-1][1])
            elif letter.isprintable():
                cells.append((LINE_DRAWING.get(letter, letter) if drawing else letter, style))
                if unicodedata.east_asian_width(letter) in "WF":
                    cells.append(("", style))
        lines.append(cells)
    return lines


@cache
def font(points: int, bold: bool, italic: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSansMono" + ("-" if bold or italic else "") + ("Bold" if bold else "") + ("Oblique" if italic else "")
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), points)


def render(text: str, points: int = 15, columns: int = 0) -> Image.Image:
    """The screen as a picture; as wide as its longest line, or `columns` if that is more."""
    lines = parse(text)
    plain = font(points, False, False)
    wide = round(plain.getlength("M"))
    ascent, descent = plain.getmetrics()
    tall = ascent + descent
    pad = points
    across = max([columns, *(len(line) for line in lines)])
    image = Image.new("RGB", (across * wide + 2 * pad, len(lines) * tall + 2 * pad), PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        for column, (_, style) in enumerate(line):  # all backgrounds first: letters may reach over their cell
            x, y = pad + column * wide, pad + row * tall
            draw.rectangle((x, y, x + wide - 1, y + tall - 1), style.colours()[1])
        for column, (letter, style) in enumerate(line):
            x, y = pad + column * wide, pad + row * tall
            ink, paper = style.colours()
            if letter.strip() and not _shape(draw, letter, (x, y, wide, tall), ink, paper):
                draw.text((x, y), letter, ink, font(points, style.bold, style.italic))
            if style.underline:
                draw.line((x, y + ascent + 1, x + wide - 1, y + ascent + 1), ink)
    return image


def _shape(draw: ImageDraw.ImageDraw, letter: str, cell: tuple[int, int, int, int], ink: Colour, paper: Colour) -> bool:
    """Draw a line, block or shade character as a shape that reaches its cell's edges; False for any other character."""
    x, y, wide, tall = cell
    right, bottom = x + wide - 1, y + tall - 1
    code = ord(letter[0])
    if 0x2581 <= code <= 0x2588:  # lower eighths
        draw.rectangle((x, y + tall - round(tall * (code - 0x2580) / 8), right, bottom), ink)
    elif 0x2589 <= code <= 0x258F:  # left eighths
        draw.rectangle((x, y, x + max(1, round(wide * (0x2590 - code) / 8)) - 1, bottom), ink)
    elif letter == "▀":
        draw.rectangle((x, y, right, y + tall // 2 - 1), ink)
    elif letter == "▐":
        draw.rectangle((x + wide // 2, y, right, bottom), ink)
    elif letter in "░▒▓":
        draw.rectangle((x, y, right, bottom), _mix(paper, ink, (code - 0x2590) / 4))
    elif letter in ARMS:
        middle, centre = x + wide // 2, y + tall // 2
        for arm in ARMS[letter]:
            half = 1 if arm.isupper() else 0
            span = {"l": (x, middle), "r": (middle, right)}.get(arm.lower())
            if span:
                draw.rectangle((span[0], centre - half, span[1], centre + half), ink)
            else:
                rise = (y, centre) if arm.lower() == "u" else (centre, bottom)
                draw.rectangle((middle - half, rise[0], middle + half, rise[1]), ink)
        if letter in "╭╮╰╯":  # round the corner
            draw.point((middle, centre), paper)
    else:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Render a captured terminal screen (standard input) to a PNG.")
    parser.add_argument("png", type=Path, help="file to write")
    parser.add_argument("--points", type=int, default=15, help="size of the type, in pixels (default 15)")
    parser.add_argument("--columns", type=int, default=0, help="least width, in characters")
    options = parser.parse_args()
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    if not text.strip():
        print("picture.py: nothing on standard input: pipe `tmux capture-pane -e -p` into it", file=sys.stderr)
        return 2
    image = render(text, options.points, options.columns)
    image.quantize(256, dither=Image.Dither.NONE).save(options.png, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
