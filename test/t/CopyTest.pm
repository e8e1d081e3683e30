# CopyTest: what the tests of copies share: work in flight, everything that a
# database holds as text, and finishing the work in a copy that was adopted.
package CopyTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

our @EXPORT = qw(put_in_flight contents state_of is_disarmed is_armed finish run_program client_error);

# Tasks in every stage, in a database with role app; its scheduler is stopped
# before the last ones are created.
sub put_in_flight
{
	my ($node, $db) = @_;
	define($node, $db, 'app', 'flow', <<'JSON');
[{"name": "a", "function": "app.effect", "retry": {"base": "1 s"}},
 {"name": "ext", "queue": "q", "depends_on": ["a"], "lease": "1 h", "retry": {"backoff": "fixed", "base": "10 ms", "jitter": 0}},
 {"name": "b", "function": "app.effect", "depends_on": ["ext"]}]
JSON
	define($node, $db, 'app', 'large', q([{"name": "a", "sql": "SELECT to_jsonb(repeat(''x'', 30000))"}]));
	as_role($node, $db, 'app', <<'SQL');
SELECT tasker.create_task('flow', idempotency_key => 'order 1', tags => '["t"]', reason => 'it''s "quoted"');
SELECT tasker.create_task('large');
SQL
	wait_until($node, $db, "EXISTS (SELECT FROM tasker.step_status WHERE name = 'ext' AND state = 'enqueued')", 'a step waits for a worker');
	$node->safe_psql($db, "SELECT tasker.complete_step(task_id, step_id, lease, '{\"paid\": true}') FROM tasker.claim_steps('{q}', 'w')");
	as_role($node, $db, 'app', <<'SQL');
SELECT tasker.create_tasks('flow', '{"{}","{}"}');
SELECT tasker.create_task('flow', '{"fail": "a", "times": 1}');
SQL
	wait_until($node, $db, <<'SQL', 'some wait for a worker, one for its retry, some are complete');
(SELECT count(*) FILTER (WHERE state = 'complete') = 2 FROM tasker.tasks) AND
(SELECT count(*) FILTER (WHERE name = 'ext' AND state = 'enqueued') = 2 AND count(*) FILTER (WHERE state = 'waiting_for_retry') = 1 FROM tasker.step_status)
SQL
	$node->safe_psql($db, "SELECT tasker.stop(); SELECT task_id, step_id, lease FROM tasker.claim_steps('{q}', 'the original''s')");
	wait_until($node, $db, 'tasker.scheduler_pid() IS NULL AND NOT EXISTS (SELECT FROM tasker.executors())', 'the original stands still');
	as_role($node, $db, 'app', <<'SQL');
SELECT tasker.create_task('flow', start_at => now() + '500 ms', priority => 3);
SELECT tasker.create_task('flow', '{"ä": "é"}');
SELECT tasker.create_task('flow') AS t \gset
SELECT tasker.pause_task(:t);
SQL
	return;
}

# Each table and sequence that is dumped, and the effects: how many rows, and a
# hash of all of them.
sub contents
{
	my ($node, $db) = @_;
	my @parts;
	foreach (split /\n/, $node->safe_psql($db, <<'SQL'))
SELECT c.oid::regclass, c.relkind FROM pg_extension e, unnest(e.extconfig) AS x (oid) JOIN pg_class c ON c.oid = x.oid
WHERE e.extname = 'tasker' UNION ALL SELECT 'app.effects', 'r' ORDER BY 1
SQL
	{
		my ($name, $kind) = split /\|/;
		push @parts, $kind eq 'S' ? "SELECT '$name', last_value, is_called::text FROM $name"
		  : qq(SELECT '$name', count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C")) FROM $name t);
	}
	return $node->safe_psql($db, join(' UNION ALL ', @parts) . ' ORDER BY 1');
}

sub state_of
{
	my ($node, $db) = @_;
	return $node->safe_psql($db, "SELECT state || ': ' || reason FROM tasker.guard()");
}

# The message of the error that the statement gives, with its SQLSTATE.
sub client_error
{
	my ($node, $db, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\n$sql");
	return $err;
}

# Whoever wants to run something here is refused, with a reason.
sub is_disarmed
{
	my ($node, $db, $reason, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like(state_of($node, $db), qr/^disarmed: .*$reason/, "$what: disarmed");
	like(client_error($node, $db, "SELECT * FROM tasker.claim_steps('{q}', 'w')"),
		qr/ERROR:  TK602: .*DETAIL: .*$reason.*HINT: .*tasker\.adopt\(\)/s, "$what: nothing is handed out");
	like(client_error($node, $db, 'CALL tasker.run()'), qr/ERROR:  TK602: /, "$what: nothing is run");
	return;
}

sub is_armed
{
	my ($node, $db, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($node, $db, 'tasker.scheduler_pid() IS NOT NULL', "$what: the scheduler comes");
	like(state_of($node, $db), qr/^armed: /, "$what: armed");
	return;
}

# Wait until all tasks but the paused one are complete, playing the workers
# meanwhile; each step must have had its effect once.
sub complete_all
{
	my ($node, $db, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_true(sub {
		$node->safe_psql($db, "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.claim_steps('{q}', 'w2', 10)");
		return $node->safe_psql($db, "SELECT count(*) FROM tasker.tasks WHERE state NOT IN ('complete', 'paused')") eq '0';
	}, "$what: what was in flight completes") or diag($node->safe_psql($db,
		"SELECT tasker.explain_step(task_id, step_id) FROM tasker.step_status WHERE state NOT IN ('complete', 'pending')"));
	is($node->safe_psql($db, <<'SQL'), '', "$what: each step had its effect once");
SELECT s.task_id, s.name, count(x.task_id) FROM tasker.step_status s LEFT JOIN app.effects x ON x.task_id = s.task_id AND x.step = s.name
WHERE s.handler_kind = 'function' GROUP BY 1, 2, s.state HAVING count(x.task_id) <> (s.state = 'complete')::int
SQL
	return;
}

# The work goes on here, by itself or because the database was adopted.
sub finish
{
	my ($node, $db, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	complete_all($node, $db, $what);
	is($node->safe_psql($db, "SELECT count(*), bool_and(tasker.resume_task(task_id)) FROM tasker.tasks WHERE state = 'paused'"),
		'1|t', "$what: the paused task is resumed");
	is(as_role($node, $db, 'app', "SELECT tasker.create_task('flow', idempotency_key => 'order 1') = min(task_id) FROM tasker.tasks"),
		't', "$what: the idempotency key is known");
	is(as_role($node, $db, 'app', "SELECT tasker.create_task('flow', idempotency_key => 'new') > max(task_id) FROM tasker.tasks"),
		't', "$what: ids go on");
	complete_all($node, $db, "$what, new ones");
	check_consistent($node, $db);
	return;
}

# A program of the server's against the node: exit status, standard error.
sub run_program
{
	my ($node, @command) = @_;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $err);
}

1;
