# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A database that somebody else holds: requests wait for a bounded time, those that need no
# database not at all, and afterwards all is well.
#
# Databases: sqlite3 (a lock on its file)

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NanoMDM::Test;

my $httpd = server(NanoMDM::Httpd->new(config => <<'END_CONFIG'));
<Location "/mdm">
    SetHandler nanomdm
</Location>
@api@
<Location "/version">
    SetHandler nanomdm-version
</Location>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->log);
my $device = enroll(device());
my $id = $device->{id};
my ($first, $first_uuid) = command_plist('ProfileList');
is_status(api(PUT => "enqueue/$id?nopush=1", $first), 200, 'a command');

sub timed {
    my ($code) = @_;
    my $begun = time;
    return ($code->(), time - $begun);
}

# A process that holds the lock for 8 s; it tells when it has it.
sub lock_database {
    pipe my $out, my $in or die;
    my $pid = fork() // die;
    if (!$pid) {
        require DBI;
        require POSIX;
        my $lock = DBI->connect("dbi:SQLite:dbname=$httpd->{database}", '', '', { RaiseError => 1 });
        $lock->do('BEGIN EXCLUSIVE');
        syswrite $in, 'x';
        sleep 8;
        $lock->do('ROLLBACK');
        POSIX::_exit(0);
    }
    sysread $out, my $byte, 1;
    return ($pid, time);
}

my ($pid, $begun) = lock_database();
my ($command, $uuid) = command_plist('CertificateList');
my ($r, $seconds) = timed(sub { api(PUT => "enqueue/$id?nopush=1", $command) });
is_status($r, 503, 'enqueue while the database is locked');
ok($r->{headers}{'retry-after'}, '… with Retry-After');
ok($r->{json}{command_error}, '… and command_error');
cmp_ok($seconds, '<', 6, '… within 6 s');

# requests at once, more than one child: those that write wait, the rest does not wait for them
my @writers;
for (1 .. 3) {
    my $writer = fork() // die;
    if (!$writer) {
        require POSIX;
        my ($reply, $took) = timed(sub {
            report($device, Status => 'Acknowledged', CommandUUID => $first_uuid) });
        POSIX::_exit($reply->{status} == 503 && $reply->{headers}{'retry-after'} && $took < 6 ? 0 : 1);
    }
    push @writers, $writer;
}
sleep 0.3;
($r, $seconds) = timed(sub { request(GET => '/version') });
is_status($r, 200, '/version meanwhile');
cmp_ok($seconds, '<', 1, '… at once');
for my $writer (@writers) {
    waitpid $writer, 0;
    is($? >> 8, 0, 'a report with a result: 503 with Retry-After within 6 s');
}
cmp_ok(time - $begun, '<', 8, 'the lock was held all the time') or diag(time - $begun);
waitpid $pid, 0;

is_status(api(PUT => "enqueue/$id?nopush=1", $command), 200, 'after the lock is gone: enqueue');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $uuid), 1, '… queues once');
$r = report($device, Status => 'Acknowledged', CommandUUID => $first_uuid);
is_status($r, 200, '… the result');
is($r->{body}, $command, '… and the next command');
is(db_value('SELECT count(*) FROM command_results WHERE id = ?', $id), 1, '… is stored once');

# a stop while the database is locked, and something is left to write: bounded too
$httpd->configure("NanoMDMLastSeenInterval 1h\n$httpd->{config}");
ok(defined $httpd->signal('USR1'), 'an hour between writes of last seen');
ok(eventually { report($device)->{status} == 200 }, 'an Idle');
($pid) = lock_database();
$begun = time;
$seconds = $httpd->signal('TERM');
ok(defined $seconds && $seconds < 6, 'a stop with a locked database: the children end within 6 s')
    or diag($seconds // 'more than 15');
$httpd->stop;
unlike($httpd->log, qr/SIGKILL/, '… and none had to be killed');
kill 'TERM', $pid;
waitpid $pid, 0;

done_testing;
