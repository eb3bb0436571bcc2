# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A fleet at work while the receiver of its events comes and goes, children of httpd are killed and
# httpd is restarted: each message is delivered, in order per device, and nothing else is.
#
# What was said is known from three sources that have nothing to do with events: httpd's access log,
# the module's line for each message, which a child that was killed may have written before it could
# reply, and the results in the database. An Idle report may be lost with a killed child, but with no
# other.
#
# NANOMDM_SOAK_SECONDS=120 makes it long: 200 devices for so many seconds, instead of 20 for 15.
# Databases: sqlite3 pgsql (each run takes long)
# MPMs: event worker (each run takes long)

use strict;
use warnings FATAL => 'all';

use List::Util  qw(sum0);
use Time::HiRes qw(sleep time);

use NanoMDM::Database ();
use NanoMDM::Fleet;
use NanoMDM::Httpd    ();
use NanoMDM::Receiver ();
use NanoMDM::Test;

my $long        = $ENV{NANOMDM_SOAK_SECONDS};
my $seconds     = $long || 15;
my $devices     = $long ? 200 : 20;
my $slow        = $long ? 3 : 1;      # faults are so much rarer
my $concurrency = 4;

my $receiver = NanoMDM::Receiver->new;
my $url      = $receiver->url;
my $httpd    = server(NanoMDM::Httpd->new(config => <<"END_CONFIG"));
NanoMDMWebhook $url
ErrorLogFormat "[%{cu}t] [%-m:%l] [pid %P:tid %T] [id %-{UNIQUE_ID}e] %M"
LogFormat "%{usec}t %P %>s %{UNIQUE_ID}e %U" soak
CustomLog "\@dir\@/soak_log" soak
<Location "/mdm">
    SetHandler nanomdm-command
</Location>
<Location "/checkin">
    SetHandler nanomdm-checkin
</Location>
\@api\@
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $base   = 'http://127.0.0.1:' . $httpd->port;
my @server = ('--url', $base, '--retries', 12, '--concurrency', $concurrency);
my $prefix = 'soak-' . uuid() . '-';
my $dir    = fleet_dir();
fleet_ok("$devices devices", 'make', $dir, '--devices', $devices, qw(--key ec), fleet_authority());

# The leases of killed children would last two minutes: what no clock needs to wait for. One that is
# two seconds old is of a dead child; or of a slow one, and then its events come twice, in order still.
sub free_leases {
    my ($dbh) = @_;
    $dbh->do(q{UPDATE mdm_webhook_leases SET until_ms = 0 WHERE webhook = ? AND owner <> '-' AND until_ms < ?},
        undef, $url, int(time * 1000) + 118_000);
    return;
}

