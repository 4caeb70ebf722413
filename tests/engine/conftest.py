"""Keeps waiting OpenMP threads from spinning, which on a shared machine costs tests ten times their work."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, after this file
os.environ.setdefault("OMP_NUM_THREADS", "1")
