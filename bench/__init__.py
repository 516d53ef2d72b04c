"""Measurements: what feedbus does in a second, beside the database alone and beside its peers."""
