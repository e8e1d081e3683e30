"""goals.py: what is expected, as a table, held against the results of a run.

Called by report.py. Ratios are medians of the ratios within each round.
"""
from dataclasses import dataclass
from typing import Callable


@dataclass
class Goal:
    text: str
    need: str                       # the limit, as it is printed
    measure: Callable               # Results -> number, or None if the run has it not
    good: Callable                  # number -> bool
    unit: str = ''
    why: str = ''                   # what stands in the way, printed if the goal is not met


def at_least(limit):
    return '≥ %g' % limit, lambda value: value >= limit


def at_most(limit):
    return '≤ %g' % limit, lambda value: value <= limit


def goal(text, limit, measure, unit='', why=''):
    return Goal(text, limit[0], measure, limit[1], unit, why)


def worst(*values, low=True):
    """The worst of some numbers, if there are any."""
    values = [v for v in values if v is not None]
    return (min if low else max)(values) if values else None


def over_peers(group, names, same=False):
    """tasker's rate in a group over the best rate of some peers, in this group or at any setting."""
    def measure(r):
        mine = r.median(group, 'tasker', 'rate')
        best = r.best_rate(names, group if same else 'external ')
        return mine / best if mine and best else None
    return measure


def growth(where):
    """How much more a step writes in the largest graph than in the smallest of its kind, chains and joins."""
    def measure(r):
        kinds = (('chain of 10', 'chain of 1000'), ('1-10-1', '1-1000-1'))
        pairs = [[r.median('counts', '%s, %s' % (graph, where), 'wal') for graph in kind] for kind in kinds]
        return worst(*(large / small - 1 for small, large in pairs if small and large), low=False)
    return measure


def ready(steps, limit):
    row = '%d steps' % steps
    return goal('ready_steps, half-done task of %d steps, p50' % steps, at_most(limit),
                lambda r: r.median('ready_steps', row, 'p50'), 'µs')


FLAT = ('graphile', 'pg-boss')
DURABLE = ('pgflow', 'absurd', 'dbos', 'pg-boss flow')
WAYS = ('in-db chain', 'in-db diamond', 'in-db wide')

BEHIND = 'The clean windows themselves differ from each other as much: see the least and the most in the table.'
HELD = 'Old versions of all rows stay where they are; a look at all of the queue now and then reads them.'
AFTER = ('The tables are larger than shared_buffers by then: with 8 connections a backend has to write out another page for every '
         'fourth step (of the clean database none), and a step touches 75 buffers instead of 63. Autovacuum takes a tenth of a processor.')

