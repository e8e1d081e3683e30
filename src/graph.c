/*
 * graph.c
 *	  The graph of one task: how it is read, walked and searched, and when a
 *	  step of it is ready.
 *
 * Called by readiness.c, verify.c and edges.c. Three statements read a task,
 * however large it is, with the caller's snapshot. Every walk is a loop that
 * comes to each step and each edge once: it is linear, needs no stack, and
 * ends even if somebody forced a cycle into the table.
 *
 * What is returned lives in the memory context of the call.
 */
#include "graph.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#define STEP_COLUMNS	10

static TaskerQuery load_task = {
	.sql = "SELECT t.state::text, t.named_task_id FROM tasker.tasks t WHERE t.task_id = $1",
	.args = {INT8OID},
	.columns = {TEXTOID, INT4OID},
	.read_only = true,
};

static TaskerQuery load_steps = {
	.sql = "SELECT s.step_id, s.step_no, s.state::text, s.attempts, s.priority, s.lane, s.pending_parents, "
	"s.next_attempt_at, s.lease_expires_at, s.last_attempted_at "
	"FROM tasker.workflow_steps s WHERE s.task_id = $1 ORDER BY s.step_id",
	.args = {INT8OID},
	.columns = {INT4OID, INT4OID, TEXTOID, INT4OID, INT4OID, INT4OID, INT4OID,
	TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	.read_only = true,
};

static TaskerQuery load_edges = {
	.sql = "SELECT e.from_step_id, e.to_step_id "
	"FROM tasker.workflow_step_edges e WHERE e.task_id = $1",
	.args = {INT8OID},
	.columns = {INT4OID, INT4OID},
	.read_only = true,
};

/* Memory for n things of a size; there may be millions. */
static void *
array_of(int n, Size size)
{
	return MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * size);
}

static void *
zeroed_array_of(int n, Size size)
{
	void	   *array = array_of(n, size);

	memset(array, 0, Max(n, 1) * size);
	return array;
}

static TimestampTz
time_or_never(Datum value, bool isnull)
{
	return isnull ? GRAPH_NEVER : DatumGetTimestampTz(value);
}

/* A step's definition, or NULL if rows were changed by hand. */
static StepDef *
definition_of(TaskDef *task, int step_no)
{
	if (step_no < 1 || step_no > task->nsteps || task->steps[step_no - 1].name == NULL)
		return NULL;
	return &task->steps[step_no - 1];
}

static void
read_steps(TaskGraph *graph, TaskDef *def, Datum *task_id)
{
	Datum		values[STEP_COLUMNS];
	bool		nulls[STEP_COLUMNS];
	SPITupleTable *rows;

	graph->nsteps = (int) tasker_run(&load_steps, task_id, NULL);
	graph->steps = array_of(graph->nsteps, sizeof(GraphStep));
	rows = SPI_tuptable;
	for (int i = 0; i < graph->nsteps; i++)
	{
		GraphStep  *step = &graph->steps[i];

		heap_deform_tuple(rows->vals[i], rows->tupdesc, values, nulls);
		step->step_id = DatumGetInt32(values[0]);
		step->step_no = DatumGetInt32(values[1]);
		step->state = step_state_from_text(values[2]);
		step->attempts = DatumGetInt32(values[3]);
		step->priority = DatumGetInt32(values[4]);
		step->lane = DatumGetInt32(values[5]);
		step->pending_parents = DatumGetInt32(values[6]);
		step->next_attempt_at = time_or_never(values[7], nulls[7]);
		step->lease_expires_at = time_or_never(values[8], nulls[8]);
		step->last_attempted_at = time_or_never(values[9], nulls[9]);
		step->def = definition_of(def, step->step_no);
		step->parents = 0;
		step->satisfied = 0;
		step->reached = false;
	}
	SPI_freetuptable(rows);
}

