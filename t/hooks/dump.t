# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# NanoMDMDump: bodies in a file and in a pipe, whole records whoever writes, and not for everybody.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $program = var('scratch') . "/dump-$$.pl";
spew($program, <<"END_PROGRAM");
#!$^X
open my \$out, '>>', \$ARGV[0] or die;
while (sysread STDIN, my \$text, 65536) { syswrite \$out, \$text }
END_PROGRAM
chmod 0755, $program;
my $httpd = server(NanoMDM::Httpd->new(ports => ['pipe'], config => <<"END_CONFIG"));
NanoMDMDump "\@dir\@/dump.log"
<Location "/mdm">
    SetHandler nanomdm
</Location>
<VirtualHost 127.0.0.1:\@pipe_port\@>
    NanoMDMDump "|$program \@dir\@/piped.log"
</VirtualHost>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my ($file, $piped) = ("$httpd->{dir}/dump.log", "$httpd->{dir}/piped.log");

# The records of a dump, each { direction, id, trace, body }; dies where one is not whole.
sub records {
    my ($text) = @_;
    my @records;
    while (length $text) {
        $text =~ s/\A== (\d{4}-\d\d-\d\dT\S+Z) (in|out) id="([^"]*)" trace=(\S+) bytes=(\d+)\n//
            or die 'no record: ' . substr $text, 0, 100;
        push @records, { direction => $2, id => $3, trace => $4, body => substr $text, 0, $5, '' };
        $text =~ s/\A\n// or die 'a record is not whole';
    }
    return @records;
}

my $device = enroll(device());
my @records = records(slurp($file));
is(join(' ', map { $_->{direction} } @records), 'in out in out', 'each message and its reply');
is($records[0]{body}, checkin_plist($device, 'Authenticate'), 'the body as it came');
is($records[0]{id}, $device->{id}, '… and from whom');
is((stat $file)[2] & 07777, 0600, 'for its owner alone');
my $r = checkin($device, 'SetBootstrapToken', BootstrapToken => data('secret'));
is((records(slurp($file)))[-2]{trace}, $r->{headers}{'x-trace-id'}, 'the trace id');
log_unlike(0, qr/<plist/, 'nothing of it in the log');

# at once, with bodies far larger than what a pipe takes
for my $case (['file', '', $file], ['pipe', 'pipe', $piped]) {
    my ($name, $host, $log) = @$case;
    my @statuses = at_once(map {
        my $n = $_;
        sub { join ' ', map { report($device, Status => 'Acknowledged', CommandUUID => "$n-$_",
            Text => $n x 300_000, -host => $host)->{status} } 1 .. 3 }
    } 0 .. 7);
    is("@statuses", join(' ', (200) x 24), "$name: 24 reports at once");
    my $found = sub {
        my %found;
        for my $record (eval { records(slurp($log)) }) {
            my ($uuid) = $record->{body} =~ m{<string>(\d-\d)</string>} or next;
            my ($n) = $uuid =~ /^(\d)/;
            $found{$uuid}++ if index($record->{body}, '<string>' . $n x 300_000 . '</string>') > 0;
        }
        return scalar keys %found;
    };
    ok((eventually { $found->() == 24 } 10), '… are all there, whole') or diag($found->());
}

# a reload opens it anew, as after a rotation
rename $file, "$file.1" or die $!;
$httpd->signal('USR1');
ok((eventually { $httpd->answers && -e $file }), 'a graceful restart opens it anew');
ok((eventually { report($device); -s $file } 10), '… and writes there');
$httpd->stop;

# off by default, and a mistake
$httpd->configure("<Location \"/mdm\">\nSetHandler nanomdm\n</Location>");
unlink $file;
ok($httpd->start, 'starts without');
is_status(report($device), 200, 'a report');
ok(!-e $file, 'off by default');
$httpd->stop;
$httpd->configure('NanoMDMDump /nowhere/at/all/dump.log');
my ($exit, $said) = $httpd->run('-k', 'start');
isnt($exit, 0, 'a file that cannot be opened: no start');
like($said . $httpd->log, qr{NanoMDMDump: /nowhere/at/all/dump.log cannot be opened}, '… and why');
done_testing;
