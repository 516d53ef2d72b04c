"""Carry out a plan while the system runs; the next `apply` completes an interrupted one."""

from feedbus.apply.steps import Supervisor, apply, exclusive

__all__ = ["Supervisor", "apply", "exclusive"]
