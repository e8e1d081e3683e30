-- What define_task stores: order, defaults, handlers, versions, the builder.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA shop;
CREATE FUNCTION shop.charge(input jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shop.log(input jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION shop."Odd ""name"(INOUT input jsonb) LANGUAGE sql AS 'SELECT $1';

CREATE VIEW steps AS
SELECT n.name AS workflow, s.* FROM tasker.named_steps s JOIN tasker.named_tasks n USING (named_task_id)
JOIN tasker.task_namespaces ns USING (namespace_id) WHERE ns.name = 'shop';

-- numbers follow a topological order, and the document's where that leaves a choice
SELECT tasker.define_task('diamond', '{"description": "four steps", "steps": [
	{"name": "end", "queue": "q", "depends_on": ["right", "left"]},
	{"name": "left", "queue": "q", "depends_on": ["start"]},
	{"name": "right", "queue": "p", "depends_on": ["start"]},
	{"name": "start", "queue": "q"},
	{"name": "alone", "queue": "q"}]}', 'shop') > 0 AS defined;
SELECT step_no, name, parents, handler, queue_id = (SELECT queue_id FROM tasker.queues q WHERE q.name = handler) AS queued
FROM steps WHERE workflow = 'diamond' ORDER BY step_no;
SELECT e.from_step_no, e.to_step_no FROM tasker.named_step_edges e JOIN tasker.named_tasks n USING (named_task_id)
WHERE n.name = 'diamond' ORDER BY 1, 2;
SELECT version, description, is_default, step_count, edge_count, runs_in_database, definition ->> 'description' AS document
FROM tasker.named_tasks WHERE name = 'diamond';

-- what holds where the definition says nothing; handlers and their spelling
SELECT tasker.define_task('handlers', '{"steps": [
	{"name": "f", "function": "Shop.Charge", "description": "folded as in SQL"},
	{"name": "v", "function": "shop.log"},
	{"name": "o", "function": "shop.\"Odd \"\"name\""},
	{"name": "s", "sql": "CREATE TEMP TABLE IF NOT EXISTS scratch (a int); SELECT $1"},
	{"name": "n", "sql": "DELETE FROM pg_catalog.pg_description WHERE false"},
	{"name": "q", "queue": "a queue; of \"any\" name"}]}', 'shop') > 0 AS defined;
SELECT name, handler_kind, handler, queue_id IS NOT NULL AS queued, description FROM steps WHERE workflow = 'handlers' ORDER BY step_no;
SELECT DISTINCT retryable, max_attempts, backoff, backoff_base, backoff_factor, backoff_cap, backoff_jitter, backoff_delays,
	timeout, lease, priority FROM steps WHERE workflow = 'handlers';
SELECT runs_in_database FROM tasker.named_tasks WHERE name = 'handlers';

-- defaults, merged key by key
SELECT tasker.define_task('defaults', '{
	"defaults": {"queue": "d", "retry": {"max_attempts": 7, "base": "2 s", "factor": 3, "cap": 60, "jitter": 0},
		"retryable": false, "timeout": "1 min", "lease": 90.5, "priority": -5},
	"steps": [
	{"name": "all"},
	{"name": "own handler", "function": "shop.charge"},
	{"name": "one key", "retry": {"factor": 1.5}},
	{"name": "linear", "retry": {"backoff": "linear", "cap": "1 day 2:00"}},
	{"name": "fixed", "retry": {"backoff": "fixed", "base": 0}},
	{"name": "list", "retry": {"backoff": "list", "delays": ["1 s", 2, "3 min"], "max_attempts": 4}},
	{"name": "two", "retry": {"backoff": "list", "delays": [0]}},
	{"name": "rest", "retryable": true, "timeout": 0.000001, "lease": "1 mon", "priority": 1000000}]}', 'shop') > 0 AS defined;
SELECT name, handler, max_attempts AS max, backoff, backoff_base AS base, backoff_factor AS factor, backoff_cap AS cap,
	backoff_jitter AS jitter, backoff_delays AS delays FROM steps WHERE workflow = 'defaults' ORDER BY step_no;
SELECT name, retryable, timeout, lease, priority FROM steps WHERE workflow = 'defaults' ORDER BY step_no;
SELECT tasker.define_task('list by default', '{
	"defaults": {"queue": "d", "retry": {"backoff": "list", "delays": [1, 2]}},
	"steps": [{"name": "a"}, {"name": "b", "retry": {"jitter": 1}}, {"name": "c", "retry": {"backoff": "fixed"}}]}', 'shop') > 0 AS defined;
SELECT name, backoff, backoff_base, backoff_delays FROM steps WHERE workflow = 'list by default' ORDER BY step_no;

-- names are any text
CREATE FUNCTION hostile() RETURNS text[] LANGUAGE sql AS $$
	SELECT ARRAY[$a$'; DROP TABLE tasker.tasks; --$a$, '"', '$1', '%s%n', E'two\nlines', E'\t', ' ', '\', '\u0041', 'größe',
		'日本語', '🙂', '{}', '{a,"b"}', 'NULL', '$.steps[0]', 'a -> b', repeat('x', 255), repeat('é', 127)]
