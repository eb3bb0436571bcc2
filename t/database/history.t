# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# NanoMDMHistory: what ended long ago goes, by and by; what a device still waits for, and what ended
# just now, stays.
# MPMs: event worker (each run takes long)

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep);

use NanoMDM::Database;
use NanoMDM::Httpd;
use NanoMDM::Test;

my $config = <<'END';
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
@api@
END
my $httpd = server(NanoMDM::Httpd->new(config => $config));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $pgsql = var('nanomdm_driver') eq 'pgsql';

# Give rows a time of so many days from now. PostgreSQL's triggers would renew it.
sub set_time {
    my ($days, $table, $column, $where, @args) = @_;
    my $time = {
        sqlite3 => "datetime('now', '$days day')",
        pgsql   => "LOCALTIMESTAMP + INTERVAL '$days day'",
        mysql   => "CURRENT_TIMESTAMP + INTERVAL $days DAY",
    }->{ var('nanomdm_driver') };
    db("ALTER TABLE $table DISABLE TRIGGER USER") if $pgsql;
    db("UPDATE $table SET $column = $time WHERE $where", @args);
    db("ALTER TABLE $table ENABLE TRIGGER USER") if $pgsql;
    return;
}

# Make rows look a day old, as far as a table has the times.
sub age { return set_time(-1, @_) }

# All of a command, everywhere.
sub age_command {
    my ($uuid) = @_;
    age('commands', 'created_at', 'command_uuid = ?', $uuid);
    age($_, 'updated_at', 'command_uuid = ?', $uuid) for qw(enrollment_queue command_results);
    return;
}

sub rows {
    my ($table, $uuid, $device) = @_;
    return db_value("SELECT count(*) FROM $table WHERE command_uuid = ?"
        . ($device ? ' AND id = ?' : ''), $uuid, $device ? $device->{id} : ());
}

sub enqueue {
    my (@devices) = @_;
    my ($command, $uuid) = command_plist('ProfileList');
    my $r = api(PUT => 'enqueue/' . join(',', map { $_->{id} } @devices) . '?nopush=1', $command);
    is($r->{status}, 200, 'enqueue');
    return $uuid;
}

# Takes the next command, which must be this one, and answers it.
sub answer {
    my ($device, $uuid, $status, @idle) = @_;
    like(report($device, @idle)->{body}, qr/\Q$uuid\E/, 'the command arrives');
    return report($device, Status => $status, CommandUUID => $uuid);
}

my ($device, $other) = map { my $d = device(source => 'header'); enroll($d); $d } 1 .. 2;

my $finished = enqueue($device);
answer($device, $finished, 'Acknowledged');
my $failed = enqueue($device);
answer($device, $failed, 'Error');
my $shared = enqueue($device, $other);
answer($device, $shared, 'Acknowledged');
my $young = enqueue($device);
answer($device, $young, 'Acknowledged');

# as NanoMDM leaves them: still active
my $active = enqueue($device);
answer($device, $active, 'Acknowledged');
db('UPDATE enrollment_queue SET active = TRUE WHERE command_uuid = ?', $active);

# taken back by a new enrollment: never answered, and answered with NotNow
my $again = device(source => 'header');
enroll($again);
my @cleared = (enqueue($again));
answer($again, $cleared[0], 'NotNow');
push @cleared, enqueue($again);
enroll($again);

my $not_now = enqueue($device);
answer($device, $not_now, 'NotNow');
my $waiting = enqueue($device);

age_command($_) for $finished, $failed, $shared, $active, $not_now, $waiting, @cleared;
# the command itself is old, its result is not; nor will it be before all is seen, on a busy machine
age('commands', 'created_at', 'command_uuid = ?', $young);
set_time(1, $_, 'updated_at', 'command_uuid = ?', $young) for qw(enrollment_queue command_results);

# only now: what new enrollments took back is looked for at a start, and then once a day
$httpd->configure("NanoMDMHistory 10s\n$config");
$httpd->signal('USR1');

ok(&eventually(sub { !grep { rows('commands', $_) } $finished, $failed, $active, @cleared }, 25),
    'what ended long ago is gone');
for my $table (qw(enrollment_queue command_results)) {
    is(join(' ', map { rows($table, $_) } $finished, $failed, $active, @cleared), '0 0 0 0 0',
        "… from $table too");
}
is(rows('enrollment_queue', $shared, $device), 0, "one device's part of a command");
is(rows('command_results', $shared, $device),  0, '… with its result');
is(rows('enrollment_queue', $shared, $other),  1, "… not the other's, which still waits");
is(rows('commands', $shared), 1, '… nor the command');
is(rows($_, $young), 1, "what ended just now stays in $_") for qw(commands enrollment_queue command_results);
is(rows($_, $not_now), 1, "what was put off stays in $_") for qw(commands enrollment_queue command_results);
is(rows($_, $waiting), 1, "what nobody has answered stays in $_") for qw(commands enrollment_queue);

