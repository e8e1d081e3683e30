# Everything that reads a task's graph works on a standby.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'");
$primary->start;
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION tasker;
SELECT tasker.stop();
SELECT tasker.define_task('diamond', tasker.workflow(queue => 'q', steps => ARRAY[tasker.step('a'),
	tasker.step('b', depends_on => '{a}'), tasker.step('c', depends_on => '{a}'), tasker.step('d', depends_on => '{b,c}')]));
SELECT tasker.create_task('diamond');
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1 WHERE step_id IN (1);
UPDATE tasker.workflow_steps SET state = 'complete', attempts = 1 WHERE step_id IN (2);
SQL
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

# what it is called with, and what there is of it
foreach my $call (
	[ 'ready_steps(1)', 'name', 'c' ],
	[ 'ready_steps_by_recursion(1)', 'name', 'c' ],
	[ 'step_readiness(1)', "format('%s %s/%s', name, completed_parents, total_parents)", 'a 0/0, b 1/1, c 1/1, d 1/2' ],
	[ 'step_readiness(1, ARRAY[4])', "format('%s %s/%s', name, completed_parents, total_parents)", 'd 1/2' ],
	[ 'task_execution_context(1)', "format('%s %s', execution_status, completion_percentage)", 'has_ready_steps 50.00' ],
	[ 'dependency_levels(1)', "format('%s %s', name, level)", 'a 0, b 1, c 1, d 2' ],
	[ 'step_ancestors(1, 4)', "format('%s %s', name, distance)", 'b 1, c 1, a 2' ],
	[ 'step_descendants(1, 1)', "format('%s %s', name, distance)", 'b 1, c 1, d 2' ],
	[ 'verify_task(1)', 'problem', '' ])
{
	my ($function, $shown, $expected) = @$call;
	my $query = "SELECT string_agg($shown, ', ' ORDER BY ordinality) FROM tasker.$function WITH ORDINALITY";

	is($primary->safe_psql('postgres', $query), $expected, "$function on the primary");
	is($standby->safe_psql('postgres', $query), $expected, "$function on the standby");
}
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'the standby is one');

done_testing();
