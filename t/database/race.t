# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Messages that arrive at the same time: one certificate is nobody's twice, one command is queued
# once, and what the database calls a deadlock no device ever sees.

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep);

use NanoMDM::Database;
use NanoMDM::Test;

# new devices with one new certificate: one may have it
for my $turn (1 .. 8) {
    my $first  = device(source => 'header');
    my @device = ($first, map { device(source => 'header', identity => $first->{identity}) } 2 .. 4);
    my @status = at_once(map { my $device = $_; sub { checkin($device, 'Authenticate')->{status} } } @device);
    is("@{[ sort @status ]}", '200 400 400 400', "a new certificate, claimed four times at once ($turn)");
    my $ids = join ', ', ('?') x @device;
    is(db_value("SELECT count(*) FROM cert_auth_associations WHERE id IN ($ids)",
        map { $_->{id} } @device), 1, '… is associated once');
    is(db_value("SELECT count(*) FROM devices WHERE id IN ($ids)", map { $_->{id} } @device), 1,
        '… and the others are not stored');
}

# the same message of one device, as a client repeats it
my $device = device(source => 'header');
is(join(' ', at_once((sub { checkin($device, 'Authenticate')->{status} }) x 4)), '200 200 200 200',
    'Authenticate four times at once');
is(join(' ', at_once((sub { checkin($device, 'TokenUpdate')->{status} }) x 4)), '200 200 200 200',
    'TokenUpdate too');
is(db_value('SELECT token_update_tally FROM enrollments WHERE id = ?', $device->{id}), 4,
    '… and each is counted');

# one command for many, in different orders, many times at once
my @ids = map { my $d = device(source => 'header'); enroll($d); $d->{id} } 1 .. 6;
my ($command, $uuid) = command_plist('ProfileList');
my @orders = (join(',', @ids), join(',', reverse @ids)) x 3;
my @status = at_once(map { my $order = $_;
    sub { api(PUT => "enqueue/$order?nopush=1", $command)->{status} } } @orders);
is("@status", '200 200 200 200 200 200', 'one command, enqueued to the same devices six times at once');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $uuid), 6,
    '… is queued once for each');

# different messages
@status = at_once(
    (map { my $n = $_; sub {
        my ($text) = command_plist('CertificateList');
        api(PUT => "enqueue/$orders[$n]?nopush=1", $text)->{status};
    } } 0 .. 3),
    (sub { checkin($device, 'TokenUpdate')->{status} }) x 2,
    (sub { report($device)->{status} }) x 2,
);
is("@status", join(' ', ('200') x 8), 'enqueue, TokenUpdate and Idle at once');

# a deadlock, made: what the module has waits for us, and we for it
if (var('nanomdm_driver') ne 'sqlite3') {
    my $mysql = var('nanomdm_driver') eq 'mysql';
    my $mark  = log_mark();
    my $dbh   = NanoMDM::Database::connect_to(var('nanomdm_dsn'));
    $dbh->begin_work;
    # MySQL's victim is the one that has changed less.
    $dbh->do('UPDATE enrollments SET token_update_tally = token_update_tally + 1') if $mysql;
    $dbh->do('UPDATE enrollments SET token_update_tally = token_update_tally + 1 WHERE id = ?', undef, $device->{id});
    pipe my $out, my $in or die $!;
    my $pid = fork() // die $!;
    if (!$pid) {
        require POSIX;
        $dbh->{InactiveDestroy} = 1;
        syswrite $in, checkin($device, 'TokenUpdate')->{status};
        POSIX::_exit(0);
    }
    close $in;
    sleep 0.4;    # it has the device's row by now, and waits for the enrollment's
    ok(eval { $dbh->do('UPDATE devices SET serial_number = ? WHERE id = ?', undef, 'DEADLOCK', $device->{id}) },
        'a deadlock, whose victim is the module') or diag($@);
    $dbh->commit;
    sysread $out, my $status, 10;
    waitpid $pid, 0;
    is($status, 200, '… the device does not see it');
    log_unlike($mark, qr/nanomdm:(?:warn|error)/, '… and it is no warning');
    log_like($mark, qr/nanomdm:debug.*failed with code.*(?i:deadlock)/, '… but there was one');
    is(db_value('SELECT serial_number FROM devices WHERE id = ?', $device->{id}), 'DEADLOCK',
        '… and what we wrote is there');
}

done_testing;
