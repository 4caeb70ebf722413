"""Rules about this machine as it is now; each is judged by the function of its fact in doctor/live.py."""

from __future__ import annotations

from dsctl.doctor.model import Rule

RULES: tuple[Rule, ...] = ()
