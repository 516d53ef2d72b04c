"""Carry out a plan while the system runs; if it is interrupted, the next `apply` completes it."""

from feedbus.apply.steps import Supervisor, apply, exclusive

__all__ = ["Supervisor", "apply", "exclusive"]