$$;
SELECT tasker.define_task(h, tasker.workflow(ARRAY(
		SELECT tasker.step(s, queue => s, depends_on => CASE WHEN i > 1 THEN (hostile())[i - 1:i - 1] END)
		FROM unnest(hostile()) WITH ORDINALITY AS u(s, i) ORDER BY i), description => h), h, h) > 0 AS defined, count(*)
FROM unnest(hostile()) AS h GROUP BY 1;
SELECT count(*) AS workflows, count(DISTINCT named_task_id) AS ids, bool_and(n.name = version AND version = n.description AND ns.name = n.name) AS kept,
	bool_and(ARRAY(SELECT s.name FROM tasker.named_steps s WHERE s.named_task_id = n.named_task_id ORDER BY step_no) = hostile()) AS in_order,
	bool_and(ARRAY(SELECT q.name FROM tasker.named_steps s JOIN tasker.queues q USING (queue_id)
		WHERE s.named_task_id = n.named_task_id ORDER BY step_no) = hostile()) AS queues
FROM tasker.named_tasks n JOIN tasker.task_namespaces ns USING (namespace_id) WHERE version = ANY (hostile()) AND n.step_count = cardinality(hostile());

-- versions
CREATE FUNCTION version_of(v text, step text DEFAULT 'a', make_default boolean DEFAULT true) RETURNS int LANGUAGE sql
AS $$ SELECT tasker.define_task('versions', tasker.workflow(ARRAY[tasker.step(step, queue => 'q')]), 'shop', v, make_default) $$;
CREATE VIEW versions AS SELECT version, is_default FROM tasker.named_tasks WHERE name = 'versions' ORDER BY named_task_id;
SELECT version_of('1') > 0 AS defined;
SELECT version_of('2', 'b') <> version_of('1') AS another;
TABLE versions;
SELECT version_of('3', make_default => false) > 0 AS defined;
TABLE versions;
-- the same again: the same id, and nothing changes
SELECT version_of('1') = version_of('1', make_default => true) AS same,
	version_of('1') = (SELECT named_task_id FROM tasker.named_tasks WHERE name = 'versions' AND version = '1') AS known;
TABLE versions;
-- the order of keys and spaces do not matter
SELECT tasker.define_task('versions', '{ "steps" : [ {"queue":"q",  "name":"a"} ] }', 'shop', '1') = version_of('1') AS same;
SELECT version_of('1', 'other');
SELECT tasker.set_default_version('versions', '1', 'shop');
TABLE versions;
SELECT tasker.set_default_version('versions', '1', 'shop');
SELECT tasker.set_default_version('versions', '9', 'shop');
-- the same name in another namespace is another workflow
SELECT tasker.define_task('versions', tasker.workflow(ARRAY[tasker.step('z', queue => 'q')]), version => '1') <> version_of('1') AS another;
SELECT tasker.drop_named_task('versions', '1');
TABLE versions;
-- a definition can be dropped, and then defined anew
SELECT tasker.drop_named_task('versions', '1', 'shop');
SELECT tasker.drop_named_task('versions', '2', 'shop');
SELECT tasker.drop_named_task('versions', '3', 'shop');
SELECT tasker.drop_named_task('versions', '3', 'shop');
SELECT tasker.drop_named_task('versions', '1', 'shop');
TABLE versions;
SELECT version_of('1', 'other') > 0 AS defined;
SELECT count(*) AS orphans FROM tasker.named_steps WHERE named_task_id NOT IN (SELECT named_task_id FROM tasker.named_tasks);
SELECT count(*) AS orphans FROM tasker.named_step_edges WHERE named_task_id NOT IN (SELECT named_task_id FROM tasker.named_tasks);

-- the builder writes the JSON
SELECT jsonb_pretty(tasker.workflow(ARRAY[
	tasker.step('validate', function => 'shop.charge'),
	tasker.step('reserve', sql => 'SELECT $1', depends_on => '{validate}', description => 'puts it aside'),
	tasker.step('ship', queue => 'shipping', depends_on => '{validate,reserve}', max_attempts => 5, backoff => 'fixed',
		base => '10 s', timeout => '1 min', lease => '1 h', priority => 3, retryable => true),
	tasker.step('tell', queue => 'mail', backoff => 'list', delays => '{1 s,1 day 1 s}', jitter => 0.25)],
	description => 'From the basket to the parcel', queue => 'other', factor => 1.5, cap => '1 min', priority => -1));
SELECT tasker.workflow(ARRAY[tasker.step('a')]), tasker.workflow(NULL), tasker.workflow('{}', '');
SET intervalstyle = iso_8601;
SELECT tasker.step('a', timeout => '1 day 2:03:04.5');
RESET intervalstyle;

-- at the search_path of the caller, whatever it is
SET search_path = shop, public;
SELECT tasker.define_task('path', '{"steps": [{"name": "a", "sql": "SELECT charge($1)"}]}', 'shop') > 0 AS defined;
RESET search_path;

DROP VIEW versions;
DROP VIEW steps;
DROP FUNCTION version_of, hostile;
DROP SCHEMA shop CASCADE;
