/*
 * definition_parse.c
 *	  The keys of a definition: from JSON to a Definition whose steps have their
 *	  handler and their policy, each value within its limits.
 *
 * Called by define_task. Nothing is read and then left unused: a key that has
 * no meaning where it stands is refused. Names of steps are resolved by
 * definition_graph.c, handlers are looked at by definition_check.c.
 */
#include "definition.h"

#include <float.h>

#include "miscadmin.h"

#define MAX_PRIORITY	1000000

enum
{
	DEF_DESCRIPTION, DEF_STEPS, DEF_DEFAULTS, DEF_KEYS
};

static const char *const definition_keys[] = {
	[DEF_DESCRIPTION] = "description",
	[DEF_STEPS] = "steps",
	[DEF_DEFAULTS] = "defaults",
};

/* What steps and defaults have in common. */
enum
{
	POLICY_RETRY, POLICY_RETRYABLE, POLICY_TIMEOUT, POLICY_LEASE, POLICY_PRIORITY, POLICY_KEYS
};

enum
{
	STEP_NAME, STEP_DESCRIPTION, STEP_FUNCTION, STEP_SQL, STEP_QUEUE, STEP_DEPENDS_ON, STEP_POLICY,
	STEP_KEYS = STEP_POLICY + POLICY_KEYS
};

enum
{
	DEFAULT_QUEUE, DEFAULT_POLICY,
	DEFAULT_KEYS = DEFAULT_POLICY + POLICY_KEYS
};

#define POLICY_KEY_NAMES(first) \
	[first + POLICY_RETRY] = "retry", \
	[first + POLICY_RETRYABLE] = "retryable", \
	[first + POLICY_TIMEOUT] = "timeout", \
	[first + POLICY_LEASE] = "lease", \
	[first + POLICY_PRIORITY] = "priority"

static const char *const step_keys[] = {
	[STEP_NAME] = "name",
	[STEP_DESCRIPTION] = "description",
	[STEP_FUNCTION] = "function",
	[STEP_SQL] = "sql",
	[STEP_QUEUE] = "queue",
	[STEP_DEPENDS_ON] = "depends_on",
	POLICY_KEY_NAMES(STEP_POLICY),
};

static const char *const default_keys[] = {
	[DEFAULT_QUEUE] = "queue",
	POLICY_KEY_NAMES(DEFAULT_POLICY),
};

enum
{
	RETRY_MAX_ATTEMPTS, RETRY_BACKOFF, RETRY_BASE, RETRY_FACTOR, RETRY_CAP, RETRY_JITTER,
	RETRY_DELAYS, RETRY_KEYS
};

static const char *const retry_keys[] = {
	[RETRY_MAX_ATTEMPTS] = "max_attempts",
	[RETRY_BACKOFF] = "backoff",
	[RETRY_BASE] = "base",
	[RETRY_FACTOR] = "factor",
	[RETRY_CAP] = "cap",
	[RETRY_JITTER] = "jitter",
	[RETRY_DELAYS] = "delays",
};

static const char *const kind_names[] = {
	[BACKOFF_EXPONENTIAL] = "exponential",
	[BACKOFF_LINEAR] = "linear",
	[BACKOFF_FIXED] = "fixed",
	[BACKOFF_LIST] = "list",
};

#define ANY_KEY			(1 << RETRY_MAX_ATTEMPTS | 1 << RETRY_BACKOFF | 1 << RETRY_JITTER)

/* Which keys mean something to which kind; see backoff_seconds. */
static const int kind_keys[] = {
	[BACKOFF_EXPONENTIAL] = ANY_KEY | 1 << RETRY_BASE | 1 << RETRY_FACTOR | 1 << RETRY_CAP,
	[BACKOFF_LINEAR] = ANY_KEY | 1 << RETRY_BASE | 1 << RETRY_CAP,
	[BACKOFF_FIXED] = ANY_KEY | 1 << RETRY_BASE,
	[BACKOFF_LIST] = ANY_KEY | 1 << RETRY_DELAYS,
};