static void
read_edges(TaskGraph *graph, Datum *task_id)
{
	Datum		values[2];
	bool		nulls[2];
	SPITupleTable *rows;

	graph->nedges = (int) tasker_run(&load_edges, task_id, NULL);
	graph->edges = array_of(graph->nedges, sizeof(GraphEdge));
	rows = SPI_tuptable;
	for (int i = 0; i < graph->nedges; i++)
	{
		GraphEdge  *edge = &graph->edges[i];

		heap_deform_tuple(rows->vals[i], rows->tupdesc, values, nulls);
		edge->from_step_id = DatumGetInt32(values[0]);
		edge->to_step_id = DatumGetInt32(values[1]);
		edge->from = graph_find(graph, edge->from_step_id);
		edge->to = graph_find(graph, edge->to_step_id);
		if (edge->to < 0)
			continue;
		graph->steps[edge->to].parents++;
		if (edge->from >= 0 && step_state_satisfies(graph->steps[edge->from].state))
			graph->steps[edge->to].satisfied++;
	}
	SPI_freetuptable(rows);
}

/*
 * The graph of a task, or NULL if there is no such task. Inside a section; who
 * may see it is the caller's business.
 */
TaskGraph *
graph_load(int64 task_id)
{
	TaskGraph  *graph = palloc0(sizeof(TaskGraph));
	Datum		values[1] = {Int64GetDatum(task_id)};
	TaskDef    *def;

	if (tasker_run(&load_task, values, NULL) == 0)
		return NULL;
	graph->task_id = task_id;
	graph->state = task_state_from_text(tasker_value_notnull(0, 1));
	graph->named_task_id = DatumGetInt32(tasker_value_notnull(0, 2));
	(void) definition_cache_check();
	def = task_def(graph->named_task_id);
	read_steps(graph, def, values);
	read_edges(graph, values);
	return graph;
}

/*
 * Open a section and read the task that an SQL function's first argument names,
 * which the caller must be allowed to see.
 */
TaskGraph *
graph_begin_call(TaskerSection *section, FunctionCallInfo fcinfo)
{
	TaskGraph  *graph;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_TASK),
				 errmsg("no task is given"),
				 errdetail("The task_id is null."),
				 errhint("tasker.task_status lists the tasks that you may see.")));
	tasker_enter(section);
	check_may_see(PG_GETARG_INT64(0));
	graph = graph_load(PG_GETARG_INT64(0));
	if (graph == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_UNKNOWN_TASK),
				 errmsg("task " INT64_FORMAT " does not exist", PG_GETARG_INT64(0)),
				 errdetail("It was deleted a moment ago."),
				 errhint("tasker.task_status lists the tasks that you may see.")));
	return graph;
}

