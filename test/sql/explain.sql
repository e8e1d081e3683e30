-- explain_step: what it says in every case.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET tasker.clock = '2030-01-01 00:00+00';
CREATE ROLE "explain Ann" LOGIN;
CREATE ROLE explain_bob LOGIN;
CREATE ROLE explain_eve LOGIN;
CREATE ROLE explain_roles;
GRANT explain_roles TO "explain Ann", explain_bob, explain_eve;
SELECT tasker.grant_access(r, 'submitter') FROM unnest('{explain Ann,explain_bob,explain_eve}'::name[]) r;
CREATE SCHEMA explain;
GRANT USAGE ON SCHEMA explain TO explain_roles;
SET search_path = explain, public;

-- Waits for a condition, half a minute at most.
CREATE FUNCTION explain.await(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	FOR i IN 1..6000 LOOP
		EXECUTE 'SELECT ' || condition INTO met;
		IF met THEN
			RETURN 'yes';
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
	RAISE EXCEPTION 'waited in vain until %', condition;
END $$;
-- What is said of all steps, or of some, without what differs from run to run.
CREATE FUNCTION explain.all_of(task bigint, steps int[] DEFAULT NULL) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace(tasker.explain_step(task, step_id),
		'(task |task_id = |_task\(|_step\()\d+', '\1T', 'g'),
		'process \d+', 'process N', 'g'),
		'since 20[12]\d-[^.,:]*:\d+:\d+[.0-9]*[+]\d+', 'since then', 'g')
	FROM tasker.workflow_steps WHERE task_id = task AND (steps IS NULL OR step_id = ANY (steps))
	ORDER BY step_id
$$;

SELECT tasker.stop() IS NOT NULL;
SELECT await('tasker.scheduler_pid() IS NULL');

-- the life of steps
SET ROLE "explain Ann";
SELECT tasker.define_task('life', tasker.workflow(ARRAY[
	tasker.step('a', sql => 'SELECT to_jsonb(1 / ($1->''task''->''context''->>''d'')::int)'),
	tasker.step('b', queue => 'explain "q"', depends_on => '{a}'),
	tasker.step('c', sql => 'SELECT to_jsonb(1)', depends_on => '{b}'),
	tasker.step('d', queue => 'explain "q"'),
	tasker.step('e', sql => 'SELECT to_jsonb(1)')], max_attempts => 2, jitter => 0)) > 0;
SELECT tasker.create_task('life', '{"d": 0}') AS t \gset
SELECT all_of(:t);
CALL tasker.run();
SELECT all_of(:t);
-- its time has come
SET tasker.clock = '2030-01-01 00:01+00';
SELECT all_of(:t, '{1}');
CALL tasker.run();
SELECT all_of(:t);
-- by name; the head of the chain is asked for where it matters
SELECT tasker.explain_step(:t, 'c') = tasker.explain_step(:t, 3), tasker.explain_step(:t, 'e') = tasker.explain_step(:t, 5);
SELECT tasker.resolve_step(:t, 'a', '{}', reason => 'paid "by hand"');
SELECT all_of(:t);
SELECT tasker.pause_task(:t);
SELECT all_of(:t, '{2,3,4}');
SELECT tasker.cancel_task(:t, 'ordered twice');
SELECT all_of(:t);

-- what only tables can say
RESET ROLE;
SET ROLE "explain Ann";
SELECT tasker.define_task('wide', tasker.workflow(
	array_agg(tasker.step('p' || i, queue => 'explain "q"') ORDER BY i)
	|| tasker.step('mid', queue => 'explain "q"', depends_on => '{p6}')
	|| tasker.step('join', queue => 'explain "q"', depends_on => array_agg('p' || i ORDER BY i) || 'mid'::text)))  > 0
FROM generate_series(1, 6) i;
SELECT tasker.create_task('wide') AS t \gset
SELECT all_of(:t, '{6,7,8}');
RESET ROLE;
-- one by one: claimed by hand, with a lease that runs, that ran out, without any
UPDATE tasker.workflow_steps SET state = 'in_progress', claimed_by = 'worker "7"', lease = gen_random_uuid(),
	lease_expires_at = tasker.now() + '30 s', last_attempted_at = tasker.now(), attempts = 1 WHERE task_id = :t AND step_id = 1;
