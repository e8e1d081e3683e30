# When something of tasker's own goes wrong: no worker left, an error or a
# crash at an awkward moment, tables that can not be read.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep);

my $one = '[{"name": "a", "function": "app.effect"}, {"name": "b", "function": "app.effect", "depends_on": ["a"]}]';

sub complete
{
	my ($node, $what, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state <> 'complete')", $what, $seconds);
}

sub once
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', 'SELECT s.task_id, s.step_id FROM tasker.step_status s LEFT JOIN app.effects x ON x.task_id = s.task_id AND x.step = s.name GROUP BY 1, 2 HAVING count(x.task_id) <> 1 LIMIT 3'),
		'', 'each step once');
}

sub create_tasks
{
	my ($node, $role, $n, $sleep) = @_;
	return as_role($node, 'postgres', $role, "SELECT count(*) FROM tasker.create_tasks('one_$role', array_fill('{\"sleep\": $sleep}'::jsonb, ARRAY[$n]))");
}

note 'no worker left';
{
	# One for the launcher, one for replication's, one for the scheduler.
	my $node = new_node('slots', conf => "max_worker_processes = 3\n");
	define($node, 'postgres', 'app', 'one', $one);
	my $offset = log_size($node);
	as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one')");
	until_true(sub { count_in_log($node, $offset, qr/WARNING: .*no background worker left/) > 0 }, 'a warning when an executor can not be started', 10);
	usleep(2_500_000);
	is(count_in_log($node, $offset, qr/WARNING: .*no background worker left/), 1, 'one, not one a second');
	like(log_since($node, $offset), qr/HINT: .*max_worker_processes/, 'with a hint');
	is(as_role($node, 'postgres', 'app', "CALL tasker.run(); SELECT state FROM tasker.tasks"), 'complete', 'run() needs none');
	$offset = log_size($node);
	new_database($node, 'second');
	until_true(sub { count_in_log($node, $offset, qr/WARNING: .*no background worker left/) > 0 }, 'a warning when a scheduler can not be started', 10);
	usleep(2_500_000);
	is(count_in_log($node, $offset, qr/WARNING: .*no background worker left for database/), 1, 'one, not one a second');
	my ($rc, $out, $err) = $node->psql('second', 'SELECT tasker.start()');
	like($err, qr/no background worker left.*HINT/s, 'start() says so');
	# One gets free.
	as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('one', array_fill('{}'::jsonb, ARRAY[20]))");
	$node->safe_psql('second', 'DROP EXTENSION tasker');
	$node->safe_psql('postgres', 'ALTER SYSTEM SET max_worker_processes = 4');
	$node->restart;
	complete($node, 'work goes on when there is one');
	once($node);
	$node->stop;
}

note 'more roles than executors';
{
	my $node = new_node('limit', conf => "tasker.max_executors = 2\ntasker.max_executors_per_role = 1\ntasker.executor_idle_timeout = 1\n");
	my @roles = map { new_role($node, "role$_") } 1 .. 5;
	define($node, 'postgres', $_, "one_$_", qq([{"name": "a", "function": "$_.effect"}])) foreach @roles;
	as_role($node, 'postgres', $_, "SELECT count(*) FROM tasker.create_tasks('one_$_', array_fill('{}'::jsonb, ARRAY[20]))") foreach @roles;
	complete($node, 'five roles share two executors', 20);
	is(count_in_log($node, 0, qr/(WARNING|ERROR|FATAL): .*tasker/), 0, 'without a complaint');
	wait_until($node, 'postgres', 'NOT EXISTS (SELECT FROM tasker.executors())', 'idle executors leave', 10);
	as_role($node, 'postgres', 'role1', "SELECT tasker.create_task('one_role1')");
	complete($node, 'and come back');

	# Roles that would never leave any to the others.
	$node->safe_psql('postgres', 'ALTER SYSTEM SET tasker.executor_idle_timeout = 3600; ALTER SYSTEM SET tasker.max_executors_per_role = 2');
	$node->reload;
	create_tasks($node, 'role1', 40, 0.02);
	complete($node, 'one role has all executors');
	wait_until($node, 'postgres', "(SELECT count(*) = 2 FROM tasker.executing WHERE owner = 'role1')", 'and keeps them');
	create_tasks($node, 'role2', 1, 0);
	complete($node, 'another role gets one that is idle', 5);
	create_tasks($node, $_, 1000, 0.05) foreach 'role1', 'role2';
	wait_until($node, 'postgres', "(SELECT count(*) = 2 FROM tasker.executing WHERE state = 'busy')", 'all executors are busy for a long time');
	create_tasks($node, 'role3', 3, 0);
	my $waits = "EXISTS (SELECT FROM tasker.task_status WHERE owner = '%s' AND state <> 'complete')";
	wait_until($node, 'postgres', 'NOT ' . sprintf($waits, 'role3'), "another role's steps are run meanwhile", 10);
	$node->safe_psql('postgres', 'ALTER SYSTEM SET tasker.max_executors = 1');
	$node->reload;
	create_tasks($node, $_, 1000, 0.05) foreach 'role4', 'role5';
	my $began = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	wait_until($node, 'postgres', "EXISTS (SELECT FROM $_.effects WHERE at > '$began')", "one executor for four roles: $_ has its turn", 15) foreach map { "role$_" } 1, 2, 4, 5;
	is($node->safe_psql('postgres', 'SELECT ' . join ' AND ', map { sprintf($waits, "role$_") } 1, 2, 4, 5), 't', 'all of which have work left');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.workflow_steps WHERE last_error IS NOT NULL'), 0, 'no step was cut off');
	$node->stop;
}

