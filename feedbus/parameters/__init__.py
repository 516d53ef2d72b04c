"""What handlers, resources and middleware ask for by the annotations of their parameters."""

from feedbus.parameters.asked import (
    BUS,
    MESSAGE,
    SESSION,
    TOPOLOGY,
    Call,
    Given,
    Offer,
    Parameters,
    Source,
    check_result,
    of_resource,
)
from feedbus.parameters.resource import Resource, declared, resource

__all__ = [
    "BUS",
    "MESSAGE",
    "SESSION",
    "TOPOLOGY",
    "Call",
    "Given",
    "Offer",
    "Parameters",
    "Resource",
    "Source",
    "check_result",
    "declared",
    "of_resource",
    "resource",
]
