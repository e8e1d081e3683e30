/*
 * input.c
 *	  The documents that go in and out of an attempt: what a handler gets,
 *	  {"task": …, "step": …, "parents": …}, and what is kept of its error.
 */
#include "input.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/numeric.h"

/* Bytes of each of an error's texts that are kept. */
#define MAX_ERROR_TEXT	65536

static void
push_string(JsonbParseState **state, JsonbIteratorToken token, const char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = (char *) string;
	value.val.string.len = strlen(string);
	pushJsonbValue(state, token, &value);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	push_string(state, WJB_KEY, key);
}

static void
push_text(JsonbParseState **state, const char *key, const char *value)
{
	if (value == NULL)
		return;
	push_key(state, key);
	push_string(state, WJB_VALUE, value);
}

static void
push_int(JsonbParseState **state, const char *key, int64 number)
{
	JsonbValue	value;

	push_key(state, key);
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(number)));
	pushJsonbValue(state, WJB_VALUE, &value);
}

/* NULL is JSON's null. */
static void
push_document(JsonbParseState **state, const char *key, Jsonb *document)
{
	JsonbValue	value;

	push_key(state, key);
	if (document == NULL)
		value.type = jbvNull;
	else if (!JB_ROOT_IS_SCALAR(document) || !JsonbExtractScalar(&document->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &document->root;
		value.val.binary.len = VARSIZE(document) - VARHDRSZ;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

static Jsonb *
finish(JsonbParseState **state)
{
	return JsonbValueToJsonb(pushJsonbValue(state, WJB_END_OBJECT, NULL));
}

/* The part of the input that all steps of a task share. */
Jsonb *
task_document(int64 task_id, TaskDef *def, int priority, Jsonb *context,
			  const char *correlation_id, Jsonb *tags)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_int(&state, "id", task_id);
	push_text(&state, "name", def->name);
	push_text(&state, "namespace", def->namespace);
	push_text(&state, "version", def->version);
	push_int(&state, "priority", priority);
	push_text(&state, "correlation_id", correlation_id);
	push_document(&state, "tags", tags);
	push_document(&state, "context", context);
	return finish(&state);
}

/* The whole input. Its idempotency key is the same for every attempt. */
Jsonb *
step_input(TaskInput *task, StepDef *step, int step_id, int attempt,
		   const char *const *parent_names, Jsonb *const *parent_results, int nparents)
{
	JsonbParseState *state = NULL;
	char		key[48];

	snprintf(key, sizeof(key), INT64_FORMAT ":%d", task->task_id, step_id);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_document(&state, "task", task->document);

	push_key(&state, "step");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_int(&state, "id", step_id);
	push_text(&state, "name", step->name);
	push_int(&state, "attempt", attempt);
	push_int(&state, "max_attempts", step->max_attempts);
	push_text(&state, "idempotency_key", key);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);

	push_key(&state, "parents");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < nparents; i++)
		push_document(&state, parent_names[i], parent_results[i]);
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return finish(&state);
}

/*
 * The W3C trace context that the attempts of a task's steps are to go on in: its
 * creator's, or one made of its correlation id, which is as long as a trace id,
 * with the task's id as the parent's.
 */
char *
step_traceparent(const TaskInput *task)
{
	char		trace_id[33];
	int			n = 0;

	if (task->traceparent != NULL)
		return pstrdup(task->traceparent);
	for (const char *c = task->correlation_id; c != NULL && *c != '\0' && n < 32; c++)
		if (*c != '-')
			trace_id[n++] = *c;
	trace_id[n] = '\0';
	if (strspn(trace_id, "0") == n)
		snprintf(trace_id, sizeof(trace_id), "%032llx", (unsigned long long) task->task_id);
	return psprintf("00-%s-%016llx-01", trace_id, (unsigned long long) task->task_id);
}

/* Of an error that a handler made of a whole document, the beginning will do. */
static void
push_clipped(JsonbParseState **state, const char *key, const char *value)
{
	int			length = value == NULL ? 0 : strlen(value);

	if (length > MAX_ERROR_TEXT)
		value = psprintf("%.*s...", pg_mbcliplen(value, length, MAX_ERROR_TEXT), value);
	push_text(state, key, value);
}

/* What is kept of the error of a failed attempt. */
Jsonb *
error_document(ErrorData *error, int attempt, TimestampTz at)
{
	JsonbParseState *state = NULL;
	char		at_text[MAXDATELEN + 1];	/* ISO, whatever DateStyle is */

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, "at", JsonEncodeDateTime(at_text, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL));
	push_int(&state, "attempt", attempt);
	push_text(&state, "sqlstate", unpack_sql_state(error->sqlerrcode));
	push_clipped(&state, "message", error->message ? error->message : "");
	push_clipped(&state, "detail", error->detail);
	push_clipped(&state, "hint", error->hint);
	push_clipped(&state, "context", error->context);
	return finish(&state);
}
