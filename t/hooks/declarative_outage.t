# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The database is lost while the declaration server is asked: the message's event cannot be stored, so
# the device gets 503 and comes again. Without it there is no push certificate to unlock with either.
#
# Databases: pgsql mysql

use strict;
use warnings FATAL => 'all';

use NanoMDM::Database ();
use NanoMDM::Receiver ();
use NanoMDM::Test;

my $database = NanoMDM::Database->new(var('nanomdm_driver'), var('scratch') . "/declarative-$$")->start;
my ($server, $events) = map { NanoMDM::Receiver->new } 1 .. 2;
my ($url, $events_url) = map { $_->url('/') } $server, $events;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase              $database->{driver} "$database->{params}"
NanoMDMSchema                create
NanoMDMCACertificateFile     \@pki\@/ca.pem
NanoMDMAPIKey                file:\@scratch\@/api.key
\@api\@
NanoMDMWebhook               $events_url topics=mdm.DeclarativeManagement
NanoMDMDeclarativeManagement $url
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device());
sub declarative { return checkin($device, 'DeclarativeManagement', Endpoint => 'tokens') }

$server->answer(status => 200, body => '{"a":1}', delay => 5);
my ($said) = at_once(sub { my $r = declarative(); "$r->{status} " . ($r->{headers}{'retry-after'} // '') . " $r->{body}" },
    sub { eventually { $server->count > 0 }; $database->stop; '' });
is($server->count, 1, 'the declaration server was asked');
like($said, qr/^503 \d+ /, '… but the device gets 503');
unlike($said, qr/"a"/, '… and no declarations');
is_status(api(POST => 'escrowkeyunlock', 'topic=t&serial=s&productType=p&escrowKey=k&orgName=o&guid=g',
    headers => ['Content-Type' => 'application/x-www-form-urlencoded']), 503, '… an escrow key unlock, too');
$database->start;
$server->answer(status => 200, body => '{"a":1}');
is(declarative()->{body}, '{"a":1}', 'with the database, it gets them');
ok((eventually { $events->count > 0 } 20), '… and there is an event');
is($events->count, 1, '… one');
$httpd->stop;
$database->stop;
done_testing;
