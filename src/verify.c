/*
 * verify.c
 *	  verify_task: everything about a task that can be counted twice, counted
 *	  twice.
 *
 * What the engine keeps (counters, hints, states) is held against what follows
 * from the edges and states of the steps. It reads one snapshot and writes
 * nothing, so that it may be asked at any time, of a task that is running too.
 */
#include "graph.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

/*
 * Steps for which nothing says when somebody will look at them. Counts, since
 * EXISTS might be planned to read the whole table.
 */
static TaskerQuery steps_without_hint = {
	.sql = "SELECT s.step_id, s.state::text, s.next_attempt_at::text FROM tasker.workflow_steps s "
	"WHERE s.task_id = $1 AND CASE "
	"WHEN s.state = 'enqueued' AND $2 THEN (SELECT pg_catalog.count(*) FROM tasker.ready_queue q "
	"WHERE q.lane = s.lane AND q.rank = -s.priority AND q.task_id = s.task_id AND q.step_id = s.step_id) = 0 "
	"WHEN s.state IN ('waiting', 'waiting_for_retry') THEN (SELECT pg_catalog.count(*) FROM tasker.timers m "
	"WHERE m.due_at = s.next_attempt_at AND m.task_id = s.task_id AND m.step_id = s.step_id) = 0 "
	"ELSE false END ORDER BY s.step_id",
	.args = {INT8OID, BOOLOID},
	.columns = {INT4OID, TEXTOID, TEXTOID},
	.read_only = true,
};

static TaskerQuery ready_twice = {
	.sql = "SELECT 'walk', w.step_id FROM tasker.ready_steps($1) w "
	"UNION ALL SELECT 'recursion', r.step_id FROM tasker.ready_steps_by_recursion($1) r",
	.args = {INT8OID},
	.columns = {TEXTOID, INT4OID},
	.read_only = true,
};

/* The scheduler is going to look at the task. */
static TaskerQuery task_timer = {
	.sql = "SELECT true FROM tasker.timers m WHERE m.task_id = $1 AND m.step_id = 0 LIMIT 1",
	.args = {INT8OID},
	.columns = {BOOLOID},
	.read_only = true,
};

/* Where the problems go. */
typedef struct Report
{
	ReturnSetInfo *rsinfo;
	TaskGraph  *graph;
} Report;

/* Report a problem; step_id 0 for one of the task itself. */
static void
report(Report *out, const char *problem, int step_id, const char *expected, const char *found)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = CStringGetTextDatum(problem);
	values[1] = Int32GetDatum(step_id);
	nulls[1] = step_id == 0;
	values[2] = CStringGetTextDatum(expected);
	values[3] = CStringGetTextDatum(found);
	tuplestore_putvalues(out->rsinfo->setResult, out->rsinfo->setDesc, values, nulls);
}

static void
verify_edges(Report *out)
{
	for (int i = 0; i < out->graph->nedges; i++)
	{
		GraphEdge  *edge = &out->graph->edges[i];
		char	   *shown = psprintf("%d -> %d", edge->from_step_id, edge->to_step_id);

		if (edge->from < 0)
			report(out, "an edge comes from a step that does not exist", edge->to_step_id,
				   "a step of this task", shown);
		if (edge->to < 0)
			report(out, "an edge goes to a step that does not exist", edge->from_step_id,
				   "a step of this task", shown);
		if (edge->from_step_id >= edge->to_step_id)
			report(out, "an edge does not go from the smaller step_id to the larger", edge->to_step_id,
				   "from_step_id < to_step_id", shown);
		pfree(shown);
	}
}

/* Each step against its parents. */
static void
verify_steps(Report *out)
{
	TaskGraph  *graph = out->graph;

	for (int i = 0; i < graph->nsteps; i++)
	{
		GraphStep  *step = &graph->steps[i];
		int			unsatisfied = step->parents - step->satisfied;

		CHECK_FOR_INTERRUPTS();
		if (step->def == NULL)
			report(out, "a step has no definition", step->step_id,
				   "a step_no of its named task", psprintf("%d", step->step_no));
		if (step->state == STEP_PENDING && step->pending_parents != unsatisfied)
			report(out, "pending_parents is wrong", step->step_id,
				   psprintf("%d", unsatisfied), psprintf("%d", step->pending_parents));
		if (step->state == STEP_PENDING && unsatisfied == 0 && !task_state_final(graph->state))
			report(out, "every parent is satisfied, but the step was not released", step->step_id,
				   step->next_attempt_at > tasker_now() ? "waiting" : "enqueued", "pending");
		if ((step_state_active(step->state) || step->state == STEP_COMPLETE || step->state == STEP_ERROR) &&
			unsatisfied > 0)
			report(out, "the step does not wait for its parents", step->step_id,
				   "pending", step_state_name(step->state));
	}
}

