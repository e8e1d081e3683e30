#!/usr/bin/python3
"""The worker in Python of the invoice (run.sh): step "compute" adds up what was reserved."""
import logging
import os
import sys
from decimal import Decimal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))
from tasker import DoNotRetry, Step, Worker  # noqa: E402

TAX = Decimal("0.20")
CENT = Decimal("0.01")

worker = Worker("", queues=["python"], name="Python", concurrency=2)


@worker.handler("compute")
def compute(step: Step) -> dict:
    goods = step.parents["reserve"]
    if not goods:
        raise DoNotRetry("nothing of this order is in the catalogue")
    net = sum(item["quantity"] * Decimal(item["price"]) for item in goods)
    tax = (net * TAX).quantize(CENT)
    # As text: JSON's numbers are not made for money.
    return {"net": str(net), "tax": str(tax), "total": str(net + tax)}


logging.basicConfig(level=logging.INFO, format="%(message)s")
worker.run()
