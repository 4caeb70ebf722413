"""The structures of csrc in ctypes, field by field in the same order."""

from __future__ import annotations

import ctypes
from typing import Final

_P = ctypes.c_void_p
_I64 = ctypes.c_int64
_I32 = ctypes.c_int32
_F32 = ctypes.c_float


class Matrix(ctypes.Structure):
    """csrc/matrix.h"""

    _fields_: Final = [
        ("kind", _I32),
        ("group", _I32),
        ("q", _P),
        ("scale", _P),
        ("comp", _P),
        ("experts", _I64),
        ("outputs", _I64),
        ("inputs", _I64),
    ]


class Operand(ctypes.Structure):
    """csrc/drive.h"""

    _fields_: Final = [("at", _P), ("row", _I64), ("matrix", _I64)]


class Routing(ctypes.Structure):
    """csrc/drive.h"""

    _fields_: Final = [
        ("x", _P),
        ("tokens", _I64),
        ("ldx", _I64),
        ("ids", _P),
        ("weights", _P),
        ("top_k", _I64),
        ("addend", _P),
        ("out", _P),
        ("threads", _I32),
    ]


class Router(ctypes.Structure):
    """csrc/rows.h"""

    _fields_: Final = [
        ("bias", _P),
        ("experts", _I64),
        ("top_k", _I64),
        ("groups", _I64),
        ("top_groups", _I64),
        ("scale", _F32),
        ("sigmoid", _I32),
        ("normalise", _I32),
        ("two_best", _I32),
    ]


class Attention(ctypes.Structure):
    """csrc/layer.h"""

    _fields_: Final = [
        ("input_norm", _P),
        ("q_norm", _P),
        ("kv_norm", _P),
        ("down", Matrix),
        ("q_up", Matrix),
        ("expand", Matrix),
        ("absorb_k", Matrix),
        ("absorb_v", Matrix),
        ("out", Matrix),
        ("heads", _I64),
        ("nope", _I64),
        ("rope", _I64),
        ("rank", _I64),
        ("values", _I64),
        ("eps", _F32),
        ("scale", _F32),
    ]


class FeedForward(ctypes.Structure):
    """csrc/layer.h"""

    _fields_: Final = [
        ("norm", _P),
        ("router", Matrix),
        ("gate", Matrix),
        ("up", Matrix),
        ("down", Matrix),
        ("shared_gate", Matrix),
        ("shared_up", Matrix),
        ("shared_down", Matrix),
        ("rule", Router),
        ("eps", _F32),
    ]


class Layer(ctypes.Structure):
    """csrc/layer.h"""

    _fields_: Final = [("attention", Attention), ("forward", FeedForward)]


class PromptPart(ctypes.Structure):
    """csrc/layer.h"""

    _fields_: Final = [("start", _I64), ("length", _I64), ("position", _I64), ("table", _P)]


class Batch(ctypes.Structure):
    """csrc/layer.h"""

    _fields_: Final = [
        ("rows", _I64),
        ("prompts", _I64),
        ("generated", _I64),
        ("cos", _P),
        ("sin", _P),
        ("write", _P),
        ("parts", _P),
        ("positions", _P),
        ("tables", _P),
        ("block_size", _I64),
        ("cache_is_half", _I32),
        ("threads", _I32),
    ]


class Draw(ctypes.Structure):
    """csrc/sample.h"""

    _fields_: Final = [
        ("logits", _P),
        ("size", _I64),
        ("temperature", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("choice", ctypes.c_uint64),
        ("position", ctypes.c_uint64),
        ("ids", _P),
        ("most", _I64),
    ]
