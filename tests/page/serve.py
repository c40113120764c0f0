"""The page over a simulated household's journal, in a process of its own: for tests, and to look at by hand."""

import json
import sys
import time
from pathlib import Path

import waitress

from powermeter.past import open_journal
from powermeter.settings.values import ShownAs
from powermeter.views.page.app import make_app


def main(directory: Path, port: int, meters: dict[str, list[str | None]]) -> None:
    """Serve *directory*, which has the status in now.json, on *port*; *meters*: label and direction by name."""
    shown_as = {name: ShownAs(label, direction or "import") for name, (label, direction) in meters.items()}
    path = directory / "journal.db"
    if not path.exists():
        impulses = dict.fromkeys(shown_as, 1000.0)
        open_journal(time.time(), str(path), impulses, stopped=lambda: False, suspect=False).close()

    def ask() -> dict:
        return json.loads((directory / "now.json").read_text())

    waitress.serve(make_app(ask, str(path), shown_as), host="127.0.0.1", port=port, threads=4, ident=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
