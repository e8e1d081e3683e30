#!/usr/bin/env python3
"""conformance.py CMD...: what every client in clients/ must do, against a real server.

CMD is a worker program in the client's language, test/clients/LANGUAGE; it
runs until SIGTERM. It finds the server by PGHOST, PGPORT, PGUSER, PGDATABASE;
PGHOST may name two servers ("a,b"), one of which is a standby, and
PGTARGETSESSIONATTRS then is "read-write". Its settings are in CLIENT_QUEUE,
CLIENT_CONCURRENCY, CLIENT_BATCH and CLIENT_LEASE (seconds; empty: the step's
own); with CLIENT_OWN the connections are the program's own, as its driver makes
them, and not by the client's connection string. At the start of each attempt it
prints {"begun": step's name, "task": id, "attempt": number, "key": idempotency
key, "trace": its traceparent, "deadline": the step's, in seconds since 1970, or
null, "left": the seconds until then or null, "clock": seconds since 1970} and a
newline, and flushes. Its handlers, by the step's name (of the context c they
take what is named):

  echo        returns the context
  parents     returns the results of the parents
  effect      transactional: INSERT INTO effects VALUES (key), waits c.seconds, returns {"key": key}, or {"key": c.size letters}
  sleep       waits c.seconds, returns {"attempt": attempt}
  patient     heartbeat() every 50 ms until the lease is lost, then prints {"lost": id of the task}
              and lets the client's exception pass
  error       c.mode "retry": attempt 1 raises an ordinary error with the text c.text; "never": raises
              DoNotRetry with c.text; "after": attempt 1 raises RetryAfter(c.delay, c.text); "nul": returns
              a string with the character U+0000; "large": returns a string of c.size letters;
              "recursive": returns what can not be JSON; otherwise, and in other attempts, it returns
              {"attempt": attempt}
  checkpoint  attempt 1 keeps {"row": c.row} with checkpoint() and raises; others return what they were given

For all other steps of queue "spare" there is a default, which returns {"default": step's name}.

SCENARIOS="errors drain" runs only these. CONFORMANCE=long, "make conformance", is the long form: 20 restarts of the
server, thousands of steps whose workers are killed at random, races that last a minute.
"""
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from conformance_base import (DATABASE, FAST, LONG, ROLE, Worker, count, create, create_many, define, done,  # noqa: E402
                              drain_all, one_step, prepare, size, step_of, tap, until)
from conformance_faults import FAULTS, ON_OWN_SERVERS  # noqa: E402
from session import Session, literal  # noqa: E402

# ---- scenarios ------------------------------------------------------------------

def results(session):
    hostile = ['', "'", '"', '\\', "'; DROP TABLE effects; --", '$1 %s %(x)s {0} ${x} `id`', '\\u0000', 'ünï \U0001f418 \u202e',
               '\t\r\n\x01\x7f', {'a': {"'": [None, True, 1.5, {'"': []}]}, '': {}}, [], [[]], None, False, 0, -0.25,
               'x' * 500000, {'k%d' % i: 'ä' * 20 for i in range(5000)}]
    echo = one_step(session, 'echo', 'a "queue\'s" näme, {with} \\everything')
    tasks = create(session, echo, [{'payload': h} for h in hostile])
    define(session, 'family', [{'name': 'echo', 'queue': 'plain'},
                               {'name': "it's \"ü\" \\ %s {}", 'queue': 'spare'},
                               {'name': 'parents', 'queue': 'plain', 'depends_on': ['echo', "it's \"ü\" \\ %s {}"]}])
    family = create(session, 'family', [{'of': 'two'}])[0]
    with Worker('a "queue\'s" näme, {with} \\everything') as w, Worker('plain'), Worker('spare'):
        tap.ok(until(done(session, echo)), 'hostile payloads, in a queue with a hostile name, are done', w.output())
        same = [session.value('SELECT s.results = t.context FROM tasker.step_status s JOIN tasker.task_status t '
                              'USING (task_id) WHERE task_id = %d' % t) for t in tasks]
        tap.ok(same == ['t'] * len(tasks), 'they come back as they were',
               [str(h)[:60] for h, s in zip(hostile, same) if s != 't'])
        until(done(session, 'family'))
        got = session.json("SELECT results FROM tasker.step_status WHERE task_id = %d AND name = 'parents'" % family)
        tap.ok(got[0]['results'] == {'echo': {'of': 'two'},
                                     "it's \"ü\" \\ %s {}": {'default': "it's \"ü\" \\ %s {}"}},
               'a step gets the results of its parents; a queue has a default handler', got)


