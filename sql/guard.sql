-- Whether this database is the one whose tasks are to run, or a copy of it.
CREATE FUNCTION tasker.guard(OUT state text, OUT reason text, OUT since timestamptz) RETURNS record
	AS 'MODULE_PATHNAME', 'tasker_guard' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.guard() IS
'Whether tasks may run in this database: state is armed; disarmed if it is a copy (restored, cloned, a template''s), which runs nothing until tasker.adopt(); or new if nothing was defined in it yet, which the first definition makes armed. reason says why; since is null where that is not written down.
Example: SELECT state, reason FROM tasker.guard();';

CREATE FUNCTION tasker.adopt(keep_leases boolean DEFAULT false, OUT action text, OUT done bigint, OUT detail text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tasker_adopt' LANGUAGE C VOLATILE ROWS 6;
COMMENT ON FUNCTION tasker.adopt(boolean) IS
'Makes a copy run its tasks from here on; the original must not run them any more. Gives tasks to the roles of their owners'' names (detail names the missing ones: create them and call it again), sets sequences past the ids that there are, switches tasker''s triggers on, makes missing hints of what is ready or due, and arms the database.
What external workers had in hand is taken away and retried by each step''s policy; keep_leases: they work for this database now, so they keep it until their leases end. Returns a row for each of these: how many were changed. In an armed database only owners that were missing, sequences and triggers are looked at.
Errors: TK500 not an admin. Example: SELECT * FROM tasker.adopt();';

-- Rows that do not come by the API are a dump's, or replication's. For each
-- statement, COPY too; ALWAYS, since replication copies as a replica.
CREATE FUNCTION tasker.tasks_arrive() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tasker_tasks_arrive' LANGUAGE C;
COMMENT ON FUNCTION tasker.tasks_arrive() IS
'Trigger: rows that are inserted into tasks by anything but the API disarm the database.';

CREATE TRIGGER tasks_arrive AFTER INSERT ON tasker.tasks
	FOR EACH STATEMENT EXECUTE FUNCTION tasker.tasks_arrive();
ALTER TABLE tasker.tasks ENABLE ALWAYS TRIGGER tasks_arrive;