/* The walk in C against the recursive query. */
static void
verify_ready(Report *out)
{
	TaskGraph  *graph = out->graph;
	Datum		values[1] = {Int64GetDatum(graph->task_id)};
	char	   *answers = palloc0(Max(graph->nsteps, 1));
	TimestampTz before = tasker_now();
	uint64		n = tasker_run(&ready_twice, values, NULL);
	TimestampTz after = tasker_now();

	for (uint64 row = 0; row < n; row++)
	{
		char	   *by = TextDatumGetCString(tasker_value_notnull(row, 1));
		int			step = graph_find(graph, DatumGetInt32(tasker_value_notnull(row, 2)));

		if (step >= 0)
			answers[step] |= by[0] == 'w' ? 1 : 2;
	}
	for (int i = 0; i < graph->nsteps; i++)
	{
		TimestampTz due = graph->steps[i].next_attempt_at;

		/* Its time came between the two answers. */
		if (due >= before && due <= after)
			continue;
		if (answers[i] == 1 || answers[i] == 2)
			report(out, "ready_steps and ready_steps_by_recursion differ", graph->steps[i].step_id,
				   answers[i] == 2 ? "ready" : "not ready", answers[i] == 2 ? "not ready" : "ready");
	}
}

/* Whatever will go on by itself must be known to an executor or the scheduler. */
static void
verify_hints(Report *out)
{
	bool		running = out->graph->state == TASK_PENDING || out->graph->state == TASK_IN_PROGRESS;
	Datum		values[2] = {Int64GetDatum(out->graph->task_id), BoolGetDatum(running)};
	uint64		n = tasker_run(&steps_without_hint, values, NULL);

	for (uint64 row = 0; row < n; row++)
	{
		int			step_id = DatumGetInt32(tasker_value_notnull(row, 1));
		StepState	state = step_state_from_text(tasker_value_notnull(row, 2));
		bool		isnull;
		Datum		due = tasker_value(row, 3, &isnull);

		if (state == STEP_ENQUEUED)
			report(out, "the step is enqueued, but not in ready_queue", step_id,
				   "a row of ready_queue", "none");
		else if (isnull)
			report(out, "the step waits for no time", step_id, "next_attempt_at", "null");
		else
			report(out, "the step waits, but no timer is set", step_id,
				   psprintf("a row of timers at %s", TextDatumGetCString(due)), "none");
	}
}

/* The task's state against its steps'. */
static void
verify_state(Report *out)
{
	TaskGraph  *graph = out->graph;
	TaskState	state = graph->state;
	Datum		values[1] = {Int64GetDatum(graph->task_id)};
	int			satisfied = 0;
	int			failed = 0;
	int			active = 0;
	int			pending = 0;
	int			begun = 0;

	for (int i = 0; i < graph->nsteps; i++)
	{
		StepState	step = graph->steps[i].state;

		satisfied += step_state_satisfies(step);
		failed += step == STEP_ERROR || step == STEP_CANCELLED;
		active += step_state_active(step);
		pending += step == STEP_PENDING;
		begun += step == STEP_IN_PROGRESS || step == STEP_COMPLETE ||
			step == STEP_ERROR || step == STEP_WAITING_FOR_RETRY;
	}

	if (state == TASK_COMPLETE && satisfied < graph->nsteps)
		report(out, "the task is complete, but not all of its steps are satisfied", 0,
			   psprintf("%d satisfied", graph->nsteps), psprintf("%d satisfied", satisfied));
	else if ((state == TASK_CANCELLED || state == TASK_RESOLVED_MANUALLY) && active + pending > 0)
		report(out, "the task is over, but steps of it can still run", 0,
			   "0 active, 0 pending", psprintf("%d active, %d pending", active, pending));
	else if (state == TASK_ERROR && (failed == 0 || active > 0))
		report(out, "the task is in error, but it can go on", 0,
			   "a failed step and none active", psprintf("%d failed, %d active", failed, active));
	else if (!task_state_final(state) && graph->nsteps > 0 && satisfied == graph->nsteps)
		report(out, "every step is satisfied, but the task is not complete", 0,
			   "complete", task_state_name(state));
	else if (!task_state_final(state) && state != TASK_ERROR && failed > 0 && active == 0 &&
			 tasker_run(&task_timer, values, NULL) == 0)
		report(out, "a step failed and nothing else can run, but the task is not in error", 0,
			   "error", task_state_name(state));
	else if (state == TASK_PENDING && begun > 0)
		report(out, "steps of the task have begun, but it has not", 0,
			   "in_progress", task_state_name(state));
}

PG_FUNCTION_INFO_V1(tasker_verify_task);

/* verify_task(task_id): no row if nothing is wrong */
Datum
tasker_verify_task(PG_FUNCTION_ARGS)
{
	TaskerSection section;
	Report		out = {(ReturnSetInfo *) fcinfo->resultinfo};

	tasker_begin_srf(fcinfo);
	out.graph = graph_begin_call(&section, fcinfo);
	verify_edges(&out);
	verify_steps(&out);
	verify_ready(&out);
	verify_hints(&out);
	verify_state(&out);
	tasker_leave(&section);
	return (Datum) 0;
}
