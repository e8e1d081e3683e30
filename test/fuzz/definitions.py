"""Definitions for define_task: valid ones by a grammar, and what random changes make of them.

What Python's json does not write, such as numbers that are too large for it, is
a string with "@@" before and after it; text() takes these away.
"""
import copy
import json
import re

KEYS = ('name', 'description', 'function', 'sql', 'queue', 'depends_on', 'retry', 'retryable', 'timeout', 'lease',
        'priority', 'steps', 'defaults', 'max_attempts', 'backoff', 'base', 'factor', 'cap', 'jitter', 'delays')
INTERVALS = ('1 s', '2 min', '90', '00:00:01.5', 'P1DT2H', '1 mon', '0', '-1 s', '', ' ', 'soon', 'infinity', '-infinity',
             '9999999999 years', '178956970 years', '1e300 s', '-2147483648 mons -2147483648 days', '1 s 1 s', '0.0000001 s',
             '3650 days', '3651 days', '1 s ago', 'NaN')
NUMBERS = (0, 1, -1, 2, 3, 0.5, -0.0, 1e308, 2147483647, 2147483648, -2147483648, 9223372036854775807, 9223372036854775808,
           1000000, 1000001, 1.5, '@@1e131000@@', '@@-1e131000@@', '@@1e-300@@', '@@1e-16000@@', '@@0.99999999999999999999999@@',
           '@@1.0@@', '@@100e-2@@')
STRINGS = ('', ' ', 'a', 'A', 'é', '…' * 86, 'x' * 255, 'x' * 256, 'x' * 5000, "it's", '"', '\\', '%s%n', '$1', '{}', '[1]',
           'null', 'a\nb', '\t', '\u0001', '\u200b', '\U0001f600', '$.steps[0]', 'a.b', '.', 'a.', '.b', 'a.b.c', '"a"."b"', '""',
           'pg_catalog.now', 'fuzz.handler', 'fuzz.nothing', 'nothing.handler', 'FUZZ.HANDLER', '"fuzz"."handler"',
           'exponential', 'linear', 'fixed', 'list', 'Fixed')
STATEMENTS = ('SELECT $1', 'SELECT 1', 'SELECT', '', ';', 'SELECT 1; SELECT 2', 'DROP TABLE nothing', 'SELECT $2', 'SELECT $1::int',
              'SELECT jsonb_build_object(1, $1)', 'INSERT INTO nothing VALUES ($1)', 'VALUES ($1), ($1)', 'COMMIT', 'SELECT $1, $1',
              'SELECT * FROM nothing', 'WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT $1', 'SELECT $0', 'SELECT $99999999999',
              "SELECT 'x", '/*', '--', 'SELECT 1/0', 'CALL tasker.run()', 'COPY pg_class TO STDOUT', 'SELECT $1 INTO x', 'SET a.b = 1',
              'DECLARE c CURSOR FOR SELECT 1', 'DO $$ BEGIN END $$', 'LISTEN x', 'SELECT ' + '(' * 3000 + '1' + ')' * 3000,
              'SELECT ' + '1+' * 3000 + '1')


# Values of the right type, more or less, for the keys that take them.
FITTING = {'base': INTERVALS + NUMBERS, 'cap': INTERVALS + NUMBERS, 'timeout': INTERVALS + NUMBERS, 'lease': INTERVALS + NUMBERS,
           'max_attempts': NUMBERS, 'factor': NUMBERS, 'jitter': NUMBERS, 'priority': NUMBERS, 'backoff': STRINGS, 'name': STRINGS,
           'description': STRINGS, 'function': STRINGS, 'sql': STATEMENTS, 'queue': STRINGS, 'retryable': (True, False, None)}


