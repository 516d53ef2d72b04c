"""The reference application's HTTP API, Bottle on waitress."""
