# Thousands of steps while the server is killed again and again: at the end
# each has run, once.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

use constant { TASKS => 300, STEPS => 10 };

my $node = new_node('once');
new_role($node, 'other');

# s1 forks, s5 and s7..s10 join.
my $steps = <<'JSON';
[{"name": "s1"}, {"name": "s2", "depends_on": ["s1"]}, {"name": "s3", "depends_on": ["s1"]},
 {"name": "s4", "depends_on": ["s2"]}, {"name": "s5", "depends_on": ["s2", "s3"]},
 {"name": "s6", "depends_on": ["s3"]}, {"name": "s7", "depends_on": ["s4", "s5"]},
 {"name": "s8", "depends_on": ["s5", "s6"]}, {"name": "s9", "depends_on": ["s7", "s8", "s1"]},
 {"name": "s10", "depends_on": ["s9", "s2"]}]
JSON
foreach my $role ('app', 'other')
{
	(my $own = $steps) =~ s/("name": "s\d+")/$1, "function": "$role.effect", "retry": {"base": "20 ms"}/g;
	define($node, 'postgres', $role, "dag_$role", $own);
}

# Every seventh task fails once in the middle, so that retries are among it.
sub create
{
	my ($role, $n) = @_;
	as_role($node, 'postgres', $role, <<SQL);
SELECT count(*) FROM tasker.create_tasks('dag_$role', ARRAY(
	SELECT CASE WHEN i % 7 = 0 THEN '{"sleep": 0.002, "fail": "s5", "times": 1}'::jsonb
		ELSE '{"sleep": 0.002}' END FROM generate_series(1, $n) i))
SQL
}

sub reached
{
	my ($n) = @_;
	wait_until($node, 'postgres',
		"(SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete') >= $n",
		"$n steps are complete");
}

create($_, TASKS / 3) foreach 'app', 'other';
foreach my $round (1 .. 2)
{
	reached($round * 300);
	$node->stop('immediate');
	$node->start;
}
create('app', TASKS / 3);
foreach my $round (3 .. 4)
{
	reached($round * 300);
	my ($victim) = pids_of($node, 'executor');
	ok(defined $victim, 'an executor is there to be killed');
	my $log = log_size($node);
	kill 'KILL', $victim;
	wait_for_server($node, $log);
}
reached(1500);
# The launcher's turn, and the postmaster's itself.
my ($launcher) = pids_of($node, 'launcher');
my $log = log_size($node);
kill 'KILL', $launcher;
wait_for_server($node, $log);
reached(1800);
my @children = split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
$node->kill9;
# Its children go when they notice; until then no other may start.
until_true(sub { !grep { kill 0, $_ } @children }, 'the children of the killed postmaster leave');
$node->start;

wait_until($node, 'postgres',
	"NOT EXISTS (SELECT FROM tasker.tasks WHERE state <> 'complete')",
	'every task is complete', 60);
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.tasks'),
	TASKS, 'no task was lost');
is($node->safe_psql('postgres', "SELECT state, count(*) FROM tasker.workflow_steps GROUP BY 1"),
	'complete|' . TASKS * STEPS, 'every step is complete');
is( $node->safe_psql('postgres', <<'SQL'), '', 'each step had its effect exactly once');
SELECT s.task_id, s.step_id, count(x.task_id)
FROM tasker.step_status s
	LEFT JOIN (SELECT * FROM app.effects UNION ALL SELECT * FROM other.effects) x
	ON x.task_id = s.task_id AND x.step = s.name
GROUP BY 1, 2 HAVING count(x.task_id) <> 1 ORDER BY 1, 2 LIMIT 5
SQL
is( $node->safe_psql('postgres', <<'SQL'), '', 'the effect is that of the attempt that completed');
SELECT s.task_id, s.step_id FROM tasker.step_status s
	JOIN (SELECT * FROM app.effects UNION ALL SELECT * FROM other.effects) x
	ON x.task_id = s.task_id AND x.step = s.name
WHERE x.attempt <> s.attempts ORDER BY 1, 2 LIMIT 5
SQL
is( $node->safe_psql('postgres', <<'SQL'), TASKS * STEPS, 'the history has one completion a step');
SELECT count(*) FROM tasker.workflow_step_transitions WHERE to_state = 'complete'
SQL
check_consistent($node, 'postgres');
is($node->safe_psql('postgres', 'SELECT count(*) FROM tasker.ready_queue'),
	0, 'nothing is left in the queue');

$node->stop;
done_testing();
