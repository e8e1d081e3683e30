"""plan.py: what is run: groups of rows, whose rows are run in turn, round after round.

A row is a name and a function that returns one sample, a dict of measures.
Called by run.py. What a measure is, README.md says; what is expected of it, goals.py.
"""
import os
from dataclasses import dataclass, field

import measures
import phases
import workloads
from cluster import CHECKOUT


@dataclass
class Group:
    key: str
    title: str
    rows: list                          # [(name, function)]
    columns: list                       # measures that the report shows, the first with its spread
    base: str = None                    # the row that the others are held against
    rounds: int = None                  # fewer than the run's
    long: bool = False                  # only in a full run, or when asked for
    notes: list = field(default_factory=list)


@dataclass
class Size:
    """How much of everything."""
    rounds: int
    seconds: int                        # of each sample of external workers
    scale: int                          # tasks, in units
    open_tasks: list
    ready_steps: list
    finished: int                       # tasks that have ended
    held: int                           # seconds that a snapshot is held
    steps: int                          # after which sizes are taken
    full: bool


QUICK = Size(rounds=3, seconds=2, scale=1, open_tasks=[1000, 100000], ready_steps=[10, 100, 1000, 10000],
             finished=20000, held=40, steps=20000, full=False)
FULL = Size(rounds=5, seconds=6, scale=4, open_tasks=[1000, 10000, 100000, 1000000],
            ready_steps=[10, 100, 1000, 10000], finished=1000000, held=180, steps=1000000, full=True)

IN_DATABASE = ['rate', 'cpu', 'wal', 'writes', 'buffers', 'hot_share', 'steps_per_commit']
EXTERNAL = ['rate', 'round_trips', 'cpu', 'driver_share', 'wal', 'writes', 'buffers', 'hot_share']


