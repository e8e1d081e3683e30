"""cluster.py: the throwaway cluster that everything is measured in, and what is read from it.

It is test/lib/cluster.sh's, under the name "bench": release build, fsync and
synchronous_commit on. Its settings are SETTINGS below, printed in the report.
Called by run.py; everybody connects through Cluster.connect.
"""
import os
import subprocess
import time

import psycopg

CHECKOUT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..'))

# No checkpoint and no vacuum may come into a sample that counts WAL and rows;
# phases.py turns autovacuum on for itself. The time of commits is what the
# ends of samples and the latencies are taken from. Nobody is given an advantage:
# all subjects live in this cluster.
SETTINGS = {
    'fsync': 'on',
    'synchronous_commit': 'on',
    'full_page_writes': 'on',
    'shared_buffers': '1GB',
    'max_wal_size': '16GB',
    'checkpoint_timeout': '1h',
    'autovacuum': 'off',
    'track_commit_timestamp': 'on',
    'max_connections': '200',
    'tasker.max_executors_per_role': '1',
}

HZ = os.sysconf('SC_CLK_TCK')


class Cluster:
    def __init__(self, keep=False):
        self.keep = keep
        os.environ['TASKER_CLUSTER'] = os.environ.get('TASKER_CLUSTER', 'bench')
        self.script = os.path.join(CHECKOUT, 'test', 'lib', 'cluster.sh')

    def sh(self, *args):
        return subprocess.run((self.script,) + args, check=True, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE).stdout

    def start(self):
        if not self.keep:
            self.sh('destroy')
        conf = [word for item in SETTINGS.items() for word in ('--conf', '%s=%s' % item)]
        self.sh('start', '--release', '--durable', *conf)
        for line in self.sh('env').splitlines():
            name, value = line[len('export '):].split('=', 1)
            os.environ[name] = value.strip("'")
        self.dir = os.environ['TASKER_DIR']
        self.bin = os.path.dirname(os.environ['PG_CONFIG'])
        self.admin = self.connect('postgres')
        self.admin.execute("ALTER SYSTEM RESET ALL")
        self.postmaster = int(open(os.path.join(os.environ['PGDATA'], 'postmaster.pid')).readline())
        return self

    def stop(self):
        if not self.keep:
            self.sh('destroy')

    def pg_config(self, option):
        return subprocess.run([os.environ['PG_CONFIG'], option], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.strip()

    def connect(self, dbname, user='postgres'):
        return psycopg.connect(host=os.environ['PGHOST'], port=os.environ['PGPORT'], dbname=dbname, user=user,
                               autocommit=True)

    def create_database(self, name):
        self.admin.execute('DROP DATABASE IF EXISTS %s WITH (FORCE)' % name)
        self.admin.execute('CREATE DATABASE %s' % name)
        return self.connect(name)

    def set(self, **settings):
        """Server settings, until they are set again; None is back to what the cluster began with."""
        for name, value in settings.items():
            name = name.replace('__', '.')
            if value is None:
                self.admin.execute('ALTER SYSTEM RESET %s' % name)
            else:
                self.admin.execute("ALTER SYSTEM SET %s = '%s'" % (name, value))
        self.admin.execute('SELECT pg_reload_conf()')
        time.sleep(0.05)

    # ---- what is read ------------------------------------------------------------

    def cpu(self):
        """Seconds of processor that the server's processes have used, the ended ones included."""
        with open('/proc/%d/stat' % self.postmaster) as stat:
            f = stat.read().rsplit(')', 1)[1].split()
        ticks = sum(int(x) for x in f[11:15])
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open('/proc/%s/stat' % pid) as stat:
                    f = stat.read().rsplit(')', 1)[1].split()
            except OSError:
                continue
            if int(f[1]) == self.postmaster:
                ticks += int(f[11]) + int(f[12])
        return ticks / HZ

    def counters(self, connection, schemas):
        """What has been written so far, in the tables of some schemas, or all of users. Sessions
        that wrote must have ended: their counts come in at latest with their end."""
        time.sleep(0.1)             # until the postmaster has seen the last one's end
        connection.execute('SELECT pg_stat_force_next_flush()')
        row = connection.execute("""
            SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
                   (SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()),
                   (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
                   sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_hot_upd), sum(n_tup_del)
            FROM pg_stat_user_tables WHERE %s::text[] IS NULL OR schemaname = ANY (%s)""", (schemas, schemas)).fetchone()
        names = ('wal', 'buffers', 'commits', 'inserts', 'updates', 'hot', 'deletes')
        return dict(zip(names, (float(x or 0) for x in row)), cpu=self.cpu())


def per_step(before, after, steps):
    """The difference of two counters(), for each step; cpu in µs."""
    d = {k: (after[k] - before[k]) / steps for k in after}
    d['cpu'] *= 1e6
    d['writes'] = d['inserts'] + d['updates'] + d['deletes']
    return d
