# What one tenant can do to the processes, and by them to another tenant: ending
# them, interrupting them, keeping them waiting, leaving things behind in them;
# and what its steps are in them that they are not in its own sessions.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('attacks', conf => "tasker.executor_idle_timeout = 3600\n");
new_role($node, $_) foreach 'mal', 'vic';

sub sql { return $node->safe_psql('postgres', $_[0]); }

# The SQLSTATE of a statement of the role's, or 00000.
sub sqlstate
{
	my ($role, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);
	return $err =~ /ERROR:  (\w{5}):/ ? $1 : $err ne '' ? $err : '00000';
}

# Defines and creates a task of one function with the body, and gives its id.
sub task
{
	my ($role, $name, $body, %o) = @_;
	my $step = $o{step} // qq("retry": {"max_attempts": 1});
	as_role($node, 'postgres', $role, <<SQL);
CREATE FUNCTION $role.$name(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$h\$ $body \$h\$;
SELECT tasker.define_task('$name', '{"steps": [{"name": "a", "function": "$role.$name", $step}]}', '$role');
SQL
	return as_role($node, 'postgres', $role, "SELECT tasker.create_task('$name', namespace => '$role')");
}

sub outcome
{
	my ($task, $step) = @_;
	$step //= 1;
	return sql("SELECT tasker.task_wait($task, '20 s')") . ' '
	  . sql("SELECT concat_ws(' ', state, attempts, last_error ->> 'sqlstate', results #>> '{}') FROM tasker.step_status WHERE task_id = $task AND step_id = $step");
}

note 'as whom';
as_role($node, 'postgres', 'mal', <<'SQL');
CREATE TABLE mal.loot (what text, who name DEFAULT current_user, session name DEFAULT session_user, super text DEFAULT current_setting('is_superuser'));
CREATE FUNCTION mal.later() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RESET ROLE;
	RESET SESSION AUTHORIZATION;
	INSERT INTO mal.loot VALUES ('trigger');
	RETURN NULL;
END $$;
CREATE TABLE mal.deferred ();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON mal.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mal.later();
CREATE FUNCTION mal.loot(what text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RESET ROLE; INSERT INTO mal.loot VALUES (what); RETURN what; END$$;
SQL
like(outcome(task('mal', 'deferred', q(BEGIN INSERT INTO mal.deferred DEFAULT VALUES; RETURN NULL; END))), qr/^complete/, 'a step with a deferred trigger');
as_role($node, 'postgres', 'mal', q(SELECT tasker.define_task('held', '{"steps": [{"name": "a", "sql": "DECLARE held CURSOR WITH HOLD FOR SELECT mal.loot(''cursor'')"}]}', 'mal')));
my $held = "SELECT tasker.create_task('held', namespace => 'mal')";
like(outcome(as_role($node, 'postgres', 'mal', $held)), qr/^complete/, 'a step with a cursor that is run at the commit');
is(sql("SELECT string_agg(DISTINCT concat_ws(' ', what, who, session, super), ', ' ORDER BY concat_ws(' ', what, who, session, super)) FROM mal.loot"),
	'cursor mal mal off, trigger mal mal off', 'run as their role at the commit, too');

note 'what is left behind';
like(outcome(as_role($node, 'postgres', 'mal', $held)), qr/^complete 1|^complete complete 1/, 'the cursor of another batch is gone');
task('mal', 'leave', q(BEGIN
	CREATE TEMP TABLE workflow_steps (state text);
	CREATE TEMP TABLE effects (mine int);
	EXECUTE 'PREPARE p AS SELECT 1';
	PERFORM pg_advisory_lock(1), set_config('search_path', 'pg_temp, mal', false), set_config('work_mem', '1MB', false), set_config('transaction_read_only', 'on', false);
	RETURN NULL; END));
my $found = task('mal', 'find', q(BEGIN
	RETURN to_jsonb(concat_ws(' ', (SELECT count(*) FROM pg_class WHERE pg_is_other_temp_schema(relnamespace) IS FALSE AND relnamespace = pg_my_temp_schema()), (SELECT count(*) FROM pg_prepared_statements),
		(SELECT count(*) FROM pg_cursors WHERE is_holdable), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), current_setting('work_mem'), current_setting('transaction_read_only'))); END));
sql("SELECT tasker.task_wait(task_id, '20 s') FROM tasker.tasks");
is(outcome($found), 'complete complete 1 0 0 0 0 4MB off', 'tables, statements, cursors, locks, settings of a step are gone with its batch');
is(outcome(task('mal', 'listen', q(BEGIN LISTEN tasker; RETURN NULL; END))), 'error error 1 0A000', 'nobody listens in an executor, where nobody would hear');

note 'ending processes';
foreach my $type ('launcher', 'scheduler')
{
	my ($pid) = pids_of($node, $type);
	is(sqlstate('mal', "SELECT pg_terminate_backend($pid)"), '42501', "a tenant does not terminate the $type");
	is(sqlstate('mal', "SELECT pg_cancel_backend($pid)"), '42501', "nor cancel it");
}
like(outcome(task('vic', 'own', q(BEGIN RETURN '1'; END))), qr/^complete/, "a step of the victim's");
my $vics = sql("SELECT min(pid) FROM pg_stat_activity WHERE usename = 'vic' AND backend_type = 'tasker executor'");
is(sqlstate('mal', "SELECT pg_terminate_backend($vics)"), '42501', "nor the victim's executor");
is(sqlstate('mal', "SELECT pg_cancel_backend($vics)"), '42501', 'nor cancel it');
is(sqlstate('mal', 'SELECT tasker.stop()'), 'TK500', 'nor stop all of it');

my $suicide = q(BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NULL; END);
# The executor's own message is another one before PostgreSQL 14.
my $died = 'background worker "tasker executor" \(PID \d+\) exited with exit code 1';
my $log = log_size($node);
# the first time is free
is(outcome(task('mal', 'suicide', $suicide, step => '"retry": {"max_attempts": 2, "base": "10 ms", "cap": "10 ms"}')), 'error error 2 TK430', 'a step that ends its executor has so many attempts and no more');
cmp_ok(count_in_log($node, $log, $died), '<=', 4, 'and ended no more executors than that');
as_role($node, 'postgres', 'mal', q(SELECT tasker.define_task('child', '{"steps": [{"name": "a", "function": "mal.effect"}, {"name": "b", "function": "mal.suicide", "depends_on": ["a"], "retry": {"max_attempts": 1}}]}', 'mal')));
my $child = as_role($node, 'postgres', 'mal', "SELECT tasker.create_task('child', namespace => 'mal')");
is(outcome($child, 2), 'error error 1 TK430', 'nor has one whose parent would run in the same batch');
is(sql("SELECT count(*) FROM mal.effects WHERE task_id = $child"), 1, 'whose effect is there once');
like(outcome(task('mal', 'alive', q(BEGIN RETURN '1'; END))), qr/^complete/, 'and the role\'s other steps go on');

# Steps that were cut off run one at a time, under a lock that is not anybody's.
my $advisory = in_background($node, 'postgres', 'mal', 'SELECT pg_advisory_lock(1413567307, 430), pg_advisory_lock((1413567307::bigint << 32) + 430), pg_sleep(60)');
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'mal' AND wait_event = 'PgSleep')", 'a tenant holds advisory locks');
like(outcome(task('vic', 'cut', q(BEGIN IF input #>> '{task,context,x}' IS NULL AND (input #>> '{step,attempt}')::int < 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); END IF; RETURN '1'; END),
		step => '"retry": {"max_attempts": 3, "base": "10 ms", "cap": "10 ms"}')), qr/^complete complete 2/, "a victim's step that was cut off is run again all the same");
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'mal' AND wait_event = 'PgSleep'");
finish_background($advisory);

note 'interrupting';
define($node, 'postgres', 'mal', 'many', '[{"name": "a", "queue": "many"}]');
# Not what a transaction leaves behind, so each beginning of the step counts.
as_role($node, 'postgres', 'vic', <<'SQL');
CREATE SEQUENCE vic.begun;
CREATE FUNCTION vic.slow(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN PERFORM nextval('vic.begun'), pg_sleep(1); RETURN NULL; END$$;
SQL
define($node, 'postgres', 'vic', 'slow', '[{"name": "a", "function": "vic.slow", "retry": {"max_attempts": 1}}]');
my $victim = as_role($node, 'postgres', 'vic', q(SELECT tasker.create_task('slow')));
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executing WHERE task_id = $victim)", 'the victim\'s step runs');
as_role($node, 'postgres', 'mal', "SELECT count(*) FROM tasker.create_tasks('many', array_fill('{}'::jsonb, '{100}'))");
is(as_role($node, 'postgres', 'mal', "SELECT count(tasker.cancel_task(task_id)) FROM tasker.task_status WHERE name = 'many'"), 100, 'a tenant cancels a hundred tasks at once');
is(sql("SELECT tasker.task_wait($victim, '20 s')"), 'complete', 'the victim\'s step ends');
is(sql('SELECT last_value FROM vic.begun'), 1, 'and was not begun anew');

note 'keeping the scheduler waiting';
# A transaction of the role that has its task, or a step of it, locked by an operator's function.
sub hold
{
	my ($role, $task, $call) = @_;
	$call //= "tasker.resume_task($task)";
	my $b = in_background($node, 'postgres', $role, "BEGIN; SELECT $call; SELECT pg_sleep(60)");
	wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = '$role' AND wait_event = 'PgSleep')", "$role has its task locked");
	return $b;
}

