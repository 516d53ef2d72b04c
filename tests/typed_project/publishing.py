"""Programs that publish, as the documentation writes them."""

import asyncio

import feedbus


def script() -> int:
    """Publish from a script."""
    with feedbus.connect("topology.toml") as bus:
        bus.publish("orders", {"id": 1, "product": "chair"}, key="chair", message_id="order-1")
        with bus.transaction() as session:
            session.execute("SELECT 1")
            bus.publish("orders", {"id": 2}, key="chair")
        return bus.publish_many("orders", [({"id": 3}, "chair"), ({"id": 4}, "table")])


async def application() -> int:
    """Publish from an event loop."""
    async with await feedbus.connect_async("topology.toml") as bus:
        try:
            await bus.publish("orders", {"id": 1}, key="chair")
        except (feedbus.BrokerOutage, feedbus.Unroutable):
            return 0
        return await bus.publish_many("orders", (({"id": number}, "chair") for number in range(3)))


def main() -> int:
    """Do both."""
    return script() + asyncio.run(application())
