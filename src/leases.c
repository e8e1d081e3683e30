/*
 * leases.c
 *	  Leases that ran out: their steps are retried by their policies, as after any
 *	  failed attempt, and whoever held them can do nothing more about them.
 *
 * Called by due.c, with the steps locked, inside a section.
 */
#include "attempt.h"

#include "catalog/pg_type.h"
#include "engine.h"
#include "shared.h"

/* Steps with a lease among those whose timer went off; the timer may be early. */
static TaskerQuery leased_steps = {
	.sql = "SELECT s.task_id, s.step_id, s.step_no, t.named_task_id, s.attempts, s.lease_expires_at, "
	"COALESCE(s.claimed_by, '') "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.state = 'in_progress' AND s.lease_expires_at IS NOT NULL",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TEXTOID},
};

static TaskerQuery look_again = {
	.sql = "INSERT INTO tasker.timers (due_at, task_id, step_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
	.args = {TIMESTAMPTZOID, INT8OID, INT4OID},
};

static TaskerQuery end_attempts = {
	.sql = "UPDATE tasker.workflow_steps s SET state = c.state, next_attempt_at = c.next_attempt_at, "
	"last_error = c.error, lease = NULL, lease_expires_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), "
	"pg_catalog.unnest($4), pg_catalog.unnest($5)) AS c (task_id, step_id, state, next_attempt_at, error) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'in_progress'",
	.args = {INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID},
};

/* A step whose lease may have run out, as its row says. */
typedef struct LeasedStep
{
	int64		task_id;
	int			step_id;
	int			step_no;
	int			named_task_id;
	int			attempts;
	TimestampTz expires;
	char	   *worker;
} LeasedStep;

static LeasedStep *
read_leased(Datum task_ids, Datum step_ids, int *n)
{
	Datum		values[2] = {task_ids, step_ids};
	LeasedStep *steps;

	*n = (int) tasker_run(&leased_steps, values, NULL);
	steps = palloc(Max(*n, 1) * sizeof(LeasedStep));
	for (int i = 0; i < *n; i++)
	{
		steps[i].task_id = DatumGetInt64(tasker_value_notnull(i, 1));
		steps[i].step_id = DatumGetInt32(tasker_value_notnull(i, 2));
		steps[i].step_no = DatumGetInt32(tasker_value_notnull(i, 3));
		steps[i].named_task_id = DatumGetInt32(tasker_value_notnull(i, 4));
		steps[i].attempts = DatumGetInt32(tasker_value_notnull(i, 5));
		steps[i].expires = DatumGetTimestampTz(tasker_value_notnull(i, 6));
		steps[i].worker = TextDatumGetCString(tasker_value_notnull(i, 7));
	}
	return steps;
}

/* A heartbeat has moved the lease's end: look again then. */
static void
rearm(const LeasedStep *step)
{
	Datum		values[3] = {TimestampTzGetDatum(step->expires), Int64GetDatum(step->task_id),
	Int32GetDatum(step->step_id)};

	tasker_run(&look_again, values, NULL);
	wake_timer_at_commit(step->expires);
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

/* End the attempts whose lease is over, of the steps given. */
void
expire_leases(Datum task_ids, Datum step_ids, TimestampTz now)
{
	DatumList	tasks,
				steps,
				states,
				times,
				errors;
	Datum		values[5];
	int			n;
	LeasedStep *leased = read_leased(task_ids, step_ids, &n);

	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	datum_list_init(&states, TEXTOID);
	datum_list_init(&times, TIMESTAMPTZOID);
	datum_list_init(&errors, JSONBOID);
	for (int i = 0; i < n; i++)
	{
		TimestampTz next = 0;
		StepDef    *def;
		StepState	state;

		if (leased[i].expires > now)
		{
			rearm(&leased[i]);
			continue;
		}
		def = step_def(task_def(leased[i].named_task_id), leased[i].step_no);
		state = after_failure(def, leased[i].attempts, false, -1, now, &next);
		datum_list_add(&tasks, Int64GetDatum(leased[i].task_id));
		datum_list_add(&steps, Int32GetDatum(leased[i].step_id));
		datum_list_add(&states, CStringGetTextDatum(step_state_name(state)));
		if (next == 0)
			datum_list_add_null(&times);
		else
			datum_list_add(&times, TimestampTzGetDatum(next));
		datum_list_add(&errors, JsonbPGetDatum(lease_error(&leased[i], now)));
	}
	if (tasks.length == 0)
		return;
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = datum_list_array(&states);
	values[3] = datum_list_array(&times);
	values[4] = datum_list_array(&errors);
	tasker_run(&end_attempts, values, NULL);
}
