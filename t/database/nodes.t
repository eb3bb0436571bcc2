# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Two servers with one database: devices go to one of them with one request and to the other with
# the next, and notice nothing.
# MPMs: event worker (each run takes long)

use strict;
use warnings FATAL => 'all';

use NanoMDM::Fleet;
use NanoMDM::Httpd ();
use NanoMDM::Test;

my $driver = var('nanomdm_driver');
# SQLite writes to the disk with each commit, one after the other.
my ($devices, $commands) = $driver eq 'sqlite3' ? (250, 2) : (1000, 2);
my $file = var('scratch') . "/nodes-$$.db";
my $database = $driver eq 'sqlite3' ? "sqlite3 $file" : '@database@';
my @node = map { NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG") } 1, 2;
NanoMDMDatabase          $database
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
$_->{dsn} ||= "dbi:SQLite:dbname=$file" for @node;
ok($_->start, 'a server starts') or diag($_->{output}, $_->log) for @node;
server($node[0]);

my @base   = map { 'http://127.0.0.1:' . $_->port } @node;
my @server = ((map { ('--url', $_) } @base), qw(--switch message --concurrency 8));
my @key    = ('--api-key', var('apikey'));
my $prefix = "nodes-$$-" . time . '-';
my $dir    = fleet_dir();

fleet_ok("$devices devices, each with a user channel", 'make', $dir, '--devices', $devices,
    qw(--users 1 --key ec), fleet_authority());
my $n = fleet_ok('enroll', 'enroll', $dir, '--devices', $devices, fleet_authority(), @server);
is("$n->{'devices enrolled'} $n->{'user channels enrolled'}", "$devices $devices", '… all of them');
fleet_ok('enqueue', 'enqueue', $dir, '--api-url', "$base[$_]/v1/", @key, '--commands', $commands / 2,
    '--batch', 500, '--uuid-prefix', "$prefix$_-") for 0, 1;
$n = fleet_ok('run', 'run', $dir, @server, '--until-idle', '--expect', $commands,
    '--uuid-prefix', $prefix);
my $all = 2 * $devices * $commands;
is($n->{'commands answered'}, $all, '… every command is answered');
is($n->{'commands delivered as queued'}, $all, '… each came as it was queued, once');
is(db_value("SELECT count(*) FROM command_results WHERE status = 'Acknowledged'"
    . ' AND command_uuid LIKE ?', "$prefix%"), $all, '… and has its result');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE active = TRUE AND command_uuid LIKE ?',
    "$prefix%"), 0, '… none is left');
$n = fleet_ok('check out', 'checkout', $dir, @server);
is("$n->{'devices enrolled'} $n->{'user channels enrolled'}", '0 0', '… all of them');
for my $node (@node) {
    my %status;
    $status{$_}++ for $node->access_log =~ m{ HTTP/1\.1 (\d+) id=}g;
    is(join(' ', sort keys %status), '200', 'a server answers everything with 200');
    cmp_ok($status{200}, '>', $devices, '… and has its share');
    is(join('', grep { /\[nanomdm:(?:warn|error|crit)\]/ } split /^/, $node->log), '',
        '… with nothing to complain of');
    $node->stop;
}

done_testing;
