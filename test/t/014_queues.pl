# Queues and processes: who listens is told once for many commits; who drains
# waits for whoever may be claiming; a claim that waits at a paused queue goes on
# when it is resumed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep time);

my $node = new_node('queues', conf => "autovacuum = off\n");
define($node, 'postgres', 'app', 'told', '[{"name": "s", "queue": "told"}, {"name": "retried", "queue": "told", "retry": {"base": "100 ms", "factor": 1, "jitter": 0}, "depends_on": ["s"]}]');
define($node, 'postgres', 'app', 'quiet', '[{"name": "s", "queue": "quiet"}]');
$node->safe_psql('postgres', "CREATE ROLE worker LOGIN; SELECT tasker.grant_access('worker', 'worker');
	CREATE TABLE held (task_id bigint, step_id int, lease uuid); GRANT ALL ON held TO worker");

# A session that listens, and looks for notifications every 50 ms.
my $script = "LISTEN tasker_queue;\n" . "SELECT pg_sleep(0.05);\n" x 1200;
my $heard = '';
my $listener = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$script, '>', \$heard);

# How many notifications came, once there are so many or none comes any more.
sub notifications
{
	my ($least) = @_;
	my $end = time + 10;
	my $n;
	do { $listener->pump_nb; usleep(10_000); $n = () = $heard =~ /"tasker_queue" with payload "told"/g; } until $n >= $least || time > $end;
	return $n;
}

note 'who listens';
is($node->safe_psql('postgres', "SELECT tasker.create_queue('told', notify => true)"), 'f', 'listeners are to be told of a queue that there is');
# The listener and the scheduler begin in their own time.
my $told = 0;
for (1 .. 100)
{
	as_role($node, 'postgres', 'app', "SELECT tasker.create_task('told'), tasker.create_task('quiet')");
	usleep(100_000);
	$listener->pump_nb;
	last if $heard =~ /told/;
}
like($heard, qr/"tasker_queue" with payload "told"/, 'a commit that makes a step of the queue is told of');
unlike($heard, qr/quiet/, 'one of a queue that nobody wants to be told of is not');
$told = notifications(0);
as_role($node, 'postgres', 'app', 'BEGIN; ' . "SELECT tasker.create_task('told'); " x 100 . 'COMMIT');
my $after = notifications($told + 1);
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('told')");
is(notifications($after + 1), $after + 1, 'a hundred steps of one commit: one notification');
as_role($node, 'postgres', 'worker', "SELECT tasker.fail_step(task_id, step_id, lease) FROM tasker.claim_steps('{told}', 'w')");
is(notifications($after + 2), $after + 2, 'a retry whose time has come is told of as well');
$node->safe_psql('postgres', "SELECT tasker.create_queue('told', notify => false)");
wait_until($node, 'postgres', "tasker.scheduler_pid() IS NOT NULL", 'nobody wants to be told any more');
$listener->kill_kill;

note 'who drains';
as_role($node, 'postgres', 'app', "SELECT tasker.create_task('quiet') FROM generate_series(1, 3)");
# A claim in a transaction that has not ended: nobody else can see it yet.
my $claim = in_background($node, 'postgres', 'worker', "INSERT INTO held SELECT task_id, step_id, lease FROM tasker.claim_steps('{quiet}', 'w'); SELECT pg_sleep(60)");
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'worker' AND wait_event = 'PgSleep')", 'a worker has claimed, and not committed');
is($node->safe_psql('postgres', "CALL tasker.drain_queue('quiet', timeout => '200 ms')"), '0', 'nothing is seen to be in flight');
my $drain = in_background($node, 'postgres', 'postgres', "CALL tasker.drain_queue('quiet')");
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CALL tasker.drain_queue%' AND pid <> pg_backend_pid())", 'a drain has begun');
usleep(300_000);
$drain->{run}->pump_nb;
ok($drain->{run}->pumpable, 'it waits for the claim all the same');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'");
$claim->{run}->finish;
is(finish_background($drain), 0, 'when that has ended so does the drain');
is($drain->{out}, "0\n", 'and nothing is in flight');

note 'who waits at a paused queue';
my $waits = in_background($node, 'postgres', 'worker', q(DO $$ DECLARE n int; BEGIN
	FOR i IN 1 .. 30 LOOP
		SELECT count(*) INTO n FROM tasker.claim_steps('{quiet}', 'patient', wait => '1 s');
		COMMIT;
		EXIT WHEN n > 0;
	END LOOP;
END $$));
wait_until($node, 'postgres', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'worker' AND wait_event_type = 'Extension')", 'a claim waits');
$node->safe_psql('postgres', "SELECT tasker.resume_queue('quiet')");
my $resumed = time;
is(finish_background($waits), 0, 'it gets a step');
cmp_ok(time - $resumed, '<', 0.9, 'when the queue is resumed, not when its time is over');

$node->stop;
done_testing();
