/*
 * definition.h
 *	  How a definition gets from JSON into named_tasks, named_steps and
 *	  named_step_edges.
 *
 *	  definition.c			the SQL functions
 *	  definition_json.c		reads JSON with types, limits and places
 *	  definition_parse.c	keys, defaults, policies: JSON to Definition
 *	  definition_graph.c	names to numbers, topological order, cycles
 *	  definition_check.c	handlers: the function exists, the SQL is sound
 *	  definition_store.c	Definition to tables
 *	  definition_guard.c	triggers that keep stored definitions as they are
 *
 * What parse, graph and check make lives in the memory context they are
 * called in, and points into the JSON document, which must outlive it.
 */
#ifndef TASKER_DEFINITION_H
#define TASKER_DEFINITION_H

#include "engine.h"

#include "storage/lock.h"


/* ------------------------------------------------------------ JSON */

/* Where in the document a value is; only errors look at it. */
typedef struct JsonPlace
{
	const struct JsonPlace *parent;
	const char *key;			/* NULL: an element of an array */
	int			index;
	const char *step;			/* the step that it belongs to, if known */
} JsonPlace;

/*
 * An error of PostgreSQL's between refusal_begin and refusal_end is reported
 * as one of tasker's, with the original's words kept.
 */
typedef struct Refusal
{
	ErrorContextCallback callback;
	MemoryContext context;
	const JsonPlace *place;
	int			sqlstate;
	const char *message;
	const char *hint;			/* unless the original has one */
} Refusal;

extern void refusal_begin(Refusal *refusal);
extern void refusal_end(Refusal *refusal);

extern char *place_text(const JsonPlace *place);
extern char *json_shown(const JsonbValue *value);
extern const char *clipped_name(const char *name);
extern void check_name(const char *name, int length, const char *what, const JsonPlace *place);

extern void json_fields(const JsonPlace *place, const JsonbValue *value, const char *what,
						const char *example, const char *const *keys, int nkeys, JsonbValue *fields);
extern JsonbValue *json_array(const JsonPlace *place, const JsonbValue *value,
							  const char *example, int *length);
extern char *json_string(const JsonPlace *place, const JsonbValue *value);
extern char *json_name(const JsonPlace *place, const JsonbValue *value, const char *what);
extern bool json_bool(const JsonPlace *place, const JsonbValue *value);
extern double json_number(const JsonPlace *place, const JsonbValue *value, double min, double max);
extern int	json_int(const JsonPlace *place, const JsonbValue *value, int min, int max,
					 const char *setting);
extern Interval json_interval(const JsonPlace *place, const JsonbValue *value, bool zero);

/* ------------------------------------------------------------ definitions */

typedef enum HandlerKind
{
	HANDLER_FUNCTION,
	HANDLER_SQL,
	HANDLER_QUEUE
} HandlerKind;

/* When and how often a step is tried; a step's keys over the defaults'. */
typedef struct StepPolicy
{
	bool		retryable;
	int			max_attempts;
	BackoffKind backoff;
	Interval	base;
	double		factor;
	Interval	cap;
	double		jitter;
	int			ndelays;
	Interval   *delays;
	bool		has_timeout;
	Interval	timeout;
	Interval	lease;
	int			priority;
} StepPolicy;

typedef struct StepDefinition
{
	const char *name;
	const char *description;	/* or NULL */
	HandlerKind kind;
	const char *handler;		/* a function's is replaced by its qualified
								 * name */
	Oid			function_owner;
	StepPolicy	policy;
	int			ndepends;
	JsonbValue *depends;		/* as written */
	int		   *parents;		/* the same as indexes into steps */
	int			step_no;
} StepDefinition;

typedef struct Definition
{
	const char *description;	/* or NULL */
	int			nsteps;
	StepDefinition *steps;		/* in the order of the document */
	int			nedges;
	int		   *order;			/* steps[order[i]] is number i + 1 */
	bool		runs_in_database;
} Definition;

extern Definition *definition_parse(Jsonb *document);
extern const char *backoff_kind_name(BackoffKind kind);
extern void definition_sort(Definition *definition);
extern void definition_check_handlers(Definition *definition);
extern int	definition_store(const Datum *name, const Definition *definition, Datum document,
							 bool is_default);
extern void clear_default_version(int namespace_id, Datum name);

/* ------------------------------------------------------------ handlers */

/*
 * The function that a definition names, checked anew: it exists, has the
 * right signature, and the role may execute it. Raises TK107, TK108 or TK109;
 * "where" begins the DETAIL, a sentence such as "Step \"a\" names it."
 */
extern Oid	tasker_handler_function(const char *qualified_name, Oid role, const char *where);
extern Oid	tasker_function_owner(Oid function);

/*
 * Held to the end of the transaction: AccessShareLock by whoever makes a task
 * of the definition, before it reads the steps; AccessExclusiveLock by
 * drop_named_task.
 */
extern void lock_named_task(int named_task_id, LOCKMODE mode);

#endif							/* TASKER_DEFINITION_H */
