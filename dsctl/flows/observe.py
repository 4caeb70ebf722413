"""Looking: everything a plan or a status needs to know about one project, asked in one go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dsctl.base.missing import Missing
from dsctl.facts.processes import SUPERVISOR, Process, orphans, parse_process
from dsctl.facts.programs import Label, Supervised, parse_label, parse_supervised
from dsctl.facts.serving import Front, ServerInfo, parse_front, parse_server_info, parse_table
from dsctl.flows.project import Project
from dsctl.planning.observed import Observed
from dsctl.reach.door import Reply


def observe(project: Project) -> Observed:
    """The project as it is now; changes nothing."""
    door, places = project.door, project.places
    told = door.supervised()
    supervised = told if isinstance(told, Missing) else parse_supervised(told)
    labels = _labels(project)
    replicas = [label for label in labels.values() if label.role == "replica"]
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = [(x.name, pool.submit(_server, project, x), pool.submit(_ready, project, x)) for x in replicas]
        servers = {name: server.result() for name, server, _ in asked}
        ready = {name for name, _, is_ready in asked if is_ready.result()}
    table = door.read(places.table)
    found = _processes(project)
    pid = supervised.pid if isinstance(supervised, Supervised) else 0
    return Observed(
        supervised=supervised,
        labels=labels,
        table=table if isinstance(table, Missing) else parse_table(table),
        front=_front(project, labels.get("gateway")),
        servers=servers,
        orphans=tuple(orphans(found, pid)),
        supervisors=tuple(p for p in found if p.program == SUPERVISOR and p.pid != pid),
        has_state=not isinstance(door.read(places.admin_token), Missing),
        ready=frozenset(ready),
    )


def gateway_label(project: Project) -> Label | Missing:
    """The label of the deployed gateway, without asking anything that runs."""
    return _labels(project).get("gateway", Missing("no gateway was deployed"))


def _labels(project: Project) -> dict[str, Label]:
    labels: dict[str, Label] = {}
    for name in project.door.names(project.places.programs):
        if name.startswith(".") or not name.endswith(".conf"):
            continue
        text = project.door.read(project.places.programs / name)
        label = text if isinstance(text, Missing) else parse_label(text)
        if isinstance(label, Label):
            labels[label.name] = label
    return labels


def _server(project: Project, label: Label) -> ServerInfo | Missing:
    reply = project.door.get(f"{label.url}/server_info", project.places.replica_token)
    if isinstance(reply, Missing):
        return reply
    return parse_server_info(reply.text) if reply.status == 200 else Missing(f"/server_info answers {reply.status}")


def _ready(project: Project, label: Label) -> bool:
    reply = project.door.get(f"{label.url}/ready")
    return isinstance(reply, Reply) and reply.status == 200


def _front(project: Project, label: Label | None) -> Front | Missing:
    if label is None:
        return Missing("no gateway was deployed")
    reply = project.door.get(f"{label.url}/-/status", project.places.admin_token)
    if isinstance(reply, Missing):
        return reply
    return parse_front(reply.text) if reply.status == 200 else Missing(f"the gateway answers {reply.status}")


def _processes(project: Project) -> list[Process]:
    home, name = str(project.places.home), project.places.project
    found = (parse_process(raw.pid, raw.stat, raw.environ, home, name) for raw in project.door.processes())
    return [process for process in found if process is not None]
