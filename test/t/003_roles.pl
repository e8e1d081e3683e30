# Steps run as their submitter: in a session of that role, with what that role
# may do and what it has set, and not at all once there is no such role.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('roles');

sub setup
{
	my ($role, %o) = @_;
	new_role($node, $role, 'postgres', %o);
	$node->safe_psql('postgres', "GRANT CONNECT ON DATABASE postgres TO \"$role\"");
	define($node, 'postgres', $role, "effect_$role", qq([{"name": "s", "function": "\\"$role\\".effect", "retry": {"base": "100 ms"}}]));
	define($node, 'postgres', $role, "whoami_$role", qq([{"name": "s", "function": "\\"$role\\".whoami"}]));
}

sub create { my ($role, $name, $context) = @_; $context //= '{}';
	return as_role($node, 'postgres', $role, "SELECT tasker.create_task('${name}_$role', '$context')"); }

# The state of the task once it is over, and the last error of its step.
sub outcome
{
	my ($task) = @_;
	return $node->safe_psql('postgres', "SELECT tasker.task_wait($task, '20 s')") . ': '
	  . $node->safe_psql('postgres', "SELECT COALESCE(last_error ->> 'sqlstate' || ' ' || (last_error ->> 'message'), results::text, '')"
		  . " FROM tasker.step_status WHERE task_id = $task AND step_id = 1");
}

sub result { return $node->safe_psql('postgres', "SELECT results ->> '$_[1]' FROM tasker.step_status WHERE task_id = $_[0]"); }

sub check_who
{
	my ($role, $what, %want) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $task = create($role, 'whoami');
	like(outcome($task), qr/^complete/, "$what: runs");
	%want = (session_user => $role, current_user => $role, read_only => 'off', isolation => 'read committed', %want);
	is(result($task, $_), $want{$_}, "$what: $_") foreach sort keys %want;
}

$node->safe_psql('postgres', 'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC');
$node->safe_psql('postgres', 'DROP SCHEMA app CASCADE');
setup($_) foreach 'app', 'Ten-Two';

note 'who runs it';
check_who('app', 'an ordinary role');
check_who('Ten-Two', 'a role that has to be quoted');

note 'what ALTER ROLE … SET did';
setup('set_up');
$node->safe_psql('postgres', <<'SQL');
GRANT app TO set_up;
ALTER ROLE set_up SET role = 'app';
ALTER ROLE set_up SET statement_timeout = '10s';
ALTER ROLE set_up SET lock_timeout = '1ms';
ALTER ROLE set_up SET idle_in_transaction_session_timeout = '1ms';
ALTER ROLE set_up SET default_transaction_read_only = on;
ALTER ROLE set_up SET default_transaction_isolation = 'serializable';
ALTER ROLE set_up SET row_security = off;
ALTER ROLE set_up SET search_path = 'set_up', 'app';
ALTER ROLE set_up SET work_mem = '5MB';
ALTER ROLE set_up SET session_replication_role = 'replica';
ALTER ROLE set_up SET transform_null_equals = on;
ALTER ROLE set_up SET "IntervalStyle" = 'sql_standard';
ALTER ROLE set_up SET enable_indexscan = off;
SQL
# Its own psql would have those settings, too.
my $task = $node->safe_psql('postgres', <<'SQL');
SET SESSION AUTHORIZATION set_up;
SELECT tasker.create_task('whoami_set_up');
SQL
like(outcome($task), qr/^complete/, 'the steps of a role with such settings run');
is(result($task, 'session_user'), 'set_up', 'in a session of the role');
is(result($task, 'current_user'), 'set_up', 'as the role');
is(result($task, 'search_path'), 'set_up, app', 'with its search_path');
is(result($task, 'work_mem'), '5MB', 'with its work_mem');
is(result($task, 'read_only'), 'off', 'able to write');
$task = $node->safe_psql('postgres', <<'SQL');
SET SESSION AUTHORIZATION set_up;
SELECT tasker.create_task('effect_set_up', '{"sleep": 0.1, "fail": "s", "times": 1}');
SQL
like(outcome($task), qr/^complete/, 'a slow one that fails first as well');
is($node->safe_psql('postgres', 'SELECT count(*) FROM set_up.effects'), 1, 'with one effect');

