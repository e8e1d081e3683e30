-- What a role tries to make believe: that a task is another's, that it holds a
-- lease, that something happened that did not; past the functions, with their
-- help, and with the functions of the triggers.
\ir ../lib/attack.sql
\c - attack_vic
CREATE SCHEMA vic;
SELECT tasker.define_task('victims', '{"steps": [{"name": "a", "queue": "victims"}, {"name": "b", "queue": "victims", "depends_on": ["a"]}, {"name": "c", "queue": "victims"}]}');
SELECT tasker.create_task('victims') AS t \gset
SELECT task_id, step_id, lease FROM tasker.claim_steps('{victims}', 'w') \gset
INSERT INTO attack.loot VALUES ('task', :t), ('step', :step_id), ('lease', :'lease'),
	('owner', (SELECT owner::text FROM tasker.tasks WHERE task_id = :t));
-- A function of the victim's that whoever may call it creates a task with.
CREATE FUNCTION vic.submit() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT tasker.create_task(''victims'')';
CREATE FUNCTION vic.owner_of(t bigint) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT owner FROM tasker.tasks WHERE task_id = $1';
GRANT USAGE ON SCHEMA vic TO PUBLIC;

\c - attack_mal
CREATE SCHEMA mal;
-- ---------------------------------------------------------------- by hand
SELECT attack.try(format('%s %s', v, c.relname), format(s, c.relname), '42501')
FROM pg_class c, (VALUES ('inserts into', 'INSERT INTO tasker.%I DEFAULT VALUES'), ('deletes from', 'DELETE FROM tasker.%I'),
	('truncates', 'TRUNCATE tasker.%I'), ('copies into', 'COPY tasker.%I FROM ''/dev/null''')) v (v, s)
WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname, v;
SELECT attack.try(format('updates %s.%s', a.attrelid::regclass, a.attname), format('UPDATE %s SET %I = NULL', a.attrelid::regclass, a.attname), '42501')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind IN ('r', 'p')
	AND a.attnum > 0 AND NOT c.relispartition AND a.attidentity = '' ORDER BY c.relname, a.attnum;
SELECT attack.try(format('%s %s', v, c.relname), format(s, c.oid::regclass), '42501')
FROM pg_class c, (VALUES ('sets', 'SELECT setval(%L, 1)'), ('takes from', 'SELECT nextval(%L)'), ('reads', 'SELECT last_value FROM %s')) v (v, s)
WHERE c.relnamespace = 'tasker'::regnamespace AND c.relkind = 'S' ORDER BY c.relname, v;
-- --------------------------------------------------------- objects on objects
SELECT attack.try(s, s, '42501') FROM unnest(ARRAY[
	'CREATE TRIGGER x AFTER INSERT ON tasker.tasks FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
	'CREATE RULE x AS ON INSERT TO tasker.tasks DO ALSO NOTHING',
	'CREATE POLICY x ON tasker.tasks USING (true)',
	'CREATE INDEX x ON tasker.tasks ((lower(reason)))',
	'CREATE STATISTICS mal.x ON task_id, owner FROM tasker.tasks',
	'CREATE TABLE mal.x (task_id bigint REFERENCES tasker.tasks)',
	'CREATE TABLE mal.x () INHERITS (tasker.tasks)',
	'CREATE FUNCTION tasker.mine() RETURNS int LANGUAGE sql AS ''SELECT 1''',
	'CREATE TABLE tasker.mine ()',
	'ALTER TABLE tasker.tasks DISABLE ROW LEVEL SECURITY',
	'ALTER TABLE tasker.workflow_steps DISABLE TRIGGER ALL',
	'ALTER TABLE tasker.tasks OWNER TO attack_mal',
	'ALTER FUNCTION tasker.may_see_owner(int) COST 1',
	'ALTER DOMAIN tasker.task_state DROP CONSTRAINT task_state_check',
	'ALTER EXTENSION tasker DROP TABLE tasker.tasks',
	'ALTER EXTENSION tasker ADD SCHEMA mal',
	'ALTER SCHEMA tasker RENAME TO mine',
	'DROP FUNCTION tasker.may_see_owner(int)',
	'DROP EXTENSION tasker',
	'DROP SCHEMA tasker CASCADE',
	'REINDEX TABLE tasker.tasks',
	'COMMENT ON TABLE tasker.tasks IS ''mine''',
	'GRANT ALL ON tasker.access_grants TO attack_mal WITH GRANT OPTION',
	'INSERT INTO tasker.access_grants VALUES (''attack_mal'', ''admin'')',
	'CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION mal.x()',
	'CREATE OPERATOR CLASS mal.x DEFAULT FOR TYPE text USING btree AS STORAGE text',
	'CREATE CAST (jsonb AS bigint) WITH INOUT AS IMPLICIT',
	'CREATE PUBLICATION x FOR TABLE tasker.tasks',
	'ALTER DEFAULT PRIVILEGES FOR ROLE attack_vic GRANT ALL ON TABLES TO attack_mal',
	'SET session_replication_role = replica',
	'SET tasker.max_steps = 1000000', 'SET tasker.max_open_tasks = 0', 'SET tasker.max_claim = 100000', 'SET tasker.max_result_size = ''1GB''',
	'ALTER ROLE attack_mal SET tasker.max_nesting = 10000',
	'LOAD ''tasker''']) s;
