# What doctor() finds of the server, its processes and settings, and that it does
# not any more when that is put right. The rest is in test/sql/doctor.sql.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

# One background worker for the launcher, one for replication's, one for the scheduler.
my $node = new_node('doctor', streaming => 'logical', conf => <<CONF);
max_worker_processes = 3
max_prepared_transactions = 2
autovacuum = off
autovacuum_freeze_max_age = 100000
CONF
$node->safe_psql('postgres', "CREATE ROLE viewer LOGIN; SELECT tasker.grant_access('viewer', 'viewer')");
my $clock = create_fault_functions($node) ? "SET tasker.clock = '2100-01-01';" : '';

# What the doctor says of a problem, to somebody who may see it, as "detail; hint".
sub says
{
	my ($problem) = @_;
	return as_role($node, 'postgres', 'viewer', "$clock SELECT detail || '; ' || hint FROM tasker.doctor() WHERE problem = '$problem'");
}

# It finds the problem until it is put right.
sub is_cured
{
	my ($problem, $pattern, $cure) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(says($problem), $pattern, $problem);
	$cure->();
	return until_true(sub { says($problem) eq '' }, '... until it is put right');
}

sub set
{
	my ($setting, $value) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = '$value'");
	$node->reload;
	return until_true(sub { $node->safe_psql('postgres', "SHOW $setting") eq $value }, "$setting = $value");
}

note 'processes';
define($node, 'postgres', 'app', 'one', '[{"name": "a", "function": "app.effect"}]');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NOT NULL', 'a scheduler');
as_role($node, 'postgres', 'app', q(SELECT tasker.create_task('one')));
SKIP:
{
	skip 'needs a clock that can be set', 3 if $clock eq '';
	like(says('nobody runs the ready steps of a role'), qr/^Step 1 \("a"\) of task 1 is ready to run, but the server has no background worker left.*; SELECT tasker.explain_step\(1, 1\)/,
		'nobody runs the ready steps of a role');
}
like(says('the server has no background worker left'), qr/^All of max_worker_processes \(3\) are taken.; Raise/, 'the server has no background worker left');
is_cured('max_worker_processes is too small', qr/^It is 3; a launcher, schedulers \(1\), tasker.max_executors \(16\) and logical replication's launcher may want 19/,
	sub { $node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 24'); $node->restart });
wait_until($node, 'postgres', "(SELECT state = 'complete' FROM tasker.tasks)", 'the step is run');
is(says($_), '', "no more: $_") foreach 'nobody runs the ready steps of a role', 'the server has no background worker left';
is_cured('no scheduler runs', qr/tasker.start/, sub { $node->safe_psql('postgres', 'SELECT tasker.start()') })
  if $node->safe_psql('postgres', 'SELECT tasker.stop(); SELECT pg_sleep(0.1)') . wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NULL', 'stopped');
set('tasker.enabled', 'off');
is_cured('tasker is switched off', qr/^tasker.enabled is off on this server.; ALTER SYSTEM/, sub { set('tasker.enabled', 'on') });

note 'vacuum';
is_cured('autovacuum is off', qr/^autovacuum is off on this server.; .*Set it on/, sub { set('autovacuum', 'on') });
is_cured('fsync is off', qr/; ALTER SYSTEM SET fsync = on/, sub { set('fsync', 'on') });
set('fsync', 'off');
$node->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')");
is_cured('a replication slot holds back vacuum', qr/^Slot forgotten, inactive.; .*drop it/, sub { $node->safe_psql('postgres', "SELECT pg_drop_replication_slot('forgotten')") });

# A session that has its snapshot still, and 220000 transactions after it.
my $reader = in_background($node, 'postgres', 'app', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep(600)");
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep')", 'a session has a transaction open');
$node->safe_psql('postgres', <<'SQL');
CREATE TEMP TABLE burnt (i int);
DO $$ BEGIN FOR i IN 1 .. 220000 LOOP BEGIN INSERT INTO burnt VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
SQL
like(says('a table is not frozen'), qr/^Table tasker\.\S+ has rows from \d{6} transactions ago.*; .*VACUUM FREEZE tasker\./m, 'a table is not frozen');
my $end = sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep'"); finish_background($reader) };
if ($clock ne '') { is_cured('a session holds back vacuum', qr/^Process \d+ of role app has had a transaction open since .*; .*pg_terminate_backend/, $end); }
else { $end->(); }
$node->safe_psql('postgres', 'VACUUM FREEZE');
is(says('a table is not frozen'), '', 'no more: a table is not frozen');

if ($clock ne '')
{
	$node->safe_psql('postgres', "BEGIN; CREATE TABLE prepared (); PREPARE TRANSACTION 'forgotten'");
	is_cured('a prepared transaction holds back vacuum', qr/^'forgotten', prepared .*; COMMIT PREPARED/, sub { $node->safe_psql('postgres', "ROLLBACK PREPARED 'forgotten'") });

	note 'retention';
	$node->safe_psql('postgres', 'SELECT tasker.stop()');
	wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NULL', 'nobody removes tasks');
	set('tasker.retention', '1d');
	is_cured('retention is behind', qr/^1 tasks ended before .*, the first one at .*; .*SELECT tasker.expire\(\)/,
		sub { $node->safe_psql('postgres', "$clock SELECT tasker.expire()") for 1 .. 2 });
	as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one')");
	$node->safe_psql('postgres', "SELECT tasker.cancel_task(task_id) FROM tasker.tasks");
	my $holder = in_background($node, 'postgres', 'postgres', 'BEGIN; SELECT FROM tasker.workflow_steps FOR UPDATE; SELECT pg_sleep(600)');
	wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND wait_event = 'PgSleep')", 'somebody has a task locked');
	# the history goes on to another leaf, and then the last one is looked through
	$node->safe_psql('postgres', "SET tasker.clock = '$_-01-01'; SELECT tasker.expire()") foreach 2101 .. 2103;
	is_cured('tasks that are to go are locked', qr/^1, the first one is \d+.; .*end its transaction/, sub {
		$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
		finish_background($holder);
		$node->safe_psql('postgres', "SET tasker.clock = '2104-01-01'; SELECT tasker.expire()") });
	$node->safe_psql('postgres', 'SELECT tasker.start()');
}
is($node->safe_psql('postgres', "SELECT string_agg(problem, ', ') FROM tasker.doctor()"), 'fsync is off', 'but for what tests do without, nothing is wrong with it');
unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing();
