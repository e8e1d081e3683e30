-- An update: made by build.sh of head.sql, changes of tables, today's functions
-- and views, and tail.sql. The session's library must be of the same version.
DO $$
BEGIN
	IF tasker.library_version() <> 'EXTVERSION' THEN
		RAISE EXCEPTION USING ERRCODE = 'TK603',
			MESSAGE = 'tasker EXTVERSION needs its own library',
			DETAIL = format('This session has loaded the library of version %s.', tasker.library_version()),
			HINT = 'Connect anew, or restart the server if tasker is in shared_preload_libraries.';
	END IF;
END $$;

-- All tables are locked here, or none. Every call of tasker's locks tasks first
-- (src/query.c), so this waits for them while it holds nothing. Queries of people's
-- may lock another table before: then each waits for the other, and this one soon
-- lets go of what it has got and tries again, with more patience each time.
DO $$
DECLARE
	tables text := (SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname = 'tasks' DESC, c.relname)
		FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v'));
	patience int := 50;
BEGIN
	LOOP
		PERFORM set_config('lock_timeout', patience || ' ms', true);
		BEGIN
			EXECUTE 'LOCK TABLE ' || tables || ' IN ACCESS EXCLUSIVE MODE';
			EXIT;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			patience := LEAST(patience * 2, 60000);
		END;
	END LOOP;
END $$;

