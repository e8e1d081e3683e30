-- What sqlsmith finds when it looks for functions: tasker's, and some that make
-- values for them. Its sessions have this schema before pg_catalog. Read by
-- test/property/fuzz.
CREATE SCHEMA smith;
GRANT USAGE ON SCHEMA smith TO PUBLIC;
CREATE VIEW smith.pg_proc AS
	SELECT p.* FROM pg_catalog.pg_proc AS p
	WHERE (p.pronamespace = 'tasker'::regnamespace AND p.prokind = 'f'
			AND p.proname NOT IN ('start', 'stop', 'installed', 'updated', 'task_wait'))
		OR (p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ('now', 'gen_random_uuid', 'jsonb_build_array', 'to_jsonb', 'random',
			'length', 'upper', 'abs', 'make_interval', 'jsonb_typeof', 'string_to_array', 'array_append', 'count', 'max', 'min', 'row_number', 'rank'));
GRANT SELECT ON smith.pg_proc TO PUBLIC;
