/*
 * completion.c
 *	  The protocol of external workers, second half: complete, fail, extend or
 *	  give back what was claimed, by the lease that came with it.
 *
 * Only the holder of a step's current lease can do anything about it; for
 * anybody else the call changes nothing and is refused with TK420. So it is in
 * a copy (TK602): the step is the original's, and so is its worker.
 */
#include "claims.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "engine.h"
#include "guard.h"
#include "results.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/uuid.h"

/* $5 is the owner again; $6 the time. */
static TaskerQuery complete = {
	.sql = "UPDATE tasker.workflow_steps s SET state = 'complete', results = c.results, completed_at = $6, "
	"lease = NULL, lease_expires_at = NULL "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)) "
	"AS c (task_id, step_id, lease, results) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id AND s.state = 'in_progress' AND s.lease = c.lease "
	"AND ($5 IS NULL OR EXISTS (SELECT FROM tasker.tasks t WHERE t.task_id = s.task_id AND t.owner = $5)) "
	"RETURNING s.task_id, s.step_id, c.lease",
	.args = {INT8ARRAYOID, INT4ARRAYOID, UUIDARRAYOID, JSONBARRAYOID, INT4OID, TIMESTAMPTZOID},
	.columns = {INT8OID, INT4OID, UUIDOID},
};

/* The step, locked, if the lease is its and the caller may use it. */
static TaskerQuery held_step = {
	.sql = "SELECT s.step_no, t.named_task_id, s.attempts, s.last_attempted_at, s.lease_expires_at "
	"FROM tasker.workflow_steps s JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.task_id = $1 AND s.step_id = $2 AND s.state = 'in_progress' AND s.lease = $3 "
	"AND ($4 IS NULL OR t.owner = $4) FOR NO KEY UPDATE OF s",
	.args = {INT8OID, INT4OID, UUIDOID, INT4OID},
	.columns = {INT4OID, INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID},
};

static TaskerQuery end_attempt = {
	.sql = "UPDATE tasker.workflow_steps SET state = $3, attempts = $4, next_attempt_at = $5, "
	"last_error = COALESCE($6, last_error), lease = NULL, lease_expires_at = NULL "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, JSONBOID},
};

static TaskerQuery extend_lease = {
	.sql = "UPDATE tasker.workflow_steps SET lease_expires_at = $3, checkpoint = COALESCE($4, checkpoint) "
	"WHERE task_id = $1 AND step_id = $2",
	.args = {INT8OID, INT4OID, TIMESTAMPTZOID, JSONBOID},
};

/* A step that a call is about, as it is held. */
typedef struct HeldStep
{
	int64		task_id;
	int			step_id;
	StepDef    *def;
	int			attempts;
	TimestampTz started_at;
	TimestampTz lease_ends;
} HeldStep;

static void
need(FunctionCallInfo fcinfo, int n, const char *call)
{
	for (int i = 0; i < n; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("an argument of %s is null", call),
					 errdetail("It is argument %d.", i + 1),
					 errhint("Pass what claim_steps returned.")));
}

static void
refuse_lease(int64 task_id, int step_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_STALE_LEASE),
			 errmsg("the lease is not that of step %d of task " INT64_FORMAT, step_id, task_id),
			 errdetail("It ran out, or the step was completed, cancelled or given back; nothing was changed."),
			 errhint("Drop the work: another attempt is under way, or none is wanted.")));
}

/* Steps to complete, in the order of their locks. */
typedef struct Completion
{
	StepRef		ref;
	Datum		lease;
	Jsonb	   *results;
	bool		done;
} Completion;

/* By step, then by lease: an old lease must not hide the present one. */
static int
compare_completions(const void *a, const void *b)
{
	const Completion *x = a;
	const Completion *y = b;
	int			by_step = step_ref_compare(&x->ref, &y->ref);

	return by_step != 0 ? by_step :
		memcmp(DatumGetUUIDP(x->lease), DatumGetUUIDP(y->lease), UUID_LEN);
}