/* The index of a step, or -1. Ids mostly run from 1 without a gap. */
int
graph_find(const TaskGraph *graph, int step_id)
{
	int			low = 0;
	int			high = graph->nsteps;

	if (step_id >= 1 && step_id <= graph->nsteps && graph->steps[step_id - 1].step_id == step_id)
		return step_id - 1;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (graph->steps[middle].step_id < step_id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < graph->nsteps && graph->steps[low].step_id == step_id ? low : -1;
}

/* The children of each step, or its parents; edges of missing steps are left out. */
Adjacency
graph_adjacency(const TaskGraph *graph, bool towards_parents)
{
	Adjacency	result;
	int		   *place;

	result.first = zeroed_array_of(graph->nsteps + 2, sizeof(int));
	result.next = array_of(graph->nedges, sizeof(int));
	place = result.first + 1;	/* counts first, moved on by one while filling */
	for (int i = 0; i < graph->nedges; i++)
	{
		GraphEdge  *edge = &graph->edges[i];

		if (edge->from >= 0 && edge->to >= 0)
			place[(towards_parents ? edge->to : edge->from) + 1]++;
	}
	for (int i = 1; i <= graph->nsteps; i++)
		place[i] += place[i - 1];
	for (int i = 0; i < graph->nedges; i++)
	{
		GraphEdge  *edge = &graph->edges[i];

		if (edge->from >= 0 && edge->to >= 0)
			result.next[place[towards_parents ? edge->to : edge->from]++] =
				towards_parents ? edge->from : edge->to;
	}
	return result;
}

/* Find the steps to which there is a path from a root. */
void
graph_walk(TaskGraph *graph)
{
	Adjacency	children = graph_adjacency(graph, false);
	int		   *queue = array_of(graph->nsteps, sizeof(int));
	int			length = 0;

	for (int i = 0; i < graph->nsteps; i++)
		if (graph->steps[i].parents == 0)
		{
			graph->steps[i].reached = true;
			queue[length++] = i;
		}
	for (int at = 0; at < length; at++)
		for (int i = children.first[queue[at]]; i < children.first[queue[at] + 1]; i++)
		{
			GraphStep  *child = &graph->steps[children.next[i]];

			if (child->reached)
				continue;
			child->reached = true;
			queue[length++] = children.next[i];
		}
	pfree(queue);
	pfree(children.first);
	pfree(children.next);
}

/*
 * The length of the longest path from a root to each step; -1 for a step on or
 * behind a cycle.
 */
int *
graph_levels(const TaskGraph *graph)
{
	Adjacency	children = graph_adjacency(graph, false);
	int		   *levels = array_of(graph->nsteps, sizeof(int));
	int		   *longest = zeroed_array_of(graph->nsteps, sizeof(int));
	int		   *left = array_of(graph->nsteps, sizeof(int));
	int		   *queue = array_of(graph->nsteps, sizeof(int));
	int			length = 0;

	for (int i = 0; i < graph->nsteps; i++)
	{
		levels[i] = -1;
		left[i] = graph->steps[i].parents;
		if (left[i] == 0)
			queue[length++] = i;
	}
	for (int at = 0; at < length; at++)
	{
		int			step = queue[at];

		levels[step] = longest[step];
		for (int i = children.first[step]; i < children.first[step + 1]; i++)
		{
			int			child = children.next[i];

			longest[child] = Max(longest[child], levels[step] + 1);
			if (--left[child] == 0)
				queue[length++] = child;
		}
	}
	return levels;
}

/*
 * Every step to which there is a path from one step, or from which there is a
 * path to it, once and with the length of the shortest, the nearest first. The
 * step itself comes first of all.
 */
Distance *
graph_search(const TaskGraph *graph, int step, bool towards_parents, int *found)
{
	Adjacency	adjacency = graph_adjacency(graph, towards_parents);
	bool	   *seen = zeroed_array_of(graph->nsteps, sizeof(bool));
	Distance   *result = array_of(graph->nsteps, sizeof(Distance));
	int			length = 0;

	seen[step] = true;
	result[length++] = (Distance)
	{
		step, 0, -1
	};
	for (int at = 0; at < length; at++)
		for (int i = adjacency.first[result[at].step]; i < adjacency.first[result[at].step + 1]; i++)
		{
			int			next = adjacency.next[i];

			if (seen[next])
				continue;
			seen[next] = true;
			result[length++] = (Distance)
			{
				next, result[at].distance + 1, result[at].step
			};
		}
	*found = length;
	return result;
}

/* May the step be tried (again), as far as its attempts go? */
bool
graph_step_retryable(const GraphStep *step)
{
	return step->attempts == 0 ||
		(step->def != NULL && step->def->retryable && step->attempts < step->def->max_attempts);
}

/* The definition of readiness. After graph_walk. */
bool
graph_step_ready(const TaskGraph *graph, const GraphStep *step, TimestampTz now)
{
	return (graph->state == TASK_PENDING || graph->state == TASK_IN_PROGRESS) &&
		(step->state == STEP_PENDING || step->state == STEP_WAITING ||
		 step->state == STEP_ENQUEUED || step->state == STEP_WAITING_FOR_RETRY) &&
		step->def != NULL &&
		step->reached &&
		step->satisfied == step->parents &&
		graph_step_retryable(step) &&
		step->next_attempt_at <= now &&
		step->lease_expires_at <= now;
}
