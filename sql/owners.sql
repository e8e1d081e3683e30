-- Who may see what. Every table of users' data has row-level security; the
-- policies ask C functions that run no code of a user's.
CREATE FUNCTION tasker.now() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tasker_sql_now' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION tasker.now() IS 'The time that tasker goes by. Example: SELECT tasker.now();';

CREATE FUNCTION tasker.may_see_owner(owner int) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_owner' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_owner(int) IS
'Whether the current role may see what belongs to the owner (an owners.owner_id). Example: SELECT tasker.may_see_owner(owner) FROM tasker.tasks;';

CREATE FUNCTION tasker.may_see_task(task_id bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_task' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_task(bigint) IS
'Whether the current role may see the task. Example: SELECT tasker.may_see_task(42);';

CREATE FUNCTION tasker.access_level() RETURNS text
	AS 'MODULE_PATHNAME', 'tasker_access_level' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.access_level() IS
'The highest level that grant_access gave the current role, admin for a superuser, or null. Example: SELECT tasker.access_level();';

ALTER TABLE tasker.tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.tasks FOR SELECT USING (tasker.may_see_owner(owner));
ALTER TABLE tasker.workflow_steps ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.workflow_steps FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.workflow_step_edges ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.workflow_step_edges FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.workflow_step_results ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.workflow_step_results FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.task_transitions ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.task_transitions FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.workflow_step_transitions ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.workflow_step_transitions FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.overdue_tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.overdue_tasks FOR SELECT USING (tasker.may_see_task(task_id));
ALTER TABLE tasker.owners ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.owners FOR SELECT USING (tasker.may_see_owner(owner_id));
