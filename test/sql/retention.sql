-- Retention at chosen times, in a database of the test's own: which tasks go,
-- everything of them and nothing else; the ring of the history; the archive
-- function. What the scheduler does by itself is in test/t/009_retention.pl.
\pset format unaligned
\pset tuples_only on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT current_database() AS regression \gset
CREATE ROLE retention_ann LOGIN;
CREATE ROLE retention_archivist;
CREATE DATABASE tasker_regress_retention TEMPLATE template0;
\c tasker_regress_retention
SET client_min_messages = warning;
CREATE EXTENSION tasker;
DO $$
BEGIN
	PERFORM tasker.stop();
	WHILE tasker.scheduler_pid() IS NOT NULL LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT tasker.grant_access('retention_ann', 'submitter');
CREATE SCHEMA test;
GRANT USAGE ON SCHEMA test TO retention_ann, retention_archivist;
-- what is left of tasks that are gone, whatever table it is in
CREATE VIEW test.leftovers AS
SELECT kind, count(*) FROM (
	SELECT 'steps' AS kind, task_id FROM tasker.workflow_steps UNION ALL
	SELECT 'edges', task_id FROM tasker.workflow_step_edges UNION ALL
	SELECT 'results', task_id FROM tasker.workflow_step_results UNION ALL
	SELECT 'keys', task_id FROM tasker.idempotency_keys UNION ALL
	SELECT 'hints', task_id FROM tasker.ready_queue UNION ALL
	SELECT 'shown history', task_id FROM tasker.task_history UNION ALL
	SELECT 'overdue', task_id FROM tasker.overdue_tasks) x
WHERE NOT EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = x.task_id) GROUP BY kind ORDER BY kind;
CREATE VIEW test.tasks AS
SELECT t.task_id, t.context ->> 'n' AS n, t.state,
	(SELECT count(*) FROM tasker.workflow_steps s WHERE s.task_id = t.task_id) AS steps,
	(SELECT count(*) FROM tasker.task_history h WHERE h.task_id = t.task_id) AS history FROM tasker.tasks t;
-- Retention until nothing more goes and the leaf that is written to is empty or
-- has its turn still: each call a transaction, which an older one may hold up.
CREATE PROCEDURE test.expire_all(age interval) LANGUAGE plpgsql AS $$
DECLARE
	n int;
	tries int := 0;
	over boolean := false;
	r tasker.history_ring;
BEGIN
	WHILE NOT over AND tries < 1000 LOOP
		n := tasker.expire(age);
		COMMIT;
		SELECT * INTO r FROM tasker.history_ring;
		over := n = 0 AND (r.since + age * 0.375 > tasker.now() OR
			pg_relation_size(format('tasker.task_transitions_%s', r.slot)) + pg_relation_size(format('tasker.workflow_step_transitions_%s', r.slot)) = 0);
		IF n = 0 AND NOT over THEN
			tries := tries + 1;
			PERFORM pg_sleep(0.01);
		END IF;
	END LOOP;
END $$;

SELECT tasker.define_task('two', tasker.workflow(queue => 'q', steps => ARRAY[tasker.step('a'), tasker.step('b', depends_on => '{a}')]));
CREATE FUNCTION test.create_two(n text, key text DEFAULT NULL) RETURNS bigint LANGUAGE sql AS
	$$ SELECT tasker.create_task('two', jsonb_build_object('n', n), idempotency_key => key) $$;
CREATE FUNCTION test.complete(task bigint, results jsonb DEFAULT '{}') RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	s record;
BEGIN
	FOR step IN 1 .. 2 LOOP
		SELECT * INTO s FROM tasker.claim_steps('{q}', 'w', 1);
		PERFORM tasker.complete_step(s.task_id, s.step_id, s.lease, results);
	END LOOP;
END $$;

