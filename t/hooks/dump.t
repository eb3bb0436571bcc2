# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# NanoMDMDump: bodies in a file and in a pipe, whole records whoever writes, and not for everybody;
# what goes wrong with them is not the devices' trouble.
use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(time);

use NanoMDM::Test;

my $program = var('scratch') . "/dump-$$.pl";
spew($program, <<"END_PROGRAM");
#!$^X
open my \$out, '>>', \$ARGV[0] or die;
while (sysread STDIN, my \$text, 65536) { syswrite \$out, \$text }
END_PROGRAM
chmod 0755, $program;
my $locations = <<"END_CONFIG";
<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/migration">
    SetHandler nanomdm-migration
    AuthType Basic
    AuthName "nanomdm"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
\@api\@
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(ports => ['pipe', 'moved', 'full'], config => <<"END_CONFIG"));
NanoMDMDump "\@dir\@/dump.log"
$locations
<VirtualHost 127.0.0.1:\@pipe_port\@>
    NanoMDMDump "|$program \@dir\@/piped.log"
</VirtualHost>
<VirtualHost 127.0.0.1:\@moved_port\@>
    NanoMDMDump "\@dir\@/dumps/dump.log"
</VirtualHost>
<VirtualHost 127.0.0.1:\@full_port\@>
    NanoMDMDump /dev/full
</VirtualHost>
END_CONFIG
my ($file, $piped, $moved) = map { "$httpd->{dir}/$_.log" } qw(dump piped dumps/dump);
mkdir "$httpd->{dir}/dumps" or die $!;
spew($moved, "from before\n");
chmod 0664, $moved;
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

# The records of a dump, each { direction, id, trace, body }; dies where one is not whole.
sub records {
    my ($text) = @_;
    my @records;
    while (length $text) {
        $text =~ s/\A\n== (\d{4}-\d\d-\d\dT\S+Z) (in|out) id="([^"]*)" trace=(\S+) bytes=(\d+)\n//
            or die 'no record: ' . substr $text, 0, 100;
        push @records, { direction => $2, id => $3, trace => $4, body => substr $text, 0, $5, '' };
        $text =~ s/\A\n// or die 'a record is not whole';
    }
    return @records;
}

