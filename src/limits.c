/*
 * limits.c
 *	  Limits of what callers hand in that are not the business of one part alone:
 *	  how deep a document is nested, how long a remark is, how many tasks a role
 *	  has open.
 *
 * Passing one is an error that names the setting, never a truncation.
 */
#include "tasker.h"

/* A level of nesting takes at least so many bytes: a header and an entry. */
#define BYTES_PER_LEVEL		8

static int
nesting(Jsonb *document)
{
	JsonbIterator *iterator = JsonbIteratorInit(&document->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;
	int			deepest = 0;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
			deepest = Max(deepest, ++depth);
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
	}
	return deepest;
}

/*
 * Refuse a document that is nested deeper than the server could copy where it
 * is needed later, with less stack left: a claim, say, that it would make fail
 * for all the other steps in it.
 */
void
check_nesting(Jsonb *document, const char *what, int sqlstate)
{
	int			depth;

	if (VARSIZE(document) / BYTES_PER_LEVEL <= (Size) tasker_max_nesting)
		return;
	depth = nesting(document);
	if (depth > tasker_max_nesting)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("%s nested too deeply", what),
				 errdetail("There are %d levels, the limit is %d.", depth, tasker_max_nesting),
				 errhint("Make it flatter, or have a superuser raise tasker.max_nesting.")));
}

/* Refuse a context, or tags, that a task may not have. */
void
check_task_document(Jsonb *document, const char *what)
{
	if (VARSIZE(document) > (Size) tasker_max_context_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_LARGE),
				 errmsg("%s too large", what),
				 errdetail("There are %zu bytes, the limit is %d kB.", (Size) VARSIZE(document), tasker_max_context_size),
				 errhint("Keep large data in a table and its key here, or raise tasker.max_context_size.")));
	check_nesting(document, what, ERRCODE_TASKER_TOO_LARGE);
}

/* Refuse a text that is longer than a remark. */
void
check_remark(text *remark, const char *what, int limit)
{
	int			length = VARSIZE_ANY_EXHDR(remark);

	if (length > limit)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_TOO_LARGE),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes, the limit is %d.", length, limit),
				 errhint("Keep long texts in a table of your own.")));
}
