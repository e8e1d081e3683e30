"""floor.py: the floor (floor/floor.c says what it is): in the database and over a socket."""
import os
import subprocess

import pgbench
import workloads
from cluster import per_step

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'floor')

TURN = '''
SELECT COALESCE(array_agg(task_id), '{{}}') AS t, COALESCE(array_agg(step_id), '{{}}') AS s
FROM floor.turn(:t, :s, {batch}) \\gset
'''


class Floor:
    name = 'floor'

    def __init__(self, cluster):
        self.cluster = cluster
        target = os.path.join(cluster.pg_config('--pkglibdir'), 'bench_floor.so')
        subprocess.run(['gcc', '-O2', '-Wall', '-Werror', '-fPIC', '-shared', '-I', cluster.pg_config('--includedir-server'),
                        os.path.join(HERE, 'floor.c'), '-o', target], check=True)
        cluster.create_database('floor').close()
        subprocess.run([os.path.join(cluster.bin, 'psql'), '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', 'floor',
                        '-f', os.path.join(HERE, 'floor.sql')], check=True)
        self.admin = cluster.connect('floor')

    def create(self, graph, n):
        self.admin.execute('TRUNCATE floor.steps, floor.edges, floor.ready, floor.history')
        self.add(graph, n)

    def add(self, graph, n, first=1):
        edges = workloads.edges(graph)
        self.admin.execute('SELECT floor.create(%s, %s, %s, %s, %s)',
                           (first, n, len(graph), [p for p, _ in edges], [c for _, c in edges]))

    def sample(self, work):
        before = self.cluster.counters(self.admin, ['floor'])
        more = work() or {}
        after = self.cluster.counters(self.admin, ['floor'])
        steps, seconds = self.admin.execute('''SELECT count(*), extract(epoch FROM max(completed_at) - min(
            COALESCE(claimed_at, (SELECT min(at) FROM floor.history)))) FROM floor.steps WHERE state = 2''').fetchone()
        if 'transactions' in more:
            more['round_trips'] = more['transactions'] / steps
        return dict(more, steps=steps, rate=steps / float(seconds or 1), **per_step(before, after, steps))

    def in_database(self, graph, n, batch, coalesced=False):
        self.create(graph, n)
        # coalesced, as many roots as fill a batch with what they release
        return self.run_all(n * len(graph), batch, batch // len(graph) if coalesced else batch // 10, coalesced)

    def in_database_mix(self, graphs, each, batch):
        """Tasks of several graphs."""
        self.create(graphs[0], 0)
        for i, graph in enumerate(graphs):
            self.add(graph, each, 1 + i * each)
        return self.run_all(each * sum(map(len, graphs)), batch, batch // 10, False)

    def run_all(self, steps, batch, take, coalesced):
        def work():
            with self.cluster.connect('floor') as connection:
                began = connection.execute('SELECT clock_timestamp()').fetchone()[0]
                connection.execute('CALL floor.run(%d, %d, %d, %s)' % (batch, take, steps, coalesced))
                ended = connection.execute('SELECT clock_timestamp()').fetchone()[0]
            return {'seconds': (ended - began).total_seconds()}
        sample = self.sample(work)
        if sample['steps'] != steps:
            raise RuntimeError('the floor ran %d steps of %d' % (sample['steps'], steps))
        sample.update(rate=steps / sample['seconds'], steps_per_commit=batch)
        return sample

    def external(self, graph, n, connections, batch, seconds=None, transactions=None):
        self.create(graph, n)
        script = TURN.format(batch=batch)
        return self.sample(lambda: pgbench.run(self.cluster, 'floor', 'postgres', script, connections, seconds, transactions,
                                               variables={'t': '{}', 's': '{}'}))
