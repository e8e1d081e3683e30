#!/usr/bin/env node
'use strict';
/*
 * An order in three steps, with a worker in Node: example.js [connection string]
 *
 * Needs a database with the extension and a role that may define tasks in it
 * (PGHOST, PGDATABASE, PGUSER and the like are heeded), and pg (npm ci). It
 * defines the workflow, creates ten tasks, works on them, and ends when they have.
 */
const { Client } = require('pg');
const { DoNotRetry, RetryAfter, Worker } = require('./tasker.js');

const connectionString = process.argv[2];
const ORDER = {
  defaults: { queue: 'example_node_orders', lease: '10 s' },
  steps: [
    { name: 'charge', retry: { max_attempts: 5 } },
    { name: 'reserve' },
    { name: 'ship', depends_on: ['charge', 'reserve'] },
  ],
};

const worker = new Worker({ connectionString, queues: ['example_node_orders'], concurrency: 4, batch: 10 });

worker.handle('charge', async (step) => {
  const { amount } = step.context;
  if (amount < 0) throw new DoNotRetry(`an order of ${amount}`);
  if (amount > 80 && step.attempt === 1) throw new RetryAfter(0.5, 'the payment service is busy');
  // A payment service takes step.idempotencyKey, so that a second attempt charges nobody twice.
  return { charged: amount, reference: step.idempotencyKey };
});

worker.handle('reserve', async (step) => {
  await step.checkpoint({ lookedUp: true }); // the next attempt would find it in step.saved
  return { reserved: step.context.order };
});

worker.handle('ship', { transactional: true }, async (step, client) => {
  // This row and the step's completion: both or neither.
  await client.query('INSERT INTO example_node_parcels VALUES ($1, $2)',
    [step.context.order, step.parents.charge.charged]);
  return { shipped: step.context.order };
});

async function main() {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    await client.query('CREATE TABLE IF NOT EXISTS example_node_parcels (order_no int, amount int)');
    await client.query("SELECT tasker.define_task('example_node_order', $1)", [ORDER]);
    const tasks = [];
    for (let order = 1; order <= 10; order += 1) {
      const { rows } = await client.query("SELECT tasker.create_task('example_node_order', $1) AS id",
        [{ order, amount: order * 10 }]);
      tasks.push(rows[0].id);
    }
    // A service would do nothing but "await worker.run()", and end by SIGTERM.
    worker.start();
    for (const task of tasks) {
      const { rows } = await client.query("SELECT tasker.task_wait($1, timeout => '1 min') AS state", [task]);
      console.log(`task ${task}: ${rows[0].state}`);
    }
    await worker.stop();
  } finally {
    await client.end();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