/* What holds where a definition says nothing. */
static const StepPolicy system_policy = {
	.retryable = true,
	.max_attempts = 3,
	.backoff = BACKOFF_EXPONENTIAL,
	.base = {.time = USECS_PER_SEC},
	.factor = 2,
	.cap = {.time = 5 * USECS_PER_MINUTE},
	.jitter = 0.1,
	.lease = {.time = 30 * USECS_PER_SEC},
};

const char *
backoff_kind_name(BackoffKind kind)
{
	return kind_names[kind];
}

static inline bool
given(const JsonbValue *field)
{
	return field->type != jbvNull;
}

/* ------------------------------------------------------------ retry */

static BackoffKind
read_kind(const JsonPlace *place, const JsonbValue *value)
{
	char	   *name = json_string(place, value);

	for (int i = 0; i < lengthof(kind_names); i++)
		if (strcmp(name, kind_names[i]) == 0)
			return (BackoffKind) i;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_RETRY),
			 errmsg("\"backoff\" is not a kind of backoff"),
			 errdetail("At %s there is %s.", place_text(place), json_shown(value)),
			 errhint("Give exponential, linear, fixed or list.")));
}

static void
read_delays(const JsonPlace *place, const JsonbValue *value, StepPolicy *policy)
{
	int			n;
	JsonbValue *elements = json_array(place, value, "[\"1 s\", \"1 min\"]", &n);

	if (n == 0 || n > tasker_max_attempts)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_RETRY),
				 n == 0 ? errmsg("\"delays\" is empty") : errmsg("\"delays\" is too long"),
				 errdetail("At %s there are %d delays.", place_text(place), n),
				 errhint("Give 1 to %d delays (tasker.max_attempts); the last one is used for all attempts after it.",
						 tasker_max_attempts)));
	policy->ndelays = n;
	policy->delays = palloc(n * sizeof(Interval));
	for (int i = 0; i < n; i++)
	{
		JsonPlace	here = {.parent = place,.index = i};

		policy->delays[i] = json_interval(&here, &elements[i], true);
	}
}

/* A key is refused that the kind of backoff would leave unused. */
static void
check_retry_keys(const JsonPlace *place, const JsonbValue *fields, BackoffKind kind)
{
	for (int i = 0; i < RETRY_KEYS; i++)
		if (given(&fields[i]) && !(kind_keys[kind] & 1 << i))
		{
			JsonPlace	here = {.parent = place,.key = retry_keys[i]};

			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_RETRY),
					 errmsg("\"%s\" means nothing to backoff \"%s\"", retry_keys[i], kind_names[kind]),
					 errdetail("At %s there is %s.", place_text(&here), json_shown(&fields[i])),
					 i == RETRY_DELAYS ? errhint("Remove it, or say \"backoff\": \"list\".") :
					 errhint("Remove it, or choose another backoff: exponential has base, factor and cap, linear base and cap, fixed base, list delays.")));
		}
}

/* The merged policy makes sense as a whole. */
static void
check_retry(const JsonPlace *place, const StepPolicy *policy)
{
	double		base = interval_seconds(&policy->base);
	double		cap = interval_seconds(&policy->cap);

	if (policy->backoff == BACKOFF_LIST && policy->ndelays == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_RETRY),
				 errmsg("backoff \"list\" has no \"delays\""),
				 errdetail("It is chosen at %s.", place_text(place)),
				 errhint("Add the delays, such as \"delays\": [\"1 s\", \"1 min\"].")));
	if (policy->backoff != BACKOFF_EXPONENTIAL && policy->backoff != BACKOFF_LINEAR)
		return;
	if (base == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_INTERVAL),
				 errmsg("\"base\" is zero"),
				 errdetail("At %s backoff \"%s\" would never wait.", place_text(place),
						   kind_names[policy->backoff]),
				 errhint("Give a base of more than zero, or say \"backoff\": \"fixed\".")));
	if (base > cap)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_INTERVAL),
				 errmsg("\"base\" is longer than \"cap\""),
				 errdetail("At %s the base is %g s and the cap is %g s, so that every wait would be the cap.",
						   place_text(place), base, cap),
				 errhint("Raise the cap, lower the base, or say \"backoff\": \"fixed\".")));
}

