/*
 * cut_off.c
 *	  Steps that were cut off: their process crashed, and the server with it, or
 *	  was terminated, as the recorder tells. Without this a step that kills its
 *	  process would be repeated for ever, since its transaction, with all that
 *	  is known of the attempt, is rolled back.
 *
 * The first time costs the step nothing, for it may have been somebody else's
 * doing; its last_error says what happened. The next time in a row the attempt
 * counts as failed. From then on such steps run one at a time, so that what
 * kills a whole server, where nobody can be told from the others that died
 * with it, costs an innocent step one attempt and no more.
 *
 * Called by scheduler.c before it has executors started, and by run.c.
 */
#include "attempt.h"

#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "engine.h"
#include "miscadmin.h"
#include "recorder.h"
#include "storage/lock.h"

/* A step that somebody holds locked, or whose task, is left out: if it is guilty it comes again. */
static TaskerQuery lock_steps = {
	.sql = "SELECT s.task_id, s.step_id, s.step_no, t.named_task_id, s.state::text, s.attempts, "
	"COALESCE(s.last_error ->> 'sqlstate' = '" CUT_OFF_STATE "', false) "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"JOIN tasker.tasks t ON t.task_id = s.task_id "
	"WHERE s.state IN ('pending', 'enqueued') FOR NO KEY UPDATE OF s, t SKIP LOCKED",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID, INT4OID, INT4OID, TEXTOID, INT4OID, BOOLOID},
};

static TaskerQuery lanes_of_steps = {
	.sql = "SELECT DISTINCT s.lane "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"WHERE s.state IN ('pending', 'enqueued')",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT4OID},
};

static TaskerQuery note_errors = {
	.sql = "UPDATE tasker.workflow_steps s SET last_error = c.error "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) "
	"AS c (task_id, step_id, error) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID},
};

/* One whose row of ready_queue is locked is running again: it is not interfered with. */
static TaskerQuery taken_again = {
	.sql = "WITH f AS MATERIALIZED (SELECT q.ctid AS place, q.task_id, q.step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"JOIN tasker.ready_queue q ON q.lane = s.lane AND q.rank = -s.priority "
	"AND q.task_id = s.task_id AND q.step_id = s.step_id FOR UPDATE OF q SKIP LOCKED), "
	"d AS (DELETE FROM tasker.ready_queue WHERE ctid = ANY (ARRAY(SELECT f.place FROM f))) "
	"SELECT s.task_id, s.step_id "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS c (task_id, step_id) "
	"JOIN tasker.workflow_steps s ON s.task_id = c.task_id AND s.step_id = c.step_id "
	"JOIN tasker.ready_queue q ON q.lane = s.lane AND q.rank = -s.priority "
	"AND q.task_id = s.task_id AND q.step_id = s.step_id "
	"WHERE NOT EXISTS (SELECT FROM f WHERE f.task_id = s.task_id AND f.step_id = s.step_id)",
	.args = {INT8ARRAYOID, INT4ARRAYOID},
	.columns = {INT8OID, INT4OID},
};

static TaskerQuery count_attempts = {
	.sql = "UPDATE tasker.workflow_steps s SET state = c.state, attempts = s.attempts + 1, last_error = c.error, "
	"next_attempt_at = c.next_attempt_at, last_attempted_at = c.started_at "
	"FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), "
	"pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6)) "
	"AS c (task_id, step_id, error, state, next_attempt_at, started_at) "
	"WHERE s.task_id = c.task_id AND s.step_id = c.step_id",
	.args = {INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID},
};

/* A step that was cut off, as its row says. */
typedef struct CutOffStep
{
	int64		task_id;
	int			step_id;
	int			step_no;
	int			named_task_id;
	StepState	state;
	int			attempts;
	bool		again;			/* so it was the last time */
	bool		counts;			/* so the attempt fails */
	const CutOff *cut;
} CutOffStep;

/* The columns of both updates; the first one takes three of them. */
typedef struct Changes
{
	DatumList	tasks;
	DatumList	steps;
	DatumList	errors;
	DatumList	states;
	DatumList	times;
	DatumList	started;
} Changes;

