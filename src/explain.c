/*
 * explain.c
 *	  tasker.explain_step(): why a step is not running, and what to do about it,
 *	  in a sentence or two.
 *
 * One function a state (explainers), which all read the step as one look found
 * it (explain_step.c). Nothing is written and nothing locked: it works on a
 * standby and in a transaction that can not write.
 */
#include "explain.h"

#include "catalog/pg_type.h"
#include "engine.h"

#define MAX_AHEAD	10000		/* steps ahead that are counted */
/* A queue that nobody asked for so long is not being served. */
#define UNSERVED	(60 * USECS_PER_SEC)

typedef void (*Explainer) (ExplainedStep *step);

/* The parents that are not satisfied; $3 of them, and how many there are. */
static TaskerQuery find_parents = {
	.sql = "SELECT p.step_id, n.name, p.state::text, (pg_catalog.count(*) OVER ())::int "
	"FROM tasker.workflow_step_edges e "
	"JOIN tasker.workflow_steps p ON p.task_id = e.task_id AND p.step_id = e.from_step_id "
	"JOIN tasker.tasks t ON t.task_id = e.task_id "
	"LEFT JOIN tasker.named_steps n ON n.named_task_id = t.named_task_id AND n.step_no = p.step_no "
	"WHERE e.task_id = $1 AND e.to_step_id = $2 "
	"AND p.state NOT IN ('complete', 'resolved_manually', 'skipped') "
	"ORDER BY p.state NOT IN ('error', 'cancelled'), p.state = 'pending', p.step_id LIMIT $3",
	.args = {INT8OID, INT4OID, INT4OID},
	.columns = {INT4OID, TEXTOID, TEXTOID, INT4OID},
	.read_only = true,
};

/*
 * What stands at the head of all that a pending step waits for: its ancestors
 * through pending steps only, each visited once. Those that failed come first.
 */
static TaskerQuery find_head = {
	.sql = "WITH RECURSIVE up (step_id, state) AS ("
	"SELECT s.step_id, s.state::text FROM tasker.workflow_steps s WHERE s.task_id = $1 AND s.step_id = $2 "
	"UNION SELECT p.step_id, p.state::text FROM up "
	"JOIN tasker.workflow_step_edges e ON e.task_id = $1 AND e.to_step_id = up.step_id "
	"JOIN tasker.workflow_steps p ON p.task_id = $1 AND p.step_id = e.from_step_id "
	"WHERE up.state = 'pending' AND p.state NOT IN ('complete', 'resolved_manually', 'skipped')) "
	"SELECT up.step_id, up.state IN ('error', 'cancelled'), "
	"(pg_catalog.count(*) FILTER (WHERE up.state = 'error') OVER ())::int, "
	"(pg_catalog.count(*) FILTER (WHERE up.state = 'cancelled') OVER ())::int "
	"FROM up WHERE up.state <> 'pending' "
	"ORDER BY up.state NOT IN ('error', 'cancelled'), up.state = 'cancelled', "
	"up.state <> 'in_progress', up.state <> 'enqueued', up.step_id LIMIT 1",
	.args = {INT8OID, INT4OID},
	.columns = {INT4OID, BOOLOID, INT4OID, INT4OID},
	.read_only = true,
};

/* How and by whom it got into the state that it is in. */
static TaskerQuery find_change = {
	.sql = "SELECT h.created_at, h.metadata ->> 'by', h.metadata ->> 'action', "
	"pg_catalog.left(h.metadata ->> 'reason', 1000) "
	"FROM tasker.workflow_step_transitions h "
	"WHERE h.task_id = $1 AND h.step_id = $2 AND h.to_state = $3 ORDER BY h.created_at DESC LIMIT 1",
	.args = {INT8OID, INT4OID, TEXTOID},
	.columns = {TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID},
	.read_only = true,
};

/*
 * What is before it in its lane: by who is taking it already, and whether it
 * can be taken at all, since a row may outlive what it is for.
 */
