"""Dashboards that are generated from a topology."""
