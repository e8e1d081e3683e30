#!/usr/bin/perl
# tap.pl NAME COUNTS LOG -- CMD...: runs one test program and counts its tests.
#
# TAP is counted test by test; a program that prints no TAP is one test, which
# passes if it exits with 0. What goes wrong besides (a wrong plan, an exit
# status, a timeout) counts as one failed test. Appends "passed failed" to
# COUNTS and the program's whole output to LOG; prints one line, and what
# failed. Called by test/run.
use strict;
use warnings;
use TAP::Parser;
use Time::HiRes qw(time);

my ($name, $counts, $log) = splice @ARGV, 0, 3;
shift @ARGV;
open my $out, '>>', $log or die "$log: $!";
$out->autoflush(1);
open my $real_stderr, '>&', \*STDERR or die;
open STDERR, '>>', $log or die;

my $start = time;
my $parser = TAP::Parser->new({ exec => [@ARGV], merge => 0 });
my ($passed, $failed, $skipped, $tests) = (0, 0, 0, 0);
my @bad;
while (my $r = $parser->next)
{
	print $out $r->raw, "\n";
	if ($r->is_test)
	{
		$tests++;
		if ($r->is_ok) { $passed++; $skipped++ if $r->has_skip; }
		else { $failed++; push @bad, $r->as_string; }
	}
}
my $status = $parser->wait;
my $how =
    $status == 124 << 8 ? 'timed out'
  : $status & 127       ? 'killed by signal ' . ($status & 127)
  :                       'exit status ' . ($status >> 8);
if (!$tests && !$parser->plan)
{
	if ($status) { $failed = 1; push @bad, $how; }
	else { $passed = 1; }
}
else
{
	# A status that only repeats the number of failed tests is no news.
	my @errors = grep { !/^Bad plan/ || !$parser->is_good_plan } $parser->parse_errors;
	push @errors, $how if $status && !($failed && ($status >> 8) == $failed);
	if (@errors && !($parser->skip_all && !$status)) { $failed++; push @bad, @errors; }
}
printf "%-6s %s (%s%s, %.1f s)\n", $failed ? 'not ok' : 'ok', $name,
  $tests == 0 && $parser->skip_all ? 'skipped: ' . $parser->skip_all
  : $tests ? "$tests tests" : '1 test',
  $skipped ? ", $skipped of them skipped" : '', time - $start;
if ($failed)
{
	print "       $_\n" for @bad;
	open my $in, '<', $log or die;
	my @lines = <$in>;
	splice @lines, 0, @lines - 60 if @lines > 60;
	print "       the end of its output:\n", map { "       | $_" } @lines;
}
open my $c, '>>', $counts or die "$counts: $!";
print $c "$passed $failed\n";
exit($failed ? 1 : 0);
