-- An invoice in five steps, in four languages: SQL reserves the goods, Python
-- computes, Node renders, Ruby sends, SQL books. run.sh runs it; this file is
-- everything that is in the database:
--
--     psql -f examples/polyglot/invoice.sql      as a superuser, in an empty database
\set ON_ERROR_STOP on
\set QUIET on

CREATE EXTENSION tasker;
CREATE ROLE billing LOGIN;	-- owns the invoices; the steps in SQL run as it
CREATE ROLE clerk LOGIN;	-- the workers
\o /dev/null
SELECT tasker.grant_access('billing', 'submitter'), tasker.grant_access('clerk', 'worker');
\o
CREATE SCHEMA billing AUTHORIZATION billing;

SET SESSION AUTHORIZATION billing;

CREATE TABLE billing.stock (
	sku			text PRIMARY KEY,
	price		numeric(10,2) NOT NULL,
	available	int NOT NULL CHECK (available >= 0)
);
CREATE TABLE billing.outbox (
	key			text PRIMARY KEY,
	recipient	text NOT NULL,
	message		text NOT NULL
);
CREATE TABLE billing.ledger (
	task_id		bigint NOT NULL,
	account		text NOT NULL,
	amount		numeric(10,2) NOT NULL
);
-- What the step "send" writes in the transaction that completes it.
GRANT USAGE ON SCHEMA billing TO clerk;
GRANT INSERT ON billing.outbox TO clerk;

INSERT INTO billing.stock VALUES ('coffee', 12.50, 10), ('tea', 8.90, 4);

CREATE FUNCTION billing.reserve(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
	WITH reserved AS (
		UPDATE billing.stock s SET available = s.available - o.quantity
		FROM jsonb_to_recordset(input #> '{task,context,goods}') AS o (sku text, quantity int)
		WHERE s.sku = o.sku
		RETURNING s.sku, o.quantity, s.price
	)
	SELECT jsonb_agg(jsonb_build_object('sku', sku, 'quantity', quantity, 'price', price::text) ORDER BY sku)
	FROM reserved
$$;

CREATE FUNCTION billing.book(input jsonb) RETURNS jsonb LANGUAGE sql AS $$
	WITH booked AS (
		INSERT INTO billing.ledger
		SELECT (input #>> '{task,id}')::bigint, account, (input #>> ARRAY['parents', 'compute', account])::numeric
		FROM unnest('{net,tax,total}'::text[]) AS account
		RETURNING account
	)
	SELECT to_jsonb(count(*)) FROM booked
$$;

\o /dev/null
SELECT tasker.define_task('invoice', '{
	"description": "An invoice, from the stock to the books",
	"defaults": {"lease": "10 s", "retry": {"base": "1 s"}},
	"steps": [
		{"name": "reserve", "function": "billing.reserve"},
		{"name": "compute", "queue": "python", "depends_on": ["reserve"]},
		{"name": "render",  "queue": "node",   "depends_on": ["reserve", "compute"]},
		{"name": "send",    "queue": "ruby",   "depends_on": ["render"]},
		{"name": "book",    "function": "billing.book", "depends_on": ["compute", "send"]}
	]}');
\o
