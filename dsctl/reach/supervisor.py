"""supervisord over its unix socket: XML-RPC calls, and the errors they can end in."""

from __future__ import annotations

import http.client
import json
import socket
import xmlrpc.client
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from dsctl.base.errors import DsctlError
from dsctl.base.missing import Missing

TIMEOUT_S = 10.0
FAULT_NOT_RUNNING, FAULT_BAD_NAME, FAULT_ALREADY_ADDED, FAULT_ALREADY_STARTED = 70, 10, 90, 60


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        near.settimeout(TIMEOUT_S)
        try:
            near.connect(str(self._path))
        except OSError:
            near.close()
            raise
        self.sock = near


class _Transport(xmlrpc.client.Transport):
    """XML-RPC's way onto that connection."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        _ = host
        return _Connection(self._path)


class Supervisor:
    """One supervisord, behind its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, method: str, *arguments: object, ignore: Iterable[int] = ()) -> Any:
        """One call in supervisor's namespace. Faults in `ignore` give None, others DsctlError with its words."""
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(self._path))
        try:
            with proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in tuple(ignore):
                return None
            raise DsctlError(f"supervisord refuses {method}{arguments}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise DsctlError(
                f"supervisord does not answer on {self._path}", why=str(error), hint="dsctl deploy starts it again"
            ) from error

    def describe(self) -> str | Missing:
        """Its pid and programs as JSON; Missing when it does not answer."""
        try:
            pid, programs = self.call("getPID"), self.call("getAllProcessInfo")
        except DsctlError as error:
            return Missing(error.message)
        return json.dumps({"pid": pid, "programs": programs})

    def program(self, name: str) -> dict[str, Any] | None:
        """getProcessInfo of one program; None when it is not known."""
        found = self.call("getProcessInfo", name, ignore=(FAULT_BAD_NAME,))
        return cast("dict[str, Any] | None", found)

    def stop(self, name: str) -> None:
        """Asks a program to end, without waiting; nothing when it does not run."""
        self.call("stopProcess", name, False, ignore=(FAULT_NOT_RUNNING, FAULT_BAD_NAME))

    def forget(self, name: str) -> None:
        """Removes an ended program."""
        self.call("removeProcessGroup", name, ignore=(FAULT_BAD_NAME,))

    def adopt(self, name: str) -> None:
        """Reads the programs' files again and takes up one of them; it starts by itself."""
        self.call("reloadConfig")
        self.call("addProcessGroup", name, ignore=(FAULT_ALREADY_ADDED,))
        self.call("startProcess", name, False, ignore=(FAULT_ALREADY_STARTED,))