SELECT attack.try('SET tasker.allow_superuser_steps', 'SET tasker.allow_superuser_steps = on', '55P02');
-- -------------------------------------------------- the functions of the triggers
SELECT attack.try('calls ' || p.oid::regprocedure, format('SELECT tasker.%I()', p.proname), '42501')
FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prorettype = 'trigger'::regtype ORDER BY p.proname;
CREATE TABLE mal.steps (task_id bigint, next_attempt_at timestamptz, last_attempted_at timestamptz, completed_at timestamptz, lease_expires_at timestamptz,
	lease uuid, step_id int, step_no int, lane int, priority int, pending_parents int, attempts int, state text, claimed_by text, results jsonb, last_error jsonb);
SELECT attack.try('has ' || p.oid::regprocedure || ' take its table for tasker''s',
	format('CREATE TRIGGER x AFTER UPDATE ON mal.steps REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION %s', p.oid::regprocedure), '42501')
FROM pg_proc p WHERE p.pronamespace = 'tasker'::regnamespace AND p.prorettype = 'trigger'::regtype ORDER BY p.proname;
-- Even if somebody granted too much: the function looks at its table.
\c - :admin
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA tasker TO attack_mal;
\c - attack_mal
INSERT INTO mal.steps (task_id, step_id, step_no, lane, priority, pending_parents, attempts, state) VALUES (attack.loot('task')::bigint, 1, 1, 1, 0, 0, 1, 'in_progress');
CREATE TRIGGER x AFTER UPDATE ON mal.steps REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tasker.steps_changed();
SELECT attack.try('completes another''s step in its own table', 'UPDATE mal.steps SET state = ''complete''', '39P01');
DROP TRIGGER x ON mal.steps;
CREATE TRIGGER x AFTER UPDATE ON mal.steps REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tasker.tasks_changed();
SELECT attack.try('changes another''s task in its own table', 'UPDATE mal.steps SET state = ''complete''', '39P01');
DROP TRIGGER x ON mal.steps;
CREATE TRIGGER x AFTER INSERT ON mal.steps REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tasker.edges_changed();
SELECT attack.try('adds an edge in its own table', 'INSERT INTO mal.steps SELECT * FROM mal.steps', '39P01');
CREATE TABLE mal.any (a "char", b bool, c float4, d money, e text, f text, g text, h text, i text, j text, k text, l text, m text, n text, o text, p text);
INSERT INTO mal.any (a) VALUES ('a');
CREATE TRIGGER x AFTER UPDATE ON mal.any REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION tasker.steps_changed();
SELECT attack.try('has tasker read numbers as pointers', 'UPDATE mal.any SET a = ''b''', '39P01');
\c - :admin
SELECT tasker.revoke_access('attack_mal'), tasker.grant_access('attack_mal', 'submitter');
\c - attack_mal
-- ---------------------------------------------------------------------- owners
SELECT attack.try('has the victim''s function create a task', 'SELECT vic.owner_of(vic.submit()) = attack.loot(''owner'')::int', 'true');
SELECT tasker.define_task('its own', '{"steps": [{"name": "a", "queue": "mal"}, {"name": "b", "queue": "victims", "depends_on": ["a"]}]}');
SELECT tasker.create_task('its own', initiator => 'attack_vic', source_system => 'tasker', reason => 'because') AS own \gset
SELECT attack.try('says that the victim is the initiator', format('SELECT o.role_name FROM tasker.tasks t JOIN tasker.owners o ON o.owner_id = t.owner WHERE task_id = %s', :own), 'attack_mal');
SELECT attack.try('grants itself a level', 'SELECT tasker.grant_access(''attack_mal'', ''admin'')', '42501');
SELECT attack.try('takes the victim''s', 'SELECT tasker.revoke_access(''attack_vic'')', '42501');
SELECT attack.try('becomes ' || r, 'SET ROLE ' || r, '42501') FROM unnest('{attack_vic,attack_view}'::text[]) r;
SELECT attack.try('becomes the victim for good', 'SET SESSION AUTHORIZATION attack_vic', '42501');
SELECT attack.try('RESET ROLE', 'RESET ROLE', 'null');
SELECT attack.try('is still itself', 'SELECT current_user', 'attack_mal');
-- ---------------------------------------------------------------------- leases
SELECT attack.try(format('%s with the victim''s lease', f), format('SELECT tasker.%s(%s, %s, %L)', f, attack.loot('task'), attack.loot('step'), attack.loot('lease')), 'TK420')
FROM unnest('{complete_step,fail_step,heartbeat,release_step}'::text[]) f;
SELECT attack.try('completes many, one the victim''s', format('SELECT outcome FROM tasker.complete_steps(ARRAY[%s]::bigint[], ARRAY[%s], ARRAY[%L]::uuid[], ARRAY[''{}'']::jsonb[])',
	attack.loot('task'), attack.loot('step'), attack.loot('lease')), 'refused');
