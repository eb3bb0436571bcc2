# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A fleet and an API client at work while httpd's children are killed and the database ends
# connections, stops, is killed and comes back: whatever the API has acknowledged is delivered, exactly
# as it was queued, and never again once its result was accepted; no device is refused.

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NanoMDM::Database ();
use NanoMDM::Fleet;
use NanoMDM::Httpd ();
use NanoMDM::Test;

my $devices  = 20;
my $seconds  = 10;
my $driver   = var('nanomdm_driver');
# Of prefork's children most have nothing to do; of event there is one, and httpd looks for the dead
# once a second.
my $pause    = var('mpm') eq 'prefork' ? 0.2 : 0.7;
my $place    = var('scratch') . "/kill-$$";
mkdir $place or die "$place: $!" if $driver eq 'sqlite3';
my $database = NanoMDM::Database->new($driver, $place)->start;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$database->{params}"
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMAPIKey            file:\@scratch\@/api.key
NanoMDMLastSeenInterval  200ms
<Location "/mdm">
    SetHandler nanomdm-command
    NanoMDMIdentity signature
</Location>
<Location "/checkin">
    SetHandler nanomdm-checkin
    NanoMDMIdentity signature
</Location>
\@api\@
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $base   = 'http://127.0.0.1:' . $httpd->port;
my @server = ('--url', $base, qw(--retries 12 --concurrency 6));
my $dir    = fleet_dir();
fleet_ok("$devices devices, each with a user channel", 'make', $dir, '--devices', $devices,
    qw(--users 1 --key ec), fleet_authority());
fleet_ok('enroll', 'enroll', $dir, '--devices', $devices, fleet_authority(), '--url', $base);

# The database ends all connections but ours.
sub end_connections {
    my $dbh = $database->connect;
    if ($driver eq 'pgsql') {
        $dbh->do('SELECT pg_terminate_backend(pid) FROM pg_stat_activity'
            . ' WHERE usename = current_user AND pid <> pg_backend_pid()');
        return;
    }
    my $mine = $dbh->selectrow_array('SELECT CONNECTION_ID()');
    for my $row (@{ $dbh->selectall_arrayref('SHOW PROCESSLIST') }) {
        eval { $dbh->do("KILL $row->[0]") } if $row->[0] != $mine && $row->[1] eq 'nanomdm';
    }
    return;
}

my $end = time + $seconds;
my @texts = at_once(
    sub {    # an API client that repeats what was not acknowledged: how many calls, and their faults
        my ($n, @faults) = (0);
        while (time < $end) {
            my ($exit, $said) = fleet('enqueue', $dir, '--api-url', "$base/v1/", '--api-key',
                var('apikey'), '--uuid-prefix', "kill-$n-", '--batch', 15, '--retries', 12);
            $exit ? push @faults, $said : $n++;
            last if $exit;
            sleep 0.05;
        }
        return "$n @faults";
    },
    sub {    # the devices
        my ($exit, $said, $n) = fleet('run', $dir, @server, '--duration', $seconds,
            qw(--not-now 0.1 --uuid-prefix kill-));
        return join ' ', $exit, map({ $n->{$_} // 0 } 'commands delivered as queued', 'sent again'),
            $said;
    },
    sub {    # httpd's children
        my @killed;
        while (time < $end - 1) {
            sleep $pause;
            push @killed, $httpd->kill_child;
        }
        return join ' ', grep { length } @killed;
    },
    sub {    # the database
        return '' unless $database->is_own;
        for (1 .. 4) { sleep 0.4; end_connections() }
        sleep 0.5;
        $database->stop;
        sleep 0.5;
        $database->start;
        sleep 1;
        $database->stop('KILL');
        sleep 0.5;
        $database->start;
        for (1 .. 2) { sleep 0.4; end_connections() }
        return '';
    },
);
my ($calls, $faults) = split / /, $texts[0], 2;
cmp_ok($calls, '>', 1, 'commands are queued all the time');
is($faults, '', '… and each is acknowledged in the end, with nothing but 200 and 503 on the way');
my ($exit, $delivered, $again, $said) = split / /, $texts[1], 4;
is($exit, 0, 'the devices find no fault') or diag($said);
cmp_ok($delivered, '>', 2 * $devices, '… got commands meanwhile');
cmp_ok($again, '>', 0, '… and had to repeat some messages');
cmp_ok(scalar(split ' ', $texts[2]), '>', 5, 'children of httpd were killed');
is($texts[3], '', 'the database ended connections, stopped, was killed and started') if $database->is_own;

# what is left
fleet_ok('the rest is delivered', 'run', $dir, @server, '--until-idle', '--uuid-prefix', 'kill-');
server($httpd);    # with a new connection to look in
my $all = 2 * $devices * $calls;
is(db_value("SELECT count(*) FROM command_results WHERE status = 'Acknowledged'"), $all,
    '… and so is every command that was acknowledged to the API');
is(db_value('SELECT count(*) FROM enrollment_queue'), $all, '… which are all there are');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE active = TRUE'), 0, '… and none is left');
my %status;
$status{$_}++ for $httpd->access_log =~ m{ HTTP/1\.1 (\d+) id=}g;
is(join(' ', grep { !/^(?:200|503)$/ } sort keys %status), '', 'no status but 200 and 503')
    or diag(join ', ', map { "$_: $status{$_}" } sort keys %status);
$httpd->stop;
$database->stop;

done_testing;
