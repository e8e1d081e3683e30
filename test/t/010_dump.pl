# pg_dump and what restores it: everything is back once, sequences go on, no
# trigger fires, nothing runs before tasker.adopt(), and then the work goes on.
use strict;
use warnings;
use CopyTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('original', conf => "tasker.executor_idle_timeout = 1\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE ROLE gone LOGIN; SELECT tasker.grant_access('gone', 'submitter')");
put_in_flight($node, 'postgres');
as_role($node, 'postgres', 'gone', <<'SQL');
SELECT tasker.define_task('gone', '{"steps": [{"name": "a", "sql": "SELECT to_jsonb(current_user)"}]}');
SELECT tasker.create_task('gone');
SQL
my $original = contents($node, 'postgres');
my ($rc, $err);

# In the server of the original, and in another without one of the roles, where
# the oids of the others are taken by somebody else.
my $other = new_node('other', extension => 0, conf => "tasker.executor_idle_timeout = 1\n");
$other->safe_psql('postgres', join '', map { "CREATE ROLE stranger$_;" } 1 .. 20);
$other->safe_psql('postgres', 'CREATE ROLE app LOGIN');

foreach (['plain', '-Fp'], ['inserts', '-Fp', '--rows-per-insert=5'], ['custom', '-Fc'], ['directory', '-Fd', '-j2'],
	['data', '-Fc', '--data-only'], ['stripped', '-Fc', '--no-owner', '--no-privileges'])
{
	my ($name, @options) = @$_;
	($rc, $err) = run_program($node, 'pg_dump', @options, '-f', "$dir/$name", 'postgres');
	is("$rc $err", '0 ', "pg_dump @options");
}

