/*
 * explain_obstacles.c
 *	  What keeps the scheduler or an executor away from a step that is ready:
 *	  a list of questions each, of which the first that finds something answers.
 *
 * An answer is a clause that follows "but", with what to do about it.
 */
#include "explain.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "guard.h"
#include "miscadmin.h"
#include "unusable.h"

/* Is a step at it that must run alone among its like? */
static TaskerQuery cut_off_lock = {
	.sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l "
	"WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass "
	"AND l.objid = 'tasker'::pg_catalog.regnamespace AND l.objsubid = $1 "
	"AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d "
	"WHERE d.datname = pg_catalog.current_database()) AND l.granted)",
	.args = {INT4OID},
	.columns = {BOOLOID},
	.read_only = true,
};

typedef char *(*Obstacle) (ExplainedStep *step);

/* What pg_stat_activity calls a background worker is its own affair. */
static TaskerQuery count_workers = {
	.sql = "SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_stat_activity a WHERE a.backend_type NOT IN "
	"('client backend', 'autovacuum launcher', 'autovacuum worker', 'walsender', 'walreceiver', 'walwriter', "
	"'walsummarizer', 'checkpointer', 'background writer', 'startup', 'archiver', 'logger', 'slotsync worker', "
	"'standalone backend', 'io worker', 'stats collector')",
	.columns = {INT4OID},
	.read_only = true,
};

/* ---------------------------------------------- what keeps the scheduler away */

/* The owner may have been renamed since. */
static char *
call_run(const ExplainedStep *step)
{
	char	   *role = step->lane > 0 ? NULL : GetUserNameFromId(step->role, true);

	return role == NULL ? pstrdup("CALL tasker.run()") : psprintf("CALL tasker.run() as role \"%s\"", role);
}

static char *
is_standby(ExplainedStep *step)
{
	if (!RecoveryInProgress())
		return NULL;
	return pstrdup("this server is a standby, where nothing runs: ask its primary");
}

static char *
is_switched_off(ExplainedStep *step)
{
	if (tasker_enabled)
		return NULL;
	return pstrdup("tasker.enabled is off on this server: ALTER SYSTEM SET tasker.enabled = on "
				   "and SELECT pg_reload_conf()");
}

char *
is_disarmed(ExplainedStep *step)
{
	GuardStatus status = guard_look();

	if (status.state != GUARD_DISARMED)
		return NULL;
	return psprintf("this database is disarmed, because %s: if it is to run its tasks and the original is not, "
					"SELECT tasker.adopt()", status.reason);
}

static char *
has_no_scheduler(ExplainedStep *step)
{
	if (step->scheduler != 0)
		return NULL;
	return psprintf("no scheduler runs in this database: SELECT tasker.start(), or %s", call_run(step));
}

/* The first obstacle that there is, or NULL. */
static char *
first_obstacle(ExplainedStep *step, const Obstacle *obstacles, int n)
{
	char	   *obstacle = NULL;

	for (int i = 0; i < n && obstacle == NULL; i++)
		obstacle = obstacles[i] (step);
	return obstacle;
}

/* Why nobody serves timers, or NULL. */
char *
scheduler_obstacle(ExplainedStep *step)
{
	static const Obstacle obstacles[] = {is_standby, is_disarmed, is_switched_off, has_no_scheduler};

	return first_obstacle(step, obstacles, lengthof(obstacles));
}

/* Why no worker can claim anything, or NULL. */
char *
claim_obstacle(ExplainedStep *step)
{
	static const Obstacle obstacles[] = {is_standby, is_disarmed, is_switched_off};

	return first_obstacle(step, obstacles, lengthof(obstacles));
}

/* ------------------------------------------------- what keeps executors away */

static char *
has_unusable_owner(ExplainedStep *step)
{
	const Unusable *why = owner_unusable(step->role, step->role_name);

	if (why == NULL)
		return NULL;
	return psprintf("%s: %s", unusable_message(why, step->role, step->role_name),
					unusable_cure(why, step->role, step->role_name));
}