# The program that the pipe leads to.
sub program {
    return grep {
        open my $fh, '<', "/proc/$_/cmdline";
        $fh && (<$fh> // '') =~ /\Q$program\E\0/;
    } $httpd->children;
}

my $device = enroll(device());
my @records = records(slurp($file));
is(join(' ', map { $_->{direction} } @records), 'in out in out', 'each message and its reply');
is($records[0]{body}, checkin_plist($device, 'Authenticate'), 'the body as it came');
is($records[0]{id}, $device->{id}, '… and from whom');
is((stat $file)[2] & 07777, 0600, 'for its owner alone');
is((stat $moved)[2] & 07777, 0660, '… one that was there is for the world no more');
my $r = checkin($device, 'SetBootstrapToken', BootstrapToken => data('secret'));
is((records(slurp($file)))[-2]{trace}, $r->{headers}{'x-trace-id'}, 'the trace id');
my ($command) = command_plist('ProfileList');
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", $command), 200, 'a command');
report($device);
@records = records(slurp($file));
is("$records[-1]{direction} $records[-1]{body}", "out $command", '… handed out in a reply');
my $migrated = device();
is_status(api(PUT => 'migration', checkin_plist($migrated, 'Authenticate'), base => '/',
    headers => ['Content-Type' => 'application/x-apple-aspen-mdm-checkin']), 200, 'a migration');
@records = records(slurp($file));
is("$records[-2]{direction} $records[-2]{id} $records[-1]{direction}", "in $migrated->{id} out", '… too');
is_status(report($device, UDID => undef), 400, 'a refused message');
is_status(checkin(device(), 'TokenUpdate'), 400, 'one that fails');
is(scalar(records(slurp($file))), @records + 1, '… only the body of that');
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

# half a record, as of a child that was killed
spew($file, slurp($file) . "\n== half");
report($device);
like(slurp($file), qr/^== half\n== \d{4}-.* in id="\Q$device->{id}\E"/m, 'what follows half a record begins a line');

# no space
my $mark = log_mark();
is_status(report($device, -host => 'full'), 200, 'no space: answered') for 1 .. 4;
log_like($mark, qr{NanoMDMDump: /dev/full}, '… and told');
cmp_ok(scalar(() = log_since($mark) =~ m{/dev/full}g), '<', 8, '… but not of each record');

# a program that stands still: the seconds that 48 reports take, which must all be answered
sub seconds {
    my ($host) = @_;
    my $since = time;
    my @statuses = at_once(map {
        sub { join ' ', map { report($device, Text => 'y' x 100_000, -host => $host)->{status} } 1 .. 6 }
    } 1 .. 8);
    is("@statuses", join(' ', (200) x 48), '48 reports are answered');
    return time - $since;
}
{
    my $usual = seconds('');
    $mark = log_mark();
    my ($pid) = program();
    kill 'STOP', $pid;
    cmp_ok(my $hung = seconds('pipe'), '<', $usual * 2 + 12, 'a program that stands still does not hold them up')
        or diag("usually $usual");
    log_like($mark, qr/NanoMDMDump: \|\Q$program\E.* dropped since/, '… but loses records, which is told');
    cmp_ok(scalar(() = log_since($mark) =~ /dropped/g), '<', 30, '… not each time');
    kill 'CONT', $pid;
    my $n = 0;
    ok((eventually { $n++; report($device, Text => "again-$n-", -host => 'pipe'); slurp($piped) =~ /again-$n-/ } 10),
        'records go on when it does');
    unlike(slurp($piped), qr/[^\n]== \d{4}-\d\d-\d\dT/, '… each on a line of its own');

    kill 'KILL', $pid;
    ok((eventually { my ($new) = program(); $new && $new != $pid } 10), 'a killed program is started again');
    report($device, Text => 'after-kill', -host => 'pipe');
    ok((eventually { slurp($piped) =~ /after-kill/ } 10), '… and gets records');
}

# a reload opens it anew, as after a rotation
rename $file, "$file.1" or die $!;
$httpd->signal('USR1');
ok((eventually { $httpd->answers && -e $file }), 'a graceful restart opens it anew');
ok((eventually { report($device); -s $file } 10), '… and writes there');
ok((eventually { report($device, Text => 'after-restart', -host => 'pipe'); slurp($piped) =~ /after-restart/ } 10),
    '… and to the pipe');
system 'rm', '-rf', "$httpd->{dir}/dumps";
my ($exit, $said) = $httpd->run('-t');
isnt($exit, 0, 'configtest sees that a directory is gone');
like($said, qr{NanoMDMDump: the directory of \Q$moved\E does not exist}, '… and says so');
$mark = log_mark();
$httpd->signal('USR1');
log_like($mark, qr{NanoMDMDump: \Q$moved\E cannot be opened}, 'a graceful restart tells of it');
is_status(report($device, -host => 'moved'), 200, '… and goes on without');
$httpd->stop;

# off by default, and a mistake
$httpd->configure($locations);
unlink $file;
ok($httpd->start, 'starts without');
is_status(report($device), 200, 'a report');
ok(!-e $file, 'off by default');
$httpd->stop;
mkdir "$httpd->{dir}/a-directory" or die $!;
for my $case (['/nowhere/at/all/dump.log', 'the directory of %s does not exist'], ["$httpd->{dir}/a-directory", '%s cannot be opened']) {
    my ($name, $why) = ($case->[0], sprintf $case->[1], $case->[0]);
    $httpd->configure("NanoMDMDump $name");
    ($exit, $said) = $httpd->run('-k', 'start');
    isnt($exit, 0, 'a file that cannot be opened: no start');
    like($said . $httpd->log, qr/NanoMDMDump: \Q$why\E/, '… and why');
}
done_testing;