/* The keys of a retry, put over what the policy has already. */
static void
read_retry(const JsonPlace *place, const JsonbValue *value, StepPolicy *policy)
{
	JsonbValue	fields[RETRY_KEYS];
	JsonPlace	here[RETRY_KEYS];

	json_fields(place, value, "retry", "{\"max_attempts\": 5}", retry_keys, RETRY_KEYS, fields);
	for (int i = 0; i < RETRY_KEYS; i++)
		here[i] = (JsonPlace)
	{
		.parent = place,.key = retry_keys[i]
	};

	if (given(&fields[RETRY_BACKOFF]))
		policy->backoff = read_kind(&here[RETRY_BACKOFF], &fields[RETRY_BACKOFF]);
	check_retry_keys(place, fields, policy->backoff);
	if (given(&fields[RETRY_MAX_ATTEMPTS]))
		policy->max_attempts = json_int(&here[RETRY_MAX_ATTEMPTS], &fields[RETRY_MAX_ATTEMPTS],
										1, tasker_max_attempts, "tasker.max_attempts");
	if (given(&fields[RETRY_BASE]))
		policy->base = json_interval(&here[RETRY_BASE], &fields[RETRY_BASE],
									 policy->backoff == BACKOFF_FIXED);
	if (given(&fields[RETRY_FACTOR]))
		policy->factor = json_number(&here[RETRY_FACTOR], &fields[RETRY_FACTOR], 1, 1000000);
	if (given(&fields[RETRY_CAP]))
		policy->cap = json_interval(&here[RETRY_CAP], &fields[RETRY_CAP], false);
	if (given(&fields[RETRY_JITTER]))
		policy->jitter = json_number(&here[RETRY_JITTER], &fields[RETRY_JITTER], 0, 1);
	if (given(&fields[RETRY_DELAYS]))
		read_delays(&here[RETRY_DELAYS], &fields[RETRY_DELAYS], policy);
	else if (policy->backoff != BACKOFF_LIST)
		policy->ndelays = 0;
	check_retry(place, policy);
}

/* The keys that a step and the defaults have in common, over the policy. */
static void
read_policy(const JsonPlace *place, const JsonbValue *fields, StepPolicy *policy)
{
	JsonPlace	here[POLICY_KEYS];

	for (int i = 0; i < POLICY_KEYS; i++)
		here[i] = (JsonPlace)
	{
		.parent = place,.key = step_keys[STEP_POLICY + i]
	};

	if (given(&fields[POLICY_RETRY]))
		read_retry(&here[POLICY_RETRY], &fields[POLICY_RETRY], policy);
	if (given(&fields[POLICY_RETRYABLE]))
		policy->retryable = json_bool(&here[POLICY_RETRYABLE], &fields[POLICY_RETRYABLE]);
	if (given(&fields[POLICY_TIMEOUT]))
	{
		policy->timeout = json_interval(&here[POLICY_TIMEOUT], &fields[POLICY_TIMEOUT], false);
		policy->has_timeout = true;
	}
	if (given(&fields[POLICY_LEASE]))
		policy->lease = json_interval(&here[POLICY_LEASE], &fields[POLICY_LEASE], false);
	if (given(&fields[POLICY_PRIORITY]))
		policy->priority = json_int(&here[POLICY_PRIORITY], &fields[POLICY_PRIORITY],
									-MAX_PRIORITY, MAX_PRIORITY, NULL);
}

/* ------------------------------------------------------------ steps */

