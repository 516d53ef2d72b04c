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
    refuse_async_resources,
)
from feedbus.parameters.dead_handler import dead_handler_parameters
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
    "dead_handler_parameters",
    "declared",
    "of_resource",
    "refuse_async_resources",
    "resource",
]