UPDATE tasker.workflow_steps SET state = 'in_progress', lease_expires_at = tasker.now() - interval '1 s' WHERE task_id = :t AND step_id = 2;
UPDATE tasker.workflow_steps SET state = 'in_progress' WHERE task_id = :t AND step_id = 3;
UPDATE tasker.workflow_steps SET state = 'error', attempts = 1, last_error = '{"message": "out of paper", "sqlstate": "57P99"}' WHERE task_id = :t AND step_id = 3;
UPDATE tasker.workflow_steps SET state = 'in_progress' WHERE task_id = :t AND step_id = 4;
UPDATE tasker.workflow_steps SET state = 'cancelled' WHERE task_id = :t AND step_id = 5;
SELECT all_of(:t);
UPDATE tasker.workflow_steps SET state = 'skipped' WHERE task_id = :t AND step_id = 6;
SELECT all_of(:t, '{6,7,8}');
-- a second one in error: all of them can be retried at once
UPDATE tasker.workflow_steps SET state = 'error', last_error = '["no", "object"]' WHERE task_id = :t AND step_id = 4;
SELECT all_of(:t, '{4,8}');
-- only a cancelled one is left
SELECT tasker.resolve_step(:t, s) FROM unnest('{3,4}'::int[]) s;
SELECT all_of(:t, '{8}');
SELECT tasker.pause_task(:t);
SELECT all_of(:t, '{8}');
-- errors without a message, and long ones
UPDATE tasker.workflow_steps SET state = 'error', last_error = NULL WHERE task_id = :t AND step_id = 1;
UPDATE tasker.workflow_steps SET state = 'error', last_error = jsonb_build_object('message', repeat('é', 500)) WHERE task_id = :t AND step_id = 2;
SELECT all_of(:t, '{1,2}');
-- a row of the queue is missing: said, and cured as it says
SELECT tasker.resume_task(:t);
DELETE FROM tasker.ready_queue WHERE task_id = :t;
SELECT all_of(:t, '{7}');
SELECT tasker.pause_task(:t), tasker.resume_task(:t);
SELECT all_of(:t, '{7}');
-- a changed priority is no missing row
UPDATE tasker.workflow_steps SET priority = 5 WHERE task_id = :t AND step_id = 7;
SELECT all_of(:t, '{7}');
SELECT tasker.cancel_task(:t);

-- a start time
SET ROLE "explain Ann";
SELECT tasker.create_task('life', '{"d": 1}', start_at => '2030-02-01 00:00+00') AS t \gset
SELECT all_of(:t, '{1,2}');
SELECT tasker.pause_task(:t);
SELECT all_of(:t, '{1}');
SELECT tasker.resume_task(:t);
RESET ROLE;
DELETE FROM tasker.timers WHERE task_id = :t AND step_id = 1;
SELECT all_of(:t, '{1}');
SELECT tasker.cancel_task(:t);

-- complete
SET ROLE "explain Ann";
RESET ROLE;
SELECT tasker.define_task('short', tasker.workflow(ARRAY[tasker.step('a', sql => 'SELECT to_jsonb(1)'),
	tasker.step('b', sql => 'SELECT to_jsonb(1)', depends_on => '{a}')])) > 0;
SET ROLE "explain Ann";
SELECT tasker.create_task('short') AS t \gset
CALL tasker.run();
SELECT all_of(:t);

-- a step that may not be retried, and an error that is not
SELECT tasker.define_task('once', tasker.workflow(ARRAY[tasker.step('a', sql => 'SELECT to_jsonb(1/0)', retryable => false),
	tasker.step('b', sql => 'SELECT tasker.do_not_retry(''card declined'')')])) > 0;
SELECT tasker.create_task('once') AS t \gset
CALL tasker.run();
SELECT all_of(:t);

-- names of all sorts
SELECT tasker.define_task('names', tasker.workflow(ARRAY[tasker.step('%s"; DROP TABLE x; --', queue => '%n'),
	tasker.step(E'new\nline \\ ''quoted''', queue => '%n', depends_on => ARRAY['%s"; DROP TABLE x; --'])])) > 0;