static int
compare_cut_offs(const void *a, const void *b)
{
	const CutOff *x = a;
	const CutOff *y = b;

	if (x->task_id != y->task_id)
		return x->task_id < y->task_id ? -1 : 1;
	return x->step_id < y->step_id ? -1 : x->step_id > y->step_id;
}

/* Lock those that are still to be run, in the order of locks. */
static CutOffStep *
read_steps(CutOff *cuts, int ncuts, int *n)
{
	DatumList	tasks,
				ids;
	Datum		values[2];
	CutOffStep *steps;

	qsort(cuts, ncuts, sizeof(CutOff), compare_cut_offs);
	datum_list_init(&tasks, INT8OID);
	datum_list_init(&ids, INT4OID);
	for (int i = 0; i < ncuts; i++)
	{
		datum_list_add(&tasks, Int64GetDatum(cuts[i].task_id));
		datum_list_add(&ids, Int32GetDatum(cuts[i].step_id));
	}
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&ids);
	*n = (int) tasker_run(&lock_steps, values, NULL);
	steps = palloc(Max(*n, 1) * sizeof(CutOffStep));
	for (int i = 0; i < *n; i++)
	{
		CutOff		key = {0};

		key.task_id = steps[i].task_id = DatumGetInt64(tasker_value_notnull(i, 1));
		key.step_id = steps[i].step_id = DatumGetInt32(tasker_value_notnull(i, 2));
		steps[i].step_no = DatumGetInt32(tasker_value_notnull(i, 3));
		steps[i].named_task_id = DatumGetInt32(tasker_value_notnull(i, 4));
		steps[i].state = step_state_from_text(tasker_value_notnull(i, 5));
		steps[i].attempts = DatumGetInt32(tasker_value_notnull(i, 6));
		steps[i].again = DatumGetBool(tasker_value_notnull(i, 7));
		steps[i].cut = bsearch(&key, cuts, ncuts, sizeof(CutOff), compare_cut_offs);
	}
	return steps;
}

/* The lanes of the cuts that are not among the steps, in which they are to be run nevertheless. */
static List *
lanes_left_out(const CutOff *cuts, int ncuts, const CutOffStep *steps, int n)
{
	StepRefs	rest = {0};
	List	   *lanes = NIL;
	Datum		values[3];
	uint64		rows;

	for (int i = 0; i < ncuts; i++)
	{
		int			s = 0;

		while (s < n && steps[s].cut != &cuts[i])
			s++;
		if (s == n)
			step_refs_add(&rest, cuts[i].task_id, cuts[i].step_id);
	}
	if (rest.length == 0)
		return NIL;
	step_refs_arrays(&rest, values);
	rows = tasker_run(&lanes_of_steps, values, NULL);
	for (uint64 row = 0; row < rows; row++)
		lanes = lappend_int(lanes, DatumGetInt32(tasker_value_notnull(row, 1)));
	return lanes;
}

/* What is kept of it, of an attempt that counts or not. */
static Jsonb *
cut_off_error(const CutOffStep *step, TimestampTz now)
{
	ErrorData	error = {0};
	const CutOff *cut = step->cut;

	error.sqlerrcode = ERRCODE_TASKER_CUT_OFF;
	error.message = psprintf(cut->running ? "process %d %s while it ran the step" :
							 "process %d %s at the end of the transaction in which it ran the step",
							 cut->pid, cut->died ? "died" : "was terminated");
	error.detail = psprintf("%s%s", cut->died ? "The server crashed with it, and its log says how." :
							"The server's log may say by whom.",
							step->counts ? "" : " The attempt does not count; if it happens again, it does.");
	error.hint = "See whether it is the step's doing; when the cause is gone, tasker.retry_step runs it again.";
	return error_document(&error, step->attempts + 1, now);
}

static void
changes_init(Changes *changes)
{
	datum_list_init(&changes->tasks, INT8OID);
	datum_list_init(&changes->steps, INT4OID);
	datum_list_init(&changes->errors, JSONBOID);
	datum_list_init(&changes->states, TEXTOID);
	datum_list_init(&changes->times, TIMESTAMPTZOID);
	datum_list_init(&changes->started, TIMESTAMPTZOID);
}

