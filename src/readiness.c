/*
 * readiness.c
 *	  What the graph of a task says, as SQL functions: which steps are ready and
 *	  why the others are not, what the task as a whole is doing, levels,
 *	  ancestors and descendants.
 *
 * All of them derive it afresh from the rows of the task and write nothing.
 * The engine does not ask them: it counts parents down (release.c);
 * verify_task (verify.c) holds the two against each other.
 */
#include "graph.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

static const char *const kind_names[] = {
	[HANDLER_FUNCTION] = "function",
	[HANDLER_SQL] = "sql",
	[HANDLER_QUEUE] = "queue",
};

/*
 * The same definition, as a query that visits each step and each edge a fixed
 * number of times. It is put together from sets and from look-ups by a whole
 * primary key, so that no plan of it, however little is known of the tables
 * when it is made, compares every step with every other.
 */
static TaskerQuery ready_by_recursion = {
	.sql = "WITH RECURSIVE roots (step_id) AS ("
	"SELECT s.step_id FROM tasker.workflow_steps s WHERE s.task_id = $1 "
	"EXCEPT SELECT e.to_step_id FROM tasker.workflow_step_edges e WHERE e.task_id = $1), "
	"reached (step_id) AS ("
	"SELECT step_id FROM roots "
	"UNION SELECT c.to_step_id FROM reached r CROSS JOIN LATERAL ("
	"SELECT e.to_step_id FROM tasker.workflow_step_edges e "
	"WHERE e.task_id = $1 AND e.from_step_id = r.step_id OFFSET 0) AS c), "
	"startable (step_id) AS ("
	"SELECT s.step_id FROM tasker.workflow_steps s WHERE s.task_id = $1 "
	"AND s.state IN ('pending', 'waiting', 'enqueued', 'waiting_for_retry') "
	"AND (s.next_attempt_at IS NULL OR s.next_attempt_at <= $2) "
	"AND (s.lease_expires_at IS NULL OR s.lease_expires_at <= $2)), "
	"blocked (step_id) AS ("
	"SELECT e.to_step_id FROM tasker.workflow_step_edges e LEFT JOIN LATERAL ("
	"SELECT p.state FROM tasker.workflow_steps p "
	"WHERE p.task_id = $1 AND p.step_id = e.from_step_id OFFSET 0) AS parent ON true "
	"WHERE e.task_id = $1 "
	"AND (parent.state IN ('complete', 'resolved_manually', 'skipped')) IS NOT TRUE), "
	"ready (step_id) AS ("
	"(SELECT step_id FROM reached INTERSECT SELECT step_id FROM startable) "
	"EXCEPT SELECT step_id FROM blocked) "
	"SELECT d.* FROM ready CROSS JOIN LATERAL ("
	"SELECT s.step_id, n.name, s.attempts, s.priority, n.handler_kind, n.handler "
	"FROM tasker.tasks t JOIN tasker.workflow_steps s ON s.task_id = t.task_id "
	"JOIN tasker.named_steps n ON n.named_task_id = t.named_task_id AND n.step_no = s.step_no "
	"WHERE t.task_id = $1 AND t.state IN ('pending', 'in_progress') AND s.step_id = ready.step_id "
	"AND (s.attempts = 0 OR (n.retryable AND s.attempts < n.max_attempts)) OFFSET 0) AS d "
	"ORDER BY d.step_id",
	.args = {INT8OID, TIMESTAMPTZOID},
	.columns = {INT4OID, TEXTOID, INT4OID, INT4OID, TEXTOID, TEXTOID},
	.read_only = true,
};

/* What a worker wrote into it may be anything: only a time is taken for one. */
static TaskerQuery failure_times = {
	.sql = "SELECT s.step_id, (s.last_error->>'at')::timestamptz FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND s.last_error IS NOT NULL "
	"AND s.last_error->>'at' ~ '^\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])[ T]([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d' "
	"ORDER BY s.step_id",
	.args = {INT8OID},
	.columns = {INT4OID, TIMESTAMPTZOID},
	.read_only = true,
};

static void
put_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A step's name, if its definition has one. */
static Datum
step_name(const GraphStep *step, bool *isnull)
{
	*isnull = step->def == NULL;
	return *isnull ? (Datum) 0 : CStringGetTextDatum(step->def->name);
}

static Datum
time_value(TimestampTz time, bool *isnull)
{
	*isnull = time == GRAPH_NEVER;
	return TimestampTzGetDatum(time);
}

/* ------------------------------------------------------------------- ready */

PG_FUNCTION_INFO_V1(tasker_ready_steps);
PG_FUNCTION_INFO_V1(tasker_ready_steps_by_recursion);

