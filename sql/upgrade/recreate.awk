# recreate.awk PART...: of the parts of the install script prints what every
# update creates anew: functions, procedures, views, comments. What holds data or
# depends on it an update changes by hand, so it is left out. Called by build.sh.
#
# A statement begins a line and ends with a semicolon at the end of one.

BEGIN {
	split("FUNCTION PROCEDURE VIEW", kinds, " ")
	for (i in kinds)
		recreated["CREATE " kinds[i]] = 1
	recreated["COMMENT ON"] = 1
	n = split("CREATE SCHEMA,CREATE TABLE,CREATE INDEX,CREATE UNIQUE,CREATE SEQUENCE,CREATE DOMAIN,CREATE TRIGGER," \
		"CREATE POLICY,ALTER TABLE,ALTER SEQUENCE,REVOKE ALL,REVOKE USAGE,SELECT pg_catalog.pg_extension_config_dump," \
		"SELECT tasker.installed,DO $$", kinds, ",")
	for (i = 1; i <= n; i++)
		by_hand[kinds[i]] = 1
}

# Does the statement end with this line? Keeps in "quote" what it is in the midst of.
function ends(line)
{
	for (;;) {
		if (quote != "") {
			if ((i = index(line, quote)) == 0)
				return 0
			line = substr(line, i + length(quote))
			quote = ""
		} else {
			if (!match(line, /--|'|\$[A-Za-z_]*\$|;/))
				return 0
			token = substr(line, RSTART, RLENGTH)
			line = substr(line, RSTART + RLENGTH)
			if (token == "--")
				return 0
			if (token == ";")
				return 1
			quote = token
		}
	}
}

statement == "" && /^(--.*)?$/ { next }

{
	if (statement == "") {
		kind = $1 " " $2
		sub(/\(.*/, "", kind)
	}
	statement = statement $0 "\n"
	if (!ends($0))
		next
	if (kind in recreated) {
		sub(/^CREATE /, "CREATE OR REPLACE ", statement)
		printf "%s", statement
	} else if (!(kind in by_hand)) {
		print FILENAME ": is \"" kind "\" created anew by an update? Tell sql/upgrade/recreate.awk" > "/dev/stderr"
		exit 1
	}
	statement = ""
}