static TaskerQuery count_ahead = {
	.sql = "SELECT ahead.taking, COALESCE(s.state = 'enqueued' AND t.state IN ('pending', 'in_progress'), false), "
	"pg_catalog.count(*)::int "
	"FROM (SELECT q.rank, q.task_id, q.step_id, q.xmax AS taking FROM tasker.ready_queue q "
	"WHERE q.lane = $1 ORDER BY q.rank, q.task_id, q.step_id LIMIT $5) AS ahead "
	"LEFT JOIN tasker.workflow_steps s ON s.task_id = ahead.task_id AND s.step_id = ahead.step_id "
	"LEFT JOIN tasker.tasks t ON t.task_id = ahead.task_id "
	"WHERE (ahead.rank, ahead.task_id, ahead.step_id) < ($2, $3, $4) GROUP BY 1, 2",
	.args = {INT4OID, INT4OID, INT8OID, INT4OID, INT4OID},
	.columns = {XIDOID, BOOLOID, INT4OID},
	.read_only = true,
};

static TaskerQuery find_pause = {
	.sql = "SELECT paused_at, paused_by, pg_catalog.left(pause_reason, 1000) FROM tasker.queues "
	"WHERE queue_id = $1 AND paused_at IS NOT NULL",
	.args = {INT4OID},
	.columns = {TIMESTAMPTZOID, TEXTOID, TEXTOID},
	.read_only = true,
};

/* ------------------------------------------------------------- the sentences */

static char *
shown_error(const ExplainedStep *step)
{
	if (step->error == NULL)
		return pstrdup("an error without a message");
	if (step->sqlstate == NULL)
		return explain_text(step->error);
	return psprintf("%s (SQLSTATE %s)", explain_text(step->error), step->sqlstate);
}

static void
begin_sentence(ExplainedStep *step)
{
	if (step->out->len > 0)
		appendStringInfo(step->out, " S%s", step->label + 1);
	else
		appendStringInfo(step->out, "S%s of task " INT64_FORMAT, step->label + 1, step->task_id);
}

/* More sentences that hold for whatever waits for a time. */
static void
add_time_obstacles(ExplainedStep *step)
{
	char	   *obstacle = scheduler_obstacle(step);

	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " Its task is paused, too: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	if (obstacle != NULL)
		appendStringInfo(step->out, " But %s.", obstacle);
}

/* It ran before, and its process ended in the midst of it. */
static void
add_cut_off(ExplainedStep *step)
{
	if (step->sqlstate != NULL && strcmp(step->sqlstate, CUT_OFF_STATE) == 0)
		appendStringInfo(step->out, " The last time %s; if it happens again, that attempt fails.", step->error);
}

/* It is not over, but the task is. Returns whether it is so. */
static bool
is_task_over(ExplainedStep *step)
{
	if (!task_state_final(step->task_state))
		return false;
	begin_sentence(step);
	appendStringInfo(step->out, " is %s, but its task is %s and nothing of it will run: create a new task.",
					 step_state_name(step->state), task_state_name(step->task_state));
	return true;
}

/* An executor is at it. Returns whether it is so. */
static bool
is_running(ExplainedStep *step)
{
	if (step->runs_it == NULL)
		return false;
	begin_sentence(step);
	appendStringInfo(step->out, " is running right now, attempt %d of %d: process %d, an executor of role \"%s\", "
					 "has been at it since %s.", step->attempts + 1, step->max_attempts, step->runs_it->pid,
					 step->role_name, explain_time(step->runs_it->since));
	return true;
}

/* Some transaction has it in hand. Returns whether it is so. */
static bool
is_taken(ExplainedStep *step)
{
	TransactionId xid = TransactionIdIsValid(step->taking) ? step->taking : step->changing;

	if (!TransactionIdIsValid(xid))
		return false;
	begin_sentence(step);
	appendStringInfo(step->out, " is %s and in the hands of %s, which runs or changes it in a transaction "
					 "that has not ended.", step_state_name(step->state), explain_process(xid));
	return true;
}

