# Transactions that are prepared (two-phase commit): what they create, claim or
# complete is begun, free or released as soon as they are committed or rolled back,
# by whichever session.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use TaskerTest;
use Test::More;

my $node = new_node('prepared', conf => "max_prepared_transactions = 5\n");
define($node, 'postgres', 'app', 'own', '[{"name": "a", "function": "app.effect"}, {"name": "b", "function": "app.effect", "depends_on": ["a"]}]');
define($node, 'postgres', 'app', 'queued', '[{"name": "a", "queue": "q"}, {"name": "b", "queue": "q", "depends_on": ["a"]}]');

sub app { return as_role($node, 'postgres', 'app', $_[0]); }

# Prepares a transaction in which the role does something, and returns what that gives.
sub prepared
{
	my ($sql) = @_;
	return (split /\n/, app("BEGIN; $sql; PREPARE TRANSACTION 'p'"))[0];
}

# What a role's claim gets; a claim before it knows of nothing, and that is trusted for a while.
my $claim = "SELECT string_agg(concat_ws(' ', task_id, name, attempt), ', ') FROM tasker.claim_steps('{q}', 'w')";

note 'run in the database';
my $before = app("SELECT tasker.create_task('own')");
is(app("SELECT tasker.task_wait($before, '20 s')"), 'complete', 'a task');
my $task = prepared("SELECT tasker.create_task('own')");
is(app("SELECT count(*) FROM tasker.task_status WHERE task_id = $task"), 0, 'one that is prepared is not there');
app("COMMIT PREPARED 'p'");
is(app("SELECT tasker.task_wait($task, '20 s')"), 'complete', 'it is run when it is committed');
$task = prepared("SELECT tasker.create_task('own', start_at => clock_timestamp() + '1 s')");
app("COMMIT PREPARED 'p'");
is(app("SELECT tasker.task_wait($task, '20 s')"), 'complete', 'or when its time comes');

note 'claimed';
$task = prepared("SELECT tasker.create_task('queued')");
my $next = app("SELECT tasker.create_task('queued')");
is(app("$claim; $claim; $claim; COMMIT PREPARED 'p'; $claim"), "$next a 1\n\n\n$task a 1", 'one that is older than others is claimed when it is committed');
$task = app("SELECT tasker.create_task('queued')");
is(prepared($claim), "$task a 1", 'a claim that is prepared');
is(app("$claim; $claim; ROLLBACK PREPARED 'p'; $claim"), "\n\n$task a 1", 'and rolled back: its step is claimed by others');
$task = app("SELECT tasker.create_task('queued')");
is(prepared("SELECT count(tasker.complete_step(task_id, step_id, lease)) FROM tasker.claim_steps('{q}', 'w')"), 1, 'a completion that is prepared');
is(app("$claim; $claim; COMMIT PREPARED 'p'; $claim"), "\n\n$task b 1", 'its child is claimed when it is committed');

check_consistent($node, 'postgres');
$node->stop;
done_testing();
