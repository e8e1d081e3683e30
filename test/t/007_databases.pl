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

$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(second third);
pass('databases with processes in them can be dropped');
wait_until($node, 'postgres', $in->('second') . ' + ' . $in->('third') . ' = 0', 'and nobody is left');
unlike($node->safe_psql('postgres', 'SELECT 1') . slurp_file($node->logfile), qr/database \d+ does not exist|database "second" does not exist/,
	'nobody looks for them afterwards');

$node->stop;
done_testing();
