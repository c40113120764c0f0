"""
Yardstick "sketch": near the limit of what Python can do, a limit and no design.

One thread, one poll on the FIFO, SQLite in WAL with synchronous=NORMAL, and
http.client. No file, no lamps, no hold-off, and nobody to ask it. From the
environment: GPIO_FIFO, SKETCH_DB, INFLUXDB_PORT, INFLUXDB_DATABASE, and the
program's own intervals in s, SKETCH_COMMIT_S and SKETCH_POST_S.
"""

import http.client
import os
import select
import sqlite3
import time

COMMIT_S = float(os.environ["SKETCH_COMMIT_S"])
POST_S = float(os.environ["SKETCH_POST_S"])
BATCH = 5000
URL = f"/write?db={os.environ['INFLUXDB_DATABASE']}&precision=ns"

fifo = os.open(os.environ["GPIO_FIFO"], os.O_RDWR | os.O_NONBLOCK)
edges = select.poll()
edges.register(fifo, select.POLLIN)

db = sqlite3.connect(os.environ["SKETCH_DB"], isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = NORMAL")
db.execute("CREATE TABLE IF NOT EXISTS pulses (count INTEGER PRIMARY KEY, time_ns INTEGER)")
db.execute("CREATE TABLE IF NOT EXISTS sent (service TEXT PRIMARY KEY, count INTEGER) WITHOUT ROWID")
count = db.execute("SELECT coalesce(max(count), 0) FROM pulses").fetchone()[0]
sent = (db.execute("SELECT count FROM sent").fetchone() or (0,))[0]

connection = None
uncommitted = []
commit_at = post_at = None  # None: nothing is due
if sent < count:
    post_at = time.monotonic()


def post(rows):
    """Whether InfluxDB took *rows*."""
    global connection  # noqa: PLW0603 - a script
    try:
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["INFLUXDB_PORT"]), timeout=5)
        connection.request("POST", URL, "\n".join(["pulse count=%di %d" % row for row in rows]))  # noqa: UP031
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection = None
        return False
    return answer.status == 204


while True:
    due = [at for at in (commit_at, post_at) if at is not None]
    wait_ms = max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None
    if edges.poll(wait_ms):
        time_ns = time.time_ns()
        for _ in range(len(os.read(fifo, 42 * 96)) // 96):
            count += 1
            time_ns += 1
            uncommitted.append((count, time_ns))
        if commit_at is None:
            commit_at = time.monotonic() + COMMIT_S
        if post_at is None:
            post_at = time.monotonic() + POST_S
    now = time.monotonic()
    if commit_at is not None and now >= commit_at:
        db.execute("BEGIN")
        db.executemany("INSERT INTO pulses VALUES (?, ?)", uncommitted)
        db.execute("COMMIT")
        uncommitted.clear()
        commit_at = None
    if post_at is not None and now >= post_at:
        rows = db.execute(f"SELECT count, time_ns FROM pulses WHERE count > ? LIMIT {BATCH}", (sent,)).fetchall()
        if rows and post(rows):
            sent = rows[-1][0]
            db.execute("INSERT OR REPLACE INTO sent VALUES ('influxdb', ?)", (sent,))
            full = len(rows) == BATCH
        else:
            full = False
        post_at = None if sent == count else now + (0.05 if full else POST_S)
