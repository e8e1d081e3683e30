#!/usr/bin/env python3
"""conformance.py CMD...: what every client in clients/ must do, against a real server.

CMD is a worker program in the client's language, test/clients/LANGUAGE; it
runs until SIGTERM. It finds the server by PGHOST, PGPORT, PGUSER, PGDATABASE,
and its settings in CLIENT_QUEUE, CLIENT_CONCURRENCY, CLIENT_BATCH and
CLIENT_LEASE (seconds; empty: the step's own). At the start of each attempt it
prints {"begun": step's name, "task": id, "attempt": number, "key": idempotency
key} and a newline, and flushes. Its handlers, by the step's name (of the
context c they take what is named):

  echo        returns the context
  parents     returns the results of the parents
  effect      transactional: INSERT INTO effects VALUES (key), waits c.seconds, returns {"key": key}
  sleep       waits c.seconds, returns {"attempt": attempt}
  patient     heartbeat() every 50 ms until the lease is lost, then prints {"lost": id of the task}
              and lets the client's exception pass
  error       c.mode "retry": attempt 1 raises an ordinary error with the text c.text; "never": raises
              DoNotRetry with c.text; "after": attempt 1 raises RetryAfter(1, c.text); "nul": returns
              a string with the character U+0000; "large": returns a string of c.size letters;
              "recursive": returns what can not be JSON; otherwise, and in other attempts, it returns
              {"attempt": attempt}
  checkpoint  attempt 1 keeps {"row": c.row} with checkpoint() and raises; others return what they were given

For all other steps of queue "spare" there is a default, which returns {"default": step's name}.
"""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from session import Session, Tap, literal  # noqa: E402

DATABASE = 'tasker_clients'
ROLE = 'clients_worker'
LIMIT = 30
tap = Tap()


