-- Why a step is not running.
CREATE FUNCTION tasker.explain_step(task_id bigint, step_id int) RETURNS text
	AS 'MODULE_PATHNAME', 'tasker_explain_step' LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION tasker.explain_step(bigint, int) IS
'Says in words why a step is not running and what to do about it: what it waits for, which ancestor failed and how to retry or resolve that one, until when it waits, who has it in hand, or what keeps a ready step from being taken.
Errors: TK200 unknown task, TK202 unknown step. Example: SELECT tasker.explain_step(42, 3);';

CREATE FUNCTION tasker.explain_step(task_id bigint, step text) RETURNS text
	LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
	AS 'SELECT tasker.explain_step($1, tasker.step_id($1, $2))';
COMMENT ON FUNCTION tasker.explain_step(bigint, text) IS
'The same by the step''s name. Example: SELECT tasker.explain_step(42, ''charge'');';