/* The same after all else that there is to say. */
static void
add_taken(ExplainedStep *step)
{
	if (TransactionIdIsValid(step->changing))
		appendStringInfo(step->out, " Just now it is in the hands of %s, in a transaction that has not ended.",
						 explain_process(step->changing));
}

/* When it came into its state, by whom and why, as far as the history knows. */
static void
add_change(ExplainedStep *step)
{
	Datum		values[3] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id),
	CStringGetTextDatum(step_state_name(step->state))};
	char	   *by;
	char	   *action;
	char	   *reason;

	if (tasker_run(&find_change, values, NULL) == 0)
		return;
	by = explain_text_at(0, 2);
	action = explain_text_at(0, 3);
	reason = explain_text_at(0, 4);
	appendStringInfo(step->out, " at %s", explain_time(explain_time_at(1)));
	if (by != NULL)
		appendStringInfo(step->out, " by role \"%s\"", by);
	if (action != NULL)
		appendStringInfo(step->out, " with %s", action);
	if (reason != NULL)
		appendStringInfo(step->out, " (reason: %s)", explain_text(reason));
}

static void
explain_complete(ExplainedStep *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " is complete");
	if (step->completed_at != 0)
		appendStringInfo(step->out, " since %s", explain_time(step->completed_at));
	if (step->attempts > 0)
		appendStringInfo(step->out, ", by attempt %d of %d", step->attempts, step->max_attempts);
	appendStringInfoString(step->out, ": there is nothing to do.");
}

static void
explain_resolved(ExplainedStep *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was resolved manually");
	add_change(step);
	appendStringInfoString(step->out, ": it counts as complete and there is nothing to do.");
}

static void
explain_skipped(ExplainedStep *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was skipped");
	add_change(step);
	appendStringInfoString(step->out, ": its children go on without it and there is nothing to do.");
}

static void
explain_cancelled(ExplainedStep *step)
{
	begin_sentence(step);
	appendStringInfoString(step->out, " was cancelled");
	add_change(step);
	if (task_state_final(step->task_state))
		appendStringInfo(step->out, ". Its task is %s and nothing of it will run: create a new task.",
						 task_state_name(step->task_state));
	else
		appendStringInfo(step->out, ". It will not run; for the steps after it to run give it a result: "
						 "SELECT tasker.resolve_step(" INT64_FORMAT ", %d, results => ...).", step->task_id, step->step_id);
}

