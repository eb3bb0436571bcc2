# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# mdmfleet: a small fleet with user channels enrolls, gets commands, answers them and checks out, by
# each way to say who a device is; and it tells what is wrong.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Fleet;
use NanoMDM::Test;

my @api = ('--api-url', 'http://127.0.0.1:' . port() . '/v1/', '--api-key', var('apikey'));
my $plain = 'http://127.0.0.1:' . port();
my %source = (
    'signature, Apple style' => ['--mdm-url', "$plain/mdm"],
    'signature, CMS'         => ['--cms', '--mdm-url', "$plain/mdm"],
    'header, RFC 9440'       => [qw(--identity header --header X-Client-Cert),
        '--mdm-url', "$plain/mdm-header"],
    'header, PEM' => [qw(--identity header --header X-Client-Cert --header-format pem),
        '--mdm-url', "$plain/mdm-header"],
    'header, folded' => [qw(--identity header --header X-Client-Cert --header-format folded),
        '--mdm-url', "$plain/mdm-header"],
    'TLS' => ['--identity', 'tls', '--server-ca', pki->cert('other_ca'),
        '--mdm-url', 'https://localhost:' . port('tls') . '/mdm-ssl'],
    'base URL, HTTP/2 offered, EC keys' => ['--http2', '--url', $plain],
);

for my $name (sort keys %source) {
    my @server = @{ $source{$name} };
    my $dir    = fleet_dir();
    my @key    = $name =~ /EC/ ? qw(--key ec) : ();
    fleet_ok("$name: make", 'make', $dir, '--devices', 2, '--users', 1, fleet_authority(), @key);
    my $n = fleet_ok('… enroll', 'enroll', $dir, '--devices', 3, fleet_authority(), @key, @server);
    is("$n->{'devices enrolled'} $n->{'user channels enrolled'}", '3 3',
        '… one more device, and all with their users');
    my ($exit, $ids) = fleet('ids', $dir);
    my @ids = split /\n/, $ids;
    is(scalar(grep { /^[0-9A-F-]{36}(:[0-9A-F-]{36})?$/ } @ids), 6, '… ids');
    is(db_value('SELECT count(*) FROM enrollments WHERE enabled = TRUE AND id IN ('
            . join(', ', ('?') x 6) . ')', @ids), 6, '… which the server has too');
    fleet_ok('… enqueue', 'enqueue', $dir, @api, '--commands', 4, '--batch', 4);
    $n = fleet_ok('… run', 'run', $dir, @server, '--expect', 4, '--until-idle',
        '--not-now', 0.2, '--error', 0.2);
    is($n->{'commands delivered as queued'} - $n->{'commands answered'}, 0,
        '… every command is as it was queued');
    cmp_ok($n->{'commands answered'}, '>=', 24, '… and answered by each, users too');
    my $results = "FROM command_results WHERE command_uuid LIKE ? AND id IN ("
        . join(', ', ('?') x 6) . ') AND status <> ?';
    is(db_value("SELECT count(*) $results", 'fleet-%', @ids, 'NotNow'), 24, '… with a result');
    $n = fleet_ok('… check out', 'checkout', $dir, @server);
    is("$n->{'devices enrolled'} $n->{'user channels enrolled'}", '0 0', '… all');
    is(db_value('SELECT count(*) FROM enrollments WHERE enabled = TRUE AND id IN ('
            . join(', ', ('?') x 6) . ')', @ids), 0, '… with the server too');
}

# what is wrong is told
my $dir = fleet_dir();
my @server = @{ $source{'header, RFC 9440'} };
my ($exit, $said, undef, $errors) = fleet('enroll', $dir, '--devices', 2, @server);
is($exit, 1, 'an authority that the server does not know');
is($errors->[0]{message} . ' ' . $errors->[0]{cause}, 'authenticate HTTP status 400',
    '… is told with the status');
$dir = fleet_dir();
fleet_ok('a fleet', 'enroll', $dir, '--devices', 2, fleet_authority(), @server);
my ($ids) = (fleet('ids', $dir))[1];
my ($id) = split /\n/, $ids;
my ($text) = command_plist('ProfileList', CommandUUID => 'changed-000000-' . uuid());
is_status(api(PUT => "enqueue/$id?nopush=1", $text), 200, 'a command that is not what its name says');
($exit, $said, undef, $errors) = fleet('run', $dir, @server, '--uuid-prefix', 'changed-');
is($exit, 1, '… is no success');
is($errors->[0]{cause}, 'command is not as it was queued', '… for that reason');
fleet_ok('… and none where others may queue, too', 'run', $dir, @server, '--until-idle');
($exit, $said, undef, $errors) = fleet('run', $dir, @server, '--expect', 1);
is("$exit $errors->[0]{cause}", '1 fewer commands than expected', 'too few commands');
($exit, $said) = fleet('make', $dir, '--users', 3);
is($exit, 2, 'other user channels than it was made with');
like($said, qr/made with --users 0/, '… is told');

done_testing;
