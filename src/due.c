/*
 * due.c
 *	  A unit of the scheduler's work at a given time: what is due is done, up to
 *	  a limit. The scheduler, CALL tasker.run() and tests call it alike, tests
 *	  with times of their own choice.
 *
 * A timer says only that somebody should look: the step's or task's own row
 * decides. Whatever another transaction holds locked is left for later, so one
 * stuck session does not stop the scheduler.
 *
 * What was dealt with stays in the index while somebody holds an old snapshot, all
 * of it before what is left: whoever looks again and again begins where the rest
 * began.
 */
#include "engine.h"

#include "catalog/pg_type.h"
#include "guard.h"
#include "miscadmin.h"
#include "retention.h"
#include "utils/datetime.h"

/* The year 10000: what comes after it, such as a retry, must be a time as well. */
#define TOO_LATE		((TimestampTz) (date2j(10000, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)

static TaskerQuery take_step_timers = {
	.sql = "DELETE FROM tasker.timers WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM tasker.timers t "
	"JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.step_id = t.step_id "
	"WHERE t.due_at >= $1 AND t.due_at <= $2 AND s.state IN ('waiting', 'waiting_for_retry') "
	"ORDER BY t.due_at LIMIT $3 FOR NO KEY UPDATE OF t, s SKIP LOCKED)) "
	"RETURNING task_id, step_id",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
	.columns = {INT8OID, INT4OID},
};

/* Timers of steps that do not wait any more: somebody retried or cancelled them. */
static TaskerQuery forget_ended = {
	.sql = "DELETE FROM tasker.timers WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM tasker.timers t "
	"JOIN tasker.workflow_steps s ON s.task_id = t.task_id AND s.step_id = t.step_id "
	"WHERE t.due_at >= $1 AND t.due_at <= $2 AND s.state NOT IN ('waiting', 'waiting_for_retry') "
	"ORDER BY t.due_at LIMIT $3 FOR UPDATE OF t SKIP LOCKED))",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
};

static TaskerQuery enqueue_due = {
	.sql = "UPDATE tasker.workflow_steps s SET state = 'enqueued' "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id "
	"AND s.state IN ('waiting', 'waiting_for_retry') AND s.next_attempt_at <= $3",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID},
};

static TaskerQuery take_task_timers = {
	.sql = "DELETE FROM tasker.timers WHERE ctid = ANY (ARRAY(SELECT t.ctid FROM tasker.timers t "
	"JOIN tasker.tasks k ON k.task_id = t.task_id "
	"WHERE t.due_at >= $1 AND t.due_at <= $2 AND t.step_id = 0 ORDER BY t.due_at LIMIT $3 "
	"FOR NO KEY UPDATE OF t, k SKIP LOCKED)) "
	"RETURNING task_id",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
	.columns = {INT8OID},
};

static TaskerQuery first_due = {
	.sql = "SELECT (SELECT due_at FROM tasker.timers WHERE due_at >= $1 ORDER BY due_at LIMIT 1), "
	"(SELECT expires_at FROM tasker.leases WHERE expires_at >= $2 ORDER BY expires_at LIMIT 1)",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID},
	.columns = {TIMESTAMPTZOID, TIMESTAMPTZOID},
};

static TaskerQuery forget_gone = {
	.sql = "DELETE FROM tasker.timers t WHERE t.due_at >= $1 AND t.due_at <= $2 "
	"AND NOT EXISTS (SELECT FROM tasker.tasks k WHERE k.task_id = t.task_id)",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID},
};

const DueFrom due_from_ever = {DT_NOBEGIN, DT_NOBEGIN};

/* Steps whose time has come. Returns how many timers were looked at. */
static int
look_at_steps(TimestampTz from, TimestampTz now, int limit)
{
	Datum		values[3] = {TimestampTzGetDatum(from), TimestampTzGetDatum(now), Int32GetDatum(limit)};
	StepRefs	refs = {0};
	int			forgotten = (int) tasker_run(&forget_ended, values, NULL);
	int			n = (int) tasker_run(&take_step_timers, values, NULL);

	if (n == 0)
		return forgotten;
	for (int i = 0; i < n; i++)
		step_refs_add(&refs, DatumGetInt64(tasker_value_notnull(i, 1)),
					  DatumGetInt32(tasker_value_notnull(i, 2)));
	merge_step_refs(&refs);
	step_refs_arrays(&refs, values);
	values[2] = TimestampTzGetDatum(now);
	tasker_run(&enqueue_due, values, NULL);
	return n + forgotten;
}

/* Tasks with a failed step: can they still go on? */
static int
look_at_tasks(TimestampTz from, TimestampTz now, int limit)
{
	Datum		values[3] = {TimestampTzGetDatum(from), TimestampTzGetDatum(now), Int32GetDatum(limit)};
	TaskChanges changes;
	int			n = (int) tasker_run(&take_task_timers, values, NULL);

	task_changes_init(&changes);
	for (int i = 0; i < n; i++)
		task_change(&changes, DatumGetInt64(tasker_value_notnull(i, 1)))->recheck = true;
	settle_tasks(&changes);
	return n;
}

/* Do what is due, at most so much of each kind. Returns how much it was. */
int
tick(DueFrom from, TimestampTz now, int limit)
{
	TaskerSection section;
	Datum		values[2] = {TimestampTzGetDatum(from.timer), TimestampTzGetDatum(now)};
	int			done;

	tasker_enter(&section);
	done = look_at_steps(from.timer, now, limit);
	done += expire_leases(from.lease, now);
	done += look_at_tasks(from.timer, now, limit);
	if (done == 0)
		tasker_run(&forget_gone, values, NULL);
	tasker_leave(&section);
	return done;
}

/* When something is due next, if nothing is before the times given; DT_NOEND for never. */
DueFrom
next_due(DueFrom from)
{
	TaskerSection section;
	Datum		values[2] = {TimestampTzGetDatum(from.timer), TimestampTzGetDatum(from.lease)};
	Datum		timer,
				lease;
	bool		no_timer,
				no_lease;
	DueFrom		due;

	tasker_enter(&section);
	tasker_run(&first_due, values, NULL);
	timer = tasker_value(0, 1, &no_timer);
	lease = tasker_value(0, 2, &no_lease);
	due.timer = no_timer ? DT_NOEND : DatumGetTimestampTz(timer);
	due.lease = no_lease ? DT_NOEND : DatumGetTimestampTz(lease);
	tasker_leave(&section);
	return due;
}

PG_FUNCTION_INFO_V1(tasker_tick);

/* tick(now timestamptz, max_timers int) */
Datum
tasker_tick(PG_FUNCTION_ARGS)
{
	TimestampTz now = PG_ARGISNULL(0) ? tasker_now() : PG_GETARG_TIMESTAMPTZ(0);
	int			limit = PG_ARGISNULL(1) ? 1000 : PG_GETARG_INT32(1);
	int			done;

	if (access_level(GetUserId()) < ACCESS_OPERATOR)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to do the scheduler's work"),
				 errdetail("Role \"%s\" does not have level operator.",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("The scheduler does it by itself; tasker.start() starts it.")));
	if (limit < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("max_timers must not be negative"),
				 errdetail("It is %d.", limit),
				 errhint("Leave it out for 1000.")));
	if (TIMESTAMP_NOT_FINITE(now) || now >= TOO_LATE)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("now is out of range"),
				 errdetail("It is %s.", timestamptz_to_str(now)),
				 errhint("Leave it out for the present, or pass a time before the year 10000.")));
	guard_require_armed();
	done = tick(due_from_ever, now, limit);
	(void) expire_due(now);
	PG_RETURN_INT32(done);
}