class Definitions:
    def __init__(self, rng):
        self.rng = rng

    # ---- valid ones

    def retry(self):
        rng = self.rng
        kind = rng.choice(['exponential', 'linear', 'fixed', 'list', None])
        retry = {'max_attempts': rng.randint(1, 9)} if rng.random() < 0.7 or kind is None else {}
        if kind:
            retry['backoff'] = kind
        if kind == 'list':
            retry['delays'] = rng.choices(['1 s', '2 min', '1 h', 3, 0.5], k=rng.randint(1, 4))
            return retry
        if rng.random() < 0.5:
            retry['base'] = rng.choice(['1 s', '250 ms', 2, '1 min'])
        if kind == 'exponential' and rng.random() < 0.5:
            retry['factor'] = rng.choice([1, 1.5, 2, 10])
        if kind != 'fixed' and kind and rng.random() < 0.5:
            retry['cap'] = rng.choice(['5 min', '1 h', 600])
        if rng.random() < 0.5:
            retry['jitter'] = rng.choice([0, 0.1, 1])
        return retry

    def policy(self, of):
        rng = self.rng
        for key, value in (('retry', self.retry()), ('retryable', rng.random() < 0.5), ('timeout', rng.choice(['1 s', '1 h', 90])),
                           ('lease', rng.choice(['1 min', 30])), ('priority', rng.randint(-9, 9))):
            if rng.random() < 0.25 and not (key == 'lease' and of.get('queue') is None):
                of[key] = value
        return of

    def valid(self):
        rng = self.rng
        names = ['s%d' % i for i in range(rng.choice([1, 1, 2, 3, 3, 5, 8, 30]))]
        if rng.random() < 0.3:
            names[0] = rng.choice([s for s in STRINGS if s.strip() and len(s.encode()) < 256])
        steps = []
        for i, name in enumerate(names):
            step = {'name': name}
            step.update(rng.choice([{'function': 'fuzz.handler'}, {'sql': 'SELECT $1'}, {'sql': 'SELECT 1'}, {'queue': 'mail'}]))
            if i and rng.random() < 0.7:
                step['depends_on'] = rng.sample(names[:i], rng.randint(1, min(i, 3)))
            if rng.random() < 0.1:
                step['description'] = 'what it does'
            steps.append(self.policy(step))
        rng.shuffle(steps)
        definition = {'steps': steps}
        if rng.random() < 0.2:
            definition['defaults'] = self.policy({'queue': 'fuzz'} if rng.random() < 0.5 else {})
        if rng.random() < 0.2:
            definition['description'] = 'made at random'
        return definition

    # ---- anything

    def scalar(self):
        rng = self.rng
        return rng.choice([rng.choice(NUMBERS), rng.choice(STRINGS), rng.choice(INTERVALS), rng.choice(STATEMENTS), None, True, False])

    def anything(self, depth=0):
        rng = self.rng
        kind = rng.random()
        if kind < 0.6 or depth > 3:
            return self.scalar()
        if kind < 0.62:
            depth = rng.choice([10, 1000, 5000])
            return '@@%s1%s@@' % ('[' * depth, ']' * depth)
        if kind < 0.82:
            return [self.anything(depth + 1) for _ in range(rng.choice([0, 1, 1, 2, 3, 50]) if depth < 2 else 1)]
        return {rng.choice(KEYS + STRINGS): self.anything(depth + 1) for _ in range(rng.randint(0, 4))}

    # ---- changes

    def places(self, value, path=()):
        """Each place of a document: the containers it is in, from outside."""
        yield path
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from self.places(value[key], path + (key,))

    def change(self, document):
        """One change at a random place."""
        rng = self.rng
        places = list(self.places(document))
        if rng.random() < 0.4:
            fitting = [p for p in places if p and p[-1] in FITTING]
            return self.fit(document, rng.choice(fitting)) if fitting and rng.random() < 0.8 else self.depend(document)
        path = rng.choice(places)
        if not path:
            return self.anything() if rng.random() < 0.3 else document
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        key = path[-1]
        do = rng.choice(['replace', 'replace', 'delete', 'copy', 'wrap', 'other', 'rename', 'add', 'add'])
        if do == 'replace':
            parent[key] = self.anything()
        elif do == 'delete':
            del parent[key]
        elif do == 'wrap':
            parent[key] = rng.choice([[parent[key]], {'steps': parent[key]}, [parent[key], parent[key]]])
        elif do == 'other':         # what is elsewhere in the document
            found = document
            for k in rng.choice(places):
                found = found[k]
            parent[key] = copy.deepcopy(found)
        elif isinstance(parent, list):
            parent.insert(rng.randint(0, len(parent)), copy.deepcopy(parent[key]) if do != 'add' else self.anything())
        elif do == 'add':
            parent[rng.choice(KEYS + STRINGS[:12])] = self.anything()
        else:
            parent[rng.choice([rng.choice(KEYS), key + 's', key.upper(), ' ' + key, rng.choice(STRINGS)])] = \
                parent.pop(key) if do == 'rename' else copy.deepcopy(parent[key])
        return document

    def fit(self, document, path):
        """A value of the right type, out of bounds perhaps."""
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict):
            parent[path[-1]] = self.rng.choice(FITTING[path[-1]])
        return document

    def depend(self, document):
        """One dependency more, which may close a cycle."""
        steps = document.get('steps') if isinstance(document, dict) else None
        steps = [s for s in steps if isinstance(s, dict)] if isinstance(steps, list) else []
        if steps:
            parents = self.rng.choice(steps).setdefault('depends_on', [])
            if isinstance(parents, list):
                parents.append(self.rng.choice(steps).get('name'))
        return document

    def one(self):
        if self.rng.random() < 0.03:
            return self.anything()
        document = self.valid()
        for _ in range(self.rng.choice([0, 0, 1, 1, 1, 2, 3, 6])):
            document = self.change(document)
            if not isinstance(document, (dict, list)):
                break
        return document


def text(document):
    return re.sub(r'"@@([^"]*)@@"', r'\1', json.dumps(document, ensure_ascii=False))