/* Complete what may be; the others' done stays false. Inside a section. */
static void
complete_all(Completion *items, int n, Scope scope)
{
	DatumList	tasks,
				steps,
				leases,
				results;
	Datum		values[6];
	char		nulls[7] = "      ";
	uint64		rows;

	guard_require_armed();
	qsort(items, n, sizeof(Completion), compare_completions);
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&steps, INT4OID);
	datum_list_init(&leases, UUIDOID);
	datum_list_init(&results, JSONBOID);
	for (int i = 0; i < n; i++)
	{
		Jsonb	   *result = items[i].results;

		if (i > 0 && compare_completions(&items[i - 1], &items[i]) == 0)
			continue;			/* named twice: the first one counts */
		datum_list_add(&tasks, Int64GetDatum(items[i].ref.task_id));
		datum_list_add(&steps, Int32GetDatum(items[i].ref.step_id));
		datum_list_add(&leases, items[i].lease);
		if (result == NULL || results_live_apart(result))
			datum_list_add_null(&results);
		else
			datum_list_add(&results, JsonbPGetDatum(result));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&steps);
	values[2] = datum_list_array(&leases);
	values[3] = datum_list_array(&results);
	values[4] = scope.owner;
	nulls[4] = scope.no_owner;
	values[5] = TimestampTzGetDatum(tasker_now());
	rows = tasker_run(&complete, values, nulls);
	for (uint64 row = 0; row < rows; row++)
	{
		Completion	key = {{DatumGetInt64(tasker_value_notnull(row, 1)),
		DatumGetInt32(tasker_value_notnull(row, 2)), 0}, tasker_value_notnull(row, 3)};
		Completion *item = bsearch(&key, items, n, sizeof(Completion), compare_completions);

		while (item > items && compare_completions(item - 1, item) == 0)
			item--;
		item->done = true;
	}
	for (int i = 0; i < n; i++)
		if (items[i].done && items[i].results != NULL && results_live_apart(items[i].results))
			store_results_apart(items[i].ref.task_id, items[i].ref.step_id, items[i].results);
}

static void
array_elements(FunctionCallInfo fcinfo, int arg, Oid type, int length, bool byval, char align,
			   Datum **elements, bool **nulls, int *n)
{
	if (ARR_NDIM(PG_GETARG_ARRAYTYPE_P(arg)) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("an array of complete_steps has more than one dimension"),
				 errdetail("It is argument %d.", arg + 1),
				 errhint("Pass one element a step.")));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), type, length, byval, align, elements, nulls, n);
}

/* The first four arguments of complete_steps. */
static Completion *
read_completions(FunctionCallInfo fcinfo, int *n)
{
	Datum	   *elements[4];
	bool	   *nulls[4];
	int			lengths[4];
	Completion *items;

	need(fcinfo, 4, "complete_steps");
	array_elements(fcinfo, 0, INT8OID, 8, true, TYPALIGN_DOUBLE, &elements[0], &nulls[0], &lengths[0]);
	array_elements(fcinfo, 1, INT4OID, 4, true, TYPALIGN_INT, &elements[1], &nulls[1], &lengths[1]);
	array_elements(fcinfo, 2, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &elements[2], &nulls[2], &lengths[2]);
	array_elements(fcinfo, 3, JSONBOID, -1, false, TYPALIGN_INT, &elements[3], &nulls[3], &lengths[3]);
	if (lengths[0] != lengths[1] || lengths[0] != lengths[2] || lengths[0] != lengths[3])
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the arrays of complete_steps must have the same length"),
				 errdetail("They have %d, %d, %d and %d elements.", lengths[0], lengths[1], lengths[2], lengths[3]),
				 errhint("Use null for a step without results.")));
	if (lengths[0] > tasker_max_claim)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("a call completes at most %d steps", tasker_max_claim),
				 errdetail("It is for %d.", lengths[0]),
				 errhint("Use several calls, or have a superuser raise tasker.max_claim.")));
	*n = lengths[0];
	items = palloc0(Max(*n, 1) * sizeof(Completion));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[0][i] || nulls[1][i] || nulls[2][i])
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("an id or a lease of complete_steps is null"),
					 errdetail("It is in element %d.", i + 1),
					 errhint("Pass what claim_steps returned.")));
		items[i].ref.task_id = DatumGetInt64(elements[0][i]);
		items[i].ref.step_id = DatumGetInt32(elements[1][i]);
		items[i].lease = elements[2][i];
		if (!nulls[3][i])
		{
			items[i].results = DatumGetJsonbP(elements[3][i]);
			check_results_size(items[i].results);
		}
	}
	return items;
}

