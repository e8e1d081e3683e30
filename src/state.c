/*
 * state.c
 *	  The state machines of tasks and steps: one table each, which the triggers
 *	  (step_transition.c, task_transition.c) enforce, the domains check and tasker.state_machine() shows.
 */
#include "tasker.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

typedef struct Transition
{
	int			from;
	int			to;
	const char *meaning;
} Transition;

typedef struct Machine
{
	const char *name;
	const char *const *states;
	int			nstates;
	const Transition *transitions;
	int			ntransitions;
} Machine;

static const char *const step_states[] = {
	[STEP_PENDING] = "pending",
	[STEP_WAITING] = "waiting",
	[STEP_ENQUEUED] = "enqueued",
	[STEP_IN_PROGRESS] = "in_progress",
	[STEP_WAITING_FOR_RETRY] = "waiting_for_retry",
	[STEP_COMPLETE] = "complete",
	[STEP_ERROR] = "error",
	[STEP_SKIPPED] = "skipped",
	[STEP_CANCELLED] = "cancelled",
	[STEP_RESOLVED_MANUALLY] = "resolved_manually",
};

static const char *const task_states[] = {
	[TASK_PENDING] = "pending",
	[TASK_IN_PROGRESS] = "in_progress",
	[TASK_PAUSED] = "paused",
	[TASK_COMPLETE] = "complete",
	[TASK_ERROR] = "error",
	[TASK_CANCELLED] = "cancelled",
	[TASK_RESOLVED_MANUALLY] = "resolved_manually",
};

#define RESOLVE(from)	{from, STEP_RESOLVED_MANUALLY, "an operator supplied the result"}
#define CANCEL(from)	{from, STEP_CANCELLED, "the task or the step was cancelled"}
#define SKIP(from)		{from, STEP_SKIPPED, "another branch was chosen, or an operator left it out"}

static const Transition step_transitions[] = {
	{STEP_PENDING, STEP_ENQUEUED, "the last parent is satisfied and the step is due"},
	{STEP_PENDING, STEP_WAITING, "the last parent is satisfied, but its time is still to come"},
	{STEP_PENDING, STEP_IN_PROGRESS, "released and claimed in the transaction that satisfied its last parent"},
	{STEP_PENDING, STEP_COMPLETE, "released and run in the transaction that satisfied its last parent"},
	SKIP(STEP_PENDING),
	CANCEL(STEP_PENDING),
	RESOLVE(STEP_PENDING),

	{STEP_WAITING, STEP_ENQUEUED, "its time came"},
	{STEP_WAITING, STEP_COMPLETE, "its time came and waiting was all it had to do"},
	SKIP(STEP_WAITING),
	CANCEL(STEP_WAITING),
	RESOLVE(STEP_WAITING),

	{STEP_ENQUEUED, STEP_IN_PROGRESS, "claimed"},
	{STEP_ENQUEUED, STEP_COMPLETE, "an attempt inside one transaction succeeded"},
	{STEP_ENQUEUED, STEP_WAITING_FOR_RETRY, "an attempt inside one transaction failed; attempts are left"},
	{STEP_ENQUEUED, STEP_ERROR, "an attempt inside one transaction failed for good"},
	SKIP(STEP_ENQUEUED),
	CANCEL(STEP_ENQUEUED),
	RESOLVE(STEP_ENQUEUED),

	{STEP_IN_PROGRESS, STEP_COMPLETE, "its result was recorded"},
	{STEP_IN_PROGRESS, STEP_WAITING_FOR_RETRY, "the attempt failed, its lease ran out or it took too long; attempts are left"},
	{STEP_IN_PROGRESS, STEP_ERROR, "the attempt failed for good"},
	{STEP_IN_PROGRESS, STEP_ENQUEUED, "given back unharmed by its worker"},
	CANCEL(STEP_IN_PROGRESS),
	RESOLVE(STEP_IN_PROGRESS),

	{STEP_WAITING_FOR_RETRY, STEP_ENQUEUED, "its backoff is over, or an operator said now"},
	CANCEL(STEP_WAITING_FOR_RETRY),
	RESOLVE(STEP_WAITING_FOR_RETRY),

	{STEP_ERROR, STEP_ENQUEUED, "an operator retried it"},
	{STEP_ERROR, STEP_PENDING, "an operator retried it; it waits for its parents"},
	CANCEL(STEP_ERROR),
	RESOLVE(STEP_ERROR),

	RESOLVE(STEP_CANCELLED),
};

