-- State machines: the table lives in src/state.c; everything here reads it.
CREATE FUNCTION tasker.is_step_state(state text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_is_step_state'
	LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION tasker.is_step_state(text) IS
'Whether a name is a state of a workflow step. Example: SELECT tasker.is_step_state(''enqueued'');';

CREATE FUNCTION tasker.is_task_state(state text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_is_task_state'
	LANGUAGE C IMMUTABLE STRICT LEAKPROOF PARALLEL SAFE;
COMMENT ON FUNCTION tasker.is_task_state(text) IS
'Whether a name is a state of a task. Example: SELECT tasker.is_task_state(''paused'');';

CREATE FUNCTION tasker.state_machine(OUT machine text, OUT from_state text, OUT to_state text, OUT meaning text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_state_machine'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION tasker.state_machine() IS
'Every legal change of state of a task or a step, one row each, from the table that the triggers enforce. Example: SELECT * FROM tasker.state_machine() WHERE machine = ''step'';';

CREATE DOMAIN tasker.step_state AS text COLLATE "C" CHECK (tasker.is_step_state(VALUE));
COMMENT ON DOMAIN tasker.step_state IS 'The name of a state of a workflow step; see tasker.state_machine().';

CREATE DOMAIN tasker.task_state AS text COLLATE "C" CHECK (tasker.is_task_state(VALUE));
COMMENT ON DOMAIN tasker.task_state IS 'The name of a state of a task; see tasker.state_machine().';