setup('hasty');
$node->safe_psql('postgres', "ALTER ROLE hasty SET statement_timeout = '200ms'");
like(outcome(as_role($node, 'postgres', 'hasty', qq(SELECT tasker.create_task('effect_hasty', '{"sleep": 20}')))), qr/^error: TK402/,
	"a role's statement_timeout limits its steps");

note 'what a handler may not gain';
$node->safe_psql('postgres', <<'SQL');
SET ROLE app;
CREATE FUNCTION app.climb(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE input #>> '{task,context,try}';
	RETURN jsonb_build_object('current_user', current_user, 'session_user', session_user,
		'super', current_setting('is_superuser'));
END $$;
RESET ROLE;
CREATE ROLE bystander;
CREATE ROLE granted;
GRANT granted TO app;
SQL
define($node, 'postgres', 'app', 'climb_app', '[{"name": "s", "function": "app.climb", "retry": {"max_attempts": 1}}]');
my %tries = (
	'SET ROLE postgres' => 'error: 42501',
	'SET ROLE bystander' => 'error: 42501',
	'SET SESSION AUTHORIZATION postgres' => 'error: 42501',
	'SET SESSION AUTHORIZATION bystander' => 'error: 42501',
	'RESET ROLE' => 'complete: {"super": "off", "current_user": "app", "session_user": "app"}',
	'RESET SESSION AUTHORIZATION' => 'complete: {"super": "off", "current_user": "app", "session_user": "app"}',
	'RESET ALL' => 'complete: {"super": "off", "current_user": "app", "session_user": "app"}',
	'SET ROLE granted' => 'complete: {"super": "off", "current_user": "granted", "session_user": "app"}',
	'SET LOCAL ROLE granted' => 'complete: {"super": "off", "current_user": "granted", "session_user": "app"}',
	'SET session_replication_role = replica' => 'error: 42501',
	'TRUNCATE tasker.tasks' => 'error: 42501',
	'UPDATE tasker.tasks SET priority = 1' => 'error: 42501',
	'DELETE FROM tasker.ready_queue' => 'error: 42501',
);
foreach my $try (sort keys %tries)
{
	like(outcome(create('app', 'climb', qq({"try": "$try"}))), qr/^\Q$tries{$try}/, $try);
	$task = create('app', 'whoami');
	like(outcome($task), qr/^complete.*"current_user": "app".*"session_user": "app"/, "$try: nothing of it is left for the next step");
}

note 'a superuser';
new_role($node, 'boss', 'postgres', attributes => 'SUPERUSER LOGIN');
define($node, 'postgres', 'boss', 'effect_boss', '[{"name": "s", "function": "boss.effect", "retry": {"base": "100 ms"}}]');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT tasker.create_task('effect_boss')", extra_params => [ '-U', 'boss' ]);
like($err, qr/superuser/, "a superuser's task is refused when it is submitted");
$node->safe_psql('postgres', 'ALTER SYSTEM SET tasker.allow_superuser_steps = on');
$node->reload;
like(outcome(create('boss', 'effect')), qr/^complete/, 'tasker.allow_superuser_steps = on: it runs');
$task = create('boss', 'effect', '{"fail": "s", "times": 2}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE task_id = $task AND state = 'waiting_for_retry')", 'one waits for its retry');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET tasker.allow_superuser_steps');
$node->reload;
like(outcome($task), qr/^error: TK403 role "boss".* is a superuser/, 'switched off, with an executor there: refused');
setup('risen');
like(outcome(create('risen', 'effect')), qr/^complete/, 'an ordinary role has an executor');
$task = as_role($node, 'postgres', 'risen', "SELECT tasker.create_task('whoami_risen', start_at => clock_timestamp() + '500 ms')");
$node->safe_psql('postgres', 'ALTER ROLE risen SUPERUSER');
like(outcome($task), qr/^error: TK403 role "risen".* is a superuser/, 'made a superuser meanwhile: refused');

note 'renamed';
setup('before');
like(outcome(create('before', 'effect')), qr/^complete/, 'before the renaming');
my $renamed = create('before', 'effect', '{"fail": "s", "times": 1}');
my $later = as_role($node, 'postgres', 'before', "SELECT tasker.create_task('whoami_before', start_at => clock_timestamp() + '300 ms')");
$node->safe_psql('postgres', 'ALTER ROLE before RENAME TO "After"');
like(outcome($renamed), qr/^complete/, 'renamed with work waiting: it goes on');
like(outcome($later), qr/^complete.*"After"/, 'under the new name');
terminate($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE usename = 'After' AND backend_type = 'tasker executor'");
$node->safe_psql('postgres', "SELECT tasker.grant_access('After', 'submitter')");
$task = as_role($node, 'postgres', 'After', "SELECT tasker.create_task('whoami_before')");
like(outcome($task), qr/^complete.*"After"/, 'and tasks created after it run');

# Nobody has looked at its work since the renaming: what it defined is its own all the same.
setup('fore');
$node->safe_psql('postgres', 'ALTER ROLE fore RENAME TO "Aft"; SELECT tasker.grant_access(\'Aft\', \'submitter\')');
$task = as_role($node, 'postgres', 'Aft', "SELECT tasker.create_task('whoami_fore')");
like(outcome($task), qr/^complete.*"Aft"/, 'and those created before anything of it ran');

note 'roles that can have no session any more';
my %gone = (
	dropped => [ 'DROP OWNED BY %s; DROP ROLE %s', qr/^error: TK403 role "%s".*does not exist/ ],
	nologin => [ 'ALTER ROLE %s NOLOGIN', qr/^error: TK403 role "%s".*may not log in/ ],
	noconnect => [ 'REVOKE CONNECT ON DATABASE postgres FROM %s', qr/^error: TK403 role "%s".*may not connect/ ],
);
foreach my $executor ('none', 'idle')
{
	foreach my $how (sort keys %gone)
	{
		my ($sql, $pattern) = @{ $gone{$how} };
		my $role = "${how}_$executor";
		setup($role);
		# What is waiting must outlast the role, its functions and its rights.
		my $at = "start_at => clock_timestamp() + '1500 ms'";
		$node->safe_psql('postgres', 'SELECT tasker.stop()') if $executor eq 'none';
		like(outcome(create($role, 'effect')), qr/^complete/, "$role: worked before") if $executor eq 'idle';
		my @tasks = split /\n/, as_role($node, 'postgres', $role, "SELECT tasker.create_task('whoami_$role', $at) FROM generate_series(1, 3)");
		(my $do = $sql) =~ s/%s/$role/g;
		$node->safe_psql('postgres', $do);
		$node->safe_psql('postgres', 'SELECT tasker.start()') if $executor eq 'none';
		(my $want = $pattern) =~ s/%s/$role/;
		my $others = create('app', 'effect');
		like(outcome($_), qr/$want/, "$role: its task fails with a clear error") foreach @tasks;
		like(outcome($others), qr/^complete/, "$role: another role's goes on");
	}
}
{
	# Hundreds of them are told quickly.
	setup('crowd');
	$node->safe_psql('postgres', 'SELECT tasker.stop()');
	as_role($node, 'postgres', 'crowd', "SELECT count(*) FROM tasker.create_tasks('effect_crowd', array_fill('{}'::jsonb, ARRAY[500]))");
	$node->safe_psql('postgres', 'ALTER ROLE crowd NOLOGIN; SELECT tasker.start()');
	wait_until($node, 'postgres',
		"(SELECT count(*) FROM tasker.task_status WHERE owner = 'crowd' AND state = 'error') = 500",
		'hundreds of tasks without a role fail within seconds', 5);
	$node->safe_psql('postgres', 'ALTER ROLE crowd LOGIN');
	$node->safe_psql('postgres', "SELECT tasker.retry_task(task_id) FROM tasker.task_status WHERE owner = 'crowd'");
	wait_until($node, 'postgres',
		"(SELECT count(*) FROM tasker.task_status WHERE owner = 'crowd' AND state = 'complete') = 500",
		'and can be retried when the role may log in again');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM crowd.effects'), 500, 'once each');
}
unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing();