sub let_go
{
	my ($role, $b) = @_;
	sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = '$role' AND wait_event = 'PgSleep'");
	finish_background($b);
}

define($node, 'postgres', 'mal', 'leased', '[{"name": "a", "queue": "leased", "retry": {"max_attempts": 1}}]');
define($node, 'postgres', 'vic', 'retried', '[{"name": "a", "function": "vic.effect", "retry": {"base": "300 ms"}}]');
my $leased = as_role($node, 'postgres', 'mal', "SELECT tasker.create_task('leased')");
as_role($node, 'postgres', 'mal', "SELECT * FROM tasker.claim_steps('{leased}', 'w', 1, '1 s')");
my $holder = hold('mal', $leased);
wait_until($node, 'postgres', "(SELECT lease_expires_at < clock_timestamp() - interval '100 ms' AND state = 'in_progress' FROM tasker.workflow_steps WHERE task_id = $leased)", 'a lease ran out, and the lock is in the way');
my $retried = as_role($node, 'postgres', 'vic', q(SELECT tasker.create_task('retried', '{"fail": "a", "times": 2}')));
is(sql("SELECT tasker.task_wait($retried, '10 s')"), 'complete', "the victim's retries come");
let_go('mal', $holder);
is(outcome($leased), 'error error 1 TK421', 'the lease is seen to after it');