def retry_gap(session, task):
    """Seconds from the failure of the attempt before to the last attempt, both by the clock of the call that did it."""
    return float(session.value("SELECT extract(epoch FROM last_attempted_at - (last_error ->> 'at')::timestamptz) "
                               'FROM tasker.step_status WHERE task_id = %d' % task) or 0)


def errors(session):
    text = "it's \"bad\": \\ ünï \U0001f418 %s {}"
    name = one_step(session, 'error', 'errors', retry=dict(FAST, max_attempts=3))
    slow = one_step(session, 'error', 'errors slow', retry=dict(FAST, base='1 h', max_attempts=3))
    checkpoint = one_step(session, 'checkpoint', 'errors')
    retry, never, nul, large, recursive = create(session, name, [
        {'mode': 'retry', 'text': text}, {'mode': 'never', 'text': text}, {'mode': 'nul'},
        {'mode': 'large', 'size': 18000000}, {'mode': 'recursive'}])
    after, never_after = create(session, slow, [{'mode': 'after', 'text': text, 'delay': d} for d in (1, 1e9)])
    spoilt = create(session, one_step(session, 'effect', 'errors'), [{'seconds': 0, 'size': 2000000}])[0]
    kept = create(session, checkpoint, [{'row': "7'\"\\ü"}])[0]
    with Worker('errors', batch=10) as w, Worker('errors slow') as other:
        until(lambda: step_of(session, never_after)['state'] == 'waiting_for_retry')
        session.query('SELECT tasker.cancel_task(%d)' % never_after)
        until(lambda: all(done(session, n)() for n in (name, slow, checkpoint, 'effect at errors')))
        step = step_of(session, retry)
        tap.ok((step['state'], step['attempts'], step['results']) == ('complete', 2, {'attempt': 2}),
               'an ordinary error is retried', [step] + w.output())
        step = step_of(session, never)
        tap.ok((step['state'], step['attempts']) == ('error', 1), 'DoNotRetry is not', [step])
        tap.ok((step['last_error'] or {}).get('message') == text, 'the text of the error is kept', [step])
        step = step_of(session, after)
        gap = retry_gap(session, after)
        tap.ok((step['state'], step['attempts']) == ('complete', 2) and gap >= 1,
               'RetryAfter takes the place of the backoff', [step, gap] + other.output())
        step = step_of(session, never_after)
        tap.ok((step['state'], step['attempts'], other.drain()) == ('cancelled', 1, 0),
               'one that is longer than the server allows does the worker no harm', [step] + other.output())
        for task, what in ((spoilt, 'that are too large for a transaction'), (nul, 'that jsonb can not hold'), (large, 'that are too large'),
                           (recursive, 'that are not JSON')):
            step = step_of(session, task)
            tap.ok((step['state'], step['attempts']) == ('error', 1), 'results %s fail the step, once' % what,
                   [str(step)[:400]] + w.output())
        step = step_of(session, kept)
        tap.ok((step['attempts'], step['results']) == (2, {'row': "7'\"\\ü"}),
               'a checkpoint is given to the next attempt', [step] + w.output())
        tap.ok(session.value('SELECT count(*) FROM effects') == '0', 'what a refused transaction wrote is not there')


def given(session):
    """What a worker says of itself, and what it is told of a step beside its input."""
    trace = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    define(session, 'given', [{'name': 'echo', 'queue': 'given', 'timeout': '10 s'}])
    patient = one_step(session, 'patient', 'given', timeout='400 ms', retryable=False)
    with Worker('given') as w:
        task = int(session.value("SELECT tasker.create_task('given', traceparent => '%s')" % trace))
        late = create(session, patient, [{}])[0]
        until(lambda: done(session, 'given')() and done(session, patient)() and {'lost': late} in w.said)
        limited, cut = sorted(w.begun(), key=lambda b: b['task'])
        tap.ok(limited['trace'] == trace and cut['trace'].startswith('00-') and cut['trace'] != trace,
               'a step has its trace context', [limited, cut])
        started = float(session.value('SELECT extract(epoch FROM last_attempted_at) FROM tasker.step_status '
                                      'WHERE task_id = %d' % task))
        tap.ok(abs(limited['deadline'] - started - 10) < 0.01 and 8 < limited['left'] <= 10, 'and a deadline', [limited, started])
        tap.ok(step_of(session, late)['state'] == 'error' and {'lost': late} in w.said, 'after which it is lost', w.said)
        seen = session.json("SELECT queues, alive, metadata FROM tasker.worker_status WHERE queues = '{given}'")
        tap.ok(len(seen) == 1 and seen[0]['alive'] and seen[0]['metadata']['pid'] == w.process.pid,
               'a worker registers', seen)


