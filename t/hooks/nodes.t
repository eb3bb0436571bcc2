# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Two servers of two processes each, with one database and the same webhook: all deliver, an
# enrollment's events in order and, as long as none dies, once; and one goes on where the other is
# gone.
# MPMs: event worker
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $driver   = var('nanomdm_driver');
my $file     = var('scratch') . "/hook-nodes-$$.db";
my $database = $driver eq 'sqlite3' ? "sqlite3 $file" : '@database@';
my $receiver = NanoMDM::Receiver->new;
my $url      = $receiver->url('/nodes');
my @node     = map { NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG") } 1, 2;
NanoMDMDatabase          $database
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMWebhook           $url topics=mdm.Connect
StartServers        2
MinSpareThreads     9
MaxRequestWorkers   16
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
$_->{dsn} ||= "dbi:SQLite:dbname=$file" for @node;
ok($_->start, 'a server starts') or diag($_->{output}, $_->log) for @node;
server($node[0]);
my @devices = map { enroll(device()) } 1 .. 8;

my (%said, $n);
sub say_something {
    my ($device, $node) = @_;
    my $uuid = sprintf 'N%04d', ++$n;
    server($node);
    my $r = report($device, Status => 'Acknowledged', CommandUUID => $uuid);
    is($r->{status}, 200, 'a report') or diag($r->{body});
    push @{ $said{ $device->{id} } }, $uuid;
    return;
}

sub arrived {
    my %list;
    push @{ $list{ $_->{inner}{ids}{id} } }, $_->{inner}{command_uuid} for $receiver->events;
    return \%list;
}

sub waiting { return db_value('SELECT count(*) FROM mdm_webhook_outbox WHERE webhook = ?', $url) }

sub netstring { return length($_[0]) . ":$_[0]," }

# Each device speaks to both in turn, while the receiver takes its time.
$receiver->answer(status => 200, delay => 0.05);
for my $round (1 .. 10) {
    say_something($devices[$_], $node[($_ + $round) % 2]) for 0 .. $#devices;
}
ok((eventually { !waiting() } 60), 'all is delivered');
is_deeply(arrived(), \%said, '… in order, and once');
my %connections = map { ($_->{id} => 1) } $receiver->requests;
cmp_ok(scalar keys %connections, '>', 4, '… by more connections than one process has');
cmp_ok(scalar keys %connections, '<=', 16, '… which were kept') or diag(join ' ', sort keys %connections);

# Much that waits, and the same leases for both: they do not block each other.
my @mark = map { server($_); log_mark() } @node;
for my $block (1 .. 30) {
    my @ids = map { "MANY-$block-$_" } 1 .. 100;
    db('INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms) VALUES '
        . join(', ', ("(?, ?, 'mdm.Connect', ?, 1)") x 200),
        map { my $id = $_; map { ($url, $id, qq({"topic":"mdm.Connect","event_id":"$id-$_","created_at":"x",)
            . qq("acknowledge_event":{"ids":{"id":"$id"},"command_uuid":"$_","raw_payload":""}}\n)) } 1, 2 } @ids);
    $said{$_} = [1, 2] for @ids;
}
$receiver->answer(status => 200);
ok((eventually { !waiting() } 90), '6,000 events of 3,000 enrollments') or diag(waiting());
is_deeply(arrived(), \%said, '… in order, and once');
for my $i (0, 1) {
    server($node[$i]);
    log_unlike($mark[$i], qr/40P01|40001|code 1213|code 1205/, 'no deadlock');
}

# MariaDB's default from 11.6 on: a row that has changed since a transaction began is an error, and
# deadlocks are met; each transaction is repeated.
my $isolation = $driver eq 'mysql' && db(q(SHOW GLOBAL VARIABLES LIKE 'innodb_snapshot_isolation'))->[0];
if ($isolation && eval { db('SET GLOBAL innodb_snapshot_isolation = ON') }) {
    $_->stop for @node;
    ok($_->start, 'starts again, with snapshot isolation') for @node;
}

# Idle reports in batches, which all four processes see at once: each is split once.
my $report = sub {
    my ($id, $uuid) = @_;
    return qq({"topic":"mdm.Connect","event_id":"$id-$uuid","created_at":"x",)
        . qq("acknowledge_event":{"ids":{"id":"$id"},"command_uuid":"$uuid","raw_payload":""}}\n<?xml);
};
for my $block (1 .. 50) {
    my @ids = map { "IDLE-$block-$_" } 1 .. 60;
    my $batch = join '', map { my $id = $_; map { netstring($_) } $id, $report->($id, 1), $id, $report->($id, 2) } @ids;
    db(q(INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms) VALUES (?, '', 'mdm.Connect', ?, -1)),
        $url, $batch);
    $said{$_} = [1, 2] for @ids;
}
ok((eventually { !waiting() } 90), '50 batches of 120 events') or diag(waiting());
is_deeply(arrived(), \%said, '… in order, and once');
for my $i (0, 1) {
    server($node[$i]);
    log_unlike($mark[$i], qr/40P01|40001|code 1205|the database failed|perhaps not taken|given up/, 'no failure');
}

# One of them is gone, in an orderly way: the other has its events at once.
$receiver->answer(status => 200, delay => 0.3);
for my $round (1 .. 3) {
    say_something($_, $node[0]) for @devices;
}
$node[0]->stop;
server($node[1]);
$receiver->answer(status => 200);
ok((eventually { !waiting() } 60), 'a node is stopped: the other delivers the rest');
# those on their way at that moment are sent again, since nobody knows whether they arrived
my (%list, %seen);
for my $event ($receiver->events) {
    push @{ $list{ $event->{inner}{ids}{id} } }, $event->{inner}{command_uuid}
        unless $seen{ $event->{event_id} }++;
}
is_deeply(\%list, \%said, '… in order');
cmp_ok($receiver->count - keys %seen, '<=', 8, '… repeating no more than was on its way');
ok((eventually { !db_value('SELECT count(*) FROM mdm_webhook_leases WHERE webhook = ?', $url) } 10), 'no lease is left');
$node[1]->stop;
db("SET GLOBAL innodb_snapshot_isolation = $isolation->{Value}") if $isolation;
done_testing;
