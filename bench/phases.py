"""phases.py: rates as time goes by: with finished tasks behind, under a held snapshot, after it; and sizes.

Called by plan.py. A Phases object is one story, told by calling its phases in
order: each goes on with the tables as the one before left them. Autovacuum is
on, with its defaults. A window is some tasks, created and then run; its rate is
that of its own steps, from the first start to the last commit. A phase is
measured in pairs: a window of the story beside one of another database, whose
tables were just made, since the machine may be twice as fast a minute later.
"""
import statistics
import time

import pgbench
import workloads
from tasker import TURN, Tasker

RATE = '''SELECT count(*), extract(epoch FROM max(pg_xact_commit_timestamp(xmin)) - min(last_attempted_at))
    FROM tasker.workflow_steps WHERE task_id >= %s AND state = 'complete' AND last_attempted_at > %s'''

# Steps that were claimed at the end of a window are not taken again before their leases end.
OPEN = "SELECT 1 FROM tasker.ready_queue LIMIT 1"

# Windows of a phase.
PAIRS = 5


class Side:
    """Windows in one database, one after the other."""

    def __init__(self, tasker, external, seconds):
        self.tasker, self.external, self.seconds = tasker, external, seconds
        self.tasks = 500                # of a window; it comes to last about as long as it should

    def begin(self):
        """With empty tables."""
        self.tasker.reset()
        self.tasker.define(workloads.chain(1), {'function': 'bench.noop'}, 'one')
        self.tasker.define(workloads.chain(10), {'queue': 'bench'} if self.external else {'function': 'bench.noop'})
        self.tasker.start()

    def create_and_wait(self, n, name='graph'):
        last = self.tasker.create(n, name)
        while self.tasker.admin.execute('''SELECT 1 FROM tasker.tasks WHERE task_id BETWEEN %s AND %s
                AND state IN ('pending', 'in_progress') LIMIT 1''', (last - n + 1, last)).fetchone():
            time.sleep(0.02)

    def work(self, batch, seconds):
        pgbench.run(self.tasker.cluster, self.tasker.database, 'bench', TURN.format(batch=batch), 8, seconds,
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


class Phases:
    def __init__(self, tasker, external, finished, held, seconds):
        self.finished, self.held = finished, held
        self.story = Side(tasker, external, seconds)

    def set(self, **settings):
        self.story.tasker.cluster.set(**settings)

    def pairs(self):
        """Windows of the story, each beside one of a database without a past. The story's
        scheduler has to see in its own window to what came due in the other one."""
        found = []
        for _ in range(PAIRS):
            self.story.tasker.stop()
            self.clean_side.begin()
            clean = self.clean_side.window()
            self.clean_side.tasker.stop()
            self.story.tasker.start()
            found.append((self.story.window(), clean, self.story.cpu))
        rates, cleans, cpus = zip(*found)
        shares = [rate / clean for rate, clean, _ in found]
        return {'rate': statistics.median(rates), 'clean': statistics.median(cleans), 'share': statistics.median(shares),
                'least': min(shares), 'most': max(shares), 'cpu': statistics.median(cpus)}

    def clean(self):
        self.set(autovacuum='on', tasker__batch_size=None)
        self.clean_side = Side(Tasker(self.story.tasker.cluster, 'clean'), self.story.external, self.story.seconds)
        for side in (self.story, self.clean_side):
            side.begin()
            side.window()               # too small, to find the size
        return self.pairs()

    def behind(self):
        """So many finished tasks of one step each."""
        for left in range(self.finished, 0, -20000):
            self.story.create_and_wait(min(left, 20000), 'one')
        self.story.window()
        return self.pairs()

    def under_snapshot(self):
        """Load while another session holds a snapshot, which it still does in the pairs at the end."""
        with self.story.tasker.cluster.connect('tasker') as holder:
            holder.execute('BEGIN ISOLATION LEVEL REPEATABLE READ')
            holder.execute('SELECT 1')
            self.load(self.held)
            sample = self.pairs()
        self.load(30)
        return sample

    def load(self, seconds):
        until = time.time() + seconds
        while time.time() < until:
            self.story.window()

    def recovered(self):
        """After the load of under_snapshot."""
        sample = self.pairs()
        self.clean_side.tasker.reset()
        self.story.tasker.reset()
        self.set(autovacuum=None)
        return sample


SIZES = '''SELECT sum(pg_total_relation_size(c.oid)) / 1e6, sum(pg_indexes_size(c.oid)) / 1e6 FROM pg_class c
    WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'r' '''


def size(tasker, steps, retention=None):
    """Sizes after so many steps of chains of 10, and after three times as many. With
    retention no more than 20,000 tasks are there at once; since vacuum comes now and
    then, the size is the median of those after the last ten windows. Autovacuum looks
    every second: at this rate a minute is a million steps."""
    story = Side(tasker, False, 5)
    tasker.cluster.set(autovacuum='on', autovacuum_naptime='1s', tasker__batch_size=None, tasker__retention=retention)
    story.begin()
    found, done, sizes = [], 0, []
    for goal in (steps, 3 * steps):
        while done < goal:
            story.tasks = min(5000, (goal - done) // 10)
            done += 10 * story.tasks
            story.window()
            if retention:
                tasker.wait_for('(SELECT count(*) <= 20000 FROM tasker.tasks)')
            tables, indexes = map(float, tasker.admin.execute(SIZES).fetchone())
            sizes.append(tables)
        found.append(statistics.median(sizes[-10:]) if retention else tables)
    tasker.reset()
    tasker.cluster.set(autovacuum=None, autovacuum_naptime=None, tasker__retention=None)
    sample = {'size': found[0], 'indexes': indexes, 'size3': found[1]}
    return dict(sample, growth=found[1] / found[0] - 1) if retention else sample