SELECT tasker.create_task('names') AS t \gset
SELECT all_of(:t);
SELECT tasker.explain_step(:t, E'new\nline \\ ''quoted''') = tasker.explain_step(:t, 2);
-- a reader that can not write, with a search_path of its own
BEGIN TRANSACTION READ ONLY ISOLATION LEVEL REPEATABLE READ;
SELECT tasker.explain_step(:t, 1) LIKE 'Step 1 ("\%s"; DROP TABLE x; --") of task % is ready and waits%';
COMMIT;
SET search_path = '';
SELECT tasker.explain_step(:t, 1) LIKE 'Step 1 % is ready and waits%';
SET search_path = explain, public;
SELECT tasker.explain_step(NULL, 1) IS NULL, tasker.explain_step(:t, NULL::int) IS NULL, tasker.explain_step(:t, NULL::text) IS NULL;

-- refused
\set VERBOSITY sqlstate
SELECT tasker.explain_step(:t, 3);
SELECT tasker.explain_step(:t, 0);
SELECT tasker.explain_step(:t, 'no such step');
SELECT tasker.explain_step(-1, 1);
SET ROLE explain_bob;
SELECT tasker.explain_step(:t, 1);
SELECT tasker.explain_step(:t, 'a');
\set VERBOSITY default
RESET ROLE;
SELECT tasker.cancel_task(:t);

-- layer upon layer: each step is looked at once
SELECT tasker.define_task('layers', tasker.workflow(array_agg(tasker.step(format('s%s_%s', l, i), queue => 'explain "q"',
	depends_on => CASE WHEN l > 1 THEN (SELECT array_agg(format('s%s_%s', l - 1, j)) FROM generate_series(1, 20) j) END)))) > 0
FROM generate_series(1, 30) l, generate_series(1, 20) i;
SELECT tasker.create_task('layers') AS t \gset
SET statement_timeout = '10s';
SELECT all_of(:t, '{600}') AS said \gset
\echo :said
RESET statement_timeout;
SELECT tasker.cancel_task(:t);

-- owners that can have no session
CREATE ROLE "explain Old" LOGIN;
SELECT tasker.grant_access('explain Old', 'submitter');
SET ROLE "explain Old";
SELECT tasker.create_task('short') AS t \gset
RESET ROLE;
ALTER ROLE "explain Old" NOLOGIN;
SELECT all_of(:t, '{1}');
ALTER ROLE "explain Old" LOGIN SUPERUSER;
SELECT all_of(:t, '{1}');
ALTER ROLE "explain Old" NOSUPERUSER;
SELECT all_of(:t, '{1}');
SELECT current_database() AS db \gset
REVOKE CONNECT ON DATABASE :db FROM PUBLIC;
SELECT all_of(:t, '{1}');
GRANT CONNECT ON DATABASE :db TO PUBLIC;
ALTER ROLE "explain Old" RENAME TO "explain New";
SELECT all_of(:t, '{1}');
CREATE ROLE "explain Old";
SELECT all_of(:t, '{1}');
DROP ROLE "explain Old";
ALTER ROLE "explain New" RENAME TO "explain Old";
SELECT tasker.revoke_access('explain Old');
DROP ROLE "explain Old";
SELECT all_of(:t, '{1}');
SELECT tasker.cancel_task(:t);
-- that row of owners is gone
DELETE FROM tasker.owners WHERE role_name = 'explain Old';