GOALS = [
    goal('in the database, no-op, chain, diamond and wide (the worst): share of the set-based floor', at_least(0.5),
         lambda r: worst(*(r.share(g, 'floor, set-based') for g in WAYS)),
         why='A wave that is wider than a batch passes through the ready queue; see the columns of row '
             'writes and buffers.'),
    goal('the same: times pgflow', at_least(100),
         lambda r: worst(*(over_peers(g, ('pgflow',))(r) for g in WAYS)),
         why='pgflow is measured in batches over 8 connections, completed in one statement, which its own '
             'worker does not do; its row with single steps is in the tables below.'),
    goal('in the database, one commit a step: share of the SPI floor', at_least(0.8),
         lambda r: r.share('in-db single', 'floor, one at a time'),
         why='The floor does 6 statements and a commit a step; tasker also reads the task, the children and '
             'the parents, calls the handler, and checks and records each change in a trigger.'),
    goal('in the database, handler inserts a row: share of a PL/pgSQL loop of the same inserts', at_least(0.5),
         lambda r: r.share('in-db insert', 'INSERT in a PL/pgSQL loop'),
         why='The loop writes 1 row a step, and nothing else; the least that any record of steps needs '
             '(floor, ends only) is 2 more rows, read by key, and is itself slower than half of the loop.'),
    goal('external, 8 connections, batch 10: share of the socket floor', at_least(0.6),
         lambda r: r.share('external 8x10', 'floor'),
         why='A call runs some twelve statements, each of which costs 10 to 20 µs to start; it reads the '
             'input and the rights of the caller, checks leases, and writes two rows of history a step '
             'where the floor writes one.'),
    goal('external, 8 x 10: times pgflow', at_least(10), over_peers('external 8x10', ('pgflow',)),
         why='See above: pgflow in batches.'),
    goal('external, 8 x 10: times the best DAG-capable or durable peer', at_least(5), over_peers('external 8x10', DURABLE),
         why='pg-boss 12 has flows; at its best, in batches of 100, with a resolver that is called without a '
             'pause, which its own timer never does, it is within 5 times of the floor itself at 8 x 10. With '
             'the same batches tasker is some 4 times as fast.'),
    goal('external, 8 x 100: times the best peer that knows each job, flat jobs included', at_least(1.0),
         over_peers('external 8x100', DURABLE + FLAT),
         why='These are single jobs, which release nothing; pg-boss and Graphile Worker end a job with one '
             'row version or one delete, tasker with two versions and two rows of history.'),
    goal('external, 8 x 100: times PgQ, which has no state of a single event', at_least(1.0),
         over_peers('external 8x100', ('pgq',)),
         why='PgQ is a log: a batch of events is read and finished as a whole, with one row for the batch. It '
             'knows no state, retry or result of an event that it did not put aside.'),
    goal('external, 1 x 1: round trips a step', at_most(1.02), lambda r: r.median('external 1x1', 'tasker', 'round_trips')),
    goal('external, 1 x 1: commits a step', at_most(1.02), lambda r: r.median('external 1x1', 'tasker', 'commits'),
         why='Commits of the scheduler and of the measuring session are counted too.'),
    goal('external, 1 x 1: times the best durable peer', at_least(1.0), over_peers('external 1x1', DURABLE, same=True)),
    goal('external, 8 x 1: times the best durable peer', at_least(1.0), over_peers('external 8x1', DURABLE, same=True),
         why='Both commit each step, so it is the disk that is measured; see the CPU of a step.'),
    goal('WAL a step in the database, chain of 10', at_most(600),
         lambda r: r.median('counts', 'chain of 10, in the database', 'wal'), 'B'),
    goal('WAL a step, external, chain of 10', at_most(1000),
         lambda r: r.median('counts', 'chain of 10, external', 'wal'), 'B',
         why='Two versions of the step and two rows of history are 540 B; more is what passes through the '
             'ready queue.'),
    goal('WAL a step in the database, growth from N = 10 to 1,000 (the worse of chain and join)', at_most(0.1),
         growth('in the database'),
         why='A wave that is wider than a batch passes through the ready queue.'),
    goal('WAL a step, external, growth from N = 10 to 1,000 (the worse of chain and join)', at_most(0.1), growth('external')),
    goal('row writes a step in the database, chain of 10', at_most(3),
         lambda r: r.median('counts', 'chain of 10, in the database', 'writes')),
    goal('row writes a step, external, chain of 10', at_most(5),
         lambda r: r.median('counts', 'chain of 10, external', 'writes'),
         why='Two versions of the step, two rows of history, the lease\'s end; more is what passes through '
             'the ready queue.'),
    goal('share of HOT updates of steps, chain of 10 (the worse of both)', at_least(0.85),
         lambda r: worst(*(r.median('counts', 'chain of 10, ' + w, 'hot_share') for w in ('in the database', 'external')))),
    goal('commit to start in the database, p50', at_most(1), lambda r: r.median('latency', 'in the database', 'p50'), 'ms',
         why='The commit\'s flush is in it, and the wait for a processor: see the row without the flush, '
             'and the load of the machine above.'),
    goal('commit to start in the database, p99', at_most(5), lambda r: r.median('latency', 'in the database', 'p99'), 'ms',
         why='The commit\'s flush is in it, and the wait for a processor: see the row without the flush, '
             'and the load of the machine above.'),
    goal('commit to start, a claim that waits, less a round trip, p50', at_most(1),
         lambda r: r.difference('latency', 'external, a claim that waits', 'client_p50', 'round_trip_p50'), 'ms',
         why='The commit\'s flush is in it, and the wait for a processor: see the row without the flush, '
             'and the load of the machine above.'),
    goal('commit to start, a claim that waits, less a round trip, p99', at_most(5),
         lambda r: r.difference('latency', 'external, a claim that waits', 'client_p99', 'round_trip_p50'), 'ms',
         why='The commit\'s flush is in it, and the wait for a processor: see the row without the flush, '
             'and the load of the machine above.'),
    ready(10, 50), ready(100, 300), ready(1000, 2500), ready(10000, 25000),
    goal('ready_steps, the 20th call over the 2nd of a session (the worst)', at_most(1.1),
         lambda r: worst(*(r.over('ready_steps', row, 'call20', 'call2') for row in r.rows('ready_steps')), low=False)),
    goal('claim among the most open tasks over among 1k: buffers', at_most(2),
         lambda r: r.over_rows('claims', -1, 0, 'buffers')),
    goal('bulk creation', at_least(50000), lambda r: r.median('creation', 'tasker, create_tasks of 5,000 tasks', 'rate'),
         'steps/s'),
    goal('1M finished tasks behind (the worse of both kinds): share of the clean rate', at_least(0.9),
         lambda r: worst(*(r.phase(k, 'behind') for k in ('in the database', 'external'))), why=BEHIND),
    goal('a snapshot held for 3 min: share of the clean rate', at_least(0.7),
         lambda r: worst(*(r.phase(k, 'held') for k in ('in the database', 'external'))), why=HELD),
    goal('30 s after it: share of the clean rate', at_least(0.9),
         lambda r: worst(*(r.phase(k, 'after') for k in ('in the database', 'external'))), why=AFTER),
    goal('with retention on, size after 3M steps over after 1M, less 1', at_most(0.1),
         lambda r: r.median('size', 'tasker.retention = 5 s', 'growth'),
         why='It goes up and down with vacuum: 236 to 286 MB after each of 1 to 9 million steps.'),
]
