"""Carry a plan out while the system runs; whatever ends it, the next apply ends what was begun."""

from feedbus.apply.steps import Supervisor, apply, exclusive

__all__ = ["Supervisor", "apply", "exclusive"]