my $node = new_node('faults');
define($node, 'postgres', 'app', 'one', $one);

note 'tables that can not be read';
$node->safe_psql('postgres', 'SELECT tasker.stop()');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NULL AND NOT EXISTS (SELECT FROM tasker.executors())', 'stopped');
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one')");
$node->safe_psql('postgres', 'ALTER TABLE tasker.named_steps RENAME TO named_steps_hidden');
my $offset = log_size($node);
$node->safe_psql('postgres', 'SELECT tasker.start()');
until_true(sub { count_in_log($node, $offset, qr/ERROR: .*named_steps/) > 0 }, 'an error that is not a step\'s is logged', 10);
usleep(2_500_000);
cmp_ok(count_in_log($node, $offset, qr/(ERROR|FATAL): /), '<', 10, 'and does not flood the log');
is($node->safe_psql('postgres', "SELECT state, attempts FROM tasker.workflow_steps WHERE step_id = 1"), 'enqueued|0', 'nor is it held against a step');
$node->safe_psql('postgres', 'ALTER TABLE tasker.named_steps_hidden RENAME TO named_steps');
complete($node, 'once it is gone the work is done', 10);
once($node);

SKIP:
{
	skip 'fault points need a test build', 1 unless create_fault_functions($node);

	# Three times: as a fast batch, with care, and alone.
	foreach my $times (1, 2)
	{
		note "error at batch-written, $times";
		$node->safe_psql('postgres', "SELECT fault_arm('batch-written', 'error', $times)");
		as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('one', array_fill('{}'::jsonb, ARRAY[30]))");
		complete($node, 'an error when a batch is written is survived');
		is($node->safe_psql('postgres', 'SELECT max(attempts) FROM tasker.workflow_steps'), 1, 'no step is charged with it');
		once($node);
		$node->safe_psql('postgres', "SELECT fault_disarm('batch-written')");
	}
	note 'error in the scheduler';
	my @scheduler = pids_of($node, 'scheduler');
	$offset = log_size($node);
	$node->safe_psql('postgres', "SELECT fault_arm('scheduler-ticked', 'error', 2)");
	as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one', start_at => clock_timestamp() + '100 ms')");
	complete($node, 'an error in the scheduler is survived');
	is(join(',', pids_of($node, 'scheduler')), join(',', @scheduler), 'by the scheduler');
	is(count_in_log($node, $offset, qr/ERROR: .*fault point/), 2, 'it is logged');
	$node->safe_psql('postgres', "SELECT fault_disarm('scheduler-ticked')");

	foreach my $point ('handler', 'batch-written', 'batch-committed', 'scheduler-ticked')
	{
		note "killed at $point";
		my $log = log_size($node);
		$node->safe_psql('postgres', "SELECT fault_arm('$point', 'kill', 1)");
		# The crash may take the session along that has just created them, and
		# a psql that finds no server breaks the pipe to its input.
		eval {
			$node->psql('postgres', "SET ROLE app; SELECT count(*) FROM tasker.create_tasks('one', array_fill('{}'::jsonb, ARRAY[30]))",
				extra_params => [ '-U', 'app' ]);
			$node->psql('postgres', 'SELECT tasker.start()') if $point eq 'scheduler-ticked';
		};
		until_true(sub { count_in_log($node, $log, qr/terminated by signal 9/) > 0 }, "a process dies at $point", 10);
		wait_for_server($node, $log);
		complete($node, 'the work is done after the recovery');
		once($node);
	}
	note 'a cancellation at the last moment';
	$node->safe_psql('postgres', "SELECT fault_arm('batch-written', 'pause', 1)");
	my $task = as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one')");
	wait_until($node, 'postgres', "fault_waiting('batch-written') = 1", 'a batch is written, not committed');
	my $cancel = in_background($node, 'postgres', 'app', "SELECT tasker.cancel_task($task);\n");
	wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')", 'who cancels waits for it');
	$node->safe_psql('postgres', "SELECT fault_disarm('batch-written')");
	finish_background($cancel);
	like($node->safe_psql('postgres', "SELECT tasker.task_wait($task, '10 s')"), qr/^(complete|cancelled)$/, 'and the task is one or the other');
	is( $node->safe_psql('postgres', <<SQL), '', 'with an effect for each complete step and for no other');
SELECT s.step_id, s.state FROM tasker.step_status s LEFT JOIN app.effects x ON x.task_id = s.task_id AND x.step = s.name
WHERE s.task_id = $task GROUP BY 1, 2 HAVING count(x.task_id) <> (s.state = 'complete')::int
SQL
}
check_consistent($node, 'postgres');
$node->stop;
done_testing();
