#!/usr/bin/python3
"""An order in three steps, with a worker in Python: example.py [connection string]

Needs a database with the extension and a role that may define tasks in it (PGHOST, PGDATABASE, PGUSER and the like are
heeded). It defines the workflow, creates ten tasks, works on them, and ends when they have.
"""
import logging
import sys
import threading

import psycopg
from psycopg.types.json import Jsonb

from tasker import DoNotRetry, RetryAfter, Step, Worker

DSN = sys.argv[1] if len(sys.argv) > 1 else ""
ORDER = {
    "defaults": {"queue": "example_orders", "lease": "10 s"},
    "steps": [
        {"name": "charge", "retry": {"max_attempts": 5}},
        {"name": "reserve"},
        {"name": "ship", "depends_on": ["charge", "reserve"]},
    ],
}

worker = Worker(DSN, queues=["example_orders"], concurrency=4, batch=10)


@worker.handler("charge")
def charge(step: Step) -> dict:
    amount = step.context["amount"]
    if amount < 0:
        raise DoNotRetry(f"an order of {amount}")
    if amount > 80 and step.attempt == 1:
        raise RetryAfter(0.5, "the payment service is busy")
    # A payment service takes step.idempotency_key, so that a second attempt charges nobody twice.
    return {"charged": amount, "reference": step.idempotency_key}


@worker.handler("reserve")
def reserve(step: Step) -> dict:
    step.checkpoint({"looked_up": True})  # the next attempt would find it in step.saved
    return {"reserved": step.context["order"]}


@worker.handler("ship", transactional=True)
def ship(step: Step, connection: psycopg.Connection) -> dict:
    # This row and the step's completion: both or neither.
    connection.execute("INSERT INTO example_parcels VALUES (%s, %s)",
                       (step.context["order"], step.parents["charge"]["charged"]))
    return {"shipped": step.context["order"]}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with psycopg.connect(DSN, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS example_parcels (order_no int, amount int)")
        connection.execute("SELECT tasker.define_task('example_order', %s)", (Jsonb(ORDER),))
        tasks = [connection.execute("SELECT tasker.create_task('example_order', %s)",
                                    (Jsonb({"order": n, "amount": n * 10}),)).fetchone()[0] for n in range(1, 11)]

        def watch() -> None:
            for task in tasks:
                state = connection.execute("SELECT tasker.task_wait(%s, timeout => '1 min')", (task,)).fetchone()[0]
                print(f"task {task}: {state}", flush=True)
            worker.stop()

        # A service would do nothing but worker.run(), and end by SIGTERM.
        threading.Thread(target=watch).start()
        worker.run()


if __name__ == "__main__":
    main()
