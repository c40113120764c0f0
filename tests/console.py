"""
The command lines in a page of the handbook, and what one sees below them.

For the tests that run them, and for tools/newcomer.py, which does that as a newcomer would.
"""

import itertools
import re
import textwrap
from dataclasses import dataclass, field


@dataclass
class Command:
    """A command line of a page, what one sees below it, and, of an editor, what one writes with it."""

    text: str
    seen: list[str] = field(default_factory=list)
    on_the_pi: bool = False
    fails: bool = False
    written: str = ""


def blocks(text, *languages):
    """The code blocks of *languages* in the reStructuredText *text*: each its language, its classes and its lines."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        begun = re.fullmatch(r"( *)\.\. code-block:: (\S+)", line)
        if not begun or begun[2] not in languages:
            continue
        inner = []
        for below in lines[number + 1 :]:
            if below.strip() and len(below) - len(below.lstrip()) <= len(begun[1]):
                break
            inner.append(below)
        body = textwrap.dedent("\n".join(inner)).split("\n")
        options = list(itertools.takewhile(str.strip, body))
        classes = [word for row in options if row.startswith(":class:") for word in row.split()[1:]]
        found.append((begun[2], classes, [row.rstrip() for row in body[len(options) :]]))
    return found


def commands(text):
    """The command lines of the console blocks of *text*; a python block behind an editor is written with that."""
    found = []
    for language, classes, lines in blocks(text, "console", "python"):
        if "elsewhere" in classes:  # another test executes it
            continue
        if language == "python":
            if found and re.fullmatch(r"nano \S*settings\.py", found[-1].text):
                found[-1].written += "\n".join(lines)
            continue
        first = len(found)
        for line in lines:
            if line.startswith("$ "):
                found.append(Command(line[2:], on_the_pi="on-the-pi" in classes))
            elif len(found) > first and re.match(">( |$)", line) and not found[-1].seen:
                found[-1].text += "\n" + line[2:]
            elif len(found) > first:
                found[-1].seen.append(line)
            else:
                assert not line, f"before the first command: {line}"
        assert len(found) > first, "a console block without a command"
        for command in found[first:]:
            while command.seen and not command.seen[-1]:
                command.seen.pop()
        found[-1].fails = "fails" in classes
    return found


def same(wanted, seen):
    """Whether the lines *wanted*, as a page has them, are the text *seen*."""

    def plain(text):
        text = text.replace("/run/power/power.pid", "/home/you/.local/state/power/power.pid")
        text = text.replace("/var/lib/power", "/home/you/.local/state/power")
        return re.sub(r"\d+(?:[.,:]\d+)*", "0", "\n".join(line.rstrip() for line in text.strip().splitlines()))

    parts = re.split(r"\n?\.\.\.\n?", plain("\n".join(wanted)))
    return re.fullmatch(r"(?:.|\n)*".join(map(re.escape, parts)), plain(seen)) is not None


def screen(output):
    """What a terminal shows after *output*: as much of one as the live line needs."""
    lines, row, column = [""], 0, 0
    for control, final, plain in re.findall(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b]|\x1b)", output):
        if plain == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif plain == "\r":
            column = 0
        elif final == "A":
            row = max(0, row - int(control or 1))
        elif final == "K":
            lines[row] = ""
        elif plain:
            lines[row] = lines[row].ljust(column)[:column] + plain + lines[row][column + 1 :]
            column += 1
    return "\n".join(lines).replace("^C", "")
