"""The door to NVIDIA's management library (nvidia-ml-py, optional): every getter answers, or says why not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dsctl.base.cards import UNSUPPORTED, Card, Cards, Reading
from dsctl.base.missing import Missing

DEADLINE_S = 1.5
FIELD_RECOVERY = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION


def look(deadline_s: float = DEADLINE_S) -> Cards | Missing:
    """All cards. A driver that does not answer in time is `hung`; Missing without the library for Python."""
    try:
        import pynvml  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        return Missing("nvidia-ml-py is not installed: pip install 'dsctl[doctor]'")
    answer: list[Cards] = []

    def ask() -> None:
        try:
            answer.append(_ask(pynvml))
        except Exception as problem:  # noqa: BLE001 - a thread's end must not be taken for a driver that hangs
            answer.append(Cards(problem="failed", words=f"{type(problem).__name__}: {problem}"))

    asked = threading.Thread(target=ask, daemon=True)
    asked.start()
    asked.join(deadline_s)
    return answer[0] if answer else Cards(problem="hung", words=f"no answer from the driver in {deadline_s} s")


def _ask(nvml: Any) -> Cards:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Cards(problem=_problem(nvml, error), words=str(error))
    found: list[Card] = []
    lost: list[str] = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                found.append(_card(nvml, index, nvml.nvmlDeviceGetHandleByIndex(index)))
            except nvml.NVMLError as error:
                lost.append(f"card {index}: {error}")
    except nvml.NVMLError as error:
        return Cards(problem=_problem(nvml, error), words=str(error))
    finally:
        nvml.nvmlShutdown()
    return Cards(tuple(found), "lost" if lost else "", "; ".join(lost))


def _problem(nvml: Any, error: Any) -> str:
    names = {
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch", nvml.NVML_ERROR_DRIVER_NOT_LOADED: "not loaded",
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "not loaded", nvml.NVML_ERROR_GPU_IS_LOST: "lost",
    }  # fmt: skip
    return names.get(error.value, "failed")


def _card(nvml: Any, index: int, handle: Any) -> Card:
    def get(name: str, *arguments: Any, pick: Callable[[Any], Any] = lambda value: value) -> Any:
        try:
            return pick(getattr(nvml, name)(handle, *arguments))
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                return Missing(UNSUPPORTED)
            return Missing(str(error))
        except nvml.NVMLLibraryMismatchError:  # an old driver has only an older version of this function
            return Missing(UNSUPPORTED)
        except (AttributeError, TypeError, ValueError, UnicodeDecodeError) as error:
            return Missing(f"{name}: {error}")

    clocks = get("nvmlDeviceGetCurrentClocksEventReasons")
    if isinstance(clocks, Missing):
        clocks = get("nvmlDeviceGetCurrentClocksThrottleReasons")
    readings: dict[str, Reading] = {
        "recovery": _field(nvml, handle, FIELD_RECOVERY),
        "clocks": clocks,
        "ecc": get("nvmlDeviceGetTotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
        "rows_pending": get("nvmlDeviceGetRemappedRows", pick=lambda rows: int(rows[2])),
        "rows_failed": get("nvmlDeviceGetRemappedRows", pick=lambda rows: int(rows[3])),
        "persistence": get("nvmlDeviceGetPersistenceMode"),
        "power_limit": get("nvmlDeviceGetEnforcedPowerLimit"),
        "power_default": get("nvmlDeviceGetPowerManagementDefaultLimit"),
        "pcie_width": get("nvmlDeviceGetCurrPcieLinkWidth"),
        "pcie_width_max": get("nvmlDeviceGetMaxPcieLinkWidth"),
        "pcie_gen": get("nvmlDeviceGetCurrPcieLinkGeneration"),
        "pcie_gen_max": get("nvmlDeviceGetMaxPcieLinkGeneration"),
        "pstate": get("nvmlDeviceGetPerformanceState"),
        "temperature": get("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "slowdown_at": get("nvmlDeviceGetTemperatureThreshold", nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        "utilisation": get("nvmlDeviceGetUtilizationRates", pick=lambda rates: int(rates.gpu)),
        "free": get("nvmlDeviceGetMemoryInfo", pick=lambda memory: int(memory.free)),
        "ecc_corrected": get(
            "nvmlDeviceGetTotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        "pcie_replays": get("nvmlDeviceGetPcieReplayCounter"),
        "app_clock": get("nvmlDeviceGetApplicationsClock", nvml.NVML_CLOCK_SM),
        "app_clock_default": get("nvmlDeviceGetDefaultApplicationsClock", nvml.NVML_CLOCK_SM),
        "retired_pending": get("nvmlDeviceGetRetiredPagesPendingStatus"),
        "retired": _retired(nvml, handle),
        "reserved": _reserved(nvml, handle),
        "fabric": _fabric(nvml, handle),
        **_links(nvml, handle),
        "processes": get("nvmlDeviceGetComputeRunningProcesses", pick=_held),
    }
    name = get("nvmlDeviceGetName")
    bus = get("nvmlDeviceGetPciInfo", pick=lambda info: str(info.busId))
    return Card(
        index, str(name) if isinstance(name, str) else "?", bus if isinstance(bus, str) else f"card {index}", readings
    )


def _read(nvml: Any, call: Callable[[], Reading]) -> Reading:
    """A reading of several calls; what the card or driver does not know is unsupported."""
    try:
        return call()
    except nvml.NVMLError as error:
        known = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND, nvml.NVML_ERROR_INVALID_ARGUMENT)
        return Missing(UNSUPPORTED if error.value in known else str(error))
    except (AttributeError, TypeError, ValueError) as error:
        return Missing(str(error))


def _retired(nvml: Any, handle: Any) -> Reading:
    causes = (
        nvml.NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS,
        nvml.NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR,
    )
    return _read(nvml, lambda: sum(len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in causes))


def _reserved(nvml: Any, handle: Any) -> Reading:
    return _read(nvml, lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).reserved))


def _fabric(nvml: Any, handle: Any) -> Reading:
    """State of the NVSwitch fabric; unsupported where the card belongs to no cluster."""

    def ask() -> Reading:
        info = nvml.c_nvmlGpuFabricInfoV_t()
        nvml.nvmlDeviceGetGpuFabricInfoV(handle, nvml.byref(info))
        return int(info.state) if int(info.state) and any(info.clusterUuid) else Missing(UNSUPPORTED)

    return _read(nvml, ask)


def _links(nvml: Any, handle: Any) -> dict[str, Reading]:
    """State of every NVLink, and the sums of their error counters."""
    states: list[tuple[int, int]] = []
    counts = {"nvlink_replays": 0, "nvlink_crc": 0}
    seen: Missing | None = None
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        state = _read(nvml, lambda link=link: int(nvml.nvmlDeviceGetNvLinkState(handle, link)))
        if not isinstance(state, int):
            seen = state if isinstance(state, Missing) else seen
            break
        states.append((link, state))
        for name, kinds in (
            ("nvlink_replays", (nvml.NVML_NVLINK_ERROR_DL_REPLAY, nvml.NVML_NVLINK_ERROR_DL_RECOVERY)),
            ("nvlink_crc", (nvml.NVML_NVLINK_ERROR_DL_CRC_FLIT,)),
        ):
            for kind in kinds:
                value = _read(nvml, lambda k=kind, n=link: int(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, n, k)))
                counts[name] += value if isinstance(value, int) else 0
    if not states or (seen is not None and seen.reason != UNSUPPORTED):  # a link that fails hides those behind it
        absent = Missing(UNSUPPORTED) if seen is None else seen
        return {"nvlinks": absent, "nvlink_replays": absent, "nvlink_crc": absent}
    return {"nvlinks": states, **counts}


def _held(processes: Any) -> list[tuple[int, int]]:
    return [(int(p.pid), int(p.usedGpuMemory or 0)) for p in processes]


def _field(nvml: Any, handle: Any, number: int) -> Reading:
    try:
        value = nvml.nvmlDeviceGetFieldValues(handle, [number])[0]
    except nvml.NVMLError as error:
        return Missing(UNSUPPORTED if error.value == nvml.NVML_ERROR_NOT_SUPPORTED else str(error))
    return int(value.value.uiVal) if value.nvmlReturn == 0 else Missing(UNSUPPORTED)
