# What handlers can do to an executor, and to the steps that run next to them.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('handlers');

$node->safe_psql('postgres', <<'SQL');
SET ROLE app;
CREATE TABLE app.parent (id int PRIMARY KEY);
CREATE TABLE app.child (id int REFERENCES app.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION app.act(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	task bigint := (input #>> '{task,id}')::bigint;
	how text := input #>> '{task,context,how}';
	attempt int := (input #>> '{step,attempt}')::int;
	result jsonb := '{}';
BEGIN
	INSERT INTO app.effects (task_id, step, attempt) VALUES (task, input #>> '{step,name}', attempt);
	IF input #>> '{step,name}' = 'other' AND how = 'resolve_sibling' THEN
		RAISE EXCEPTION 'wait to be resolved' USING ERRCODE = 'TK411', DETAIL = '1 s';
	ELSIF input #>> '{step,name}' <> 'bad' THEN
		RETURN result;
	END IF;
	CASE how
		WHEN 'raise' THEN RAISE EXCEPTION 'no' USING DETAIL = 'because', HINT = 'think';
		WHEN 'raise_once' THEN IF attempt = 1 THEN RAISE EXCEPTION 'no'; END IF;
		WHEN 'do_not_retry' THEN RAISE EXCEPTION 'never' USING ERRCODE = 'TK410';
		WHEN 'retry_after' THEN
			IF attempt = 1 THEN RAISE EXCEPTION 'later' USING ERRCODE = 'TK411', DETAIL = '300 ms'; END IF;
		WHEN 'retry_when' THEN
			IF attempt = 1 THEN RAISE EXCEPTION 'later' USING ERRCODE = 'TK411', DETAIL = 'whenever'; END IF;
		WHEN 'nothing' THEN RETURN NULL;
		WHEN 'advisory' THEN PERFORM pg_advisory_lock(4711), pg_advisory_lock(4711);
		WHEN 'settings' THEN
			PERFORM set_config('work_mem', '7MB', false), set_config('search_path', 'nowhere', false),
				set_config('app.mine', 'x', false), set_config('lock_timeout', '1ms', true),
				set_config('default_transaction_read_only', 'on', false);
		WHEN 'subtransactions' THEN
			FOR i IN 1 .. 100 LOOP
				BEGIN
					INSERT INTO app.effects (task_id, step, attempt) VALUES (task, 'rolled back', i);
					PERFORM 1 / (i % 2);
					DELETE FROM app.effects WHERE step = 'rolled back';
				EXCEPTION WHEN division_by_zero THEN NULL;
				END;
			END LOOP;
		WHEN 'deferred' THEN INSERT INTO app.child VALUES (task);
		WHEN 'deferred_ok' THEN INSERT INTO app.child VALUES (-task); INSERT INTO app.parent VALUES (-task);
		WHEN 'temporary' THEN
			CREATE TEMP TABLE IF NOT EXISTS left_over (i int) ON COMMIT DROP; INSERT INTO left_over VALUES (1);
		WHEN 'cursor' THEN
			DECLARE c refcursor; BEGIN OPEN c FOR SELECT 1; END;
		WHEN 'prepared' THEN EXECUTE 'DEALLOCATE ALL';
		WHEN 'listen' THEN EXECUTE 'LISTEN something';
		WHEN 'big' THEN RETURN to_jsonb(repeat('x', 3000000));
		WHEN 'large' THEN RETURN to_jsonb(repeat('x', 500000));
		WHEN 'timeout' THEN PERFORM pg_sleep(30);
		WHEN 'catch_timeout' THEN
			BEGIN PERFORM pg_sleep(30); EXCEPTION WHEN query_canceled THEN NULL; END;
		WHEN 'statement_timeout' THEN PERFORM set_config('statement_timeout', '1ms', false), pg_sleep(0.05);
		WHEN 'recurse' THEN result := app.act(input);
		WHEN 'deadlock' THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = 'deadlock_detected';
		WHEN 'serialization' THEN
			IF attempt = 1 THEN RAISE EXCEPTION 'serialize' USING ERRCODE = 'serialization_failure'; END IF;
		WHEN 'canceled' THEN RAISE EXCEPTION 'as if' USING ERRCODE = 'query_canceled';
		WHEN 'create' THEN result := to_jsonb(tasker.create_task('act', '{"how": "none"}'));
		WHEN 'cancel_self' THEN PERFORM tasker.cancel_task(task);
		WHEN 'resolve_self' THEN
			PERFORM tasker.resolve_step(task, 'bad', '{"by": "itself"}');
		WHEN 'resolve_sibling' THEN PERFORM tasker.resolve_step(task, 'other', '{"by": "sibling"}');
		WHEN 'pause_self' THEN PERFORM tasker.pause_task(task);
		WHEN 'status' THEN
			SELECT jsonb_agg(s.state ORDER BY s.step_id) INTO result FROM tasker.step_status s WHERE s.task_id = task;
		ELSE NULL;
	END CASE;
	RETURN result;
END $$;
SQL
define($node, 'postgres', 'app', 'act', <<'JSON');
[{"name": "before", "function": "app.act"},
 {"name": "bad", "function": "app.act", "depends_on": ["before"], "timeout": "400 ms",
  "retry": {"max_attempts": 2, "base": "10 ms", "factor": 1, "jitter": 0}},
 {"name": "other", "function": "app.act", "depends_on": ["before"]},
 {"name": "after", "function": "app.act", "depends_on": ["bad"]}]
JSON

# Each way to behave badly, with good tasks before and after it in the same
# batches; what its task and step come to, the error, and how many effects the
# bad step has.
my %want = (
	none => 'complete complete 1 | 1',
	raise => 'error error 2 P0001 no | 0',
	raise_once => 'complete complete 2 P0001 no | 1',
	do_not_retry => 'error error 1 TK410 never | 0',
	retry_after => 'complete complete 2 TK411 later | 1',
	retry_when => 'complete complete 2 TK411 later | 1',
	nothing => 'complete complete 1 | 1',
	advisory => 'complete complete 1 | 1',
	settings => 'complete complete 1 | 1',
	subtransactions => 'complete complete 1 | 1',
	deferred => 'error error 2 23503 insert or update on table "child" violates foreign key constraint "child_id_fkey" | 0',
	deferred_ok => 'complete complete 1 | 1',
	temporary => 'complete complete 1 | 1',
	cursor => 'complete complete 1 | 1',
	prepared => 'complete complete 1 | 1',
	listen => 'error error 2 0A000 cannot execute LISTEN within a background process | 0',
	big => 'error error 1 TK400 | 0',
	large => 'complete complete 1 | 1',
	timeout => 'error error 2 TK402 step "bad" ran longer than its timeout | 0',
	catch_timeout => 'complete complete 1 | 1',
	statement_timeout => 'complete complete 1 | 1',
	recurse => 'error error 2 54001 stack depth limit exceeded | 0',
	deadlock => 'error error 2 40P01 deadlock | 0',
	serialization => 'complete complete 2 40001 serialize | 1',
	canceled => 'error error 2 57014 as if | 0',
	create => 'complete complete 1 | 1',
	cancel_self => 'cancelled cancelled 0 | 1',
	resolve_self => 'complete resolved_manually 0 | 1',
	resolve_sibling => 'complete complete 1 | 1',
	pause_self => 'paused complete 1 | 1',
	status => 'complete complete 1 | 1',
);
my @all = sort keys %want;
as_role($node, 'postgres', 'app', <<SQL);
SELECT tasker.create_tasks('act', ARRAY(
	SELECT jsonb_build_object('how', v.x, 'for', how.how) FROM unnest('{@{[ join ',', @all ]}}'::text[]) how (how),
	LATERAL (VALUES ('none'), (how.how), ('none')) AS v (x)));
SQL
my $over = wait_until($node, 'postgres', <<'SQL', 'every task is over or paused', 60);
NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))
SQL
diag($node->safe_psql('postgres', <<'SQL')) unless $over;
SELECT s.task_id, context ->> 'for', context ->> 'how', s.name, s.state, s.attempts, s.last_error ->> 'message' FROM tasker.step_status s JOIN tasker.tasks t USING (task_id)
WHERE t.state IN ('pending', 'in_progress') ORDER BY 1, s.step_id
SQL
foreach my $how (@all)
{
	my $got = $node->safe_psql('postgres', <<SQL);
SELECT concat_ws(' ', t.state, s.state, s.attempts, s.last_error ->> 'sqlstate',
	CASE WHEN s.last_error ->> 'sqlstate' <> 'TK400' THEN s.last_error ->> 'message' END, '|',
	(SELECT count(*) FROM app.effects x WHERE x.task_id = t.task_id AND x.step = 'bad'))
FROM tasker.tasks t JOIN tasker.step_status s ON s.task_id = t.task_id AND s.name = 'bad'
WHERE t.context ->> 'how' = '$how' ORDER BY t.task_id DESC LIMIT 1
SQL
	is($got, $want{$how}, $how);
}
is( $node->safe_psql('postgres', <<'SQL'), '', 'the good tasks around them are complete, with one effect a step');
SELECT t.task_id, t.context, s.name, s.state, count(x.task_id)
FROM tasker.tasks t JOIN tasker.step_status s USING (task_id)
	LEFT JOIN app.effects x ON x.task_id = s.task_id AND x.step = s.name
WHERE t.context ->> 'how' = 'none'
GROUP BY 1, 2, 3, 4 HAVING s.state <> 'complete' OR count(x.task_id) <> 1 ORDER BY 1, 3 LIMIT 5
SQL
is( $node->safe_psql('postgres', <<'SQL'), '', 'no other step has an effect that it should not have');
SELECT t.task_id, t.context, s.name, s.state, count(x.task_id)
FROM tasker.tasks t JOIN tasker.step_status s USING (task_id)
	LEFT JOIN app.effects x ON x.task_id = s.task_id AND x.step = s.name
WHERE s.name <> 'bad' GROUP BY 1, 2, 3, 4 HAVING (s.state = 'complete')::int <> count(x.task_id) ORDER BY 1, 3 LIMIT 5
SQL
is($node->safe_psql('postgres', "SELECT count(*) FROM app.effects WHERE step = 'rolled back'"), 0, 'subtransactions that were rolled back left nothing');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no advisory lock is held on');
# How long after it is not said: the one executor may be at steps that take 400 ms each.
is( $node->safe_psql('postgres', <<'SQL'), 't', 'after TK411 the next attempt was made after the time asked for');
SELECT s.last_attempted_at - f.at >= '300 ms'
FROM tasker.tasks t JOIN tasker.step_status s ON s.task_id = t.task_id AND s.name = 'bad',
	LATERAL (SELECT min(h.created_at) AS at FROM tasker.task_history h WHERE h.task_id = t.task_id AND h.step = 'bad'
	AND h.to_state = 'waiting_for_retry') f WHERE t.context ->> 'how' = 'retry_after'
SQL
is( $node->safe_psql('postgres', <<'SQL'), 't', 'an error is kept with its detail and hint');
SELECT last_error @> '{"sqlstate": "P0001", "message": "no", "detail": "because", "hint": "think"}'
FROM tasker.step_status s JOIN tasker.tasks t USING (task_id) WHERE t.context ->> 'how' = 'raise' AND s.name = 'bad'
SQL
is( $node->safe_psql('postgres', <<'SQL'), '4', 'a handler reads its own task');
SELECT jsonb_array_length(results) FROM tasker.step_status s JOIN tasker.tasks t USING (task_id)
WHERE t.context ->> 'how' = 'status' AND s.name = 'bad'
SQL
like( $node->safe_psql('postgres', <<'SQL'), qr/^cancelled$/m, 'a handler that cancels its own task cancels its descendants');
SELECT s.state FROM tasker.step_status s JOIN tasker.tasks t USING (task_id) WHERE t.context ->> 'how' = 'cancel_self' AND s.name = 'after'
SQL
is( $node->safe_psql('postgres', <<'SQL'), '{"by": "itself"}|{"by": "sibling"}', 'what handlers resolved has the results that they gave');
SELECT (SELECT s.results FROM tasker.step_status s JOIN tasker.tasks t USING (task_id) WHERE t.context ->> 'how' = 'resolve_self' AND s.name = 'bad'),
	(SELECT s.results FROM tasker.step_status s JOIN tasker.tasks t USING (task_id) WHERE t.context ->> 'how' = 'resolve_sibling' AND s.name = 'other')
SQL
$node->safe_psql('postgres', "SELECT tasker.resume_task(task_id) FROM tasker.tasks WHERE state = 'paused'");
wait_until($node, 'postgres', <<'SQL', 'a task that paused itself goes on when it is resumed');
(SELECT bool_and(state = 'complete') FROM tasker.tasks WHERE context ->> 'how' = 'pause_self')
SQL

note 'settings do not reach the next step';
define($node, 'postgres', 'app', 'who', '[{"name": "s", "function": "app.whoami"}]');
my $pids = join ',', pids_of($node, 'executor');
is( $node->safe_psql('postgres', <<'SQL'), 'complete', 'whoami runs');
SET SESSION AUTHORIZATION app;
SELECT tasker.create_task('who') AS id \gset
SELECT tasker.task_wait(:id, '10 s');
SQL
is( $node->safe_psql('postgres', <<'SQL'), '"$user", public|4MB|off', 'with its own settings');
SELECT results ->> 'search_path', results ->> 'work_mem', results ->> 'read_only' FROM tasker.step_status s WHERE results ? 'work_mem'
SQL

note 'cancel_task while the step runs';
define($node, 'postgres', 'app', 'effect', '[{"name": "s", "function": "app.effect", "retry": {"base": "10 s"}}]');
foreach my $after ('a success', 'a failure')
{
	# After a failure the executor is more careful: each step in a subtransaction.
	my $first = as_role($node, 'postgres', 'app', $after eq 'a success' ? "SELECT tasker.create_task('effect')"
		: qq(SELECT tasker.create_task('effect', '{"fail": "s", "times": 1}')));
	wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE task_id = $first AND attempts = 1)", "$after before it");
	my $task = as_role($node, 'postgres', 'app', qq(SELECT tasker.create_task('effect', '{"sleep": 20}')));
	wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executors() WHERE task_id = $task)", 'a step runs');
	my $begun = time;
	is(as_role($node, 'postgres', 'app', "SET statement_timeout = '10 s'; SELECT tasker.cancel_task($task)"), 't', 'cancel_task');
	cmp_ok(time - $begun, '<', 2, "after $after: returns at once");
	wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.executors() WHERE task_id = $task)", 'the handler is interrupted', 5);
	is($node->safe_psql('postgres', "SELECT state, attempts FROM tasker.workflow_steps WHERE task_id = $task"), 'cancelled|0', 'the step is cancelled');
	is($node->safe_psql('postgres', "SELECT count(*) FROM app.effects WHERE task_id = $task"), 0, 'what it did is rolled back');
	$node->safe_psql('postgres', "SELECT tasker.cancel_task($first)") if $after eq 'a failure';
}

