"""No secret in what is shown of an answer, in whatever form a service says it back."""

import base64
import html
import json
import re
import time
import urllib.parse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from powermeter.settings.values import Secret
from powermeter.writers.blotter import MAX_BLOTTED, Blotter, one_line


def lower(quoted):
    """What was quoted for a URL, its digits in lower case."""
    return re.sub("%..", lambda match: match[0].lower(), quoted)


#: What a service may make of a text, by name.
FORMS = {
    "as it is": str,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, upper case": lambda text: re.sub(r"u[0-9a-f]{4}", lambda m: "u" + m[0][1:].upper(), json.dumps(text))[1:-1],
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", r"\/"),
    "JSON of Go": lambda text: re.sub("[<>&]", lambda m: f"\\u{ord(m[0]):04x}", json.dumps(text)[1:-1]),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "a URL's path": urllib.parse.quote,
    "a URL's query": lambda text: urllib.parse.quote(text, safe=""),
    "a form": urllib.parse.quote_plus,
    "a form, lower case": lambda text: lower(urllib.parse.quote_plus(text)),
    "a URL, all of it": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "a form in JSON in a form": lambda text: urllib.parse.quote_plus(json.dumps(urllib.parse.quote_plus(text))[1:-1]),
    "HTML": html.escape,
    "HTML, decimal": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(c):x};" for c in text),
    "HTML, upper case": lambda text: "".join(f"&#X{ord(c):04X};" for c in text),
    "HTML of names": lambda text: text.translate({ord(c): f"&{n};" for n, c in NAMED.items()}),
    "a string of Python": lambda text: repr(text)[1:-1],
    "a string of Python, ASCII": lambda text: ascii(text)[1:-1],
    "bytes of Python": lambda text: repr(text.encode())[2:-1],
    "a shell": re.escape,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "Basic": lambda text: base64.b64encode(f"me:{text}".encode()).decode(),
    "Basic in a URL": lambda text: urllib.parse.quote(base64.b64encode(f"me:{text}".encode()).decode(), safe=""),
    "Basic in JSON": lambda text: base64.b64encode(f"me:{text}".encode()).decode().replace("/", r"\/"),
}
NAMED = {
    "amp": "&",
    "lt": "<",
    "gt": ">",
    "quot": '"',
    "apos": "'",
    "auml": "ä",
    "euro": "€",
    "sol": "/",
    "percnt": "%",
}

PASSWORDS = st.text(st.characters(exclude_categories=["C"]).filter(str.isprintable), min_size=4, max_size=60)


@given(PASSWORDS)
def test_no_form_of_a_secret_is_shown(password):
    """Whatever the password is, none of its forms appears in what is shown."""
    assume("*" not in password)  # what hides it
    blot = Blotter("me", Secret(password), None)
    for name, write in FORMS.items():
        form = write(password)
        shown = one_line(f'{{"error": "{form}"}}, and once more: "{form}"', blot)
        assert form not in shown, name
        assert shown.count("***") >= 1, name


@pytest.mark.parametrize("name", FORMS)
def test_a_password_of_all_kinds(name):
    """One password with a character of every kind is hidden in each form, and what stands around it is not."""
    password = "a&b<c>\"d'e\\f/g%h+i j ä€😀?="
    shown = one_line(f"before <{FORMS[name](password)}> after", Blotter("me", Secret(password)))
    assert re.fullmatch(r"before <\*\*\*(=|%3D){0,2}> after", shown), shown


def test_a_short_secret_is_hidden_as_a_word():
    """A secret of three characters is part of many words: only where it stands by itself it is hidden."""
    blot = Blotter("me", Secret("a&b"), Secret("on"))
    assert blot("wrong: a&b, a&amp;b, a%26b; on monday") == "wrong: ***, ***, ***; *** monday"


def test_a_secret_over_several_lines():
    """A service may break the line within a secret."""
    assert one_line("wrong: hunter 2\nhunter\r\n   2.", Blotter("me", Secret("hunter 2"))) == "wrong: *** ***."


def test_no_secrets():
    """Without a secret nothing is hidden."""
    assert one_line("as it is", Blotter(None, None, Secret(""))) == "as it is"


@given(st.integers(0, 40))
def test_the_end_of_what_is_looked_at(before):
    """Of a long answer the beginning is looked at: a secret that goes on beyond it is not shown in part."""
    blot = Blotter("me", Secret("hunter2-hunter2-hunter2"))
    shown = blot("x" * (MAX_BLOTTED - before) + "%68unter2-hunter2-hunter2" * 2000)
    assert "unter" not in shown


@pytest.mark.parametrize("password", ["\\134" * 20, " +" * 20 + "!", "%25" * 20, "&amp;" * 20, "\\" * 40, "\\x5c" * 20])
def test_no_answer_takes_long(password):
    """The time does not grow with the ways in which a text can be read, whoever chose it."""
    begun_s = time.monotonic()
    for text in (password, password[:-1], *(write(password[:-1]) for write in FORMS.values())):
        one_line(text * (65536 // len(text)), Blotter("me", Secret(password)))
    assert time.monotonic() - begun_s < 20
