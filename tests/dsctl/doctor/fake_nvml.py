"""A driver library made of Python under the real nvidia-ml-py; what is not listed is not supported."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml as nvml

OK = 0


class FakeLibrary:
    """`cards`: one dict per card, reading name → value. `init`: what nvmlInit returns.

    `missing`: functions that an old driver does not have; `failing`: those that answer with an unknown error.
    """

    def __init__(
        self, cards: list[dict[str, Any]], init: int = OK, missing: tuple[str, ...] = (), failing: tuple[str, ...] = ()
    ) -> None:
        self._cards = cards
        self._init = init
        self._missing = missing
        self._failing = failing

    def __getattr__(self, name: str) -> Callable[..., int]:
        bare = name.removesuffix("_v2").removesuffix("_v3")
        if name.startswith("__") or bare in self._missing:
            raise AttributeError(name)
        if bare in self._failing:
            return lambda *_: nvml.NVML_ERROR_UNKNOWN
        found = getattr(type(self), f"f_{bare}", None)
        return (lambda *a: found(self, *a)) if found else (lambda *_: nvml.NVML_ERROR_NOT_SUPPORTED)

    def _of(self, handle: Any) -> dict[str, Any]:
        return self._cards[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 0x1000]

    def _number(self, handle: Any, name: str, out: Any) -> int:
        value = self._of(handle).get(name)
        if value is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        out._obj.value = value
        return OK

    def f_nvmlInitWithFlags(self, *_: Any) -> int:
        return self._init

    def f_nvmlShutdown(self) -> int:
        return OK

    def f_nvmlDeviceGetCount(self, out: Any) -> int:
        out._obj.value = len(self._cards)
        return OK

    def f_nvmlDeviceGetHandleByIndex(self, index: Any, out: Any) -> int:
        at = getattr(index, "value", index)
        if self._cards[at].get("lost"):
            return nvml.NVML_ERROR_GPU_IS_LOST
        out._obj.contents = ctypes.cast(0x1000 + at, type(out._obj)).contents
        return OK

    def f_nvmlDeviceGetName(self, handle: Any, out: Any, _size: Any) -> int:
        out.value = str(self._of(handle).get("name", "Card")).encode()
        return OK

    def f_nvmlDeviceGetPciInfo(self, handle: Any, out: Any) -> int:
        at = (ctypes.cast(handle, ctypes.c_void_p).value or 0) - 0x1000
        out._obj.busId = f"00000000:{at:02X}:00.0".encode()
        return OK

    def f_nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, out: Any) -> int:
        return self._number(handle, "temperature", out)

    def f_nvmlDeviceGetTemperatureThreshold(self, handle: Any, _kind: Any, out: Any) -> int:
        return self._number(handle, "slowdown_at", out)

    def f_nvmlDeviceGetPerformanceState(self, handle: Any, out: Any) -> int:
        return self._number(handle, "pstate", out)

    def f_nvmlDeviceGetCurrPcieLinkGeneration(self, handle: Any, out: Any) -> int:
        return self._number(handle, "pcie_gen", out)

    def f_nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any, out: Any) -> int:
        return self._number(handle, "pcie_gen_max", out)

    def f_nvmlDeviceGetComputeRunningProcesses(self, handle: Any, count: Any, rows: Any) -> int:
        held = self._of(handle).get("processes")
        if held is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        count._obj.value = len(held)
        if rows is None:
            return nvml.NVML_ERROR_INSUFFICIENT_SIZE if held else OK
        for row, (pid, size) in zip(rows, held, strict=False):
            row.pid, row.usedGpuMemory = pid, size
        return OK

    def f_nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: Any, _counter: Any, out: Any) -> int:
        is_corrected = getattr(kind, "value", kind) == nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED
        return self._number(handle, "corrected" if is_corrected else "ecc", out)

    def f_nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any, out: Any) -> int:
        return self._number(handle, "clocks", out)

    def f_nvmlDeviceGetPcieReplayCounter(self, handle: Any, out: Any) -> int:
        return self._number(handle, "replays", out)

    def f_nvmlDeviceGetApplicationsClock(self, handle: Any, _kind: Any, out: Any) -> int:
        return self._number(handle, "app_clock", out)

    def f_nvmlDeviceGetDefaultApplicationsClock(self, handle: Any, _kind: Any, out: Any) -> int:
        return self._number(handle, "app_clock_default", out)

    def f_nvmlDeviceGetRetiredPagesPendingStatus(self, handle: Any, out: Any) -> int:
        return self._number(handle, "retired_pending", out)

    def f_nvmlDeviceGetRetiredPages(self, handle: Any, _cause: Any, count: Any, pages: Any) -> int:
        number = self._of(handle).get("retired")
        if number is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        count._obj.value = number
        return OK if pages is not None or not number else nvml.NVML_ERROR_INSUFFICIENT_SIZE

    def f_nvmlDeviceGetMemoryInfo(self, handle: Any, out: Any) -> int:
        card = self._of(handle)
        if "reserved" not in card and "free" not in card:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        out._obj.reserved, out._obj.free = card.get("reserved", 0), card.get("free", 0)
        return OK

    def f_nvmlDeviceGetUtilizationRates(self, handle: Any, out: Any) -> int:
        used = self._of(handle).get("utilisation")
        if used is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        out._obj.gpu = used
        return OK

    def f_nvmlDeviceGetGpuFabricInfoV(self, handle: Any, out: Any) -> int:
        state = self._of(handle).get("fabric")
        if state is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        out._obj.state, out._obj.clusterUuid[0] = state, self._of(handle).get("cluster", 1)
        return OK

    def f_nvmlDeviceGetNvLinkState(self, handle: Any, link: Any, out: Any) -> int:
        states = self._of(handle).get("links", [])
        at = getattr(link, "value", link)
        if at >= len(states):
            return nvml.NVML_ERROR_INVALID_ARGUMENT if states else nvml.NVML_ERROR_NOT_SUPPORTED
        out._obj.value = states[at]
        return OK

    def f_nvmlDeviceGetNvLinkErrorCounter(self, handle: Any, _link: Any, kind: Any, out: Any) -> int:
        out._obj.value = self._of(handle).get("link_errors", {}).get(getattr(kind, "value", kind), 0)
        return OK

    def f_nvmlDeviceGetPersistenceMode(self, handle: Any, out: Any) -> int:
        return self._number(handle, "persistence", out)

    def f_nvmlDeviceGetEnforcedPowerLimit(self, handle: Any, out: Any) -> int:
        return self._number(handle, "power_limit", out)

    def f_nvmlDeviceGetPowerManagementDefaultLimit(self, handle: Any, out: Any) -> int:
        return self._number(handle, "power_default", out)

    def f_nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any, out: Any) -> int:
        return self._number(handle, "pcie_width", out)

    def f_nvmlDeviceGetMaxPcieLinkWidth(self, handle: Any, out: Any) -> int:
        return self._number(handle, "pcie_width_max", out)

    def f_nvmlDeviceGetRemappedRows(self, handle: Any, corr: Any, unc: Any, pending: Any, failed: Any) -> int:
        rows = self._of(handle).get("rows")
        if rows is None:
            return nvml.NVML_ERROR_NOT_SUPPORTED
        for out, value in zip((corr, unc, pending, failed), rows, strict=True):
            out._obj.value = value
        return OK

    def f_nvmlDeviceGetFieldValues(self, handle: Any, _count: Any, fields: Any) -> int:
        for entry in fields._obj:
            value = self._of(handle).get("fields", {}).get(entry.fieldId)
            entry.nvmlReturn = nvml.NVML_ERROR_NOT_SUPPORTED if value is None else OK
            if value is not None:
                entry.valueType, entry.value.uiVal = 1, value
        return OK


@contextmanager
def driver(
    cards: list[dict[str, Any]], init: int = OK, missing: tuple[str, ...] = (), failing: tuple[str, ...] = ()
) -> Iterator[None]:
    """The fake in the place of the driver's library."""
    before = nvml.nvmlLib
    nvml.nvmlLib = FakeLibrary(cards, init, missing, failing)
    nvml._nvmlGetFunctionPointer_cache.clear()
    try:
        yield
    finally:
        nvml.nvmlLib = before
        nvml._nvmlGetFunctionPointer_cache.clear()
