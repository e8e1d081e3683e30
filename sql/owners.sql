-- Who may see what. Every table of users' data has row-level security; the
-- policies ask C functions that run no code of a user's.
CREATE FUNCTION tasker.now() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tasker_sql_now' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION tasker.now() IS 'The time that tasker goes by. Example: SELECT tasker.now();';

CREATE FUNCTION tasker.may_see_owner(owner int) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_owner' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_owner(int) IS
'Whether the current role may see what belongs to the owner (an owners.owner_id). Example: SELECT tasker.may_see_owner(owner) FROM tasker.tasks;';

CREATE FUNCTION tasker.may_serve_owner(owner int) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_serve_owner' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_serve_owner(int) IS
'Whether the current role may see what belongs to the owner, or work for it. Example: SELECT tasker.may_serve_owner(owner) FROM tasker.tasks;';

CREATE FUNCTION tasker.may_see_task(task_id bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_task' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_task(bigint) IS
'Whether the current role may see the task. Example: SELECT tasker.may_see_task(42);';

CREATE FUNCTION tasker.may_see_definition(owner int) RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_definition' LANGUAGE C STABLE STRICT LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_definition(int) IS
'Whether the current role may see the definitions of the owner (an owners.owner_id): its own, those of roles it is a member of, an admin''s, which are for everybody; a viewer, an operator or an admin sees all. Example: SELECT tasker.may_see_definition(owner) FROM tasker.named_tasks;';

CREATE FUNCTION tasker.may_see_queues() RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_may_see_queues' LANGUAGE C STABLE LEAKPROOF PARALLEL RESTRICTED;
COMMENT ON FUNCTION tasker.may_see_queues() IS
'Whether the current role may see the names of all queues, not just those of definitions it sees: it is a worker, a viewer, an operator or an admin. Example: SELECT tasker.may_see_queues();';

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

ALTER TABLE tasker.named_tasks ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.named_tasks FOR SELECT USING (tasker.may_see_definition(owner));
ALTER TABLE tasker.named_steps ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.named_steps FOR SELECT
	USING (named_task_id IN (SELECT n.named_task_id FROM tasker.named_tasks n));
ALTER TABLE tasker.named_step_edges ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.named_step_edges FOR SELECT
	USING (named_task_id IN (SELECT n.named_task_id FROM tasker.named_tasks n));
ALTER TABLE tasker.task_namespaces ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.task_namespaces FOR SELECT
	USING (namespace_id IN (SELECT n.namespace_id FROM tasker.named_tasks n));
ALTER TABLE tasker.queues ENABLE ROW LEVEL SECURITY;
CREATE POLICY visible ON tasker.queues FOR SELECT
	USING ((SELECT tasker.may_see_queues()) OR queue_id IN (SELECT s.queue_id FROM tasker.named_steps s));

-- Nobody's: the engine reads them as their owner. Leaves of the history are read
-- through their parents. No policy, no row, whatever somebody was granted.
ALTER TABLE tasker.access_grants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.ready_queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.workers ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.history_ring ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.history_walk ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.archive ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.here ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.origin ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.timers ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.task_transitions_0 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.task_transitions_1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.task_transitions_2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.task_transitions_3 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.workflow_step_transitions_0 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.workflow_step_transitions_1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.workflow_step_transitions_2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasker.workflow_step_transitions_3 ENABLE ROW LEVEL SECURITY;
