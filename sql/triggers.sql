-- The triggers that check, record and follow up every change of state. ALWAYS:
-- a replication role does not switch them off.
CREATE FUNCTION tasker.steps_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tasker_steps_changed' LANGUAGE C;
COMMENT ON FUNCTION tasker.steps_changed() IS
'Trigger: checks changes of steps against the state machine, records them, releases children, settles tasks.';

CREATE TRIGGER steps_changed AFTER UPDATE ON tasker.workflow_steps
	REFERENCING OLD TABLE AS old_steps NEW TABLE AS new_steps
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.steps_changed();
ALTER TABLE tasker.workflow_steps ENABLE ALWAYS TRIGGER steps_changed;

CREATE FUNCTION tasker.tasks_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tasker_tasks_changed' LANGUAGE C;
COMMENT ON FUNCTION tasker.tasks_changed() IS
'Trigger: checks changes of tasks against the state machine, records them, cancels or resumes their steps.';

CREATE TRIGGER tasks_changed AFTER UPDATE ON tasker.tasks
	REFERENCING OLD TABLE AS old_tasks NEW TABLE AS new_tasks
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.tasks_changed();
ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_changed;
