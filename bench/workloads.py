"""workloads.py: the graphs that are run, the same for every subject.

A graph is a list: for each step, in an order in which parents come first, the
list of its parents' numbers. Called by everybody.
"""
import glob
import json
import os
import random


def chain(n):
    return [[i - 1] if i else [] for i in range(n)]


def fan(width):
    """1 -> width -> 1"""
    return [[]] + [[0] for _ in range(width)] + [list(range(1, width + 1))]


def layered(layers, width, seed=1):
    """Layers of random width; a step has 1 to 3 parents in the layer above, sometimes one further up."""
    rng = random.Random(seed)
    graph, above, older = [], [], []
    for _ in range(layers):
        layer = []
        for _ in range(rng.randint(1, width)):
            parents = set(rng.sample(above, min(len(above), rng.randint(1, 3))))
            if older and rng.random() < 0.2:
                parents.add(rng.choice(older))
            graph.append(sorted(parents))
            layer.append(len(graph) - 1)
        older += above
        above = layer
    return graph


def real(directory):
    """The workflows of WfFormat documents: [(name, graph)]."""
    found = []
    for path in sorted(glob.glob(os.path.join(directory, '*.json'))):
        with open(path, encoding='utf-8') as file:
            tasks = json.load(file)['workflow']['specification']['tasks']
        parents = {t['id']: list(t.get('parents', [])) for t in tasks}
        number, order = {}, []
        while len(order) < len(parents):
            more = [t for t in parents if t not in number and all(p in number for p in parents[t])]
            if not more:
                raise ValueError('%s: a cycle' % path)
            for t in more:
                number[t] = len(order)
                order.append(t)
        name = os.path.basename(path).split('-')[0]
        found.append((name, [sorted(number[p] for p in parents[t]) for t in order]))
    return found


def definition(graph, handler):
    """tasker's definition of a graph; handler is {"function": …} or {"queue": …}."""
    return json.dumps({'steps': [
        dict(handler, name='s%d' % i, depends_on=['s%d' % p for p in parents]) for i, parents in enumerate(graph)]})


def edges(graph):
    return [(p, i) for i, parents in enumerate(graph) for p in parents]
