-- A task that was paused before its first step had begun, while one was under
-- way: it began when that step did, and goes on as a task that has.
SELECT tasker.stop() IS NOT NULL AS stopped;
SET client_min_messages = warning;
CREATE ROLE pause_begun LOGIN;
RESET client_min_messages;
SELECT tasker.grant_access('pause_begun', 'submitter');
SET ROLE pause_begun;
SELECT tasker.define_task('two_queued', '{"defaults": {"queue": "pause_begun"}, "steps": [
	{"name": "a"}, {"name": "b", "depends_on": ["a"]}]}') > 0 AS defined;

-- a step ends while the task is paused
SELECT tasker.create_task('two_queued') AS task_id \gset
SELECT tasker.pause_task(:task_id);
RESET ROLE;
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1, last_attempted_at = '2030-01-01 00:00+00'
	WHERE task_id = :task_id AND step_id = 1;
SELECT state, started_at = '2030-01-01 00:00+00' AS started FROM tasker.tasks WHERE task_id = :task_id;
SELECT tasker.resume_task(:task_id);
SELECT state FROM tasker.tasks WHERE task_id = :task_id;
SELECT * FROM tasker.verify_task(:task_id);
SELECT from_state, to_state FROM tasker.task_transitions WHERE task_id = :task_id ORDER BY created_at;

-- nothing began: it goes back to where it was
SELECT tasker.create_task('two_queued') AS task_id \gset
SELECT tasker.pause_task(:task_id);
SELECT tasker.resume_task(:task_id);
SELECT state, started_at FROM tasker.tasks WHERE task_id = :task_id;

-- it began before it was paused
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1, last_attempted_at = '2030-01-01 00:00+00'
	WHERE task_id = :task_id AND step_id = 1;
SELECT tasker.pause_task(:task_id);
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1, last_attempted_at = '2030-01-01 00:00:01+00'
	WHERE task_id = :task_id AND step_id = 2;
SELECT state, started_at = '2030-01-01 00:00+00' AS started FROM tasker.tasks WHERE task_id = :task_id;
SELECT * FROM tasker.verify_task(:task_id);

SELECT tasker.revoke_access('pause_begun');
DROP ROLE pause_begun;
SELECT tasker.start() IS NOT NULL AS started;
