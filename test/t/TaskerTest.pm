# TaskerTest: what the TAP tests share: servers with tasker, waiting for a
# condition, handlers whose effects can be counted.
package TaskerTest;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

# The superuser's name, whoever runs the test.
$ENV{PGUSER} = 'postgres';

our @EXPORT = qw(new_node new_database new_role define as_role wait_until
  wait_for_server in_background finish_background pids_of log_size log_since
  count_in_log create_fault_functions until_true check_consistent terminate);

# A server with tasker preloaded, the extension in database postgres, and the
# role app. Options: preload => 0, extension => 0, conf => text, start => 0.
sub new_node
{
	my ($name, %o) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(allows_streaming => $o{streaming} // 0, extra => [ '-U', $ENV{PGUSER} ]);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'tasker'") if $o{preload} // 1;
	$node->append_conf('postgresql.conf', <<CONF);
restart_after_crash = on
max_worker_processes = 24
tasker.max_executors = 16
log_min_messages = warning
CONF
	$node->append_conf('postgresql.conf', $o{conf}) if $o{conf};
	return $node if exists $o{start} && !$o{start};
	$node->start;
	if ($o{extension} // 1)
	{
		$node->safe_psql('postgres', 'CREATE EXTENSION tasker');
		new_role($node, 'app');
	}
	return $node;
}

sub new_database
{
	my ($node, $name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION tasker');
	return $name;
}

# A role that may submit, with a schema of its name that holds the common
# handlers:
#   effect   inserts one row into effects; context {"sleep": s} takes so long;
#            {"fail": step, "times": n} raises in that step's first n attempts
#   whoami   returns who runs it and with which settings
# and effects(task_id, step, attempt, at, pid), without any key on purpose.
sub new_role
{
	my ($node, $role, $db, %o) = @_;
	$db //= 'postgres';
	my $attributes = $o{attributes} // 'LOGIN';
	$node->safe_psql($db, <<SQL);
DO \$\$ BEGIN CREATE ROLE "$role" $attributes; EXCEPTION WHEN duplicate_object THEN NULL; END \$\$;
SELECT tasker.grant_access('$role', 'submitter');
CREATE SCHEMA "$role" AUTHORIZATION "$role";
SET ROLE "$role";
CREATE TABLE "$role".effects (task_id bigint, step text, attempt int, at timestamptz DEFAULT clock_timestamp(),
	pid int DEFAULT pg_backend_pid());
CREATE FUNCTION "$role".effect(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO "$role".effects (task_id, step, attempt) VALUES ((input #>> '{task,id}')::bigint,
		input #>> '{step,name}', (input #>> '{step,attempt}')::int);
	PERFORM pg_sleep(COALESCE((input #>> '{task,context,sleep}')::float8, 0));
	IF input #>> '{task,context,fail}' = input #>> '{step,name}' AND
		(input #>> '{step,attempt}')::int <= (input #>> '{task,context,times}')::int THEN
		RAISE EXCEPTION 'this attempt fails';
	END IF;
	RETURN jsonb_build_object('step', input #> '{step,name}');
END \$\$;
CREATE FUNCTION "$role".whoami(input jsonb) RETURNS jsonb LANGUAGE plpgsql AS \$\$
BEGIN
	RETURN jsonb_build_object('session_user', session_user, 'current_user', current_user,
		'search_path', current_setting('search_path'), 'work_mem', current_setting('work_mem'),
		'read_only', current_setting('transaction_read_only'),
		'isolation', current_setting('transaction_isolation'));
END \$\$;
SQL
	return $role;
}

# define(node, db, role, name, steps as JSON): a named task of the role
sub define
{
	my ($node, $db, $role, $name, $steps) = @_;
	as_role($node, $db, $role,
		"SELECT tasker.define_task('$name', '{\"steps\": $steps}')");
}

# One psql as the role; dies on an error. Returns what it printed.
sub as_role
{
	my ($node, $db, $role, $sql) = @_;
	return $node->safe_psql($db, $sql, extra_params => [ '-U', $role ]);
}

# wait_until(node, db, condition, what, seconds): a test that passes once the
# SQL condition is true. The server itself repeats the question.
sub wait_until
{
	my ($node, $db, $condition, $what, $seconds) = @_;
	$seconds //= 30;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($out, $err) = ('', '');
	my $rc = $node->psql($db, <<SQL, stdout => \$out, stderr => \$err);
SET client_min_messages = error;
DO \$wait\$
BEGIN
	WHILE ($condition) IS DISTINCT FROM true LOOP
		IF clock_timestamp() > statement_timestamp() + '$seconds s'::interval THEN
			RAISE EXCEPTION 'not within $seconds s';
		END IF;
		PERFORM pg_sleep(0.005);
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END \$wait\$;
SQL
	my $good = ok($rc == 0, $what);
	diag("$condition\n$err") unless $good;
	return $good;
}

# The same for a condition in Perl.
sub until_true
{
	my ($code, $what, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $limit = time + ($seconds // 30);
	my $good;
	until ($good = $code->())
	{
		last if time > $limit;
		usleep(20_000);
	}
	return ok($good, $what);
}

# After a process of the server was killed: wait until it has started itself
# anew. The log, of which $log was the size before the kill, tells; asking the
# server may break the pipe to psql.
sub wait_for_server
{
	my ($node, $log) = @_;
	my $limit = time + 30;
	until (log_since($node, $log) =~ /terminated by signal 9.*ready to accept connections/s)
	{
		die "the server does not come back" if time > $limit;
		usleep(20_000);
	}
}

# A psql that runs while the test goes on.
sub in_background
{
	my ($node, $db, $role, $sql) = @_;
	my $b = { out => '', err => '' };
	$b->{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d',
			$node->connstr($db) . " user=$role", '-c', $sql ],
		'<', \undef, '>', \$b->{out}, '2>', \$b->{err});
	return $b;
}

# Waits for its end; its exit status.
sub finish_background
{
	my ($b) = @_;
	$b->{run}->finish;
	return $b->{run}->result(0) // 0;
}

# Ends the server's processes whose ids the query gives, and waits until they are gone.
sub terminate
{
	my ($node, $db, $query) = @_;
	my $pids = join ',', split /\n/, $node->safe_psql($db, $query);
	return if $pids eq '';
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM unnest('{$pids}'::int[]) AS pid");
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid IN ($pids))")
	  or die "they do not end: $pids";
	return;
}

# The processes of tasker of one type (launcher, scheduler, executor).
sub pids_of
{
	my ($node, $type, $db) = @_;
	my $where = defined $db ? "AND datname = '$db'" : '';
	return split /\n/, $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'tasker $type' $where ORDER BY pid");
}

sub log_size { return -s $_[0]->logfile; }

sub log_since
{
	my ($node, $offset) = @_;
	return slurp_file($node->logfile, $offset);
}

sub count_in_log
{
	my ($node, $offset, $pattern) = @_;
	my $n = () = log_since($node, $offset) =~ /$pattern/g;
	return $n;
}

# The fault points of a test build; 0 if this is none.
sub create_fault_functions
{
	my ($node, $db) = @_;
	my $rc = $node->psql($db // 'postgres', <<'SQL', stderr => \my $err);
CREATE FUNCTION public.fault_arm(name text, action text, times int) RETURNS boolean
	AS '$libdir/tasker', 'tasker_fault_arm' LANGUAGE C STRICT;
CREATE FUNCTION public.fault_disarm(name text) RETURNS boolean
	AS '$libdir/tasker', 'tasker_fault_disarm' LANGUAGE C STRICT;
CREATE FUNCTION public.fault_waiting(name text) RETURNS int
	AS '$libdir/tasker', 'tasker_fault_waiting' LANGUAGE C STRICT;
SQL
	return $rc == 0;
}

# Whatever happened: tables, history and counters agree. Tests that end with
# every task over.
sub check_consistent
{
	my ($node, $db) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($db, <<'SQL'), '', 'each change of a step is in the history once');
SELECT task_id, step_id, to_state, attempt, count(*) FROM tasker.workflow_step_transitions
WHERE to_state = 'complete' GROUP BY 1, 2, 3, 4 HAVING count(*) > 1
UNION ALL
SELECT s.task_id, s.step_id, s.state, s.attempts, 0 FROM tasker.workflow_steps s
WHERE s.state = 'complete' AND NOT EXISTS (SELECT FROM tasker.workflow_step_transitions h
	WHERE h.task_id = s.task_id AND h.step_id = s.step_id AND h.to_state = 'complete')
ORDER BY 1, 2 LIMIT 5
SQL
	is($node->safe_psql($db, <<'SQL'), '', 'no step began before its parents were complete');
SELECT e.* FROM tasker.workflow_step_edges e
	JOIN tasker.workflow_steps p ON p.task_id = e.task_id AND p.step_id = e.from_step_id
	JOIN tasker.workflow_steps c ON c.task_id = e.task_id AND c.step_id = e.to_step_id
WHERE c.state = 'complete' AND (p.state <> 'complete' OR c.last_attempted_at < p.completed_at)
ORDER BY e.task_id LIMIT 5
SQL
	return unless $node->safe_psql($db, "SELECT to_regprocedure('tasker.verify_task(bigint)')") ne '';
	is($node->safe_psql($db, <<'SQL'), '', 'verify_task finds nothing');
SELECT t.task_id, v FROM tasker.tasks t CROSS JOIN LATERAL tasker.verify_task(t.task_id) AS v
ORDER BY 1 LIMIT 5
SQL
}

1;