# The same with a step whose time to be retried comes.
define($node, 'postgres', 'mal', 'later', '[{"name": "a", "function": "mal.effect", "retry": {"base": "500 ms", "factor": 1, "jitter": 0}}]');
my $later = as_role($node, 'postgres', 'mal', q(SELECT tasker.create_task('later', '{"fail": "a", "times": 1}')));
wait_until($node, 'postgres', "(SELECT state = 'waiting_for_retry' FROM tasker.workflow_steps WHERE task_id = $later)", 'a step waits for its retry');
$holder = hold('mal', $later, "tasker.retry_step($later, 1)");
wait_until($node, 'postgres', "(SELECT next_attempt_at < clock_timestamp() - interval '100 ms' FROM tasker.workflow_steps WHERE task_id = $later)", 'its time comes');
$retried = as_role($node, 'postgres', 'vic', q(SELECT tasker.create_task('retried', '{"fail": "a", "times": 1}')));
is(sql("SELECT tasker.task_wait($retried, '10 s')"), 'complete', "the victim's retries come");
let_go('mal', $holder);
like(outcome($later), qr/^complete complete 2 /, 'the other one after it');

# With a task that the scheduler is to look at again.
my $again = as_role($node, 'postgres', 'mal', "SELECT tasker.create_task('leased')");
$holder = hold('mal', $again);
sql("INSERT INTO tasker.timers (due_at, task_id, step_id) VALUES (clock_timestamp(), $again, 0)");
$retried = as_role($node, 'postgres', 'vic', q(SELECT tasker.create_task('retried', '{"fail": "a", "times": 1}')));
is(sql("SELECT tasker.task_wait($retried, '10 s')"), 'complete', "the victim's retries come");
is(sql("SELECT count(*) FROM tasker.timers WHERE step_id = 0"), 1, 'while the task is left for later');
let_go('mal', $holder);

# With a step whose process ended.
my $ended = as_role($node, 'postgres', 'mal', "SELECT tasker.create_task('suicide', namespace => 'mal', start_at => clock_timestamp() + '500 ms')");
$holder = hold('mal', $ended);
$log = log_size($node);
until_true(sub { count_in_log($node, $log, $died) > 0 }, 'an executor is ended by its step');
$retried = as_role($node, 'postgres', 'vic', q(SELECT tasker.create_task('retried', '{"fail": "a", "times": 1}')));
is(sql("SELECT tasker.task_wait($retried, '10 s')"), 'complete', "the victim's retries come");
wait_until($node, 'postgres', "clock_timestamp() > (SELECT requested_at + interval '1500 ms' FROM tasker.tasks WHERE task_id = $ended)", 'a second goes by');
cmp_ok(count_in_log($node, $log, $died), '<=', 4, 'in which it ends no executor after the other');
let_go('mal', $holder);
is(outcome($ended), 'error error 2 TK430', 'and it has so many attempts as any other');

# With a step that is to be refused, since its role may not log in.
new_role($node, 'out');
define($node, 'postgres', 'out', 'refused', '[{"name": "a", "function": "out.effect"}]');
sql('SELECT tasker.stop()');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NULL', 'no scheduler runs');
my $refused = as_role($node, 'postgres', 'out', "SELECT tasker.create_task('refused')");
$retried = as_role($node, 'postgres', 'vic', "SELECT tasker.create_task('retried')");
$holder = hold('out', $refused);
sql('ALTER ROLE out NOLOGIN; SELECT tasker.start()');
is(sql("SELECT tasker.task_wait($retried, '10 s')"), 'complete', "the victim's step is run");
is(sql("SELECT state FROM tasker.workflow_steps WHERE task_id = $refused"), 'enqueued', 'while one of a role that may not log in waits for the lock');
let_go('out', $holder);
is(outcome($refused), 'error error 1 TK403', 'and is refused after it');

check_consistent($node, 'postgres');
unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;

note 'a limit set before the library is loaded';
my $bare = new_node('bare', preload => 0);
my ($rc, $out, $err) = $bare->psql('postgres', "SET tasker.max_steps = 1000000; SELECT tasker.access_level(); SHOW tasker.max_steps", extra_params => [ '-U', 'app' ]);
is($out, "submitter\n20000", 'does not count');
$bare->stop;
done_testing();
