#!/usr/bin/python3
"""load.py ROLE DSN JOURNAL SEED: one process of the load, until it is killed or,
on SIGTERM, has finished what it is at.

  submitter   creates tasks; writes the id of each one that the server has accepted into its journal
  worker      an external worker: the client in clients/python, for transactional and plain steps
  operator    cancels, pauses, resumes, retries, resolves tasks at random
  vandal      a superuser who changes steps' states as the state machine forbids
  runner      CALL tasker.run(), beside the executors

Each lives with every failure of the server. What no failure of a server
explains goes into the journal as well, as "unexpected: ...".
"""
import json
import logging
import os
import random
import signal
import sys
import threading
import time

import psycopg

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', '..', 'clients', 'python'))
import tasker  # noqa: E402

# Refusals of tasker's own, and what servers that go down, fill up or fail over say.
EXPECTED = ('TK', '08', '57', '53', '58', '40', '25006', '55P03')
UNEXPECTED = ('TK6',)

stopping = threading.Event()


class Client:
    """A session that comes back, and a journal."""

    def __init__(self, dsn, user, journal):
        self.dsn = dsn + ' user=' + user
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.connection = None

    def note(self, text):
        os.write(self.journal, (text + '\n').encode())

    def try_once(self, work, unexpected=UNEXPECTED):
        """work(connection); None after a failure."""
        try:
            if self.connection is None or self.connection.closed:
                self.connection = psycopg.connect(self.dsn + ' dbname=postgres', autocommit=True)
            return work(self.connection)
        except psycopg.Error as error:
            state = error.diag.sqlstate or '08006'
            if state.startswith(unexpected) or not state.startswith(EXPECTED):
                self.note('unexpected: %s: %s' % (state, str(error).strip().replace('\n', ' ')))
            if self.connection is not None and not state.startswith('TK'):
                self.connection.close()
            return None

    def until_done(self, work):
        """The same, until it succeeds."""
        while True:
            result = self.try_once(work, unexpected=('TK',))
            if result is not None:
                return result
            time.sleep(0.05)


# ------------------------------------------------------------------ submitter

def random_context(rng):
    context = {}
    if rng.random() < 0.3:
        context['sleep'] = round(rng.choice((0.002, 0.01, 0.05, 0.4)) * rng.uniform(0.5, 1.5), 4)
    if rng.random() < 0.15:
        context['fail'] = {rng.choice('abc'): rng.randint(1, 3)}
    if rng.random() < 0.04:
        context['doomed'] = rng.choice('abc')
    return context


def submitter(dsn, journal, rng):
    client = Client(dsn, 'chaos', journal)
    names = ('one', 'chain', 'chain', 'diamond', 'diamond', 'mixed', 'mixed', 'leaves', 'leaves', 'hand')
    number = 0
    while not stopping.is_set():
        number += 1
        name, key = rng.choice(names), '%d-%d' % (os.getpid(), number)
        context, start = json.dumps(random_context(rng)), rng.choice((None,) * 9 + (1,))
        # The same again until an answer comes: the key makes it one task.
        task = client.until_done(lambda c: c.execute(
            "SELECT tasker.create_task(%s, %s::jsonb, priority => %s, idempotency_key => %s, "
            "start_at => clock_timestamp() + %s * interval '1 s')",
            (name, context, rng.randint(0, 2), key, start)).fetchone())
        client.note('accepted: %d' % task[0])
        stopping.wait(rng.uniform(0, 0.25))


# --------------------------------------------------------------------- worker

def worker(dsn, journal, rng):
    logging.disable()  # that handlers fail is no news
    client = Client(dsn, 'hand', journal)
    lock = threading.Lock()
    hand = tasker.Worker(dsn + ' user=hand dbname=postgres', ['tx', 'plain'], concurrency=4, batch=3, drain=5)

    def effect(connection, step):
        connection.execute('INSERT INTO chaos.effects (task_id, step_id, attempt, parents) VALUES (%s, %s, %s, %s)',
                           (step.task_id, step.id, step.attempt, json.dumps(step.parents)))
        return True

    def result(step):
        time.sleep(rng.uniform(0, 2) * step.context.get('sleep', 0.01))
        if step.attempt <= (step.context.get('fail') or {}).get(step.name, 0):
            raise RuntimeError('attempt %d fails' % step.attempt)
        if step.context.get('doomed') == step.name:
            raise tasker.DoNotRetry('doomed')
        return {'step': step.name, 'attempt': step.attempt}

    @hand.handler(queue='tx', transactional=True)
    def in_transaction(step, connection):
        effect(connection, step)
        return result(step)

    @hand.handler(queue='plain')
    def plain(step):
        with lock:
            client.until_done(lambda connection: effect(connection, step))
        return result(step)

    hand.run()


