# Work is begun because somebody committed it, not because somebody looked
# again: soon after the commit, and at no cost while there is none.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('wake', conf => "autovacuum = off\n");
new_role($node, 'other');
foreach my $role ('app', 'other')
{
	define($node, 'postgres', $role, "one_$role", qq([{"name": "s", "function": "$role.effect", "retry": {"base": "400 ms", "factor": 1, "jitter": 0}}]));
	define($node, 'postgres', $role, "chain_$role", qq([{"name": "a", "function": "$role.effect"},
		{"name": "b", "function": "$role.effect", "depends_on": ["a"]}, {"name": "c", "function": "$role.effect", "depends_on": ["b"]}]));
}

sub all_over
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE state IN ('pending', 'in_progress'))", $what);
}

# The median of the time from creation to the first step's start, in ms, of
# the tasks with this tag.
sub median
{
	my ($tag) = @_;
	return $node->safe_psql('postgres', <<SQL);
SELECT round((1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM s.first - t.requested_at)))::numeric, 1)
FROM tasker.tasks t, LATERAL (SELECT min(last_attempted_at) AS first FROM tasker.workflow_steps s WHERE s.task_id = t.task_id) s
WHERE t.tags = '"$tag"'
SQL
}

note 'the first step after the commit';
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one_app')");
all_over('warm');
as_role($node, 'postgres', 'app', join ';', map { "SELECT tasker.create_task('one_app', tags => '\"steady\"'); SELECT pg_sleep(0.01)" } 1 .. 50);
all_over('fifty tasks, one after the other');
my $ms = median('steady');
cmp_ok($ms, '<', 100, "the median begins within 100 ms ($ms)");
foreach my $way ('pl', 'commit late', 'rolled back savepoint', 'many at once')
{
	my $create = "tasker.create_task('chain_app', tags => '\"$way\"')";
	as_role($node, 'postgres', 'app',
		$way eq 'pl' ? "DO \$\$ BEGIN PERFORM $create; END \$\$"
		: $way eq 'commit late' ? "BEGIN; SELECT $create; SELECT pg_sleep(0.3); COMMIT"
		: $way eq 'rolled back savepoint' ? "BEGIN; SAVEPOINT a; SELECT $create; ROLLBACK TO a; SELECT $create; COMMIT"
		: "SELECT count($create) FROM generate_series(1, 100)");
	all_over("a task is begun by itself: $way");
}
cmp_ok($node->safe_psql('postgres', "SELECT 1000 * extract(epoch FROM max(completed_at) - max(requested_at)) FROM tasker.tasks WHERE tags = '\"commit late\"'"),
	'<', 1300, 'the commit counts, not the call');
# A role without an executor: the scheduler has one started.
as_role($node, 'postgres', 'other', "SELECT tasker.create_task('one_other', tags => '\"cold\"')");
all_over('a role without an executor');
$ms = median('cold');
cmp_ok($ms, '<', 500, "begins within 500 ms ($ms)");
# A superuser's UPDATE releases work as well.
my $task = as_role($node, 'postgres', 'app', "SELECT tasker.create_task('chain_app', tags => '\"far\"', start_at => clock_timestamp() + '1 hour')");
usleep(200_000);
is($node->safe_psql('postgres', "SELECT count(*) FROM app.effects WHERE task_id = $task"), 0, 'a task with a start in an hour waits');
$node->safe_psql('postgres', "UPDATE tasker.workflow_steps SET state = 'enqueued' WHERE task_id = $task AND step_id = 1");
wait_until($node, 'postgres', "(SELECT state = 'complete' FROM tasker.tasks WHERE task_id = $task)", 'a plain UPDATE begins it', 5);

note 'timers';
as_role($node, 'postgres', 'app', join ';', map {
	qq(SELECT tasker.create_task('one_app', '{"fail": "s", "times": 1}', tags => '"retry"'); SELECT pg_sleep(0.02))
} 1 .. 40);
all_over('forty retries');
my $late = $node->safe_psql('postgres', <<'SQL');
SELECT concat_ws(' ', round(percentile_cont(0.5) WITHIN GROUP (ORDER BY d)::numeric), round(max(d)::numeric), round(min(d)::numeric))
FROM (SELECT 1000 * extract(epoch FROM s.last_attempted_at - h.created_at - interval '400 ms') AS d
	FROM tasker.tasks t JOIN tasker.workflow_steps s USING (task_id)
	JOIN tasker.workflow_step_transitions h ON h.task_id = s.task_id AND h.to_state = 'waiting_for_retry'
	WHERE t.tags = '"retry"') x
SQL
my ($median, $max, $min) = split / /, $late;
cmp_ok($median, '<', 120, "a retry is made when it is due (median $median ms late, at most $max)");
cmp_ok($max, '<', 1000, 'none is forgotten');
cmp_ok($min, '>', -60, 'or made much too early');
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one_app', tags => '\"start\"', start_at => clock_timestamp() + make_interval(secs => i * 0.03)) FROM generate_series(1, 30) i");
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE tags = '\"start\"' AND state <> 'complete')", 'thirty starts close to each other', 4);

note 'nothing to do';
# Whoever asks is not to be counted: two readings from another database.
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
my $count = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'";
usleep(1_500_000);
my $before = $node->safe_psql('elsewhere', $count);
usleep(3_000_000);
my $after = $node->safe_psql('elsewhere', $count);
cmp_ok($after - $before, '<=', 2, 'no process looks for work while there is none');
# A step that is far away is no reason to look, either.
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('one_app', start_at => clock_timestamp() + '1 hour')");
usleep(1_500_000);
$before = $node->safe_psql('elsewhere', $count);
usleep(2_000_000);
$after = $node->safe_psql('elsewhere', $count);
cmp_ok($after - $before, '<=', 2, 'nor while something waits for its time');

note 'batches';
sub commits { return $node->safe_psql('postgres', "SELECT pg_current_xact_id()::text::bigint"); }
my $xid = commits();
as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('chain_app', array_fill('{}'::jsonb, ARRAY[1000]), tags => '\"batch\"')");
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks WHERE tags = '\"batch\"' AND state <> 'complete')", '3000 short steps');
my $used = commits() - $xid;
cmp_ok($used, '<', 600, "are done in far fewer transactions ($used)");
check_consistent($node, 'postgres');
$node->stop;
done_testing();
