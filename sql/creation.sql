-- Creating tasks.
CREATE FUNCTION tasker.next_task_id() RETURNS bigint
	AS 'MODULE_PATHNAME', 'tasker_next_task_id' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.next_task_id() IS
'An id for a task: tasker.node_id in the high 15 bits, a sequence in the low 48. Example: SELECT tasker.next_task_id();';

CREATE FUNCTION tasker.create_task(
	name text,
	context jsonb DEFAULT '{}',
	namespace text DEFAULT 'default',
	version text DEFAULT NULL,
	priority int DEFAULT 0,
	start_at timestamptz DEFAULT NULL,
	idempotency_key text DEFAULT NULL,
	tags jsonb DEFAULT NULL,
	initiator text DEFAULT NULL,
	source_system text DEFAULT NULL,
	reason text DEFAULT NULL,
	correlation_id uuid DEFAULT NULL,
	traceparent text DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'tasker_create_task' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.create_task(text, jsonb, text, text, int, timestamptz, text, jsonb, text, text, text, uuid, text) IS
'Creates a task, in the caller''s transaction, and returns its id. Its steps run as the caller.
name, namespace, version: which named task; without a version the default one.
context: a JSON object that every handler gets as task.context.
priority: a higher one goes first; -1000000 to 1000000. start_at: not before.
idempotency_key: 1 to 1024 bytes; the same key of the same role gives back the same task, and with another context or named task TK203.
tags, initiator, source_system, reason: kept with the task. correlation_id: a random one unless given.
traceparent: the W3C trace context of the caller, which workers are given with each claim; without one its trace id is the correlation_id.
Errors: TK201 unknown named task, TK203 key in use, TK204 bad argument, TK205 context, tags or a text too large, TK206 the role can not have a session, TK208 it has too many open tasks (tasker.max_open_tasks), TK500 no access.
Example: SELECT tasker.create_task(''order_fulfilment'', ''{"order": 42}'', idempotency_key => ''order-42'');';

CREATE FUNCTION tasker.create_tasks(
	name text,
	contexts jsonb[],
	namespace text DEFAULT 'default',
	version text DEFAULT NULL,
	priority int DEFAULT 0,
	start_at timestamptz DEFAULT NULL,
	idempotency_keys text[] DEFAULT NULL,
	tags jsonb DEFAULT NULL,
	initiator text DEFAULT NULL,
	source_system text DEFAULT NULL,
	reason text DEFAULT NULL,
	correlation_id uuid DEFAULT NULL,
	traceparent text DEFAULT NULL
) RETURNS SETOF bigint
	AS 'MODULE_PATHNAME', 'tasker_create_tasks' LANGUAGE C VOLATILE;
COMMENT ON FUNCTION tasker.create_tasks(text, jsonb[], text, text, int, timestamptz, text[], jsonb, text, text, text, uuid, text) IS
'Creates a task for each context and returns their ids in that order; all or none. Arguments and errors as for create_task; idempotency_keys has an element, or null, for each context.
Example: SELECT tasker.create_tasks(''order_fulfilment'', ARRAY[''{"order": 1}'', ''{"order": 2}'']::jsonb[]);';
