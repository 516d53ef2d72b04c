"""The reference application's face: an HTTP API and the operations page, Bottle on waitress."""
