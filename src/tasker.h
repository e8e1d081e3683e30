/*
 * tasker.h
 *	  What the parts of tasker share: how to run a query as the extension's
 *	  owner, states, limits, time, and who the caller is.
 */
#ifndef TASKER_H
#define TASKER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "errors.h"

#define TASKER_MAX_ARGS		20
#define TASKER_MAX_COLUMNS	24

/* ------------------------------------------------------------ query.c */

/*
 * A statement of tasker's own: its text, the types it takes and gives (both
 * lists end with the first InvalidOid), and the plan, kept for the life of
 * the session once it is made.
 */
typedef struct TaskerQuery
{
	const char *sql;
	Oid			args[TASKER_MAX_ARGS + 1];
	Oid			columns[TASKER_MAX_COLUMNS + 1];
	bool		read_only;		/* uses the caller's snapshot */
	bool		latest;			/* sees what has committed until now, in a
								 * transaction with one snapshot too */
	SPIPlanPtr	plan;
} TaskerQuery;

/* A setting and what tasker wants it to be. */
typedef struct TaskerSetting
{
	const char *name;
	const char *value;
} TaskerSetting;

/* What tasker_enter has to put back. */
typedef struct TaskerSection
{
	Oid			userid;
	int			sec_context;
	int			guc_level;		/* 0: an outer section has pinned the settings */
} TaskerSection;

extern void tasker_enter(TaskerSection *section);
extern void tasker_leave(TaskerSection *section);
extern void tasker_abandon(void);
extern bool tasker_inside(void);
extern uint64 tasker_section_number(void);
extern Oid	tasker_caller(void);
extern uint64 tasker_run(TaskerQuery *query, Datum *values, const char *nulls);
extern Datum tasker_value(uint64 row, int column, bool *isnull);
extern Datum tasker_value_notnull(uint64 row, int column);
extern void tasker_query_init(void);
extern void estimates_init(void);

/* ------------------------------------------------------------ state.c */

typedef enum StepState
{
	STEP_PENDING,
	STEP_WAITING,
	STEP_ENQUEUED,
	STEP_IN_PROGRESS,
	STEP_WAITING_FOR_RETRY,
	STEP_COMPLETE,
	STEP_ERROR,
	STEP_SKIPPED,
	STEP_CANCELLED,
	STEP_RESOLVED_MANUALLY,
	STEP_STATES
} StepState;

typedef enum TaskState
{
	TASK_PENDING,
	TASK_IN_PROGRESS,
	TASK_PAUSED,
	TASK_COMPLETE,
	TASK_ERROR,
	TASK_CANCELLED,
	TASK_RESOLVED_MANUALLY,
	TASK_STATES
} TaskState;

extern const char *step_state_name(StepState state);
extern const char *task_state_name(TaskState state);
extern StepState step_state_from_text(Datum state);
extern TaskState task_state_from_text(Datum state);
extern bool step_transition_legal(StepState from, StepState to);
extern bool task_transition_legal(TaskState from, TaskState to);
extern char *step_legal_targets(StepState from);
extern char *task_legal_targets(TaskState from);

/* The step's children may go on. */
static inline bool
step_state_satisfies(StepState state)
{
	return state == STEP_COMPLETE || state == STEP_RESOLVED_MANUALLY || state == STEP_SKIPPED;
}

/* Something will still happen to the step without anybody's help. */
static inline bool
step_state_active(StepState state)
{
	return state == STEP_WAITING || state == STEP_ENQUEUED ||
		state == STEP_IN_PROGRESS || state == STEP_WAITING_FOR_RETRY;
}

/* The task is over: nothing of it will run again, whatever anybody does. */
static inline bool
task_state_final(TaskState state)
{
	return state == TASK_COMPLETE || state == TASK_CANCELLED || state == TASK_RESOLVED_MANUALLY;
}

/* ------------------------------------------------------------ guc.c */

extern bool tasker_enabled;
extern bool tasker_allow_superuser_steps;
extern int	tasker_batch_interval;
extern int	tasker_batch_size;
extern int	tasker_executor_idle_timeout;
extern int	tasker_max_attempts;
extern int	tasker_max_claim;
extern int	tasker_max_context_size;
extern int	tasker_max_definition_size;
extern int	tasker_max_depth;
extern int	tasker_max_edges;
extern int	tasker_max_executors;
extern int	tasker_max_executors_per_role;
extern int	tasker_max_input_size;
extern int	tasker_max_nesting;
extern int	tasker_max_open_tasks;
extern int	tasker_max_result_size;
extern int	tasker_max_steps;
extern int	tasker_node_id;
extern int	tasker_retention;

extern void tasker_guc_init(void);

/* ------------------------------------------------------------ limits.c */

#define TASKER_MAX_NAME		255 /* bytes, of any name that a user gives */
#define TASKER_MAX_REMARK	8192	/* ... of a reason and the like */

extern void check_nesting(Jsonb *document, const char *what, int sqlstate);
extern void check_task_document(Jsonb *document, const char *what);
extern void check_open_tasks(int owner, int n);
extern void check_remark(text *remark, const char *what, int limit);

/* ------------------------------------------------------------ clock.c */

extern TimestampTz tasker_now(void);
extern bool long_ago(TimestampTz then, TimestampTz now, int64 us);

/* ------------------------------------------------------------ owner.c */

typedef enum AccessLevel
{
	ACCESS_NONE,
	ACCESS_VIEWER,				/* sees every task */
	ACCESS_WORKER,				/* claims from queues */
	ACCESS_SUBMITTER,			/* defines, creates, and operates on its own */
	ACCESS_OPERATOR,			/* operates on every task */
	ACCESS_ADMIN				/* a superuser, or as good as one here */
} AccessLevel;

extern int	owner_id_for(Oid role);
extern AccessLevel access_level(Oid role);
extern bool may_work_for_all(Oid role);
extern bool may_see_owner(Oid caller, int owner);
extern void check_may_operate(int64 task_id);
extern void check_may_see(int64 task_id);
extern void check_admin(const char *what);

/* ------------------------------------------------------------ arrays */

/* A growing array of Datums, handed to queries as an SQL array. */
typedef struct DatumList
{
	Oid			type;
	int			length;
	int			space;
	Datum	   *values;
	bool	   *nulls;
	bool		has_nulls;
} DatumList;

extern void datum_list_init(DatumList *list, Oid type);
extern void datum_list_add(DatumList *list, Datum value);
extern void datum_list_add_null(DatumList *list);
extern Datum datum_list_array(DatumList *list);

#endif							/* TASKER_H */
