-- The processes that run steps, and running them without.
CREATE FUNCTION tasker.start() RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_start' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.start() IS
'Starts the scheduler of this database, which needs neither shared_preload_libraries nor a restart. True, or false if one runs already. After a restart of the server only a preloaded tasker starts by itself.
Errors: TK500 not an admin, TK600 no background worker left, TK601 tasker.enabled is off. Example: SELECT tasker.start();';

CREATE FUNCTION tasker.stop() RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_stop' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.stop() IS
'Has the scheduler and the executors of this database leave after the batch they are at, until tasker.start() or a restart of the server. True if a scheduler ran. Errors: TK500 not an admin. Example: SELECT tasker.stop();';

CREATE FUNCTION tasker.scheduler_pid() RETURNS int
	AS 'MODULE_PATHNAME', 'tasker_scheduler_pid' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.scheduler_pid() IS
'The process id of this database''s scheduler, or null if none runs. Example: SELECT tasker.scheduler_pid();';

CREATE FUNCTION tasker.tick(now timestamptz DEFAULT NULL, max_timers int DEFAULT 1000) RETURNS int
	AS 'MODULE_PATHNAME', 'tasker_tick' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.tick(timestamptz, int) IS
'One unit of the scheduler''s work, as if it were that time: steps whose time has come become ready, tasks with failed steps are looked at, and with tasker.retention some tasks that ended long ago are removed. Returns how many timers were served. Errors: TK204 negative max_timers, now out of range, TK500 not an operator. Example: SELECT tasker.tick();';

CREATE FUNCTION tasker.lock_cut_off() RETURNS boolean
	AS 'MODULE_PATHNAME', 'tasker_lock_cut_off' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.lock_cut_off() IS
'For statements of tasker''s own: takes the lock under which steps run whose process ended before, one at a time. TK500 for anybody else. Example: none.';

CREATE PROCEDURE tasker.run(max_duration interval DEFAULT NULL, max_steps int DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'tasker_run_procedure' LANGUAGE C;
COMMENT ON PROCEDURE tasker.run(interval, int) IS
'Runs the caller''s own steps in this session, with no background worker at all, until none is ready now, or for about so long or so many steps; commits after each batch. Errors: 2D000 inside a transaction block, TK204 negative limit, TK500 not a submitter. Example: CALL tasker.run();';

CREATE FUNCTION tasker.executors(OUT pid int, OUT owner int, OUT state text, OUT since timestamptz, OUT task_id bigint, OUT step_id int)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_executing' LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION tasker.executors() IS
'The executors of this database that serve owners whom the caller may see, and what each runs; view tasker.executing shows it with names. Example: SELECT * FROM tasker.executors();';

CREATE FUNCTION tasker.task_wait(task_id bigint, timeout interval DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'tasker_task_wait' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.task_wait(bigint, interval) IS
'Waits until the task is complete, in error, cancelled or resolved_manually, or for so long, and returns its state then. For scripts; it must have been created in an earlier transaction. Errors: TK200 unknown task, TK204 isolation level, negative limit. Example: SELECT tasker.task_wait(42, timeout => ''10 s'');';

CREATE FUNCTION tasker.installed() RETURNS void
	AS 'MODULE_PATHNAME', 'tasker_installed' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.installed() IS
'The last thing that CREATE EXTENSION and ALTER EXTENSION … UPDATE call: gives roles with a level access to what is new, and has a preloaded tasker start this database''s scheduler when the transaction commits. Errors: TK500 not an admin. Example: SELECT tasker.installed();';

CREATE FUNCTION tasker.library_version() RETURNS text
	AS 'MODULE_PATHNAME', 'tasker_library_version' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION tasker.library_version() IS
'The version of the library that this session has loaded. If it does not work with the version of the extension, every other call is refused with TK603 until ALTER EXTENSION tasker UPDATE, or a restart. Example: SELECT tasker.library_version();';