static void
explain_error(ExplainedStep *step)
{
	bool		attempts_left = step->attempts < step->max_attempts;

	if (is_task_over(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " failed for good with %s", shown_error(step));
	if (step->last_attempted_at != 0)
		appendStringInfo(step->out, " at %s", explain_time(step->last_attempted_at));
	if (step->attempts > 0)
		appendStringInfo(step->out, ", in attempt %d of %d%s", step->attempts, step->max_attempts,
						 !attempts_left ? "" : step->retryable ? ", after an error that is not retried" :
						 " (the step is not retryable)");
	appendStringInfo(step->out, ". When the cause is gone SELECT tasker.retry_step(" INT64_FORMAT ", %d) gives it all "
					 "its attempts again; SELECT tasker.resolve_step(" INT64_FORMAT ", %d, results => ...) "
					 "goes on without it.", step->task_id, step->step_id, step->task_id, step->step_id);
	add_taken(step);
}

/* For a step that waits for its time: has it come, and who will see to it? */
static void
add_timer(ExplainedStep *step)
{
	if (step->next_attempt_at > tasker_now())
		add_time_obstacles(step);
	else if (scheduler_obstacle(step) != NULL || step->task_state == TASK_PAUSED)
		add_time_obstacles(step);
	else
		appendStringInfoString(step->out, " That time has come: the scheduler makes it ready in a moment.");
	if (!step->timed)
		appendStringInfo(step->out, " And no timer is set for that time: UPDATE tasker.workflow_steps "
						 "SET state = 'enqueued' WHERE task_id = " INT64_FORMAT " AND step_id = %d makes it ready now.",
						 step->task_id, step->step_id);
}

static void
explain_waiting(ExplainedStep *step)
{
	if (is_task_over(step) || is_running(step) || is_taken(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " waits for its start time, %s.",
					 step->next_attempt_at == 0 ? "which it does not have" : explain_time(step->next_attempt_at));
	add_timer(step);
}

static void
explain_retry(ExplainedStep *step)
{
	if (is_task_over(step) || is_running(step) || is_taken(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " failed with %s in attempt %d of %d; the next attempt begins at %s, "
					 "or now with SELECT tasker.retry_step(" INT64_FORMAT ", %d).",
					 shown_error(step), step->attempts, step->max_attempts, explain_time(step->next_attempt_at),
					 step->task_id, step->step_id);
	add_timer(step);
}

static void
explain_in_progress(ExplainedStep *step)
{
	char	   *obstacle = scheduler_obstacle(step);

	if (is_task_over(step))
		return;
	begin_sentence(step);
	appendStringInfo(step->out, " is in progress, attempt %d of %d", Max(step->attempts, 1), step->max_attempts);
	if (step->runs_it != NULL)
		appendStringInfo(step->out, ", in process %d", step->runs_it->pid);
	if (step->claimed_by != NULL)
		appendStringInfo(step->out, ", claimed by %s", explain_text(step->claimed_by));
	if (step->last_attempted_at != 0)
		appendStringInfo(step->out, " since %s", explain_time(step->last_attempted_at));
	if (step->lease_expires_at == 0 && step->runs_it == NULL)
		appendStringInfo(step->out, ", without a lease: nobody will take it away. If nobody works on it, "
						 "UPDATE tasker.workflow_steps SET state = 'enqueued' WHERE task_id = " INT64_FORMAT
						 " AND step_id = %d.", step->task_id, step->step_id);
	else if (step->lease_expires_at == 0)
		appendStringInfoString(step->out, ".");
	else if (step->lease_expires_at > tasker_now())
	{
		appendStringInfo(step->out, ". Unless its worker completes, fails or extends it, its lease runs out at %s.",
						 explain_time(step->lease_expires_at));
		if (is_disarmed(step) != NULL)
			appendStringInfo(step->out, " But %s.", is_disarmed(step));
	}
	else if (obstacle == NULL)
		appendStringInfo(step->out, ". Its lease ran out at %s: the scheduler takes it away in a moment.",
						 explain_time(step->lease_expires_at));
	else
		appendStringInfo(step->out, ". Its lease ran out at %s, but %s.",
						 explain_time(step->lease_expires_at), obstacle);
}

/* ------------------------------------------------------------------ enqueued */

static void
add_ahead(ExplainedStep *step)
{
	Datum		values[5] = {Int32GetDatum(step->lane), Int32GetDatum(step->rank), Int64GetDatum(step->task_id),
	Int32GetDatum(step->step_id), Int32GetDatum(MAX_AHEAD + 1)};
	int			groups = (int) tasker_run(&count_ahead, values, NULL);
	int			seen = 0;
	int			ahead = 0;

	for (int i = 0; i < groups; i++)
	{
		int			n = DatumGetInt32(tasker_value_notnull(i, 3));

		seen += n;
		if (DatumGetBool(tasker_value_notnull(i, 2)) && !TransactionIdIsValid(explain_transaction_at(i, 1)))
			ahead += n;
	}
	if (seen > MAX_AHEAD)
		appendStringInfo(step->out, " At least %d steps are before it.", Min(ahead, MAX_AHEAD));
	else if (ahead > 0)
		appendStringInfo(step->out, ngettext(" %d step is before it.", " %d steps are before it.", ahead), ahead);
	else
		appendStringInfoString(step->out, " It is the next one.");
}

/* Nothing is claimed from its queue now. Returns whether it is so. */
static bool
is_in_paused_queue(ExplainedStep *step)
{
	Datum		values[1] = {Int32GetDatum(step->lane)};
	char	   *reason;

	if (tasker_run(&find_pause, values, NULL) == 0)
		return false;
	reason = explain_text_at(0, 3);
	appendStringInfo(step->out, " is ready, but queue \"%s\" is paused since %s by role \"%s\"%s: "
					 "SELECT tasker.resume_queue(%s).", step->queue, explain_time(explain_time_at(1)),
					 explain_text_at(0, 2),
					 reason == NULL ? "" : psprintf(" (reason: %s)", explain_text(reason)),
					 quote_literal_cstr(step->queue));
	return true;
}

static void
explain_queued(ExplainedStep *step)
{
	if (is_in_paused_queue(step))
		return;
	appendStringInfo(step->out, " is ready and waits for a worker to claim it from queue \"%s\".",
					 step->queue == NULL ? "" : step->queue);
	add_ahead(step);
	if (queue_served_at(step->lane) < tasker_now() - UNSERVED)
		appendStringInfoString(step->out, " But no worker has asked that queue for steps in the last minute.");
}

static void
explain_enqueued(ExplainedStep *step)
{
	if (is_task_over(step) || is_running(step) || is_taken(step))
		return;
	begin_sentence(step);
	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " is ready, but its task is paused: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	else if (!step->hinted)
		appendStringInfo(step->out, " is ready, but tasker.ready_queue has no row for it, which should not be: "
						 "SELECT tasker.pause_task(" INT64_FORMAT "), then tasker.resume_task(" INT64_FORMAT "), "
						 "makes one.", step->task_id, step->task_id);
	else if (step->lane > 0 && claim_obstacle(step) != NULL)
		appendStringInfo(step->out, " is ready, but %s.", claim_obstacle(step));
	else if (step->lane > 0)
		explain_queued(step);
	else
	{
		appendStringInfo(step->out, " is ready to run, but %s.",
						 executor_obstacle(step));
		add_ahead(step);
		add_cut_off(step);
	}
}

/* ------------------------------------------------------------------- pending */

static void explain_one(StringInfo out, int64 task_id, int step_id);

/* "its parent step 1 ("a"), which is enqueued"; returns whether there is one. */
static bool
add_parents(ExplainedStep *step)
{
	static const char *const words[STEP_STATES] = {
		[STEP_PENDING] = "pending",
		[STEP_WAITING] = "waiting for its start time",
		[STEP_ENQUEUED] = "enqueued",
		[STEP_IN_PROGRESS] = "in progress",
		[STEP_WAITING_FOR_RETRY] = "waiting for a retry",
		[STEP_COMPLETE] = "complete",
		[STEP_ERROR] = "in error",
		[STEP_SKIPPED] = "skipped",
		[STEP_CANCELLED] = "cancelled",
		[STEP_RESOLVED_MANUALLY] = "resolved",
	};
	Datum		values[3] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id), Int32GetDatum(EXPLAIN_NAMED)};
	int			named = (int) tasker_run(&find_parents, values, NULL);
	int			all;

	if (named == 0)
		return false;
	all = explain_int_at(4);
	appendStringInfo(step->out, all == 1 ? " waits for its parent " : " waits for %d of its parents: ", all);
	for (int i = 0; i < named; i++)
		appendStringInfo(step->out, "%s%s, which is %s", i == 0 ? "" : i + 1 == all ? ", and " : ", ",
						 explain_label(DatumGetInt32(tasker_value_notnull(i, 1)), explain_text_at(i, 2)),
						 words[step_state_from_text(tasker_value_notnull(i, 3))]);
	if (all > named)
		appendStringInfo(step->out, ", and %d more", all - named);
	appendStringInfoString(step->out, ".");
	return true;
}

/* An ancestor failed: it is that one which needs somebody. */
static void
add_failed_ancestor(ExplainedStep *step, ExplainedStep *failed, int errors, int cancelled)
{
	appendStringInfo(step->out, " It can not run before %s, which ", failed->label);
	if (failed->state == STEP_ERROR)
		appendStringInfo(step->out, "failed for good with %s, is retried or resolved: SELECT tasker.retry_step("
						 INT64_FORMAT ", %d), or tasker.resolve_step(" INT64_FORMAT ", %d, results => ...).",
						 shown_error(failed), step->task_id, failed->step_id, step->task_id, failed->step_id);
	else
		appendStringInfo(step->out, "was cancelled, is resolved: SELECT tasker.resolve_step("
						 INT64_FORMAT ", %d, results => ...).", step->task_id, failed->step_id);
	if (errors + cancelled > 1)
		appendStringInfo(step->out, ngettext(" So must %d other step before it.", " So must %d other steps before it.",
											 errors + cancelled - 1), errors + cancelled - 1);
	if (errors > 1)
		appendStringInfo(step->out, " SELECT tasker.retry_task(" INT64_FORMAT ") retries all that are in error.",
						 step->task_id);
}

static void
explain_pending(ExplainedStep *step)
{
	Datum		values[2] = {Int64GetDatum(step->task_id), Int32GetDatum(step->step_id)};
	int			head;
	bool		failed;

	if (is_task_over(step) || is_running(step))
		return;
	begin_sentence(step);
	if (!add_parents(step))
		appendStringInfoString(step->out, " is pending.");
	if (tasker_run(&find_head, values, NULL) == 0)
	{
		appendStringInfo(step->out, " Nothing that it waits for is under way, so it should have been released: "
						 "SELECT * FROM tasker.verify_task(" INT64_FORMAT ") looks into it.", step->task_id);
		return;
	}
	head = explain_int_at(1);
	failed = DatumGetBool(tasker_value_notnull(0, 2));
	if (failed)
	{
		int			errors = explain_int_at(3);
		int			cancelled = explain_int_at(4);
		ExplainedStep ancestor;

		explain_read(&ancestor, step->out, step->task_id, head);
		add_failed_ancestor(step, &ancestor, errors, cancelled);
	}
	add_taken(step);
	if (step->task_state == TASK_PAUSED)
		appendStringInfo(step->out, " Its task is paused, too: SELECT tasker.resume_task(" INT64_FORMAT ").",
						 step->task_id);
	else if (!failed)
		explain_one(step->out, step->task_id, head);
}

/* ------------------------------------------------------------------- the call */

/* Say it of one step. The head of what a pending step waits for is not pending itself. */
static void
explain_one(StringInfo out, int64 task_id, int step_id)
{
	static const Explainer explainers[STEP_STATES] = {
		[STEP_PENDING] = explain_pending,
		[STEP_WAITING] = explain_waiting,
		[STEP_ENQUEUED] = explain_enqueued,
		[STEP_IN_PROGRESS] = explain_in_progress,
		[STEP_WAITING_FOR_RETRY] = explain_retry,
		[STEP_COMPLETE] = explain_complete,
		[STEP_ERROR] = explain_error,
		[STEP_SKIPPED] = explain_skipped,
		[STEP_CANCELLED] = explain_cancelled,
		[STEP_RESOLVED_MANUALLY] = explain_resolved,
	};
	ExplainedStep step;

	explain_read(&step, out, task_id, step_id);
	explainers[step.state] (&step);
}

PG_FUNCTION_INFO_V1(tasker_explain_step);

/* explain_step(task_id bigint, step_id int) */
Datum
tasker_explain_step(PG_FUNCTION_ARGS)
{
	int64		task_id = PG_GETARG_INT64(0);
	TaskerSection section;
	StringInfoData out;

	initStringInfo(&out);		/* outlives the section */
	tasker_enter(&section);
	check_may_see(task_id);
	explain_one(&out, task_id, PG_GETARG_INT32(1));
	tasker_leave(&section);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
