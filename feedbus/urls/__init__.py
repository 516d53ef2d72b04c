"""The URLs of brokers, management APIs and stores; they are printed without passwords.

str() and repr() of every value hide passwords; only reveal() returns the full URL. Only this
package parses such URLs.
"""

from feedbus.urls.broker import BROKER_SCHEMES, BrokerUrl, Node, parse_broker_url
from feedbus.urls.management import (
    MANAGEMENT_SCHEMES,
    ManagementUrl,
    management_of,
    parse_management_url,
)
from feedbus.urls.parsing import UrlError
from feedbus.urls.store import STORE_SCHEMES, StoreUrl, parse_store_url
from feedbus.urls.tls import Tls

__all__ = [
    "BROKER_SCHEMES",
    "MANAGEMENT_SCHEMES",
    "STORE_SCHEMES",
    "BrokerUrl",
    "ManagementUrl",
    "Node",
    "StoreUrl",
    "Tls",
    "UrlError",
    "management_of",
    "parse_broker_url",
    "parse_management_url",
    "parse_store_url",
]
