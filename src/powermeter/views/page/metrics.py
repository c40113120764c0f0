"""The status as text for Prometheus (exposition format 0.0.4) and others that read this format."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from powermeter.status import Status

#: The content type that a scraper expects.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Family(NamedTuple):
    """A metric: its name, type and help, and its samples as labels and a value; an unknown value, None, is left out."""

    name: str
    kind: str
    words: str
    samples: Iterable[tuple[Mapping[str, str], float | None]]


def text(status: Status, energies_kwh: Mapping[str, float]) -> str:
    """
    *status* as metrics; *energies_kwh* is what each meter has counted since the journal began.

    An unknown value has no sample. Counters start from 0 with the program, except for energy and pulses, which are
    the journal's.
    """
    meters, writers = status.meters, status.writers
    families = [
        _Family(
            "power_energy_kwh_total",
            "counter",
            "Energy counted since the journal began, in kWh; a reading does not change it.",
            [({"meter": name}, energies_kwh.get(name)) for name in meters],
        ),
        _Family(
            "power_pulses_total",
            "counter",
            "Flashes counted since the journal began.",
            [({"meter": name}, meter.pulses) for name, meter in meters.items()],
        ),
        _Family(
            "power_rejected_edges_total",
            "counter",
            "Edges not counted since the program's start, by reason.",
            [
                ({"meter": name, "reason": reason}, count)
                for name, meter in meters.items()
                for reason, count in (
                    ("bounce", meter.rejected),
                    ("stall", meter.rejected_after_stall),
                    ("too_short", meter.too_short),
                )
            ],
        ),
        _Family(
            "power_watts",
            "gauge",
            "Power now, in W; while no flash comes, the most that it can be.",
            [({"meter": name}, meter.watts) for name, meter in meters.items()],
        ),
        _Family(
            "power_register_kwh",
            "gauge",
            "The register, in kWh, as set by the last reading.",
            [({"meter": name}, meter.register_kwh) for name, meter in meters.items()],
        ),
        _Family(
            "power_writer_waiting_pulses",
            "gauge",
            "Pulses that wait to be delivered by the writer.",
            [({"writer": name}, writer.waiting) for name, writer in writers.items()],
        ),
        _Family(
            "power_writer_up",
            "gauge",
            "0 while the writer is failing, else 1.",
            [({"writer": name}, float(writer.state != "failing")) for name, writer in writers.items()],
        ),
        _Family("power_build_info", "gauge", "The program's version.", [({"version": status.version}, 1)]),
    ]
    return "".join(line for family in families for line in _lines(family))


def _lines(family: _Family) -> Iterable[str]:
    known = [(labels, value) for labels, value in family.samples if value is not None]
    if not known:
        return
    yield f"# HELP {family.name} {family.words}\n"
    yield f"# TYPE {family.name} {family.kind}\n"
    for labels, value in known:
        named = ",".join(f'{name}="{escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{{{named}}} {float(value)!r}\n"


def escaped(text: str) -> str:
    r"""
    *text* as the value of a label.

    >>> print(escaped('a "b" \\ c'))
    a \"b\" \\ c
    """
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
