"""Measurements of feedbus, compared with the database alone and with other frameworks."""
