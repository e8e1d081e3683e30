"""measures.py: samples that are no throughput: latency, ready_steps, claims among many, creation.

Called by plan.py. All but create_floor begin with a new extension.
"""
import statistics
import threading
import time

import pgbench
import workloads


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p * len(values)))]


# ---- from commit to start -----------------------------------------------------------

# The commit's time is taken by the server before it flushes the commit to disk.
HAND_OFF = '''SELECT 1000 * extract(epoch FROM c.last_attempted_at - pg_xact_commit_timestamp(p.xmin))
    FROM tasker.workflow_steps p JOIN tasker.workflow_steps c ON c.task_id = p.task_id AND c.step_id = 2
    WHERE p.step_id = 1 AND p.state = 'complete' AND c.state = 'complete' ORDER BY p.task_id'''


def latency_in_database(tasker, n, synchronous_commit='on'):
    """A worker completes the parent; the child is an executor's."""
    tasker.reset()
    tasker.define_steps([{'name': 'parent', 'queue': 'bench'},
                         {'name': 'child', 'function': 'bench.noop', 'depends_on': ['parent']}])
    tasker.start()
    with tasker.cluster.connect('tasker', 'bench') as worker:
        worker.execute("SET synchronous_commit = %s" % synchronous_commit)
        for _ in range(n + 1):
            task = tasker.create(1)
            worker.execute('''SELECT tasker.complete_step(task_id, step_id, lease)
                FROM tasker.claim_steps('{bench}', 'w', wait => '1 s')''')
            worker.execute('SELECT tasker.task_wait(%s)', (task,))
    took = [float(r[0]) for r in tasker.admin.execute(HAND_OFF)][1:]     # the first starts the executor
    return {'p50': percentile(took, 0.5), 'p99': percentile(took, 0.99)}


def latency_external(tasker, n):
    """One worker completes the parent; another waits in claim_steps for the child."""
    tasker.reset()
    tasker.define_steps([{'name': 'parent', 'queue': 'bench'},
                         {'name': 'child', 'queue': 'other', 'depends_on': ['parent']}])
    tasker.start()
    got, ready, stop = {}, threading.Semaphore(0), threading.Event()

    def child():
        with tasker.cluster.connect('tasker', 'bench') as connection:
            while not stop.is_set():
                row = connection.execute('''SELECT task_id, step_id, lease
                    FROM tasker.claim_steps('{other}', 'c', wait => '1 s')''').fetchone()
                if row:
                    got[row[0]] = time.time()
                    connection.execute('SELECT tasker.complete_step(%s, %s, %s)', row)
                    ready.release()

    thread = threading.Thread(target=child)
    thread.start()
    trips = []
    with tasker.cluster.connect('tasker', 'bench') as parent:
        for _ in range(n):
            tasker.create(1)
            parent.execute('''SELECT tasker.complete_step(task_id, step_id, lease)
                FROM tasker.claim_steps('{bench}', 'p', wait => '1 s')''')
            if not ready.acquire(timeout=10):
                raise RuntimeError('the child did not come')
            began = time.time()
            parent.execute('SELECT 1')
            trips.append(1000 * (time.time() - began))
        stop.set()
        thread.join()
        committed = dict(parent.execute('''SELECT task_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
            FROM tasker.workflow_steps WHERE step_id = 1'''))
    took = [float(r[0]) for r in tasker.admin.execute(HAND_OFF)]
    seen = [1000 * (got[task] - committed[task]) for task in got]
    return {'p50': percentile(took, 0.5), 'p99': percentile(took, 0.99),
            'client_p50': percentile(seen, 0.5), 'client_p99': percentile(seen, 0.99),
            'round_trip_p50': percentile(trips, 0.5), 'round_trip_p99': percentile(trips, 0.99)}


# ---- ready_steps ------------------------------------------------------------------------

TIME_READY = '''CREATE OR REPLACE FUNCTION bench.time_ready(task bigint) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM tasker.ready_steps(task);
    RETURN 1e6 * extract(epoch FROM clock_timestamp() - began);
END $$'''


