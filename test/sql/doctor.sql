-- What doctor() finds, one thing after the other, and who may know.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL;
DO $$ BEGIN WHILE tasker.scheduler_pid() IS NOT NULL LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
CREATE ROLE doctor_ann LOGIN;
CREATE ROLE doctor_viewer LOGIN;
SELECT tasker.grant_access('doctor_ann', 'submitter'), tasker.grant_access('doctor_viewer', 'viewer');
SET tasker.clock = '2030-01-01 00:00+00';
SET TIME ZONE 'UTC';
-- what other tests have left is none of its business
SELECT count(tasker.cancel_task(task_id)) >= 0 FROM tasker.task_status WHERE state IN ('pending', 'in_progress', 'paused', 'error');
DO $$ BEGIN WHILE tasker.tick() > 0 LOOP END LOOP; END $$;
CREATE FUNCTION public.found() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT problem || ': ' || regexp_replace(regexp_replace(detail, '\mTask \d+', 'Task N'), '\d+, the last one is \d+', 'some') || ' ' || regexp_replace(hint, '\(\d+\)', '(N)')
	FROM tasker.doctor() WHERE problem NOT LIKE '%holds back vacuum' AND problem <> 'the server has no background worker left' ORDER BY problem, detail
$$;
SELECT f FROM found() f WHERE f LIKE 'no scheduler%';
-- a queue that nobody serves, one that is paused
SET SESSION AUTHORIZATION doctor_ann;
SELECT tasker.define_task('doctor', '{"steps": [{"name": "a", "queue": "doctor''s", "retry": {"jitter": 0}}, {"name": "b", "queue": "doctor''s", "depends_on": ["a"]}]}') IS NOT NULL;
SELECT tasker.create_task('doctor') AS t \gset
RESET SESSION AUTHORIZATION;
SELECT f FROM found() f WHERE f LIKE '%queue%';
SELECT tasker.pause_queue('doctor''s', reason => 'holidays');
SELECT f FROM found() f WHERE f LIKE '%queue%';
SELECT tasker.resume_queue('doctor''s');
-- a lease that nobody looks at, then a time
SELECT count(*) FROM tasker.claim_steps('{doctor''s}', 'w');
SELECT f FROM found() f WHERE f LIKE '%queue%' OR f LIKE '%leases%';
SET tasker.clock = '2030-01-01 00:01+00';
SELECT f FROM found() f WHERE f LIKE '%leases%';
SELECT tasker.tick() > 0;
SELECT f FROM found() f WHERE f LIKE '%leases%' OR f LIKE '%time has come%';
SET tasker.clock = '2030-01-01 01:00+00';
SELECT f FROM found() f WHERE f LIKE '%leases%' OR f LIKE '%time has come%';
-- a counter that disagrees, a trigger that is off
BEGIN;
ALTER TABLE tasker.workflow_steps DISABLE TRIGGER steps_changed;
UPDATE tasker.workflow_steps SET pending_parents = 7 WHERE task_id = :t AND step_id = 2;
SELECT f FROM found() f WHERE f LIKE '%does not fit%' OR f LIKE '%ALWAYS%';
ROLLBACK;
-- an error
SELECT tasker.tick() > 0;
SELECT tasker.fail_step(task_id, step_id, lease, retryable => false) FROM tasker.claim_steps('{doctor''s}', 'w');
SELECT f FROM found() f WHERE f LIKE '%in error%';
-- a viewer is told, others are not
SET SESSION AUTHORIZATION doctor_viewer;
SELECT count(*) > 0 FROM tasker.doctor();
SET SESSION AUTHORIZATION doctor_ann;
SELECT count(*) FROM tasker.doctor();
RESET SESSION AUTHORIZATION;
RESET tasker.clock;
SELECT tasker.cancel_task(:t);
DROP FUNCTION public.found();
SELECT tasker.revoke_access('doctor_ann'), tasker.revoke_access('doctor_viewer');
DROP ROLE doctor_ann, doctor_viewer;
