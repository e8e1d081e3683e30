/*
 * handler_lookup.c
 *	  From the name of a function to a function that can be a step's handler,
 *	  or to the reason why there is none.
 *
 * Called when a definition is made and again before a step runs, since the
 * function may have changed between the two.
 */
#include "definition.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#define MAX_SIGNATURES	5		/* that a message lists */

static const char *const signature_hint =
"A handler is an ordinary function with exactly one argument, of type jsonb, that returns jsonb or void.";

/*
 * The schema, if a function in it could be a handler: a temporary one is not
 * there for the session that runs the step.
 */
static Oid
handler_schema(const char *schema, const char *qualified_name, Oid role, const char *where)
{
	Oid			namespace_id = get_namespace_oid(schema, true);

	if (strcmp(schema, "pg_temp") == 0 ||
		(OidIsValid(namespace_id) && isAnyTempNamespace(namespace_id)))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_FUNCTION),
				 errmsg("function %s is temporary", qualified_name),
				 errdetail("%s Steps run in other sessions, which do not have it.", where),
				 errhint("Create the function in a schema that stays.")));
	if (!OidIsValid(namespace_id))
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_FUNCTION),
				 errmsg("function %s(jsonb) does not exist", qualified_name),
				 errdetail("%s There is no schema \"%s\".", where, schema),
				 errhint("Create the function first, or correct its name.")));
	if (tasker_schema_aclcheck(namespace_id, role) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_FUNCTION_ACCESS),
				 errmsg("permission denied for schema \"%s\"", schema),
				 errdetail("%s Role \"%s\" has no USAGE on its schema.", where,
						   GetUserNameFromId(role, false)),
				 errhint("Use GRANT USAGE ON SCHEMA %s TO %s.", quote_identifier(schema),
						 quote_identifier(GetUserNameFromId(role, false)))));
	return namespace_id;
}

/* No function of the name takes one jsonb: say what there is instead. */
static void
refuse_signature(Oid namespace_id, const char *name, const char *qualified_name, const char *where)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	StringInfoData found;
	int			n = 0;

	initStringInfo(&found);
	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace != namespace_id || n++ >= MAX_SIGNATURES)
			continue;
		appendStringInfo(&found, "%s%s", n > 1 ? ", " : "", format_procedure_qualified(proc->oid));
	}
	ReleaseSysCacheList(list);

	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_FUNCTION),
				 errmsg("function %s(jsonb) does not exist", qualified_name),
				 errdetail("%s There is no function of this name.", where),
				 errhint("Create the function first, or correct its name.")));
	ereport(ERROR,
			(errcode(ERRCODE_TASKER_BAD_FUNCTION),
			 errmsg("function %s can not be a handler: it does not take one argument of type jsonb", qualified_name),
			 errdetail("%s There is %s%s.", where, found.data, n > MAX_SIGNATURES ? ", and more" : ""),
			 errhint("%s", signature_hint)));
}

/* Why the function can not be a handler, or NULL. */
static const char *
unsuitable(Form_pg_proc proc)
{
	switch (proc->prokind)
	{
		case PROKIND_AGGREGATE:
			return "it is an aggregate";
		case PROKIND_WINDOW:
			return "it is a window function";
		case PROKIND_PROCEDURE:
			return "it is a procedure";
	}
	if (proc->proretset)
		return "it returns a set";
	if (proc->prorettype != JSONBOID && proc->prorettype != VOIDOID)
		return psprintf("it returns %s", format_type_be(proc->prorettype));
	return NULL;
}

static Oid
find_function(Oid namespace_id, const char *name, Oid role, const char *qualified_name,
			  const char *where)
{
	Oid			argument = JSONBOID;
	HeapTuple	tuple;
	Oid			function;
	const char *reason;

	tuple = SearchSysCache3(PROCNAMEARGSNSP, CStringGetDatum(name),
							PointerGetDatum(buildoidvector(&argument, 1)),
							ObjectIdGetDatum(namespace_id));
	if (!HeapTupleIsValid(tuple))
		refuse_signature(namespace_id, name, qualified_name, where);
	function = ((Form_pg_proc) GETSTRUCT(tuple))->oid;
	reason = unsuitable((Form_pg_proc) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);

	if (reason != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_BAD_FUNCTION),
				 errmsg("function %s(jsonb) can not be a handler: %s", qualified_name, reason),
				 errdetail("%s", where),
				 errhint("%s", signature_hint)));
	if (tasker_function_aclcheck(function, role) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_FUNCTION_ACCESS),
				 errmsg("permission denied for function %s(jsonb)", qualified_name),
				 errdetail("%s Role \"%s\" may not execute it.", where,
						   GetUserNameFromId(role, false)),
				 errhint("Use GRANT EXECUTE ON FUNCTION %s(jsonb) TO %s.", qualified_name,
						 quote_identifier(GetUserNameFromId(role, false)))));
	return function;
}

Oid
tasker_handler_function(const char *qualified_name, Oid role, const char *where)
{
	List	   *names;
	const char *schema;

	if (!SplitIdentifierString(pstrdup(qualified_name), '.', &names))
		names = NIL;
	if (list_length(names) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_TASKER_NO_FUNCTION),
				 errmsg("\"%s\" is not the qualified name of a function", qualified_name),
				 errdetail("%s It has %d parts.", where, list_length(names)),
				 errhint("Write it as schema.function.")));
	schema = linitial(names);
	return find_function(handler_schema(schema, qualified_name, role, where),
						 lsecond(names), role, qualified_name, where);
}

/* Whose code the function is. */
Oid
tasker_function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}