/* -------------------------------------------------------- one step that is held */

/* Lock the step that the first three arguments name, or refuse the call. */
static HeldStep
hold_step(FunctionCallInfo fcinfo)
{
	HeldStep	held = {PG_GETARG_INT64(0), PG_GETARG_INT32(1)};
	Scope		scope = caller_scope();
	Datum		values[4] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2), scope.owner};
	char		nulls[5] = {' ', ' ', ' ', scope.no_owner};
	int			step_no;
	int			named_task_id;

	guard_require_armed();
	if (tasker_run(&held_step, values, nulls) == 0)
		refuse_lease(held.task_id, held.step_id);
	step_no = DatumGetInt32(tasker_value_notnull(0, 1));
	named_task_id = DatumGetInt32(tasker_value_notnull(0, 2));
	held.attempts = DatumGetInt32(tasker_value_notnull(0, 3));
	held.started_at = DatumGetTimestampTz(tasker_value_notnull(0, 4));
	held.lease_ends = DatumGetTimestampTz(tasker_value_notnull(0, 5));
	(void) definition_cache_check();
	held.def = step_def(task_def(named_task_id), step_no);
	return held;
}

/* The held step goes to a state, with so many attempts made; time 0 is none. */
static void
let_go(const HeldStep *held, StepState state, int attempts, TimestampTz next, Datum error)
{
	Datum		values[6] = {Int64GetDatum(held->task_id), Int32GetDatum(held->step_id),
		CStringGetTextDatum(step_state_name(state)), Int32GetDatum(attempts),
	TimestampTzGetDatum(next), error};
	char		nulls[7] = "      ";

	nulls[4] = next == 0 ? 'n' : ' ';
	nulls[5] = error == (Datum) 0 ? 'n' : ' ';
	tasker_run(&end_attempt, values, nulls);
}

PG_FUNCTION_INFO_V1(tasker_complete_step);
PG_FUNCTION_INFO_V1(tasker_complete_steps);
PG_FUNCTION_INFO_V1(tasker_fail_step);
PG_FUNCTION_INFO_V1(tasker_heartbeat);
PG_FUNCTION_INFO_V1(tasker_release_step);

/* complete_step(task_id, step_id, lease, results) */
Datum
tasker_complete_step(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Completion	item = {{0}};

	need(fcinfo, 3, "complete_step");
	item.ref.task_id = PG_GETARG_INT64(0);
	item.ref.step_id = PG_GETARG_INT32(1);
	item.lease = PG_GETARG_DATUM(2);
	item.results = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	if (item.results != NULL)
		check_results_size(item.results);
	tasker_enter(&section);
	complete_all(&item, 1, caller_scope());
	if (!item.done)
		refuse_lease(item.ref.task_id, item.ref.step_id);
	tasker_leave(&section);
	PG_RETURN_VOID();
}

/* complete_steps(task_ids, step_ids, leases, results, queues, worker, max_steps, lease, wait) */
Datum
tasker_complete_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		claims = !PG_ARGISNULL(6) && PG_GETARG_INT32(6) != 0 && tasker_enabled;
	TaskerSection section;
	Completion *items;
	Claim		claim;
	int			n;

	items = read_completions(fcinfo, &n);
	if (claims)
		read_claim(fcinfo, 4, &claim);
	tasker_begin_srf(fcinfo);
	tasker_enter(&section);
	claim.scope = caller_scope();
	if (claims)
		hold_back(&claim.held);
	complete_all(items, n, claim.scope);
	for (int i = 0; i < n; i++)
	{
		Datum		row[CLAIM_COLUMNS] = {CStringGetTextDatum("refused"),
		Int64GetDatum(items[i].ref.task_id), Int32GetDatum(items[i].ref.step_id)};
		bool		isnull[CLAIM_COLUMNS];

		for (int c = 0; c < CLAIM_COLUMNS; c++)
			isnull[c] = c > 2;
		if (!items[i].done)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, row, isnull);
	}
	if (claims)
		claim_and_wait(fcinfo, &claim, 0);
	tasker_leave(&section);
	return (Datum) 0;
}