def until(condition, limit=LIMIT):
    """Waits for a condition; whether it came true."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Worker:
    """A worker program and what it prints."""

    def __init__(self, queue, concurrency=4, batch=5, lease='', env=()):
        settings = dict(os.environ, PGUSER=ROLE, PGDATABASE=DATABASE, CLIENT_QUEUE=queue,
                        CLIENT_CONCURRENCY=str(concurrency), CLIENT_BATCH=str(batch), CLIENT_LEASE=str(lease))
        settings.update(env)
        self.log = tempfile.TemporaryFile('w+', errors='replace')
        self.said = []
        self.process = subprocess.Popen(sys.argv[1:], env=settings, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=self.log, text=True, encoding='utf-8')
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            # One that was killed may have left half a line.
            with contextlib.suppress(ValueError):
                self.said.append(json.loads(line))

    def begun(self):
        return [s for s in list(self.said) if 'begun' in s]

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def drain(self):
        """SIGTERM; the exit status, None if it had to be killed."""
        self.signal(signal.SIGTERM)
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.reader.join()
        return status

    def output(self):
        self.log.seek(0)
        return self.log.read().split('\n')[-20:]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.drain()


# ---- work ---------------------------------------------------------------------

FAST = {'max_attempts': 50, 'backoff': 'fixed', 'base': '50 ms', 'jitter': 0}


def define(session, name, steps):
    session.query('SELECT tasker.define_task(%s, %s)' % (literal(name), literal({'steps': steps})))


def create(session, name, contexts):
    """The ids of the tasks."""
    return [int(session.value('SELECT tasker.create_task(%s, %s)' % (literal(name), literal(json.dumps(c)))))
            for c in contexts]


def create_many(session, name, number, seconds=0):
    session.query("SELECT count(tasker.create_task(%s, '{\"seconds\": %s}')) FROM generate_series(1, %d)"
                  % (literal(name), seconds, number))


def one_step(session, step, queue, **more):
    """Defines a task of one step; its name."""
    name = '%s at %s' % (step, queue)
    define(session, name, [dict({'name': step, 'queue': queue, 'retry': FAST}, **more)])
    return name


def count(session, condition):
    return int(session.value('SELECT count(*) FROM tasker.task_status t JOIN tasker.step_status s USING (task_id) '
                             'WHERE ' + condition))


def done(session, name):
    """Whether all tasks of a name have ended."""
    return lambda: count(session, "t.name = %s AND t.state NOT IN ('complete', 'error', 'cancelled')"
                         % literal(name)) == 0


def step_of(session, task):
    return session.json('SELECT state, attempts, results, last_error FROM tasker.step_status WHERE task_id = %d' % task)[0]


def prepare(session):
    session.query('CREATE EXTENSION tasker')
    if ROLE not in session.query('SELECT rolname FROM pg_roles'):
        session.query('CREATE ROLE %s LOGIN' % ROLE)
    session.query("SELECT tasker.grant_access('%s', 'worker')" % ROLE)
    session.query('CREATE TABLE effects (key text)')
    session.query('GRANT INSERT ON effects TO %s' % ROLE)


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


def errors(session):
    text = "it's \"bad\": \\ ünï \U0001f418 %s {}"
    name = one_step(session, 'error', 'errors', retry=dict(FAST, max_attempts=3))
    slow = one_step(session, 'error', 'errors slow', retry=dict(FAST, base='1 h', max_attempts=3))
    checkpoint = one_step(session, 'checkpoint', 'errors')
    retry, never, nul, large, recursive = create(session, name, [
        {'mode': 'retry', 'text': text}, {'mode': 'never', 'text': text}, {'mode': 'nul'},
        {'mode': 'large', 'size': 40000000}, {'mode': 'recursive'}])
    after = create(session, slow, [{'mode': 'after', 'text': text}])[0]
    kept = create(session, checkpoint, [{'row': "7'\"\\ü"}])[0]
    with Worker('errors', batch=10) as w, Worker('errors slow') as other:
        until(lambda: all(done(session, n)() for n in (name, slow, checkpoint)))
        step = step_of(session, retry)
        tap.ok((step['state'], step['attempts'], step['results']) == ('complete', 2, {'attempt': 2}),
               'an ordinary error is retried', [step] + w.output())
        step = step_of(session, never)
        tap.ok((step['state'], step['attempts']) == ('error', 1), 'DoNotRetry is not', [step])
        tap.ok((step['last_error'] or {}).get('message') == text, 'the text of the error is kept', [step])
        step = step_of(session, after)
        gap = session.value(
            "SELECT max(h.created_at) FILTER (WHERE to_state = 'in_progress') - min(h.created_at) FILTER "
            "(WHERE to_state = 'waiting_for_retry') >= '0.9 s' FROM tasker.task_history h WHERE task_id = %d" % after)
        tap.ok((step['state'], step['attempts'], gap) == ('complete', 2, 't'),
               'RetryAfter takes the place of the backoff', [step, gap] + other.output())
        for task, what in ((nul, 'that jsonb can not hold'), (large, 'that are too large'),
                           (recursive, 'that are not JSON')):
            step = step_of(session, task)
            tap.ok((step['state'], step['attempts']) == ('error', 1), 'results %s fail the step, once' % what,
                   [str(step)[:400]] + w.output())
        step = step_of(session, kept)
        tap.ok((step['attempts'], step['results']) == (2, {'row': "7'\"\\ü"}),
               'a checkpoint is given to the next attempt', [step] + w.output())


def race(session):
    name = one_step(session, 'echo', 'race')
    with Worker('race') as one, Worker('race', concurrency=1, batch=20) as two:
        create_many(session, name, 600)
        tap.ok(until(done(session, name)), 'two workers race for 600 steps: all complete', one.output() + two.output())
        one.drain()
        two.drain()
        begun = [b['task'] for b in one.begun() + two.begun()]
        tap.ok(len(begun) == 600 and len(set(begun)) == 600, 'none of them is begun twice', [len(begun), len(set(begun))])


def leases(session):
    name = one_step(session, 'sleep', 'long', lease='600 ms')
    task = create(session, name, [{'seconds': 2}])[0]
    patient = one_step(session, 'patient', 'long', lease='600 ms')
    with Worker('long', lease=0.6) as w:
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
        tasks = create(session, name, [{'seconds': 0.3}]) + create(session, effect, [{'seconds': 0.3}])
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
    tap.ok(steps[0]['results'] == {'attempt': winners[tasks[0]]} and
           [s['attempts'] for s in steps] == [winners[t] for t in tasks], 'its late completions are refused', steps)
    tap.ok(session.value('SELECT count(*) FROM effects') == '1', 'with the writes of its transaction')
    session.query('TRUNCATE effects')


def check_effects(session, name, number, what, workers):
    tap.ok(until(done(session, name)) and
           count(session, "t.name = %s AND s.state = 'complete'" % literal(name)) == number,
           '%s: every step completes' % what,
           session.query("SELECT s.state, s.attempts, s.last_error, count(*) FROM tasker.step_status s JOIN tasker.task_status "
                         "USING (task_id) WHERE task_status.name = %s GROUP BY 1, 2, 3 LIMIT 9" % literal(name)) +
           [line for w in workers for line in w.output()])
    got = session.query('SELECT count(*), count(DISTINCT key) FROM effects')
    tap.ok(got == ['%d|%d' % (number, number)], '%s: each has its effect once' % what, got)
    session.query('TRUNCATE effects')


def killed(session):
    name = one_step(session, 'effect', 'killed', lease='500 ms')
    create_many(session, name, 300, 0.02)
    workers = [Worker('killed', lease=0.5) for _ in range(2)]
    for turn in range(8):
        begun = len(workers[turn % 2].begun())
        until(lambda: len(workers[turn % 2].begun()) > begun or done(session, name)())
        time.sleep(random.uniform(0, 0.2))
        workers[turn % 2].kill()
        workers[turn % 2] = Worker('killed', lease=0.5)
    check_effects(session, name, 300, 'workers killed 8 times', workers)
    for w in workers:
        w.drain()


def terminated(session):
    name = one_step(session, 'effect', 'terminated', lease='1 s')
    create_many(session, name, 300, 0.02)
    with Worker('terminated', lease=1) as w:
        for turn in range(5):
            begun = len(w.begun())
            until(lambda: len(w.begun()) > begun + 10 or done(session, name)())
            session.query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                          "WHERE usename = '%s' AND backend_type = 'client backend'" % ROLE)
        check_effects(session, name, 300, 'connections terminated 5 times', [w])
        tap.ok(w.drain() == 0, 'and the worker ends well', w.output())


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


class Server:
    """A server of our own, that may be stopped as rudely as one likes."""

    def __init__(self):
        self.home = tempfile.mkdtemp(dir=os.environ['TASKER_DIR'])
        self.data = os.path.join(self.home, 'data')
        self.run('initdb', '-D', self.data, '-U', 'postgres', '-A', 'trust', '-N', '-E', 'UTF8')
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as conf:
            conf.write("listen_addresses = ''\nunix_socket_directories = '%s'\nshared_preload_libraries = 'tasker'\n"
                       "max_worker_processes = 32\n" % self.home)
        self.start()

    def run(self, *command):
        with open(os.path.join(self.home, 'log'), 'a', encoding='utf-8') as log:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        self.run('pg_ctl', '-D', self.data, '-l', os.path.join(self.home, 'server.log'), '-w', 'start')

    def stop(self):
        self.run('pg_ctl', '-D', self.data, '-m', 'immediate', 'stop')

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()
        shutil.rmtree(self.home)


def restarted():
    with Server() as server:
        os.environ['PGHOST'] = server.home
        with Session('postgres') as session:
            session.query('CREATE DATABASE ' + DATABASE)
        with Session(DATABASE) as session:
            prepare(session)
            name = one_step(session, 'effect', 'restarted', lease='1 s')
            create_many(session, name, 300, 0.02)
        with Worker('restarted', lease=1) as w:
            for turn in range(3):
                begun = len(w.begun())
                until(lambda: len(w.begun()) > begun + 20)
                server.stop()
                server.start()
            with Session(DATABASE) as session:
                check_effects(session, name, 300, 'server restarted immediately 3 times', [w])
            tap.ok(w.drain() == 0, 'and the worker ends well', w.output())


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with Session('postgres') as admin:
        admin.query('SET client_min_messages = warning')
        admin.query('DROP DATABASE IF EXISTS %s WITH (FORCE)' % DATABASE)
        admin.query('CREATE DATABASE ' + DATABASE)
        with Session(DATABASE) as session:
            prepare(session)
            if 'clients_nobody' not in session.query('SELECT rolname FROM pg_roles'):
                session.query('CREATE ROLE clients_nobody LOGIN')
            only = os.environ.get('SCENARIOS', '').split()
            for scenario in (results, errors, race, leases, zombie, killed, terminated, drain, refused):
                if not only or scenario.__name__ in only:
                    start = time.monotonic()
                    scenario(session)
                    tap.note('%s: %.1f s' % (scenario.__name__, time.monotonic() - start))
        admin.query('DROP DATABASE %s WITH (FORCE)' % DATABASE)
        admin.query('DROP ROLE %s' % ROLE)
        admin.query('DROP ROLE clients_nobody')
    if not only or 'restarted' in only:
        start = time.monotonic()
        restarted()
        tap.note('restarted: %.1f s' % (time.monotonic() - start))
    tap.done()


if __name__ == '__main__':
    main()
