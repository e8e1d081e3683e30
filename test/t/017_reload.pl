# Settings that change while the server runs: its processes follow at once, in
# the midst of their work.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('reload', conf => "tasker.max_executors_per_role = 1\ntasker.executor_idle_timeout = 3600\n");
define($node, 'postgres', 'app', 'one', '[{"name": "s", "function": "app.effect"}]');
define($node, 'postgres', 'app', 'external', '[{"name": "s", "queue": "q"}]');

sub set
{
	my (%settings) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_ = $settings{$_}") foreach sort keys %settings;
	$node->reload;
	return;
}

sub create
{
	my ($n, $context) = @_;
	return as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('one', array_fill('$context'::jsonb, ARRAY[$n]))");
}

sub wait_all_complete
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.task_status WHERE name = 'one' AND state NOT IN ('complete', 'cancelled'))", $what);
}

# How many transactions the steps of the last tasks took.
sub transactions
{
	return $node->safe_psql('postgres', 'SELECT count(DISTINCT xmin::text) FROM app.effects; TRUNCATE app.effects');
}

sub executors { return join ',', pids_of($node, 'executor', 'postgres'); }

note 'batches';
create(100, '{}');
wait_all_complete('a hundred steps');
my $executor = executors();
cmp_ok(transactions(), '<', 50, 'in few transactions');
set('tasker.batch_size' => 1);
create(100, '{}');
wait_all_complete('with tasker.batch_size = 1');
is(transactions(), 100, 'each in its own');
set('tasker.batch_size' => 2000);
create(100, '{}');
wait_all_complete('with tasker.batch_size = 2000');
cmp_ok(transactions(), '<', 50, 'in few');
set('tasker.batch_interval' => 0);
create(100, '{}');
wait_all_complete('with tasker.batch_interval = 0');
is(transactions(), 100, 'each in its own');
is(executors(), $executor, 'by the same executor');

note 'executors';
my $busy = "(SELECT count(*) FROM tasker.executing WHERE state = 'busy')";
create(100, '{"sleep": 0.2}');
wait_until($node, 'postgres', "$busy = 1", 'one is busy');
set('tasker.max_executors_per_role' => 5);
wait_until($node, 'postgres', "$busy = 5", 'tasker.max_executors_per_role = 5 is used', 5);
set('tasker.max_executors_per_role' => 3);
wait_until($node, 'postgres', '(SELECT count(*) FROM tasker.executors()) = 3', '3: two of the busy ones leave', 5);
set('tasker.max_executors' => 2);
wait_until($node, 'postgres', '(SELECT count(*) FROM tasker.executors()) = 2', 'tasker.max_executors = 2: so does one more', 5);
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.workflow_steps WHERE last_error IS NOT NULL"), 0, 'no step was cut off');
# some complete meanwhile
$node->safe_psql('postgres', q(DO $$
DECLARE id bigint;
BEGIN
	FOR id IN SELECT task_id FROM tasker.task_status WHERE state IN ('pending', 'in_progress') LOOP
		BEGIN
			PERFORM tasker.cancel_task(id);
		EXCEPTION WHEN SQLSTATE 'TK300' THEN NULL;
		END;
	END LOOP;
END $$));
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT task_id) FROM app.effects') =~ /^(\d+)\|\1$/, 1, 'nor run twice');
set('tasker.executor_idle_timeout' => 1);
wait_until($node, 'postgres', 'NOT EXISTS (SELECT FROM tasker.executors())', 'tasker.executor_idle_timeout = 1: idle ones leave', 5);

note 'the switch';
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('external')");
as_role($node, 'postgres', 'app', q(SELECT tasker.create_task('one', '{"fail": "s", "times": 1}')));
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE state = 'waiting_for_retry')", 'a step waits for its retry');
set('tasker.enabled' => 'off');
my $claim = "SELECT step_id FROM tasker.claim_steps('{q}', 'w')";
my ($rc, $out, $err) = $node->psql('postgres', $claim);
like($err, qr/tasker.enabled/, 'tasker.enabled = off: nothing is handed out');
wait_until($node, 'postgres', "(SELECT bool_and(m.due_at < clock_timestamp() - interval '500 ms') FROM tasker.timers m)", 'the time of the retry comes');
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.workflow_steps WHERE state = 'waiting_for_retry'"), 1, 'and nothing is retried');
set('tasker.enabled' => 'on');
wait_all_complete('on again: it is');
is($node->safe_psql('postgres', $claim), 1, 'and a worker gets its step');

note 'the node';
set('tasker.node_id' => 7);
is(as_role($node, 'postgres', 'app', "SELECT tasker.create_task('external') >> 48"), 7, 'tasker.node_id: ids are the node\'s');

note 'retention';
set('tasker.retention' => 1);
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.task_status WHERE state IN ('complete', 'cancelled'))", 'tasker.retention = 1 s: what ended goes');
unlike(log_since($node, 0), qr/PANIC|TRAP|terminated by signal/, 'no crash');
$node->stop;
done_testing();
