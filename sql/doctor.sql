-- What is wrong with an installation.
CREATE FUNCTION tasker.doctor(OUT problem text, OUT detail text, OUT hint text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_doctor' LANGUAGE C VOLATILE ROWS 5;
COMMENT ON FUNCTION tasker.doctor() IS
'Looks for what is wrong with this installation, and says what to do about it; no row if nothing is.
What runs nothing: a disarmed copy, tasker.enabled off, no scheduler, not preloaded, versions that differ, background workers that are missing, triggers that are not ALWAYS on. Stuck work: ready steps that nobody runs, queues that nobody serves or that are paused, leases and times that are not looked at, orphaned leases, counters that disagree in the 100 oldest open tasks, tasks in error, handlers that do not exist, owners and grants of roles that are gone. Retention: an archive function that is gone or fails, locked tasks, tasks that should have gone. And who holds back vacuum, autovacuum that is off, tables that are not frozen, fsync off. It reads the tables of tasks and steps once.
For viewers, operators and admins; others get no row. Example: SELECT * FROM tasker.doctor();';

CREATE VIEW tasker.problems WITH (security_barrier) AS
SELECT d.problem, d.detail, d.hint FROM tasker.doctor() AS d;
COMMENT ON VIEW tasker.problems IS
'The same as tasker.doctor(). Example: SELECT problem, hint FROM tasker.problems;';