SET tasker.clock = '2025-01-01 00:00 UTC';
-- nothing goes by itself, and who calls must know what it does
SHOW tasker.retention;
SELECT tasker.expire();
SELECT tasker.expire('-1 hour');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tasker.expire('1 hour');
ROLLBACK;
SET SESSION AUTHORIZATION retention_ann;
SELECT tasker.expire('1 hour');
SELECT tasker.set_archive('pg_catalog.now');
RESET SESSION AUTHORIZATION;
SELECT * FROM tasker.history_ring;

-- ---------------------------------------------------------------- which tasks
SELECT test.create_two('complete', 'key'), test.complete(1, jsonb_build_object('large', repeat('x', 1000)));
SELECT test.create_two('cancelled');
SELECT tasker.cancel_task(2);
SELECT test.create_two('resolved');
UPDATE tasker.tasks SET state = 'resolved_manually' WHERE task_id = 3;
SELECT test.create_two('error');
UPDATE tasker.workflow_steps SET state = 'error' WHERE task_id = 4 AND step_id = 1;
SELECT test.create_two('paused');
SELECT tasker.pause_task(5);
SELECT test.create_two('pending');
SELECT test.create_two('in progress');
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = 7 AND step_id = 1;
-- its hint is left
SELECT test.create_two('by hand');
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = 8 AND step_id = 1;
UPDATE tasker.workflow_steps SET state = 'complete' WHERE task_id = 8 AND step_id = 2;
SELECT count(*) > 0 FROM tasker.ready_queue WHERE task_id = 8;
SELECT * FROM test.tasks ORDER BY task_id;
SELECT count(*) FROM tasker.workflow_step_results;
-- too young
SET tasker.clock = '2025-01-01 23:59:59 UTC';
CALL test.expire_all('1 day');
SELECT count(*) FROM tasker.tasks;
-- old enough: those that ended, however old the others are
SET tasker.clock = '2025-01-02 00:00 UTC';
CALL test.expire_all('1 day');
SELECT * FROM test.tasks ORDER BY task_id;
SELECT * FROM test.leftovers;
SELECT count(*) FROM tasker.workflow_step_results;
SELECT task_id FROM tasker.ready_queue ORDER BY 1;
-- a task that is gone is unknown, and its key free
SELECT tasker.cancel_task(1);
SELECT tasker.task_document(1);
SELECT test.create_two('again', 'key');
-- what ends late goes late
SET tasker.clock = '2025-01-10 00:00 UTC';
SELECT tasker.retry_task(4);
SELECT tasker.cancel_task(4), tasker.cancel_task(6);
CALL test.expire_all('1 day');
SET tasker.clock = '2025-01-11 00:00 UTC';
CALL test.expire_all('1 day');
SELECT n, state FROM test.tasks ORDER BY task_id;
SET tasker.clock = '2025-01-12 00:00 UTC';
CALL test.expire_all('1 day');
SELECT n, state, history FROM test.tasks ORDER BY task_id;

-- ------------------------------------------------------------------ as many
SET tasker.clock = '2025-02-01 00:00 UTC';
CREATE TEMP TABLE many AS SELECT tasker.create_tasks('two', array_fill('{}'::jsonb, ARRAY[100])) AS task_id;
SELECT count(tasker.cancel_task(task_id)) FROM many;
SET tasker.clock = '2025-02-05 00:00 UTC';
SELECT tasker.expire('1 day', 7) FROM generate_series(1, 3);
SELECT count(*) FROM many JOIN tasker.tasks USING (task_id);
SELECT tasker.expire('1 day', 0), tasker.expire('1 day', -1);
CALL test.expire_all('1 day');
SELECT count(*) FROM many JOIN tasker.tasks USING (task_id);
SELECT * FROM test.leftovers;

