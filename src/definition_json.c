/*
 * definition_json.c
 *	  Reading a JSON document that somebody wrote by hand: every value has its
 *	  type, its limits and its place, and every key is known.
 *
 * Called by definition_parse.c and definition_check.c. Nothing here recurses
 * into the document, so its depth does not matter.
 */
#include "definition.h"

#include <math.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/numeric.h"
#include "utils/fmgrprotos.h"
#include "utils/varlena.h"

#define MAX_SHOWN		80		/* bytes of a value in a message */
#define MAX_SHOWN_NAME	63
#define MAX_DAYS		3650	/* more would not be a plan, and overflow
								 * dates */

static void
append_place(StringInfo buf, const JsonPlace *place)
{
	if (place == NULL)
	{
		appendStringInfoChar(buf, '$');
		return;
	}
	append_place(buf, place->parent);
	if (place->key != NULL)
		appendStringInfo(buf, ".%s", place->key);
	else
		appendStringInfo(buf, "[%d]", place->index);
}

/* $.steps[2].retry.base (step "charge") */
char *
place_text(const JsonPlace *place)
{
	StringInfoData buf;

	initStringInfo(&buf);
	append_place(&buf, place);
	for (; place != NULL; place = place->parent)
		if (place->step != NULL)
		{
			appendStringInfo(&buf, " (step \"%s\")", clipped_name(place->step));
			break;
		}
	return buf.data;
}

/* What the value is called in a message: "base" or "delays[1]". */
static const char *
place_key(const JsonPlace *place)
{
	if (place == NULL)
		return "definition";
	return place->key != NULL ? place->key :
		psprintf("%s[%d]", place_key(place->parent), place->index);
}

static char *
clipped(const char *string, int length, int limit)
{
	int			kept = length <= limit ? length : pg_mbcliplen(string, length, limit);

	return psprintf("%.*s%s", kept, string, kept < length ? "..." : "");
}

/* A name, no longer than a message can do with. */
const char *
clipped_name(const char *name)
{
	return clipped(name, strlen(name), MAX_SHOWN_NAME);
}

static const char *
json_type(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "null";
		case jbvString:
			return "a string";
		case jbvNumeric:
			return "a number";
		case jbvBool:
			return "a boolean";
		default:
			return JsonContainerIsArray(value->val.binary.data) ? "an array" : "an object";
	}
}

/* The value as JSON, with its type, no longer than a message can do with. */
char *
json_shown(const JsonbValue *value)
{
	StringInfoData buf;
	Jsonb	   *jsonb;

	if (value->type == jbvNull)
		return pstrdup("null");
	jsonb = JsonbValueToJsonb((JsonbValue *) value);
	initStringInfo(&buf);
	JsonbToCString(&buf, &jsonb->root, VARSIZE(jsonb));
	return psprintf("%s: %s", json_type(value), clipped(buf.data, buf.len, MAX_SHOWN));
}

static void
refuse_type(const JsonPlace *place, const JsonbValue *value, const char *type, const char *example)
{
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_TYPE),
			 errmsg("\"%s\" is not %s", place_key(place), type),
			 errdetail("At %s there is %s.", place_text(place), json_shown(value)),
			 value->type == jbvNull && place != NULL ?
			 errhint("Leave it out, or give %s, such as %s.", type, example) :
			 errhint("Give %s, such as %s.", type, example)));
}

/* ------------------------------------------------------------ refusals */

static void
refusal_callback(void *arg)
{
	Refusal    *refusal = (Refusal *) arg;
	MemoryContext old = MemoryContextSwitchTo(refusal->context);
	ErrorData  *error = CopyErrorData();

	MemoryContextSwitchTo(old);
	if (error->elevel != ERROR)
		return;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_TRANSACTION_ROLLBACK:
			return;				/* says nothing about the document */
	}
	errcode(refusal->sqlstate);
	errmsg("%s: %s", refusal->message, error->message);
	errdetail("At %s: SQLSTATE %s.%s%s", place_text(refusal->place),
			  unpack_sql_state(error->sqlerrcode),
			  error->detail ? " " : "", error->detail ? error->detail : "");
	if (error->hint == NULL)
		errhint("%s", refusal->hint);
}

/* The caller has filled in place, sqlstate, message and hint. */
void
refusal_begin(Refusal *refusal)
{
	refusal->context = CurrentMemoryContext;
	refusal->callback.callback = refusal_callback;
	refusal->callback.arg = refusal;
	refusal->callback.previous = error_context_stack;
	error_context_stack = &refusal->callback;
}

