#!/usr/bin/env node
'use strict';
/* The worker in Node of the invoice (run.sh): step "render" writes the letter. */
const path = require('node:path');
const { Worker } = require(path.join(__dirname, '..', '..', 'clients', 'node', 'tasker.js'));

const worker = new Worker({ queues: ['node'], name: 'Node', concurrency: 2 });
const money = new Intl.NumberFormat('en-GB', { style: 'currency', currency: 'EUR' });

worker.handle('render', async (step) => {
  const { reserve: goods, compute: { tax, total } } = step.parents;
  const lines = goods.map(({ quantity, sku, price }) => `${quantity} x ${sku} at ${money.format(price)}`);
  return [`Dear ${step.context.customer},`, ...lines, `tax ${money.format(tax)}`, `total ${money.format(total)}`].join('\n');
});

worker.run().then(() => process.exit(0), () => process.exit(1));