/* What an executor of the same owner is at, for a list. */
static char *
shown_work(const ExecutorSlot *slot)
{
	int64		task_id = (int64) pg_atomic_read_u64(&((ExecutorSlot *) slot)->task_id);
	int			step_id = (int) pg_atomic_read_u32(&((ExecutorSlot *) slot)->step_id);

	if (task_id == 0)
		return psprintf("process %d between two steps", slot->pid);
	return psprintf("process %d with %s of task " INT64_FORMAT " since %s", slot->pid,
					explain_label(step_id, explain_step_name(task_id, step_id)), task_id, explain_time(slot->since));
}

/* Of all of the server's, as far as can be seen. Inside a section. */
int
count_background_workers(void)
{
	tasker_run(&count_workers, NULL, NULL);
	return DatumGetInt32(tasker_value_notnull(0, 1));
}

/* The executors of the step's owner in a state: how many. */
static int
count_executors(const ExplainedStep *step, ExecutorState state)
{
	int			n = 0;

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		n += step->slots[i].state == state && step->slots[i].database == MyDatabaseId &&
			step->slots[i].owner == step->owner;
	return n;
}

static char *
waits_for_its_like(ExplainedStep *step)
{
	Datum		number = Int32GetDatum(CUT_OFF_LOCK);

	if (step->attempts == 0 || step->sqlstate == NULL || strcmp(step->sqlstate, CUT_OFF_STATE) != 0)
		return NULL;
	tasker_run(&cut_off_lock, &number, NULL);
	if (!DatumGetBool(tasker_value_notnull(0, 1)))
		return NULL;
	return pstrdup("steps in which a process ended are run one at a time, and another one is at it");
}

static char *
has_executor(ExplainedStep *step)
{
	if (count_executors(step, EXECUTOR_IDLE) > 0)
		return pstrdup("an executor is just looking for work and takes it in a moment");
	if (count_executors(step, EXECUTOR_STARTING) > 0)
		return pstrdup("its executor is just being started");
	return NULL;
}

static char *
has_busy_executors(ExplainedStep *step)
{
	int			busy = count_executors(step, EXECUTOR_BUSY);
	int			named = 0;
	StringInfoData list;

	if (busy < tasker_max_executors_per_role)
		return NULL;
	initStringInfo(&list);
	for (int i = 0; i < TASKER_MAX_EXECUTORS && named < EXPLAIN_NAMED; i++)
	{
		ExecutorSlot *slot = &step->slots[i];

		if (slot->state == EXECUTOR_BUSY && slot->database == MyDatabaseId && slot->owner == step->owner)
			appendStringInfo(&list, "%s%s", named++ > 0 ? ", " : "", shown_work(slot));
	}
	if (busy > named)
		appendStringInfo(&list, " and %d more", busy - named);
	return psprintf("all executors that role \"%s\" may have (tasker.max_executors_per_role, %d) are busy: %s",
					step->role_name, tasker_max_executors_per_role, list.data);
}

static char *
has_full_server(ExplainedStep *step)
{
	int			all = 0;

	for (int i = 0; i < TASKER_MAX_EXECUTORS; i++)
		all += step->slots[i].state != EXECUTOR_FREE;
	if (all < tasker_max_executors)
		return NULL;
	return psprintf("all executors of this server (tasker.max_executors, %d) are in use, %d of them by role \"%s\": "
					"raise the setting, or wait until one of them gives way",
					tasker_max_executors, count_executors(step, EXECUTOR_BUSY), step->role_name);
}

static char *
has_no_worker(ExplainedStep *step)
{
	if (count_executors(step, EXECUTOR_BUSY) > 0)
		return NULL;
	if (count_background_workers() < max_worker_processes)
		return NULL;
	return psprintf("the server has no background worker left for an executor (max_worker_processes is %d): "
					"raise that setting, or %s", max_worker_processes, call_run(step));
}

static char *
comes_soon(ExplainedStep *step)
{
	return pstrdup("the scheduler has not yet given it to an executor, which it does in a moment: "
				   "if it does not, the server's log says why");
}

/* Why no executor has taken it yet. */
char *
executor_obstacle(ExplainedStep *step)
{
	static const Obstacle obstacles[] = {is_standby, is_disarmed, has_unusable_owner, is_switched_off, has_no_scheduler,
	waits_for_its_like, has_executor, has_busy_executors, has_full_server, has_no_worker, comes_soon};

	return first_obstacle(step, obstacles, lengthof(obstacles));
}