/* The worker's error, with when it was and which attempt. */
static Datum
failure_document(FunctionCallInfo fcinfo, int attempts, TimestampTz now)
{
	Jsonb	   *error;
	ErrorData	said = {0};

	error = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	if (error != NULL && !JB_ROOT_IS_OBJECT(error))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the error of a step must be a JSON object"),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(error) ? "a scalar" : "an array"),
				 errhint("For example: {\"message\": \"…\", \"detail\": \"…\"}.")));
	if (error != NULL)
		check_document_size(error, "the error of a step is");
	said.sqlerrcode = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	said.message = "the worker gave no message";
	return error == NULL ? JsonbPGetDatum(error_document(&said, attempts, now)) :
		DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(error_document(&said, attempts, now)),
							JsonbPGetDatum(error));
}

/* fail_step(task_id, step_id, lease, error, retryable, retry_after) */
Datum
tasker_fail_step(PG_FUNCTION_ARGS)
{
	TimestampTz now = tasker_now();
	TimestampTz next = 0;
	TaskerSection section;
	HeldStep	held;
	StepState	state;
	bool		retryable = PG_ARGISNULL(4) || PG_GETARG_BOOL(4);
	double		delay;

	need(fcinfo, 3, "fail_step");
	delay = seconds_argument(fcinfo, 5, "retry_after", -1);
	tasker_enter(&section);
	held = hold_step(fcinfo);
	state = after_failure(held.def, held.attempts, !retryable, delay, now, &next);
	let_go(&held, state, held.attempts, next, failure_document(fcinfo, held.attempts, now));
	tasker_leave(&section);
	PG_RETURN_TEXT_P(cstring_to_text(step_state_name(state)));
}

/* heartbeat(task_id, step_id, lease, extend, checkpoint) */
Datum
tasker_heartbeat(PG_FUNCTION_ARGS)
{
	TimestampTz now = tasker_now();
	TimestampTz end;
	TaskerSection section;
	HeldStep	held;
	double		extend;
	Datum		values[4];

	need(fcinfo, 3, "heartbeat");
	extend = seconds_argument(fcinfo, 3, "a lease", -1);
	if (!PG_ARGISNULL(4))
		check_document_size(PG_GETARG_JSONB_P(4), "the checkpoint of a step is");
	tasker_enter(&section);
	held = hold_step(fcinfo);
	/* never sooner: the worker was promised so long, and the timer is set */
	end = Max(held.lease_ends, lease_end(held.def, extend, held.started_at, now));
	values[0] = Int64GetDatum(held.task_id);
	values[1] = Int32GetDatum(held.step_id);
	values[2] = TimestampTzGetDatum(end);
	values[3] = PG_ARGISNULL(4) ? (Datum) 0 : PG_GETARG_DATUM(4);
	tasker_run(&extend_lease, values, PG_ARGISNULL(4) ? "   n" : NULL);
	tasker_leave(&section);
	PG_RETURN_TIMESTAMPTZ(end);
}

/* release_step(task_id, step_id, lease, delay) */
Datum
tasker_release_step(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	HeldStep	held;
	double		delay;

	need(fcinfo, 3, "release_step");
	delay = seconds_argument(fcinfo, 3, "a delay", 0);
	tasker_enter(&section);
	held = hold_step(fcinfo);
	if (delay > 0)
		let_go(&held, STEP_WAITING_FOR_RETRY, held.attempts - 1,
			   tasker_now() + (TimestampTz) rint(delay * USECS_PER_SEC), (Datum) 0);
	else
		let_go(&held, STEP_ENQUEUED, held.attempts - 1, 0, (Datum) 0);
	tasker_leave(&section);
	PG_RETURN_VOID();
}
