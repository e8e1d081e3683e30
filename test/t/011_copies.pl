# Copies of the files, and what is none: a restart, a crash, a rename, the
# promotion of a streaming standby and pg_upgrade go on by themselves; a base
# backup, point-in-time recovery, an archive-fed standby, a copied directory, a
# template's copy and a subscriber run nothing before tasker.adopt().
use strict;
use warnings;
use CopyTest;
use File::Basename;
use File::Copy qw(move);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('original', streaming => 'logical', start => 0, conf => <<CONF);
tasker.executor_idle_timeout = 1
max_worker_processes = 16
wal_keep_size = 256MB
CONF
$node->enable_archiving;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION tasker');
new_role($node, 'app');
put_in_flight($node, 'postgres');
my $original = contents($node, 'postgres');
ok(-f $node->data_dir . '/pg_stat_tmp/tasker.' . $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = 'postgres'"),
	'the data directory is marked');
$node->backup('copy');

# A server from the backup; options are init_from_backup's.
sub copy_of
{
	my ($name, %options) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);
	$copy->init_from_backup($node, 'copy', %options);
	$copy->append_conf('postgresql.conf', "archive_mode = off\n");
	return $copy;
}

# The scheduler has found out, has said so, and has written it down.
sub is_held
{
	my ($copy, $reason, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_true(sub { slurp_file($copy->logfile) =~ /LOG:  tasker runs nothing in database "postgres"/ }, "$what: the log tells");
	is($copy->safe_psql('postgres', 'SELECT armed FROM tasker.here'), 'f', "$what: it is written down");
	like(state_of($copy, 'postgres'), qr/^disarmed: .*$reason/, "$what: with its reason");
	is(contents($copy, 'postgres'), $original, "$what: nothing has changed");
	return;
}

# What a worker has in hand goes on, too.
my $complete_held = <<'SQL';
SELECT count(tasker.complete_step(task_id, step_id, lease)) FROM tasker.workflow_steps WHERE lease IS NOT NULL
SQL

note 'a base backup';
my $copy = copy_of('base');
$copy->start;
is_held($copy, 'files are a copy', 'a base backup');
is_disarmed($copy, 'postgres', 'files are a copy', 'a base backup');
$copy->restart;
is_disarmed($copy, 'postgres', 'files are a copy', 'restarted');
$copy->safe_psql('postgres', 'SELECT tasker.adopt()');
finish($copy, 'postgres', 'a base backup');
$copy->restart;
is_armed($copy, 'postgres', 'adopted and restarted');
$copy->stop;

note 'point-in-time recovery';
my $target = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
$node->safe_psql('postgres', 'CREATE TABLE later (); SELECT pg_switch_wal()');
$copy = copy_of('recovery', has_restoring => 1, standby => 0);
$copy->append_conf('postgresql.conf', "recovery_target_lsn = '$target'\nrecovery_target_action = promote\n");
$copy->start;
wait_until($copy, 'postgres', 'NOT pg_is_in_recovery()', 'recovered');
is($copy->safe_psql('postgres', "SELECT to_regclass('later')"), '', 'to an earlier time');
is_held($copy, 'files are a copy', 'point-in-time recovery');
$copy->safe_psql('postgres', 'SELECT tasker.adopt()');
finish($copy, 'postgres', 'point-in-time recovery');
$copy->stop;

note 'a standby that is fed from the archive';
# Found out even where nothing would run anyway.
$copy = copy_of('archive', has_restoring => 1);
$copy->append_conf('postgresql.conf', "tasker.enabled = off\n");
$copy->start;
wait_until($copy, 'postgres', "to_regclass('later') IS NOT NULL", 'it follows');
$copy->promote;
is_held($copy, 'files are a copy', 'an archive-fed standby');
$copy->stop;

note 'a template';
$node->safe_psql('postgres', "CREATE DATABASE copy TEMPLATE postgres");
is_disarmed($node, 'copy', 'copy of another database', 'a copy of a template');
is(contents($node, 'copy'), $original, 'it is one');
$node->safe_psql('copy', 'SELECT tasker.adopt()');
finish($node, 'copy', 'a copy of a template');
$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO renamed');
is_armed($node, 'renamed', 'ALTER DATABASE RENAME');

note 'a subscriber';
my $subscriber = new_node('subscriber', extension => 0, conf => "max_sync_workers_per_subscription = 6\n");
$subscriber->safe_psql('postgres', 'CREATE ROLE app LOGIN');
run_program($node, 'pg_dump', '--schema-only', '-f', $node->basedir . '/schema', 'postgres');
run_program($subscriber, 'psql', '-Xq1', '-v', 'ON_ERROR_STOP=1', '-d', 'postgres', '-f', $node->basedir . '/schema');
is($subscriber->safe_psql('postgres', 'SELECT state FROM tasker.guard()'), 'new', 'the schema alone is new');
$node->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '" . $node->connstr . " dbname=postgres' PUBLICATION everything");
wait_until($subscriber, 'postgres', "NOT EXISTS (SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r')", 'the tables are there', 120)
  or die 'nothing to adopt';
is(contents($subscriber, 'postgres') =~ s/(_seq\|).*/$1/gr, $original =~ s/(_seq\|).*/$1/gr, 'with all that is in them');
is($subscriber->safe_psql('postgres', 'SELECT database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) FROM tasker.here'),
	't', 'even what says where the original is');
is_disarmed($subscriber, 'postgres', '(system identifier|rows were inserted)', 'a subscriber');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
is($subscriber->safe_psql('postgres', "SELECT done > 0 FROM tasker.adopt() WHERE action = 'move sequences'"), 't', 'adopt() moves the sequences');
finish($subscriber, 'postgres', 'a subscriber');
$subscriber->stop;
$node->safe_psql('postgres', 'DROP PUBLICATION everything');

note 'failover';
# One standby is promoted as it is, one after a restart without a primary.
my @standby = map { copy_of("standby$_", has_streaming => 1) } 1 .. 2;
foreach my $standby (@standby)
{
	$standby->start;
	until_true(sub { -f $standby->data_dir . '/pg_stat_tmp/tasker.standby' }, 'a standby that streams marks its directory');
	$node->wait_for_catchup($standby);
}
$standby[1]->append_conf('postgresql.conf', "tasker.enabled = off\n");
$standby[1]->stop;
$node->stop('immediate');
$standby[0]->promote;
is_armed($standby[0], 'postgres', 'promoted');
is($standby[0]->safe_psql('postgres', $complete_held), 1, 'a worker goes on with its step');
finish($standby[0], 'postgres', 'promoted');
$standby[0]->stop;
$standby[1]->start;
$standby[1]->promote;
is_armed($standby[1], 'postgres', 'restarted and promoted');
like(client_error($standby[1], 'postgres', "SELECT * FROM tasker.claim_steps('{q}', 'w')"), qr/ERROR:  TK601/,
	'tasker.enabled = off: nothing is handed out');
like(client_error($standby[1], 'postgres', 'CALL tasker.run()'), qr/ERROR:  TK601/, 'and nothing run');
is($standby[1]->safe_psql('postgres', <<'SQL'), '', 'but what a worker has in hand it can complete');
SELECT c.outcome FROM (SELECT array_agg(task_id) AS tasks, array_agg(step_id) AS steps, array_agg(lease) AS leases
	FROM tasker.workflow_steps WHERE lease IS NOT NULL) AS h,
	tasker.complete_steps(h.tasks, h.steps, h.leases, ARRAY[NULL::jsonb], '{q}', 'w', 10) AS c
SQL
my $upgraded = contents($standby[1], 'postgres');
$standby[1]->stop;

note 'an immediate stop, a crash';
$node->start;
is_armed($node, 'postgres', 'started after an immediate stop');
is($node->safe_psql('postgres', $complete_held), 1, 'here too a worker goes on with its step');
finish($node, 'postgres', 'started after an immediate stop');
my $log = log_size($node);
kill 'KILL', pids_of($node, 'scheduler', 'postgres');
wait_for_server($node, $log);
is_armed($node, 'postgres', 'crashed');
unlike(log_since($node, $log), qr/tasker runs nothing/, 'nobody hesitated');

note 'a copy of the directory';
$original = contents($node, 'postgres');
$node->stop;
$node->backup_fs_cold('cold');
$copy = PostgreSQL::Test::Cluster->new('cold');
$copy->init_from_backup($node, 'cold');
$copy->start;
is_held($copy, 'files are a copy', 'a copy of the directory');
$copy->stop;

note 'moved';
move($node->data_dir, $node->data_dir . '.moved') or die;
move($node->data_dir . '.moved', $node->data_dir) or die;
$node->start;
is_armed($node, 'postgres', 'a directory that was moved');
$node->stop;

note 'pg_upgrade';
my $new = PostgreSQL::Test::Cluster->new('upgraded');
$new->init(extra => [ '-U', $ENV{PGUSER} ]);
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'tasker'\nmax_worker_processes = 16\n");
{
	my $bin = dirname($ENV{PG_CONFIG});
	chdir $PostgreSQL::Test::Utils::tmp_check or die;
	my ($out, $err) = ('', '');
	ok(IPC::Run::run([ "$bin/pg_upgrade", '-b', $bin, '-B', $bin, '-d', $standby[1]->data_dir, '-D', $new->data_dir,
			'-s', $new->host, '-p', $standby[1]->port, '-P', $new->port ], '<', \undef, '>', \$out, '2>', \$err),
		'pg_upgrade with tasker preloaded') or diag("$out$err");
}
$new->start;
if ($new->safe_psql('postgres', 'SHOW server_version_num') < 150000)
{
	# pg_upgrade gives databases other oids: see docs/copies.md
	is_disarmed($new, 'postgres', 'copy of another database', 'upgraded to a major before 15');
	$new->safe_psql('postgres', 'SELECT tasker.adopt()');
}
else
{
	is($new->safe_psql('postgres', 'SELECT state, reason FROM tasker.guard()') =~ s/pg_upgrade brought it here/it was armed here/r,
		'armed|it was armed here', 'upgraded: armed');
}
finish($new, 'postgres', 'upgraded');
$new->restart;
is_armed($new, 'postgres', 'upgraded and restarted');
$new->stop;
done_testing();
