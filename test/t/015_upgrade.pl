# From one release to the next: in a copy of the sources, as docs/releasing.md
# says, this version is frozen and a next one is made, with changes of tables; in
# a copy of the server the package is replaced and the extension updated, with
# work in flight, and while processes and clients are at it.
use strict;
use warnings;
use CopyTest;
use File::Basename;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;
use Time::HiRes qw(time);

my $dir = PostgreSQL::Test::Utils::tempdir();
my ($source, $server) = ("$dir/source", "$dir/server");
my ($rc, $err);
my ($version) = slurp_file("$ENV{TASKER_SRC}/Makefile") =~ /^EXTVERSION = (\S+)$/m;
my $next = "${version}next";

sub spew
{
	my ($file, $text) = @_;
	open my $f, '>', $file or die "$file: $!";
	print $f $text;
	close $f or die "$file: $!";
}

sub run_or_die
{
	my @command = @_;
	my $all;
	IPC::Run::run(\@command, '<', \undef, '>&', \$all) or die "@command\n$all";
}

# edit(file, regex, text): in the copied sources; without a regex at their end
sub edit
{
	my ($file, $from, $to) = @_;
	my $text = slurp_file("$source/$file");
	if (!defined $from) { $text .= $to; }
	else { $text =~ s/$from/$to/ or die "$file is not what this test expects: $from"; }
	spew("$source/$file", $text);
}

# The sources of the next version; the last one's are frozen.
sub make_next_version
{
	my $tables = <<'SQL';
ALTER TABLE tasker.workflow_steps ADD COLUMN note text;
CREATE TABLE tasker.notes (note_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, task_id bigint NOT NULL, note text);
CREATE INDEX notes_task ON tasker.notes (task_id);
ALTER TABLE tasker.notes ENABLE ROW LEVEL SECURITY;
SELECT pg_catalog.pg_extension_config_dump('tasker.notes', '');
SELECT pg_catalog.pg_extension_config_dump('tasker.notes_note_id_seq', '');
CREATE DOMAIN tasker.mood AS text CHECK (VALUE <> '');
SQL
	run_or_die('cp', '-a', $ENV{TASKER_SRC}, $source);
	copy("$source/tasker--$version.sql", "$source/sql/upgrade/") or die $!;
	edit('Makefile', qr/^EXTVERSION = .*/m, "EXTVERSION = $next");
	edit('tasker.control', qr/default_version = .*/, "default_version = '$next'");
	# tick is dropped, as if it returned something else from now on
	spew("$source/sql/upgrade/tasker--$version--$next.sql", "$tables\nDROP FUNCTION tasker.tick(timestamptz, int);\n");
	edit('sql/tables.sql', undef, <<"SQL");
$tables
COMMENT ON COLUMN tasker.workflow_steps.note IS 'What one wants to remember.';
COMMENT ON TABLE tasker.notes IS 'The same of tasks.';
SQL
	edit('sql/operators.sql', undef, <<'SQL');
CREATE FUNCTION tasker.note(task_id bigint) RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
	RETURN (SELECT n.note FROM tasker.notes n WHERE n.task_id = note.task_id);
END $body$;
SQL
	edit('sql/views.sql', undef, <<'SQL');
CREATE VIEW tasker.noted WITH (security_barrier) AS
SELECT note FROM tasker.notes WHERE tasker.may_see_task(task_id);
COMMENT ON VIEW tasker.noted IS 'Notes; the statement does not end here: ;
but here';
SQL
	edit('sql/processes.sql', qr/max_timers int DEFAULT 1000/, 'max_timers int DEFAULT 2000');
	edit('sql/access.sql', qr/REVOKE ALL ON TYPE tasker.step_state, tasker.task_state\K/, ', tasker.mood');
	return;
}

# Only what knows the version is compiled anew.
sub make_library
{
	my (%o) = @_;
	unlink "$source/src/version.o", "$source/tasker.so";
	run_or_die('make', '-s', '-C', $source, "PG_CONFIG=$ENV{PG_CONFIG}", 'with_llvm=no', 'WERROR=1', 'TASKER_TEST=1',
		"WORKS_WITH=$o{works_with}", 'all');
}

# What a package does, to a copy of the server whose files are links.
sub install
{
	my ($what, @files) = @_;
	my $to = `$ENV{PG_CONFIG} --$what`;
	chomp $to;
	$to =~ s/^\Q$ENV{TASKER_DIR}\E\/pg/$server/ or die $to;
	$to .= '/extension' if $what eq 'sharedir';
	foreach my $file (@files)
	{
		unlink "$to/" . basename($file);
		copy($file, "$to/") or die "$file: $!";
	}
	return;
}

