-- CALL tasker.run(): in which order steps are taken, and how many.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\set SHOW_CONTEXT never
SELECT tasker.stop() IS NOT NULL;
CREATE SCHEMA priority;
SET search_path = priority, pg_catalog;
CREATE ROLE priority_ann LOGIN;
CREATE ROLE priority_bob LOGIN;
GRANT USAGE ON SCHEMA priority TO PUBLIC;
SELECT count(tasker.grant_access(r, 'submitter')) FROM unnest('{priority_ann,priority_bob}'::name[]) AS r;
CREATE TABLE ran (n int GENERATED ALWAYS AS IDENTITY, role name DEFAULT current_user, label text);
GRANT INSERT ON ran TO PUBLIC;
CREATE FUNCTION work(input jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO priority.ran (label) VALUES (concat_ws('.', input -> 'task' -> 'context' ->> 'label', nullif(input -> 'step' ->> 'name', 'only')))
$$;
CREATE FUNCTION ran() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = priority AS $$
	WITH r AS (DELETE FROM ran RETURNING *) SELECT count(*) || ': ' || COALESCE(string_agg(label, ' ' ORDER BY n), '') FROM r
$$;
SELECT tasker.define_task('one', tasker.workflow(ARRAY[tasker.step('only', function => 'priority.work')]), 'priority') > 0;
SELECT tasker.define_task('fan', tasker.workflow(ARRAY[tasker.step('a', function => 'priority.work'), tasker.step('low', function => 'priority.work', depends_on => '{a}', priority => -5),
	tasker.step('mid', function => 'priority.work', depends_on => '{a}'), tasker.step('high', function => 'priority.work', depends_on => '{a}', priority => 5),
	tasker.step('z', function => 'priority.work', depends_on => '{low,mid,high}')]), 'priority') > 0;

-- the higher one first, of the same the older; then exactly as many as asked for
SET SESSION AUTHORIZATION priority_ann;
SELECT count(tasker.create_task('one', jsonb_build_object('label', label), 'priority', priority => p))
FROM (VALUES ('a0', 0), ('b-1', -1), ('c9', 9), ('d0', 0), ('e1000000', 1000000), ('f-1000000', -1000000), ('g9', 9)) AS v (label, p);
CALL tasker.run(max_steps => 1);
SELECT ran();
CALL tasker.run(max_steps => 3);
SELECT ran();
-- one that comes later goes before, if it is more urgent
SELECT tasker.create_task('one', '{"label": "h5"}', 'priority', priority => 5) > 0;
CALL tasker.run();
SELECT ran();
-- a step's priority is added to its task's
SELECT tasker.create_task('fan', '{"label": "x"}', 'priority') > 0, tasker.create_task('fan', '{"label": "y"}', 'priority', priority => 5) > 0, tasker.create_task('one', '{"label": "o"}', 'priority', priority => 4) > 0;
CALL tasker.run(max_steps => 2);
SELECT ran();
CALL tasker.run(max_steps => 1);
SELECT ran();
CALL tasker.run(max_steps => 1);
SELECT ran();
CALL tasker.run();
SELECT count(*) FROM tasker.task_status WHERE state = 'complete';
RESET SESSION AUTHORIZATION;
SELECT count(*), string_agg(label, ' ' ORDER BY n) FILTER (WHERE label LIKE 'x.%') = 'x.a x.high x.mid x.low x.z' FROM ran;
TRUNCATE ran;

-- as many as asked for, whatever else there was to do: timers, hints of steps that are over
SET SESSION AUTHORIZATION priority_ann;
SET tasker.clock = '2030-01-01 00:00+00';
SELECT count(*) FROM tasker.create_tasks('one', ARRAY(SELECT jsonb_build_object('label', 't' || n) FROM generate_series(1, 20) n), 'priority', start_at => '2030-01-01 00:01+00');
CALL tasker.run(max_steps => 5);
SELECT ran();
SET tasker.clock = '2030-01-01 00:01+00';
CALL tasker.run(max_steps => 5);
SELECT ran();
SELECT count(tasker.resolve_step(task_id, 1)) FROM tasker.task_status WHERE context ->> 'label' IN ('t6', 't7', 't9');
CALL tasker.run(max_steps => 5);
SELECT ran();
RESET tasker.clock;
CALL tasker.run(max_steps => 0);
CALL tasker.run(max_steps => -1);
SELECT ran();
CALL tasker.run(NULL, NULL);
SELECT ran();
CALL tasker.run();
SELECT ran();
-- no time is time for a batch
SELECT count(*) FROM tasker.create_tasks('one', ARRAY(SELECT jsonb_build_object('label', 'd') FROM generate_series(1, 3) n), 'priority');
CALL tasker.run(max_duration => '0');
SELECT ran() IN ('1: d', '2: d d', '3: d d d');
CALL tasker.run(max_duration => '1 hour');
SELECT ran() ~ ': ';

-- only the caller's own
SET SESSION AUTHORIZATION priority_bob;
SELECT tasker.create_task('one', '{"label": "bob''s"}', 'priority') > 0;
SET SESSION AUTHORIZATION priority_ann;
CALL tasker.run();
SELECT ran();
SET SESSION AUTHORIZATION priority_bob;
CALL tasker.run();
RESET SESSION AUTHORIZATION;
SELECT role, label FROM ran;
TRUNCATE ran;

-- where it can not commit
SET SESSION AUTHORIZATION priority_ann;
SELECT tasker.create_task('one', '{"label": "later"}', 'priority') > 0;
BEGIN;
CALL tasker.run();
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL tasker.run();
ROLLBACK;
SET default_transaction_isolation = 'repeatable read';
CALL tasker.run();
RESET default_transaction_isolation;
CREATE FUNCTION pg_temp.run() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL tasker.run(); END';
SELECT pg_temp.run();
CREATE PROCEDURE pg_temp.run_set() LANGUAGE plpgsql SET search_path = pg_catalog AS 'BEGIN CALL tasker.run(); END';
CALL pg_temp.run_set();
SELECT ran();
-- a procedure and a DO block can
DO $$ BEGIN CALL tasker.run(max_steps => 1); END $$;
SELECT ran();
CREATE PROCEDURE pg_temp.run_twice() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 2 LOOP
		PERFORM tasker.create_task('one', jsonb_build_object('label', i), 'priority');
		COMMIT;
		CALL tasker.run();
	END LOOP;
END $$;
CALL pg_temp.run_twice();
SELECT ran();
-- who may
RESET SESSION AUTHORIZATION;
SELECT tasker.grant_access('priority_bob', 'viewer') IS NOT NULL;
SET SESSION AUTHORIZATION priority_bob;
CALL tasker.run();
RESET SESSION AUTHORIZATION;
-- a superuser has nothing to run
CALL tasker.run();

-- shapes
SELECT count(tasker.define_task(name, tasker.workflow(steps), 'priority')) FROM (VALUES
	('wide', (SELECT array_agg(tasker.step(CASE n WHEN 0 THEN 'first' WHEN 201 THEN 'last' ELSE 's' || n END, function => 'priority.work',
		depends_on => CASE n WHEN 0 THEN NULL WHEN 201 THEN ARRAY(SELECT 's' || i FROM generate_series(1, 200) i) ELSE '{first}' END) ORDER BY n) FROM generate_series(0, 201) n)),
	('chain', (SELECT array_agg(tasker.step('s' || n, function => 'priority.work', depends_on => CASE WHEN n > 1 THEN ARRAY['s' || n - 1] END) ORDER BY n) FROM generate_series(1, 100) n)),
	('alone', (SELECT array_agg(tasker.step('s' || n, function => 'priority.work') ORDER BY n) FROM generate_series(1, 50) n)),
	('ladder', (SELECT array_agg(tasker.step('s' || n, function => 'priority.work', depends_on => CASE WHEN n > 2 THEN ARRAY['s' || n - 1 - (n - 1) % 2, 's' || n - 2 - (n - 1) % 2] END) ORDER BY n) FROM generate_series(1, 40) n))) AS v (name, steps);
SET SESSION AUTHORIZATION priority_ann;
SELECT count(tasker.create_task(name, jsonb_build_object('label', name), 'priority')) FROM unnest('{wide,chain,alone,ladder}'::text[]) AS name;
CALL tasker.run();
SELECT name, state, steps, satisfied FROM tasker.task_status WHERE name IN ('wide', 'chain', 'alone', 'ladder') ORDER BY task_id;
RESET SESSION AUTHORIZATION;
-- every step once, after its parents, and two rows of history at most
SELECT split_part(label, '.', 1) AS shape, count(*), count(DISTINCT label) FROM ran GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM tasker.task_status t JOIN tasker.workflow_step_edges e USING (task_id) JOIN tasker.step_status p ON p.task_id = e.task_id AND p.step_id = e.from_step_id
	JOIN tasker.step_status c ON c.task_id = e.task_id AND c.step_id = e.to_step_id JOIN ran rp ON rp.label = t.name || '.' || p.name JOIN ran rc ON rc.label = t.name || '.' || c.name
	WHERE rp.n > rc.n;
SELECT t.name, min(n), max(n), min(s.attempts), max(s.attempts), sum(s.pending_parents) FROM tasker.task_status t JOIN tasker.workflow_steps s USING (task_id),
	LATERAL (SELECT count(*) AS n FROM tasker.workflow_step_transitions h WHERE h.task_id = s.task_id AND h.step_id = s.step_id) AS h WHERE t.name IN ('wide', 'chain', 'alone', 'ladder') AND t.namespace = 'priority' GROUP BY 1 ORDER BY 1;
SELECT t.name, string_agg(h.from_state || ' -> ' || h.to_state, ', ' ORDER BY h.created_at, h.xmin::text::bigint, h.cmin::text::bigint) FROM tasker.task_status t JOIN tasker.task_transitions h USING (task_id) WHERE t.name IN ('wide', 'chain', 'alone', 'ladder') AND t.namespace = 'priority' GROUP BY 1 ORDER BY 1;
-- nothing is left to do
SELECT count(*) FROM tasker.ready_queue q JOIN tasker.task_status t USING (task_id) WHERE t.namespace = 'priority';
SELECT count(*) FROM tasker.timers q JOIN tasker.task_status t USING (task_id) WHERE t.namespace = 'priority';

SELECT count(tasker.revoke_access(r)) FROM unnest('{priority_ann,priority_bob}'::name[]) AS r;
DROP SCHEMA priority CASCADE;
DROP OWNED BY priority_ann;
DROP ROLE priority_ann, priority_bob;
