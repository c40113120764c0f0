"""
What is not possible from outside, for a real process of the program: put this directory and src on PYTHONPATH.

``POWER_NAMES`` names a file with the host names under .test that resolve now, to loopback; all others there are as if
no name server answered.

``POWER_BUGS`` names a directory, and with it come bugs on purpose. In it the file ``methods`` has a line for each
method that can be made to raise, ``module:Class.method``. While there is a file of that line's name a call of the
method raises the exception of builtins named in it; with a thread's name after it, only in that thread. The
file ``log`` tells what happened: ``thread NAME`` for each that was started, ``called LINE TIME`` for each call,
``raised LINE TIME`` for each bug.
"""

import builtins
import functools
import importlib
import os
import socket
import threading
import time

DIRECTORY = os.environ.get("POWER_BUGS")
NAMES = os.environ.get("POWER_NAMES")


def note(*words):
    with open(os.path.join(DIRECTORY, "log"), "a", encoding="utf-8") as log:
        log.write(" ".join(str(word) for word in words) + "\n")


def bug(line):
    """The exception that a call of *line* is to raise on this thread now; None for none."""
    try:
        with open(os.path.join(DIRECTORY, line), encoding="utf-8") as file:
            kind, _, thread = file.read().partition(" ")
    except FileNotFoundError:
        return None
    if thread not in ("", threading.current_thread().name):
        return None
    return getattr(builtins, kind)("a bug on purpose")


def wrap(line):
    """Have the method of *line* raise on demand."""
    module, _, path = line.partition(":")
    class_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), class_name)
    method = getattr(owner, name)

    @functools.wraps(method)
    def call(*args, **kwargs):
        error = bug(line)
        note("called" if error is None else "raised", line, time.monotonic())
        if error is not None:
            raise error
        return method(*args, **kwargs)

    setattr(owner, name, call)


def watch_threads():
    start = threading.Thread.start

    @functools.wraps(start)
    def noted(self):
        note("thread", self.name)
        start(self)

    threading.Thread.start = noted


def resolve_by(path):
    resolve = socket.getaddrinfo

    @functools.wraps(resolve)
    def resolved(host, *args, **kwargs):
        if str(host).endswith(".test"):
            with open(path, encoding="utf-8") as names:
                if host not in names.read().split():
                    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            host = "127.0.0.1"
        return resolve(host, *args, **kwargs)

    socket.getaddrinfo = resolved


if NAMES:
    resolve_by(NAMES)
if DIRECTORY:
    watch_threads()
    with open(os.path.join(DIRECTORY, "methods"), encoding="utf-8") as methods:
        for each in methods.read().split():
            wrap(each)