# What makes up a database with the extension; numbers and the order of a list aside.
sub schema_of
{
	my ($node, $db) = @_;
	my $file = "$dir/$db.sql";
	my ($rc, $err) = run_program($node, 'pg_dump', '-s', '--binary-upgrade', '-f', $file, $db);
	die $err if $rc;
	my @lines = grep { !/^\\(un)?restrict |binary_upgrade_set_next_/ } split /\n/, slurp_file($file);
	s/\b\d{3,}\b/N/g foreach @lines;
	return join "\n", @lines, $node->safe_psql($db, <<'SQL');
SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tasker') AND deptype = 'e' ORDER BY 1;
SELECT x.oid::regclass, x.condition FROM pg_extension e, unnest(e.extconfig, e.extcondition) AS x (oid, condition) WHERE extname = 'tasker' ORDER BY 1::text;
SELECT pg_describe_object(i.classoid, i.objoid, i.objsubid), i.initprivs FROM pg_init_privs i WHERE privtype = 'e' ORDER BY 1
SQL
}

# With nothing but the extension, of the given version, and some privileges.
sub new_plain_database
{
	my ($node, $name, $of) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, <<"SQL");
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO stranger;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO stranger;
ALTER DEFAULT PRIVILEGES GRANT ALL ON ROUTINES TO stranger;
CREATE EXTENSION tasker VERSION '$of';
SELECT tasker.grant_access('app', 'submitter');
SQL
	return;
}

