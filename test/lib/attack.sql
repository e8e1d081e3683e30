-- attack.sql: what test/pgtap/attack_*.sql have in common; each begins with it
-- (\ir) and ends with attack_end.sql.
--
-- Attacks are made in sessions of their own roles (\c - attack_mal): after SET
-- ROLE one could go back. There attack.try(name, statement, want) notes what
-- came of a statement: the first value that it returned, or its SQLSTATE. The end
-- of the file holds it against what was wanted.
--
--   attack_vic   submitter: has tasks, is attacked
--   attack_mal   submitter: attacks; may create schemas
--   attack_work  worker      attack_view  viewer      attack_none  no level
\set admin :USER
SET client_min_messages = warning;
SELECT tasker.stop() IS NOT NULL \g /dev/null
DO $$
DECLARE
	r name;
BEGIN
	-- also what a run that was cut off has left
	FOR r IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'attack%' LOOP
		EXECUTE format('DROP OWNED BY %I CASCADE', r);
		EXECUTE format('DROP ROLE %I', r);
	END LOOP;
	FOREACH r IN ARRAY '{attack_vic,attack_mal,attack_work,attack_view,attack_none}'::name[] LOOP
		EXECUTE format('CREATE ROLE %I LOGIN', r);
		EXECUTE format('ALTER ROLE %I SET client_min_messages = error', r);
	END LOOP;
	EXECUTE format('GRANT CREATE ON DATABASE %I TO attack_mal, attack_vic', current_database());
END $$;
SELECT tasker.grant_access('attack_vic', 'submitter'), tasker.grant_access('attack_mal', 'submitter'),
	tasker.grant_access('attack_work', 'worker'), tasker.grant_access('attack_view', 'viewer') \g /dev/null
CREATE SCHEMA attack;
GRANT USAGE ON SCHEMA attack TO PUBLIC;
CREATE TABLE attack.outcome (id int GENERATED ALWAYS AS IDENTITY, role name DEFAULT session_user, name text, want text, got text);
GRANT INSERT ON attack.outcome TO PUBLIC;
-- What an attack is to find out, and what it found.
CREATE TABLE attack.loot (key text PRIMARY KEY, value text);
GRANT SELECT, INSERT ON attack.loot TO PUBLIC;
CREATE FUNCTION attack.loot(key text) RETURNS text LANGUAGE sql AS 'SELECT l.value FROM attack.loot l WHERE l.key = $1';
CREATE FUNCTION attack.try(name text, statement text, want text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	got text;
BEGIN
	BEGIN
		IF pg_catalog.lower(pg_catalog.left(statement, 4)) OPERATOR(pg_catalog.=) ANY ('{sele,with,expl}'::text[]) THEN
			EXECUTE statement INTO got;
		ELSE
			EXECUTE statement;
		END IF;
		got := COALESCE(got, 'null');
	EXCEPTION WHEN OTHERS THEN
		got := SQLSTATE;
	END;
	INSERT INTO attack.outcome (name, want, got) VALUES (name, want, got);
END $$;
\o /dev/null
