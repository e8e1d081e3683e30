"""Calls of tasker's functions: their names and arguments come from the catalog,
the values are half of the time likely ones, else the extremes of their types.
"""

# Not called: they start and end processes, or are not for calling.
LEFT_OUT = ('start', 'stop', 'installed', 'updated', 'lock_cut_off')

LARGE = "repeat('x', 100000)"
EXTREMES = {
    'int4': ('0', '1', '-1', '2', '2147483647', "'-2147483648'"),
    'int8': ('0', '1', '-1', '2147483648', '9223372036854775807', "'-9223372036854775808'", '281474976710656'),
    'float8': ('0', '-0.0', '1', '-1', '0.5', "'NaN'", "'Infinity'", "'-Infinity'", '1e308', '1e-308'),
    'bool': ('true', 'false'),
    'text': ("''", "' '", "'x'", "E'a\\nb'", "repeat('é', 127)", "repeat('é', 128)", LARGE, "E'\\\\'", "'%s%n'", "'\"'", "E'\\u200b'", "'{}'", "'public'"),
    'name': ("''", "'postgres'", "'nobody'", "'public'", "'pg_monitor'", "repeat('x', 63)"),
    'uuid': ("'00000000-0000-0000-0000-000000000000'", 'gen_random_uuid()', "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    'interval': ("'0'", "'1 us'", "'-1 us'", "'1 s'", "'178956970 years'", "'-178956970 years'",
                 # as many hours as PostgreSQL 13 can write
                 "'2147483647 mons 2147483647 days 2147483647 h'", "'-2147483648 mons -2147483648 days -2147483647 h'",
                 "'30 days'", "'31 days'", "'1 mon -30 days'"),
    'timestamptz': ("'infinity'", "'-infinity'", "'294276-12-31 23:59:59.999999+00'", "'4714-11-24 00:00+00 BC'", 'now()', "'epoch'",
                    "(now() + '1 h')"),
    'jsonb': ("'null'", "'0'", "'\"\"'", "'[]'", "'{}'", "'true'", "'{\"a\": {\"b\": [1, null]}}'", "'[[], {}]'", "to_jsonb(%s)" % LARGE,
              "(repeat('[', 6000) || repeat(']', 6000))::jsonb", "(repeat('{\"a\":', 5000) || '1' || repeat('}', 5000))::jsonb",
              "'1e131000'", "'-0'", "'{\"\": \"\"}'", "(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 3000) AS n)"),
}
# By name, or by function and name: what makes sense, as it makes sense in one of the tasks.
LIKELY = {
    'task_id': lambda c: str(c.step['task_id']),
    'step_id': lambda c: str(c.step['step_id']),
    'step': lambda c: "'%s'" % c.step['name'],
    'lease': lambda c: "'%s'" % c.step['lease'] if c.step['lease'] else 'gen_random_uuid()',
    'queue': lambda c: c.rng.choice(("'mail'", "'fuzz'")),
    'worker': lambda c: "'w%d'" % c.rng.randint(1, 2),
    'namespace': lambda c: "'default'",
    'version': lambda c: c.rng.choice(("'1.0.0'", 'NULL')),
    'max_steps': lambda c: c.rng.choice('1259'),
    'level': lambda c: c.rng.choice(("'submitter'", "'worker'", "'viewer'", "'operator'", "'admin'")),
    'role': lambda c: "'%s'" % c.rng.choice(c.roles),
    'state': lambda c: c.rng.choice(("'enqueued'", "'complete'", "'paused'")),
    'name': lambda c: "'%s'" % c.rng.choice(c.workflows),
    'definition': lambda c: "'{\"steps\": [{\"name\": \"a\", \"queue\": \"mail\"}, {\"name\": \"b\", \"sql\": \"SELECT $1\", \"depends_on\": [\"a\"]}]}'",
    'function': lambda c: "'fuzz.handler'",
    'kind': lambda c: c.rng.choice(("'exponential'", "'linear'", "'fixed'", "'list'")),
    'queues': lambda c: "'{mail,fuzz}'",
    'task_ids': lambda c: "'{%d}'" % c.step['task_id'],
    'step_ids': lambda c: "'{%d}'" % c.step['step_id'],
    'leases': lambda c: "'{%s}'" % c.step['lease'] if c.step['lease'] else 'ARRAY[gen_random_uuid()]',
    'results': lambda c: "'{\"a\": 1}'",
    'lease_for': lambda c: "'1 min'",
}
# A fuzzer should not wait for long, nor for ever.
SHORT = ("'0'", "'-1 s'", "'1 ms'", "'-178956970 years'")


