-- What an operator does. Each call is atomic, is recorded with its reason, and
-- may be made by the task's owner, a role of level operator, or a superuser.
CREATE FUNCTION tasker.cancel_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_cancel_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.cancel_task(bigint, text) IS
'Cancels a task and every step of it that has not ended; a step that is running in the database is interrupted and rolled back. True, or false if it was cancelled before.
Errors: TK200 unknown task, TK300 it is complete, TK500 not yours. Example: SELECT tasker.cancel_task(42, reason => ''ordered twice'');';

CREATE FUNCTION tasker.pause_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_pause_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.pause_task(bigint, text) IS
'Lets no further step of the task begin; steps that were taken already end as usual. True, or false if it was paused before.
Errors: TK200 unknown task, TK300 it is over, TK500 not yours. Example: SELECT tasker.pause_task(42);';

CREATE FUNCTION tasker.resume_task(task_id bigint, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_resume_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.resume_task(bigint, text) IS
'Lets a paused task go on. True, or false if it was not paused.
Errors: TK200 unknown task, TK300 it is over or in error, TK500 not yours. Example: SELECT tasker.resume_task(42);';

CREATE FUNCTION tasker.step_id(task_id bigint, step text) RETURNS int
	AS 'MODULE_PATHNAME', 'tasker_step_id' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION tasker.step_id(bigint, text) IS
'The step_id of the step of that name. Errors: TK200 unknown task, TK202 unknown step. Example: SELECT tasker.step_id(42, ''charge'');';

CREATE FUNCTION tasker.retry_step(task_id bigint, step_id int, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_retry_step' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.retry_step(bigint, int, text) IS
'Retries a step now: one in error gets all its attempts again, one in waiting_for_retry stops waiting. The task goes on.
Errors: TK200 unknown task, TK202 unknown step, TK300 the step is in another state or the task is over, TK500 not yours. Example: SELECT tasker.retry_step(42, 3);';

CREATE FUNCTION tasker.retry_step(task_id bigint, step text, reason text DEFAULT NULL) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'SELECT tasker.retry_step($1, tasker.step_id($1, $2), $3)';
COMMENT ON FUNCTION tasker.retry_step(bigint, text, text) IS
'The same by the step''s name. Example: SELECT tasker.retry_step(42, ''charge'', reason => ''gateway is back'');';

CREATE FUNCTION tasker.retry_task(task_id bigint, reason text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'tasker_retry_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.retry_task(bigint, text) IS
'Retries every step of the task that is in error, with all its attempts; the task goes on. Returns how many there were.
Errors: TK200 unknown task, TK300 the task is over, TK500 not yours. Example: SELECT tasker.retry_task(42);';

CREATE FUNCTION tasker.resolve_step(task_id bigint, step_id int, results jsonb DEFAULT NULL, reason text DEFAULT NULL) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_resolve_step' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.resolve_step(bigint, int, jsonb, text) IS
'Ends a step by hand, with the results that it would have had: its children go on, and so does a task in error.
Errors: TK200 unknown task, TK202 unknown step, TK300 the step is complete, skipped or resolved already or the task is over, TK400 results too large, TK500 not yours. Example: SELECT tasker.resolve_step(42, 3, ''{"paid": true}'', reason => ''paid by bank transfer'');';

CREATE FUNCTION tasker.resolve_step(task_id bigint, step text, results jsonb DEFAULT NULL, reason text DEFAULT NULL) RETURNS boolean
	LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
	AS 'SELECT tasker.resolve_step($1, tasker.step_id($1, $2), $3, $4)';
COMMENT ON FUNCTION tasker.resolve_step(bigint, text, jsonb, text) IS
'The same by the step''s name. Example: SELECT tasker.resolve_step(42, ''charge'', ''{"paid": true}'');';
