"""Book the changes of each account in the order in which they were published."""

import logging
from dataclasses import dataclass

import feedbus
from feedbus import Bus, Reject, handler

log = logging.getLogger(__name__)
balances: dict[str, int] = {}  # of the accounts of this shard; a real bank has a database


@dataclass
class Change:
    """A deposit, or a withdrawal if the amount is negative."""

    account: str
    amount: int


@dataclass
class Statement:
    """The balance of an account after a change."""

    account: str
    balance: int


@handler
def book(change: Change, bus: Bus) -> None:
    """Book a change; all earlier changes of the account are booked, because they are in order."""
    balance = balances.get(change.account, 0) + change.amount
    if balance < 0:
        raise Reject(f"{change.account} has no {-change.amount}")
    balances[change.account] = balance
    statement = Statement(change.account, balance)
    bus.publish("statements", statement, key=f"statement.{change.account}")


@handler
def send(statement: Statement) -> None:
    """Send a statement; here it is a line in the log."""
    log.info("the balance of %s is %d", statement.account, statement.balance)


def publish(accounts: int) -> None:
    """Publish a deposit, and then an equal withdrawal, for each of the accounts."""
    with feedbus.connect("topology.toml") as bus:
        for amount in (100, -100):
            changes = (Change(f"account-{number}", amount) for number in range(accounts))
            bus.publish_many("changes", ((change, change.account) for change in changes))


if __name__ == "__main__":
    publish(1000)