class Calls:
    def __init__(self, rng, functions, steps, roles, workflows):
        self.rng, self.steps, self.roles, self.workflows = rng, steps, roles, workflows
        self.functions = [f for f in functions if f['name'] not in LEFT_OUT]
        self.step = None

    def array(self, type_name):
        rng = self.rng
        shape = rng.random()
        elements = [self.extreme(type_name) for _ in range(rng.choice([0, 1, 1, 2, 3, 9]))]
        if shape < 0.1:
            return "array_fill(%s::%s, ARRAY[2, 2])" % (self.extreme(type_name), type_name)
        if shape < 0.2:
            return "array_fill(%s::%s, ARRAY[1], ARRAY[%s])" % (self.extreme(type_name), type_name, rng.choice(['5', '-3', '2147483646']))
        if shape < 0.23:
            return "array_fill(%s::%s, ARRAY[%s])" % (rng.choice(EXTREMES[type_name][:3]), type_name, rng.choice(['9', '20000']))
        return 'ARRAY[%s]::%s[]' % (', '.join(elements), type_name)

    def extreme(self, type_name):
        if self.rng.random() < 0.15:
            return 'NULL'
        if type_name.endswith('[]'):
            return self.array(type_name[:-2])
        return self.rng.choice(EXTREMES[type_name])

    def value(self, function, name, type_name):
        if name in ('wait', 'timeout') and function in ('claim_steps', 'complete_steps', 'task_wait'):
            return self.rng.choice(SHORT)
        if self.rng.random() < 0.6:
            if name == 'lease' and type_name == 'interval':
                name = 'lease_for'
            if name == 'results' and type_name == 'jsonb[]':
                return "ARRAY['1'::jsonb]"
            if name in LIKELY:
                return LIKELY[name](self)
        return self.extreme(type_name)

    def one(self):
        """One call, of one of the functions, about one of the steps."""
        rng = self.rng
        function = rng.choice(self.functions)
        self.step = rng.choice(self.steps)
        arguments = []
        for number, (name, type_name) in enumerate(zip(function['names'], function['types'])):
            if number >= function['required'] and rng.random() < 0.5 and name != 'timeout':
                continue
            arguments.append('%s => %s::%s' % (name, self.value(function['name'], name, type_name), type_name))
        return 'SELECT count(f::text) FROM tasker.%s(%s) AS f' % (function['name'], ', '.join(arguments))


# All that can be called by SELECT, with the names and types of its arguments.
CATALOG = '''
    SELECT p.proname AS name, p.pronargs - p.pronargdefaults AS required,
        coalesce((SELECT array_agg(p.proargnames[n] ORDER BY n) FROM generate_series(1, cardinality(coalesce(p.proallargtypes, p.proargtypes::oid[]))) AS n
            WHERE p.proargmodes IS NULL OR p.proargmodes[n] IN ('i', 'b')), '{}') AS names,
        coalesce((SELECT array_agg(CASE WHEN t.typelem <> 0 AND t.typlen = -1 THEN e.typname || '[]' ELSE t.typname END ORDER BY n)
            FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (type, n) JOIN pg_type t ON t.oid = a.type LEFT JOIN pg_type e ON e.oid = t.typelem), '{}') AS types
    FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
    ORDER BY p.proname, p.pronargs'''

# Tasks in all states, of steps that workers have and of others.
TASKS = '''
    SELECT tasker.define_task('diamond', '{"steps": [{"name": "a", "queue": "mail"}, {"name": "b", "queue": "mail", "depends_on": ["a"], "retry": {"max_attempts": 2}},
        {"name": "c", "queue": "fuzz", "depends_on": ["a"], "timeout": "1 h"}, {"name": "d", "queue": "mail", "depends_on": ["b", "c"]}]}');
    SELECT tasker.define_task('single', '{"steps": [{"name": "a", "queue": "fuzz", "retryable": false}]}');
    SELECT tasker.define_task('inside', '{"steps": [{"name": "a", "function": "fuzz.handler"}, {"name": "b", "sql": "SELECT $1", "depends_on": ["a"]}]}');
    SELECT tasker.create_tasks('diamond', array_fill('{"n": 1}'::jsonb, ARRAY[4])), tasker.create_tasks('single', array_fill('{}'::jsonb, ARRAY[4]));
    SELECT tasker.create_tasks('inside', '{"{}","{}"}'), tasker.create_task('diamond', start_at => '2100-01-01');
    SELECT count(*) FROM tasker.claim_steps('{mail,fuzz}', 'w1', 6, '1 h');
    SELECT tasker.pause_task(2), tasker.cancel_task(7), tasker.cancel_task(4);
    SELECT tasker.complete_step(task_id, step_id, lease, '1') FROM tasker.workflow_steps WHERE state = 'in_progress' AND task_id = 1;
    SELECT tasker.fail_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE state = 'in_progress' AND task_id = 5;
    SELECT count(*) FROM tasker.claim_steps('{mail,fuzz}', 'w2', 2, '1 h')'''
STEPS = 'SELECT s.task_id, s.step_id, n.name, s.lease FROM tasker.workflow_steps s JOIN tasker.step_status n USING (task_id, step_id)'
