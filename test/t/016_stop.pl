# Stopping the server under load: in each mode it is down within two seconds,
# whatever its processes and its workers are at, and afterwards the work goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(time);

# Servers go down while psql is asked.
$SIG{PIPE} = 'IGNORE';

my $node = new_node('stop', streaming => 1, conf => "tasker.max_executors_per_role = 4\n");
new_role($node, $_) foreach 'looping', 'many';
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION looping.loop(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	n bigint := 0;
BEGIN
	WHILE (input #>> '{task,context,for_ever}')::boolean LOOP n := n + 1; END LOOP;
	RETURN NULL;
END $$;
SQL
my $attempt = '"retry": {"max_attempts": 1}';
define($node, 'postgres', 'app', 'sleep', qq([{"name": "s", "sql": "SELECT to_jsonb(1) FROM pg_sleep((\$1 #>> ''{task,context,sleep}'')::float8)", $attempt}]));
define($node, 'postgres', 'looping', 'loop', qq([{"name": "s", "function": "looping.loop", $attempt}]));
define($node, 'postgres', 'many', 'many', qq([{"name": "a", "function": "many.effect", $attempt}, {"name": "b", "function": "many.effect", "depends_on": ["a"], $attempt}]));
define($node, 'postgres', 'app', 'external', qq([{"name": "s", "queue": "q", $attempt}]));

my $tasks = 0;

# All that can be under way: steps in a long statement, in a loop, thousands of
# short ones, one that a worker holds, one that waits for its time.
sub make_load
{
	as_role($node, 'postgres', 'app', <<'SQL');
SELECT tasker.create_tasks('sleep', array_fill('{"sleep": 600}'::jsonb, ARRAY[2]));
SELECT tasker.create_task('sleep', '{"sleep": 0}', start_at => clock_timestamp() + '1 h');
SELECT tasker.create_task('external');
SQL
	as_role($node, 'postgres', 'looping', q(SELECT tasker.create_task('loop', '{"for_ever": true}')));
	as_role($node, 'postgres', 'many', q(SELECT count(tasker.create_task('many')) FROM generate_series(1, 3000)));
	$node->safe_psql('postgres', "SELECT count(*) FROM tasker.claim_steps('{q}', 'w', 1, '1 h')");
	wait_until($node, 'postgres', <<'SQL', 'a long statement, a loop and short steps are under way');
(SELECT count(*) = 3 FROM tasker.executing WHERE state = 'busy' AND step IS NOT NULL AND owner <> 'many') AND
EXISTS (SELECT FROM many.effects) AND EXISTS (SELECT FROM tasker.ready_queue WHERE lane < 0)
SQL
	return;
}

# Workers that wait in a claim, and ask again. A smart stop waits for them.
sub claim_in_background
{
	my @workers = map { in_background($node, 'postgres', 'app',
		"SET client_min_messages = error; DO \$\$ BEGIN LOOP PERFORM tasker.claim_steps('{empty}', 'w', wait => '10 s'); END LOOP; END \$\$") } 1 .. 3;
	wait_until($node, 'postgres', "(SELECT count(*) = 3 FROM pg_stat_activity WHERE query LIKE '%{empty}%' AND wait_event_type = 'Extension' AND pid <> pg_backend_pid())",
		'workers wait for work');
	return @workers;
}

sub stop_in_time
{
	my ($server, $mode, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @processes = split /\n/, $server->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'tasker %'");
	my $log = log_size($server);
	my $begun = time;
	$server->stop($mode);
	my $took = time - $begun;
	note sprintf '%.2f s', $took;
	cmp_ok($took, '<', 2, "$what: a $mode stop takes less than 2 s");
	is(scalar(grep { kill 0, $_ } @processes), 0, '... nobody is left');
	unlike(log_since($server, $log), qr/PANIC|TRAP|terminated by signal|issuing SIGKILL/, '... nor had to be killed');
	return;
}

$node->safe_psql('postgres', "SELECT tasker.create_queue('empty')");
foreach my $mode ('smart', 'fast', 'immediate')
{
	note "a $mode stop";
	make_load();
	my @workers = $mode eq 'smart' ? () : claim_in_background();
	stop_in_time($node, $mode, 'under load');
	isnt(finish_background($_), 0, '... and the worker is told') foreach @workers;
	$node->start;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.workflow_steps WHERE attempts > 0 AND last_error IS NOT NULL'), 0,
		'started again: no step is charged with it');
	wait_until($node, 'postgres', <<'SQL', '... the short steps are done, the long ones are run again');
NOT EXISTS (SELECT FROM tasker.task_status WHERE name = 'many' AND state <> 'complete') AND
(SELECT count(*) >= 2 FROM tasker.executing WHERE state = 'busy' AND step IS NOT NULL)
SQL
	is($node->safe_psql('postgres', "SELECT count(tasker.complete_step(task_id, step_id, lease)) FROM tasker.workflow_steps WHERE lease IS NOT NULL"), 1,
		'... what a worker had in hand it can complete');
	is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT (task_id, step)) FROM many.effects'), ($tasks += 6000) . "|$tasks", '... each short step had its effect once');
	$node->safe_psql('postgres', "SELECT tasker.cancel_task(task_id) FROM tasker.task_status WHERE name IN ('sleep', 'loop') AND state IN ('pending', 'in_progress')");
	wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.executing WHERE state = 'busy')", '... and can be cancelled');
}

note 'a standby';
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
foreach my $mode ('smart', 'fast', 'immediate')
{
	$standby->start;
	wait_until($standby, 'postgres', "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')", 'a standby streams');
	is($standby->safe_psql('postgres', "SELECT string_agg(problem || ': ' || detail, ', ') FROM tasker.doctor() WHERE problem <> 'fsync is off'"), '',
		'... about which the doctor has nothing to say') if $mode eq 'smart';
	stop_in_time($standby, $mode, 'a standby');
}

check_consistent($node, 'postgres');
$node->stop;
done_testing();
