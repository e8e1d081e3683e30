# Commands that want a database for themselves get it: tasker's processes leave
# it first, and come back.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('databases');
my $one = 'tasker.scheduler_pid() IS NOT NULL';
my $in = sub { "(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'tasker%' AND datname = '$_[0]')" };

new_database($node, 'first');
new_role($node, 'worker', 'first');
define($node, 'first', 'worker', 'long', '[{"name": "s", "function": "worker.effect"}]');
wait_until($node, 'first', $one, 'the database has a scheduler');
as_role($node, 'first', 'worker', q(SELECT tasker.create_task('long', '{"sleep": 600}')));
wait_until($node, 'first', "EXISTS (SELECT FROM tasker.executing WHERE state = 'busy')", 'and an executor at a long step');

# somebody without the right to it changes nothing
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
my $pids = $node->safe_psql('postgres', "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE datname = 'first'");
my ($rc, $out, $err) = $node->psql('postgres', 'SET ROLE stranger; DROP DATABASE first');
like($err, qr/must be owner of database first/, 'a stranger may not drop it');
is($node->safe_psql('postgres', "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE datname = 'first'"),
	$pids, 'and has nobody leave it');

# the owner has them all leave, the one at the long step, too
$node->safe_psql('postgres', 'ALTER DATABASE first RENAME TO second');
pass('a database with processes in it can be renamed');
wait_until($node, 'second', $one, 'they come back to it under its new name');
wait_until($node, 'second', "EXISTS (SELECT FROM tasker.executing WHERE state = 'busy')", 'and the step is run anew');

$node->safe_psql('postgres', 'CREATE DATABASE third TEMPLATE second');
pass('it can be a template');
wait_until($node, 'second', $one, 'after which they come back');

# a command that fails lets them back as well
($rc, $out, $err) = $node->psql('postgres', 'ALTER DATABASE second RENAME TO postgres');
like($err, qr/already exists/, 'a failed command');
wait_until($node, 'second', $one, 'lets them back');

# as does one that finds somebody else there, after the five seconds that the server waits
my $session = in_background($node, 'second', 'worker', 'SELECT pg_sleep(60)');
wait_until($node, 'second', "EXISTS (SELECT FROM pg_stat_activity WHERE usename = 'worker' AND wait_event = 'PgSleep' AND backend_type = 'client backend')", 'a session is there');
($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE second');
like($err, qr/second" is being accessed by other users/, "it fails for the session's sake");
wait_until($node, 'second', "$one AND EXISTS (SELECT FROM tasker.executing WHERE state = 'busy')", 'and lets them back');
$node->safe_psql('postgres', 'CREATE DATABASE forced TEMPLATE third');
$node->safe_psql('forced', 'SELECT count(*) FROM tasker.adopt()');
wait_until($node, 'forced', "$one AND EXISTS (SELECT FROM tasker.executing WHERE state = 'busy')", 'another one is at work');
$node->safe_psql('postgres', 'DROP DATABASE forced WITH (FORCE)');
wait_until($node, 'postgres', $in->('forced') . ' = 0', 'DROP DATABASE WITH (FORCE) takes all of them along');
$node->safe_psql('postgres', 'DROP DATABASE second WITH (FORCE)');
isnt(finish_background($session), 0, 'and whoever else is there');

# the template of all others
$node->safe_psql('template1', 'CREATE EXTENSION tasker');
wait_until($node, 'template1', $one, 'the extension in template1: a scheduler');
$node->safe_psql('postgres', 'CREATE DATABASE second');
pass('which is in no way of CREATE DATABASE');
$node->safe_psql('postgres', "SELECT tasker.grant_access('worker', 'submitter')");
new_role($node, 'worker', 'second');
define($node, 'second', 'worker', 'short', '[{"name": "s", "function": "worker.effect"}]');
as_role($node, 'second', 'worker', "SELECT tasker.create_task('short')");
wait_until($node, 'second', "(SELECT bool_and(state = 'complete') FROM tasker.tasks)", 'and in the new database tasks run');
$node->safe_psql('template1', 'DROP EXTENSION tasker');

# a database that takes no connections when the server starts
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS false');
$node->restart;
wait_until($node, 'third', $one, 'started again: schedulers come');
is(scalar pids_of($node, 'scheduler', 'second'), 0, 'but not to a database that takes no connections');
$node->safe_psql('postgres', 'ALTER DATABASE second ALLOW_CONNECTIONS true');
as_role($node, 'second', 'worker', "SELECT tasker.create_task('short')");
wait_until($node, 'second', "(SELECT bool_and(state = 'complete') FROM tasker.tasks)", 'once it does, a task brings its own');

$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(second third);
pass('databases with processes in them can be dropped');
wait_until($node, 'postgres', $in->('second') . ' + ' . $in->('third') . ' = 0', 'and nobody is left');
unlike($node->safe_psql('postgres', 'SELECT 1') . slurp_file($node->logfile), qr/database \d+ does not exist|database "(second|forced)" does not exist/,
	'nobody looks for them afterwards');

$node->stop;

note 'without preload';
$node = new_node('plain', preload => 0);
new_database($node, $_) foreach 'stopped', 'forced';
foreach my $database ('stopped', 'forced')
{
	$node->safe_psql($database, 'SELECT tasker.start()');
	wait_until($node, $database, $one, "$database: a scheduler that start() started");
}
is($node->safe_psql('stopped', "SELECT detail FROM tasker.doctor() WHERE problem = 'tasker is not preloaded'"),
	'After the next restart of the server nothing runs until tasker.start().', 'the doctor warns of the next restart');
is($node->safe_psql('stopped', "SELECT count(*) FROM tasker.doctor() WHERE problem = 'no scheduler runs'"), 0, 'but for that all is well');
($rc, $out, $err) = $node->psql('postgres', 'DROP DATABASE stopped');
like($err, qr/is being accessed by other users/, 'it is in the way of DROP DATABASE');
$node->safe_psql('stopped', 'SELECT tasker.stop()');
wait_until($node, 'stopped', 'tasker.scheduler_pid() IS NULL', 'until tasker.stop()');
$node->safe_psql('postgres', 'DROP DATABASE stopped');
my $log = log_size($node);
my ($scheduler) = pids_of($node, 'scheduler', 'forced');
$node->safe_psql('postgres', 'DROP DATABASE forced WITH (FORCE)');
until_true(sub { !kill 0, $scheduler }, 'WITH (FORCE) needs no tasker.stop()');
# The postmaster starts it again after a second; then it notices.
until_true(sub { count_in_log($node, $log, qr/background worker "tasker scheduler" \(PID \d+\) exited/) > 0 || log_since($node, $log) =~ /does not exist/ }, 'and it does not come back');
cmp_ok(count_in_log($node, $log, qr/FATAL: .*does not exist/), '<', 3, 'again and again');
$node->stop;
done_testing();
