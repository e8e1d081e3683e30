"""tasker.py: tasker as a subject: in the database, by external workers, creation.

Each sample begins with a new extension: empty tables, workers stopped.
"""
import json
import time

import pgbench
import workloads
from cluster import per_step

SETUP = '''
CREATE FUNCTION bench.noop(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TABLE bench.effects (task_id bigint, step text);
CREATE FUNCTION bench.insert(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS
    'BEGIN INSERT INTO bench.effects VALUES (1, ''s''); RETURN NULL; END';
'''

# One call a turn: the last steps are completed, the next ones claimed.
TURN = '''SELECT COALESCE(array_agg(task_id), '{{}}') AS t, COALESCE(array_agg(step_id), '{{}}') AS s,
    COALESCE(array_agg(lease), '{{}}') AS l, COALESCE(array_agg('{{"ok": true}}'::jsonb), '{{}}') AS r
FROM tasker.complete_steps(:t, :s, :l, :r, '{{bench}}', 'w', {batch}) WHERE outcome = 'claimed' \\gset
'''


class Tasker:
    name = 'tasker'

    def __init__(self, cluster, database='tasker'):
        self.cluster, self.database = cluster, database
        self.admin = cluster.create_database(database)
        if not self.admin.execute("SELECT 1 FROM pg_roles WHERE rolname = 'bench'").fetchone():
            self.admin.execute('CREATE ROLE bench LOGIN')
        self.admin.execute('CREATE SCHEMA bench AUTHORIZATION bench')
        self.user = cluster.connect(database, 'bench')
        self.user.execute(SETUP)

    def batch_size(self):
        """The setting that tasker comes with."""
        return int(self.admin.execute("SELECT boot_val FROM pg_settings WHERE name = 'tasker.batch_size'").fetchone()[0])

    def reset(self):
        """An extension without a past, and its workers stopped."""
        if self.admin.execute("SELECT 1 FROM pg_extension WHERE extname = 'tasker'").fetchone():
            self.stop()
            self.admin.execute('DROP EXTENSION tasker')
        self.admin.execute('CREATE EXTENSION tasker')
        self.admin.execute("SELECT tasker.grant_access('bench', 'submitter')")
        self.stop()
        self.user.execute('TRUNCATE bench.effects')

    def stop(self):
        self.admin.execute('SELECT tasker.stop()')
        self.wait_for("NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'tasker %')")

    def start(self):
        self.admin.execute('SELECT tasker.start()')

    def wait_for(self, condition):
        while not self.admin.execute('SELECT ' + condition).fetchone()[0]:
            time.sleep(0.01)

    def define(self, graph, handler, name='graph'):
        self.user.execute('SELECT tasker.define_task(%s, %s)', (name, workloads.definition(graph, handler)))

    def define_steps(self, steps, name='graph'):
        self.user.execute('SELECT tasker.define_task(%s, %s)', (name, json.dumps({'steps': steps})))

    def create(self, n, name='graph'):
        """n tasks in one transaction; the last one's id."""
        return self.user.execute('''SELECT max(id) FROM tasker.create_tasks(%s,
            (SELECT array_agg('{}'::jsonb) FROM generate_series(1, %s))) AS id''', (name, n)).fetchone()[0]

    def counters(self):
        self.user.execute('SELECT pg_stat_force_next_flush()')
        return self.cluster.counters(self.admin, ['tasker'])

    def run_all(self, steps):
        """Have the workers do all there is; what that cost, for each of so many steps."""
        before = self.counters()
        self.start()
        while self.admin.execute("SELECT 1 FROM tasker.tasks WHERE state IN ('pending', 'in_progress') LIMIT 1").fetchone():
            time.sleep(0.01)        # and no snapshot is held meanwhile
        self.stop()
        after = self.counters()
        unfinished = self.admin.execute("SELECT count(*) FROM tasker.tasks WHERE state <> 'complete'").fetchone()[0]
        if unfinished:
            raise RuntimeError('%d tasks did not complete' % unfinished)
        seconds, commits = self.admin.execute('''SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) -
            min(last_attempted_at)), count(DISTINCT xmin::text) FROM tasker.workflow_steps''').fetchone()
        return dict(per_step(before, after, steps), steps=steps, rate=steps / float(seconds), steps_per_commit=steps / commits,
                    hot_share=self.hot_share())

    def hot_share(self):
        """Which part of the updates of steps stayed on their page."""
        return float(self.admin.execute('''SELECT n_tup_hot_upd / greatest(n_tup_upd, 1)::float FROM pg_stat_all_tables
            WHERE relid = 'tasker.workflow_steps'::regclass''').fetchone()[0])

    def in_database(self, graph, n, batch=None, function='bench.noop'):
        self.cluster.set(tasker__batch_size=batch)
        self.reset()
        self.define(graph, {'function': function})
        self.create(n)
        return self.run_all(n * len(graph))

    def in_database_mix(self, graphs, each):
        """Tasks of several graphs."""
        self.cluster.set(tasker__batch_size=None)
        self.reset()
        for i, graph in enumerate(graphs):
            self.define(graph, {'function': 'bench.noop'}, 'graph%d' % i)
            self.create(each, 'graph%d' % i)
        return self.run_all(each * sum(map(len, graphs)))

    def external(self, graph, n, connections, batch, seconds=None, transactions=None):
        """Workers that claim, do nothing, complete, over so many connections."""
        self.reset()
        self.define(graph, {'queue': 'bench'})
        self.create(n)
        before = self.counters()
        more = pgbench.run(self.cluster, 'tasker', 'bench', TURN.format(batch=batch), connections, seconds, transactions,
                           variables=dict.fromkeys('tslr', '{}'))
        after = self.counters()
        steps, took = self.admin.execute('''SELECT count(*), extract(epoch FROM max(completed_at) - min(last_attempted_at))
            FROM tasker.workflow_steps WHERE state = 'complete' ''').fetchone()
        sample = dict(more, steps=steps, rate=steps / float(took), **per_step(before, after, steps))
        sample.update(round_trips=more['transactions'] / steps, hot_share=self.hot_share())
        return sample

    def external_by(self, n, work):
        """n chains of 10 for a program that says how many steps it did in how many seconds."""
        self.reset()
        self.define(workloads.chain(10), {'queue': 'bench'})
        self.create(n)
        before = self.counters()
        done = work()
        return dict(done, **per_step(before, self.counters(), done['steps']), rate=done['steps'] / done['seconds'],
                    hot_share=self.hot_share())

    def insert_loop(self, steps, commits, call=False):
        """The same inserts as bench.insert's in a PL/pgSQL loop, with so many commits; or calls of it."""
        self.user.execute('TRUNCATE bench.effects')
        before = self.counters()
        with self.cluster.connect('tasker', 'bench') as connection:
            began = connection.execute('SELECT clock_timestamp()').fetchone()[0]
            connection.execute('DO $$ BEGIN FOR i IN 1..%d LOOP %s IF i %% %d = 0 THEN COMMIT; END IF; END LOOP; END $$' % (
                steps, "PERFORM bench.insert('{}');" if call else "INSERT INTO bench.effects VALUES (1, 's');",
                max(steps // commits, 1)))
            ended = connection.execute('SELECT clock_timestamp()').fetchone()[0]
        return dict(per_step(before, self.counters(), steps), steps=steps, steps_per_commit=steps / commits,
                    rate=steps / (ended - began).total_seconds())