answer($other, $shared, 'Acknowledged');
is(answer($device, $not_now, 'Acknowledged')->{status}, 200, 'the device gets what waited for it');
answer($device, $waiting, 'Acknowledged');

# a whole history, in several batches
my @many = map { enqueue($other) } 1 .. 3;
my ($command, $uuid) = command_plist('ProfileList');
for my $n (1 .. 450) {
    db('INSERT INTO commands (command_uuid, request_type, command) VALUES (?, ?, ?)',
        "$uuid-$n", 'ProfileList', $command);
    db('INSERT INTO enrollment_queue (id, command_uuid, active) VALUES (?, ?, FALSE)',
        $other->{id}, "$uuid-$n");
    db('INSERT INTO command_results (id, command_uuid, status, result) VALUES (?, ?, ?, ?)',
        $other->{id}, "$uuid-$n", 'Acknowledged', '<?xml version="1.0"?>');
}
age('commands', 'created_at', 'command_uuid LIKE ?', "$uuid-%");
age($_, 'updated_at', 'command_uuid LIKE ?', "$uuid-%") for qw(enrollment_queue command_results);
ok(&eventually(sub { !db_value('SELECT count(*) FROM commands WHERE command_uuid LIKE ?', "$uuid-%") }, 25),
    'hundreds go in batches');
answer($other, $_, 'Acknowledged') for @many;
log_unlike(0, qr/\[nanomdm:(?:error|warn)\]/, 'and nothing failed');

# a command that is swept while it is enqueued again; a sweep while another node is at it
if (var('nanomdm_driver') ne 'sqlite3') {
    my $node = NanoMDM::Database::connect_to($httpd->{dsn});
    my ($text, $uuid) = command_plist('ProfileList');
    db('INSERT INTO commands (command_uuid, request_type, command) VALUES (?, ?, ?)', $uuid, 'ProfileList', $text);
    $node->begin_work;
    $node->selectall_arrayref('SELECT 1 FROM commands WHERE command_uuid = ? FOR UPDATE', undef, $uuid);
    $node->do('DELETE FROM commands WHERE command_uuid = ?', undef, $uuid);
    my $pid = open(my $out, '-|') // die $!;
    if (!$pid) {
        require POSIX;
        $node->{InactiveDestroy} = 1;
        syswrite STDOUT, api(PUT => "enqueue/$other->{id}?nopush=1", $text)->{status};
        POSIX::_exit(0);
    }
    sleep 0.7;    # it waits for us
    $node->commit;
    is(<$out>, 200, 'a command that is deleted while it is enqueued');
    close $out;
    is(rows('enrollment_queue', $uuid, $other), 1, '… is queued all the same');
    answer($other, $uuid, 'Acknowledged');

    my $lock = $pgsql ? "SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.history'))"
        : "SELECT GET_LOCK(MD5(CONCAT(DATABASE(), '.history')), 20)";
    $node->begin_work;
    $node->selectall_arrayref($lock);
    my $old = enqueue($other);
    answer($other, $old, 'Acknowledged');
    age_command($old);
    sleep 3;
    is(rows('command_results', $old), 1, 'while another node sweeps, this one does not');
    $node->selectall_arrayref("SELECT RELEASE_LOCK(MD5(CONCAT(DATABASE(), '.history')))") unless $pgsql;
    $node->commit;
    ok(&eventually(sub { !rows('commands', $old) }, 10), '… but then');
}

# another server's database, before its upgrade
if (var('nanomdm_driver') eq 'sqlite3') {
    $httpd->stop;
    db('DROP INDEX command_results_updated_at');
    my $old = "$many[0]";
    my $mark = log_mark();
    ok($httpd->start, 'starts without the index');
    age_command($old);
    log_like($mark, qr/NanoMDMHistory waits: .*nanomdm-schema upgrade/, '… and says what it needs');
    is(rows('commands', $old), 1, '… and does not sweep without');
    is((tool('nanomdm-schema', 'upgrade', '--database', "sqlite3 $httpd->{database}"))[0], 0, '… an upgrade');
    ok(&eventually(sub { !rows('commands', $old) }, 20), '… makes it');
}

done_testing;