static const Transition task_transitions[] = {
	{TASK_PENDING, TASK_IN_PROGRESS, "its first step began"},
	{TASK_PENDING, TASK_COMPLETE, "all of it ran inside one transaction"},
	{TASK_PENDING, TASK_ERROR, "a step failed for good and nothing else can run"},
	{TASK_PENDING, TASK_PAUSED, "an operator paused it"},
	{TASK_PENDING, TASK_CANCELLED, "it was cancelled"},
	{TASK_PENDING, TASK_RESOLVED_MANUALLY, "an operator closed it"},

	{TASK_IN_PROGRESS, TASK_COMPLETE, "every step is satisfied"},
	{TASK_IN_PROGRESS, TASK_ERROR, "a step failed for good and nothing else can run"},
	{TASK_IN_PROGRESS, TASK_PAUSED, "an operator paused it"},
	{TASK_IN_PROGRESS, TASK_CANCELLED, "it was cancelled"},
	{TASK_IN_PROGRESS, TASK_RESOLVED_MANUALLY, "an operator closed it"},

	{TASK_PAUSED, TASK_PENDING, "an operator resumed it before its first step had begun"},
	{TASK_PAUSED, TASK_IN_PROGRESS, "an operator resumed it"},
	{TASK_PAUSED, TASK_COMPLETE, "the steps that were under way were its last"},
	{TASK_PAUSED, TASK_ERROR, "a step failed for good and nothing else can run"},
	{TASK_PAUSED, TASK_CANCELLED, "it was cancelled"},
	{TASK_PAUSED, TASK_RESOLVED_MANUALLY, "an operator closed it"},

	{TASK_ERROR, TASK_IN_PROGRESS, "an operator retried or resolved a step"},
	{TASK_ERROR, TASK_COMPLETE, "an operator resolved the last step that stood in its way"},
	{TASK_ERROR, TASK_CANCELLED, "it was cancelled"},
	{TASK_ERROR, TASK_RESOLVED_MANUALLY, "an operator closed it"},
};

static const Machine step_machine = {
	"step", step_states, STEP_STATES, step_transitions, lengthof(step_transitions)
};

static const Machine task_machine = {
	"task", task_states, TASK_STATES, task_transitions, lengthof(task_transitions)
};

/* -1 if there is no such state */
static int
find_state(const Machine *machine, const char *name, int length)
{
	for (int i = 0; i < machine->nstates; i++)
		if (strncmp(machine->states[i], name, length) == 0 &&
			machine->states[i][length] == '\0')
			return i;
	return -1;
}

static int
state_from_text(const Machine *machine, Datum datum)
{
	text	   *name = DatumGetTextPP(datum);
	int			state = find_state(machine, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

	if (state < 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_INTERNAL),
				 errmsg("\"%s\" is not a state of a %s", text_to_cstring(name), machine->name),
				 errdetail("It was stored by a later version of tasker."),
				 errhint("Install the library of that version.")));
	return state;
}

static bool
transition_legal(const Machine *machine, int from, int to)
{
	for (int i = 0; i < machine->ntransitions; i++)
		if (machine->transitions[i].from == from && machine->transitions[i].to == to)
			return true;
	return false;
}

/* "a, b or nothing", for a HINT */
static char *
legal_targets(const Machine *machine, int from)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < machine->ntransitions; i++)
		if (machine->transitions[i].from == from)
			appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "",
							 machine->states[machine->transitions[i].to]);
	if (buf.len == 0)
		appendStringInfoString(&buf, "nothing: the state is final");
	return buf.data;
}

const char *
step_state_name(StepState state)
{
	return step_states[state];
}

const char *
task_state_name(TaskState state)
{
	return task_states[state];
}

StepState
step_state_from_text(Datum state)
{
	return state_from_text(&step_machine, state);
}

TaskState
task_state_from_text(Datum state)
{
	return state_from_text(&task_machine, state);
}

bool
step_transition_legal(StepState from, StepState to)
{
	return transition_legal(&step_machine, from, to);
}

bool
task_transition_legal(TaskState from, TaskState to)
{
	return transition_legal(&task_machine, from, to);
}

char *
step_legal_targets(StepState from)
{
	return legal_targets(&step_machine, from);
}

char *
task_legal_targets(TaskState from)
{
	return legal_targets(&task_machine, from);
}

PG_FUNCTION_INFO_V1(tasker_is_step_state);
PG_FUNCTION_INFO_V1(tasker_is_task_state);
PG_FUNCTION_INFO_V1(tasker_state_machine);

Datum
tasker_is_step_state(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(find_state(&step_machine, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) >= 0);
}

Datum
tasker_is_task_state(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(0);

	PG_RETURN_BOOL(find_state(&task_machine, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) >= 0);
}

Datum
tasker_state_machine(PG_FUNCTION_ARGS)
{
	const Machine *const machines[] = {&task_machine, &step_machine};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tasker_begin_srf(fcinfo);
	for (int m = 0; m < lengthof(machines); m++)
		for (int i = 0; i < machines[m]->ntransitions; i++)
		{
			const Transition *t = &machines[m]->transitions[i];
			Datum		values[4] = {
				CStringGetTextDatum(machines[m]->name),
				CStringGetTextDatum(machines[m]->states[t->from]),
				CStringGetTextDatum(machines[m]->states[t->to]),
				CStringGetTextDatum(t->meaning),
			};
			bool		nulls[4] = {false};

			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}
