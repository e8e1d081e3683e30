"""faults.py: what can go wrong, one function a kind, and the processes of the
load to which it happens.

A fault leaves behind whatever it leaves behind; only what no system repairs by
itself it repairs: a server that is down is started, a full disk emptied, a
clock put right, a frozen process thawed.
"""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psycopg

from server import ServerError, alive, wait_gone

HERE = os.path.dirname(os.path.abspath(__file__))


class Load:
    """The processes of the load: started anew whenever one is gone."""

    def __init__(self, cluster, roles, seed):
        self.cluster, self.roles, self.seed = cluster, list(roles), seed
        self.journals = os.path.join(cluster.directory, 'journals')
        os.mkdir(self.journals)
        self.processes = {}
        self.started = 0
        self.keep_alive()

    def keep_alive(self):
        for number, role in enumerate(self.roles):
            process = self.processes.get(number)
            if role is None or process is not None and process.poll() is None:
                continue
            self.started += 1
            journal = os.path.join(self.journals, '%s-%d' % (role, self.started))
            self.processes[number] = subprocess.Popen(
                [sys.executable, os.path.join(HERE, 'load.py'), role, self.cluster.dsn, journal,
                 '%s-%d' % (self.seed, self.started)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=open(journal + '.err', 'w', encoding='utf-8'), start_new_session=True)

    def pids(self, *roles):
        return [self.processes[number].pid for number, role in enumerate(self.roles)
                if role in roles and number in self.processes]

    def stop(self, *roles):
        """Has them finish what they are at; after a while they are killed."""
        stopped = [number for number, role in enumerate(self.roles) if role in roles and number in self.processes]
        for number in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.processes[number].pid, signal.SIGCONT)
                self.processes[number].terminate()
        for number in stopped:
            try:
                self.processes[number].wait(20)
            except subprocess.TimeoutExpired:
                self.processes[number].kill()
                self.processes[number].wait()
            del self.processes[number]
        self.roles = [role if role not in roles else None for role in self.roles]

    def destroy(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


class Chaos:
    """Everything that faults act on."""

    def __init__(self, cluster, load, rng):
        self.cluster, self.load, self.random = cluster, load, rng
        self.timers = []
        self.missed = []     # faults that did not happen, and why

    # ---- finding victims ------------------------------------------------------

    def backends(self, where):
        with self.cluster.connect() as connection:
            return [pid for pid, in connection.execute(
                'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND ' + where + ' ORDER BY pid')]

    def one_backend(self, where):
        found = self.backends(where)
        return self.random.choice(found) if found else None

    def later(self, seconds, what):
        timer = threading.Timer(seconds, what)
        timer.start()
        self.timers.append(timer)

    def settle(self):
        """What was to happen later has happened."""
        for timer in self.timers:
            timer.join()
        self.timers.clear()

    # ---- processes that die ---------------------------------------------------

    def kill_backend(self, where):
        """kill -9 of a server process: the server starts itself anew."""
        pid = self.one_backend(where)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_gone([pid])
        return True

    def kill_client(self, *roles):
        pid = self.random.choice(self.load.pids(*roles))
        os.kill(pid, signal.SIGKILL)
        return True

    def kill_executor(self):
        return self.kill_backend("backend_type = 'tasker executor'")

    def kill_scheduler(self):
        return self.kill_backend("backend_type = 'tasker scheduler'")

    def kill_launcher(self):
        return self.kill_backend("backend_type = 'tasker launcher'")

    def kill_session(self):
        return self.kill_backend("backend_type = 'client backend' AND usename IN ('chaos', 'hand', 'boss')")

    def kill_worker(self):
        return self.kill_client('worker')

    def kill_submitter(self):
        return self.kill_client('submitter')

    def kill_operator(self):
        return self.kill_client('operator', 'runner')

    def terminate_backend(self):
        """pg_terminate_backend of anything that works for tasker or its clients."""
        pid = self.one_backend("(backend_type LIKE 'tasker%' OR usename IN ('chaos', 'hand', 'boss'))")
        with self.cluster.connect() as connection:
            connection.execute('SELECT pg_terminate_backend(%s)', (pid,))
        return pid is not None

    def cancel_backend(self):
        pid = self.one_backend("(backend_type LIKE 'tasker%' OR usename IN ('chaos', 'hand', 'boss'))")
        with self.cluster.connect() as connection:
            connection.execute('SELECT pg_cancel_backend(%s)', (pid,))
        return pid is not None

    def step_kills_backend(self):
        """A task with a step that does it by itself, and ends in error."""
        with self.cluster.connect('chaos') as connection:
            connection.execute("SELECT tasker.create_task('chain', '{\"kills\": \"b\"}', priority => 5)")
        return True

    # ---- the server goes down -------------------------------------------------

    def immediate_restart(self):
        self.cluster.primary.stop('immediate')
        self.cluster.primary.start()
        return True

    def fast_restart(self):
        self.cluster.primary.stop('fast')
        self.cluster.primary.start()
        return True

    def kill_postmaster(self):
        self.cluster.primary.kill_postmaster()
        self.cluster.primary.start()
        return True

    def power_off(self):
        """Every process of the server dies at the same moment."""
        self.cluster.primary.kill_all()
        self.cluster.primary.start()
        return True

    def failover(self):
        if self.cluster.standby is None:
            return False
        primary = self.cluster.primary
        try:
            self.cluster.failover()
        except ServerError:  # the next standby is late
            return self.cluster.primary is not primary
        return True

    def full_disk(self):
        """No room for WAL, until somebody makes some."""
        if not self.cluster.shell.small_disk:
            return False
        try:
            self.cluster.ballast(True)
            time.sleep(self.random.uniform(1, 2))
        finally:
            self.cluster.ballast(False)
        return True

    # ---- time -----------------------------------------------------------------

    def freeze_worker(self):
        """A worker that stands still, mostly for longer than its leases, and then goes on as if nothing had been."""
        pid = self.random.choice(self.load.pids('worker'))
        os.kill(pid, signal.SIGSTOP)

        def thaw():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.later(self.random.uniform(0.8, 2.5), thaw)
        return True

    def clock_jump(self):
        """The clock shows another time for a moment, before or after the true one, and stands still there."""
        with self.cluster.connect() as connection:
            then = connection.execute("SELECT clock_timestamp() + %s * interval '1 s'",
                                      (self.random.choice((-15, -2, 2, 15)),)).fetchone()[0]
            connection.execute("ALTER SYSTEM SET tasker.clock = '%s'" % then.isoformat())
            connection.execute('SELECT pg_reload_conf()')
        self.later(self.random.uniform(0.5, 1.5), self.right_clock)
        return True

    def right_clock(self):
        with contextlib.suppress(psycopg.Error), self.cluster.connect() as connection:
            connection.execute('ALTER SYSTEM RESET tasker.clock')
            connection.execute('SELECT pg_reload_conf()')

    # ---- all of it -------------------------------------------------------------

    def strike(self, name):
        """One fault; whether it happened. Faults meet: what one needs, another may just have taken away."""
        try:
            return getattr(self, name)()
        except (psycopg.Error, ServerError, ProcessLookupError, TypeError) as error:
            self.missed.append('%s: %s' % (name, str(error).strip().replace('\n', ' ')))
            return False

    def repair(self):
        """The servers are up, the clock is right, nobody is frozen."""
        self.settle()
        self.cluster.wait_up()
        self.right_clock()


# How likely each is among the others. What takes long comes seldom.
FAULTS = {
    'kill_executor': 6,
    'kill_scheduler': 3,
    'kill_launcher': 2,
    'kill_session': 4,
    'kill_worker': 6,
    'kill_submitter': 4,
    'kill_operator': 2,
    'terminate_backend': 10,
    'cancel_backend': 6,
    'step_kills_backend': 1,
    'immediate_restart': 4,
    'fast_restart': 2,
    'kill_postmaster': 3,
    'power_off': 2,
    'failover': 2,
    'full_disk': 2,
    'freeze_worker': 10,
    'clock_jump': 5,
}