# restore(node, database, command): as the command has it, of which %d is the database
sub restore
{
	my ($to, $db, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$to->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0");
	my @result = run_program($to, map { s/%d/$db/r } @command);
	is(contents($to, $db), $original, "$db: everything is there once");
	is_disarmed($to, $db, 'dump', $db);
	return @result;
}

note 'each way, on the server of the original';
my %restored = (
	plain => ['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', '%d', '-f', "$dir/plain"],
	plain_at_once => ['psql', '-XqAt1', '-v', 'ON_ERROR_STOP=1', '-d', '%d', '-f', "$dir/plain"],
	inserts => ['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', '%d', '-f', "$dir/inserts"],
	custom => ['pg_restore', '-e', '-d', '%d', "$dir/custom"],
	custom_parallel => ['pg_restore', '-e', '-j2', '-d', '%d', "$dir/custom"],
	directory => ['pg_restore', '-e', '-j2', '-d', '%d', "$dir/directory"]);
foreach my $db (sort keys %restored)
{
	($rc, $err) = restore($node, $db, @{ $restored{$db} });
	is("$rc $err", '0 ', "$db: without an error");
	$node->safe_psql('postgres', "DROP DATABASE $db") unless $db =~ /^(directory|plain)$/;
}

note 'nothing runs, then everything does';
until_true(sub { slurp_file($node->logfile) =~ /LOG:  tasker runs nothing in database "plain"\n.*DETAIL:  .*restored from a dump.*\n.*HINT:  .*tasker\.adopt/ },
	'the scheduler says why it does nothing');
is(contents($node, 'plain'), $original, 'and nothing has changed');
like($node->safe_psql('plain', "SELECT tasker.explain_step(task_id, step_id) FROM tasker.step_status WHERE name = 'a' AND state = 'enqueued' LIMIT 1"),
	qr/this database is disarmed, because it was restored from a dump.*tasker\.adopt/, 'explain_step() says so too');
like(client_error($node, 'plain', "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE lease IS NOT NULL"),
	qr/ERROR:  TK602/, "the original's worker can not complete its step here");
like(client_error($node, 'plain', 'SELECT tasker.tick()'), qr/ERROR:  TK602/, 'time does not go on');
is($node->safe_psql('plain', "SELECT action, done FROM tasker.adopt()"),
	"map owners to roles|0\nmove sequences|0\nenable triggers|0\nend leases|1\nmake hints|1\narm|1", 'adopt() has little to do');
finish($node, 'plain', 'adopted');
is($node->safe_psql('plain', "SELECT attempt FROM tasker.workflow_step_transitions WHERE metadata ->> 'sqlstate' = 'TK421'"),
	'1', "what the original's worker had in hand is retried");
is(contents($node, 'postgres'), $original, 'the original is what it was');
is($node->safe_psql('plain', 'SELECT sum(done) FROM tasker.adopt()'), 0, 'a second time there is nothing to do');
$node->safe_psql('directory', 'SELECT tasker.adopt(keep_leases => true)');
is($node->safe_psql('directory', "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE lease IS NOT NULL"),
	'', 'keep_leases: workers go on where they were');
finish($node, 'directory', 'adopted with leases');
$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(plain directory);

note 'data only, into a database that has the extension';
my $triggers = $node->safe_psql('postgres', "SELECT count(*) FROM pg_trigger WHERE tgfoid::regproc::text ~ '^tasker'");
foreach my $way ([], ['--disable-triggers'])
{
	$node->safe_psql('postgres', 'CREATE DATABASE data');
	($rc, $err) = run_program($node, 'pg_restore', '-e', '--section=pre-data', '-d', 'data', "$dir/custom");
	is("$rc $err", '0 ', 'the schema');
	is($node->safe_psql('data', 'SELECT state FROM tasker.guard()'), 'new', 'is new');
	($rc, $err) = run_program($node, 'pg_restore', '-e', '-1', @$way, '-d', 'data', "$dir/data");
	is("$rc $err", '0 ', "the data @$way");
	is(contents($node, 'data'), $original, 'everything is there once');
	is_disarmed($node, 'data', 'dump', "data only @$way");
	is($node->safe_psql('data', "SELECT done FROM tasker.adopt() WHERE action = 'enable triggers'"), @$way ? $triggers : 0, 'triggers are ALWAYS again');
	is($node->safe_psql('data', "SELECT count(*) FROM pg_trigger WHERE tgfoid::regproc::text ~ '^tasker' AND tgenabled <> 'A'"), 0, 'all of them');
	finish($node, 'data', "data only @$way");
	$node->safe_psql('postgres', 'DROP DATABASE data');
}

note 'a dump that is loaded into a database that works';
new_database($node, 'works');
new_role($node, 'app', 'works');
define($node, 'works', 'app', 'own', '[{"name": "a", "function": "app.effect"}]');
as_role($node, 'works', 'app', "SELECT tasker.create_task('own')");
wait_until($node, 'works', "EXISTS (SELECT FROM tasker.tasks WHERE state = 'complete')", 'it works');
$node->safe_psql('works', 'DELETE FROM tasker.tasks');
my $offset = log_size($node);
($rc, $err) = run_program($node, 'pg_restore', '-d', 'works', "$dir/data");
cmp_ok(count_in_log($node, $offset, qr/WARNING:  tasker runs nothing in this database any more/), '==', 1, 'the log tells');
is_disarmed($node, 'works', '(dump|rows)', 'a dump on top');
is($node->safe_psql('works', "SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')"),
	$node->safe_psql('postgres', "SELECT count(*) FROM tasker.tasks WHERE state IN ('pending', 'in_progress')"), 'its tasks stand still');

note 'as a tenant';
foreach my $role ('app', 'gone')
{
	($rc, $err) = run_program($node, 'pg_dump', '-U', $role, '-Fc', '-f', "$dir/tenant", 'postgres');
	isnt($rc, 0, "pg_dump as $role fails");
	like($err, qr/permission denied|row-level security|lack SELECT privilege/, 'and says why');
	($rc, $err) = run_program($node, 'pg_dump', '-U', $role, '--enable-row-security', '-Fc', '-f', "$dir/tenant", 'postgres');
	isnt($rc, 0, 'so it does when it asks for a part');
}
SKIP:
{
	skip 'PostgreSQL 13 has no pg_read_all_data', 1 if $node->safe_psql('postgres', "SELECT to_regrole('pg_read_all_data') IS NULL") eq 't';
	$node->safe_psql('postgres', 'CREATE ROLE backup LOGIN BYPASSRLS IN ROLE pg_read_all_data');
	($rc, $err) = run_program($node, 'pg_dump', '-U', 'backup', '-Fc', '-f', "$dir/custom", 'postgres');
	is("$rc $err", '0 ', 'a role that may read everything can');
}
$node->safe_psql('postgres', 'CREATE ROLE tenant LOGIN; GRANT CREATE ON DATABASE works TO tenant');
$node->safe_psql('postgres', 'CREATE DATABASE tenant OWNER tenant');
($rc, $err) = run_program($node, 'pg_restore', '-U', 'tenant', '-d', 'tenant', "$dir/stripped");
isnt($rc, 0, 'pg_restore as a tenant fails');
like($err, qr/permission denied to create extension|must be superuser/i, 'and says why');

note 'another server, without one of the roles';
($rc, $err) = restore($other, 'with_errors', 'pg_restore', '-d', '%d', "$dir/custom");
like($err, qr/role "gone" does not exist/, 'the missing role is an error of its grants');
($rc, $err) = restore($other, 'stripped', 'pg_restore', '-e', '-1', '-d', '%d', "$dir/stripped");
is("$rc $err", '0 ', 'none without them');
$other->safe_psql('with_errors', "SELECT tasker.grant_access('app', 'submitter')");
like(client_error($other, 'with_errors', "SET ROLE app;\nSELECT tasker.create_task('flow')"), qr/ERROR:  TK602/,
	'a role whose owner is not mapped yet can not become a second one');
is($other->safe_psql('with_errors', "SELECT done, detail FROM tasker.adopt() WHERE action ~ 'owners'"), '2|missing roles: gone',
	'adopt() maps owners by name');
until_true(sub {
	$other->safe_psql('with_errors', "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.claim_steps('{q}', 'w2', 10)");
	return $other->safe_psql('with_errors', "SELECT count(*) FROM tasker.task_status WHERE state NOT IN ('complete', 'paused', 'error')") eq '0';
}, 'what the roles that are there own completes');
is($other->safe_psql('with_errors', "SELECT t.name, s.last_error ->> 'sqlstate' FROM tasker.task_status t JOIN tasker.step_status s USING (task_id) WHERE t.state = 'error'"),
	'gone|TK403', "the other's task fails, for want of a role");
is($other->safe_psql('with_errors', "SELECT count(*) FROM tasker.owners WHERE role_name ~ 'stranger'"), 0, 'nobody else gets it');
$other->safe_psql('with_errors', "CREATE ROLE gone LOGIN; SELECT tasker.grant_access('gone', 'submitter')");
is($other->safe_psql('with_errors', "SELECT done, detail IS NULL FROM tasker.adopt() WHERE action ~ 'owners'"), '1|t', 'the role is made, and adopt() called again');
is($other->safe_psql('with_errors', "SELECT tasker.retry_task(task_id) FROM tasker.tasks WHERE state = 'error'"), 1, 'its task is retried');
finish($other, 'with_errors', 'without a role');

$node->stop;
$other->stop;
done_testing();