def race(session):
    number = size(600, 20000)
    name = one_step(session, 'echo', 'race')
    with Worker('race') as one, Worker('race', concurrency=1, batch=20) as two:
        create_many(session, name, number)
        tap.ok(until(done(session, name)), 'two workers race for %d steps: all complete' % number, one.output() + two.output())
        drain_all((one, two))
        begun = [b['task'] for b in one.begun() + two.begun()]
        tap.ok(len(begun) == number and len(set(begun)) == number, 'none of them is begun twice', [len(begun), len(set(begun))])


def race_for_one(session):
    """Both wait when the step is made, and both are woken by its commit."""
    name = one_step(session, 'echo', 'race for one')
    with Worker('race for one', concurrency=1, batch=1) as one, Worker('race for one') as two:
        until(lambda: session.value("SELECT count(*) FROM tasker.worker_status WHERE queues = '{race for one}'") == '2')
        end = time.monotonic() + size(10, 65)
        tasks = []
        while time.monotonic() < end and len(tasks) < size(300, 1000000):
            tasks += create(session, name, [{}])
            session.value("SELECT tasker.task_wait(%d, '10 s')" % tasks[-1])
        complete = count(session, "t.name = %s AND s.state = 'complete'" % literal(name))
        drain_all((one, two))
        begun = [b['task'] for b in one.begun() + two.begun()]
        tap.ok(len(tasks) >= 30 and complete == len(tasks) and sorted(begun) == tasks,
               'two workers race for one step, again and again: each is begun once',
               [len(tasks), complete, len(begun)] + one.output() + two.output())
        tap.note('%d races, %d and %d won' % (len(tasks), len(one.begun()), len(two.begun())))
        if LONG:
            again = session.query('SELECT round(extract(epoch FROM last_seen_at - registered_at)) FROM tasker.worker_status '
                                  "WHERE queues = '{race for one}'")
            tap.ok(again == ['60', '60'], 'they register again after a minute', again)


def leases(session):
    # On a busy machine a worker may not run for half a second.
    name = one_step(session, 'sleep', 'long', lease='1500 ms')
    task = create(session, name, [{'seconds': 3}])[0]
    patient = one_step(session, 'patient', 'long', lease='1500 ms')
    with Worker('long', lease=1.5) as w:
        lost = create(session, patient, [{}])[0]
        until(lambda: len(w.begun()) == 2)
        session.query('SELECT tasker.cancel_task(%d)' % lost)
        tap.ok(until(lambda: {'lost': lost} in w.said), 'the handler of a cancelled task learns it', w.output())
        until(done(session, name))
        step = step_of(session, task)
        tap.ok((step['state'], step['attempts']) == ('complete', 1), 'a handler longer than its lease keeps it', [step])
        tap.ok(w.drain() == 0 and step_of(session, lost)['state'] == 'cancelled',
               'the worker goes on without the lost step', w.output())


def zombie(session):
    name = one_step(session, 'sleep', 'zombie', lease='400 ms')
    effect = one_step(session, 'effect', 'zombie', lease='400 ms')
    with Worker('zombie', lease=0.4) as one:
        # Longer than it may take, on a busy machine, to see that they have begun and to stop it.
        tasks = create(session, name, [{'seconds': 1.5}]) + create(session, effect, [{'seconds': 1.5}])
        until(lambda: len(one.begun()) == 2)
        one.signal(signal.SIGSTOP)
        with Worker('zombie', lease=5) as two:
            tap.ok(until(done(session, name)), 'a worker that stands still loses its step to another', two.output())
            # Its open transaction has written, and holds no lock of the step.
            tap.ok(until(done(session, effect)), 'a transactional one too', two.output())
            one.signal(signal.SIGCONT)
            tap.ok(one.drain() == 0, 'it comes back and ends well', one.output())
    # A claim of the sleeper that was waiting may have had the second attempt, too.
    steps = [step_of(session, t) for t in tasks]
    winners = {b['task']: b['attempt'] for b in two.begun()}
    tap.ok(steps[0]['results'] == {'attempt': winners.get(tasks[0])} and
           [s['attempts'] for s in steps] == [winners.get(t) for t in tasks], 'its late completions are refused', [steps, winners])
    tap.ok(session.value('SELECT count(*) FROM effects') == '1', 'with the writes of its transaction')
    session.query('TRUNCATE effects')


