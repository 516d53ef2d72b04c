"""A web application that publishes each order, and the handler of the orders."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, PositiveInt

import feedbus

log = logging.getLogger(__name__)


class Order(BaseModel):
    """The body of a request, and the payload of a message."""

    id: int
    product: str
    quantity: PositiveInt


class State(TypedDict):
    """The objects that every request can use."""

    bus: feedbus.AsyncBus


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[State]:  # noqa: ARG001 -- what FastAPI passes
    """Keep one bus for all requests of a process."""
    async with await feedbus.connect_async("topology.toml") as bus:
        yield {"bus": bus}


app = FastAPI(lifespan=lifespan)


@app.exception_handler(feedbus.BrokerOutage)
async def outage(request: Request, error: Exception) -> Response:  # noqa: ARG001 -- as above
    """Ask the client to repeat a request whose message the broker has not confirmed."""
    return Response(status_code=503, headers={"Retry-After": "5"})


@app.post("/orders", status_code=202)
async def order(order: Order, request: Request) -> None:
    """Publish the order, and answer when the broker has confirmed the message."""
    await request.state.bus.publish("orders", order, key=order.product)


@feedbus.handler
def reserve(order: Order) -> None:
    """Reserve stock for an order."""
    log.info("order %d: %s reserved", order.id, order.product)
