#!/usr/bin/env ruby
# frozen_string_literal: true

# The worker in Ruby of the invoice (run.sh): step "send" puts the letter into
# the outbox, in the transaction that completes the step: it is there once.
require_relative '../../clients/ruby/tasker'

worker = Tasker::Worker.new(connection: '', queues: ['ruby'], name: 'Ruby', concurrency: 2)

worker.on('send', transactional: true) do |step, db|
  recipient = step.context['email']
  db.exec_params('INSERT INTO billing.outbox VALUES ($1, $2, $3)',
                 [step.idempotency_key, recipient, step.parents['render']])
  { sent_to: recipient }
end

worker.run
