-- What the graph of a task says: which steps are ready, why the others are not,
-- and whether the engine's own counters agree. Nothing here writes; all of it
-- works on a standby.
CREATE FUNCTION tasker.ready_steps(task_id bigint,
	OUT step_id int, OUT name text, OUT attempts int, OUT priority int, OUT handler_kind text, OUT handler text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_ready_steps' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.ready_steps(bigint) IS
'The steps of a task that can run now, in the order of step_id, derived afresh from its edges: the task is pending or in_progress; the step is pending, waiting, enqueued or waiting_for_retry; every parent is complete, resolved_manually or skipped; attempts are left; its time has come; nobody has a lease on it.
Errors: TK200 unknown task. Example: SELECT * FROM tasker.ready_steps(42);';

CREATE FUNCTION tasker.ready_steps_by_recursion(task_id bigint,
	OUT step_id int, OUT name text, OUT attempts int, OUT priority int, OUT handler_kind text, OUT handler text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_ready_steps_by_recursion' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.ready_steps_by_recursion(bigint) IS
'The same as tasker.ready_steps, by one WITH RECURSIVE query: the definition of readiness in SQL, against which verify_task holds the other. Slower. Errors: TK200 unknown task. Example: SELECT * FROM tasker.ready_steps_by_recursion(42);';

CREATE FUNCTION tasker.step_readiness(
	OUT workflow_step_id int, INOUT task_id bigint, OUT named_step_id int, OUT name text, OUT current_state text,
	OUT dependencies_satisfied boolean, OUT retry_eligible boolean, OUT ready_for_execution boolean,
	OUT last_failure_at timestamptz, OUT next_retry_at timestamptz,
	OUT total_parents int, OUT completed_parents int, OUT attempts int, OUT max_attempts int,
	OUT backoff_request_seconds int, OUT last_attempted_at timestamptz,
	IN step_ids int[] DEFAULT NULL)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_step_readiness' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.step_readiness(bigint, int[]) IS
'The steps of a task with everything that decides whether they are ready. step_ids chooses which of them are shown; their parents count whether they are shown or not. workflow_step_id is the step_id, named_step_id the number in the definition (step_no); next_retry_at is when the step may run at the earliest, if that was ever set; backoff_request_seconds the delay that a step in waiting_for_retry was given.
Errors: TK200 unknown task. Example: SELECT name, current_state, total_parents, completed_parents FROM tasker.step_readiness(42);';

CREATE FUNCTION tasker.task_execution_context(
	INOUT task_id bigint, OUT named_task_id int, OUT status text, OUT total_steps bigint, OUT pending_steps bigint,
	OUT in_progress_steps bigint, OUT completed_steps bigint, OUT failed_steps bigint, OUT ready_steps bigint,
	OUT execution_status text, OUT recommended_action text, OUT completion_percentage numeric,
	OUT health_status text, OUT enqueued_steps bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_task_execution_context' LANGUAGE C STABLE ROWS 1;
COMMENT ON FUNCTION tasker.task_execution_context(bigint) IS
'What a task is doing, one row. Each step is in one of pending_steps (pending, waiting, waiting_for_retry), enqueued_steps, in_progress_steps, completed_steps (complete, resolved_manually, skipped) and failed_steps (error, cancelled); ready_steps is a count of its own.
execution_status is the first that applies: all_complete; has_ready_steps; processing (a step is in_progress, or enqueued and taken); waiting_for_retry; waiting_for_dependencies (a step waits for its time); blocked_by_failures (a step failed or was cancelled, and nothing else can run); waiting_for_dependencies. So a task with a failed step and other work left is not blocked.
recommended_action: finalize_task, execute_ready_steps, wait_for_completion, wait_for_retry, wait_for_dependencies, handle_failures, resume_task, none. health_status: healthy, recovering (something failed, the task goes on), blocked.
Errors: TK200 unknown task. Example: SELECT execution_status, completion_percentage FROM tasker.task_execution_context(42);';

CREATE FUNCTION tasker.dependency_levels(task_id bigint, OUT step_id int, OUT name text, OUT level int)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_dependency_levels' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.dependency_levels(bigint) IS
'The steps of a task with the length of the longest path to each from a step without parents, which has level 0; steps of one level do not depend on each other. Null for a step on or behind a cycle, which only a change by hand can make.
Errors: TK200 unknown task. Example: SELECT level, pg_catalog.array_agg(name) FROM tasker.dependency_levels(42) GROUP BY level ORDER BY level;';

CREATE FUNCTION tasker.step_ancestors(task_id bigint, INOUT step_id int, OUT name text, OUT distance int, OUT state text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_step_ancestors' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.step_ancestors(bigint, int) IS
'Every step that a step depends on, directly (distance 1) or not, once and with its shortest distance; the nearest first. Errors: TK200 unknown task, TK202 unknown step. Example: SELECT * FROM tasker.step_ancestors(42, 3);';

CREATE FUNCTION tasker.step_descendants(task_id bigint, INOUT step_id int, OUT name text, OUT distance int, OUT state text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_step_descendants' LANGUAGE C STABLE ROWS 10;
COMMENT ON FUNCTION tasker.step_descendants(bigint, int) IS
'Every step that depends on a step, directly (distance 1) or not, once and with its shortest distance; the nearest first. Errors: TK200 unknown task, TK202 unknown step. Example: SELECT * FROM tasker.step_descendants(42, 1);';

CREATE FUNCTION tasker.verify_task(task_id bigint, OUT problem text, OUT step_id int, OUT expected text, OUT found text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_verify_task' LANGUAGE C STABLE ROWS 1;
COMMENT ON FUNCTION tasker.verify_task(bigint) IS
'What is wrong with a task, one row each (step_id is null if it is the task''s own state); no row if all is well. Counters of parents are counted again, ready_steps is held against ready_steps_by_recursion, what is ready or waits must be known to executors or the scheduler, the task''s state must follow from its steps'', and edges must connect steps of it and close no cycle. It may be asked of a running task.
Errors: TK200 unknown task. Example: SELECT * FROM tasker.verify_task(42);';

-- ------------------------------------------------------------------ edges by hand
CREATE FUNCTION tasker.edges_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tasker_edges_changed' LANGUAGE C;
COMMENT ON FUNCTION tasker.edges_changed() IS
'Trigger: refuses an edge that closes a cycle or goes from a larger step_id to a smaller (TK303), one that comes too late for its child (TK304) and any change of one (TK301); counts the parents of pending steps anew after edges were added or deleted.';

CREATE TRIGGER edges_inserted AFTER INSERT ON tasker.workflow_step_edges
	REFERENCING NEW TABLE AS new_edges
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.edges_changed();
CREATE TRIGGER edges_deleted AFTER DELETE ON tasker.workflow_step_edges
	REFERENCING OLD TABLE AS old_edges
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.edges_changed();
CREATE TRIGGER edges_updated AFTER UPDATE ON tasker.workflow_step_edges
	REFERENCING OLD TABLE AS old_edges NEW TABLE AS new_edges
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.edges_changed();
ALTER TABLE tasker.workflow_step_edges ENABLE ALWAYS TRIGGER edges_inserted;
ALTER TABLE tasker.workflow_step_edges ENABLE ALWAYS TRIGGER edges_deleted;
ALTER TABLE tasker.workflow_step_edges ENABLE ALWAYS TRIGGER edges_updated;
COMMENT ON TRIGGER edges_inserted ON tasker.workflow_step_edges IS 'Checks new edges, counts parents anew.';
COMMENT ON TRIGGER edges_deleted ON tasker.workflow_step_edges IS 'Counts parents anew, and releases a step that waits for none any more.';
COMMENT ON TRIGGER edges_updated ON tasker.workflow_step_edges IS 'Refuses to change edges.';