def in_database(tasker, floor, size):
    many = tasker.batch_size()
    shapes = [('chain', 'chain of 10', workloads.chain(10), 3000), ('diamond', 'diamond 1-8-1', workloads.fan(8), 3000),
              ('wide', 'wide 1-1000-1', workloads.fan(1000), 30)]
    if size.full:
        shapes.append(('layered', 'random layers', workloads.layered(20, 20), 50))
    for key, title, graph, n in shapes:
        n *= size.scale
        yield Group('in-db ' + key, 'In the database, no-op handler: %d x %s' % (n, title), [
            ('tasker', lambda g=graph, n=n: tasker.in_database(g, n)),
            ('floor, set-based', lambda g=graph, n=n: floor.in_database(g, n, many)),
            ('floor, ends only', lambda g=graph, n=n: floor.in_database(g, n, many, coalesced=True)),
        ], IN_DATABASE, 'tasker')

    graph, n = workloads.chain(10), 100 * size.scale
    yield Group('in-db single', 'In the database, one commit a step: %d x chain of 10' % n, [
        ('tasker, batch_size 1', lambda n=n: tasker.in_database(graph, n, batch=1)),
        ('floor, one at a time', lambda n=n: floor.in_database(graph, n, batch=1)),
    ], IN_DATABASE, 'tasker, batch_size 1')

    n *= 30
    yield Group('in-db insert', 'In the database, a handler that inserts a row: %d x chain of 10' % n, [
        ('tasker', lambda: tasker.in_database(graph, n, function='bench.insert')),
        ('INSERT in a PL/pgSQL loop', lambda: tasker.insert_loop(10 * n, 10 * n // many)),
        ('the handler in a PL/pgSQL loop', lambda: tasker.insert_loop(10 * n, 10 * n // many, call=True)),
        ('floor, ends only', lambda: floor.in_database(graph, n, many, coalesced=True)),
    ], ['rate', 'cpu', 'wal', 'steps_per_commit'], 'tasker')

    directory = os.environ.get('TASKER_WFINSTANCES', os.path.join(CHECKOUT, '..', 'shared', 'wfinstances'))
    real = workloads.real(directory)
    if size.full and real:
        graphs = [g for _, g in real]
        yield Group('in-db real', 'In the database: %d real workflows, 10 tasks of each' % len(real), [
            ('tasker', lambda: tasker.in_database_mix(graphs, 10)),
            ('floor, set-based', lambda: floor.in_database_mix(graphs, 10, many)),
        ], IN_DATABASE, 'tasker')


def external(tasker, floor, peers, size):
    chain = workloads.chain(10)
    for connections, batch in ((1, 1), (8, 1), (8, 10), (8, 100)):
        # More than can be done in the time, but not much more.
        n = int((2500, 4000, 12000, 16000)[(1, 8, 80, 800).index(connections * batch)] / 10 * max(size.seconds, 1) * 4)
        rows = [('tasker', lambda n=n, c=connections, b=batch: tasker.external(chain, n, c, b, size.seconds)),
                ('floor', lambda n=n, c=connections, b=batch: floor.external(chain, n, c, b, size.seconds))]
        key = 'external %dx%d' % (connections, batch)
        rows += [row[1:] for peer in peers for row in peer.rows(size) if row[0] == key]
        yield Group(key,
                    'External workers, chain of 10: %d connection%s, batch %d' % (
                        connections, 's' if connections > 1 else '', batch), rows, EXTERNAL, 'tasker')
    for name, graph in (('diamond 1-8-1', workloads.fan(8)), ('wide 1-1000-1', workloads.fan(1000))) if size.full else ():
        n = int(8000 / len(graph) * size.seconds * 2) + 1
        yield Group('external %s' % name.split()[0], 'External workers, %s: 8 connections, batch 10' % name, [
            ('tasker', lambda g=graph, n=n: tasker.external(g, n, 8, 10, size.seconds)),
            ('floor', lambda g=graph, n=n: floor.external(g, n, 8, 10, size.seconds))], EXTERNAL, 'tasker')


def counts(tasker, size):
    rows = []
    for name, graph, steps in (('chain of 10', workloads.chain(10), 5000), ('chain of 100', workloads.chain(100), 5000),
                               ('chain of 1000', workloads.chain(1000), 5000), ('1-10-1', workloads.fan(10), 4800),
                               ('1-100-1', workloads.fan(100), 4998), ('1-1000-1', workloads.fan(1000), 5010)):
        n = steps // len(graph)
        rows.append(('%s, in the database' % name, lambda g=graph, n=n: tasker.in_database(g, n)))
        rows.append(('%s, external' % name,
                     lambda g=graph, n=n: tasker.external(g, n, 1, 10, transactions=n * len(g) // 10 + 20)))
    yield Group('counts', 'What a step writes, by the length and width of its graph (about 5,000 steps; batch 10 for external)',
                rows, ['wal', 'inserts', 'updates', 'deletes', 'writes', 'hot_share', 'buffers'], rounds=1)


def others(tasker, floor, size):
    n = 200 if not size.full else 1000
    yield Group('latency', 'From the commit of the last parent to the start of the child, ms', [
        ('in the database', lambda: measures.latency_in_database(tasker, n)),
        ('in the database, synchronous_commit off', lambda: measures.latency_in_database(tasker, n, 'off')),
        ('external, a claim that waits', lambda: measures.latency_external(tasker, n)),
    ], ['p50', 'p99', 'client_p50', 'client_p99', 'round_trip_p50', 'round_trip_p99'])

    yield Group('ready_steps', 'ready_steps of a half-done task, µs', [
        ('%d steps' % steps, lambda s=steps: measures.ready_steps(tasker, s, 6 if s < 10000 else 3))
        for steps in size.ready_steps], ['p50', 'call1', 'call2', 'call20', 'ready'])

    yield Group('claims', 'A claim of 10 among open tasks, claimed and completed 100 times', [
        ('%d open' % n, lambda n=n: measures.claims_among(tasker, n)) for n in size.open_tasks],
        ['buffers', 'us', 'first_buffers', 'last_buffers'], rounds=1)

    yield Group('creation', 'Creation, chain of 10 (with the edges); steps/s', [
        ('tasker, create_tasks of 5,000 tasks', lambda: measures.create_bulk(tasker)),
        ('floor, INSERT ... SELECT', lambda: measures.create_floor(floor)),
        ('tasker, create_task, 1 connection', lambda: measures.create_single(tasker, 1, size.seconds)),
        ('tasker, create_task, 8 connections', lambda: measures.create_single(tasker, 8, size.seconds)),
    ], ['rate', 'wal'], 'tasker, create_tasks of 5,000 tasks')


def over_time(tasker, size):
    rows = []
    for kind, external in (('in the database', False), ('external', True)):
        story = phases.Phases(tasker, external, size.finished, size.held, size.seconds)
        rows += [('%s, %s' % (kind, name), phase) for name, phase in (
            ('clean', story.clean), ('behind', story.behind), ('held', story.under_snapshot), ('after', story.recovered))]
    yield Group('phases', 'As time goes by, chain of 10, autovacuum on: clean; with %s finished tasks behind; after '
                '%d s of load under a held snapshot; 30 s after it' % ('{:,}'.format(size.finished), size.held), rows,
                ['rate', 'clean', 'share', 'least', 'most', 'cpu'], rounds=1, long=True,
                notes=['Medians of %d windows, each beside one in a database whose tables were just made, in which no '
                       'lease has ended yet ("clean steps/s"); of their ratios the median, the least and the most.' % phases.PAIRS])
    yield Group('size', 'Size of all tables and indexes, MB, after %s steps and three times as many'
                % '{:,}'.format(size.steps), [
        ('nothing is removed', lambda: phases.size(tasker, size.steps)),
        ('tasker.retention = 5 s', lambda: phases.size(tasker, size.steps, '5 s'))],
        ['size', 'indexes', 'size3', 'growth'], rounds=1, long=True)


def groups(cluster, tasker, floor, peers, size):
    yield from in_database(tasker, floor, size)
    yield from external(tasker, floor, peers, size)
    yield from counts(tasker, size)
    yield from others(tasker, floor, size)
    yield from over_time(tasker, size)