void
refusal_end(Refusal *refusal)
{
	error_context_stack = refusal->callback.previous;
}

/* ------------------------------------------------------------ objects */

/* The known key that was probably meant, or NULL. */
static const char *
nearest_key(const char *key, int length, const char *const *keys, int nkeys)
{
	const char *nearest = NULL;
	int			best = 1 + Min(3, length / 2);

	if (length > TASKER_MAX_NAME)
		return NULL;
	for (int i = 0; i < nkeys; i++)
	{
		int			distance = varstr_levenshtein_less_equal(key, length, keys[i], strlen(keys[i]),
															 1, 1, 1, best - 1, true);

		if (distance < best)
		{
			best = distance;
			nearest = keys[i];
		}
	}
	return nearest;
}

static void
refuse_key(const JsonPlace *place, const JsonbValue *key, const char *what,
		   const char *const *keys, int nkeys)
{
	const char *nearest = nearest_key(key->val.string.val, key->val.string.len, keys, nkeys);
	StringInfoData known;

	initStringInfo(&known);
	for (int i = 0; i < nkeys; i++)
		appendStringInfo(&known, "%s%s", i == 0 ? "" : i < nkeys - 1 ? ", " : " and ", keys[i]);
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_UNKNOWN_KEY),
			 errmsg("%s has no key \"%s\"", what,
					clipped(key->val.string.val, key->val.string.len, MAX_SHOWN_NAME)),
			 errdetail("It is at %s. The keys of %s are %s.", place_text(place), what, known.data),
			 nearest != NULL ? errhint("Perhaps you meant \"%s\".", nearest) :
			 errhint("Remove the key: nothing in a definition is ignored.")));
}

static int
find_key(const JsonbValue *key, const char *const *keys, int nkeys)
{
	for (int i = 0; i < nkeys; i++)
		if (strlen(keys[i]) == key->val.string.len &&
			memcmp(keys[i], key->val.string.val, key->val.string.len) == 0)
			return i;
	return -1;
}

/*
 * The fields of an object that may have these keys and no others, in the order
 * of keys; one that is absent becomes jbvNull (a null itself is refused).
 */
void
json_fields(const JsonPlace *place, const JsonbValue *value, const char *what,
			const char *example, const char *const *keys, int nkeys, JsonbValue *fields)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	item;

	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		refuse_type(place, value, "an object", example);
	for (int i = 0; i < nkeys; i++)
		fields[i].type = jbvNull;

	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
	{
		int			field;

		if (token != WJB_KEY)
			continue;
		field = find_key(&item, keys, nkeys);
		if (field < 0)
			refuse_key(place, &item, what, keys, nkeys);
		(void) JsonbIteratorNext(&iterator, &fields[field], true);
		if (fields[field].type == jbvNull)
		{
			JsonPlace	here = {.parent = place,.key = keys[field]};

			ereport(ERROR,
					(errcode(ERRCODE_TASKER_BAD_TYPE),
					 errmsg("\"%s\" is null", keys[field]),
					 errdetail("At %s there is null.", place_text(&here)),
					 errhint("Leave the key out, or give it a value.")));
		}
	}
}

/* The elements of an array, whatever they are. */
JsonbValue *
json_array(const JsonPlace *place, const JsonbValue *value, const char *example, int *length)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	item;
	JsonbValue *elements;
	int			n = 0;

	if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		refuse_type(place, value, "an array", example);
	*length = JsonContainerSize(value->val.binary.data);
	elements = palloc_extended(Max(*length, 1) * sizeof(JsonbValue), MCXT_ALLOC_HUGE);

	iterator = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&iterator, &item, true)) != WJB_DONE)
		if (token == WJB_ELEM)
			elements[n++] = item;
	Assert(n == *length);
	return elements;
}

/* ------------------------------------------------------------ scalars */

char *
json_string(const JsonPlace *place, const JsonbValue *value)
{
	if (value->type != jbvString)
		refuse_type(place, value, "a string", "\"text\"");
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Refuse what can not be a name; "what" is what it would be the name of. */
void
check_name(const char *name, int length, const char *what, const JsonPlace *place)
{
	if (length > 0 && length <= TASKER_MAX_NAME)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_NAME),
			 length == 0 ? errmsg("the name of a %s is empty", what) :
			 errmsg("the name of a %s is too long", what),
			 place == NULL ? errdetail("It has %d bytes.", length) :
			 errdetail("At %s there is a name of %d bytes.", place_text(place), length),
			 errhint("A name may be any text of 1 to %d bytes.", TASKER_MAX_NAME)));
}

