"""peers.py: the other engines, each in its own database of the same cluster.

They come from npm in exact versions (peers/package.json, package-lock.json),
into the cluster's throwaway directory, and PgQ from Debian. Those that speak
SQL are driven by pgbench, the others by their own library in Node
(peers/*.mjs). What can not be had here is reported with the reason.
Called by run.py and plan.py.
"""
import json
import os
import shutil
import subprocess

import psycopg

import pgbench
from cluster import CHECKOUT, per_step

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'peers')


class Unavailable(Exception):
    pass


class Peer:
    """A database made anew for each sample from one in which the peer was installed."""

    def __init__(self, cluster, name, version):
        self.cluster, self.name, self.version = cluster, name, version
        self.template = 'peer_' + name.lower().replace('-', '_')
        self.database = self.template + '_run'
        self.jobs = {}
        cluster.create_database(self.template).close()
        self.install()
        # nobody may be connected to a template
        cluster.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (self.template,))

    def rows(self, size):
        """[(group, label, function)] of what it takes part in."""
        return [('external ' + group, '%s%s (%s)' % (self.name, label, self.version),
                 lambda o=options, j=jobs: self.sample(o, j, size.seconds))
                for group, label, jobs, options, quick in self.settings if quick or size.full]

    def sample(self, options, jobs, seconds):
        key = str(options)
        options = dict(options, jobs=self.jobs.get(key, jobs))
        self.cluster.admin.execute('DROP DATABASE IF EXISTS %s WITH (FORCE)' % self.database)
        self.cluster.admin.execute('CREATE DATABASE %s TEMPLATE %s' % (self.database, self.template))
        self.create(options)
        with self.cluster.connect(self.database) as watch:
            before = self.cluster.counters(watch, None)
            done = self.run(options, seconds)
            after = self.cluster.counters(watch, None)
        # the next sample takes about as long as it should
        self.jobs[key] = max(200, min(200000, int(done['steps'] / done['seconds'] * seconds / 100) * 100))
        return dict(done, rate=done['steps'] / done['seconds'], **per_step(before, after, done['steps']))

    def psql(self, database, *args):
        return subprocess.run([os.path.join(self.cluster.bin, 'psql'), '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', database] +
                              list(args), check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


class NodePeer(Peer):
    """peers/NAME.mjs, run by the Node that came with the peers: a process of its own for each verb."""

    def __init__(self, cluster, directory, package, script, settings, schema=None):
        self.directory, self.script, self.settings, self.schema = directory, script, settings, schema
        with open(os.path.join(directory, 'node_modules', package, 'package.json')) as file:
            version = json.load(file)['version']
        super().__init__(cluster, package.split('/')[-1].replace('-sdk', ''), version)

    def node(self, verb, database, options=None):
        node = os.path.join(self.directory, 'node_modules', '.bin', 'node')
        process, share = pgbench.timed([node, self.script + '.mjs', verb, json.dumps(options or {})], timeout=300,
                                       cwd=self.directory, env=dict(os.environ, PGDATABASE=database))
        if process.returncode != 0:
            raise RuntimeError('%s %s: %s' % (self.script, verb, process.stderr[-1000:]))
        return dict(json.loads(process.stdout.splitlines()[-1]), driver_share=share) if verb == 'run' else None

    def install(self):
        if self.schema:
            self.psql(self.template, '-f', self.schema)
        self.node('install', self.template)

    def create(self, options):
        self.node('create', self.database, options)

    def run(self, options, seconds):
        return self.node('run', self.database, options)


class PgFlow(Peer):
    """The SQL core of pgflow, as its edge worker calls it: read, start, complete, each committed."""
    settings = [('1x1', '', 100, {'connections': 1, 'batch': 1}, True),
                ('8x10', '', 400, {'connections': 8, 'batch': 10}, True),
                ('8x100', '', 400, {'connections': 8, 'batch': 100}, False)]
    WORKER = '00000000-0000-0000-0000-000000000001'
    TURN = '''
SELECT COALESCE(array_agg(msg_id), '{}') AS ids FROM pgmq.read('bench', 60, %d) \\gset
SELECT COALESCE(array_agg(run_id), '{}') AS r, COALESCE(array_agg(step_slug), '{}') AS s,
    COALESCE(array_agg(task_index), '{}') AS i
FROM pgflow.start_tasks('bench', :ids, '%s') \\gset
SELECT count(*) FROM (SELECT * FROM unnest(:r::uuid[], :s::text[], :i::int[]) AS t (r, s, i) ORDER BY r) AS t,
    LATERAL pgflow.complete_task(t.r, t.s, t.i, '{"ok": true}') AS c;
'''

    def __init__(self, cluster, directory):
        self.core = os.path.join(directory, 'node_modules', '@pgflow', 'core')
        with open(os.path.join(self.core, 'package.json')) as file:
            version = json.load(file)['version']
        super().__init__(cluster, 'pgflow', version)

    def install(self):
        self.psql(self.template, '-f', os.path.join(HERE, 'pgmq.sql'))
        migrations = os.path.join(self.core, 'dist', 'supabase', 'migrations')
        for name in sorted(os.listdir(migrations)):
            if not name.endswith('.sql'):
                continue
            with open(os.path.join(migrations, name)) as file:
                sql = file.read()
            # pgmq.sql stands in for the extension
            sql = sql.replace('CREATE EXTENSION IF NOT EXISTS "pgmq" WITH SCHEMA "pgmq";', '')
            subprocess.run([os.path.join(self.cluster.bin, 'psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', self.template],
                           input='SET client_min_messages = warning;' + sql, check=True, text=True, stdout=subprocess.PIPE)
        self.psql(self.template, '-c', "SELECT pgflow.create_flow('bench')", *sum((
            ['-c', "SELECT pgflow.add_step('bench', 's%d', ARRAY[%s]::text[])" % (i, "'s%d'" % (i - 1) if i else '')]
            for i in range(10)), []),
            '-c', "INSERT INTO pgflow.workers (worker_id, queue_name, function_name) VALUES ('%s', 'bench', 'bench')"
            % self.WORKER)

    def create(self, options):
        self.psql(self.database, '-c', '''SELECT count(f) FROM (
            SELECT pgflow.start_flow('bench', '{}') AS f FROM generate_series(1, %d)) AS f'''
                  % max(options['jobs'] * 2 / 10, options['connections'] * options['batch']))

    def run(self, options, seconds):
        done = pgbench.run(self.cluster, self.database, 'postgres', self.TURN % (options['batch'], self.WORKER),
                           options['connections'], seconds)
        steps, took = self.psql(self.database, '-c', '''SELECT count(*), extract(epoch FROM max(completed_at) - min(started_at))
            FROM pgflow.step_tasks WHERE status = 'completed' ''').strip().split('|')
        return dict(done, steps=int(steps), seconds=float(took), round_trips=3 * done['transactions'] / int(steps))


class PgQ(Peer):
    """One consumer: a batch is read and finished as a whole, an event has no state of its own."""
    settings = [('8x100', ', 1 consumer, batches of 500', 50000, {'batch': 500}, True)]
    TURN = '''
SELECT pgq.next_batch('bench', 'c') AS b \\gset
SELECT count(*) FROM pgq.get_batch_events(:b);
SELECT pgq.finish_batch(:b);
'''

    def __init__(self, cluster):
        if not os.path.exists(os.path.join(cluster.pg_config('--sharedir'), 'extension', 'pgq.control')):
            raise Unavailable('Debian\'s package postgresql-NN-pgq3 is not installed')
        super().__init__(cluster, 'PgQ', '')
        self.version = self.psql(self.template, '-c', "SELECT extversion FROM pg_extension WHERE extname = 'pgq'").strip()

    def install(self):
        self.psql(self.template, '-c', 'CREATE EXTENSION pgq', '-c', "SELECT pgq.create_queue('bench')",
                  '-c', "SELECT pgq.register_consumer('bench', 'c')",
                  '-c', "SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '0')",
                  '-c', "SELECT pgq.set_queue_config('bench', 'ticker_max_count', '1')")

    def create(self, options):
        with self.cluster.connect(self.database) as connection:
            connection.execute('SET synchronous_commit = off')
            for _ in range(options['jobs'] // options['batch']):
                connection.execute("SELECT count(pgq.insert_event('bench', 't', '{}')) FROM generate_series(1, %s)",
                                   (options['batch'],))
                connection.execute("SELECT pgq.ticker('bench')")

    def run(self, options, seconds):
        turns = options['jobs'] // options['batch']
        done = pgbench.run(self.cluster, self.database, 'postgres', self.TURN, transactions=turns)
        return dict(done, steps=options['jobs'], seconds=turns * done['latency'] / 1000, round_trips=3 / options['batch'])


class TaskerByNode:
    """tasker by its own Node client, to see what the language costs."""

    def __init__(self, cluster, directory, tasker):
        self.cluster, self.directory, self.tasker = cluster, directory, tasker
        shutil.copy(os.path.join(CHECKOUT, 'clients', 'node', 'tasker.js'), directory)

    def rows(self, size):
        return [('external ' + group, 'tasker, its Node client%s' % label, lambda b=batch, n=n: self.sample(b, n, size))
                for group, label, batch, n in self.settings if batch == 500 or size.full]

    def sample(self, batch, n, size):
        n *= size.seconds
        return self.tasker.external_by(n, lambda: NodePeer.node(self, 'run', 'tasker', {
            'jobs': 10 * n, 'connections': 8, 'batch': batch}))

    script = 'tasker'
    settings = (('8x1', '', 1, 50), ('8x10', '', 10, 300), ('8x100', ', batches of 100', 100, 700),
                ('8x100', ', batches of 500', 500, 1000))


NODE_PEERS = (
    ('graphile-worker', 'graphile', [
        ('8x1', '', 1000, {'connections': 8, 'batch': 1}, True),
        ('8x10', ', batched', 5000, {'connections': 8, 'batch': 10}, False),
        ('8x100', ', batched by 100', 10000, {'connections': 8, 'batch': 100}, False),
        ('8x100', ', batched by 500', 20000, {'connections': 8, 'batch': 500}, True)]),
    ('pg-boss', 'pgboss', [
        ('8x1', '', 1000, {'connections': 8, 'batch': 1}, False),
        ('8x10', '', 5000, {'connections': 8, 'batch': 10}, False),
        ('8x100', ', batches of 100', 10000, {'connections': 8, 'batch': 100}, False),
        ('8x100', ', batches of 500', 20000, {'connections': 8, 'batch': 500}, True),
        ('8x10', ' flow', 2000, {'connections': 8, 'batch': 10, 'flow': True}, False),
        ('8x100', ' flow, batches of 100', 5000, {'connections': 8, 'batch': 100, 'flow': True}, True)]),
    ('@dbos-inc/dbos-sdk', 'dbos', [
        ('1x1', '', 500, {'connections': 1}, True),
        ('8x1', '', 1000, {'connections': 8}, True)]),
    ('absurd-sdk', 'absurd', [
        ('1x1', '', 500, {'connections': 1}, True),
        ('8x1', '', 1000, {'connections': 8}, True)]),
)


def npm_install(cluster):
    """The peers' packages, in the cluster's directory; its name."""
    directory = os.path.join(cluster.dir, 'peers')
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(HERE, directory)
    try:
        subprocess.run(['npm', 'ci', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error'], cwd=directory,
                       check=True, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=300)
    except (OSError, subprocess.SubprocessError, psycopg.Error) as error:
        raise Unavailable('npm ci failed: %s' % (getattr(error, 'stderr', None) or error)) from error
    return directory


def find(cluster, tasker):
    """The peers that can be had, and [(name, reason)] of the others."""
    found, absent = [], [
        ('pg_durable', 'an extension of its own build; neither Debian nor npm has it'),
        ('Temporal, Airflow and the like', 'servers of their own, with no state in this PostgreSQL to compare'),
    ]

    def attempt(name, make):
        try:
            found.append(make())
        except (Unavailable, RuntimeError, OSError, subprocess.SubprocessError, psycopg.Error) as error:
            detail = getattr(error, 'stderr', None) or str(error)
            absent.append((name, detail.strip().split('\n')[0]))

    attempt('PgQ', lambda: PgQ(cluster))
    try:
        directory = npm_install(cluster)
    except Unavailable as error:
        return found, absent + [('all peers from npm', str(error))]
    for package, script, settings in NODE_PEERS:
        schema = None
        if script == 'absurd':
            schema = os.environ.get('ABSURD_SQL')
            if not schema:
                absent.append(('absurd', 'its npm package has no tables: they come with absurdctl, from PyPI. '
                               'With ABSURD_SQL=absurd.sql it takes part'))
                continue
        attempt(package, lambda p=package, s=script, t=settings, q=schema: NodePeer(cluster, directory, p, s, t, q))
    attempt('pgflow', lambda: PgFlow(cluster, directory))
    attempt('tasker by Node', lambda: TaskerByNode(cluster, directory, tasker))
    return found, absent
