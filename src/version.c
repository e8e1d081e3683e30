/*
 * version.c
 *	  The library and the extension's objects are of one version, or of two that
 *	  fit.
 *
 * The library is replaced with the package, the objects by ALTER EXTENSION …
 * UPDATE; in between, and in sessions that have the old library still, the two
 * differ. Every outermost section asks here (query.c), and each turn of a
 * process: a word compared, but for the first time. If they do not fit, a call
 * is refused and the processes wait; nothing is read or written.
 */
#include "version.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* The schema whose objects were found to fit; forgotten at each update. */
static Oid	fitting_schema = InvalidOid;

static void
schema_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	fitting_schema = InvalidOid;
}

void
tasker_version_init(void)
{
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
}

/* The version of the extension's objects, or NULL if it is not there. */
static char *
objects_version(void)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("tasker"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(relation), &isnull);

		version = TextDatumGetCString(value);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return version;
}

/* Is the version one of those, separated by spaces, that this library works with? */
static bool
works_with(const char *version)
{
	size_t		length = strlen(version);

	for (const char *word = TASKER_WORKS_WITH; *word != '\0';)
	{
		size_t		n = strcspn(word, " ");

		if (n == length && strncmp(word, version, n) == 0)
			return true;
		word += n + strspn(word + n, " ");
	}
	return false;
}

const char *const library_misfit_hint =
"If the library is the newer one: ALTER EXTENSION tasker UPDATE. If it is the older one: "
"connect anew, or restart the server if tasker is in shared_preload_libraries.";

/* For a library that does not fit: why. */
char *
library_misfit(void)
{
	return psprintf("tasker's library is version %s, the extension in this database is version %s",
					TASKER_VERSION, objects_version());
}

/*
 * Whether this library works with the extension's objects. If not, that is
 * reported, unless elevel is 0. Without the extension there is nothing that
 * does not fit. Needs a transaction.
 */
bool
library_fits(int elevel)
{
	Oid			schema = get_namespace_oid("tasker", true);
	char	   *version;

	if (schema == fitting_schema)
		return true;
	version = objects_version();
	if (version == NULL || works_with(version))
	{
		fitting_schema = schema;
		return true;
	}
	if (elevel != 0)
		ereport(elevel,
				(errcode(ERRCODE_TASKER_VERSION),
				 errmsg("%s", library_misfit()),
				 errdetail("The library works with: %s. Tasks wait.", TASKER_WORKS_WITH),
				 errhint("%s", library_misfit_hint)));
	return false;
}

/* Every role gets its level again, for what is new. */
static TaskerQuery renew_access = {
	.sql = "SELECT tasker.grant_access(g.role_name, g.level) FROM tasker.access_grants g "
	"JOIN pg_catalog.pg_roles r ON r.rolname = g.role_name ORDER BY g.role_name",
};

/*
 * pg_dump before 15 crashes on a leaf whose rows are dumped, unless its privileges
 * are other than those of the script. The owner does not need this one.
 */
static TaskerQuery make_leaves_dumpable = {
	.sql = "REVOKE TRIGGER ON tasker.task_transitions_0, tasker.task_transitions_1, "
	"tasker.task_transitions_2, tasker.task_transitions_3, "
	"tasker.workflow_step_transitions_0, tasker.workflow_step_transitions_1, "
	"tasker.workflow_step_transitions_2, tasker.workflow_step_transitions_3 FROM CURRENT_USER",
};

/*
 * Privileges that are the operator's: what a script of an extension grants is
 * taken for part of the extension, which pg_dump leaves out.
 */
static void
set_privileges(void)
{
	TaskerSection section;
	bool		in_script = creating_extension;

	tasker_enter(&section);
	PG_TRY();
	{
		creating_extension = false;
		if (TASKER_LEAVES_NEED_PRIVILEGES)
			tasker_run(&make_leaves_dumpable, NULL, NULL);
		tasker_run(&renew_access, NULL, NULL);
	}
	PG_FINALLY();
	{
		creating_extension = in_script;
	}
	PG_END_TRY();
	tasker_leave(&section);
}

/* At the end of a script, when all objects are what they are to be. */
void
extension_changed(void)
{
	/* an older version's script leaves that to the update to this one */
	if (library_fits(0))
		set_privileges();
	/* has every session look at the version anew */
	CacheInvalidateCatalog(NamespaceRelationId);
}

PG_FUNCTION_INFO_V1(tasker_library_version);

/* library_version(): of the library that this session has loaded */
Datum
tasker_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(TASKER_VERSION));
}
