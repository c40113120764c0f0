"""Words that this project once used in ways that a reader stumbles over, and what to write instead."""

import io
import re
import subprocess
import tokenize
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent

_COUNTED = (
    "pulse|meter|writer|module|library|page|period|commit|setting|key|message|test|line|hour|day|second|minute|service|"
    "view|edge|flash|row|process|board|table|input"
)
_THING = "line|point|file|module|thread|row|gauge|request|one|card|entry|pin|bytes?|seconds?|ms|µs"
#: What to look for, and what to write instead.
WORDS = {
    rf"\b(?:{_THING}) an? (?:{_COUNTED})\b": "one line per pulse",
    r"\b[Bb]y (?:``)?(?:gpiod|RPi\.GPIO\b(?!'s)|the defaults?\b)": "with gpiod",
    r"\bcan(?:no|'|)t be had\b": "is not available",
    r"\b(?:is|are|was) none\b": "is not one, does not exist",
    r"\banew\b": "again",
    r"\bof ours\b": "our",
    r"\balone\b": "only; by itself",
    r"\b(?:is|are|was|were|be|been) (?:told|said)\b": "is reported, is logged, is shown",
    r"\b(?:stands?|stood) (?:in|there|elsewhere|on|under|below|beside)\b": "is in, is saved in",
    r"\b[Oo]f an? \w+ (?:it|nobody|nothing)\b": "a sentence with a subject",
    r"\b(?:is|was) meant so\b|\b[Hh]ave it (?:used|looked|done)\b": "this is intentional; apply it",
    r"\b(?:is|are|was) well\b(?!-)|\bthat (?:is|are) well\b": "is healthy",
    r"\bMOST_\w+": "MAX_",
}
_WORDS = [(re.compile(pattern), better) for pattern, better in WORDS.items()]

#: Where such words are right, and why.
RIGHT = (
    ("[Aa]ll is well", "what the page and lamp L2 mean is an idiom"),
    ("there is none\\b|there was none\\b", "'None if there is none' is how one says it"),
    ("(?:left|[Ll]eaves?|let) (?:\\S+ ){0,4}alone", "to leave alone is an idiom"),
)
_RIGHT = [re.compile(pattern) for pattern, _reason in RIGHT]


def passages(path):
    """Of the file *path*, (line number, text): of Python the comments and what is in quotes, of others each line."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield from enumerate(token.string.splitlines(), token.start[0])
        elif token.type == tokenize.NAME and token.string.startswith("MOST_"):
            yield token.start[0], token.string


def stumbles(path):
    """The words of the list that are in the file *path*, each with its line number and what to write instead."""
    for number, text in passages(path):
        kept = text
        for right in _RIGHT:
            kept = right.sub("", kept)
        for pattern, better in _WORDS:
            if found := pattern.search(kept):
                yield f"{path.relative_to(TOP)}:{number}: {found[0]!r}: {better}"


def tracked():
    """The files that people read: code, scripts and handbook. This one names the words that it looks for."""
    names = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True).stdout.split("\n")
    return [name for name in names if name.endswith((".py", ".rst", ".sh", ".example", ".js")) and name != SELF]


SELF = Path(__file__).relative_to(TOP).as_posix()

#: A line of old, one for each entry of the list.
OLD = """\
It writes a line a pulse.
By gpiod the kernel stamps.
Where it can't be had, another is used.
What is none is left out.
It is opened anew.
A method of ours raises.
The file alone is written.
Each trouble is said.
The pulses stand in power.csv.
Of a writer it may be unreadable how far it was.
It is meant so.
A disk that is well takes it.
MOST_PULSES
"""


def test_nothing_makes_a_reader_stumble():
    """No file of the project has a word of the list, but where it is right."""
    assert [line for name in tracked() for line in stumbles(TOP / name)] == []


def test_the_list_finds_what_it_is_for(tmp_path, monkeypatch):
    """Each entry of the list is found in a line of old, in text and in Python's comments, strings and names."""
    monkeypatch.setitem(globals(), "TOP", tmp_path)
    text, code = tmp_path / "old.rst", tmp_path / "old.py"
    text.write_text(OLD)
    code.write_text("".join(f"# {line}\n" for line in OLD.splitlines()[:-1]) + OLD.splitlines()[-1] + " = 1\n")
    for path in (text, code):
        found = list(stumbles(path))
        assert [line.split(":")[1] for line in found] == [str(number) for number in range(1, len(WORDS) + 1)]


def test_no_exception_is_left_over():
    """Each exception is used."""
    texts = [(TOP / name).read_text() for name in tracked()]
    assert [right.pattern for right in _RIGHT if not any(right.search(text) for text in texts)] == []
