# Retention by the scheduler itself: it removes what ended, and turns the ring of
# the history, while tasks are run, read, dumped, and while the server crashes; a
# row of a task that is there is missing in nobody's eyes. An archive function
# that takes for ever does not take the scheduler with it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('retention');
define($node, 'postgres', 'app', 'chain', qq([{"name": "a", "function": "app.effect"},
	{"name": "b", "function": "app.effect", "depends_on": ["a"]}, {"name": "c", "function": "app.effect", "depends_on": ["b"]}]));
define($node, 'postgres', 'app', 'open', qq([{"name": "a", "queue": "nobody"}]));
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');

sub set_retention
{
	my ($to) = @_;
	$node->safe_psql('elsewhere', "ALTER SYSTEM SET tasker.retention = '$to'");
	$node->reload;
}

sub create
{
	my ($name, $n, $tag) = @_;
	as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('$name', array_fill('{}'::jsonb, ARRAY[$n]), tags => '\"$tag\"')");
}

# Changes of tasks and steps that are there, and have no row in the history.
my $missing = <<'SQL';
SELECT (SELECT count(*) FROM tasker.tasks t WHERE state <> 'pending' AND NOT EXISTS (
		SELECT FROM tasker.task_transitions h WHERE h.task_id = t.task_id AND h.to_state = t.state)) +
	(SELECT count(*) FROM tasker.workflow_steps s WHERE state IN ('complete', 'cancelled') AND NOT EXISTS (
		SELECT FROM tasker.workflow_step_transitions h WHERE h.task_id = s.task_id AND h.step_id = s.step_id AND h.to_state = s.state))
SQL
my $twice = <<'SQL';
SELECT count(*) FROM (SELECT FROM tasker.task_transitions GROUP BY task_id, from_state, to_state, created_at HAVING count(*) > 1) x
SQL

# Asked again and again: whoever waits in one transaction holds a snapshot, which
# holds up the ring.
sub none_left
{
	my ($db) = @_;
	return $node->safe_psql($db, q{SELECT count(*) FROM tasker.tasks WHERE state NOT IN ('pending', 'paused')}) == 0;
}

note 'by itself, if it is told to';
create('chain', 50, 'first');
create('open', 5, 'open');
wait_until($node, 'postgres', q{(SELECT count(*) = 50 FROM tasker.tasks WHERE state = 'complete')}, 'tasks end');
usleep(500_000);
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.history_ring'), 0, 'off: nothing is done');
set_retention('1s');
until_true(sub { none_left('postgres') }, 'on: they go');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.tasks'), 5, 'those that did not end stay');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.workflow_steps'), 5, 'their steps as well');
set_retention('1h');
create('chain', 1, 'young');
my $count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'";
usleep(2_500_000);
my $before = $node->safe_psql('elsewhere', $count);
usleep(3_000_000);
my $after = $node->safe_psql('elsewhere', $count);
cmp_ok($after - $before, '<=', 3, 'it does not look as long as nothing is due');
set_retention('1s');

note 'under load';
my $paused = $node->safe_psql('postgres', 'SELECT min(task_id) FROM tasker.tasks');
my $load = in_background($node, 'postgres', 'app', <<'SQL');
DO $$
BEGIN
	FOR i IN 1 .. 400 LOOP
		PERFORM tasker.create_tasks('chain', array_fill('{}'::jsonb, ARRAY[5]), tags => '"load"');
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$
SQL
my $pauses = in_background($node, 'postgres', 'postgres', <<SQL);
DO \$\$
BEGIN
	FOR i IN 1 .. 200 LOOP
		PERFORM tasker.pause_task($paused);
		COMMIT;
		PERFORM tasker.resume_task($paused);
		COMMIT;
		PERFORM pg_sleep(0.04);
	END LOOP;
END \$\$
SQL
# Its end stays in a leaf that would have had its next turn.
my $late = $node->safe_psql('postgres', 'SELECT max(task_id) FROM tasker.tasks WHERE tags = \'"open"\'');
$node->safe_psql('postgres', 'CREATE TABLE go_on ()');
my $writer = in_background($node, 'postgres', 'postgres', <<SQL);
DO \$\$
BEGIN
	PERFORM tasker.cancel_task($late);
	WHILE NOT EXISTS (SELECT FROM go_on) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END \$\$