static void
add_change(Changes *changes, const CutOffStep *step, TimestampTz now)
{
	TimestampTz next = 0;
	StepDef    *def;

	datum_list_add(&changes->tasks, Int64GetDatum(step->task_id));
	datum_list_add(&changes->steps, Int32GetDatum(step->step_id));
	datum_list_add(&changes->errors, JsonbPGetDatum(cut_off_error(step, now)));
	if (!step->counts)
		return;
	def = step_def(task_def(step->named_task_id), step->step_no);
	datum_list_add(&changes->states,
				   CStringGetTextDatum(step_state_name(after_failure(def, step->attempts + 1, false, -1, now, &next))));
	if (next == 0)
		datum_list_add_null(&changes->times);
	else
		datum_list_add(&changes->times, TimestampTzGetDatum(next));
	datum_list_add(&changes->started, TimestampTzGetDatum(step->cut->since));
}

static void
write_changes(TaskerQuery *query, Changes *changes)
{
	Datum		values[6];

	if (changes->tasks.length == 0)
		return;
	values[0] = datum_list_array(&changes->tasks);
	values[1] = datum_list_array(&changes->steps);
	values[2] = datum_list_array(&changes->errors);
	values[3] = datum_list_array(&changes->states);
	values[4] = datum_list_array(&changes->times);
	values[5] = datum_list_array(&changes->started);
	tasker_run(query, values, NULL);
}

/* Which of them fail by it: those of last time, unless another process runs them again already. */
static void
find_counting(CutOffStep *steps, int n)
{
	DatumList	tasks,
				ids;
	Datum		values[2];
	int			running;

	datum_list_init(&tasks, INT8OID);
	datum_list_init(&ids, INT4OID);
	for (int i = 0; i < n; i++)
	{
		steps[i].counts = steps[i].again && steps[i].state == STEP_ENQUEUED;
		if (!steps[i].counts)
			continue;
		datum_list_add(&tasks, Int64GetDatum(steps[i].task_id));
		datum_list_add(&ids, Int32GetDatum(steps[i].step_id));
	}
	if (tasks.length == 0)
		return;
	values[0] = datum_list_array(&tasks);
	values[1] = datum_list_array(&ids);
	running = (int) tasker_run(&taken_again, values, NULL);
	for (int row = 0; row < running; row++)
		for (int i = 0; i < n; i++)
			if (steps[i].task_id == DatumGetInt64(tasker_value_notnull(row, 1)) &&
				steps[i].step_id == DatumGetInt32(tasker_value_notnull(row, 2)))
				steps[i].counts = false;
}

/*
 * See to the steps of this database that were cut off since the last time. A
 * step that is pending ran in the batch that released it; it will not again.
 * Returns the lanes of those that somebody has locked: they would be cut off
 * again and again, and nobody could note it.
 */
List *
record_cut_offs(void)
{
	MemoryContext context = CurrentMemoryContext;
	TaskerSection section;
	TimestampTz now = tasker_now();
	Changes		noted;
	Changes		counted;
	CutOffStep *steps;
	List	   *left_out;
	int			ncuts;
	int			n;
	CutOff	   *cuts = recorder_collect(MyDatabaseId, &ncuts);

	if (ncuts == 0)
		return NIL;
	tasker_enter(&section);
	changes_init(&noted);
	changes_init(&counted);
	steps = read_steps(cuts, ncuts, &n);
	left_out = lanes_left_out(cuts, ncuts, steps, n);
	find_counting(steps, n);
	for (int i = 0; i < n; i++)
		add_change(steps[i].counts ? &counted : &noted, &steps[i], now);
	write_changes(&note_errors, &noted);
	write_changes(&count_attempts, &counted);
	MemoryContextSwitchTo(context);
	left_out = list_copy(left_out);
	tasker_leave(&section);
	return left_out;
}

PG_FUNCTION_INFO_V1(tasker_lock_cut_off);

/* lock_cut_off(): have the lock under which such steps run, to the end of the transaction, if it is free */
Datum
tasker_lock_cut_off(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag;

	if (!tasker_inside())
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("lock_cut_off is for a statement of tasker's own"),
				 errdetail("Whoever held the lock would keep other roles' steps from running."),
				 errhint("Do not call it.")));
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, NamespaceRelationId, get_namespace_oid("tasker", false), CUT_OFF_LOCK);
	PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL);
}
