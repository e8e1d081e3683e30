
-- What is new is nobody's, as after CREATE EXTENSION (sql/access.sql); what was
-- there keeps its privileges, untouched: those that a script changes would be
-- taken for the extension's own, and be lost in a dump.
DO $$
DECLARE
	object record;
BEGIN
	FOR object IN
		SELECT o.kind, o.name,
			string_agg(DISTINCT ', ' || a.grantee::regrole::text, '') FILTER (WHERE a.grantee NOT IN (0, o.owner)) AS others
		FROM (
			SELECT 'pg_class'::regclass AS classid, c.oid, c.oid::regclass::text AS name, c.relowner AS owner,
				CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
				COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
			FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
			UNION ALL
			SELECT 'pg_proc'::regclass, p.oid, p.oid::regprocedure::text, p.proowner,
				'ROUTINE', COALESCE(p.proacl, acldefault('f', p.proowner))
			FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
			UNION ALL
			SELECT 'pg_type'::regclass, t.oid, t.oid::regtype::text, t.typowner,
				'TYPE', COALESCE(t.typacl, acldefault('T', t.typowner))
			FROM pg_catalog.pg_type t WHERE t.typnamespace = 'tasker'::regnamespace AND t.typtype = 'd') AS o,
			aclexplode(o.acl) AS a
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_init_privs i WHERE i.classoid = o.classid AND i.objoid = o.oid)
		GROUP BY o.classid, o.oid, o.kind, o.name
	LOOP
		EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC%s', object.kind, object.name, object.others);
	END LOOP;
END $$;
SELECT tasker.updated();
