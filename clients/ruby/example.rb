#!/usr/bin/env ruby
# frozen_string_literal: true

# A shop's payments: ruby clients/ruby/example.rb "dbname=shop"
#
# Makes its definition, one order to work on, and works until Ctrl-C. The role
# needs tasker.grant_access('role', 'submitter'), which allows both.
require_relative 'tasker'

dsn = ARGV.fetch(0, {}) # without one PGHOST, PGDATABASE and the like are heeded

PG.connect(dsn) do |db|
  # For the sake of the example: a table for the handler that writes to the database.
  db.exec('SET client_min_messages = warning')
  db.exec('CREATE TABLE IF NOT EXISTS shop_invoices (task_id bigint PRIMARY KEY, amount int, charge text)')
  db.exec_params('SELECT tasker.define_task($1, $2::jsonb)', ['ruby_order', JSON.generate(
    steps: [
      { name: 'charge', queue: 'payments', lease: '10 s', retry: { max_attempts: 5 } },
      { name: 'invoice', queue: 'payments', depends_on: ['charge'] },
      { name: 'send', queue: 'payments', depends_on: ['invoice'] }
    ]
  )])
  task = db.exec_params('SELECT tasker.create_task($1, $2::jsonb)', ['ruby_order', '{"amount": 120}']).getvalue(0, 0)
  puts "task #{task}: SELECT * FROM tasker.step_status WHERE task_id = #{task};"
end

worker = Tasker::Worker.new(connection: dsn, queues: ['payments'], concurrency: 4, batch: 10)

worker.on('charge') do |step|
  amount = step.context['amount']
  raise Tasker::DoNotRetry, 'nothing to pay' unless amount.positive?
  # The payment service has a bad day: not before a second from now.
  raise Tasker::RetryAfter.new(1, 'service is busy') if step.attempt == 1

  # A real service would get step.idempotency_key.
  { charge: "ch_#{step.idempotency_key}" }
end

# The row and the step's completion are one transaction.
worker.on('invoice', transactional: true) do |step, db|
  charge = step.parents['charge']['charge']
  db.exec_params('INSERT INTO shop_invoices VALUES ($1, $2, $3)', [step.task_id, step.context['amount'], charge])
  { invoice: step.task_id }
end

worker.on('send') do |step|
  puts "task #{step.task_id}: sent invoice #{step.parents['invoice']['invoice']}"
end

worker.run
