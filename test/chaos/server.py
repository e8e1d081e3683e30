"""server.py: the servers that the chaos breaks: a primary and, if asked for, a
synchronous standby, and whatever can be done to them.

Their WAL lies on a small file system of its own where the machine lets an
ordinary user mount one (a user namespace), so that it can be filled up. All
that starts a server goes through one shell inside that namespace. Servers
listen on a socket in their directory; DSN leads to whichever is the primary.
"""
import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import time

import psycopg

CONF = """
listen_addresses = ''
shared_preload_libraries = 'tasker'
max_worker_processes = 24
max_connections = 80
superuser_reserved_connections = 10
fsync = off
full_page_writes = off
min_wal_size = 8MB
max_wal_size = 24MB
wal_retrieve_retry_interval = 100ms
wal_sender_timeout = 5s
wal_receiver_timeout = 5s
deadlock_timeout = 200ms
restart_after_crash = on
log_line_prefix = '%m [%p] %b %u '
log_min_messages = warning
autovacuum_naptime = 5s
tasker.max_executors = 12
tasker.max_executors_per_role = 5
tasker.executor_idle_timeout = 2s
"""

WAL_SIZE_MB = 120


class ServerError(Exception):
    pass


class Shell:
    """A shell, inside a namespace with a small file system if there can be one."""

    LOOP = 'while IFS= read -r line; do sh -c "$line" >"$OUT" 2>&1 </dev/null; echo $?; done'

    def __init__(self, directory):
        self.out = os.path.join(directory, 'shell.out')
        self.wal = os.path.join(directory, 'wal')
        os.mkdir(self.wal)
        loop = 'OUT=%s; export OUT; %s' % (shlex.quote(self.out), self.LOOP)
        inside = 'mount -t tmpfs -o size=%dm tmpfs %s && exec unshare -U --map-user=%d --map-group=%d sh -c %s' % (
            WAL_SIZE_MB, shlex.quote(self.wal), os.getuid(), os.getgid(), shlex.quote(loop))
        try:
            self._open(['unshare', '-rm', 'sh', '-c', inside])
            self.small_disk = self.run('touch', self.wal + '/there')[0] == 0 and not os.path.exists(self.wal + '/there')
        except (OSError, ServerError):
            self.small_disk = False
        if not self.small_disk:
            self._open(['sh', '-c', loop])

    def _open(self, command):
        # Interrupts are for this program, which stops its servers itself.
        self.shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.DEVNULL, text=True, start_new_session=True)

    def run(self, *command):
        """(exit status, output)"""
        try:
            self.shell.stdin.write(shlex.join(command) + '\n')
            self.shell.stdin.flush()
            status = self.shell.stdout.readline()
        except OSError:
            status = ''
        if not status:
            raise ServerError('the shell is gone')
        with open(self.out, encoding='utf-8', errors='replace') as file:
            return int(status), file.read()

    def need(self, *command):
        status, output = self.run(*command)
        if status != 0:
            raise ServerError('%s: %s' % (shlex.join(command), output))


