"""Metrics for a collector of text files, such as node_exporter's, from what ``power.py --status --json`` prints."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from powermeter.status import Status
from powermeter.views.page.metrics import text

if __name__ == "__main__":
    sys.stdout.write(text(Status.of(json.load(sys.stdin)), {}))