sub connect_to_database {
    return NanoMDM::Database::connect_to($httpd->{dsn} // "dbi:SQLite:dbname=$httpd->{database}");
}

# --- the soak -------------------------------------------------------------------------------

sub speak {    # the devices: enroll, then work, as their commands are queued
    my ($end) = @_;
    my ($exit, $said) = fleet('enroll', $dir, @server);
    return "1 $said" if $exit;
    my ($queue, $run) = at_once(
        sub {
            for (my $n = 0 ; time < $end ; $n++) {
                my ($failed, $why) = fleet('enqueue', $dir, '--api-url', "$base/v1/", '--api-key',
                    var('apikey'), '--uuid-prefix', "$prefix$n-", qw(--retries 12));
                return $why if $failed;
                sleep $slow;
            }
            return '';
        },
        sub {
            my $left = $end - time;
            my ($failed, $why) = fleet('run', $dir, @server, '--duration', $left > 1 ? int $left : 1,
                '--rate', 2 * $devices / $slow, qw(--not-now 0.1 --error 0.1), '--uuid-prefix', $prefix);
            return $failed ? $why : '';
        },
    );
    return ($queue . $run ? '1 ' : '0 ') . $queue . $run;
}

sub come_and_go {    # the receiver; it is another process's child from here on
    my ($end) = @_;
    my $times = 0;
    while (time < $end) {
        $receiver->up;
        sleep $slow * (0.2 + rand 1.2);
        $receiver->down;
        $times++;
        sleep $slow * (0.1 + rand 0.9);
    }
    return $times;
}

sub kill_and_restart {    # the process ids of those killed, and the number of restarts
    my ($end) = @_;
    my $dbh = connect_to_database();
    my ($restarts, @killed) = (0);
    while (time < $end) {
        sleep $slow * (0.5 + rand 1);
        if (rand 4 < 1) {
            $restarts += kill 'USR1', $httpd->{pid};
        }
        else {
            push @killed, $httpd->kill_child;
        }
        free_leases($dbh);
    }
    return join ' ', $restarts, grep { length } @killed;
}

$receiver->down;
my $end = time + $seconds;
my ($fleet, $stops, $harm) = at_once(map { my $code = $_; sub { $code->($end) } } \&speak, \&come_and_go,
    \&kill_and_restart);
my ($exit, $faults) = split / /, $fleet, 2;
is($exit, 0, 'the devices find no fault') or diag($faults);
cmp_ok($stops, '>', 3, 'the receiver was stopped');
my ($restarts, @killed) = split / /, $harm;
cmp_ok(scalar @killed, '>', 3, 'children of httpd were killed') or diag($harm);

$receiver->up;
fleet_ok('what is left to answer', 'run', $dir, @server, '--until-idle', '--uuid-prefix', $prefix);
fleet_ok('check out', 'checkout', $dir, @server);
my $dbh = connect_to_database();
sleep 1;    # Idle reports reach the table
my $since = time;
my $waits = sub { db_value('SELECT count(*) FROM mdm_webhook_outbox WHERE webhook = ?', $url) };
ok((eventually { free_leases($dbh); !$waits->() } 100), 'in the end no event waits')
    or diag($waits->(), ' do', substr $httpd->log, -3000);
my $drained = time - $since;

# --- what was said --------------------------------------------------------------------------

my %message;    # by event id: status, pid, at (microseconds), kind
for (split /\n/, slurp("$httpd->{dir}/soak_log")) {
    my ($at, $pid, $status, $id, $path) = split / /;
    $message{$id} = { at => $at, pid => $pid, status => $status } if $path !~ m{^/v1/};
}
for (grep { / message=/ } split /\n/, $httpd->log) {
    my ($pid, $id, $kind, $text) = /\[pid (\d+):.*?\[id (\S+)\] .*?message=(\w+)(.*)/ or next;
    my ($status) = $text =~ / code=(\d+)/;
    $message{$id}{pid}    //= $pid;
    $message{$id}{status} //= $status;
    $message{$id}{kind} = $text =~ / status="Idle"/ ? 'Idle' : $kind;
}
my %killed = map { ($_ => 1) } @killed;
my @said   = grep { $message{$_}{status} == 200 } keys %message;

# --- what arrived ---------------------------------------------------------------------------

my @events = $receiver->heads;
my (%first, %by_device);
for my $event (@events) {
    next if $first{ $event->{event_id} };
    $first{ $event->{event_id} } = $event;
    push @{ $by_device{ $event->{inner}{ids}{id} } }, $event;
}

my @missing = grep { !$first{$_} } @said;
my @lost    = grep { ($message{$_}{kind} // '') eq 'Idle' && $killed{ $message{$_}{pid} } } @missing;
my %lost    = map { ($_ => 1) } @lost;
is_deeply([map { { id => $_, %{ $message{$_} } } } grep { !$lost{$_} } @missing], [],
    'every message that was answered with 200 arrived, but for Idle reports that a killed child had');

my ($ids) = (tool('mdmfleet', 'ids', '--dir', $dir, '--quiet'))[1];
my @results = @{ db('SELECT id, command_uuid, status FROM command_results WHERE command_uuid LIKE ?', "$prefix%") };
my %result  = map { (join(' ', @{ $_->{inner}{ids} }{'id'}, @{ $_->{inner} }{qw(command_uuid status)}) => 1) }
    grep { $_->{inner}{command_uuid} } values %first;
my @silent = grep { !$result{$_} } map { join ' ', @$_{qw(id command_uuid status)} } @results;
cmp_ok(scalar @results, '>', $devices, 'commands have results');
is_deeply(\@silent, [], '… each of which is an event');

# A child that was killed between the end of a transaction and the line in the log.
my @unknown = grep { !$message{$_} } keys %first;
cmp_ok(scalar @unknown, '<=', $concurrency * @killed,
    'an event that no log knows is one that a killed child was busy with')
    or diag(join "\n", @unknown);
is_deeply([grep { $message{$_} && $message{$_}{status} != 200 } keys %first], [],
    'no event of a message that was answered otherwise');
is(scalar(keys %by_device), $devices, 'events of each device');
is_deeply([grep { $_->[-1]{topic} ne 'mdm.CheckOut' }
        map { [grep { ($_->{inner}{status} // '') ne 'Idle' } @$_] } values %by_device], [],
    '… whose last one is its CheckOut');

# A message began after the one before was answered; created_at lies between.
my $disorder = 0;
for my $device (sort keys %by_device) {
    my $before = 0;
    for my $event (@{ $by_device{$device} }) {
        next if ($event->{inner}{status} // '') eq 'Idle';
        my $at = ($message{ $event->{event_id} } || {})->{at} // microseconds($event->{created_at});
        $disorder++ || diag("$device: $event->{event_id} comes late") if $at < $before;
        $before = $at;
    }
}
is($disorder, 0, 'those of a device are in order');

sub microseconds {
    my ($text) = @_;
    my ($date, $fraction) = $text =~ /^(.*)\.(\d{6})Z$/ or die $text;
    require Time::Piece;
    return Time::Piece->strptime($date, '%Y-%m-%dT%H:%M:%S')->epoch * 1e6 + $fraction;
}

my $idle = grep { ($_->{inner}{status} // '') eq 'Idle' } values %first;
note(sprintf '%d messages answered with 200, %d events (%d Idle), %d repeats, %d Idle lost, %d that no log knows;'
        . ' receiver stopped %d times, %d children killed, %d restarts; the last event after %.1f s',
    scalar @said, scalar keys %first, $idle, @events - keys %first, scalar @lost, scalar @unknown, $stops,
    scalar @killed, $restarts, $drained);
$dbh->disconnect;
$httpd->stop;
done_testing;