def ready_steps(tasker, steps, sessions):
    """Twenty calls in each of some sessions, for a task of which half is done."""
    layers, graph = 2, []
    while len(graph) < steps:
        layers *= 2
        graph = workloads.layered(layers, max(2, min(50, steps // 5)))
    tasker.reset()
    tasker.define(graph[:steps], {'function': 'bench.noop'})
    task = tasker.create(1)
    tasker.user.execute('CALL tasker.run(max_steps => %d)' % (steps // 2))
    tasker.user.execute(TIME_READY)
    tasker.admin.execute('VACUUM ANALYZE tasker.workflow_steps, tasker.workflow_step_edges')
    calls = []
    for _ in range(sessions):
        with tasker.cluster.connect('tasker', 'bench') as connection:
            calls.append([connection.execute('SELECT bench.time_ready(%d)' % task).fetchone()[0] for _ in range(20)])
    found = tasker.user.execute('SELECT count(*) FROM tasker.ready_steps(%s)', (task,)).fetchone()[0]
    return {'p50': statistics.median(c for s in calls for c in s[1:]), 'call1': statistics.median(s[0] for s in calls),
            'call2': statistics.median(s[1] for s in calls), 'call20': statistics.median(s[19] for s in calls),
            'ready': found}


# ---- finding work ------------------------------------------------------------------------

CLAIM = '''EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING ON, FORMAT JSON)
    INSERT INTO bench.claimed SELECT task_id, step_id, lease FROM tasker.claim_steps('{bench}', 'w', 10)'''


def claims_among(tasker, n, turns=100):
    """Each turn claims 10 steps and completes them; what the claims read."""
    tasker.reset()
    tasker.define(workloads.chain(2), {'queue': 'bench'})
    for left in range(n, 0, -20000):
        tasker.create(min(left, 20000))
    tasker.user.execute('CREATE TABLE IF NOT EXISTS bench.claimed (task_id bigint, step_id int, lease uuid)')
    tasker.admin.execute('VACUUM ANALYZE tasker.workflow_steps, tasker.tasks, tasker.ready_queue')
    buffers, took = [], []
    with tasker.cluster.connect('tasker', 'bench') as worker:
        for _ in range(turns):
            worker.execute('TRUNCATE bench.claimed')
            plan = worker.execute(CLAIM).fetchone()[0][0]['Plan']['Plans'][0]
            buffers.append(plan['Shared Hit Blocks'] + plan['Shared Read Blocks'])
            took.append(1000 * plan['Actual Total Time'])
            worker.execute('''SELECT tasker.complete_steps(array_agg(task_id), array_agg(step_id), array_agg(lease),
                array_agg('{}'::jsonb)) FROM bench.claimed''')
    warm = buffers[1:]                  # the first plans, and reads the catalog
    return {'buffers': statistics.mean(warm), 'us': statistics.median(took), 'first_buffers': statistics.mean(warm[:10]),
            'last_buffers': statistics.mean(warm[-10:])}


# ---- creation -------------------------------------------------------------------------------


def create_bulk(tasker, tasks=5000):
    tasker.reset()
    tasker.define(workloads.chain(10), {'queue': 'bench'})
    tasker.create(1)                    # the definition is known to the session
    before = tasker.counters()
    began = time.time()
    tasker.create(tasks)
    took = time.time() - began
    return {'rate': 10 * tasks / took, 'wal': (tasker.counters()['wal'] - before['wal']) / (10 * tasks)}


def create_floor(floor, tasks=5000):
    before = floor.cluster.counters(floor.admin, ['floor'])
    began = time.time()
    floor.create(workloads.chain(10), tasks)
    took = time.time() - began
    after = floor.cluster.counters(floor.admin, ['floor'])
    return {'rate': 10 * tasks / took, 'wal': (after['wal'] - before['wal']) / (10 * tasks)}


def create_single(tasker, connections, seconds):
    tasker.reset()
    tasker.define(workloads.chain(10), {'queue': 'bench'})
    before = tasker.counters()
    began = time.time()
    done = pgbench.run(tasker.cluster, 'tasker', 'bench', "SELECT tasker.create_task('graph');", connections, seconds)
    took = time.time() - began
    steps = 10 * done['transactions']
    return {'rate': steps / took, 'wal': (tasker.counters()['wal'] - before['wal']) / steps}
