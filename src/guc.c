/*
 * guc.c
 *	  tasker's settings, in alphabetical order.
 */
#include "tasker.h"

#include "utils/guc.h"

bool		tasker_allow_superuser_steps = false;
int			tasker_batch_interval = 50;
int			tasker_batch_size = 2000;
bool		tasker_enabled = true;
int			tasker_executor_idle_timeout = 60;
int			tasker_max_attempts = 100;
int			tasker_max_claim = 10000;
int			tasker_max_context_size = 1024;
int			tasker_max_definition_size = 16384;
int			tasker_max_depth = 20000;
int			tasker_max_edges = 200000;
int			tasker_max_executors = 8;
int			tasker_max_executors_per_role = 2;
int			tasker_max_input_size = 65536;
int			tasker_max_nesting = 1000;
int			tasker_max_open_tasks = 0;
int			tasker_max_result_size = 1024;
int			tasker_max_steps = 20000;
int			tasker_node_id = 0;
int			tasker_retention = -1;

void
tasker_guc_init(void)
{
	DefineCustomBoolVariable("tasker.allow_superuser_steps",
							 "Lets steps that run in the database run as a superuser.",
							 "Off, a superuser's task with such steps is refused.",
							 &tasker_allow_superuser_steps, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.batch_interval",
							"How long an executor goes on before it commits what is finished.",
							NULL,
							&tasker_batch_interval, 50, 0, 10000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.batch_size",
							"How many steps an executor runs before it commits.",
							"1 commits every step for itself.",
							&tasker_batch_size, 2000, 1, 10000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("tasker.enabled",
							 "Lets tasks run on this server.",
							 "Off, nothing is run, and nothing is handed out to workers.",
							 &tasker_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.executor_idle_timeout",
							"How long an executor without work keeps its session.",
							NULL,
							&tasker_executor_idle_timeout, 60, 0, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_attempts",
							"The largest number of attempts that a definition may give a step.",
							NULL,
							&tasker_max_attempts, 100, 3, 10000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_claim",
							"The largest number of steps that one call claims or completes.",
							NULL,
							&tasker_max_claim, 10000, 1, 100000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_context_size",
							"The largest context of a task.",
							NULL,
							&tasker_max_context_size, 1024, 1, 1024 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_definition_size",
							"The largest definition of a named task.",
							NULL,
							&tasker_max_definition_size, 16384, 1, 256 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_depth",
							"The largest number of steps of a definition that come one after the other.",
							NULL,
							&tasker_max_depth, 20000, 1, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_edges",
							"The largest number of dependencies in a named task.",
							NULL,
							&tasker_max_edges, 200000, 0, 10000000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_executors",
							"The largest number of executors on this server.",
							"Each takes one of max_worker_processes.",
							&tasker_max_executors, 8, 1, 128,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_executors_per_role",
							"The largest number of executors for one role in one database.",
							NULL,
							&tasker_max_executors_per_role, 2, 1, 128,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_input_size",
							"The largest input of a step: its task's context and its parents' results.",
							"More is an error of the step.",
							&tasker_max_input_size, 65536, 1, 256 * 1024 - 1,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_nesting",
							"The deepest nesting of a document: a context, results, a checkpoint.",
							NULL,
							&tasker_max_nesting, 1000, 1, 10000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_open_tasks",
							"About how many tasks that are not over a role may have; 0 for any number.",
							"Counted when it seems to be reached, and then at most once a second. ALTER ROLE sets it for one role.",
							&tasker_max_open_tasks, 0, 0, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_result_size",
							"The largest results of a step, and its error, its checkpoint, a worker's metadata.",
							"More is an error of the step, or of the call.",
							&tasker_max_result_size, 1024, 1, 1024 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.max_steps",
							"The largest number of steps in a named task.",
							NULL,
							&tasker_max_steps, 20000, 1, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.node_id",
							"The high 15 bits of the task ids that this server gives out.",
							"Servers that are to form one system have different ones.",
							&tasker_node_id, 0, 0, 32767,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("tasker.retention",
							"How long a task is kept after it ended, with its history.",
							"-1 keeps tasks for ever.",
							&tasker_retention, -1, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	MarkGUCPrefixReserved("tasker");
}
