"""conformance_base.py: what the scenarios of conformance*.py share: worker programs, servers, work.

CONFORMANCE=long (make conformance) asks for the long form: `size` chooses.
"""
import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from session import Session, Tap, literal  # noqa: E402

DATABASE = 'tasker_clients'
ROLE = 'clients_worker'
LONG = os.environ.get('CONFORMANCE') == 'long'
LIMIT = 300 if LONG else 30
FAST = {'max_attempts': 50, 'backoff': 'fixed', 'base': '50 ms', 'jitter': 0}
tap = Tap()


def size(usual, long):
    return long if LONG else usual


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
        atexit.register(self.process.kill)  # whatever happens here, none of them is left
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            # One that was killed may have left half a line.
            with contextlib.suppress(ValueError):
                self.said.append(json.loads(line))

    def begun(self):
        return [s for s in list(self.said) if 'begun' in s]

    def goes_on(self, session, name, more=0):
        """Waits until it has begun more steps, or all tasks of a name have ended."""
        enough = len(self.begun()) + more
        until(lambda: len(self.begun()) > enough or done(session, name)())

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reader.join()

    def drain(self):
        """SIGTERM; the exit status, None if it had to be killed."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self):
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


def drain_all(workers):
    """The exit statuses of several: a worker whose claim waits takes its time."""
    for w in workers:
        w.signal(signal.SIGTERM)
    return [w.ended() for w in workers]


# ---- work ---------------------------------------------------------------------

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
    # The tables may have grown too quickly for autovacuum to have told the planner.
    session.query('ANALYZE tasker.tasks, tasker.workflow_steps')
    return int(session.value('SELECT count(*) FROM tasker.task_status t JOIN tasker.step_status s USING (task_id) '
                             'WHERE ' + condition))


def done(session, name):
    """Whether all tasks of a name have ended."""
    return lambda: session.value("SELECT NOT EXISTS (SELECT FROM tasker.task_status t WHERE t.name = %s "
                                 "AND t.state NOT IN ('complete', 'error', 'cancelled'))" % literal(name)) == 't'


def step_of(session, task):
    return session.json('SELECT state, attempts, results, last_error FROM tasker.step_status WHERE task_id = %d' % task)[0]


def all_complete(session, name, number, what, workers):
    tap.ok(until(done(session, name)) and
           count(session, "t.name = %s AND s.state = 'complete'" % literal(name)) == number,
           '%s: every step completes' % what,
           session.query("SELECT s.state, s.attempts, s.last_error, count(*) FROM tasker.step_status s JOIN tasker.task_status t "
                         "USING (task_id) WHERE t.name = %s GROUP BY 1, 2, 3 LIMIT 9" % literal(name)) +
           [line for w in workers for line in w.output()])


def check_effects(session, name, number, what, workers):
    all_complete(session, name, number, what, workers)
    got = session.query('SELECT count(*), count(DISTINCT key) FROM effects')
    tap.ok(got == ['%d|%d' % (number, number)], '%s: each has its effect once' % what, got)
    session.query('TRUNCATE effects')


def check_attempts(session, name, what):
    """What is recorded is what the attempt returned that held the lease: the last one. For steps "sleep"."""
    wrong = session.query("SELECT task_id, s.attempts, s.results FROM tasker.task_status t JOIN tasker.step_status s USING (task_id) "
                          "WHERE t.name = %s AND s.results->'attempt' IS DISTINCT FROM to_jsonb(s.attempts) LIMIT 9" % literal(name))
    tap.ok(wrong == [], '%s: no stale completion is taken' % what, wrong)


def prepare(session):
    session.query('CREATE EXTENSION tasker')
    if ROLE not in session.query('SELECT rolname FROM pg_roles'):
        session.query('CREATE ROLE %s LOGIN' % ROLE)
    session.query("SELECT tasker.grant_access('%s', 'worker')" % ROLE)
    session.query('CREATE TABLE effects (key text)')
    session.query('GRANT INSERT ON effects TO %s' % ROLE)


# ---- servers --------------------------------------------------------------------

def run_logged(log, *command):
    with open(log, 'a', encoding='utf-8') as out:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


class Server:
    """A server of our own, that may be stopped as rudely as one likes: a new one, or the standby of another."""

    def __init__(self, primary=None):
        self.home = tempfile.mkdtemp(dir=os.environ['TASKER_DIR'])
        self.data = os.path.join(self.home, 'data')
        if primary:
            self.run('pg_basebackup', '-h', primary.home, '-U', 'postgres', '-D', self.data, '-R', '-c', 'fast', '--no-sync')
            self.configure("unix_socket_directories = '%s'\n" % self.home)
        else:
            self.run('initdb', '-D', self.data, '-U', 'postgres', '-A', 'trust', '-N', '-E', 'UTF8')
            # It is the server that is stopped, not the machine: nothing needs to be on disk.
            self.configure("listen_addresses = ''\nunix_socket_directories = '%s'\nshared_preload_libraries = 'tasker'\n"
                           "max_worker_processes = 32\nfsync = off\n" % self.home)
        self.start()

    def configure(self, text):
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as conf:
            conf.write(text)

    def run(self, *command):
        run_logged(os.path.join(self.home, 'log'), *command)

    def start(self):
        self.run('pg_ctl', '-D', self.data, '-l', os.path.join(self.home, 'server.log'), '-w', 'start')
        self.up = True

    def stop(self):
        self.run('pg_ctl', '-D', self.data, '-m', 'immediate', 'stop')
        self.up = False

    def promote(self):
        self.run('pg_ctl', '-D', self.data, '-w', 'promote')

    def session(self, dbname=DATABASE):
        return Session(dbname, host=self.home)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.up:
            self.stop()
        shutil.rmtree(self.home)


class Pooler:
    """pgbouncer in transaction mode, with fewer connections to the server than a worker has to it."""

    SIZE = 4
    PROGRAM = shutil.which('pgbouncer', path=os.environ['PATH'] + ':/usr/sbin')

    def __init__(self):
        self.home = tempfile.mkdtemp(dir=os.environ['TASKER_DIR'])
        self.ini = os.path.join(self.home, 'ini')
        with open(os.path.join(self.home, 'users'), 'w', encoding='utf-8') as users:
            users.write('"%s" ""\n' % ROLE)
        with open(self.ini, 'w', encoding='utf-8') as ini:
            ini.write('[databases]\n* = host=%s port=%s\n[pgbouncer]\nunix_socket_dir = %s\nlisten_port = %s\n'
                      'auth_type = trust\nauth_file = %s/users\npool_mode = transaction\ndefault_pool_size = %d\n'
                      'logfile = %s/log\n'
                      % (os.environ['PGHOST'], os.environ['PGPORT'], self.home, os.environ['PGPORT'], self.home,
                         self.SIZE, self.home))
        self.start()

    def start(self):
        self.process = subprocess.Popen([self.PROGRAM, '-q', self.ini], stdin=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.kill()
        shutil.rmtree(self.home)
