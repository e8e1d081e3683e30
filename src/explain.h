/*
 * explain.h
 *	  What the parts of tasker.explain_step() share.
 *
 *	  explain.c				the sentences, by the state of the step
 *	  explain_step.c		the step as it is now: its row, who has it in hand
 *	  explain_obstacles.c	what keeps scheduler and executors away from it
 *
 * Everything runs inside a section and lives in its memory context.
 */
#ifndef TASKER_EXPLAIN_H
#define TASKER_EXPLAIN_H

#include "tasker.h"

#include "lib/stringinfo.h"
#include "shared.h"

#define EXPLAIN_NAMED	3		/* how many are named, the rest is counted */

/* A step as find_step found it. Strings are NULL, times 0 where it has none. */
typedef struct ExplainedStep
{
	StringInfo	out;			/* the answer */
	int64		task_id;
	int			step_id;
	char	   *name;
	char	   *label;			/* step 3 ("charge") */
	TaskState	task_state;
	StepState	state;
	int			attempts;
	int			max_attempts;
	bool		retryable;
	int			lane;
	int			rank;
	TimestampTz next_attempt_at;
	TimestampTz last_attempted_at;
	TimestampTz completed_at;
	TimestampTz lease_expires_at;
	char	   *claimed_by;
	char	   *error;
	char	   *sqlstate;
	char	   *queue;
	int			owner;
	Oid			role;
	char	   *role_name;
	TransactionId changing;		/* has changed or locked the row and is still
								 * under way */
	bool		hinted;
	TransactionId taking;		/* the same of its hint */
	bool		timed;

	/* from shared memory */
	int			scheduler;		/* its process id, 0: none */
	ExecutorSlot *slots;		/* this server's, free ones too */
	ExecutorSlot *runs_it;		/* the executor that is at it, or NULL */
} ExplainedStep;

/* explain_step.c */
extern void explain_read(ExplainedStep *step, StringInfo out, int64 task_id, int step_id);
extern char *explain_step_name(int64 task_id, int step_id);
extern char *explain_time(TimestampTz time);
extern char *explain_text(const char *text);
extern char *explain_label(int step_id, const char *name);
extern char *explain_process(TransactionId xid);
extern TransactionId explain_transaction_at(uint64 row, int column);
extern char *explain_text_at(uint64 row, int column);
extern TimestampTz explain_time_at(int column);
extern int	explain_int_at(int column);

/* explain_obstacles.c */
extern char *is_disarmed(ExplainedStep *step);
extern char *scheduler_obstacle(ExplainedStep *step);
extern char *claim_obstacle(ExplainedStep *step);
extern char *executor_obstacle(ExplainedStep *step);
extern int	count_background_workers(void);

#endif							/* TASKER_EXPLAIN_H */
