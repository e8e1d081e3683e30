/*
 * leases.c
 *	  When leases end, and those that ran out: their steps are retried by their
 *	  policies, as after any failed attempt, and whoever held them can do nothing
 *	  more about them.
 *
 * tasker.leases says when to look: a row a claim, with all of its steps. The
 * step's own row decides; most have ended by then, or a heartbeat has moved
 * their lease's end.
 *
 * Rows are written by the trigger on steps (release.c) and read by due.c, inside
 * a section. A step that somebody else has locked is left for a moment later.
 */
#include "claims.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "engine.h"
#include "shared.h"

/* Claims whose leases are looked at in one turn. */
#define LEASES_AT_ONCE	100

static TaskerQuery add_lease = {
	.sql = "INSERT INTO tasker.leases (expires_at, row_id, task_ids, step_ids) "
	"VALUES ($1, pg_catalog.gen_random_uuid(), $2, $3)",
	.args = {TIMESTAMPTZOID, INT8ARRAYOID, INT4ARRAYOID},
};

/* The steps of claims whose leases are over by now, as they were claimed. */
static TaskerQuery take_leases = {
	.sql = "WITH d AS (DELETE FROM tasker.leases WHERE ctid = ANY (ARRAY(SELECT ctid FROM tasker.leases "
	"WHERE expires_at >= $1 AND expires_at <= $2 ORDER BY expires_at LIMIT $3 FOR UPDATE SKIP LOCKED)) "
	"RETURNING task_ids, step_ids) "
	"SELECT u.task_id, u.step_id FROM d CROSS JOIN LATERAL "
	"ROWS FROM (pg_catalog.unnest(d.task_ids), pg_catalog.unnest(d.step_ids)) AS u (task_id, step_id)",
	.args = {TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID},
	.columns = {INT8OID, INT4OID},
};

/* Of the steps given, those that are in progress and whose lease is as it must be. */
#define IN_PROGRESS \
	"SELECT s.task_id, s.step_id, s.step_no, t.named_task_id, s.attempts, s.lease_expires_at, " \
	"COALESCE(s.claimed_by, '') " \
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) " \
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id " \
	"JOIN tasker.tasks t ON t.task_id = s.task_id " \
	"WHERE s.state = 'in_progress' AND s.lease_expires_at "

static TaskerQuery read_leased = {
	.sql = IN_PROGRESS "IS NOT NULL",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID},
};

/* With the task: its row is to change if the step failed for good. */
static TaskerQuery lock_expired = {
	.sql = IN_PROGRESS "<= $3 FOR NO KEY UPDATE OF s, t SKIP LOCKED",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TIMESTAMPTZOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID},
};

static TaskerQuery end_attempts = {
	.sql = "UPDATE tasker.workflow_steps s SET state = c.state, next_attempt_at = c.next_attempt_at, "
	"last_error = c.error, lease = NULL, lease_expires_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), "
	"pg_catalog.unnest($4), pg_catalog.unnest($5)) AS c (task_id, step_id, state, next_attempt_at, error) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'in_progress'",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID},
};

/* A step that has a lease, as its row says. */
typedef struct LeasedStep
{
	StepRef		ref;
	int			step_no;
	int			named_task_id;
	int			attempts;
	TimestampTz expires;
	char	   *worker;
} LeasedStep;

/* ------------------------------------------------------------ when to look */

/* When a lease that begins now ends: not after the step's timeout. */
TimestampTz
lease_end(const StepDef *def, double lease, TimestampTz started, TimestampTz now)
{
	TimestampTz end = now + (TimestampTz) rint((lease < 0 ? def->lease : lease) * USECS_PER_SEC);

	if (def->timeout_ms > 0)
		end = Min(end, started + (TimestampTz) def->timeout_ms * 1000);
	return end;
}

void
lease_ends_add(LeaseEnds *ends, TimestampTz end, int64 task_id, int step_id)
{
	LeaseEnd   *item;

	if (ends->length == ends->space)
	{
		ends->space = Max(ends->space * 2, 16);
		ends->items = ends->items == NULL ? palloc(ends->space * sizeof(LeaseEnd)) :
			repalloc_huge(ends->items, ends->space * sizeof(LeaseEnd));
	}
	item = &ends->items[ends->length++];
	item->end = end;
	item->ref = (StepRef)
	{
		task_id, step_id, 0
	};
	wake_timer_at_commit(end);
}

static int
compare_ends(const void *a, const void *b)
{
	const LeaseEnd *x = a;
	const LeaseEnd *y = b;

	if (x->end != y->end)
		return x->end < y->end ? -1 : 1;
	return step_ref_compare(&x->ref, &y->ref);
}

/* Write when to look at which steps: a row for each end, of which there are few. */
void
insert_lease_ends(LeaseEnds *ends)
{
	if (ends->length > 0)
		qsort(ends->items, ends->length, sizeof(LeaseEnd), compare_ends);
	for (int i = 0; i < ends->length;)
	{
		TimestampTz end = ends->items[i].end;
		DatumList	tasks,
					steps;
		Datum		values[3];

		datum_list_init(&tasks, INT8OID);
		datum_list_init(&steps, INT4OID);
		for (; i < ends->length && ends->items[i].end == end; i++)
		{
			datum_list_add(&tasks, Int64GetDatum(ends->items[i].ref.task_id));
			datum_list_add(&steps, Int32GetDatum(ends->items[i].ref.step_id));
		}
		values[0] = TimestampTzGetDatum(end);
		values[1] = datum_list_array(&tasks);
		values[2] = datum_list_array(&steps);
		tasker_run(&add_lease, values, NULL);
	}
}

