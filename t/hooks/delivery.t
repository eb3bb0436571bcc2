# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Delivery under faults: nothing is lost, and what an enrollment says arrives in its order.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;
use Time::HiRes qw(sleep time);

my $receiver = NanoMDM::Receiver->new;
my $mortal   = NanoMDM::Receiver->new;
my ($url, $mortal_url) = ($receiver->url, $mortal->url);
my $config = <<"END_CONFIG";
NanoMDMWebhook $url topics=mdm.Connect
NanoMDMWebhook $mortal_url topics=mdm.SetBootstrapToken retry=1s
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
my $httpd = server(NanoMDM::Httpd->new(config => $config));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my @devices = map { enroll(device(), 'enrolled') } 1 .. 3;

my $sent = 0;
sub say_something {
    my ($device, $text) = @_;
    return report($device, Status => 'Acknowledged', CommandUUID => $text // sprintf 'N%05d', ++$sent);
}

# Each device's events so far that were answered with 2xx, without repetitions: uuids by device.
sub arrived {
    my ($from) = @_;
    my (%list, %seen);
    my @requests = $receiver->requests($from);
    my @events   = $receiver->events($from);
    for my $i (0 .. $#events) {
        next unless ($requests[$i]{answer} // 0) == 200;
        my $inner = $events[$i]{inner};
        push @{ $list{ $inner->{ids}{id} } }, $inner->{command_uuid}
            unless $seen{ $events[$i]{event_id} }++;
    }
    return \%list;
}

# All that was said arrived, in its order.
sub all_arrived {
    my ($from, $said, $name, $seconds) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $total = 0;
    $total += @$_ for values %$said;
    eventually { my $n = 0; $n += @$_ for values %{ arrived($from) }; $n >= $total } $seconds || 30;
    return is_deeply(arrived($from), $said, $name) || diag(substr $httpd->log, -3000);
}

# Three events of each device while the receiver does this; then it is mended.
sub trouble {
    my ($name, $before, $after) = @_;
    my ($from, $mark, %said) = ($receiver->count, log_mark());
    $before->();
    for (1 .. 3) {
        for my $device (@devices) {
            my $since = time;
            my $r = say_something($device);
            is($r->{status}, 200, "$name: a report") or diag($r->{body});
            cmp_ok(time - $since, '<', 1.5, '… waits for nobody');
            push @{ $said{ $device->{id} } }, sprintf 'N%05d', $sent;
        }
    }
    log_like($mark, qr/was not delivered and will be tried again/, "$name: it is logged");
    $after->();
    all_arrived($from, \%said, "$name: all arrives, in order", 45);
    return;
}

my $ok = sub { $receiver->answer(status => 200) };
trouble('down', sub { $receiver->down }, sub { $receiver->up });
trouble('500', sub { $receiver->answer(status => 500) }, $ok);
trouble('garbage', sub { $receiver->answer(raw => "this is not HTTP\r\n\r\n") }, $ok);
trouble('closing early', sub { $receiver->answer(raw => '') }, $ok);
trouble('half a reply', sub { $receiver->answer(raw => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nha") }, $ok);
my $elsewhere = NanoMDM::Receiver->new;
trouble('redirect', sub { $receiver->answer(status => 307, headers => [Location => $elsewhere->url]) }, $ok);
is($elsewhere->count, 0, 'a redirect is not followed');

# the same event has the same id each time
{
    my $from = $receiver->count;
    $receiver->answer(status => 503);
    say_something($devices[0]);
    ok((eventually { $receiver->count >= $from + 3 } 20), 'tried three times');
    my @events = $receiver->events($from);
    my %ids = map { ($_->{event_id} => 1) } @events;
    is(scalar keys %ids, 1, '… as the same event');
    my @at = map { $_->{at} } $receiver->requests($from);
    cmp_ok($at[1] - $at[0], '>=', 0.7, '… after a while');
    cmp_ok($at[2] - $at[1], '>=', 1.4, '… then after more than that ever is');
    $receiver->answer(status => 200);
    all_arrived($from, { $devices[0]{id} => [sprintf 'N%05d', $sent] }, '… and arrives');
}

# a slow receiver
{
    my ($from, %said) = ($receiver->count);
    $receiver->answer(status => 200, delay => 0.7);
    for my $device (@devices) {
        say_something($device);
        push @{ $said{ $device->{id} } }, sprintf 'N%05d', $sent;
    }
    my $since = time;
    all_arrived($from, \%said, 'slow: all arrives');
    my @requests = $receiver->requests($from);
    cmp_ok($requests[-1]{at} - $requests[0]{at}, '<', 0.6, '… enrollments at the same time');
    $receiver->answer(status => 200);
}

# one event that always fails keeps that enrollment's, and nobody else's
{
    my $from = $receiver->count;
    $receiver->answer(status => 500, match => 'POISON');
    say_something($devices[0], 'POISON');
    say_something($devices[0], 'BEHIND');
    my %said;
    for (1 .. 20) {
        say_something($devices[1]);
        push @{ $said{ $devices[1]{id} } }, sprintf 'N%05d', $sent;
    }
    all_arrived($from, \%said, 'a poisonous event: others arrive');
    ok(db_value('SELECT count(*) FROM mdm_webhook_outbox WHERE webhook = ?', $url) >= 2, '… it waits, with the one behind');
    $receiver->answer(status => 200);
    all_arrived($from, { %said, $devices[0]{id} => [qw(POISON BEHIND)] }, '… and arrives', 70);
}

# given up
{
    my $mark = log_mark();
    $mortal->answer(status => 500, match => 'deadbeef');
    checkin($devices[0], 'SetBootstrapToken', BootstrapToken => data('x'), Note => 'deadbeef');
    checkin($devices[0], 'SetBootstrapToken', BootstrapToken => data('y'));
    ok((eventually { log_since($mark) =~ /is given up and stays in mdm_webhook_outbox: the receiver answered 500/ } 20),
        'retry=1s: given up') or diag(log_since($mark));
    ok((eventually { grep { $_->{payload} !~ /deadbeef/ } $mortal->events } 20), '… the next one arrives');
    is_deeply(db('SELECT topic, id, error FROM mdm_webhook_outbox WHERE due_ms IS NULL AND webhook = ?', $mortal_url),
        [{ topic => 'mdm.SetBootstrapToken', id => $devices[0]{id}, error => 'the receiver answered 500' }],
        '… it is in the table');
    $mortal->answer(status => 200);
    my $n = $mortal->count;
    my $dbh = NanoMDM::Database::connect_to($httpd->{dsn} // "dbi:SQLite:dbname=$httpd->{database}");
    $dbh->do('UPDATE mdm_webhook_outbox SET due_ms = 0, error = NULL WHERE due_ms IS NULL');
    $dbh->disconnect;
    ok((eventually { $mortal->count > $n } 20), '… and comes after all once asked');
    like(($mortal->events)[-1]{payload}, qr/deadbeef/, '… as it was');
}

# a child that is killed with events on their way
for my $turn (1 .. 2) {
    my ($from, %said) = ($receiver->count);
    $receiver->answer(status => 200, delay => 1);
    for (1 .. 2) {
        for my $device (@devices) {
            my $r = say_something($device);
            push @{ $said{ $device->{id} } }, sprintf 'N%05d', $sent if $r->{status} == 200;
        }
    }
    kill 'KILL', $httpd->children;
    $receiver->answer(status => 200);
    # its leases would last two minutes: what no clock needs to wait for
    my $dbh = NanoMDM::Database::connect_to($httpd->{dsn} // "dbi:SQLite:dbname=$httpd->{database}");
    cmp_ok(db_value("SELECT count(*) FROM mdm_webhook_leases"), '>', 0, 'a dead child left leases behind')
        if $turn == 1;
    $dbh->do('UPDATE mdm_webhook_leases SET until_ms = 0');
    $dbh->disconnect;
    all_arrived($from, \%said, "children killed: all arrives, in order", 30);
}

# a graceful restart in the middle
{
    my ($from, %said) = ($receiver->count);
    $receiver->answer(status => 200, delay => 0.2);
    for my $n (1 .. 5) {
        for my $device (@devices) {
            say_something($device);
            push @{ $said{ $device->{id} } }, sprintf 'N%05d', $sent;
        }
        if ($n == 3) {
            kill 'USR1', $httpd->{pid};
        }
    }
    all_arrived($from, \%said, 'a graceful restart: all arrives, in order', 60);
    $receiver->answer(status => 200);
}

# Idle reports that are only in memory at the end; others may come again, since nobody knows whether
# they arrived
{
    my $from = $receiver->count;
    my $crash = 0;
    $receiver->answer(status => 500);
    # A child of the event MPM that is stopped right after a request crashes now and then, before its
    # own end has begun; then they are lost, and the leases of the dead child last for two minutes.
    for my $attempt (1 .. 3) {
        my $mark = log_mark();
        $httpd->start if $attempt > 1;
        is_status(report($_), 200, 'idle') for @devices;
        sleep 0.5;
        $httpd->stop;
        last if log_since($mark) !~ /exit signal/;
        $crash = 1;
    }
    $receiver->answer(status => 200);
    ok($httpd->start, 'starts again');
    my $idle = sub {
        my @requests = $receiver->requests($from);
        my @events   = $receiver->events($from);
        my %ids = map { ($events[$_]{event_id} => 1) }
            grep { $requests[$_]{answer} == 200 && $events[$_]{inner}{status} eq 'Idle' } 0 .. $#events;
        return scalar keys %ids;
    };
    # more, if a child stored some and crashed then
    ok((eventually { $crash ? $idle->() >= 3 : $idle->() == 3 } ($crash ? 200 : 75)), '… and the idle reports arrive')
        or diag($idle->());
}
# of ours: other suites may share the database
for my $table (qw(outbox leases)) {
    ok((eventually { db_value("SELECT count(*) FROM mdm_webhook_$table WHERE webhook IN (?, ?)", $url, $mortal_url) == 0 } 10),
        "nothing is left: $table");
}
$httpd->stop;
done_testing;
