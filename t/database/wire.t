# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A bad network before the database: a connection that breaks while rows are on their way, and one
# that is never answered nor ended, while the server itself is well again.
# Databases: pgsql mysql (SQLite has no network)

use strict;
use warnings FATAL => 'all';

use NanoMDM::Database;
use NanoMDM::Httpd;
use NanoMDM::Relay;
use NanoMDM::Test;

my $database = NanoMDM::Database->new(var('nanomdm_driver'), var('scratch') . "/wire-$$")->start;
(my $params = $database->{params}) =~ s/ connect_timeout=\d+//;
my $relay = NanoMDM::Relay->new($params =~ /port=(\d+)/);
$params =~ s/port=\d+/'port=' . $relay->port/e;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$params"
NanoMDMDatabasePool      wait=1s timeout=1s
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMAPIKey            file:\@scratch\@/api.key
NanoMDMLastSeenInterval  200ms
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
\@api\@
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device(source => 'header'));
my ($text, $uuid) = command_plist('InstallProfile', Payload => 'x' x 3_000_000);
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", $text), 200, 'a command of 3 MB');
is(report($device)->{body}, $text, '… arrives');

$relay->mode('cut', 60_000);
for (1 .. 3) {
    my $r = report($device);
    is_status($r, 503, "the connection breaks while it is read ($_)");
    ok($r->{headers}{'retry-after'}, '… 503 with Retry-After');
}
$relay->mode('pass');
is(report($device)->{body}, $text, 'it holds: the command arrives');

$relay->mode('silent');
is_status(report($device), 503, "connections that are never answered ($_)") for 1 .. 2;
$relay->mode('pass');
ok(&eventually(sub { report($device)->{status} == 200 }, 20),
    'new ones would be: so one is tried, although the old ones are still open');
is(report($device)->{body}, $text, '… and all is well');
$httpd->stop;
$relay->stop;
$database->stop;

done_testing;
