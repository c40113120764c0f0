"""
The journal: the durable, ordered record of pulses, and how far each writer has delivered it.

Owns the SQLite file and hides its tables. A pulse is identified by its meter and
its running count, and ordered by count, never by time: its time is a label that a
wrong clock can set to anything. Each row has the interval since the meter's
previous pulse, which no wrong clock can change.

Only the keeper's thread appends (:mod:`~powermeter.journal.journal`). Each
writer's thread reads and moves its own :mod:`~powermeter.journal.cursor`, with
its own connection; the keeper's next commit makes the move durable, so that a
delivery needs no write of its own. If a crash sets a cursor back, pulses are
delivered again, which every writer tolerates. The
:mod:`~powermeter.journal.history` answers questions about time spans.
"""
