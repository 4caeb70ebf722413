"""What is, as far as a plan needs to know: gathered by a flow, read by planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dsctl.base.missing import Missing
from dsctl.base.step import Row
from dsctl.facts.processes import Process
from dsctl.facts.programs import Label, Program, Supervised
from dsctl.facts.serving import Front, ServerInfo, Table


@dataclass(frozen=True, slots=True)
class Observed:
    """One project as it is."""

    supervised: Supervised | Missing
    labels: Mapping[str, Label]  # by program name, from the programs' files
    table: Table | Missing
    front: Front | Missing
    servers: Mapping[str, ServerInfo | Missing]  # by replica name
    orphans: tuple[Process, ...] = ()
    supervisors: tuple[Process, ...] = ()  # supervisords that live but do not answer
    has_state: bool = True  # the directories and tokens exist
    ready: frozenset[str] = frozenset()  # replicas whose /ready is 200

    @property
    def replicas(self) -> dict[str, Label]:
        """The replicas' labels in the order of their numbers."""
        found = [label for label in self.labels.values() if label.role == "replica"]
        return {label.name: label for label in sorted(found, key=lambda label: number(label.name))}

    @property
    def gateway(self) -> Label | Missing:
        """The gateway's label."""
        return self.labels.get("gateway", Missing("no gateway was deployed"))

    def program(self, name: str) -> Program | Missing:
        """What supervisord says about one program."""
        if isinstance(self.supervised, Missing):
            return self.supervised
        return self.supervised.programs.get(name, Missing(f"supervisord does not know {name}"))

    def is_up(self, name: str) -> bool:
        """True while supervisord runs that program."""
        program = self.program(name)
        return isinstance(program, Program) and program.is_up

    def orphans_of(self, name: str) -> list[Process]:
        """The processes of a program that run without supervisord."""
        return [process for process in self.orphans if process.program == name]

    def row(self, name: str) -> Row | Missing:
        """The replica's line in the table."""
        return self.table.row(name) if isinstance(self.table, Table) else self.table


def number(name: str) -> int:
    """7 of r7; names that are no replica's come first."""
    return int(name[1:]) if name[:1] == "r" and name[1:].isdigit() else -1