/* ------------------------------------------------------------------ looking */

/* The steps that claims had whose leases are over, in the order of their locks. Returns how many. */
static int
take_due(TimestampTz from, TimestampTz now, Datum *arrays)
{
	Datum		values[3] = {TimestampTzGetDatum(from), TimestampTzGetDatum(now), Int32GetDatum(LEASES_AT_ONCE)};
	StepRefs	refs = {0};
	uint64		n = tasker_run(&take_leases, values, NULL);

	for (uint64 row = 0; row < n; row++)
		step_refs_add(&refs, DatumGetInt64(tasker_value_notnull(row, 1)),
					  DatumGetInt32(tasker_value_notnull(row, 2)));
	merge_step_refs(&refs);
	step_refs_arrays(&refs, arrays);
	return refs.length;
}

/* The rows of one of the queries above, in the order of the steps given. */
static LeasedStep *
leased_steps(TaskerQuery *query, Datum *values, int *n)
{
	LeasedStep *steps;

	*n = (int) tasker_run(query, values, NULL);
	steps = palloc(Max(*n, 1) * sizeof(LeasedStep));
	for (int i = 0; i < *n; i++)
	{
		steps[i].ref.task_id = DatumGetInt64(tasker_value_notnull(i, 1));
		steps[i].ref.step_id = DatumGetInt32(tasker_value_notnull(i, 2));
		steps[i].step_no = DatumGetInt32(tasker_value_notnull(i, 3));
		steps[i].named_task_id = DatumGetInt32(tasker_value_notnull(i, 4));
		steps[i].attempts = DatumGetInt32(tasker_value_notnull(i, 5));
		steps[i].expires = DatumGetTimestampTz(tasker_value_notnull(i, 6));
		steps[i].worker = TextDatumGetCString(tasker_value_notnull(i, 7));
	}
	return steps;
}

static Jsonb *
lease_error(const LeasedStep *step, TimestampTz now)
{
	ErrorData	error = {0};

	error.sqlerrcode = ERRCODE_TASKER_LEASE_EXPIRED;
	error.message = psprintf("the lease of worker \"%s\" ran out", step->worker);
	error.detail = psprintf("It ended at %s without a result or a heartbeat.",
							timestamptz_to_str(step->expires));
	error.hint = "See whether the worker died; give the step a longer lease, or have it send heartbeats.";
	return error_document(&error, step->attempts, now);
}

/* End the attempt of a step that is locked: a row for end_attempts. */
static void
add_end(const LeasedStep *step, TimestampTz now, DatumList *columns)
{
	TimestampTz next = 0;
	StepDef    *def = step_def(task_def(step->named_task_id), step->step_no);
	StepState	state = after_failure(def, step->attempts, false, -1, now, &next);

	datum_list_add(&columns[0], Int64GetDatum(step->ref.task_id));
	datum_list_add(&columns[1], Int32GetDatum(step->ref.step_id));
	datum_list_add(&columns[2], CStringGetTextDatum(step_state_name(state)));
	if (next == 0)
		datum_list_add_null(&columns[3]);
	else
		datum_list_add(&columns[3], TimestampTzGetDatum(next));
	datum_list_add(&columns[4], JsonbPGetDatum(lease_error(step, now)));
}

/*
 * Look at the steps of claims whose leases are over, and end the attempts of
 * those that nobody has completed or extended. Returns how many there were that
 * need not be looked at again at once.
 */
int
expire_leases(TimestampTz from, TimestampTz now)
{
	static const Oid types[5] = {INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID, JSONBOID};
	DatumList	columns[5];
	Datum		values[5];
	LeaseEnds	later = {0};
	LeasedStep *leased,
			   *expired;
	int			nleased,
				nexpired;
	int			locked_by_others = 0;
	int			n = take_due(from, now, values);

	if (n == 0)
		return 0;
	values[2] = TimestampTzGetDatum(now);
	leased = leased_steps(&read_leased, values, &nleased);
	if (nleased == 0)
		return n;
	expired = leased_steps(&lock_expired, values, &nexpired);
	for (int c = 0; c < 5; c++)
		datum_list_init(&columns[c], types[c]);
	for (int i = 0; i < nexpired; i++)
		add_end(&expired[i], now, columns);
	for (int i = 0; i < nleased; i++)
	{
		const LeasedStep *step = &leased[i];

		if (bsearch(&step->ref, expired, nexpired, sizeof(LeasedStep), step_ref_compare) != NULL)
			continue;
		lease_ends_add(&later, step->expires, step->ref.task_id, step->ref.step_id);
		locked_by_others += step->expires <= now;
	}
	insert_lease_ends(&later);
	for (int c = 0; c < 5; c++)
		values[c] = datum_list_array(&columns[c]);
	if (nexpired > 0)
		tasker_run(&end_attempts, values, NULL);
	return n - locked_by_others;
}
