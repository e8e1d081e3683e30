-- verify_task while a step's time comes: the two answers that it compares are
-- of one moment, although one is given after the other.
SELECT tasker.stop() IS NOT NULL AS stopped;
SELECT tasker.define_task('verify_due', '{"steps": [{"name": "a", "queue": "verify_due"}]}') > 0 AS defined;
SELECT tasker.create_task('verify_due') AS task_id \gset
UPDATE tasker.workflow_steps SET state = 'in_progress', attempts = 1 WHERE task_id = :task_id;
UPDATE tasker.workflow_steps SET state = 'waiting_for_retry', next_attempt_at = clock_timestamp() WHERE task_id = :task_id;
CREATE FUNCTION verify_once(task bigint, delay interval) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE tasker.workflow_steps SET next_attempt_at = clock_timestamp() + delay WHERE task_id = task;
	RETURN QUERY SELECT v.problem FROM tasker.verify_task(task) AS v;
END $$;
-- so many times that it comes between them in some
SELECT DISTINCT v.problem FROM generate_series(1, 1000) AS i, verify_once(:task_id, i % 500 * interval '1 us') AS v (problem) ORDER BY 1;
SELECT tasker.cancel_task(:task_id);
DROP FUNCTION verify_once;
SELECT tasker.start() IS NOT NULL AS started;
