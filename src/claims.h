/*
 * claims.h
 *	  What the parts of the workers' protocol share.
 */
#ifndef TASKER_CLAIMS_H
#define TASKER_CLAIMS_H

#include "batch_state.h"
#include "engine.h"
#include "shared.h"

/* What complete_steps returns a row of; claim_steps all but the first column. */
#define CLAIM_COLUMNS	14

/* What a claim asks for. */
typedef struct Claim
{
	Datum		queues;			/* text[] */
	text	   *worker;
	int			limit;
	double		lease;			/* seconds; below 0: each step's own */
	long		wait_ms;
	int			queue_ids[TASKER_WAITER_LANES]; /* of the queues that there
												 * are, the first of them */
	int			nqueues;
	Datum		lanes;			/* int[], of those that are not paused */
	int			nlanes;
	int			first_lane;		/* of them */
	Datum		owner;			/* whose steps, if ... */
	char		no_owner;		/* ... this is ' '; 'n' for everybody's */
	HeldBack	held;			/* from completions of the same call */
} Claim;

/* A step that a claim takes. */
typedef struct ClaimedStep
{
	BatchStep  *step;
	int			rank;
	char	   *queue;
	Jsonb	   *checkpoint;		/* or NULL */
	Datum		lease;
	TimestampTz end;			/* of the lease */
} ClaimedStep;

extern double seconds_argument(FunctionCallInfo fcinfo, int arg, const char *what, double missing);
extern void read_claim(FunctionCallInfo fcinfo, int arg, Claim *claim);
extern char scope(Datum *owner);
extern TimestampTz lease_end(const StepDef *def, double lease, TimestampTz started, TimestampTz now);
extern ClaimedStep *dequeue(Batch *batch, Claim *claim, TimestampTz *now, int *n);
extern void claim_and_wait(FunctionCallInfo fcinfo, Claim *claim, int first);

#endif							/* TASKER_CLAIMS_H */