SQL
my (@dumps, %slots);
foreach my $i (1 .. 10)
{
	my ($slot, $lost) = split /\|/, $node->safe_psql('postgres', <<SQL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT slot FROM tasker.history_ring \\gset
SELECT pg_sleep(0.5) \\g /dev/null
SELECT :slot, ($missing) + ($twice);
COMMIT;
SQL
	$slots{$slot} = 1;
	is($lost, 0, "no row is missing, none is there twice ($i)");
	if ($i == 4 || $i == 7)
	{
		push @dumps, $node->basedir . "/dump$i.sql";
		$node->command_ok([ 'pg_dump', '-f', $dumps[-1], $node->connstr('postgres') ], "a dump ($i)");
	}
	$node->safe_psql('postgres', 'INSERT INTO go_on DEFAULT VALUES') if $i == 5;
}
is(finish_background($writer), 0, 'a long transaction that writes history is not disturbed') or diag($writer->{err});
cmp_ok(scalar keys %slots, '>=', 2, 'the ring turns meanwhile');
is(finish_background($load), 0, 'whoever creates tasks does not notice') or diag($load->{err});
is(finish_background($pauses), 0, 'nor does an operator') or diag($pauses->{err});
until_true(sub { none_left('postgres') }, 'all that ended goes, the late end too');
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.task_history WHERE task_id = $paused"), 400, 'all of the history of a task that is open is there');
is($node->safe_psql('postgres', q{SELECT count(*) FROM tasker.workflow_steps WHERE task_id NOT IN (SELECT task_id FROM tasker.tasks)}), 0, 'nothing is left over');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.task_transitions'), '<', 3000, 'most of the history has gone');

note 'dumps';
set_retention('-1');
foreach my $i (0, 1)
{
	$node->safe_psql('elsewhere', "CREATE DATABASE copy$i");
	$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr("copy$i"), '-f', $dumps[$i] ], 'the dump restores');
	is($node->safe_psql("copy$i", $missing), 0, 'with all of the history');
	cmp_ok($node->safe_psql("copy$i", "SELECT count(*) FROM tasker.task_history WHERE task_id = $paused"), '>', 50, 'of the open task as well');
	$node->safe_psql("copy$i", 'SELECT tasker.stop()');
	until_true(sub { $node->safe_psql("copy$i", q{SELECT tasker.expire('0')}); none_left("copy$i") }, 'and retention goes on there');
}

note 'crash';
set_retention('1s');
create('chain', 200, 'crash');
wait_until($node, 'postgres', q{(SELECT count(*) > 100 FROM tasker.tasks WHERE state = 'complete')}, 'tasks end');
$node->stop('immediate');
$node->start;
until_true(sub { none_left('postgres') }, 'they go after a crash');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.tasks'), 4, 'those that are open stay');
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.task_history WHERE task_id = $paused"), 400, 'and nothing else');

note 'an archive function that takes for ever';
set_retention('-1');
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE archived (task_id bigint, tags jsonb);
CREATE FUNCTION public.archive(document jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF document #>> '{task,tags}' = 'slow' THEN
		PERFORM pg_sleep(600);
	END IF;
	INSERT INTO public.archived VALUES ((document #>> '{task,task_id}')::bigint, document #> '{task,tags}');
END $$;
SELECT tasker.set_archive('public.archive');
SQL
create('chain', 1, 'slow');
create('chain', 200, 'quick');
wait_until($node, 'postgres', q{(SELECT count(*) = 201 FROM tasker.tasks WHERE state = 'complete')}, 'tasks end');
set_retention('1s');
until_true(sub { $node->safe_psql('postgres', q{SELECT error ->> 'sqlstate' FROM tasker.overdue_tasks}) eq 'TK402' }, 'it is interrupted');
until_true(sub { $node->safe_psql('postgres', q{SELECT count(*) FROM archived WHERE tags = '"quick"'}) == 200 }, 'the other tasks are archived');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT tags::text, ' ') FROM tasker.tasks WHERE state = 'complete'}), '"slow"', 'and removed, that one is not');
as_role($node, 'postgres', 'app', q{SELECT tasker.create_task('chain', start_at => clock_timestamp() + '1 s', tags => '"timer"')});
wait_until($node, 'postgres', q{EXISTS (SELECT FROM archived WHERE tags = '"timer"') OR EXISTS (SELECT FROM tasker.tasks WHERE tags = '"timer"' AND state = 'complete')}, 'timers go off', 15);
$node->stop;
done_testing();