SELECT attack.try('a lease of its own for the victim''s step', format('SELECT tasker.complete_step(%s, %s, (SELECT lease FROM tasker.claim_steps(''{mal}'', ''mal'')))', attack.loot('task'), attack.loot('step')), 'TK420');
SELECT attack.try('a lease of zeros', format('SELECT tasker.complete_step(%s, %s, ''00000000-0000-0000-0000-000000000000'')', attack.loot('task'), attack.loot('step')), 'TK420');
SELECT attack.try('no lease', format('SELECT tasker.complete_step(%s, %s, NULL)', attack.loot('task'), attack.loot('step')), 'TK204');
SELECT attack.try('a step that nobody holds', format('SELECT tasker.complete_step(%s, 3, gen_random_uuid())', attack.loot('task')), 'TK420');
SELECT task_id, step_id, lease FROM tasker.claim_steps('{mal,victims}', 'mal', 10) \gset
SELECT attack.try('its own step, once', format('SELECT count(tasker.complete_step(%s, %s, %L))', :task_id, :step_id, :'lease'), '1');
SELECT attack.try('its own step, twice', format('SELECT tasker.complete_step(%s, %s, %L)', :task_id, :step_id, :'lease'), 'TK420');
SELECT attack.try('its own step of another queue, with the lease of the one before', format('SELECT tasker.complete_step(%s, 2, %L)', :task_id, :'lease'), 'TK420');
-- ---------------------------------------------------------------------- history
SELECT attack.try('cancels as somebody else', format('SELECT tasker.cancel_task(%s, ''by attack_vic", "by": "attack_vic'')', :own), 'true');
SELECT attack.try('is named for it', format('SELECT metadata ->> ''by'' FROM tasker.task_history WHERE task_id = %s AND to_state = ''cancelled'' AND step IS NULL', :own), 'attack_mal');
SELECT tasker.create_task('its own') AS own \gset
SELECT task_id, step_id, lease FROM tasker.claim_steps('{mal}', 'mal', 10) \gset
BEGIN;
-- an operator's call that fails, caught; its note must not stay for what comes after
SELECT attack.try('resolves what there is not', format('SELECT tasker.resolve_step(%s, 99, reason => ''never happened'')', :own), 'TK202');
SELECT tasker.complete_step(:task_id, :step_id, :'lease');
COMMIT;
SELECT attack.try('a note of a call that failed', format('SELECT count(*) FROM tasker.task_history WHERE task_id = %s AND metadata IS NOT NULL', :own), '0');
SELECT attack.try('holds the lock of steps that were cut off', 'SELECT tasker.lock_cut_off()', '42501');
SELECT attack.try('burns ids', 'SELECT count(tasker.next_task_id()) FROM generate_series(1, 10)', '10');