-- A call reads what it removes and a little more, however many tasks there are,
-- old and open.
CREATE FUNCTION test.buffers(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
	RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
END $$;
SELECT count(*) FROM (SELECT tasker.create_tasks('two', array_fill('{}'::jsonb, ARRAY[5000]))) x;
SELECT tasker.cancel_task(max(task_id)), tasker.cancel_task(max(task_id) - 1) FROM tasker.tasks;
SET tasker.clock = '2025-02-08 00:00 UTC';
SELECT tasker.expire('1 day');
SELECT n < 2000 FROM test.buffers('SELECT tasker.expire(''1 day'')') n;
SELECT n < 2000 FROM test.buffers('SELECT tasker.expire(''1 hour'', 1)') n;
SELECT count(*) FROM tasker.tasks;
SET tasker.clock = '2025-02-09 00:00 UTC';
UPDATE tasker.tasks SET state = 'cancelled' WHERE state = 'pending' AND context = '{}';
SET tasker.clock = '2025-02-20 00:00 UTC';
CALL test.expire_all('1 day');
SELECT n, state FROM test.tasks ORDER BY task_id;

-- --------------------------------------------------------------------- history
-- A task lives through many turns of the ring: none of its history is lost. That
-- of others goes with their leaf.
SELECT n, history FROM test.tasks ORDER BY task_id;
CREATE PROCEDURE test.days(first date, days int) LANGUAGE plpgsql AS $$
DECLARE
	task bigint;
BEGIN
	FOR day IN 0 .. days - 1 LOOP
		PERFORM set_config('tasker.clock', (first + day)::text || ' 00:00 UTC', false);
		task := test.create_two('short');
		PERFORM tasker.cancel_task(task);
		IF EXISTS (SELECT FROM tasker.tasks WHERE task_id = 7 AND state = 'in_progress') THEN
			PERFORM tasker.pause_task(7);
			PERFORM tasker.resume_task(7);
		END IF;
		COMMIT;
		CALL test.expire_all('4 days');
	END LOOP;
END $$;
-- with everything published, whatever has to be said of it
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
SET client_min_messages = warning;
CALL test.days('2025-03-01', 40);
DROP PUBLICATION everything;
SELECT n, state, count(*), sum(history) FROM test.tasks GROUP BY n, state ORDER BY n;
SELECT state, from_state, to_state, count(*), min(created_at) AT TIME ZONE 'UTC', max(created_at) AT TIME ZONE 'UTC'
FROM tasker.task_history h JOIN test.tasks t USING (task_id) WHERE n = 'in progress' GROUP BY 1, 2, 3 ORDER BY 2, 3;
-- no more than six days of history are there
SELECT count(*) < 8 FROM tasker.task_transitions WHERE to_state = 'cancelled';
SELECT count(DISTINCT tableoid) > 1 FROM tasker.task_transitions;
SELECT tasker.cancel_task(7, 'enough');
CALL test.days('2025-04-15', 15);
SELECT n, state, count(*) FROM test.tasks GROUP BY n, state ORDER BY n;
SELECT count(*) FROM tasker.task_transitions WHERE task_id = 7;
SELECT count(*) FROM tasker.workflow_step_transitions WHERE task_id = 7;
-- a setting that became longer keeps what it finds
SELECT tasker.expire('100 years');
-- a walk in another file begins anew
SELECT count(*) FROM tasker.tasks WHERE state = 'cancelled';
SET tasker.clock = '2025-06-01 00:00 UTC';
SELECT tasker.expire('10 days', 1);
UPDATE tasker.history_walk SET filenode = 1, block = 1000000;
CALL test.expire_all('1 day');
SELECT count(*) FROM tasker.tasks WHERE state = 'cancelled';

-- --------------------------------------------------------------------- archive
CREATE TABLE test.archived (task_id bigint, as_user name, path text, document jsonb);
GRANT INSERT ON test.archived TO retention_archivist;
CREATE FUNCTION test.keep(document jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO test.archived VALUES ((document #>> '{task,task_id}')::bigint, current_user, current_setting('search_path'), document);
	IF document #>> '{task,context,n}' = 'refused' THEN
		RAISE EXCEPTION 'this one not' USING DETAIL = 'It was said so.';
	END IF;
END $$;
ALTER FUNCTION test.keep(jsonb) OWNER TO retention_archivist;
SELECT tasker.set_archive('test.none');
SELECT tasker.set_archive('keep');
SELECT tasker.set_archive('test.create_two');
SELECT tasker.set_archive('test.keep');
SELECT * FROM tasker.archive;
SET tasker.clock = '2025-07-01 00:00 UTC';
SELECT test.create_two('refused') AS refused \gset
SELECT test.create_two('archived', 'a key') AS archived \gset
SELECT tasker.cancel_task(:refused, 'why not'), tasker.cancel_task(:archived);
SELECT tasker.task_document(:archived) AS document \gset
SET tasker.clock = '2025-07-03 00:00 UTC';
SET client_min_messages = error;
CALL test.expire_all('1 day');
SET client_min_messages = warning;
SELECT task_id = :archived, as_user, path, document = :'document' FROM test.archived;
SELECT jsonb_object_agg(key, CASE jsonb_typeof(value) WHEN 'array' THEN jsonb_array_length(value) END) FROM jsonb_each(:'document'::jsonb);
SELECT document #>> '{task,idempotency_key}', document #>> '{task,state}', document #>> '{steps,1,name}', document -> 'edges' FROM test.archived;
SELECT n, state, steps, history FROM test.tasks WHERE task_id IN (:refused, :archived);
-- it is tried again, and less and less often
SELECT tries, ended_at AT TIME ZONE 'UTC', next_try_at AT TIME ZONE 'UTC', error ->> 'message', error ->> 'detail' FROM tasker.overdue_tasks;
SELECT tasker.expire('1 day');
SELECT tries FROM tasker.overdue_tasks;
SET tasker.clock = '2025-07-03 00:00:10 UTC';
SELECT tasker.expire('1 day');
SELECT tries, next_try_at AT TIME ZONE 'UTC' FROM tasker.overdue_tasks;
-- who may see the task may see that
SET SESSION AUTHORIZATION retention_ann;
SELECT count(*) FROM tasker.overdue_tasks;
SELECT tasker.task_document(:refused);
RESET SESSION AUTHORIZATION;
CALL test.days('2025-07-04', 12);
SELECT count(*), max(tries) > 5 FROM tasker.overdue_tasks;
SELECT n, state, steps, history FROM test.tasks WHERE task_id = :refused;
CREATE OR REPLACE FUNCTION test.keep(document jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO test.archived VALUES ((document #>> '{task,task_id}')::bigint, current_user, '', document) $$;
CALL test.days('2025-07-16', 1);
SELECT count(*), max(jsonb_array_length(document -> 'history')) FROM test.archived WHERE task_id = :refused;
SELECT * FROM test.leftovers;
SELECT count(*) FROM tasker.overdue_tasks;
-- no trigger of the archive's is left for later, when it would run as somebody else
CREATE FUNCTION test.deferred() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'as %', current_user; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON test.archived DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION test.deferred();
SET tasker.clock = '2025-08-01 00:00 UTC';
SET client_min_messages = error;
SELECT tasker.expire('1 day');
SET client_min_messages = warning;
SELECT DISTINCT error ->> 'message' FROM tasker.overdue_tasks;
DROP TRIGGER deferred ON test.archived;
-- nor can it become somebody else
CREATE OR REPLACE FUNCTION test.keep(document jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET ROLE retention_ann; END $$;
SET tasker.clock = '2025-08-02 00:00 UTC';
SELECT tasker.expire('1 day');
SELECT DISTINCT error ->> 'message' FROM tasker.overdue_tasks;
-- while there is no function nothing is removed; without one it goes
DROP FUNCTION test.keep;
SET tasker.clock = '2025-08-03 00:00 UTC';
SELECT tasker.expire('1 day');
SELECT count(*) > 0 FROM tasker.overdue_tasks;
SELECT tasker.set_archive(NULL);
CALL test.expire_all('1 day');
SELECT count(*) FROM tasker.overdue_tasks;
SELECT n, state FROM test.tasks ORDER BY task_id;
SELECT * FROM test.leftovers;

\c :regression
SET client_min_messages = warning;
DROP DATABASE tasker_regress_retention WITH (FORCE);
DROP ROLE retention_ann, retention_archivist;
