# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Queueing commands: who may, what is answered, repetition, several ids, order.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);

use NanoMDM::Test;

my $one = enroll(device(), 'first device');
my $two = enroll(device(), 'second device');
my ($command, $uuid) = command_plist('DeviceInformation', Queries => ['UDID']);

# who may call
my $r = api(PUT => "enqueue/$one->{id}?nopush=1", $command, user => '');
is_status($r, 401, 'no credentials');
like($r->{headers}{'www-authenticate'}, qr/^Basic/, '… with a challenge');
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $command, password => 'wrong'), 401, 'wrong key');
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $command, user => 'root'), 401, 'wrong user');
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", '', password => 'second-' . var('apikey')), 400,
    'a second key is let in');
is(db_value('SELECT count(*) FROM commands WHERE command_uuid = ?', $uuid), 0, 'nothing was queued');

# one id
$r = api(PUT => "enqueue/$one->{id}?nopush=1", $command);
is_status($r, 200, 'enqueue');
is($r->{headers}{'content-type'}, 'application/json', 'content type');
like($r->{body}, qr/\A\{\n\t"/, 'tab-indented');
like($r->{body}, qr/\}\n\z/,    'trailing newline');
is($r->{json}{command_uuid}, $uuid,               'command_uuid');
is($r->{json}{request_type}, 'DeviceInformation', 'request_type');
ok($r->{json}{no_push}, 'no_push');
ok(!exists $r->{json}{command_error}, 'no error');

# again: the same is fine and queued once, other bytes are a conflict
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $command), 200, 'the same again');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $uuid), 1, 'queued once');
is_status(api(PUT => "enqueue/$one->{id},$two->{id}?nopush=1", $command), 200, '… for one id more');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $uuid), 2,
    'only the other is added');
my ($changed) = command_plist('ProfileList', CommandUUID => $uuid);
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $changed), 409, 'other bytes with the same UUID');

# several ids
my ($second, $second_uuid) = command_plist('ProfileList');
$r = api(POST => "enqueue/$one->{id},$one->{id},UNKNOWN?nopush=1", $second);
is_status($r, 207, 'an unknown id fails alone');
ok($r->{json}{status}{UNKNOWN}{command_error}, '… with its error');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $second_uuid), 1,
    'the known id is queued once, though named twice');
my ($third, $third_uuid) = command_plist('ProfileList');
is_status(api(PUT => 'enqueue/UNKNOWN,OTHER?nopush=1', $third), 500, 'only unknown ids');
is(db_value('SELECT count(*) FROM commands WHERE command_uuid = ?', $third_uuid), 0, 'nothing is kept');

# %2C separates too; the JSON form
my ($fourth, $fourth_uuid) = command_plist('CertificateList');
is_status(api(PUT => "enqueue/$one->{id}%2C$two->{id}?nopush=1", $fourth), 200, 'an escaped comma');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $fourth_uuid), 2,
    '… separates');
my ($fifth, $fifth_uuid) = command_plist('SecurityInfo');
$r = api(POST => 'enqueue', sprintf(
    '{"ids":["%s","%s"],"command":"%s","nopush":true}',
    $one->{id}, $two->{id}, encode_base64($fifth, '')), headers => ['Content-Type' => 'application/json']);
is_status($r, 200, 'the JSON form');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $fifth_uuid), 2, '… queues');

# a caller's mistakes
for my $case (
    ['no id',           'enqueue/?nopush=1',               $command],
    ['an empty body',   "enqueue/$one->{id}?nopush=1",     ''],
    ['no plist',        "enqueue/$one->{id}?nopush=1",     'hello'],
    ['no declaration',  "enqueue/$one->{id}?nopush=1",     '<plist><dict/></plist>'],
    ['no UUID',         "enqueue/$one->{id}?nopush=1",     plist({ Command => { RequestType => 'X' } })],
    ['an empty UUID',   "enqueue/$one->{id}?nopush=1",
        plist({ CommandUUID => '', Command => { RequestType => 'X' } })],
    ['no request type', "enqueue/$one->{id}?nopush=1",     plist({ CommandUUID => 'x', Command => {} })],
    ['a long UUID',     "enqueue/$one->{id}?nopush=1",
        plist({ CommandUUID => 'x' x 128, Command => { RequestType => 'X' } })],
) {
    my ($name, $path, $body) = @$case;
    $r = api(PUT => $path, $body);
    is_status($r, 400, $name);
    ok($r->{json}{command_error}, "$name: command_error");
}

# first in, first out; the same by httpd's own authentication
my @order = ($uuid, $second_uuid, $fourth_uuid, $fifth_uuid);
my ($last, $last_uuid) = command_plist('RestartDevice');
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $last, base => '/v1file/', user => 'api',
    password => 'file-password'), 200, 'behind mod_authn_file');
is_status(api(PUT => "enqueue/$one->{id}?nopush=1", $last, base => '/v1file/', user => 'other',
    password => 'file-password'), 401, '… and its Require');
my @got;
$r = report($one);
while ($r->{body} =~ m{<key>CommandUUID</key>\s*<string>([^<]+)} && @got < 10) {
    push @got, $1;
    $r = report($one, Status => 'Acknowledged', CommandUUID => $1);
}
is("@got", "@order $last_uuid", 'delivered in the order in which they were queued');

done_testing;
