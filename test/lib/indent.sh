#!/bin/bash
# indent.sh: the C sources in PostgreSQL's own layout, as pgindent makes it.
#
#   indent.sh FILE...           rewrite the files that differ
#   indent.sh --check FILE...   show how they differ; status 1 if any does
#
# Needs pg_bsd_indent and the server's headers (from PG_CONFIG). What it owns:
# one directory from mktemp -d, removed at the end.
set -euo pipefail

check=
if [ "${1:-}" = --check ]; then check=1; shift; fi
command -v pg_bsd_indent >/dev/null || { echo "pg_bsd_indent is missing (apt-get install pg-bsd-indent)" >&2; exit 2; }
INCLUDE=$("${PG_CONFIG:-pg_config}" --includedir-server)
[ -f "$INCLUDE/postgres.h" ] || { echo "no server headers in $INCLUDE" >&2; exit 2; }

TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT

OPTS="-bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 -nfc1 -i4 -l79 -lp -lpl -nip -npro -sac -tpg -ts4"

# The names that indent has to know as types: those of the server's headers,
# ours, and the C library's that we use; less those that are often variables.
find "$INCLUDE" "$(dirname "$1")" -name '*.[ch]' -print0 | LC_ALL=C sort -z | perl -0777 -e '
	my %t = map { $_ => 1 } qw(bool FILE DIR size_t ssize_t pid_t time_t off_t uid_t gid_t mode_t socklen_t va_list
		sigset_t sig_atomic_t jmp_buf sigjmp_buf int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t
		intptr_t uintptr_t);
	for my $file (split /\0/, <STDIN>) {
		open my $fh, "<", $file or die "$file: $!";
		local $_ = <$fh>;
		s{/\*.*?\*/}{ }gs;
		$t{$2} = 1 while /\btypedef\s+(?:struct|union|enum)\b[^;{]*(\{(?:[^{}]++|(?1))*\})\s*(\w+)/g;
		$t{$1} = 1 while /\btypedef\s[^;{}()]*?\b(\w+)\s*(?:\[[^\]]*\]\s*)?;/g;
		$t{$1} = 1 while /\btypedef\s[^;{}()]*\(\s*\*\s*(?:volatile\s+)?(\w+)\s*\)\s*\(/g;
		$t{$1} = 1 while /\btypedef\s[^;{}()]*?\b(\w+)\s*\([^*;{}][^;{}]*;/g;
	}
	delete @t{qw(ANY FD_SET U abs allocfunc boolean date digit ilist interval iterator other pointer printfunc
		reference string timestamp type wrap)};
	print map { "$_\n" } sort keys %t;
' >"$TMP/typedefs"

# once <in >out: indent, and what pgindent does before and after it: // becomes
# a comment that indent understands, boxed comments stay as they are, comments
# that were run together get a tab, return types their one blank. indent spoils
# what is not ASCII: each such character is one control character meanwhile.
once() {
	perl -pe 's!^([ \t]*)//(.*)$!$1/* $2 */!; s!/\* +---!/*---X_X!g' |
		characters 'while (my ($c, $n) = each %code) { s/$c/$n/g }' |
		pg_bsd_indent $OPTS "-U$TMP/typedefs" 2>>"$TMP/err" |
		characters 'while (my ($c, $n) = each %code) { s/$n/$c/g }' |
		perl -pe 's!/\*---X_X!/* ---!g; s!\*/(/\*.*\*/)$!*/\t$1!; s!^([A-Za-z_]\S*)[ \t]+\*$!$1 *!'
}

# characters CODE: a filter with %code = the file's characters that are not
# ASCII, each with the control character that stands for it
characters() {
	perl -pe '
		BEGIN {
			our %code;
			my @free = map { chr } 1 .. 8, 14 .. 31;
			open my $fh, "<", shift or die;
			while (<$fh>) {
				$code{$1} //= shift @free // die "too many characters that are not ASCII\n"
					while /([\xc0-\xff][\x80-\xbf]+)/g;
			}
		}
		'"$1" "$TMP/0"
}

bad=0
for f in "$@"; do
	# indent may need a second look at its own work
	cp "$f" "$TMP/0"
	for n in 1 2 3; do
		: >"$TMP/err"
		once <"$TMP/$((n - 1))" >"$TMP/$n"
		if [ -s "$TMP/err" ]; then
			sed "s|^|$f: |" "$TMP/err" >&2
			exit 1
		fi
		cp "$TMP/$n" "$TMP/out"
		if cmp -s "$TMP/$((n - 1))" "$TMP/$n"; then break; fi
	done
	cmp -s "$f" "$TMP/out" && continue
	if [ -n "$check" ]; then
		diff -u --label "$f" --label "$f (formatted)" "$f" "$TMP/out" || true
		bad=1
	else
		cat "$TMP/out" >"$f"
		echo "formatted $f"
	fi
done
exit $bad
