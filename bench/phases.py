"""phases.py: rates as time goes by: with finished tasks behind, under a held snapshot, after it; and sizes.

Called by plan.py. A Phases object is one story, told by calling its phases in
order: each goes on with the tables as the one before left them. Autovacuum is
on, with its defaults. A window is some tasks, created and then run; its rate is
that of its own steps, from the first start to the last commit.
"""
import statistics
import time

import pgbench
import workloads
from tasker import TURN

RATE = '''SELECT count(*), extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(last_attempted_at))
    FROM tasker.workflow_steps WHERE task_id >= %s AND state = 'complete' AND last_attempted_at > %s'''

# Steps that were claimed at the end of a window are not taken again before their leases end.
OPEN = "SELECT 1 FROM tasker.ready_queue LIMIT 1"


class Phases:
    def __init__(self, tasker, external, finished, held, seconds):
        self.tasker, self.external = tasker, external
        self.finished, self.held, self.seconds = finished, held, seconds
        self.tasks = 500                # of a window; it comes to last about as long as it should

    def begin(self, retention=None):
        self.tasker.cluster.set(autovacuum='on', tasker__batch_size=None, tasker__retention=retention)
        self.tasker.reset()
        self.tasker.define(workloads.chain(1), {'function': 'bench.noop'}, 'one')
        self.tasker.define(workloads.chain(10), {'queue': 'bench'} if self.external else {'function': 'bench.noop'})
        self.tasker.start()

    def end(self):
        self.tasker.reset()
        self.tasker.cluster.set(autovacuum=None, tasker__retention=None)

    def create_and_wait(self, n, name='graph'):
        last = self.tasker.create(n, name)
        while self.tasker.admin.execute('''SELECT 1 FROM tasker.tasks WHERE task_id BETWEEN %s AND %s
                AND state IN ('pending', 'in_progress') LIMIT 1''', (last - n + 1, last)).fetchone():
            time.sleep(0.02)

    def work(self, batch, seconds):
        pgbench.run(self.tasker.cluster, 'tasker', 'bench', TURN.format(batch=batch), 8, seconds,
                    variables=dict.fromkeys('tslr', '{}'))

    def window(self):
        """One window; its rate."""
        cpu = self.tasker.cluster.cpu()
        oldest, began = self.tasker.admin.execute(
            'SELECT COALESCE(max(task_id) + 1, 1), clock_timestamp() FROM tasker.tasks').fetchone()
        if self.external:
            self.tasker.create(self.tasks)
            self.work(10, self.seconds)
        else:
            self.create_and_wait(self.tasks)
        steps, took = self.tasker.admin.execute(RATE, (oldest, began)).fetchone()
        rate = steps / float(took)
        self.cpu = (self.tasker.cluster.cpu() - cpu) * 1e6 / steps
        # What is left would be older than the next window's, and no longer in shared_buffers.
        while self.external and self.tasker.admin.execute(OPEN).fetchone():
            self.work(100, 1)
        # External workers must not run out of work within the window.
        self.tasks = max(100, int(rate * self.seconds / 10 * (1.5 if self.external else 1)))
        return rate

    def clean(self):
        self.begin()
        self.window()                   # too small, to find the size
        self.window()
        self.rate = statistics.median(self.window() for _ in range(3))
        return self.sample(self.rate)

    def behind(self):
        """So many finished tasks of one step each."""
        for left in range(self.finished, 0, -20000):
            self.create_and_wait(min(left, 20000), 'one')
        self.window()
        return self.sample(statistics.median(self.window() for _ in range(3)))

    def under_snapshot(self):
        """Load while another session holds a snapshot; what the last window came to."""
        with self.tasker.cluster.connect('tasker') as holder:
            holder.execute('BEGIN ISOLATION LEVEL REPEATABLE READ')
            holder.execute('SELECT 1')
            until = time.time() + self.held
            while time.time() < until:
                rate = self.window()
        self.released = time.time()
        return self.sample(rate)

    def recovered(self):
        """Load goes on; the last window that began within 30 s of the snapshot's end."""
        while time.time() < self.released + 30:
            rate = self.window()
        sample = self.sample(rate)
        self.end()
        return sample

    def sample(self, rate):
        self.first = getattr(self, 'first', rate)
        return {'rate': rate, 'share': rate / self.first, 'cpu': self.cpu}


SIZES = '''SELECT sum(pg_total_relation_size(c.oid)) / 1e6, sum(pg_indexes_size(c.oid)) / 1e6 FROM pg_class c
    WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r' '''


def size(tasker, steps, retention=None):
    """Sizes after so many steps of chains of 10, and after three times as many. With
    retention no more than 20,000 tasks are there at once. Autovacuum looks every
    second: at this rate a minute is a million steps."""
    story = Phases(tasker, False, 0, 0, 5)
    story.begin(retention)
    tasker.cluster.set(autovacuum_naptime='1s')
    found, done = [], 0
    for goal in (steps, 3 * steps):
        while done < goal:
            story.tasks = min(5000, (goal - done) // 10)
            done += 10 * story.tasks
            story.window()
            if retention:
                tasker.wait_for('(SELECT count(*) <= 20000 FROM tasker.tasks)')
        tables, indexes = map(float, tasker.admin.execute(SIZES).fetchone())
        found.append(tables)
    story.end()
    tasker.cluster.set(autovacuum_naptime=None)
    sample = {'size': found[0], 'indexes': indexes, 'size3': found[1]}
    return dict(sample, growth=found[1] / found[0] - 1) if retention else sample