\c - attack_view
SELECT attack.try('a viewer reads the lease', format('SELECT count(lease) FROM tasker.workflow_steps WHERE task_id = %s', attack.loot('task')), '1');
SELECT attack.try(format('a viewer and the lease: %s', f), format('SELECT tasker.%s(%s, %s, %L)', f, attack.loot('task'), attack.loot('step'), attack.loot('lease')), 'TK500')
FROM unnest('{complete_step,fail_step,heartbeat,release_step}'::text[]) f;
SELECT attack.try('a viewer claims', 'SELECT tasker.claim_steps(''{victims}'', ''view'')', 'TK500');
\c - attack_work
SELECT attack.try('a worker without the lease', format('SELECT tasker.complete_step(%s, %s, gen_random_uuid())', attack.loot('task'), attack.loot('step')), 'TK420');
SELECT attack.try('a worker resolves', format('SELECT tasker.resolve_step(%s, %s)', attack.loot('task'), attack.loot('step')), 'TK200');
SELECT attack.try('a worker cancels', format('SELECT tasker.cancel_task(%s)', attack.loot('task')), 'TK200');

\c - :admin
-- A role's name does not carry its level to the next role of that name.
CREATE ROLE attack_old LOGIN;
SELECT tasker.grant_access('attack_old', 'admin');
DROP OWNED BY attack_old;
DROP ROLE attack_old;
CREATE ROLE attack_old LOGIN;
GRANT attack_view TO attack_old;
\c - attack_old
SELECT attack.try('a role of the name of an admin that is gone', 'SELECT tasker.access_level()', 'viewer');
\c - :admin
DROP ROLE attack_old;
ALTER ROLE attack_mal RENAME TO attack_was_mal;
CREATE ROLE attack_mal LOGIN;
GRANT attack_view TO attack_mal;
\c - attack_mal
SELECT attack.try('a role that took another''s name has its level', 'SELECT tasker.access_level()', 'viewer');
SELECT attack.try('a role that took another''s name has its tasks', format('SELECT tasker.cancel_task(%s)', :own), 'TK500');
\c - :admin
-- A superuser could, but nobody needs it.
SELECT attack.try('a superuser holds the lock of steps that were cut off', 'SELECT tasker.lock_cut_off()', 'TK500');
DROP ROLE attack_mal;
ALTER ROLE attack_was_mal RENAME TO attack_mal;
\o
SELECT * FROM no_plan();
-- Nothing came of it: the victim's tasks are as they were.
SELECT is((SELECT string_agg(state, ',' ORDER BY step_id) FROM tasker.workflow_steps WHERE task_id = :t), 'in_progress,pending,enqueued', 'the victim''s steps are as they were');
SELECT is((SELECT count(*) FROM tasker.task_history WHERE task_id = :t), 2::bigint, 'and so is their history');
SELECT is((SELECT lease::text FROM tasker.workflow_steps WHERE task_id = :t AND step_id = 1), attack.loot('lease'), 'and the lease');
SELECT is((SELECT count(*) FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) v), 0::bigint, 'verify_task finds nothing');
\ir ../lib/attack_end.sql
