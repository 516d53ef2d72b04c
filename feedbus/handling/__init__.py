"""Handlers: functions, message types, parameters, resources, and middleware."""
