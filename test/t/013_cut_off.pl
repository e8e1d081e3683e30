# Steps that kill their process, and with it the server: each ends in error
# after its attempts, and everything else goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(usleep time);

# Servers go down while psql is asked.
$SIG{PIPE} = 'IGNORE';

my $node = new_node('cut_off', conf => <<CONF);
tasker.max_executors_per_role = 4
deadlock_timeout = 100ms
CONF
new_role($node, 'other');
# As good as code of one's own in the server: app may run programs there.
$node->safe_psql('postgres', <<'SQL');
GRANT pg_execute_server_program TO app;
SET ROLE app;
CREATE FUNCTION app.signal(signal text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
	EXECUTE format('COPY (SELECT 1) TO PROGRAM ''kill -%s $PPID; cat''', signal);
	PERFORM pg_sleep(10);
	RETURN signal;
END $$;
CREATE FUNCTION app.kill(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.effects (task_id, step, attempt) VALUES ((input #>> '{task,id}')::bigint,
		input #>> '{step,name}', (input #>> '{step,attempt}')::int);
	PERFORM app.signal(input #>> '{task,context,signal}');
	RETURN NULL;
END $$;
CREATE FUNCTION app.terminate(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_terminate_backend(pg_backend_pid());
	PERFORM pg_sleep(10);
	RETURN NULL;
END $$;
CREATE TABLE app.late (signal text);
CREATE FUNCTION app.late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM app.signal(NEW.signal);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.late DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION app.late();
CREATE FUNCTION app.kill_late(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
	INSERT INTO app.late VALUES ('KILL');
	SELECT NULL::jsonb;
$$;
SQL

# query(sql): its answer, when there is a server to give one
sub query
{
	my ($sql) = @_;
	my ($out, $rc);
	my $limit = time + 60;
	do
	{
		usleep(20_000) if defined $rc;
		$rc = eval { $node->psql('postgres', $sql, stdout => \$out, stderr => \my $err) } // 1;
	} while ($rc != 0 && time < $limit);
	die "no answer to $sql" if $rc != 0;
	return $out;
}

sub until_sql
{
	my ($condition, $what, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return until_true(sub { query("SELECT COALESCE(($condition), false)") eq 't' }, $what, $seconds // 60);
}

# All settled: no process of another server's life is still to come.
sub until_up
{
	until_sql('tasker.scheduler_pid() IS NOT NULL', 'a scheduler is there');
}

sub new_task
{
	my ($name, $context) = @_;
	return as_role($node, 'postgres', 'app', "SELECT tasker.create_task('$name', '$context')");
}

my $parallel = $node->safe_psql('postgres', 'SHOW server_version_num') < 160000 ? 'force_parallel_mode' : 'debug_parallel_query';
my $retry = '"retry": {"base": "10 ms", "factor": 1, "jitter": 0';
define($node, 'postgres', 'app', 'killer', qq([{"name": "s", "function": "app.kill", $retry, "max_attempts": 3}}]));
define($node, 'postgres', 'app', 'killer_once', qq([{"name": "s", "function": "app.kill", "retryable": false}]));
define($node, 'postgres', 'app', 'killing_child', qq([{"name": "a", "function": "app.effect"},
	{"name": "k", "function": "app.kill", $retry, "max_attempts": 2}, "depends_on": ["a"]},
	{"name": "b", "function": "app.effect", "depends_on": ["a"]}]));
define($node, 'postgres', 'app', 'killer_at_commit', qq([{"name": "s", "function": "app.kill_late", $retry, "max_attempts": 2}}]));
define($node, 'postgres', 'app', 'killer_in_parallel', qq([{"name": "s", "sql": "SELECT jsonb_agg(app.signal(''KILL''))", $retry, "max_attempts": 2}}]));
define($node, 'postgres', 'app', 'terminator', qq([{"name": "s", "function": "app.terminate", $retry, "max_attempts": 2}}]));
foreach my $role ('app', 'other')
{
	define($node, 'postgres', $role, "good_$role", qq([{"name": "a", "function": "$role.effect"},
		{"name": "b", "function": "$role.effect", "depends_on": ["a"]},
		{"name": "c", "function": "$role.effect", "depends_on": ["b"]}]));
	define($node, 'postgres', $role, "once_$role", qq([{"name": "s", "function": "$role.effect", "retry": {"max_attempts": 1}}]));
}

# state|attempts|sqlstate of the task's step
sub ended_as
{
	my ($task, $step) = @_;
	return query("SELECT concat_ws('|', state, attempts, last_error ->> 'sqlstate') FROM tasker.workflow_steps
		WHERE task_id = $task AND step_id = @{[ $step // 1 ]}");
}

note 'kill -9 of its own backend';
my $log = log_size($node);
sub good
{
	my ($role) = @_;
	return "SELECT count(*) FROM tasker.create_tasks('good_$role', array_fill('{\"sleep\": 0.01}'::jsonb, ARRAY[100]))";
}
as_role($node, 'postgres', 'other', good('other'));
my ($first, $bad) = split /\n/, as_role($node, 'postgres', 'app', 'BEGIN; ' . good('app') . q(; SELECT tasker.create_task('killer', '{"signal": "KILL"}'); COMMIT));
until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", 'its task ends in error');
until_sql("NOT EXISTS (SELECT FROM tasker.tasks WHERE state NOT IN ('complete', 'error'))", 'everything else is complete');
is(ended_as($bad), 'error|3|TK430', 'after all of its attempts');
is(count_in_log($node, $log, 'terminated by signal 9'), 4, 'each of which was a crash, and one before them');
like(query("SELECT tasker.explain_step($bad, 1)"),
	qr/failed for good with "process \d+ died while it ran the step" \(SQLSTATE TK430\) at .*, in attempt 3 of 3\. When the cause is gone/,
	'explain_step says it');
is(query("SELECT string_agg(from_state || ' ' || to_state || ' ' || attempt, ', ' ORDER BY created_at) FROM tasker.workflow_step_transitions WHERE task_id = $bad"),
	'enqueued waiting_for_retry 1, waiting_for_retry enqueued 1, enqueued waiting_for_retry 2, waiting_for_retry enqueued 2, enqueued error 3',
	'the history has its attempts');
is(query("SELECT count(*) FROM app.effects WHERE task_id = $bad"), 0, 'it had no effect');
is(query('SELECT count(*) FROM tasker.workflow_steps WHERE last_error IS NOT NULL'), 1, 'no other step is said to have been cut off');
is(query("SELECT count(*) FROM tasker.workflow_steps WHERE state = 'complete' AND attempts <> 1"), 0, 'none lost an attempt');
is(query("SELECT count(*) FROM tasker.ready_queue"), 0, 'nothing is left in the queue');

note 'other deaths';
foreach my $signal ('SEGV', 'ABRT', 'QUIT')
{
	$bad = new_task('killer_once', qq({"signal": "$signal"}));
	until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", "$signal: its task ends in error");
	is(ended_as($bad), 'error|1|TK430', "$signal: the second time, since it is not to be retried");
}
until_up();
$log = log_size($node);
$bad = new_task('killing_child', '{"signal": "KILL"}');
until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", 'a child that ran in the transaction of its parent: its task ends in error');
is(ended_as($bad, $_->[0]), $_->[1], "... step $_->[0]") foreach [ 1, 'complete|1' ], [ 2, 'error|2|TK430' ], [ 3, 'complete|1' ];
is(count_in_log($node, $log, 'terminated by signal 9'), 3, '... after three crashes');
until_up();
$bad = new_task('killer_at_commit', '{}');
until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", 'a deferred trigger: its task ends in error');
is(ended_as($bad), 'error|2|TK430', '... after its attempts');
until_up();
$node->safe_psql('postgres', "ALTER ROLE app SET $parallel = on");
$bad = new_task('killer_in_parallel', '{}');
until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", 'a parallel worker: its task ends in error');
is(ended_as($bad), 'error|2|TK430', '... after its attempts');
until_up();
$node->safe_psql('postgres', "ALTER ROLE app RESET $parallel");

note 'a step that terminates its own backend';
$log = log_size($node);
$bad = new_task('terminator', '{}');
until_sql("(SELECT state = 'error' FROM tasker.tasks WHERE task_id = $bad)", 'its task ends in error');
is(ended_as($bad), 'error|2|TK430', 'after its attempts');
like(query("SELECT last_error ->> 'message' FROM tasker.workflow_steps WHERE task_id = $bad"), qr/^process \d+ was terminated while it ran the step$/, 'its error says so');
is(count_in_log($node, $log, 'terminated by signal'), 0, 'without a crash');

note 'CALL tasker.run()';
# Without preload no background worker comes back after a crash.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$bad = new_task('killer_once', '{"signal": "KILL"}');
foreach my $time (1, 2)
{
	$log = log_size($node);
	eval { $node->psql('postgres', 'CALL tasker.run()', extra_params => [ '-U', 'app' ]) };
	wait_for_server($node, $log);
}
query('SELECT 1');
as_role($node, 'postgres', 'app', 'CALL tasker.run()');
is(ended_as($bad), 'error|1|TK430', 'a session that dies in it is noticed as well');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'");
$node->restart;

note 'what is nobody\'s fault';
my $long = new_task('once_app', '{"sleep": 3}');
my $running = "EXISTS (SELECT FROM tasker.executing WHERE state = 'busy' AND task_id = $long)";
foreach my $how ('immediate', 'fast')
{
	until_sql($running, 'a step is under way');
	$node->stop($how);
	$node->start;
	is(ended_as($long), 'enqueued|0', "$how restart: the step was not cut off by its own doing");
}
until_sql($running, 'it is under way again');
my ($scheduler) = pids_of($node, 'scheduler');
$log = log_size($node);
kill 'KILL', $scheduler;
wait_for_server($node, $log);
is(ended_as($long), 'enqueued|0', 'a crash of another process: neither');
until_sql($running, 'it is under way again');
# Not the others too: one of them may have taken it up before its turn comes.
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM tasker.executing WHERE task_id = $long");
until_sql("(SELECT last_error ->> 'sqlstate' = 'TK430' FROM tasker.workflow_steps WHERE task_id = $long)", 'its executor is terminated: that is kept');
until_sql("(SELECT state = 'complete' FROM tasker.tasks WHERE task_id = $long)", 'after all of it the step, which has one attempt, is complete');

note 'the whole server dies at once: nobody can tell why';
define($node, 'postgres', 'app', 'long', qq([{"name": "s", "function": "app.effect", $retry, "max_attempts": 2}}]));
my @both = map { new_task('long', '{"sleep": 2}') } 1, 2;
my $of_both = "task_id IN ($both[0], $both[1])";
foreach my $time (1, 2)
{
	until_sql("(SELECT count(*) = 2 FROM tasker.executing WHERE state = 'busy' AND $of_both)", 'two steps are under way');
	my @children = split /\n/, query('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	my @executors = pids_of($node, 'executor');
	my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	kill 'STOP', $postmaster;
	kill 'KILL', @executors;
	until_true(sub { !grep { slurp_file("/proc/$_/stat") !~ /^\d+ \(.*\) Z/ } @executors }, 'their processes are dead');
	$node->kill9;
	until_true(sub { !grep { kill 0, $_ } @children }, 'and so are all others');
	$node->start;
	# What was noted the first time is still there the second.
	my $noted = $time == 1 ? "last_error ->> 'sqlstate' = 'TK430'" : 'attempts > 0';
	until_sql("(SELECT count(*) = 2 FROM tasker.workflow_steps WHERE $of_both AND $noted)", 'both were cut off');
	is(query("SELECT string_agg(attempts::text, ',') FROM tasker.workflow_steps WHERE $of_both"),
		$time == 1 ? '0,0' : '1,1', $time == 1 ? 'which costs nothing the first time' : 'and the next time an attempt');
}
until_sql("(SELECT count(*) = 1 FROM tasker.executing WHERE state = 'busy' AND $of_both) AND
	EXISTS (SELECT FROM tasker.workflow_steps WHERE $of_both AND state = 'enqueued' AND
	tasker.explain_step(task_id, step_id) ~ 'is ready to run, but steps in which a process ended are run one at a time, and another one is at it')",
	'after that they run one at a time, as explain_step says');
until_sql("(SELECT count(*) = 2 FROM tasker.tasks WHERE $of_both AND state = 'complete')", 'and are complete');
is(query("SELECT string_agg(step_id || '|' || attempt, ',') FROM tasker.workflow_step_transitions WHERE $of_both AND to_state = 'complete'"),
	'1|2,1|2', 'in the attempt after that');
is(query("SELECT string_agg(step || ' ' || attempt, ',') FROM app.effects WHERE $of_both"), 's 2,s 2', 'with their effects once');
check_consistent($node, 'postgres');

note 'without the file';
$node->stop;
my $file = $node->data_dir . '/pg_stat_tmp/tasker.running';
unlink $file;
mkdir $file;
$log = log_size($node);
$node->start;
like(log_since($node, $log), qr/could not map file.*tasker\.running.*is not recognized/s, 'the log says what that means');
my $task = new_task('once_app', '{}');
until_sql("(SELECT state = 'complete' FROM tasker.tasks WHERE task_id = $task)", 'steps run all the same');

$node->stop;
done_testing();
