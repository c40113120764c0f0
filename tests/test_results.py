"""The pages of measured results: tables written and read again, and the summary that they begin with."""

from results import list_table, rows_of, sections_of, summary

ROWS = [["what", "found", "goal", ""], ["memory, MiB", "39.3", "<= 40.0", "ok"], ["start, ms", "91", "", ""]]
PAGE = f"""\
Measurements
============

A head, which is no section.

Memory
------

What it is.

{chr(10).join(list_table(ROWS))}

Made on 2026-11-30 by a command.

Time
----

{chr(10).join(list_table([ROWS[0], ["a month", "8.40", "<= 8.00", "MISSED"]]))}
"""


def test_a_table_is_read_as_it_was_written():
    """Rows and cells come back, empty ones too; what follows the table is not part of it."""
    assert rows_of(sections_of(PAGE)["Memory"]) == ROWS


def test_a_page_has_its_sections():
    """Each section by its title, without the page's head."""
    sections = sections_of(PAGE)
    assert list(sections) == ["Memory", "Time"]
    assert sections["Time"].startswith("Time\n----\n")


def test_the_summary_says_what_is_missed():
    """A goal that is missed, and a row that was not measured, are marked; a section that is not there is left out."""
    promises = [
        ("Little memory", "Memory", "memory"),
        ("A quick report", "Time", "a month"),
        ("Nothing measured", "Time", "a year"),
        ("Another page's", "Elsewhere", "x"),
    ]
    assert rows_of(summary(promises, sections_of(PAGE), goal=2)) == [
        ["promise", "goal", "measured"],
        ["Little memory (`Memory`_)", "<= 40.0", "39.3"],
        ["A quick report (`Time`_)", "<= 8.00", "8.40, MISSED"],
        ["Nothing measured (`Time`_)", "", "not measured"],
    ]
