# When tasker's processes come, stay and go.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('lifecycle', extension => 0, streaming => 1);
my $one = 'tasker.scheduler_pid() IS NOT NULL';
my $schedulers = "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tasker scheduler')";
my $executors = "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'tasker executor')";

# One step that takes so long as its context says.
sub one_step
{
	my ($db, $role) = @_;
	new_role($node, $role, $db);
	define($node, $db, $role, "one_$role", qq([{"name": "s", "function": "$role.effect", "retry": {"base": "300 ms"}}]));
}

sub create
{
	my ($db, $role, $n, $context) = @_;
	$context //= '{}';
	as_role($node, $db, $role, "SELECT count(*) FROM tasker.create_tasks('one_$role', array_fill('$context'::jsonb, ARRAY[$n]))");
}

sub wait_all_complete
{
	my ($db, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, $db, "NOT EXISTS (SELECT FROM tasker.tasks WHERE state <> 'complete')", $what);
}

note 'CREATE EXTENSION';
wait_until($node, 'postgres', "$schedulers = 0", 'no scheduler without the extension');
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION tasker; ROLLBACK');
usleep(300_000);
is(scalar pids_of($node, 'scheduler'), 0, 'none after a CREATE EXTENSION that was rolled back');
$node->safe_psql('postgres', 'CREATE EXTENSION tasker');
wait_until($node, 'postgres', $one, 'one comes up by itself after CREATE EXTENSION', 1);
one_step('postgres', 'app');
create('postgres', 'app', 20);
wait_all_complete('postgres', 'and runs tasks');
{
	# The launcher looks in between, when nobody else sees the extension yet.
	$node->safe_psql('postgres', 'CREATE DATABASE slow');
	my $long = in_background($node, 'slow', 'postgres',
		"BEGIN; CREATE EXTENSION tasker; SELECT pg_sleep(1.5); COMMIT;\n");
	usleep(300_000);
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', 'CREATE EXTENSION tasker');
	wait_until($node, 'other', $one, 'a scheduler in another database meanwhile', 2);
	finish_background($long);
	wait_until($node, 'slow', $one, 'one comes up after a long transaction with CREATE EXTENSION', 2);
}

note 'two databases, several roles';
one_step('other', 'app');
one_step('other', 'second');
one_step('other', 'third');
create('other', $_, 2, '{"sleep": 1}') foreach 'app', 'second', 'third';
create('postgres', 'app', 2, '{"sleep": 1}');
wait_until($node, 'other', <<'SQL', 'two databases and three roles at once');
(SELECT count(DISTINCT (datname, usename)) FROM pg_stat_activity
WHERE backend_type = 'tasker executor' AND wait_event = 'PgSleep') = 4
SQL
wait_all_complete($_, "all is done in $_") foreach 'other', 'postgres';
is( $node->safe_psql('other', 'SELECT count(*) FROM app.effects UNION ALL SELECT count(*) FROM second.effects'),
	"2\n2", 'each role did its own');

note 'processes that are terminated';
foreach my $type ('scheduler', 'executor', 'launcher')
{
	my @pids = pids_of($node, $type, $type eq 'launcher' ? undef : 'postgres');
	ok(@pids > 0, "there is a $type");
	terminate($node, 'postgres', "SELECT $_") foreach @pids;
	create('postgres', 'app', 20);
	wait_all_complete('postgres', "work goes on after the $type was terminated");
}
wait_until($node, 'postgres',
	"(SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('tasker launcher', 'tasker scheduler')) = 4",
	'launcher and schedulers are back', 5);