note 'functions that change';
foreach my $change (
	[ 'DROP FUNCTION app.victim(jsonb)', 'TK107', qr/does not exist/ ],
	[ 'DROP FUNCTION app.victim(jsonb); CREATE FUNCTION app.victim(jsonb) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$', 'TK108', qr/it returns integer/ ],
	[ 'DROP FUNCTION app.victim(jsonb); CREATE FUNCTION app.victim(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT $1 $$', 'TK108', qr/it returns a set/ ],
	[ 'REVOKE EXECUTE ON FUNCTION app.victim(jsonb) FROM app, public', 'TK109', qr/permission denied/ ],
	[ 'REVOKE USAGE ON SCHEMA app2 FROM app, public', 'TK109', qr/permission denied for schema/ ])
{
	my ($sql, $sqlstate, $message) = @$change;
	my $schema = $sql =~ /app2/ ? 'app2' : 'app';
	$sql =~ s/app\.victim/$schema.victim/g;
	$node->safe_psql('postgres', <<SQL);
SET client_min_messages = error;
CREATE SCHEMA IF NOT EXISTS app2;
GRANT ALL ON SCHEMA app2 TO app;
DROP FUNCTION IF EXISTS $schema.victim(jsonb);
CREATE FUNCTION $schema.victim(jsonb) RETURNS jsonb LANGUAGE sql AS \$\$ SELECT '{}'::jsonb \$\$;
SQL
	define($node, 'postgres', 'app', "victim_$schema", qq([{"name": "s", "function": "$schema.victim"}]));
	my $wait = "SET SESSION AUTHORIZATION app; SELECT tasker.create_task('victim_$schema') AS id \\gset\nSELECT tasker.task_wait(:id, '10 s');";
	is($node->safe_psql('postgres', $wait), 'complete', 'it runs first');
	$node->safe_psql('postgres', $sql);
	is($node->safe_psql('postgres', $wait), 'error', $sql);
	my ($error) = $node->safe_psql('postgres', 'SELECT attempts, last_error ->> \'sqlstate\', last_error ->> \'message\' FROM tasker.step_status ORDER BY task_id DESC LIMIT 1');
	like($error, qr/^1\|$sqlstate\|.*$message/, 'says so, without a second attempt');
}
# Replaced in place, with an executor that knows the old one.
$node->safe_psql('postgres', <<'SQL');
SET client_min_messages = error;
DROP FUNCTION IF EXISTS app.victim(jsonb);
CREATE FUNCTION app.victim(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{"version": 1}'::jsonb $$;
SQL
foreach my $version (1, 2)
{
	$node->safe_psql('postgres', qq(CREATE OR REPLACE FUNCTION app.victim(jsonb) RETURNS jsonb LANGUAGE sql AS \$\$ SELECT '{"version": $version}'::jsonb \$\$));
	is($node->safe_psql('postgres', <<SQL), "complete\n{\"version\": $version}", "version $version of a function is called");
SET SESSION AUTHORIZATION app; SELECT tasker.create_task('victim_app') AS id \\gset
SELECT tasker.task_wait(:id, '10 s');
SELECT results FROM tasker.step_status WHERE task_id = :id;
SQL
}

note 'statements';
my @statements = (
	[ q(SELECT jsonb_build_object(''task'', $1 #> ''{task,context,n}'')), 'complete {"task": 5}' ],
	[ q(INSERT INTO app.effects (task_id, step) VALUES (($1 #>> ''{task,id}'')::bigint, ''sql'')), 'complete' ],
	[ q(INSERT INTO app.effects (task_id, step) VALUES (($1 #>> ''{task,id}'')::bigint, ''sql'') RETURNING to_jsonb(task_id IS NOT NULL)), 'complete true' ],
	[ q(SELECT to_jsonb(1) WHERE false), 'complete' ],
	[ q(SELECT 1), 'TK401' ],
	[ q(SELECT to_jsonb(1), 2), 'TK401' ],
	[ q(SELECT to_jsonb(i) FROM generate_series(1, 2) i), 'TK401' ],
	[ q(SELECT to_jsonb(1 / (($1 #>> ''{task,context,n}'')::int - 5))), '22012' ],
	[ q(SELECT to_jsonb(i) FROM app.no_such_table), 'TK117|42P01' ]);
my $n = 0;
foreach my $s (@statements)
{
	my ($sql, $want) = @$s;
	$n++;
	my ($rc, $out, $err) = $node->psql('postgres',
		qq(SELECT tasker.define_task('sql$n', '{"steps": [{"name": "s", "sql": "$sql", "retry": {"max_attempts": 1}}]}')),
		extra_params => [ '-U', 'app' ]);
	if ($rc != 0)
	{
		like($err, qr/ERROR/, "refused when it is defined: $sql");
		next;
	}
	like($node->safe_psql('postgres', <<SQL), qr/^(error )?\Q$want\E|^(error )?($want) *$/, $sql);
SET SESSION AUTHORIZATION app; SELECT tasker.create_task('sql$n', '{"n": 5}') AS id \\gset
SELECT tasker.task_wait(:id, '10 s') AS state \\gset
SELECT concat_ws(' ', :'state', results::text, last_error ->> 'sqlstate') FROM tasker.step_status WHERE task_id = :id;
SQL
}

note 'a slow handler next to fast ones';
$node->safe_psql('postgres', 'ALTER SYSTEM SET tasker.max_executors_per_role = 2');
$node->reload;
define($node, 'postgres', 'app', 'fast', '[{"name": "s", "function": "app.effect"}, {"name": "t", "function": "app.effect", "depends_on": ["s"]}]');
$node->safe_psql('postgres', <<'SQL');
SET ROLE app;
CREATE FUNCTION app.slow(input jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep((input #>> '{task,context,sleep}')::float8); END $$;
SQL
define($node, 'postgres', 'app', 'slow', '[{"name": "s", "function": "app.slow"}]');
# The executor knows both: the slow one is slow, the fast one fast.
as_role($node, 'postgres', 'app', <<'SQL');
SELECT tasker.create_task('slow', '{"sleep": 0.1}') FROM generate_series(1, 4);
SELECT count(*) FROM tasker.create_tasks('fast', array_fill('{}'::jsonb, ARRAY[2000]));
SQL
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))", 'warmed up');
foreach my $order ('first', 'in the middle')
{
	my $fast = "SELECT count(*) FROM tasker.create_tasks('fast', array_fill('{\"round\": \"$order\"}'::jsonb, ARRAY[300]));";
	as_role($node, 'postgres', 'app', 'BEGIN;' . ($order eq 'first' ? '' : $fast)
		  . q(SELECT tasker.create_task('slow', '{"sleep": 4}');) . $fast . 'COMMIT');
	wait_until($node, 'postgres', <<SQL, "the slow one $order: all the fast ones are complete while it runs", 3);
NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress') AND context ->> 'round' = '$order')
AND EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress') AND context ->> 'sleep' = '4')
SQL
	wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))", 'then it is, too');
}

is(count_in_log($node, 0, qr/terminated by signal|PANIC|TRAP|leak/), 0, 'no crash and no leak in all this');
$node->stop;
done_testing();
