/*
 * creation_request.c
 *	  What a call of create_task or create_tasks asks for: its arguments, and
 *	  what they may be.
 */
#include "creation.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"

#define MAX_PRIORITY			1000000
#define MAX_KEY_BYTES			1024

/* ----------------------------------------------------------------- arguments */

/* The arguments that both functions share, from the third on. */
static void
read_common(FunctionCallInfo fcinfo, Request *request)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("name, context and namespace of a task must not be null"),
				 errdetail("%s is null.", PG_ARGISNULL(0) ? "The name" :
						   PG_ARGISNULL(1) ? "The context" : "The namespace"),
				 errhint("Leave the context out for an empty one.")));
	request->name = PG_GETARG_TEXT_PP(0);
	request->namespace = PG_GETARG_TEXT_PP(2);
	request->version = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3);
	request->priority = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4);
	request->start_at = PG_ARGISNULL(5) ? 0 : PG_GETARG_TIMESTAMPTZ(5);
	if (TIMESTAMP_NOT_FINITE(request->start_at))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the start time of a task must be finite"),
				 errdetail("It is infinite."),
				 errhint("Leave it out to start at once.")));
	/* correlation_id comes last in the call, first in the statement */
	for (int i = 0; i < COMMON; i++)
	{
		int			arg = i == 0 ? 11 : i == 5 ? 12 : 6 + i;

		request->common_null[i] = PG_ARGISNULL(arg);
		request->common[i] = PG_ARGISNULL(arg) ? (Datum) 0 : PG_GETARG_DATUM(arg);
	}
	datum_list_init(&request->contexts, JSONBOID);
	datum_list_init(&request->keys, TEXTOID);
}

static void
add_array(DatumList *list, Datum array, Oid type, const char *what, bool nulls_allowed)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(DatumGetArrayTypeP(array)) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("%s must be an array of one dimension", what),
				 errdetail("It has %d.", ARR_NDIM(DatumGetArrayTypeP(array))),
				 errhint("Pass one element a task.")));
	deconstruct_array(DatumGetArrayTypeP(array), type, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i] && !nulls_allowed)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("an element of %s is null", what),
					 errdetail("It is element %d.", i + 1),
					 errhint("Use '{}' for an empty context.")));
		if (nulls[i])
			datum_list_add_null(list);
		else
			datum_list_add(list, elements[i]);
	}
}

/* The arguments of create_task. */
void
read_request(FunctionCallInfo fcinfo, Request *request)
{
	read_common(fcinfo, request);
	request->n = 1;
	datum_list_add(&request->contexts, JsonbPGetDatum(PG_GETARG_JSONB_P(1)));
	if (!PG_ARGISNULL(6))
		datum_list_add(&request->keys, PG_GETARG_DATUM(6));
}

/* Those of create_tasks. */
void
read_requests(FunctionCallInfo fcinfo, Request *request)
{
	read_common(fcinfo, request);
	add_array(&request->contexts, PG_GETARG_DATUM(1), JSONBOID, "contexts", false);
	request->n = request->contexts.length;
	if (!PG_ARGISNULL(6))
	{
		add_array(&request->keys, PG_GETARG_DATUM(6), TEXTOID, "idempotency_keys", true);
		if (request->keys.length != request->n)
			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
					 errmsg("contexts and idempotency_keys must have the same length"),
					 errdetail("There are %d contexts and %d keys.", request->n, request->keys.length),
					 errhint("Use null for a task without a key.")));
	}
}

/* --------------------------------------------------------- what they may be */

static void
check_context(Datum context)
{
	Jsonb	   *document = DatumGetJsonbP(context);

	if (!JB_ROOT_IS_OBJECT(document))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the context of a task must be a JSON object"),
				 errdetail("It is %s.", JB_ROOT_IS_SCALAR(document) ? "a scalar" : "an array"),
				 errhint("Wrap it: {\"value\": …}.")));
	check_task_document(document, "the context of a task is");
}

/* What is kept with the tasks besides: tags, initiator, source_system, reason. */
static void
check_remarks(Request *request)
{
	static const char *const what[] = {NULL, NULL, "the initiator of a task",
	"the source system of a task", "the reason of a task"};

	if (!request->common_null[1])
		check_task_document(DatumGetJsonbP(request->common[1]), "the tags of a task are");
	for (int i = 2; i < lengthof(what); i++)
		if (!request->common_null[i])
			check_remark(DatumGetTextPP(request->common[i]), what[i], TASKER_MAX_REMARK);
}

static void
check_key(Datum key)
{
	if (VARSIZE_ANY_EXHDR(DatumGetPointer(key)) == 0 || VARSIZE_ANY_EXHDR(DatumGetPointer(key)) > MAX_KEY_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("an idempotency key has from 1 to %d bytes", MAX_KEY_BYTES),
				 errdetail("It has %d.", (int) VARSIZE_ANY_EXHDR(DatumGetPointer(key))),
				 errhint("Use a hash of what makes the task the same.")));
}

/* W3C Trace Context, version 00: neither id is all zeros. */
static void
check_traceparent(const char *text)
{
	static const char form[] = "00-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-xxxxxxxxxxxxxxxx-xx";
	bool		valid = strlen(text) == strlen(form);

	for (int i = 0; valid && form[i] != '\0'; i++)
		valid = form[i] == 'x' ? strchr("0123456789abcdef", text[i]) != NULL : text[i] == form[i];

	if (!valid || strspn(&text[3], "0") == 32 || strspn(&text[36], "0") == 16)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the traceparent of a task is not one"),
				 errdetail("It is \"%s\".", text),
				 errhint("Its form is %s, x being hexadecimal digits in lower case.", form)));
}

/* May the caller have it? Inside a section. */
void
check_request(Request *request)
{
	AccessLevel level = access_level(tasker_caller());

	if (level < ACCESS_SUBMITTER)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_ACCESS),
				 errmsg("permission denied to create tasks"),
				 errdetail("Role \"%s\" does not have level submitter.",
						   GetUserNameFromId(tasker_caller(), false)),
				 errhint("A superuser can give it: SELECT tasker.grant_access('…', 'submitter').")));
	if (request->priority < -MAX_PRIORITY || request->priority > MAX_PRIORITY)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_ARGUMENT),
				 errmsg("the priority of a task must be from -%d to %d", MAX_PRIORITY, MAX_PRIORITY),
				 errdetail("It is %d.", request->priority),
				 errhint("0 is the usual priority; a higher one goes first.")));
	if (!request->common_null[COMMON - 1])
		check_traceparent(TextDatumGetCString(request->common[COMMON - 1]));
	check_remarks(request);
	for (int i = 0; i < request->n; i++)
		check_context(request->contexts.values[i]);
	for (int i = 0; i < request->keys.length; i++)
		if (!request->keys.nulls[i])
			check_key(request->keys.values[i]);
}