# ------------------------------------------------------------------- operator

PICK = "SELECT task_id FROM tasker.tasks WHERE state = ANY (%s) ORDER BY task_id DESC LIMIT 40"
PICK_STEP = "SELECT task_id, step_id, state FROM tasker.workflow_steps WHERE state = ANY (%s) ORDER BY task_id DESC LIMIT 40"


def operator(dsn, journal, rng):
    client = Client(dsn, 'boss', journal)
    paused = []

    def task(call, *states):
        rows = client.try_once(lambda c: c.execute(PICK, (list(states),)).fetchall())
        if rows:
            chosen = rng.choice(rows)[0]
            client.try_once(lambda c: c.execute('SELECT tasker.%s(%%s)' % call, (chosen,)))
            return chosen
        return None

    def step(call, *states):
        rows = client.try_once(lambda c: c.execute(PICK_STEP, (list(states),)).fetchall())
        if rows:
            chosen = rng.choice(rows)
            client.try_once(lambda c: c.execute('SELECT tasker.%s(%%s, %%s)' % call, chosen[:2]))

    def pause():
        paused.append(task('pause_task', 'pending', 'in_progress'))

    def resume():
        if paused:
            chosen = paused.pop(0)
            client.try_once(lambda c: c.execute('SELECT tasker.resume_task(%s)', (chosen,)))

    actions = (
        (3, lambda: task('cancel_task', 'pending', 'in_progress', 'paused')),
        (4, pause),
        (5, resume),
        (1, lambda: task('retry_task', 'error')),
        (2, lambda: step('retry_step', 'waiting_for_retry')),
        (1, lambda: step('retry_step', 'error')),
        (2, lambda: step('resolve_step', 'error', 'enqueued', 'in_progress')),
    )
    while not stopping.is_set():
        rng.choices([act for _, act in actions], [weight for weight, _ in actions])[0]()
        stopping.wait(rng.uniform(0, 0.3))


# --------------------------------------------------------------------- vandal

def vandal(dsn, journal, rng):
    client = Client(dsn, 'postgres', journal)
    client.until_done(lambda c: c.execute('SELECT 1').fetchone())
    legal = client.until_done(lambda c: c.execute(
        "SELECT from_state, to_state FROM tasker.state_machine() WHERE machine = 'step'").fetchall())
    states = sorted({state for pair in legal for state in pair})

    def change(chosen):
        wrong = rng.choice([to for to in states if (chosen[2], to) not in legal and to != chosen[2]])
        # Now it is somebody else's to refuse it.
        return lambda c: c.execute(
            "UPDATE tasker.workflow_steps SET state = %s, next_attempt_at = clock_timestamp() "
            "WHERE task_id = %s AND step_id = %s AND state = %s", (wrong,) + chosen)

    while not stopping.is_set():
        rows = client.try_once(lambda c: c.execute(PICK_STEP, (states,)).fetchall())
        if rows:
            client.try_once(change(rng.choice(rows)))
        stopping.wait(rng.uniform(0, 0.5))


# --------------------------------------------------------------------- runner

def runner(dsn, journal, rng):
    client = Client(dsn, 'chaos', journal)
    while not stopping.is_set():
        client.try_once(lambda c: c.execute("CALL tasker.run(max_duration => '300 ms')"))
        stopping.wait(rng.uniform(0, 1))


ROLES = {f.__name__: f for f in (submitter, worker, operator, vandal, runner)}


def main():
    role, dsn, journal, seed = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *unused: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ROLES[role](dsn, journal, random.Random(seed + role))


if __name__ == '__main__':
    main()
