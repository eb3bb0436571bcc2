# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A database server that accepts and does not answer, as on a frozen machine: requests get 503 within
# a bounded time, on connections that are open and on new ones, with drivers that know no time limit;
# once it answers again, so do we.
# Databases: pgsql mysql (SQLite has no server)

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(time);

use NanoMDM::Database;
use NanoMDM::Httpd;
use NanoMDM::Test;

my $database = NanoMDM::Database->new(var('nanomdm_driver'), var('scratch') . "/frozen-$$")->start;
(my $params = $database->{params}) =~ s/ connect_timeout=\d+//;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$params"
NanoMDMDatabasePool      wait=1s timeout=2s
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMLastSeenInterval  200ms
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
<Location "/version">
    SetHandler nanomdm-version
</Location>
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device(source => 'header'));

# The status of each of so many Idle reports at the same time, and the longest it took.
sub idle_at_once {
    my ($n) = @_;
    my @texts = at_once((sub {
        my $begun = time;
        my $r = report($device);
        return join ' ', $r->{status} . ($r->{headers}{'retry-after'} ? '+' : ''), time - $begun;
    }) x $n);
    my ($longest) = sort { $b <=> $a } map { (split)[1] } @texts;
    return (join(' ', map { (split)[0] } @texts), $longest);
}

for my $turn (1 .. 2) {
    my ($status) = idle_at_once(3);
    is($status, '200 200 200', "requests at once ($turn)");
    my $mark = log_mark();
    $database->freeze;
    ($status, my $longest) = idle_at_once(6);
    is($status, join(' ', ('503+') x 6), 'the server freezes: 503 with Retry-After, on open and new connections');
    cmp_ok($longest, '<', 5, '… within the limits of the pool');
    log_like($mark, qr/the database did not answer within 2000 ms/, '… and the log has the reason');
    my $begun = time;
    is_status(request(GET => '/version'), 200, '… /version');
    cmp_ok(time - $begun, '<', 1, '… at once');
    ($status, $longest) = idle_at_once(6);
    is($status, join(' ', ('503+') x 6), '… later ones too');
    cmp_ok($longest, '<', 5, '… within the limits');
    log_like($mark, qr/cannot connect to the \w+ database: it does not answer/, '… and the log says so');
    $database->thaw;
    ok(&eventually(sub { report($device)->{status} == 200 }, 3), 'it answers again: so do we');
    ($status) = idle_at_once(6);
    is($status, join(' ', ('200') x 6), '… all');
}
$httpd->stop;
$database->stop;

done_testing;
