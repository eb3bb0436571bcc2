# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A webhook is shared by all enrollments: one with hundreds of events, or with thousands that another
# node has taken, or many whose events are refused, do not hold up the others.

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $receiver = NanoMDM::Receiver->new;
my $url      = $receiver->url('/fair');
$receiver->down;
my $httpd = server(NanoMDM::Httpd->new(config => <<"END_CONFIG"));
NanoMDMWebhook $url
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = device();

# So many events of one enrollment, older than all others.
sub fill {
    my ($id, $count) = @_;
    for my $n (1 .. $count / 100) {
        db('INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms) VALUES '
            . join(', ', ("(?, '$id', 'mdm.Connect', ?, 1)") x 100),
            map { ($url, qq({"topic":"mdm.Connect","event_id":"$id-$n-$_","created_at":"x",)
                . qq("acknowledge_event":{"raw_payload":""}}\n)) } 1 .. 100);
    }
    return;
}

# How long a message's event takes to arrive.
sub arrival {
    my ($what) = @_;
    my $begun = time;
    is_status(checkin($device, $what), 200, $what);
    my $arrived = &eventually(sub {
        grep { $_->{body} =~ /"mdm\.$what"/ && $_->{body} =~ /\Q$device->{id}\E/ } $receiver->requests
    }, 30);
    return $arrived ? time - $begun : 'never';
}

fill('MANY', 600);
$receiver->answer(status => 200, delay => 0.1);
$receiver->up;
ok(&eventually(sub { scalar $receiver->requests }, 40), 'hundreds of events of one enrollment, a slow receiver');
cmp_ok(arrival('Authenticate'), '<', 5, "… another's event does not wait for them");
db(q(DELETE FROM mdm_webhook_outbox WHERE id = 'MANY'));

# A receiver that refuses what some say is not down for others.
$receiver->answer(status => 500, match => 'REFUSED');
db('INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms) VALUES '
    . join(', ', ("(?, ?, 'mdm.Connect', ?, 1)") x 60),
    map { ($url, "REFUSED-$_", qq({"topic":"mdm.Connect","event_id":"REFUSED-$_","created_at":"x",)
        . qq("acknowledge_event":{"raw_payload":""}}\n)) } 1 .. 60);
my $refused = sub { scalar(grep { $_->{body} =~ /REFUSED/ } $receiver->requests) };
ok(&eventually(sub { $refused->() > 90 }, 30), 'many enrollments whose events are refused') or diag($refused->());
cmp_ok(arrival('CheckOut'), '<', 5, "… do not hold up another's");
db(q(DELETE FROM mdm_webhook_outbox WHERE id LIKE 'REFUSED%'));
db(q(DELETE FROM mdm_webhook_leases WHERE id LIKE 'REFUSED%'));

# Idle reports of a few enrollments, in batches: the receiver is no reason to give each a row.
for my $answer ('refuses', 'is down') {
    $receiver->answer(status => 500, match => 'IDLE');
    $receiver->down if $answer eq 'is down';
    my $batch = join '', map { my $id = "IDLE-$_"; map { length($_) . ":$_," } $id,
        qq({"topic":"mdm.Connect","event_id":"$id","created_at":"x","acknowledge_event":{"raw_payload":""}}\n) } 1 .. 64;
    db('INSERT INTO mdm_webhook_outbox (webhook, id, topic, event, due_ms) VALUES '
        . join(', ', (q((?, '', 'mdm.Connect', ?, -1))) x 100), ($url, $batch) x 100) for 1 .. 4;
    my $batches = sub { db_value(q(SELECT count(*) FROM mdm_webhook_outbox WHERE id = '')) };
    ok(&eventually(sub { $batches->() < 400 }, 30), "a receiver that $answer");
    my @children = $httpd->children;
    my $begun    = time;
    my $left;
    do { $left = $batches->(); sleep 7 } # in which each process looks for some
        while $batches->() < $left - @children && time < $begun + 60;
    $left = $batches->();
    sleep 8;
    cmp_ok($batches->(), '>=', $left - 2 * @children - 1, '… has batches stay what they are, but for one of each process');
    cmp_ok($batches->(), '>', 300, '… most of them');
    cmp_ok(arrival('SetBootstrapToken'), '<', 10, '… and they hold up nobody') if $answer eq 'refuses';
    db(q(DELETE FROM mdm_webhook_outbox WHERE id LIKE 'IDLE%' OR id = ''));
    db(q(DELETE FROM mdm_webhook_leases WHERE id LIKE 'IDLE%'));
}
$receiver->up;

$receiver->answer(status => 200);
isnt(arrival('GetBootstrapToken'), 'never', 'it is back, once its pause is over');
my $hour = int(1000 * (time + 3600));
db("INSERT INTO mdm_webhook_leases (webhook, id, owner, until_ms, failures, since_ms) VALUES (?, 'TAKEN', 'another', $hour, 0, 0)", $url);
fill('TAKEN', 3000);
cmp_ok(arrival('TokenUpdate'), '<', 10, "thousands of events that another node has taken do not hold up another's");
db(q(DELETE FROM mdm_webhook_outbox WHERE id = 'TAKEN'));
db(q(DELETE FROM mdm_webhook_leases WHERE id = 'TAKEN'));
$httpd->stop;

done_testing;