/* ready_steps(task_id) */
Datum
tasker_ready_steps(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	TaskGraph  *graph;
	TimestampTz now = tasker_now();

	tasker_begin_srf(fcinfo);
	graph = graph_begin_call(&section, fcinfo);
	graph_walk(graph);
	for (int i = 0; i < graph->nsteps; i++)
	{
		GraphStep  *step = &graph->steps[i];
		Datum		values[6];
		bool		nulls[6] = {false};

		CHECK_FOR_INTERRUPTS();
		if (!graph_step_ready(graph, step, now))
			continue;
		values[0] = Int32GetDatum(step->step_id);
		values[1] = CStringGetTextDatum(step->def->name);
		values[2] = Int32GetDatum(step->attempts);
		values[3] = Int32GetDatum(step->priority);
		values[4] = CStringGetTextDatum(kind_names[step->def->handler->kind]);
		values[5] = CStringGetTextDatum(step->def->handler->text);
		put_row(fcinfo, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}

/* ready_steps_by_recursion(task_id) */
Datum
tasker_ready_steps_by_recursion(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Datum		values[6] = {(Datum) 0};
	bool		nulls[6] = {false};
	uint64		n;

	tasker_begin_srf(fcinfo);
	tasker_enter(&section);
	check_may_see(PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0));
	values[0] = PG_GETARG_DATUM(0);
	values[1] = TimestampTzGetDatum(tasker_now());
	n = tasker_run(&ready_by_recursion, values, NULL);
	for (uint64 row = 0; row < n; row++)
	{
		for (int i = 0; i < 6; i++)
			values[i] = tasker_value_notnull(row, i + 1);
		put_row(fcinfo, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}

/* --------------------------------------------------------------- readiness */

/* The times of the last failures, in the order of the graph's steps. */
static TimestampTz *
last_failures(TaskGraph *graph)
{
	Datum		values[1] = {Int64GetDatum(graph->task_id)};
	TimestampTz *times = palloc_extended(Max(graph->nsteps, 1) * sizeof(TimestampTz), MCXT_ALLOC_HUGE);
	uint64		n;

	for (int i = 0; i < graph->nsteps; i++)
		times[i] = GRAPH_NEVER;
	n = tasker_run(&failure_times, values, NULL);
	for (uint64 row = 0; row < n; row++)
	{
		int			step = graph_find(graph, DatumGetInt32(tasker_value_notnull(row, 1)));

		if (step >= 0)
			times[step] = DatumGetTimestampTz(tasker_value_notnull(row, 2));
	}
	return times;
}

/* Which steps are asked for; NULL for all of them. */
static bool *
wanted_steps(FunctionCallInfo fcinfo, TaskGraph *graph)
{
	Datum	   *elements;
	bool	   *nulls;
	bool	   *wanted;
	int			n;

	if (PG_ARGISNULL(1))
		return NULL;
	wanted = palloc0(Max(graph->nsteps, 1) * sizeof(bool));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), INT4OID, sizeof(int32), true, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		int			step = nulls[i] ? -1 : graph_find(graph, DatumGetInt32(elements[i]));

		if (step >= 0)
			wanted[step] = true;
	}
	return wanted;
}

/* The seconds of backoff that a step that waits for its retry was given. */
static Datum
backoff_request(const GraphStep *step, bool *isnull)
{
	double		seconds;

	*isnull = step->state != STEP_WAITING_FOR_RETRY ||
		step->next_attempt_at == GRAPH_NEVER || step->last_attempted_at == GRAPH_NEVER ||
		TIMESTAMP_NOT_FINITE(step->next_attempt_at) || TIMESTAMP_NOT_FINITE(step->last_attempted_at);
	if (*isnull)
		return (Datum) 0;
	seconds = ((double) step->next_attempt_at - (double) step->last_attempted_at) / USECS_PER_SEC;
	return Int32GetDatum((int32) Min(Max(seconds + 0.5, 0.0), (double) INT_MAX));
}

PG_FUNCTION_INFO_V1(tasker_step_readiness);

/* step_readiness(task_id, step_ids): the filter chooses rows, not parents */
Datum
tasker_step_readiness(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	TaskGraph  *graph;
	TimestampTz now = tasker_now();
	TimestampTz *failures;
	bool	   *wanted;

	tasker_begin_srf(fcinfo);
	graph = graph_begin_call(&section, fcinfo);
	graph_walk(graph);
	failures = last_failures(graph);
	wanted = wanted_steps(fcinfo, graph);
	for (int i = 0; i < graph->nsteps; i++)
	{
		GraphStep  *step = &graph->steps[i];
		Datum		values[16];
		bool		nulls[16] = {false};

		CHECK_FOR_INTERRUPTS();
		if (wanted != NULL && !wanted[i])
			continue;
		values[0] = Int32GetDatum(step->step_id);
		values[1] = Int64GetDatum(graph->task_id);
		values[2] = Int32GetDatum(step->step_no);
		values[3] = step_name(step, &nulls[3]);
		values[4] = CStringGetTextDatum(step_state_name(step->state));
		values[5] = BoolGetDatum(step->reached && step->satisfied == step->parents);
		values[6] = BoolGetDatum(graph_step_retryable(step));
		values[7] = BoolGetDatum(graph_step_ready(graph, step, now));
		values[8] = time_value(failures[i], &nulls[8]);
		values[9] = time_value(step->next_attempt_at, &nulls[9]);
		values[10] = Int32GetDatum(step->parents);
		values[11] = Int32GetDatum(step->satisfied);
		values[12] = Int32GetDatum(step->attempts);
		nulls[13] = step->def == NULL;
		values[13] = Int32GetDatum(nulls[13] ? 0 : step->def->max_attempts);
		values[14] = backoff_request(step, &nulls[14]);
		values[15] = time_value(step->last_attempted_at, &nulls[15]);
		put_row(fcinfo, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}

/* ------------------------------------------------------- execution context */

/* What a task is doing, with what that means for whoever looks. */
typedef struct Condition
{
	const char *execution_status;
	const char *recommended_action;
	const char *health_status;
} Condition;

/* How many of a task's steps are in which state, and how many are ready. */
typedef struct Census
{
	int			states[STEP_STATES];
	int			total;
	int			ready;
	int			satisfied;
	int			failed;			/* or cancelled: their descendants can not run */
	int			pending;		/* for parents, a time or a retry */
} Census;

static Census
take_census(TaskGraph *graph)
{
	Census		census = {{0}};
	TimestampTz now = tasker_now();

	for (int i = 0; i < graph->nsteps; i++)
	{
		GraphStep  *step = &graph->steps[i];

		census.states[step->state]++;
		if (step_state_satisfies(step->state))
			census.satisfied++;
		if (graph_step_ready(graph, step, now))
			census.ready++;
	}
	census.total = graph->nsteps;
	census.failed = census.states[STEP_ERROR] + census.states[STEP_CANCELLED];
	census.pending = census.states[STEP_PENDING] + census.states[STEP_WAITING] +
		census.states[STEP_WAITING_FOR_RETRY];
	return census;
}

/*
 * The first that applies. Work that can go on comes before failures: a task
 * with a step in error is blocked only when nothing else of it can run.
 */
static Condition
condition_of(const TaskGraph *graph, const Census *census)
{
	const char *health = census->failed > 0 || census->states[STEP_WAITING_FOR_RETRY] > 0 ?
	"recovering" : "healthy";
	bool		final = task_state_final(graph->state);
	bool		paused = graph->state == TASK_PAUSED;

	if (census->satisfied == census->total)
		return (Condition)
	{
		"all_complete", final ? "none" : "finalize_task", "healthy"
	};
	if (census->ready > 0)
		return (Condition)
	{
		"has_ready_steps", "execute_ready_steps", health
	};
	if (census->states[STEP_IN_PROGRESS] > 0 || (census->states[STEP_ENQUEUED] > 0 && !paused))
		return (Condition)
	{
		"processing", "wait_for_completion", health
	};
	if (census->states[STEP_WAITING_FOR_RETRY] > 0)
		return (Condition)
	{
		"waiting_for_retry", paused ? "resume_task" : "wait_for_retry", health
	};
	if (census->states[STEP_WAITING] > 0 || census->states[STEP_ENQUEUED] > 0)
		return (Condition)
	{
		"waiting_for_dependencies",
			paused ? "resume_task" : "wait_for_dependencies", health
	};
	if (census->failed > 0)
		return (Condition)
	{
		"blocked_by_failures", final ? "none" : "handle_failures",
			final ? "healthy" : "blocked"
	};
	return (Condition)
	{
		"waiting_for_dependencies",
			paused ? "resume_task" : "wait_for_dependencies", health
	};
}

/* completed / total in percent with two digits */
static Datum
percentage(int completed, int total)
{
	char text[	16];
	int64		hundredths = total == 0 ? 10000 : ((int64) completed * 10000 + total / 2) / total;

	snprintf(text, sizeof(text), "%d.%02d", (int) (hundredths / 100), (int) (hundredths % 100));
	return DirectFunctionCall3(numeric_in, CStringGetDatum(text), ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}

PG_FUNCTION_INFO_V1(tasker_task_execution_context);

/* task_execution_context(task_id): one row */
Datum
tasker_task_execution_context(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	TaskGraph  *graph;
	Census		census;
	Condition	condition;
	Datum		values[14];
	bool		nulls[14] = {false};

	tasker_begin_srf(fcinfo);
	graph = graph_begin_call(&section, fcinfo);
	graph_walk(graph);
	census = take_census(graph);
	condition = condition_of(graph, &census);
	values[0] = Int64GetDatum(graph->task_id);
	values[1] = Int32GetDatum(graph->named_task_id);
	values[2] = CStringGetTextDatum(task_state_name(graph->state));
	values[3] = Int64GetDatum(census.total);
	values[4] = Int64GetDatum(census.pending);
	values[5] = Int64GetDatum(census.states[STEP_IN_PROGRESS]);
	values[6] = Int64GetDatum(census.satisfied);
	values[7] = Int64GetDatum(census.failed);
	values[8] = Int64GetDatum(census.ready);
	values[9] = CStringGetTextDatum(condition.execution_status);
	values[10] = CStringGetTextDatum(condition.recommended_action);
	values[11] = percentage(census.satisfied, census.total);
	values[12] = CStringGetTextDatum(condition.health_status);
	values[13] = Int64GetDatum(census.states[STEP_ENQUEUED]);
	put_row(fcinfo, values, nulls);
	tasker_leave(&section);
	return (Datum) 0;
}

/* ----------------------------------------------- levels, ancestors, descendants */

PG_FUNCTION_INFO_V1(tasker_dependency_levels);
PG_FUNCTION_INFO_V1(tasker_step_ancestors);
PG_FUNCTION_INFO_V1(tasker_step_descendants);

/* dependency_levels(task_id) */
Datum
tasker_dependency_levels(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	TaskGraph  *graph;
	int		   *levels;

	tasker_begin_srf(fcinfo);
	graph = graph_begin_call(&section, fcinfo);
	levels = graph_levels(graph);
	for (int i = 0; i < graph->nsteps; i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false};

		values[0] = Int32GetDatum(graph->steps[i].step_id);
		values[1] = step_name(&graph->steps[i], &nulls[1]);
		values[2] = Int32GetDatum(levels[i]);
		nulls[2] = levels[i] < 0;
		put_row(fcinfo, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}

static int
distance_compare(const void *a, const void *b)
{
	const Distance *x = a;
	const Distance *y = b;

	if (x->distance != y->distance)
		return x->distance < y->distance ? -1 : 1;
	return x->step < y->step ? -1 : x->step > y->step;
}

/* step_ancestors and step_descendants, but for the direction */
static Datum
relatives(FunctionCallInfo fcinfo, bool towards_parents)
{
	TaskerSection section;
	TaskGraph  *graph;
	Distance   *result;
	int			step;
	int			found;

	tasker_begin_srf(fcinfo);
	graph = graph_begin_call(&section, fcinfo);
	step = PG_ARGISNULL(1) ? -1 : graph_find(graph, PG_GETARG_INT32(1));
	if (step < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_STEP),
				 PG_ARGISNULL(1) ? errmsg("no step of task " INT64_FORMAT " is given", graph->task_id) :
				 errmsg("task " INT64_FORMAT " has no step %d", graph->task_id, PG_GETARG_INT32(1)),
				 errdetail_plural("The task has %d step.", "The task has %d steps.",
								  graph->nsteps, graph->nsteps),
				 errhint("tasker.step_status lists the steps of the task.")));
	result = graph_search(graph, step, towards_parents, &found);
	qsort(result, found, sizeof(Distance), distance_compare);
	for (int i = 1; i < found; i++)
	{
		GraphStep  *relative = &graph->steps[result[i].step];
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = Int32GetDatum(relative->step_id);
		values[1] = step_name(relative, &nulls[1]);
		values[2] = Int32GetDatum(result[i].distance);
		values[3] = CStringGetTextDatum(step_state_name(relative->state));
		put_row(fcinfo, values, nulls);
	}
	tasker_leave(&section);
	return (Datum) 0;
}

/* step_ancestors(task_id, step_id) */
Datum
tasker_step_ancestors(PG_FUNCTION_ARGS)
{
	return relatives(fcinfo, true);
}

/* step_descendants(task_id, step_id) */
Datum
tasker_step_descendants(PG_FUNCTION_ARGS)
{
	return relatives(fcinfo, false);
}
