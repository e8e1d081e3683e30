# Workers outside of the database, as processes: one that dies is noticed when
# its lease runs out; one that waits is woken by the commit that makes work, not
# because it looks again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('claims', conf => "autovacuum = off\n");
define($node, 'postgres', 'app', 'short', '[{"name": "s", "queue": "mail", "lease": "1 s", "retry": {"base": "100 ms", "factor": 1, "jitter": 0, "max_attempts": 2}}]');
define($node, 'postgres', 'app', 'plain', '[{"name": "s", "queue": "mail"}, {"name": "after", "queue": "mail", "depends_on": ["s"]}]');
define($node, 'postgres', 'app', 'other', '[{"name": "s", "queue": "other"}]');
$node->safe_psql('postgres', "CREATE ROLE worker LOGIN; SELECT tasker.grant_access('worker', 'worker'); CREATE TABLE seen (who text, task_id bigint, step_id int, lease uuid, at timestamptz DEFAULT clock_timestamp(), began timestamptz);
	CREATE TABLE effects (task_id bigint); GRANT ALL ON seen, effects TO worker");

# A worker that claims one step, commits, and does something else.
sub hold
{
	my ($who, $then) = @_;
	return in_background($node, 'postgres', 'worker', <<SQL);
DO \$\$ BEGIN
	INSERT INTO seen (who, task_id, step_id, lease) SELECT '$who', task_id, step_id, lease FROM tasker.claim_steps('{mail}', '$who');
	COMMIT;
	$then
	PERFORM pg_sleep(60);
END \$\$
SQL
}

note 'a worker that dies';
my $task = as_role($node, 'postgres', 'app', "SELECT tasker.create_task('short')");
my $dead = hold('dead', '');
wait_until($node, 'postgres', "EXISTS (SELECT FROM seen WHERE who = 'dead')", 'a worker has claimed the step');
$dead->{run}->kill_kill;
is($node->safe_psql('postgres', "SELECT state FROM tasker.workflow_steps WHERE task_id = $task"), 'in_progress', 'it is killed: the step is its until the lease runs out');
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE task_id = $task AND state = 'enqueued' AND attempts = 1)", 'then the step can be claimed again', 10);
my $late = $node->safe_psql('postgres', "SELECT 1000 * extract(epoch FROM h.created_at - s.at - interval '1 s') FROM seen s, tasker.workflow_step_transitions h
	WHERE s.who = 'dead' AND h.task_id = s.task_id AND h.to_state = 'waiting_for_retry'");
cmp_ok($late, '<', 1000, "within a second of the lease's end ($late ms)");
cmp_ok($late, '>', -200, 'and not before');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT tasker.complete_step(task_id, step_id, lease) FROM seen WHERE who = 'dead'", extra_params => [ '-U', 'worker', '-v', 'VERBOSITY=verbose' ]);
like($err, qr/TK420/, 'its lease is worth nothing');
as_role($node, 'postgres', 'worker', "INSERT INTO seen (who, task_id, step_id, lease) SELECT 'second', task_id, step_id, lease FROM tasker.claim_steps('{mail}', 'second')");
wait_until($node, 'postgres', "(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $task)", 'a second death is the last one: the task is in error', 10);

note 'a worker that dies in the middle of its transaction';
$task = as_role($node, 'postgres', 'app', "SELECT tasker.create_task('short')");
my $half = hold('half', q(INSERT INTO effects SELECT task_id FROM seen WHERE who = 'half';
	PERFORM tasker.complete_step(task_id, step_id, lease) FROM seen WHERE who = 'half';));
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'worker' AND query LIKE '%half%' AND wait_event = 'PgSleep')", 'a worker has written and completed, and not committed');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker' AND query LIKE '%half%'");
$half->{run}->finish;
wait_until($node, 'postgres', "EXISTS (SELECT FROM tasker.workflow_steps WHERE task_id = $task AND state = 'enqueued')", 'its session ends: the step can be claimed again', 10);
is($node->safe_psql('postgres', "SELECT count(*) FROM effects"), 0, 'nothing of it is left');
as_role($node, 'postgres', 'worker', "BEGIN; WITH c AS MATERIALIZED (SELECT * FROM tasker.claim_steps('{mail}', 'whole')), e AS (INSERT INTO effects SELECT task_id FROM c) SELECT tasker.complete_step(task_id, step_id, lease) FROM c; COMMIT");
is($node->safe_psql('postgres', "SELECT count(*) FROM effects e JOIN tasker.tasks t USING (task_id) WHERE t.state = 'complete'"), 1, 'claim, effect and completion in one transaction');