char *
json_name(const JsonPlace *place, const JsonbValue *value, const char *what)
{
	char	   *name = json_string(place, value);

	check_name(name, strlen(name), what, place);
	return name;
}

bool
json_bool(const JsonPlace *place, const JsonbValue *value)
{
	if (value->type != jbvBool)
		refuse_type(place, value, "a boolean", "true");
	return value->val.boolean;
}

static double
numeric_double(const JsonbValue *value)
{
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow,
											  NumericGetDatum(value->val.numeric)));
}

double
json_number(const JsonPlace *place, const JsonbValue *value, double min, double max)
{
	double		number;

	if (value->type != jbvNumeric)
		refuse_type(place, value, "a number", "2");
	number = numeric_double(value);
	if (!(number >= min && number <= max))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_NUMBER),
				 errmsg("\"%s\" is out of range", place_key(place)),
				 errdetail("At %s there is %s.", place_text(place), json_shown(value)),
				 errhint("Give a number from %g to %g.", min, max)));
	return number;
}

/* The setting is what the largest number comes from, or NULL. */
int
json_int(const JsonPlace *place, const JsonbValue *value, int min, int max, const char *setting)
{
	double		number;

	if (value->type != jbvNumeric)
		refuse_type(place, value, "a whole number", "3");
	number = numeric_double(value);
	if (!(number >= min && number <= max) || number != rint(number))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_NUMBER),
				 number != rint(number) ? errmsg("\"%s\" is not a whole number", place_key(place)) :
				 errmsg("\"%s\" is out of range", place_key(place)),
				 errdetail("At %s there is %s.", place_text(place), json_shown(value)),
				 setting == NULL ? errhint("Give a whole number from %d to %d.", min, max) :
				 errhint("Give a whole number from %d to %d (%s).", min, max, setting)));
	return (int) number;
}

static bool
is_finite(const Interval *interval)
{
#ifdef INTERVAL_NOT_FINITE		/* they are always finite before 17 */
	return !INTERVAL_NOT_FINITE(interval);
#else
	return true;
#endif
}

static Interval
parse_interval(const JsonPlace *place, const JsonbValue *value)
{
	Refusal		refusal = {
		.place = place,
		.sqlstate = ERRCODE_TASKER_BAD_INTERVAL,
		.message = psprintf("\"%s\" is not an interval", place_key(place)),
		.hint = "Give an interval, such as \"90 s\" or \"1 h 30 min\", or a number of seconds.",
	};
	Interval	result;
	char	   *text = json_string(place, value);

	refusal_begin(&refusal);
	result = *DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
													ObjectIdGetDatum(InvalidOid),
													Int32GetDatum(-1)));
	refusal_end(&refusal);
	return result;
}

/* A string in PostgreSQL's syntax, or a number of seconds; never negative. */
Interval
json_interval(const JsonPlace *place, const JsonbValue *value, bool zero)
{
	const double max = (double) MAX_DAYS * SECS_PER_DAY;
	Interval	result = {0};
	double		seconds;

	if (value->type == jbvString)
		result = parse_interval(place, value);
	else if (value->type != jbvNumeric)
		refuse_type(place, value, "an interval", "\"90 s\" or 90");
	else
	{
		seconds = numeric_double(value);
		if (fabs(seconds) > max)	/* would not fit */
			result.day = seconds < 0 ? -1 : MAX_DAYS + 1;
		else
			result.time = (TimeOffset) rint(seconds * USECS_PER_SEC);
	}

	seconds = is_finite(&result) ? interval_seconds(&result) : max + 1;
	if (seconds < 0 || (seconds == 0 && !zero) || seconds > max)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_INTERVAL),
				 seconds < 0 ? errmsg("\"%s\" is negative", place_key(place)) :
				 seconds == 0 ? errmsg("\"%s\" is zero", place_key(place)) :
				 errmsg("\"%s\" is too long", place_key(place)),
				 errdetail("At %s there is %s.", place_text(place), json_shown(value)),
				 errhint("Give an interval of %s and at most %d days.",
						 zero ? "zero or more" : "more than zero", MAX_DAYS)));
	return result;
}
