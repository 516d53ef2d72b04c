"""Dashboards made from a topology."""