class Node:
    """One server: its data directory, its WAL, its port."""

    def __init__(self, cluster, number):
        self.cluster = cluster
        self.name = 'node%d' % number
        self.port = 5440 + number
        self.data = os.path.join(cluster.directory, self.name)
        self.wal = os.path.join(cluster.shell.wal, self.name)
        self.log = os.path.join(cluster.directory, self.name + '.log')

    def pg(self, program, *arguments):
        self.cluster.shell.need(os.path.join(self.cluster.bindir, program), *arguments)

    def configure(self, text):
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as file:
            file.write(text)

    def create(self):
        self.pg('initdb', '-D', self.data, '-X', self.wal, '-U', 'postgres', '-A', 'trust', '-N',
                '--locale=C.UTF-8', '-E', 'UTF8', '--wal-segsize=1')
        self.configure(CONF + self.cluster.conf + "unix_socket_directories = '%s'\nport = %d\n" % (
            self.cluster.directory, self.port))

    def create_from(self, primary):
        """Becomes the synchronous standby of another one."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.cluster.shell.need('rm', '-rf', self.wal)
        self.pg('pg_basebackup', '-D', self.data, '--waldir', self.wal, '-h', self.cluster.directory, '-p',
                str(primary.port), '-U', 'postgres', '-c', 'fast', '-R')
        self.configure("port = %d\nprimary_conninfo = 'host=%s port=%d user=postgres application_name=%s'\n" % (
            self.port, self.cluster.directory, primary.port, self.name))

    def start(self):
        self.pg('pg_ctl', '-D', self.data, '-l', self.log, '-w', '-t', '60', 'start')

    def stop(self, mode):
        self.pg('pg_ctl', '-D', self.data, '-m', mode, '-w', '-t', '60', 'stop')

    def postmaster(self):
        """Its pid, or None."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(os.path.join(self.data, 'postmaster.pid'), encoding='utf-8') as file:
                pid = int(file.readline())
            with open('/proc/%d/comm' % pid, encoding='utf-8') as file:
                return pid if file.read().strip() == 'postgres' else None
        return None

    def children(self):
        pids = []
        postmaster = self.postmaster()
        for pid in filter(str.isdigit, os.listdir('/proc')) if postmaster else ():
            with contextlib.suppress(OSError):
                with open('/proc/%s/stat' % pid, encoding='utf-8') as file:
                    if int(file.read().rpartition(')')[2].split()[1]) == postmaster:
                        pids.append(int(pid))
        return pids

    def kill_postmaster(self):
        """The postmaster alone: its children leave when they notice."""
        processes = self.children() + [self.postmaster()]
        os.kill(processes[-1], signal.SIGKILL)
        self.bury(processes)

    def kill_all(self):
        """All processes at once, as if the machine was gone."""
        postmaster = self.postmaster()
        if postmaster is None:
            return
        os.kill(postmaster, signal.SIGSTOP)
        children = self.children()
        for pid in children + [postmaster]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.bury(children + [postmaster])

    def bury(self, processes):
        """Waits for their end. To a new postmaster a zombie that nobody has waited for yet would look alive."""
        wait_gone(processes)
        for name in (os.path.join(self.data, 'postmaster.pid'),
                     os.path.join(self.cluster.directory, '.s.PGSQL.%d.lock' % self.port)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def logged(self, *texts):
        """The lines of its log with one of the texts."""
        with contextlib.suppress(OSError):
            with open(self.log, encoding='utf-8', errors='replace') as file:
                return [line.rstrip() for line in file if any(text in line for text in texts)]
        return []


class Cluster:
    """The servers, of which one is the primary."""

    def __init__(self, directory, bindir, standby=False, conf='', seed=None):
        self.directory = directory
        self.bindir = bindir
        self.conf = conf
        self.random = random.Random(seed)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        self.shell = Shell(directory)
        self.nodes = [Node(self, 0), Node(self, 1)]
        self.primary, self.standby = self.nodes[0], None
        self.lost = None     # a node that is to become the standby again
        self.primary.create()
        self.primary.start()
        if standby:
            self.add_standby(self.nodes[1])
        self.dsn = 'host=%s port=%s target_session_attrs=read-write connect_timeout=5' % (
            ','.join([directory] * 2), ','.join(str(node.port) for node in self.nodes))

    def add_standby(self, node):
        """Has the node follow the primary; commits wait for it from now on."""
        node.create_from(self.primary)
        node.start()
        self.standby = node
        with self.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute('SELECT pg_reload_conf()')

    def failover(self):
        """The primary is lost, the standby takes its place, and gets a standby in turn."""
        self.primary.kill_all()
        self.primary, self.standby, self.lost = self.standby, None, self.primary
        self.restart_dead()

    def connect(self, user='postgres', dbname='postgres', node=None):
        node = node or self.primary
        return psycopg.connect(host=self.directory, port=node.port, user=user, dbname=dbname,
                               autocommit=True, connect_timeout=5)

    def restart_dead(self):
        """Starts what is down, promotes the primary if it is none yet, and makes a standby of what was lost."""
        for node in (self.primary, self.standby):
            if node is not None and node.postmaster() is None:
                node.start()
        if os.path.exists(os.path.join(self.primary.data, 'standby.signal')):
            self.primary.pg('pg_ctl', '-D', self.primary.data, '-w', '-t', '60', 'promote')
        if self.lost is not None:
            self.add_standby(self.lost)
            self.lost = None

    def wait_up(self, seconds=60):
        """Until the primary answers and accepts writes; what is down is started."""
        limit = time.monotonic() + seconds
        while True:
            try:
                self.restart_dead()
                with self.connect() as connection:
                    connection.execute('CREATE TEMP TABLE written (); DROP TABLE written')
                    return
            except (psycopg.Error, ServerError):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def query(self, sql, arguments=()):
        """Rows, asked again until there is a server to answer."""
        limit = time.monotonic() + 60
        while True:
            try:
                with self.connect() as connection:
                    return connection.execute(sql, arguments).fetchall()
            except psycopg.OperationalError:
                if time.monotonic() > limit:
                    raise
                self.restart_dead()
                time.sleep(0.05)

    def ballast(self, full):
        """Fills the small file system up, or empties it again."""
        name = os.path.join(self.shell.wal, 'ballast')
        if full:
            self.shell.run('dd', 'if=/dev/zero', 'of=' + name, 'bs=64k')
        else:
            self.shell.need('rm', '-f', name)

    def destroy(self):
        for node in self.nodes:
            with contextlib.suppress(ServerError, ProcessLookupError):
                node.kill_all()
        self.shell.shell.stdin.close()
        self.shell.shell.wait()


def wait_gone(pids, seconds=30):
    """Until the processes have ended."""
    limit = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > limit:
            raise ServerError('processes do not end')
        time.sleep(0.01)


def alive(pid):
    try:
        with open('/proc/%d/stat' % pid, encoding='utf-8') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False
