"""What the parameters of handlers, resources and middleware request by their annotations."""

from feedbus.handling.parameters.function_parameters import (
    Call,
    Parameters,
    Source,
    check_result,
    of_resource,
    refuse_async_resources,
)
from feedbus.handling.parameters.offered_values import (
    ASKED_FOR,
    BUS,
    DEAD_LETTER,
    MESSAGE,
    SESSION,
    TOPOLOGY,
    UNANNOTATED,
    Given,
    GivenDeadLetter,
    Offer,
)
from feedbus.handling.parameters.resource_functions import Resource, declared, resource

__all__ = [
    "ASKED_FOR",
    "BUS",
    "DEAD_LETTER",
    "MESSAGE",
    "SESSION",
    "TOPOLOGY",
    "UNANNOTATED",
    "Call",
    "Given",
    "GivenDeadLetter",
    "Offer",
    "Parameters",
    "Resource",
    "Source",
    "check_result",
    "declared",
    "of_resource",
    "refuse_async_resources",
    "resource",
]