sub is_equal
{
	my ($got, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	spew("$dir/got", $got);
	spew("$dir/expected", $expected);
	my $diff;
	IPC::Run::run(['diff', "$dir/expected", "$dir/got"], '>', \$diff);
	is($diff, '', $what);
	return;
}

like(slurp_file("$ENV{TASKER_SRC}/tasker.control"), qr/default_version = '\Q$version\E'/, 'the control file has the version');
like(slurp_file("$ENV{TASKER_SRC}/META.json"), qr/(?:"version": "\Q$version\E(?:\.0)?".*?){2}/s, 'so has META.json');
run_or_die('cp', '-al', "$ENV{TASKER_DIR}/pg", $server);
my $bin = dirname($ENV{PG_CONFIG}) =~ s/^\Q$ENV{TASKER_DIR}\E\/pg/$server/r;
$ENV{PATH} = "$bin:$ENV{PATH}";
make_next_version();
make_library(works_with => $next);

note 'the old version, at work';
my $node = new_node('upgrade', conf => "tasker.executor_idle_timeout = 1\n");
put_in_flight($node, 'postgres');
$node->safe_psql('postgres', 'CREATE ROLE stranger');
new_plain_database($node, 'frozen', $version);
my $plain = new_node('plain', preload => 0, extension => 0);
$plain->safe_psql('postgres', 'CREATE EXTENSION tasker');
my $session = in_background($plain, 'postgres', 'postgres', <<"SQL");
DO \$\$
BEGIN
	PERFORM tasker.create_queue('a');
	COMMIT;
	WHILE (SELECT extversion FROM pg_extension WHERE extname = 'tasker') = '$version' LOOP
		PERFORM pg_sleep(0.02);
		COMMIT;
	END LOOP;
	PERFORM tasker.create_queue('b');
END \$\$
SQL
wait_until($plain, 'postgres', 'EXISTS (SELECT FROM tasker.queues)', 'a session has the old library');

note 'the package is replaced';
install('pkglibdir', "$source/tasker.so");
install('sharedir', "$source/tasker.control", glob("$source/tasker--*.sql $source/sql/upgrade/tasker--$version.sql"));
like(client_error($node, 'postgres', 'ALTER EXTENSION tasker UPDATE'), qr/TK603: tasker \Q$next\E needs its own library.*HINT: .*restart the server/s,
	'no update while the server has the old library');
$plain->safe_psql('postgres', 'ALTER EXTENSION tasker UPDATE');
isnt(finish_background($session), 0, 'without preload it can be updated; a session with the old library is refused');
like($session->{err}, qr/library is version \Q$version\E, .* is version \Q$next\E.*HINT: .*connect anew/s, 'and told why');
is($plain->safe_psql('postgres', "SELECT tasker.create_queue('b')"), 't', 'others go on');
$plain->stop;
$node->safe_psql('postgres', 'SELECT tasker.start()');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NOT NULL', 'everything else goes on');
is($node->safe_psql('postgres', "SELECT detail FROM tasker.doctor() WHERE problem = 'another version of tasker is installed'"),
	"The extension is version $version, the installed files are version $next.", 'the doctor notices');
$node->stop('immediate');

note 'the new library, which does not work with the old objects';
my $log = log_size($node);
$node->start;
my $contents = contents($node, 'postgres');
wait_until($node, 'postgres', 'tasker.scheduler_pid() IS NOT NULL', 'the scheduler comes');
foreach ("SELECT tasker.create_task('flow')", "SELECT * FROM tasker.claim_steps('{q}', 'w')", 'CALL tasker.run()',
	"SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE state = 'in_progress'",
	"UPDATE tasker.tasks SET state = 'cancelled' WHERE state = 'in_progress'")
{
	like(client_error($node, 'postgres', $_), qr/ERROR:  TK603: .*DETAIL: .*HINT: .*ALTER EXTENSION tasker UPDATE/s, "refused: $_");
}
is($node->safe_psql('postgres', "SELECT problem FROM tasker.doctor()"), 'the library does not fit the extension', 'the doctor says so');
until_true(sub { count_in_log($node, $log, "WARNING:  tasker's library is version") > 0 }, 'so does the log');
is(count_in_log($node, $log, "WARNING:  tasker's library is version"), 2, 'once for each database');
is(contents($node, 'postgres'), $contents, 'nothing has changed');

note 'an update';
$node->safe_psql('postgres', 'ALTER EXTENSION tasker UPDATE');
is($node->safe_psql('postgres', "SELECT extversion, tasker.library_version() FROM pg_extension WHERE extname = 'tasker'"),
	"$next|$next", 'the extension is of the new version');
is($node->safe_psql('postgres', "SELECT count(*) FROM tasker.doctor() WHERE problem ~ 'version|library'"), 0, 'which the doctor finds in order');
$node->safe_psql('postgres', "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.workflow_steps WHERE claimed_by = 'the original''s'");
finish($node, 'postgres', 'updated');

note 'what an update makes';
$node->safe_psql('frozen', 'ALTER EXTENSION tasker UPDATE');
new_plain_database($node, 'fresh', $next);
my $fresh = schema_of($node, 'fresh');
is_equal(schema_of($node, 'frozen'), $fresh, "$version, updated, is what $next is");
foreach (grep { !/--.*--/ } map { basename($_) } glob("$source/sql/upgrade/tasker--*.sql"))
{
	my ($release) = /^tasker--(.*)\.sql$/;
	next if $release eq $version;
	new_plain_database($node, "from_$release", $release);
	$node->safe_psql("from_$release", 'ALTER EXTENSION tasker UPDATE');
	is_equal(schema_of($node, "from_$release"), $fresh, "so is $release");
}
is($node->safe_psql('frozen', "SELECT bool_and(has_function_privilege('app', f, 'EXECUTE')) FROM unnest('{tasker.note(bigint),tasker.tick(timestamptz\\,int)}'::text[]) f"),
	't', 'roles with a level have access to what is new');
$node->safe_psql('postgres', 'CREATE DATABASE restored TEMPLATE template0');
run_program($node, 'pg_dump', '-f', "$dir/dump", 'frozen');
($rc, $err) = run_program($node, 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', 'restored', '-f', "$dir/dump");
is("$rc $err", '0 ', 'it is dumped and restored');
is_equal(schema_of($node, 'restored'), $fresh, 'with all privileges');

note 'an update while everybody is at work, with a library that works with both versions';
make_library(works_with => "$next $version");
$node->stop;
install('pkglibdir', "$source/tasker.so");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE busy');
$node->safe_psql('busy', "CREATE EXTENSION tasker VERSION '$version'; CREATE TABLE stop (); GRANT ALL ON stop TO PUBLIC");
new_role($node, 'app', 'busy');
define($node, 'busy', 'app', 'flow', '[{"name": "a", "function": "app.effect"}, {"name": "q", "queue": "q", "depends_on": ["a"]}, {"name": "b", "function": "app.effect", "depends_on": ["q"]}]');
# Clients lock tables in one order and the other.
my @clients = map { in_background($node, 'busy', $_->[0], "DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM stop) LOOP $_->[1]; COMMIT; END LOOP; END \$\$") } (
	[ app => "PERFORM tasker.create_task('flow', '{\"sleep\": 0.02}'), pg_sleep(0.03)" ],
	[ app => "PERFORM tasker.create_task('flow'), pg_sleep(0.2)" ],
	[ postgres => "PERFORM tasker.complete_step(task_id, step_id, lease), pg_sleep(0.02) FROM tasker.claim_steps('{q}', 'w', 3)" ],
	[ postgres => "PERFORM tasker.complete_step(task_id, step_id, lease) FROM tasker.claim_steps('{q}', 'w', 3); PERFORM count(*) FROM tasker.task_status" ]);
my $at_work = "(SELECT count(*) FROM tasker.tasks WHERE state = 'complete' AND completed_at > clock_timestamp() - interval '1 s') > 3";
wait_until($node, 'busy', $at_work, 'the old version runs tasks');
$node->safe_psql('busy', 'BEGIN; ALTER EXTENSION tasker UPDATE; ROLLBACK');
wait_until($node, 'busy', $at_work, 'and goes on after an update that was rolled back');
my $begun = time;
$node->safe_psql('busy', 'ALTER EXTENSION tasker UPDATE');
cmp_ok(time - $begun, '<', 20, 'an update takes no long time');
wait_until($node, 'busy', $at_work, 'the new version runs tasks');
$node->safe_psql('busy', 'INSERT INTO stop DEFAULT VALUES');
is(join(' ', map { finish_background($_) . $_->{err} } @clients), '0 0 0 0', 'no client met an error');
until_true(sub {
	$node->safe_psql('busy', "SELECT tasker.complete_step(task_id, step_id, lease) FROM tasker.claim_steps('{q}', 'w', 100)");
	return $node->safe_psql('busy', "SELECT count(*) FROM tasker.tasks WHERE state <> 'complete'") eq '0';
}, 'all tasks complete');
is($node->safe_psql('busy', "SELECT count(*) FROM tasker.tasks HAVING 2 * count(*) <> (SELECT count(*) FROM app.effects)"), '', 'each step once');
check_consistent($node, 'busy');
$node->stop;

done_testing();
