"""Transports for Kombu that feedbus brings along."""
