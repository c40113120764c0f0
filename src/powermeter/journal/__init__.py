"""
The journal: the durable, ordered record of pulses, and how far each writer has it.

Owns the SQLite file; hides its tables. A pulse is keyed by its meter and its
running count and ordered by count, never by time: its time is a label that a
wrong clock can put anywhere. Each row has the interval since the meter's pulse
before, which no clock can change.

The keeper's thread alone appends (:mod:`~powermeter.journal.journal`). A
writer's thread reads and moves its own :mod:`~powermeter.journal.cursor`, over
a connection of its own; the keeper's next commit makes the move durable, so
that a delivery costs no write of its own. A cursor that a crash sets back
delivers again what it delivered, which every writer bears. Questions about spans of
time are answered by the :mod:`~powermeter.journal.history`.
"""
