"""
Pages of measured results, in reStructuredText: docs/benchmarks.rst and docs/reliability.rst.

Such a page is a head, a summary, and sections with one table each, of which a run replaces those that it measured.
"""

import re
from collections.abc import Iterable, Sequence


def list_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table whose first row is its header."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [(("   * - " if i == 0 else "     - ") + cell).rstrip() for i, cell in enumerate(row)]
    return lines


def rows_of(section: str) -> list[list[str]]:
    """The rows of the table in the text *section*, each a list of its cells; its header first."""
    rows = re.split(r"^ +\* - ?", section.split("\nMade on ", maxsplit=1)[0], flags=re.MULTILINE)[1:]
    return [[" ".join(cell.split()) for cell in re.split(r"^ +- ?", row, flags=re.MULTILINE)] for row in rows]


def sections_of(page: str) -> dict[str, str]:
    """The sections of the text *page*, by their titles."""
    parts = re.split(r"^(?=.+\n-+\n)", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part.rstrip() + "\n" for part in parts}


def summary(promises: Iterable[tuple[str, str, str]], sections: dict[str, str], goal: int) -> str:
    """
    The table that a page begins with: what is promised, the goal, and what was measured.

    *promises* are a promise, the title of the section that shows it, and the beginning of its row there. The row's
    second cell is what was measured, its cell *goal* the goal; one behind that says "ok", or what is not.
    """
    table: list[Sequence[str]] = [("promise", "goal", "measured")]
    for promise, title, beginning in promises:
        if title in sections:
            found = next((row for row in rows_of(sections[title]) if row[0].startswith(beginning)), None)
            wanted, measured, verdict = (
                (found[goal], found[1], found[goal + 1 :]) if found else ("", "not measured", [])
            )
            table.append((f"{promise} (`{title}`_)", wanted, ", ".join([measured, *(v for v in verdict if v != "ok")])))
    return "\n".join(list_table(table)) + "\n\n"
