# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Webhooks while the database goes and comes: what was acknowledged arrives, in order. And a database
# that another server made, which lacks the tables.
#
# Databases: pgsql mysql

use strict;
use warnings FATAL => 'all';

use NanoMDM::Database ();
use NanoMDM::Receiver ();
use NanoMDM::Test;

my $database = NanoMDM::Database->new(var('nanomdm_driver'), var('scratch') . "/hooks-$$")->start;
my $receiver = NanoMDM::Receiver->new;
my $url = $receiver->url;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$database->{params}"
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMWebhook           $url topics=mdm.Connect
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my @device = map { enroll(device()) } 1 .. 3;

my (%said, $n);
sub say_something {
    for my $device (@device) {
        my $uuid = sprintf 'N%04d', ++$n;
        my $r = report($device, Status => 'Acknowledged', CommandUUID => $uuid);
        push @{ $said{ $device->{id} } }, $uuid if $r->{status} == 200;
    }
}

for my $signal (undef, 'KILL') {
    # some on their way, some that wait behind them
    $receiver->answer(status => 200, delay => 1.5);
    say_something() for 1 .. 3;
    $database->stop($signal);
    is_status(report($device[0]), 503, 'no database');
    sleep 2;    # what is on its way is answered, and cannot be noted
    $receiver->answer(status => 200);
    $database->start;
    say_something();
}
my $arrived = sub {
    my (%list, %seen);
    for my $event ($receiver->events) {
        next if $seen{ $event->{event_id} }++;
        push @{ $list{ $event->{inner}{ids}{id} } }, $event->{inner}{command_uuid};
    }
    return \%list;
};
eventually { my $list = $arrived->(); !grep { @{ $list->{$_} || [] } < @{ $said{$_} } } keys %said } 60;
# a message whose commit was cut off may have been stored without its reply
my $list = $arrived->();
for my $id (keys %said) {
    my %acknowledged = map { ($_ => 1) } @{ $said{$id} };
    is_deeply([grep { $acknowledged{$_} } @{ $list->{$id} }], $said{$id}, 'all that was acknowledged arrived, in order');
}
server($httpd);    # a connection of its own to the new server
ok((eventually { db_value('SELECT count(*) FROM mdm_webhook_outbox') == 0 } 20), 'nothing is left');

# no tables
my $dbh = $database->connect;
$dbh->do("DROP TABLE $_") for qw(mdm_webhook_outbox mdm_webhook_leases);
$dbh->disconnect;
$httpd->stop;
$httpd->configure($httpd->{config} =~ s/(NanoMDMSchema +)create/$1check/r);
my $mark = log_mark();
ok($httpd->start, 'starts without the tables') or diag($httpd->{output});
like($httpd->{output} . log_since($mark), qr/NanoMDMWebhook: the database lacks the table mdm_webhook_outbox.*nanomdm-schema upgrade/,
    '… with a warning');
is_status(report($device[0], Status => 'Acknowledged', CommandUUID => 'X'), 200, 'a report');
log_like($mark, qr/:error\].*events are lost.*nanomdm-schema upgrade/, '… its event is lost, which is an error');
is_status(report($device[0]), 200, 'idle');
$httpd->stop;
$database->stop;
done_testing;
