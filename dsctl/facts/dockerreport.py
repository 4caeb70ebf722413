"""What Docker's API answered → typed facts: the engine, its images, the containers of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dsctl.base.missing import Missing
from dsctl.facts.host import LABEL, Container, Docker


def engine(
    version: Mapping[str, Any], info: Mapping[str, Any], images: Sequence[Mapping[str, Any]], way: str, socket: str
) -> Docker:
    """From /version, /info and /images/json, and how the login got there."""
    names = {tag: str(image["Id"]) for image in images for tag in image.get("RepoTags") or () if tag != "<none>:<none>"}
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    root = str(info.get("DockerRootDir") or "")
    return Docker(
        version=str(version["Version"]), api=str(version["ApiVersion"]), socket=socket, way=way,
        root=root or Missing("the engine does not say where images lie"),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        is_rootless=any("name=rootless" in option for option in options) or bool(info.get("Rootless")),
        storage=str(info.get("Driver") or ""), images=names,
    )  # fmt: skip


def _health(told: Mapping[str, Any]) -> str:
    """Docker says "starting" from the start on; before the first check has run that says nothing."""
    status = str(told.get("Status") or "")
    return "" if status == "starting" and not told.get("Log") else status


def container(inspected: Mapping[str, Any]) -> Container:
    """From /containers/ID/json."""
    state: Mapping[str, Any] = inspected["State"]
    labels: Mapping[str, str] = inspected["Config"].get("Labels") or {}
    health: Mapping[str, Any] = state.get("Health") or {}
    return Container(
        name=str(inspected["Name"]).removeprefix("/"), id=str(inspected["Id"]), image=str(inspected["Image"]),
        state=str(state["Status"]), labels={key: value for key, value in labels.items() if key.startswith(LABEL)},
        health=_health(health), exit_code=int(state.get("ExitCode") or 0),
        restarts=int(inspected.get("RestartCount") or 0),
    )  # fmt: skip