/* Messages about the step name it, also those about its other keys. */
static void
peek_name(JsonPlace *place, const JsonbValue *value)
{
	JsonbValue	key = {.type = jbvString};
	JsonbValue *name;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		return;
	key.val.string.val = (char *) step_keys[STEP_NAME];
	key.val.string.len = strlen(step_keys[STEP_NAME]);
	name = findJsonbValueFromContainer(value->val.binary.data, JB_FOBJECT, &key);
	if (name != NULL && name->type == jbvString && name->val.string.len > 0)
		place->step = pnstrdup(name->val.string.val, name->val.string.len);
}

static void
read_step_name(const JsonPlace *place, const JsonbValue *field, StepDefinition *step)
{
	JsonPlace	here = {.parent = place,.key = step_keys[STEP_NAME]};

	if (!given(field))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_NAME),
				 errmsg("a step has no name"),
				 errdetail("At %s there is no key \"name\".", place_text(place)),
				 errhint("Add \"name\": any text of 1 to %d bytes that no other step has.",
						 TASKER_MAX_NAME)));
	step->name = json_name(&here, field, "step");
}

/* Exactly one of function, sql and queue, or the queue of the defaults. */
static void
read_handler(const JsonPlace *place, const JsonbValue *fields, const char *default_queue,
			 StepDefinition *step)
{
	static const struct
	{
		int			key;
		HandlerKind kind;
	}			kinds[] = {
		{STEP_FUNCTION, HANDLER_FUNCTION}, {STEP_SQL, HANDLER_SQL}, {STEP_QUEUE, HANDLER_QUEUE},
	};
	int			n = 0;

	step->kind = HANDLER_QUEUE;
	step->handler = default_queue;
	for (int i = 0; i < lengthof(kinds); i++)
	{
		const JsonbValue *field = &fields[kinds[i].key];
		JsonPlace	here = {.parent = place,.key = step_keys[kinds[i].key]};

		if (!given(field))
			continue;
		step->kind = kinds[i].kind;
		step->handler = step->kind == HANDLER_QUEUE ? json_name(&here, field, "queue") :
			json_string(&here, field);
		n++;
	}
	if (n > 1)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_HANDLER),
				 errmsg("a step has %d handlers", n),
				 errdetail("At %s there are %s%s%s.", place_text(place),
						   given(&fields[STEP_FUNCTION]) ? "\"function\" and " : "",
						   given(&fields[STEP_SQL]) && given(&fields[STEP_QUEUE]) ? "\"sql\" and " : "",
						   given(&fields[STEP_QUEUE]) ? "\"queue\"" : "\"sql\""),
				 errhint("Keep one of them; split the step if it has to do more than one thing.")));
	if (step->handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_HANDLER),
				 errmsg("a step has no handler"),
				 errdetail("At %s there is none of \"function\", \"sql\" and \"queue\", and the defaults have no \"queue\".",
						   place_text(place)),
				 errhint("Add \"function\": \"schema.function\", \"sql\": \"SELECT ...\" or \"queue\": \"name\".")));
}

static void
read_step(JsonPlace *place, const JsonbValue *value, const char *default_queue,
		  StepDefinition *step)
{
	JsonbValue	fields[STEP_KEYS];

	peek_name(place, value);
	json_fields(place, value, "a step", "{\"name\": \"hello\", \"sql\": \"SELECT $1\"}",
				step_keys, STEP_KEYS, fields);
	read_step_name(place, &fields[STEP_NAME], step);
	if (given(&fields[STEP_DESCRIPTION]))
	{
		JsonPlace	here = {.parent = place,.key = step_keys[STEP_DESCRIPTION]};

		step->description = json_string(&here, &fields[STEP_DESCRIPTION]);
	}
	read_handler(place, fields, default_queue, step);
	if (given(&fields[STEP_DEPENDS_ON]))
	{
		JsonPlace	here = {.parent = place,.key = step_keys[STEP_DEPENDS_ON]};

		step->depends = json_array(&here, &fields[STEP_DEPENDS_ON], "[\"validate\"]", &step->ndepends);
	}
	read_policy(place, &fields[STEP_POLICY], &step->policy);
}

