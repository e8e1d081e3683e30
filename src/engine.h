/*
 * engine.h
 *	  What the parts of the engine ask of each other: triggers, settling of
 *	  tasks, backoff, operators' changes.
 */
#ifndef TASKER_ENGINE_H
#define TASKER_ENGINE_H

#include "tasker.h"

/* ------------------------------------------------------------ step_refs.c */

/* A step of a task, in the order in which rows are locked. */
typedef struct StepRef
{
	int64		task_id;
	int32		step_id;
	int32		count;			/* by whom it is needed */
} StepRef;

/* A growing list of them; all zero is an empty one. */
typedef struct StepRefs
{
	StepRef    *items;
	int			length;
	int			space;
} StepRefs;

extern int	step_ref_compare(const void *a, const void *b);
extern void step_refs_add(StepRefs *refs, int64 task_id, int step_id);
extern void step_refs_add_counted(StepRefs *refs, int64 task_id, int step_id, int count);
extern void step_refs_arrays(const StepRefs *refs, Datum *values);
extern void merge_step_refs(StepRefs *refs);

/* ------------------------------------------------------------ settle.c */

/* What a statement's changes of steps mean for one task. */
typedef struct TaskChange
{
	int64		task_id;
	bool		began;			/* a step of it ran */
	bool		ended;			/* a step of it came to an end */
	bool		may_complete;	/* ... and no other step depends on that one */
	bool		failed;			/* a step went to error or was cancelled */
	bool		revived;		/* a step left error or cancelled */
	bool		recheck;		/* nothing changed; the scheduler looks again */
	TimestampTz began_at;
} TaskChange;

typedef struct TaskChanges
{
	TaskChange *items;
	int			length;
	int			space;
} TaskChanges;

extern void task_changes_init(TaskChanges *changes);
extern TaskChange *task_change(TaskChanges *changes, int64 task_id);
extern void settle_tasks(TaskChanges *changes);
extern bool task_has_failed(int64 task_id);

/* ------------------------------------------------------------ history.c */

/* Changes of steps, a list a column. */
typedef struct StepHistory
{
	MemoryContext context;		/* of all that is in the lists */
	DatumList	task;
	DatumList	started;
	DatumList	step;
	DatumList	attempt;
	DatumList	from;
	DatumList	to;
	DatumList	metadata;
} StepHistory;

extern void step_history_init(StepHistory *history);
extern void record_step_history(StepHistory *history);
extern void record_task_history(DatumList *tasks, DatumList *from, DatumList *to);
extern void history_set_note(Jsonb *note);
extern Jsonb *history_note(void);

/* ------------------------------------------------------------ leases.c */

/* When a claimed step's lease ends. */
typedef struct LeaseEnd
{
	TimestampTz end;
	StepRef		ref;
} LeaseEnd;

/* A growing list of them; all zero is an empty one. */
typedef struct LeaseEnds
{
	LeaseEnd   *items;
	int			length;
	int			space;
} LeaseEnds;

extern void lease_ends_add(LeaseEnds *ends, TimestampTz end, int64 task_id, int step_id);
extern void insert_lease_ends(LeaseEnds *ends);
extern int	expire_leases(TimestampTz from, TimestampTz now);

/* ------------------------------------------------------------ release.c */

/* Rows for ready_queue, timers and leases, a list a column. */
typedef struct StepHints
{
	DatumList	ready_lane;
	DatumList	ready_rank;
	DatumList	ready_task;
	DatumList	ready_step;
	DatumList	timer_due;
	DatumList	timer_task;
	DatumList	timer_step;
	LeaseEnds	leases;
} StepHints;

/* What follows from a call's changes of steps, held back until all are made. */
typedef struct HeldBack
{
	MemoryContext context;		/* of all that is in it */
	StepRefs	children;		/* to take or to release, first */
	StepHistory history;
	TaskChanges tasks;			/* to settle, last: an active step is seen,
								 * and tasks are locked after steps */
} HeldBack;

extern bool lower_counters(StepRefs *children);
extern void held_back_init(HeldBack *what);
extern void hold_back(HeldBack *what);
extern HeldBack *held_back(void);
extern void release_held_back(StepRefs *children, TaskChanges *changes);
extern void finish_held_back(void);
extern void release_children(StepRefs *satisfied, TaskChanges *changes);
extern void step_hints_init(StepHints *hints);
extern void insert_hints(StepHints *hints);

/* ------------------------------------------------------------ task_steps.c */

extern void cancel_steps(Datum task_ids);
extern void retry_failed_steps(Datum task_ids);
extern void wake_lanes_of_rows(uint64 n);
extern void enqueue_hints(Datum task_ids);
extern void remove_hints(Datum task_ids);

/* ------------------------------------------------------------ backoff.c */

typedef enum BackoffKind
{
	BACKOFF_EXPONENTIAL,
	BACKOFF_LINEAR,
	BACKOFF_FIXED,
	BACKOFF_LIST
} BackoffKind;

typedef struct Backoff
{
	BackoffKind kind;
	double		base;			/* seconds */
	double		factor;
	double		cap;			/* seconds */
	double		jitter;			/* share of the delay, 0 to 1 */
	int			ndelays;
	double	   *delays;			/* seconds */
} Backoff;

extern BackoffKind backoff_kind_from_text(Datum kind);
extern double interval_seconds(const Interval *interval);
extern double backoff_seconds(const Backoff *backoff, int attempts, double random);

/* ------------------------------------------------------------ cut_off.c */

/*
 * The error of a step in the midst of which its process ended, and the number
 * of the lock on the schema under which such steps run one after the other, no
 * two at a time. Not an advisory lock: anybody could hold that one.
 */
#define CUT_OFF_STATE	"TK430"
#define CUT_OFF_LOCK	430

extern List *record_cut_offs(void);

/* ------------------------------------------------------------ due.c */

/* Where tasker.timers and tasker.leases begin: nothing is due before. */
typedef struct DueFrom
{
	TimestampTz timer;
	TimestampTz lease;
} DueFrom;

extern const DueFrom due_from_ever;
extern int	tick(DueFrom from, TimestampTz now, int limit);
extern DueFrom next_due(DueFrom from);

/* ------------------------------------------------------------ run.c */

extern void check_nonatomic(FunctionCallInfo fcinfo, const char *message);

#endif							/* TASKER_ENGINE_H */
