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

/* Whose steps a caller may have: an owner's if no_owner is ' ', everybody's if 'n'. */
typedef struct Scope
{
	Datum		owner;
	char		no_owner;
} Scope;

/* A queue that a claim takes steps from. */
typedef struct ClaimLane
{
	int			queue_id;
	char	   *name;
} ClaimLane;

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
	ClaimLane  *lane;			/* the same, with their names */
	Scope		scope;
	HeldBack	held;			/* from completions of the same call, and its
								 * own */
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

/* What a claim gets, in the making. */
typedef struct Claimed
{
	const Claim *claim;
	Batch	   *batch;
	int			limit;			/* how many are taken from queues */
	ClaimedStep *items;
	int			n;
	int			space;
} Claimed;

extern double seconds_argument(FunctionCallInfo fcinfo, int arg, const char *what, double missing);
extern void read_claim(FunctionCallInfo fcinfo, int arg, Claim *claim);
extern Scope caller_scope(void);
extern ClaimedStep *dequeue(Batch *batch, Claim *claim, TimestampTz *now, int *n);
extern void claim_and_wait(FunctionCallInfo fcinfo, Claim *claim, int first);

/* take.c */
extern void add_claimed(Claimed *claimed, BatchStep *step, int rank, char *queue, Jsonb *checkpoint);
extern BatchStep *add_row(Claimed *claimed, uint64 row, StepState from);
extern bool any_queued(const Claim *claim, LaneKey bound);
extern void take_queued(Claimed *claimed, LaneKey bound);

/* leases.c */
extern TimestampTz lease_end(const StepDef *def, double lease, TimestampTz started, TimestampTz now);

#endif							/* TASKER_CLAIMS_H */