create('postgres', 'app', 1, '{"sleep": 1}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executors() WHERE state = 'busy')", 'a step runs');
terminate($node, 'postgres', "SELECT pid FROM tasker.executors() WHERE state = 'busy'");
wait_all_complete('postgres', 'a step whose executor was terminated is repeated');
is( $node->safe_psql('postgres', <<'SQL'), '', 'once');
SELECT task_id, count(*) FROM app.effects GROUP BY 1 HAVING count(*) <> 1 ORDER BY 1 LIMIT 3
SQL
{
	# Nothing to interrupt: they only look up.
	my $before = join ',', pids_of($node, 'executor', 'postgres'), pids_of($node, 'scheduler', 'postgres');
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($_)") foreach split /,/, $before;
	create('postgres', 'app', 1);
	wait_all_complete('postgres', 'work goes on after pg_cancel_backend of idle processes');
	is(join(',', pids_of($node, 'executor', 'postgres'), pids_of($node, 'scheduler', 'postgres')),
		$before, 'which are the same as before');
}

note 'stop and start';
is($node->safe_psql('postgres', 'SELECT tasker.stop()'), 't', 'stop() says that one ran');
wait_until($node, 'postgres', "tasker.scheduler_pid() IS NULL AND NOT EXISTS (SELECT FROM tasker.executors())",
	'stopped, scheduler and executors');
create('postgres', 'app', 1);
usleep(300_000);
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.tasks WHERE state = 'pending'"), 1, 'work waits');
is($node->safe_psql('postgres', 'SELECT tasker.start()'), 't', 'start() starts one');
wait_all_complete('postgres', 'and the work is done');
wait_until($node, 'postgres', $one, 'it runs');
is($node->safe_psql('postgres', 'SELECT tasker.start()'), 'f', 'start() says that one runs already');
$node->safe_psql('postgres', 'SELECT tasker.stop(); SELECT tasker.start()') foreach 1 .. 20;
create('postgres', 'app', 1);
wait_all_complete('postgres', 'stop() and start() right after it: one runs', 5);

note 'tasker.enabled';
create('postgres', 'app', 200, '{"sleep": 0.02}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.tasks WHERE state = 'in_progress' OR state = 'complete')", 'busy');
$node->safe_psql('postgres', 'ALTER SYSTEM SET tasker.enabled = off');
$node->reload;
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.executors())", 'tasker.enabled = off reaches busy executors', 2);
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM tasker.tasks WHERE state <> 'complete'"), '>', 0, 'work is left');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET tasker.enabled');
$node->reload;
wait_all_complete('postgres', 'on again: it goes on');

note 'DROP EXTENSION';
create('postgres', 'app', 50, '{"sleep": 0.05}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executors() WHERE state = 'busy')", 'handlers are running');
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION tasker; ROLLBACK');
wait_all_complete('postgres', 'a DROP EXTENSION that is rolled back disturbs nothing');
create('postgres', 'app', 500, '{"sleep": 0.05}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executors() WHERE state = 'busy')", 'handlers are running again');
my $offset = log_size($node);
$node->safe_psql('postgres', 'DROP EXTENSION tasker');
wait_until($node, 'postgres',
	"NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type ~ '^tasker')",
	'scheduler and executors leave', 5);
cmp_ok(count_in_log($node, $offset, qr/(ERROR|FATAL|WARNING): /), '<', 8, 'without a flood in the log');
unlike(log_since($node, $offset), qr/PANIC|TRAP|signal/, 'nor a crash');
$node->safe_psql('postgres', 'DROP SCHEMA app CASCADE; CREATE EXTENSION tasker');
one_step('postgres', 'app');
create('postgres', 'app', 20);
wait_all_complete('postgres', 'created again, it works');
$node->safe_psql('postgres', 'DROP SCHEMA app CASCADE; DROP EXTENSION tasker; CREATE EXTENSION tasker');
one_step('postgres', 'app');
create('postgres', 'app', 20);
wait_all_complete('postgres', 'and dropped and created in one go as well', 10);

note 'a database that takes no connections';
terminate($node, 'postgres', "SELECT pid FROM pg_stat_activity WHERE datname = 'other' AND backend_type = 'tasker executor'");
$node->safe_psql('other', "SELECT tasker.start()");
$node->safe_psql('postgres', 'ALTER DATABASE other ALLOW_CONNECTIONS false');
{
	# A session that was there before makes work.
	$node->safe_psql('postgres', 'ALTER DATABASE other ALLOW_CONNECTIONS true');
	my $late = in_background($node, 'other', 'app',
		"SELECT pg_sleep(0.5); SELECT tasker.create_task('one_app');\n");
	usleep(200_000);
	$offset = log_size($node);
	$node->safe_psql('postgres', 'ALTER DATABASE other ALLOW_CONNECTIONS false');
	finish_background($late);
	usleep(2_000_000);
	cmp_ok(count_in_log($node, $offset, qr/not currently accepting connections/), '<', 8,
		'executors that can not connect are not started in a loop');
	$node->safe_psql('postgres', 'ALTER DATABASE other ALLOW_CONNECTIONS true');
	wait_all_complete('other', 'and are once they can', 10);
}
$node->safe_psql('postgres', 'DROP DATABASE other WITH (FORCE)');
$node->safe_psql('postgres', 'DROP DATABASE slow WITH (FORCE)');
wait_until($node, 'postgres', "$schedulers = 1", 'DROP DATABASE takes its scheduler along');

note 'restart';
create('postgres', 'app', 1, '{"fail": "s", "times": 1}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE state = 'waiting_for_retry')", 'a step waits for its retry');
create('postgres', 'app', 200, '{"sleep": 0.1}');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.executors() WHERE state = 'busy')", 'handlers are running');
my $begun = time;
$node->stop('fast');
cmp_ok(time - $begun, '<', 3, 'a fast stop under load is fast');
$node->start;
$node->safe_psql('postgres', "SELECT tasker.cancel_task(task_id) FROM tasker.tasks WHERE context ? 'sleep' AND state <> 'complete'");
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state NOT IN ('complete', 'cancelled'))",
	'the retry is done after the restart', 10);

note 'a standby';
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
create('postgres', 'app', 3, '{"fail": "s", "times": 1}');
$node->safe_psql('postgres', 'SELECT tasker.stop()');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NULL', 'the primary is stopped');
create('postgres', 'app', 5);
$node->wait_for_catchup($standby);
is(scalar(pids_of($standby, 'launcher')) . scalar(pids_of($standby, 'scheduler')) . scalar(pids_of($standby, 'executor')),
	'100', 'on a standby only the launcher, which waits for a promotion');
my $waiting = $standby->safe_psql('postgres', "SELECT max(task_id) FROM tasker.tasks WHERE state = 'pending'");
SKIP:
{
	skip 'no tasker.ready_steps', 1
	  if $standby->safe_psql('postgres', "SELECT to_regprocedure('tasker.ready_steps(bigint)') IS NULL") eq 't';
	is($standby->safe_psql('postgres', "SELECT name FROM tasker.ready_steps($waiting)"), 's', 'ready_steps works there');
}
$node->stop('immediate');
$standby->promote;
wait_until($standby, 'postgres', $one, 'promoted: the scheduler comes');
wait_until($standby, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state NOT IN ('complete', 'cancelled'))",
	'and the work goes on');
$standby->stop;

note 'without preload';
$node = new_node('plain', preload => 0);
define($node, 'postgres', 'app', 'one_app', '[{"name": "s", "function": "app.effect"}]');
create('postgres', 'app', 3);
is(as_role($node, 'postgres', 'app', "CALL tasker.run(); SELECT count(*) FROM tasker.tasks WHERE state = 'complete'"),
	3, 'run() works without a process');
is(scalar pids_of($node, 'scheduler'), 0, 'there is none');
create('postgres', 'app', 3);
is($node->safe_psql('postgres', 'SELECT tasker.start()'), 't', 'start() starts one');
wait_all_complete('postgres', 'which runs tasks');
create('postgres', 'app', 3);
wait_all_complete('postgres', 'also later ones');
$node->safe_psql('postgres', 'SELECT tasker.stop(); SELECT tasker.start()') foreach 1 .. 20;
create('postgres', 'app', 1);
wait_all_complete('postgres', 'stop() and start() right after it: one runs', 5);
$node->stop;
done_testing();
