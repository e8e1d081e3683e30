
-- What is new is nobody's, as after CREATE EXTENSION (sql/access.sql); what was
-- there keeps its privileges, untouched: those that a script changes would be
-- taken for the extension's own, and be lost in a dump.
DO $$
DECLARE
	object record;
BEGIN
	FOR object IN
		SELECT o.classid, o.name,
			concat_ws(', ', 'PUBLIC', string_agg(DISTINCT a.grantee::regrole::text, ', ') FILTER (WHERE a.grantee NOT IN (0, o.owner))) AS grantees
		FROM (
			SELECT 'pg_class'::regclass AS classid, c.oid, c.oid::regclass::text AS name, c.relowner AS owner,
				COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
			FROM pg_catalog.pg_class c WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
			UNION ALL
			SELECT 'pg_proc'::regclass, p.oid, p.oid::regprocedure::text, p.proowner, COALESCE(p.proacl, acldefault('f', p.proowner))
			FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace
			UNION ALL
			SELECT 'pg_type'::regclass, t.oid, t.oid::regtype::text, t.typowner, COALESCE(t.typacl, acldefault('T', t.typowner))
			FROM pg_catalog.pg_type t WHERE t.typnamespace = 'tasker'::regnamespace AND t.typtype = 'd') AS o,
			aclexplode(o.acl) AS a
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_init_privs i WHERE i.classoid = o.classid AND i.objoid = o.oid)
		GROUP BY o.classid, o.oid, o.name
	LOOP
		IF object.classid = 'pg_class'::regclass THEN
			EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', object.name, object.grantees);
		ELSIF object.classid = 'pg_proc'::regclass THEN
			EXECUTE format('REVOKE ALL ON ROUTINE %s FROM %s', object.name, object.grantees);
		ELSE
			EXECUTE format('REVOKE ALL ON TYPE %s FROM %s', object.name, object.grantees);
		END IF;
	END LOOP;
END $$;
SELECT tasker.installed();