note 'a worker that waits';
# It claims and completes until it is told to stop, and notes when it got what.
$node->safe_psql('postgres', "CREATE TABLE stop (n int); GRANT SELECT ON stop TO worker");
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE work(queues text[], who text) LANGUAGE plpgsql AS $$
DECLARE
	c record; t timestamptz;
BEGIN
	WHILE NOT EXISTS (SELECT FROM stop) LOOP
		t := clock_timestamp();
		FOR c IN SELECT * FROM tasker.claim_steps(queues, who, wait => '1 s') LOOP
			INSERT INTO seen (who, task_id, step_id, lease, began) VALUES (who, c.task_id, c.step_id, c.lease, t);
			PERFORM tasker.complete_step(c.task_id, c.step_id, c.lease);
		END LOOP;
		COMMIT;
	END LOOP;
END $$;
SQL
$node->safe_psql('postgres', "TRUNCATE seen");
my @workers = map { in_background($node, 'postgres', 'worker', "CALL work('{mail}', 'waits $_')") } 1 .. 2;
wait_until($node, 'postgres', "(SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'worker' AND query LIKE 'CALL work%' AND wait_event = 'Extension')", 'two workers wait');
as_role($node, 'postgres', 'app', join ';', map { "SELECT tasker.create_task('plain'); SELECT pg_sleep(0.037)" } 1 .. 40);
wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM tasker.tasks t JOIN tasker.named_tasks n USING (named_task_id) WHERE n.name = 'plain' AND t.state <> 'complete')", 'they do what is committed');
my ($median, $max, $n) = split / /, $node->safe_psql('postgres', <<'SQL');
SELECT concat_ws(' ', round(percentile_cont(0.5) WITHIN GROUP (ORDER BY d)::numeric, 1), round(max(d)::numeric, 1), count(*))
FROM (SELECT 1000 * extract(epoch FROM s.at - t.requested_at) AS d FROM seen s JOIN tasker.tasks t USING (task_id) WHERE s.step_id = 1 AND s.began < t.requested_at) x
SQL
cmp_ok($n, '>', 10, "$n of 40 commits found a worker waiting");
cmp_ok($median, '<', 50, "the median of them was claimed within milliseconds of its creation (median $median ms, at most $max)");
is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT FROM seen GROUP BY task_id, step_id HAVING count(*) > 1) x"), 0, 'no two workers got the same step');

note 'no polling';
my $looks = as_role($node, 'postgres', 'worker', <<'SQL');
BEGIN;
SELECT count(*) FROM tasker.claim_steps('{other}', 'patient', wait => '1 s');
SELECT idx_scan FROM pg_stat_xact_all_tables WHERE relid = 'tasker.ready_queue'::regclass;
COMMIT;
SQL
like($looks, qr/^0\n[1-3]$/, 'who waits for a second looks at the beginning and at the end');

# One commit, two steps: nobody waits for its time to be over.
as_role($node, 'postgres', 'app', "SELECT count(*) FROM tasker.create_tasks('plain', array_fill('{}'::jsonb, ARRAY[20]), tags => '\"many\"')");
wait_until($node, 'postgres', "(SELECT count(*) = 20 FROM tasker.tasks WHERE tags = '\"many\"' AND state = 'complete')", 'twenty tasks in one commit', 10);
$node->safe_psql('postgres', 'INSERT INTO stop VALUES (1)');
is(finish_background($_), 0, 'a worker ends') || diag($_->{err}) foreach @workers;

note 'a waiting worker can be interrupted';
$node->safe_psql('postgres', 'TRUNCATE stop');
my $canceled = in_background($node, 'postgres', 'worker', "CALL work('{mail}', 'canceled')");
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'worker' AND wait_event = 'Extension')", 'it waits');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'worker' AND query LIKE 'CALL work%'");
$canceled->{run}->finish;
like($canceled->{err}, qr/canceling statement/, 'and is canceled');
check_consistent($node, 'postgres');
$node->stop;
done_testing();
