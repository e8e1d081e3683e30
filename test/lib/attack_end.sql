-- attack_end.sql: the end of test/pgtap/attack_*.sql: what came of the attacks.
-- What a file tests besides it does as the superuser, between \o and this.
SELECT is(got, want, format('%s: %s', role, name)) FROM attack.outcome ORDER BY id;
SELECT * FROM finish();
\o /dev/null
SET client_min_messages = warning;
DROP EXTENSION tasker CASCADE;
DROP OWNED BY attack_vic, attack_mal, attack_work, attack_view, attack_none CASCADE;
DROP ROLE attack_vic, attack_mal, attack_work, attack_view, attack_none;
DROP SCHEMA attack CASCADE;
\o