-- ------------------------------------------------------------------ processes
-- Handlers wait for a lock that this session holds; each takes it in turn.
RESET tasker.clock;
CREATE FUNCTION explain.hold(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(815);
	RETURN input #> '{task,id}';
END $$;
GRANT EXECUTE ON FUNCTION explain.hold TO explain_roles;
SELECT pg_advisory_lock(815);
SELECT tasker.define_task('hold', '{"steps": [{"name": "h", "function": "explain.hold"}, {"name": "after", "function": "explain.hold", "depends_on": ["h"]}]}') > 0;
SET ROLE "explain Ann";
SELECT tasker.create_task('hold') AS t1 \gset
SELECT tasker.create_task('hold') AS t2 \gset
SELECT tasker.create_task('hold') AS t3 \gset
SELECT tasker.create_task('hold') AS t4 \gset
RESET ROLE;
SELECT all_of(:t1, '{1}');
SELECT all_of(:t4, '{1}');
SELECT tasker.start();
SELECT await('(SELECT count(*) = 2 FROM tasker.executing WHERE task_id IS NOT NULL)');
-- two executors are one task each; who it is can differ
SELECT all_of(task_id) FROM tasker.executing WHERE task_id IS NOT NULL ORDER BY task_id LIMIT 1;
SELECT all_of(:t4);
SELECT tasker.explain_step(:t1, 1) ~ ('process ' || pid || ',') FROM tasker.executing WHERE task_id = :t1;

-- settings of the server: waits until this session knows
\set ECHO none
ALTER SYSTEM SET tasker.max_executors = 2;
SELECT pg_reload_conf() \g /dev/null
\o /dev/null
SELECT 'SELECT pg_sleep(0.01) WHERE current_setting(''tasker.max_executors'') <> ''2''' FROM generate_series(1, 500) \gexec
\o
\set ECHO all
SHOW tasker.max_executors;
SET ROLE explain_bob;
SELECT tasker.create_task('hold') AS b1 \gset
SELECT all_of(:b1, '{1}');
RESET ROLE;
SELECT pg_advisory_unlock(815);
SELECT await(format('(SELECT count(*) = 4 FROM tasker.tasks WHERE task_id IN (%s, %s, %s, %s) AND state = ''complete'')', :t1, :t2, :t3, :t4));
SELECT regexp_replace(s, 'since .*, by', 'since then, by') FROM all_of(:t1) s;

\set ECHO none
ALTER SYSTEM RESET tasker.max_executors;
ALTER SYSTEM SET tasker.enabled = off;
SELECT pg_reload_conf() \g /dev/null
\o /dev/null
SELECT 'SELECT pg_sleep(0.01) WHERE current_setting(''tasker.enabled'') <> ''off''' FROM generate_series(1, 500) \gexec
\o
\set ECHO all
SHOW tasker.enabled;
SET ROLE explain_eve;
SELECT tasker.create_task('hold', priority => 3) AS e1 \gset
SET tasker.clock = '2020-01-01 00:00+00';
SELECT tasker.create_task('short', start_at => '2020-02-01 00:00+00') AS e2 \gset
RESET tasker.clock;
SELECT tasker.create_task('short', start_at => '2999-12-31 00:00+00') AS e3 \gset
SELECT all_of(:e1, '{1}');
SELECT all_of(:e2, '{1}');
SELECT all_of(:e3, '{1}');
RESET ROLE;

-- tidy, while nothing runs
SELECT count(*) FILTER (WHERE NOT tasker.cancel_task(task_id)) FROM tasker.tasks t JOIN tasker.owners o ON owner = owner_id
WHERE role_name IN ('explain Ann', 'explain_bob', 'explain_eve') AND state NOT IN ('complete', 'cancelled', 'resolved_manually');
DELETE FROM tasker.ready_queue q USING tasker.tasks t WHERE t.task_id = q.task_id AND t.state = 'cancelled';
SELECT tasker.stop();
SELECT await('NOT EXISTS (SELECT FROM tasker.executors()) AND tasker.scheduler_pid() IS NULL');

\set ECHO none
ALTER SYSTEM RESET tasker.enabled;
SELECT pg_reload_conf() \g /dev/null
\o /dev/null
SELECT 'SELECT pg_sleep(0.01) WHERE current_setting(''tasker.enabled'') <> ''on''' FROM generate_series(1, 500) \gexec
\o
\set ECHO all
SHOW tasker.enabled;

SELECT tasker.start();
SELECT tasker.revoke_access(r) FROM unnest('{explain Ann,explain_bob,explain_eve}'::name[]) r;
DROP SCHEMA explain CASCADE;
DROP ROLE "explain Ann", explain_bob, explain_eve, explain_roles;