def clock(session):
    """Leases, heartbeats and delays are the server's, whatever a worker's clock says."""
    library = os.path.join(os.environ['TASKER_DIR'], 'wrong_clock.so')
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'wrong_clock.c')
    subprocess.run(['cc', '-shared', '-fPIC', '-O', '-o', library, source, '-ldl'], check=True)
    workers = []
    for what, wrong_by in (('fast', 86400), ('slow', -86400)):
        queue = 'clock ' + what
        long = one_step(session, 'sleep', queue, lease='600 ms', timeout='20 s')
        after = one_step(session, 'error', queue, retry=dict(FAST, base='1 h', max_attempts=3))
        w = Worker(queue, lease=0.6, env={'LD_PRELOAD': library, 'WRONG_CLOCK': str(wrong_by)})
        workers.append((what, w, long, create(session, long, [{'seconds': 2}])[0],
                        after, create(session, after, [{'mode': 'after', 'text': 'a moment', 'delay': 1}])[0]))
    for what, w, long, long_task, after, after_task in workers:
        until(lambda: done(session, long)() and done(session, after)())
    statuses = drain_all([entry[1] for entry in workers])
    for (what, w, long, long_task, after, after_task), status in zip(workers, statuses):
        now = time.time()
        tap.ok(status == 0 and w.begun() and all(abs(b['clock'] - now) > 80000 for b in w.begun()),
               'a worker whose clock is a day %s ends well' % what, w.begun() + w.output())
        step = step_of(session, long_task)
        tap.ok((step['state'], step['attempts']) == ('complete', 1), 'it keeps a lease', [step] + w.output())
        left = [b['left'] for b in w.begun() if b['begun'] == 'sleep']
        tap.ok(len(left) == 1 and 18 < left[0] <= 20, 'it knows how long it has', left)
        step, gap = step_of(session, after_task), retry_gap(session, after_task)
        tap.ok((step['state'], step['attempts']) == ('complete', 2) and 1 <= gap < 10, 'its RetryAfter is right', [step, gap])


def drain(session):
    name = one_step(session, 'sleep', 'drain')
    create_many(session, name, 8, 1)
    with Worker('drain', concurrency=2, batch=8) as w:
        until(lambda: len(w.begun()) == 2)
        tap.ok(w.drain() == 0, 'SIGTERM ends a worker with status 0', w.output())
        got = session.query('SELECT s.state, s.attempts, count(*) FROM tasker.task_status t JOIN tasker.step_status s '
                            'USING (task_id) WHERE t.name = %s GROUP BY 1, 2 ORDER BY 1, 2' % literal(name))
        tap.ok(got == ['complete|1|2', 'enqueued|0|6'],
               'what ran is complete, the rest is given back without an attempt', got + w.output())
        tap.ok(len(w.begun()) == 2, 'and nothing was begun meanwhile', w.begun())


def refused(session):
    with Worker('x', env={'PGUSER': 'clients_nobody'}) as w:
        tap.ok(until(lambda: w.process.poll() is not None) and w.process.returncode != 0,
               'without the right to claim a worker ends with an error', w.output())


SCENARIOS = (results, errors, given, race, race_for_one, leases, zombie, clock, drain, refused)


def run(scenarios, *arguments):
    only = os.environ.get('SCENARIOS', '').split()
    for scenario in scenarios:
        if not only or scenario.__name__ in only:
            start = time.monotonic()
            scenario(*arguments)
            tap.note('%s: %.1f s' % (scenario.__name__, time.monotonic() - start))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    # Workers and servers of our own end with us.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with Session('postgres') as admin:
        admin.query('SET client_min_messages = warning')
        admin.query('DROP DATABASE IF EXISTS %s WITH (FORCE)' % DATABASE)
        admin.query('CREATE DATABASE ' + DATABASE)
        with Session(DATABASE) as session:
            prepare(session)
            if 'clients_nobody' not in session.query('SELECT rolname FROM pg_roles'):
                session.query('CREATE ROLE clients_nobody LOGIN')
            run(SCENARIOS + FAULTS, session)
        admin.query('DROP DATABASE %s WITH (FORCE)' % DATABASE)
        admin.query('DROP ROLE %s' % ROLE)
        admin.query('DROP ROLE clients_nobody')
    run(ON_OWN_SERVERS)
    tap.done()


if __name__ == '__main__':
    main()
