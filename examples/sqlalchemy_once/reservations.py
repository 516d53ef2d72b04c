"""The row, the id of the handled message and the published messages commit together."""

import os
from dataclasses import dataclass

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from feedbus import Bus, handler
from feedbus.topology import Topology

engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///reservations.db"))


class Base(DeclarativeBase):
    """The tables of this program."""


class Reservation(Base):
    """An order that was reserved."""

    __tablename__ = "reservations"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]


@dataclass
class Order:
    """The payload of a message."""

    id: int
    customer: str


def create_tables(topology: Topology) -> None:  # noqa: ARG001 -- what feedbus passes
    """Create the missing tables."""
    Base.metadata.create_all(engine)


@handler
def reserve(order: Order, session: Session, bus: Bus) -> None:
    """Reserve an order once, however often its message is delivered."""
    session.add(Reservation(order_id=order.id))
    bus.publish("receipts", order, key=f"mail.{order.customer}")
