/*
 * batch.h
 *	  One transaction's worth of steps.
 */
#ifndef TASKER_BATCH_H
#define TASKER_BATCH_H

#include "tasker.h"

/*
 * How a batch guards itself against its handlers, from fast to careful. What
 * goes wrong in one way is repeated in the next.
 */
typedef enum BatchMode
{
	BATCH_OPTIMISTIC,			/* no subtransactions; steps run on into their
								 * children */
	BATCH_PROTECTED,			/* each handler in a subtransaction of its own */
	BATCH_SINGLE				/* ... and one step only */
} BatchMode;

/* Whoever runs batches. */
typedef struct BatchRunner
{
	int			lane;
	BatchMode	mode;
	int			claim;			/* how many steps to take at once; adapts */
	void		(*taken) (bool more);	/* there is work, maybe more than this */
	void		(*running) (int64 task_id, int step_id);	/* 0 when it is over */
	bool		(*interrupted) (void);	/* was the error somebody's cancelling
										 * the task? */
	int64		last_task;		/* what ran when an error came out of a batch */
	int			last_step;
	int			conflicts;		/* how often in a row it was taken away */
} BatchRunner;

typedef struct BatchResult
{
	int			taken;			/* steps taken from the queue */
	int			ended;			/* steps that came to an end or a retry */
	int			failed;			/* ... of which attempts that failed */
} BatchResult;

extern void batch_runner_init(BatchRunner *runner, int lane);
extern BatchResult run_batch(BatchRunner *runner);
extern void batch_succeeded(BatchRunner *runner, const BatchResult *result);
extern bool batch_failed(BatchRunner *runner, ErrorData *error);
extern int	refuse_steps(int lane, int64 task_id, int step_id, ErrorData *error);

#endif							/* TASKER_BATCH_H */
