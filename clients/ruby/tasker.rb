# frozen_string_literal: true

# Workers in Ruby for tasker: claim steps from queues, run handlers, report.
#
#     worker = Tasker::Worker.new(connection: 'dbname=shop', queues: ['payments'], concurrency: 4, batch: 10)
#     worker.on('charge') { |step| { charged: step.context['amount'] } }
#     worker.run
#
# Needs the gem pg (Debian: ruby-pg) and nothing else. A worker has three
# connections (claims, reports, heartbeats), and one for each thread that has
# run a transactional handler. It works through pgbouncer in transaction mode.
#
# Threads: one claims while there is room and the server has no more to give
# with a report; `concurrency` of them run handlers; one reports what they
# finished, as many in a call as there are, and claims the next in the same
# call; one extends the leases. What they share is guarded by Worker's @mutex.

require 'json'
require 'logger'
require 'pg'
require 'socket'

module Tasker
  # How long is left is the server's clock's to say: this machine's may be wrong.
  COLUMNS = 'c.task_id, c.step_id, c.lease, c.name, c.queue, c.attempt, c.max_attempts, c.input, c.idempotency_key, ' \
            'c.checkpoint, c.traceparent, extract(epoch FROM c.lease_expires_at - clock_timestamp()), ' \
            'extract(epoch FROM c.deadline - clock_timestamp()), extract(epoch FROM c.deadline)'
  CLAIM = "SELECT #{COLUMNS} FROM tasker.claim_steps(queues => $1, worker => $2, max_steps => $3, lease => $4, " \
          'wait => $5) AS c'
  COMPLETE_MANY = "SELECT c.outcome, #{COLUMNS} FROM tasker.complete_steps(task_ids => $1, step_ids => $2, " \
                  'leases => $3, results => $4::text[]::jsonb[], queues => $5, worker => $6, max_steps => $7, ' \
                  'lease => $8) AS c'
  COMPLETE = 'SELECT tasker.complete_step($1, $2, $3, results => $4)'
  FAIL = 'SELECT tasker.fail_step($1, $2, $3, error => $4, retryable => $5, retry_after => $6)'
  HEARTBEAT = 'SELECT extract(epoch FROM tasker.heartbeat($1, $2, $3, extend => $4, checkpoint => $5) - ' \
              'clock_timestamp())'
  RELEASE = 'SELECT tasker.release_step($1, $2, $3, delay => $4)'
  REGISTER = 'SELECT tasker.register_worker(worker => $1, queues => $2, metadata => $3)'
  private_constant :COLUMNS, :CLAIM, :COMPLETE_MANY, :COMPLETE, :FAIL, :HEARTBEAT, :RELEASE, :REGISTER

  # Raised by a handler: the step fails for good, whatever its policy says.
  class DoNotRetry < StandardError; end

  # Raised by a handler: the step fails, and is tried again after so many seconds.
  class RetryAfter < StandardError
    attr_reader :seconds

    def initialize(seconds, message = nil)
      @seconds = [[Float(seconds), 0.0].max, 2_592_000.0].min # 30 days: what the server takes
      super(message || "to be tried again after #{seconds} s")
    end
  end

  # The step is no longer this worker's: cancelled, or given to another. Let it pass through the handler.
  class LeaseLost < StandardError; end

  # The worker ends, and what was to be done is not worth waiting for.
  class Stopped < StandardError; end

  singleton_class.attr_accessor :logger # where workers say what happens
  self.logger = Logger.new($stderr, progname: 'tasker', level: Logger::INFO)

  # What a step's error and its results look like to the server.
  module Wire
    LONGEST_TEXT = 4000
    # Bounds what a cycle can do; deeper than what the server's own parser takes.
    DEEPEST = 5000
    ARRAY = PG::TextEncoder::Array.new.freeze
    STRINGS = PG::TypeMapAllStrings.new

    module_function

    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

    def sqlstate(error)
      error.result&.error_field(PG::PG_DIAG_SQLSTATE) if error.is_a?(PG::Error)
    end

    # Whether another try on another connection may go well.
    def passing?(error)
      return true unless error.is_a?(PG::Error)
      state = sqlstate(error)
      # A server that is not (yet) the primary; switched off, or a copy: somebody may change that.
      state.nil? || %w[25006 TK601 TK602].include?(state) || %w[08 40 53 55 57 58].include?(state[0, 2])
    end

    # An interval, for the server.
    def interval(seconds) = seconds && format('%.6f seconds', seconds)

    # Text as the server takes it: UTF-8, no NUL, not endless.
    def clean(text)
      text = text.to_s
      text = text.dup.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
      text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub.tr("\0", "\ufffd")[0, LONGEST_TEXT]
    end

    # The error as JSON, for fail_step.
    def describe(error)
      message = (clean(error.message) rescue '') # rubocop:disable Style/RescueModifier
      about = { message: message.empty? ? error.class.to_s : message, type: error.class.to_s,
                context: clean(error.backtrace&.first(40)&.join("\n")) }
      if (state = sqlstate(error))
        about[:sqlstate] = state
        about[:detail] = error.result.error_field(PG::PG_DIAG_MESSAGE_DETAIL)&.then { |detail| clean(detail) }
      end
      JSON.generate(about)
    end

    def parse(text) = text && JSON.parse(text, max_nesting: DEEPEST, create_additions: false)

    # Results as JSON; nil for none.
    def results(value)
      case value
      when nil then return nil
      when Hash, Array, String, Symbol, Numeric, true, false then return JSON.generate(value, max_nesting: DEEPEST)
      end
      raise TypeError, "a #{value.class}"
    rescue StandardError, SystemStackError => e
      # It would be the same the next time.
      raise DoNotRetry, "the handler's results are not JSON: #{clean(e.message)}"
    end
  end

  # One attempt of one step, as its handler sees it.
  class Step
    attr_reader :task_id, :id, :lease, :name, :queue, :attempt, :max_attempts
    # The same for all attempts of the step: give it to payment services and the like.
    attr_reader :idempotency_key
    # The W3C trace context to go on in; when the step's timeout ends this attempt, by the server's clock, or nil.
    attr_reader :traceparent, :deadline
    # For the worker only: when to extend the lease; waiting, running or reporting.
    attr_accessor :due, :state

    def initialize(worker, row)
      @worker = worker
      task_id, id, @lease, @name, @queue, attempt, max_attempts, @input_text, @idempotency_key, @saved_text,
        @traceparent, seconds, left, deadline = row
      @task_id, @id, @attempt, @max_attempts = [task_id, id, attempt, max_attempts].map { |n| n && Integer(n, 10) }
      @state = :waiting
      @end = left && (Wire.now + Float(left))
      @deadline = deadline && Time.at(Rational(deadline))
      extended(seconds)
    end

    # {"task" => {…}, "step" => {…}, "parents" => {name => results}}
    def input = @input ||= Wire.parse(@input_text)

    # id, name, namespace, version, context, correlation_id, priority, tags
    def task = input['task']

    # What create_task was given.
    def context = task['context']

    # The results of the steps that this one depends on, by name.
    def parents = input['parents'] || {}

    # What the last checkpoint kept, of this attempt or one before; nil if there is none.
    def saved = @saved ||= Wire.parse(@saved_text)

    # The step is no longer ours: a long handler may look, and stop.
    def lost? = @lost || false

    # Seconds until the deadline, whatever this machine's clock says; nil without one.
    def time_left = @end && (@end - Wire.now)

    # Extends the lease (the worker does so by itself). Raises LeaseLost.
    def heartbeat = @worker.__send__(:extend_lease, self, nil)&.then { nil }

    # Keeps a value for the next attempt, and extends the lease. Raises LeaseLost.
    def checkpoint(value)
      text = JSON.generate(value, max_nesting: Wire::DEEPEST)
      @worker.__send__(:extend_lease, self, text)
      @saved, @saved_text = nil, text
      nil
    end

    def key = [@task_id, @id, @lease]
    def extended(seconds) = @due = Wire.now + [Float(seconds), 0.03].max / 3
    def lose = @lost = true
    def to_s = "step #{@task_id}.#{@id} \"#{@name}\", attempt #{@attempt}"
  end

  # A connection that comes back: opened when needed, again after a failure.
  class Link
    # patient: goes on trying while the worker drains.
    def initialize(worker, patient:)
      @worker, @patient, @mutex, @connection = worker, patient, Mutex.new, nil
    end

    # What the block makes of the connection, once no failure of it or the server interferes.
    def call
      @mutex.synchronize do
        delay = 0.05
        begin
          yield(@connection ||= @worker.__send__(:connect))
        rescue PG::Error, SystemCallError, IOError, SocketError => e
          raise unless Wire.passing?(e)
          drop
          pause = delay * (0.5 + rand)
          Tasker.logger.warn { format('connection failed, next try in %.1f s: %s', pause, Wire.clean(e.message).strip) }
          raise Stopped, e.message if @worker.__send__(:pause, pause, @patient)
          delay = [delay * 2, 5.0].min
          retry
        end
      end
    end

    # The rows of one statement, as strings, whatever type maps the program's own connections have.
    def query(sql, arguments)
      call { |opened| opened.exec_params(sql, arguments, 0, Wire::STRINGS).map_types!(Wire::STRINGS).values }
    end

    # Ends a transaction that did not come to its commit.
    def roll_back
      @mutex.synchronize do
        next if @connection.nil?
        case @connection.finished? ? nil : @connection.transaction_status
        when PG::PQTRANS_IDLE then nil
        when PG::PQTRANS_INTRANS, PG::PQTRANS_INERROR then @connection.exec('ROLLBACK')
        else drop
        end
      rescue PG::Error
        drop
      end
    end

    def close = @mutex.synchronize { drop }

    private

    def drop
      connection, @connection = @connection, nil
      connection&.close unless connection&.finished?
    rescue PG::Error, SystemCallError, IOError
      nil
    end
  end

  # What became of a step: a call that is still to be made, if there is one.
  Report = Struct.new(:step, :call, :arguments)
  private_constant :Report, :Link, :Wire, :Stopped

  # Claims steps from queues and runs their handlers. Its arguments are explained in README.md.
  class Worker
    WAIT = 1
    # How long a step that this worker has no handler for stays away.
    UNKNOWN_STEP_DELAY = 10
    REGISTER_EVERY = 60
    KEEPALIVE = { connect_timeout: 10, keepalives_idle: 10, keepalives_interval: 5, keepalives_count: 3,
                  tcp_user_timeout: 30_000 }.freeze
    private_constant :WAIT, :UNKNOWN_STEP_DELAY, :REGISTER_EVERY, :KEEPALIVE

    attr_reader :name, :queues, :concurrency, :batch, :lease

    def initialize(connection:, queues:, concurrency: 1, batch: 1, lease: nil, name: nil, drain: 30,
                   metadata: {})
      @queues = Array(queues).map(&:to_s)
      raise ArgumentError, 'queues must have at least one name' if @queues.empty?
      raise ArgumentError, 'concurrency and batch must be at least 1' if concurrency < 1 || batch < 1
      @source, @concurrency, @batch, @lease, @drain = connection, concurrency, batch, lease, drain
      @name = name || "#{Socket.gethostname}:#{Process.pid}"
      @metadata = { client: 'ruby', host: Socket.gethostname, pid: Process.pid, concurrency: concurrency, batch: batch,
                    **metadata }
      @handlers = {}
      @mutex = Mutex.new
      @changed = ConditionVariable.new
      @capacity = [concurrency, batch].max
      @held = {} # claimed and not yet reported, by lease
      @reserved = 0 # asked for by a claim that is under way
      @waiting, @reports = [], []
      @stopping = false
      @finished = false # everything reported: the other threads may end
      @deadline = Float::INFINITY
      @failure, @threads = nil, []
      @wake = Thread::Queue.new # the number of a signal, or nil: for #run
      @claims, @completions, @heartbeats = [false, true, true].map { |patient| Link.new(self, patient: patient) }
    end

    # Registers a handler for the steps of a name, or, without a name, for the others of a queue.
    #
    # It is called with the Step; its value is the step's results: anything that is JSON, or nil. A transactional
    # one is called with the Step and a PG::Connection: what it writes there and the step's completion are one
    # transaction. Its connection must be to the tasker database, and the handler must not commit.
    def on(name = nil, queue: nil, transactional: false, &handler)
      raise ArgumentError, 'a handler needs a block' unless handler
      raise ArgumentError, 'a handler needs the name of a step or of a queue' unless name || queue
      key = [queue&.to_s, name&.to_s]
      raise ArgumentError, "there is a handler for step #{name}, queue #{queue} already" if @handlers.key?(key)
      @handlers[key] = [handler, transactional]
      self
    end

    # Works until SIGTERM, SIGINT or #stop; then finishes what runs and gives back the rest.
    #
    # A second signal ends the process at once. Raises what made work impossible: a permission, a missing extension.
    def run
      # No mutex may be taken in a trap.
      before = %w[TERM INT].to_h do |signal|
        [signal, trap(signal) { |number| [@wake << number, trap(signal, 'DEFAULT')] }]
      end
      start
      number = @wake.pop
      Tasker.logger.info { "#{@name}: SIG#{Signal.signame(number)}, draining" } if number
      stop
    ensure
      before&.each { |signal, old| trap(signal, old || 'DEFAULT') }
    end

    # Starts the threads and returns, for programs that have something else to do. Once per Worker.
    def start
      raise 'a worker starts once' unless @threads.empty?
      Tasker.logger.info { "#{@name}: serving #{@queues.join(', ')}" }
      bodies = %i[claim_loop report_loop heartbeat_loop] + [:handler_loop] * @concurrency
      # Under the mutex, for a handler that calls #stop.
      @mutex.synchronize { @threads = bodies.map { |body| Thread.new { guarded(body) } } }
      self
    end

    # Drains: running handlers finish within `drain` seconds, other claimed steps are given back. Raises as #run.
    # Called by a handler, it only begins to: the handler is one of those that finish.
    def stop
      begin_stop
      return if @threads.include?(Thread.current)
      @threads.each { |thread| thread.join([0.1, @deadline - Wire.now].max) }
      finish
      left = @mutex.synchronize { @held.size }
      Tasker.logger.warn { "#{@name}: #{left} steps are left to the end of their leases" } if left.positive?
      Tasker.logger.info { "#{@name}: stopped" }
      raise @failure if @failure
    end

    private

    def guarded(body)
      __send__(body)
    rescue Stopped
      nil
    rescue Exception => e # rubocop:disable Lint/RescueException
      Tasker.logger.error { "#{@name}: #{Wire.clean(e.message).strip}" }
      @failure ||= e
      begin_stop
    ensure
      { claim_loop: @claims, report_loop: @completions, heartbeat_loop: @heartbeats }[body]&.close
      finish if body == :report_loop
    end

    def finish
      @mutex.synchronize do
        @finished = true
        @changed.broadcast
      end
    end

    def begin_stop
      @mutex.synchronize do
        unless @stopping
          @stopping = true
          @deadline = Wire.now + @drain
          @reports.concat(@waiting.map { |step| Report.new(step, RELEASE, [nil]) })
          @waiting.clear
          @wake << nil
        end
        @changed.broadcast
      end
    end

    # With @mutex held: until the block says so.
    def wait_until = (@changed.wait(@mutex) until yield)

    def claim_loop
      short = 0.0
      loop do
        room = @mutex.synchronize do
          # A report claims as well: half a batch of room is left to it.
          wait_until { @stopping || (free.positive? && (@waiting.empty? || 2 * free >= @batch)) }
          return if @stopping
          reserve(0)
        end
        began = Wire.now
        begin
          rows = @claims.query(CLAIM, [array(@queues), @name, room, Wire.interval(@lease), Wire.interval(WAIT)])
        ensure
          accept(rows || [], room, [])
        end
        # Others were quicker, or the server can not wait: no busy loop.
        short = rows.empty? && Wire.now - began < 0.1 ? (short * 2).clamp(0.002, 0.25) : 0.0
        pause(short, false) if short.positive?
      end
    end

    def handler_loop
      link = Link.new(self, patient: true)
      loop do
        step = @mutex.synchronize do
          wait_until { @waiting.any? || @stopping }
          return if @waiting.empty?
          @waiting.shift.tap { |next_step| next_step.state = :running }
        end
        begin
          report = attempt(step, link)
        ensure
          @mutex.synchronize do
            step.state = :reporting
            @reports << (report || Report.new(step))
            @changed.broadcast
          end
        end
      end
    ensure
      link&.close
    end

    def report_loop
      loop do
        reports = room = nil
        @mutex.synchronize do
          wait_until { @reports.any? || (@stopping && @held.empty? && @reserved.zero?) }
          return if @reports.empty?
          reports = @reports
          @reports = []
          room = @stopping ? 0 : reserve(reports.size)
        end
        begin
          completed, others = reports.partition { |report| report.call == COMPLETE }
          others.each { |report| make(report) if report.call }
          rows = complete(completed, room)
        ensure
          accept(rows || [], room, reports)
        end
      end
    end

    def heartbeat_loop
      register = 0
      loop do
        if Wire.now >= register
          @heartbeats.query(REGISTER, [@name, array(@queues), JSON.generate(@metadata)])
          register = Wire.now + REGISTER_EVERY
        end
        due = @mutex.synchronize do
          return if @finished
          held = @held.values.reject { |step| step.state == :reporting || step.lost? }
          at = Wire.now
          due = held.select { |step| step.due <= at }
          # A step claimed meanwhile wakes this as well.
          @changed.wait(@mutex, [register, *held.map(&:due)].min - at) if due.empty?
          due
        end
        due.each do |step|
          extend_lease(step, nil)
        rescue LeaseLost
          Tasker.logger.info { "#{@name}: #{step} is no longer ours" }
        end
      end
    end

    def array(values) = Wire::ARRAY.encode(values)
    def free = @capacity - @held.size - @reserved

    # Room for a claim, with @mutex held; `leaving` steps are reported by the same call.
    def reserve(leaving)
      room = (free + leaving).clamp(0, @batch)
      @reserved += room
      room
    end

    # Takes in what a claim brought and forgets what was reported.
    def accept(rows, reserved, reports)
      steps = rows.map { |row| Step.new(self, row) }
      @mutex.synchronize do
        @reserved -= reserved
        reports.each { |report| @held.delete(report.step.lease) }
        steps.each do |step|
          @held[step.lease] = step
          @stopping ? @reports << Report.new(step, RELEASE, [nil]) : @waiting << step
        end
        @changed.broadcast
      end
    end

    # Runs the handler; what is to be reported.
    def attempt(step, link)
      return Report.new(step) if step.lost?
      handler, transactional = @handlers[[step.queue, step.name]] || @handlers[[nil, step.name]] ||
                               @handlers[[step.queue, nil]]
      unless handler
        Tasker.logger.warn { "#{@name}: #{step} has no handler here, given back" }
        return Report.new(step, RELEASE, [Wire.interval(UNKNOWN_STEP_DELAY)])
      end
      return Report.new(step, COMPLETE, [Wire.results(handler.call(step))]) unless transactional
      transaction(step, handler, link)
      Report.new(step)
    rescue LeaseLost
      Tasker.logger.info { "#{@name}: #{step} is no longer ours, dropped" }
      Report.new(step)
    rescue Stopped
      Report.new(step, RELEASE, [nil])
    rescue DoNotRetry => e
      Report.new(step, FAIL, [Wire.describe(e), false, nil])
    rescue RetryAfter => e
      Report.new(step, FAIL, [Wire.describe(e), true, Wire.interval(e.seconds)])
    rescue Exception => e # rubocop:disable Lint/RescueException -- exit too: a handler does not end the worker
      about = Wire.describe(e)
      Tasker.logger.warn { "#{@name}: #{step} failed: #{about[0, 500]}" }
      Report.new(step, FAIL, [about, true, nil])
    end

    # Handler and completion in one transaction.
    def transaction(step, handler, link)
      connection = link.call { |opened| opened.tap { opened.exec('BEGIN') } }
      results = Wire.results(handler.call(step, connection))
      raise DoNotRetry, 'the handler ended its transaction' if connection.transaction_status == PG::PQTRANS_IDLE
      @mutex.synchronize { step.state = :reporting } # a heartbeat would wait for this transaction
      begin
        connection.exec_params(COMPLETE, [*step.key, results], 0, Wire::STRINGS)
      rescue PG::Error => e
        refused(step, e)
        # Results that the server does not take would be the same the next time.
        raise DoNotRetry, e.message if Wire.sqlstate(e)&.match?(/\A(22|54|TK400)/)
        raise
      end
      connection.exec('COMMIT')
    ensure
      link.roll_back
    end

    # Completes steps and claims the next ones, in one call; the rows of the claim.
    def complete(reports, room)
      return [] if reports.empty?
      keys = reports.map { |report| report.step.key }.transpose
      results = reports.map { |report| report.arguments.first }
      rows = @completions.query(COMPLETE_MANY, [*keys, results, @queues].map { |values| array(values) } +
                                               [@name, room, Wire.interval(@lease)])
      claimed, refused = rows.partition { |row| row.first == 'claimed' }
      refused.each do |row|
        Tasker.logger.info { "#{@name}: completion of step #{row[1]}.#{row[2]} refused: its lease had ended" }
      end
      claimed.map { |row| row.drop(1) }
    rescue PG::Error => e
      raise if %w[42501 42883 3F000].include?(Wire.sqlstate(e))
      # One of them is to blame, a result too large or not jsonb: which one?
      reports.each { |report| make(report) }
      []
    end

    # One report on its own. What the server does not accept as results fails the step.
    def make(report)
      @completions.query(report.call, [*report.step.key, *report.arguments])
    rescue PG::Error => e
      begin
        refused(report.step, e)
      rescue LeaseLost
        Tasker.logger.info { "#{@name}: #{report.step} is no longer ours, dropped" }
        return
      end
      raise unless report.call == COMPLETE
      make(Report.new(report.step, FAIL, [Wire.describe(e), false, nil]))
    end

    def extend_lease(step, checkpoint)
      raise LeaseLost, step.to_s if step.lost?
      rows = @heartbeats.query(HEARTBEAT, [*step.key, Wire.interval(@lease), checkpoint])
      step.extended(rows.first.first)
    rescue PG::Error => e
      ours = @mutex.synchronize { step.state != :reporting }
      refused(step, e) if ours
      raise unless !ours && Wire.sqlstate(e) == 'TK420'
    end

    # LeaseLost if that is what the error says.
    def refused(step, error)
      return unless Wire.sqlstate(error) == 'TK420'
      step.lose
      raise LeaseLost, step.to_s
    end

    def connect
      return @source.call if @source.respond_to?(:call)
      given = @source
      given = PG::Connection.conninfo_parse(given).to_h { |o| [o[:keyword], o[:val]] }.compact if given.is_a?(String)
      settings = KEEPALIVE.merge(fallback_application_name: @name[0, 63], client_encoding: 'UTF8')
      PG.connect(settings.merge(given.to_h.transform_keys(&:to_sym)))
    end

    # Waits; whether to give up because the worker stops.
    def pause(seconds, patient)
      upto = Wire.now + seconds
      @mutex.synchronize do
        loop do
          at = Wire.now
          return true if @finished || (@stopping && (!patient || at >= @deadline))
          return false if at >= upto
          @changed.wait(@mutex, [upto, @deadline].min - at)
        end
      end
    end
  end
end
