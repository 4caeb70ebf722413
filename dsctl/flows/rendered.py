"""render: the configuration dsctl would write, without a machine to write it on."""

from __future__ import annotations

from pathlib import Path

from dsctl.flows.project import Project
from dsctl.planning.rendering import program_conf, supervisord_conf
from dsctl.planning.wish import gateway_spec, replica_spec, wish


def supervisor(project: Project) -> dict[str, str]:
    """File name → text of supervisord's configuration and its programs; the ports are examples."""
    settings, places = project.settings, project.places
    count = settings.integer("replicas")
    wished = wish(settings, replicas=count, checkpoint="rendered", cores=project.door.cores(), python=project.python)
    front = gateway_spec(wished, wished.gateway_port or 8000, places, project.python)
    files = {"supervisord.conf": supervisord_conf(places, project.door.open_files())}
    files["conf.d/gateway.conf"] = program_conf(front, places)
    for n in range(1, count + 1):
        spec = replica_spec(wished, f"r{n}", 20000 + n, places, project.python)
        files[f"conf.d/r{n}.conf"] = program_conf(spec, places)
    return files


def write(files: dict[str, str], directory: Path) -> list[Path]:
    """The files below a directory."""
    written: list[Path] = []
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
