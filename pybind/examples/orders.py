"""Ten lines of domain, stored durably and loaded back.

Run it twice: the directory keeps what the first run stored.
"""

import asyncio
from decimal import Decimal

from eventuali import Aggregate, DomainEvent, EventStore


class OrderPlaced(DomainEvent):
    """A customer ordered something."""

    customer_id: str
    total: Decimal


class OrderShipped(DomainEvent):
    """The parcel left."""

    carrier: str


class Order(Aggregate):
    """One order."""

    total: Decimal = Decimal(0)
    carrier: str | None = None

    def place(self, customer_id: str, total: Decimal) -> None:
        """A command method checks and applies."""
        self.apply(OrderPlaced(customer_id=customer_id, total=total))

    def ship(self, carrier: str) -> None:
        """An order is shipped once."""
        if self.carrier is not None:
            raise ValueError("it was shipped already")
        self.apply(OrderShipped(carrier=carrier))

    def apply_order_placed(self, event: OrderPlaced) -> None:
        """A handler only records what happened."""
        self.total = event.total

    def apply_order_shipped(self, event: OrderShipped) -> None:
        """A handler only records what happened."""
        self.carrier = event.carrier


async def main() -> None:
    """Places an order, ships it, and looks at it as it was before."""
    async with EventStore.create("./orders") as store:
        order = Order()
        order.place("customer-7", Decimal("99.90"))
        receipt = await store.save(order)
        print(f"placed: version {receipt.version}, durability {receipt.durability}")

        order = await store.update(Order, order.id, lambda order: order.ship("DHL"))
        print(f"shipped by {order.carrier}, total {order.total}")

        before = await store.load(Order, order.id, version=1)
        print(f"at version 1 it was shipped by {before.carrier}")

        async for event in store.read(order.id):
            print(f"{event.aggregate_version}: {event.event_type}")


if __name__ == "__main__":
    asyncio.run(main())

# > placed: version 1, durability sync
# > shipped by DHL, total 99.90
# > at version 1 it was shipped by None
# > 1: OrderPlaced
# > 2: OrderShipped
