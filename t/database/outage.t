# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A database server that ends its connections, stops, is killed, and comes back: requests fail with
# 503 and Retry-After in a bounded time, never with what a device takes for a refusal, and only while
# there is no server. No reload is needed. What was acknowledged is kept, and delivered once.
#
# Databases: pgsql mysql

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NanoMDM::Database ();
use NanoMDM::Test;

my $database = NanoMDM::Database->new(var('nanomdm_driver'), var('scratch') . "/outage-$$")->start;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$database->{params}"
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMAPIKey            file:\@scratch\@/api.key
NanoMDMLastSeenInterval  200ms
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
\@api\@
<Location "/version">
    SetHandler nanomdm-version
</Location>
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my @device = map { enroll(device(source => 'header')) } 1 .. 4;

# All connections but ours are ended by the server.
sub end_connections {
    my $dbh = $database->connect;
    my $n = 0;
    if ($database->{driver} eq 'pgsql') {
        $n = $dbh->selectall_arrayref('SELECT pg_terminate_backend(pid) FROM pg_stat_activity'
            . ' WHERE usename = current_user AND pid <> pg_backend_pid()');
        return scalar @$n;
    }
    my $mine = $dbh->selectrow_array('SELECT CONNECTION_ID()');
    for my $row (@{ $dbh->selectall_arrayref('SHOW PROCESSLIST') }) {
        $n++ if $row->[0] != $mine && $row->[1] eq 'nanomdm' && eval { $dbh->do("KILL $row->[0]") };
    }
    return $n;
}

sub enqueue {
    my ($device) = @_;
    my ($text, $uuid) = command_plist('ProfileList');
    return (api(PUT => "enqueue/$device->{id}?nopush=1", $text), $uuid);
}

# Everything that talks to the database, eight times at once: the statuses.
sub all_at_once {
    my ($device) = @_;
    return join ' ', at_once(
        (sub { report($device)->{status} }) x 3,
        (sub { checkin($device, 'TokenUpdate')->{status} }) x 2,
        (sub { (enqueue($device))[0]{status} }) x 3);
}

my $good = join ' ', ('200') x 8;
is(all_at_once($device[0]), $good, 'requests at once');

# connections ended while nobody uses them
for my $turn (1 .. 3) {
    cmp_ok(end_connections(), '>', 0, "the server ends all connections ($turn)");
    is(all_at_once($device[0]), $good, '… and the next requests succeed');
    end_connections();
    is_status(report($device[0]), 200, '… a single one: Idle');
    end_connections();
    is_status((enqueue($device[0]))[0], 200, '… enqueue');
    end_connections();
    is_status(checkin($device[0], 'TokenUpdate'), 200, '… TokenUpdate');
}

# no server
sub is_down {
    my ($how) = @_;
    for my $case (
        ['Idle',        sub { report($device[0]) }],
        ['TokenUpdate', sub { checkin($device[0], 'TokenUpdate') }],
        ['enqueue',     sub { (enqueue($device[0]))[0] }],
    ) {
        my ($name, $code) = @$case;
        my $begun = time;
        my $r = $code->();
        is_status($r, 503, "$how: $name");
        ok($r->{headers}{'retry-after'}, '… with Retry-After');
        cmp_ok(time - $begun, '<', 5, '… within 5 s');
    }
    my $begun = time;
    is(all_at_once($device[0]), join(' ', ('503') x 8), "$how: requests at once");
    cmp_ok(time - $begun, '<', 5, '… within 5 s');
    $begun = time;
    is_status(request(GET => '/version'), 200, "$how: /version");
    cmp_ok(time - $begun, '<', 1, '… at once');
}

for my $case (['stopped'], ['killed', 'KILL']) {
    my ($how, $signal) = @$case;
    $database->stop($signal);
    is_down($how);
    $database->start;
    is(all_at_once($device[0]), $good, "$how and started again: all requests succeed, without a reload");
    $database->stop($signal);
    $database->start;
    is(all_at_once($device[0]), $good, '… also when nobody saw that it was gone');
}

# all of it under load: commands come and go, and the server does what it likes
my $end = time + 8;
my %seen;
my @work = map {
    my $device = $_;
    sub {    # one device's commands; what was acknowledged
        my @lines;
        while (time < $end) {
            my ($r, $uuid) = enqueue($device);
            push @lines, "enqueue $r->{status} $uuid";
            sleep 0.1;
        }
        return join "\n", @lines;
    }, sub {    # the device
        my ($done, @lines) = ('');
        while (time < $end) {
            my $r = report($device, $done ? (Status => 'Acknowledged', CommandUUID => $done) : ());
            push @lines, "report $r->{status} $done";
            next if $r->{status} != 200;    # say it again, as devices do
            ($done) = $r->{body} =~ m{<key>CommandUUID</key>\s*<string>([^<]*)};
            push @lines, "command 200 $done" if $done;
            sleep 0.02 unless $done //= '';
        }
        return join "\n", @lines;
    }
} @device;
my @texts = at_once(@work, sub {
    for (1 .. 6) { sleep 0.3; end_connections() }
    return '';
}, sub {
    sleep 3;
    $database->stop;
    sleep 1;
    $database->start;
    sleep 1;
    $database->stop('KILL');
    sleep 1;
    $database->start;
    return '';
});
is("@texts[-2, -1]", ' ', 'connections ended, the server stopped, killed and started, under load');
my %status;
my (%acknowledged, %delivered, %finished);
for my $n (0 .. $#device) {
    my $id = $device[$n]{id};
    for my $line (map { split /\n/ } @texts[ 2 * $n, 2 * $n + 1 ]) {
        my ($what, $status, $uuid) = split / /, $line;
        $status{$status}++ unless $what eq 'command';
        $acknowledged{$uuid} = $id if $what eq 'enqueue' && $status == 200;
        if ($what eq 'command') {
            $delivered{$uuid} = $id;
            fail("$uuid came again after its result was accepted") if $finished{$uuid};
        }
        $finished{$uuid}++ if $what eq 'report' && $status == 200 && $uuid;
    }
}
is(join(' ', grep { !/^(200|503)$/ } sort keys %status), '', '… no status but 200 and 503')
    or diag(join ', ', map { "$_: $status{$_}" } sort keys %status);
cmp_ok($status{200}, '>', 50, '… and some work was done');
server($httpd);    # with a new connection to look in
for my $device (@device) {
    my $r = report($device);
    while ($r->{status} == 200 && $r->{body} =~ m{<key>CommandUUID</key>\s*<string>([^<]*)}) {
        fail("$1 came again after its result was accepted") if $finished{$1};
        $delivered{$1} = $device->{id};
        $finished{$1}++;
        $r = report($device, Status => 'Acknowledged', CommandUUID => $1);
    }
    is_status($r, 200, '… the rest is delivered');
}
my @lost = grep { ($delivered{$_} // '') ne $acknowledged{$_} } keys %acknowledged;
is("@lost", '', '… every command that was acknowledged was delivered');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE active = TRUE'), 0, '… and none is left');
is(db_value('SELECT count(*) FROM enrollment_queue AS q LEFT JOIN command_results AS r'
    . ' ON r.id = q.id AND r.command_uuid = q.command_uuid WHERE r.id IS NULL'), 0,
    '… nor half-done');
$httpd->stop;
$database->stop;

done_testing;