static void
check_counts(const Definition *definition)
{
	if (definition->nsteps > tasker_max_steps)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_MANY_STEPS),
				 errmsg("a definition has too many steps"),
				 errdetail("It has %d, and tasker.max_steps is %d.", definition->nsteps, tasker_max_steps),
				 errhint("Split the workflow, or have a superuser raise tasker.max_steps.")));
	if (definition->nedges > tasker_max_edges)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_MANY_EDGES),
				 errmsg("a definition has too many dependencies"),
				 errdetail("It has at least %d, and tasker.max_edges is %d.", definition->nedges, tasker_max_edges),
				 errhint("Put a step between those that many depend on and those that depend on many, or have a superuser raise tasker.max_edges.")));
}

static void
read_steps(Definition *definition, const JsonbValue *field, const StepPolicy *defaults,
		   const char *default_queue)
{
	JsonPlace	place = {.key = definition_keys[DEF_STEPS]};
	JsonbValue *elements = NULL;

	if (given(field))
		elements = json_array(&place, field, "[{\"name\": \"hello\", \"sql\": \"SELECT $1\"}]",
							  &definition->nsteps);
	if (definition->nsteps == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_MISSING_STEP),
				 errmsg("a definition has no steps"),
				 given(field) ? errdetail("At %s there is an empty array.", place_text(&place)) :
				 errdetail("There is no key \"steps\"."),
				 errhint("Give at least one step, such as \"steps\": [{\"name\": \"hello\", \"sql\": \"SELECT $1\"}].")));
	check_counts(definition);

	definition->steps = palloc0(definition->nsteps * sizeof(StepDefinition));
	for (int i = 0; i < definition->nsteps; i++)
	{
		StepDefinition *step = &definition->steps[i];
		JsonPlace	here = {.parent = &place,.index = i};

		CHECK_FOR_INTERRUPTS();
		step->policy = *defaults;
		read_step(&here, &elements[i], default_queue, step);
		definition->runs_in_database |= step->kind != HANDLER_QUEUE;
		definition->nedges += step->ndepends;
		check_counts(definition);
	}
}

/* The document without its graph: names are not resolved, handlers not looked at. */
Definition *
definition_parse(Jsonb *document)
{
	Definition *definition = palloc0(sizeof(Definition));
	StepPolicy	defaults = system_policy;
	char	   *default_queue = NULL;
	JsonbValue	root;
	JsonbValue	fields[DEF_KEYS];

	if (JB_ROOT_IS_SCALAR(document))
		JsonbExtractScalar(&document->root, &root);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &document->root;
		root.val.binary.len = VARSIZE(document) - VARHDRSZ;
	}
	json_fields(NULL, &root, "a definition", "{\"steps\": [{\"name\": \"hello\", \"sql\": \"SELECT $1\"}]}",
				definition_keys, DEF_KEYS, fields);

	if (given(&fields[DEF_DESCRIPTION]))
	{
		JsonPlace	here = {.key = definition_keys[DEF_DESCRIPTION]};

		definition->description = json_string(&here, &fields[DEF_DESCRIPTION]);
	}
	if (given(&fields[DEF_DEFAULTS]))
	{
		JsonPlace	here = {.key = definition_keys[DEF_DEFAULTS]};
		JsonbValue	values[DEFAULT_KEYS];

		json_fields(&here, &fields[DEF_DEFAULTS], "defaults", "{\"queue\": \"mail\"}", default_keys, DEFAULT_KEYS, values);
		if (given(&values[DEFAULT_QUEUE]))
		{
			JsonPlace	queue = {.parent = &here,.key = default_keys[DEFAULT_QUEUE]};

			default_queue = json_name(&queue, &values[DEFAULT_QUEUE], "queue");
		}
		read_policy(&here, &values[DEFAULT_POLICY], &defaults);
	}
	read_steps(definition, &fields[DEF_STEPS], &defaults, default_queue);
	return definition;
}
