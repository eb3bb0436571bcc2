# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Pushing by the API, and after an enqueue: what is sent, what each answer of the push service comes
# to, which tokens are dead from then on, and what revives them.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);
use Time::HiRes qw(time);

use NanoMDM::Apnsd ();
use NanoMDM::Test;

my $apns  = NanoMDM::Apnsd->new->start;
my $httpd = server(NanoMDM::Httpd->new(config => $apns->config . <<'END_CONFIG'));
NanoMDMPushTimeout 2s
NanoMDMMaxBody     64K
<Location "/mdm">
    SetHandler nanomdm
</Location>
@api@
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $mark  = log_mark();
my $topic = 'com.apple.mgmt.External.' . lc uuid();
my $good  = qr/^[0-9A-Fa-f-]{36}$/;

# An enrolled device with a token that the push service answers so.
sub target {
    my ($answer, %o) = @_;
    return enroll(device(topic => $topic, token => pack('H*', NanoMDM::Apnsd::token($answer)), %o));
}
sub hex_of  { my ($device) = @_; return unpack 'H*', $device->{token} }
sub push_to { my (@device) = @_; return api(PUT => 'push/' . join(',', map { $_->{id} } @device), '') }
sub status_of { my ($r, $device) = @_; return $r->{json}{status}{ $device->{id} } || {} }
sub is_dead {
    my ($device) = @_;
    return db_value('SELECT count(*) FROM mdm_dead_tokens WHERE id = ?', $device->{id});
}

# without a certificate
my $device = target('200');
my $r = push_to($device);
is_status($r, 500, 'no push certificate');
like(status_of($r, $device)->{push_error}, qr/certificate.*\Q$topic\E/, '… is an error of the id');
is($apns->put_certificate($topic), 200, 'a certificate is put in');

# one
for my $method (qw(GET PUT POST)) {
    $r = api($method => "push/$device->{id}", '');
    is_status($r, 200, "$method");
    like(status_of($r, $device)->{push_result}, $good, '… with the id of the push');
    is(join(' ', keys %{ $r->{json} }), 'status', '… and nothing else');
}
is($r->{headers}{'content-type'}, 'application/json', 'content type');
like($r->{body}, qr/\A\{\n\t"status": \{\n\t\t"[^"]+": \{\n\t\t\t"push_result": "[^"]+"\n\t\t\}\n\t\}\n\}\n\z/,
    'tab-indented');
is($apns->count(hex_of($device), 3), 3, 'the push service saw three');

# several
my $unknown = uuid();
$r = push_to($device, { id => $unknown }, $device, { id => $unknown });
is_status($r, 207, 'an unknown id fails alone');
is($r->{json}{status}{$unknown}{push_error}, 'push data missing for id', '… with its error');
like(status_of($r, $device)->{push_result}, $good, '… the other is pushed to');
is(scalar(keys %{ $r->{json}{status} }), 2, '… repeated ones count once');
is($apns->count(hex_of($device), 4), 4, '… and are pushed to once');
is_status(push_to({ id => $unknown }), 500, 'only unknown ids');
my $user = enroll(device(parent => $device, token => pack('H*', NanoMDM::Apnsd::token('200'))));
is_status(push_to($device, $user), 200, 'a user channel');
checkin($device, 'CheckOut');
is_status(push_to($device, $user), 200, 'disabled ones are pushed to, too');
$device = enroll($device);

# the JSON form, and thousands in a URL
$r = api(POST => 'push', qq({"ids":["$device->{id}","$user->{id}","$unknown"]}));
is_status($r, 207, 'the JSON form');
is(scalar(grep { $_->{push_result} } values %{ $r->{json}{status} }), 2, '… pushes');
my @many = map { uuid() } 1 .. 5000;
$r = api(PUT => 'push/' . join(',', @many, $device->{id}), '');
is_status($r, 207, 'thousands of ids');
is(scalar(keys %{ $r->{json}{status} }), 5001, '… are each answered');
like(status_of($r, $device)->{push_result}, $good, '… the known one well');
$r = api(PUT => 'push/%FF%22%5C,' . $device->{id}, '');
is_status($r, 207, 'an id that is none');
ok($r->{json}, '… does not break the JSON');

# a caller's mistakes
for my $case (
    ['no id',              PUT  => 'push/',  ''],
    ['no id at all',       PUT  => 'push',   ''],
    ['only commas',        GET  => 'push/,,', ''],
    ['an empty body',      POST => 'push',   ''],
    ['no JSON',            POST => 'push',   'ids=1'],
    ['an array',           POST => 'push',   '["x"]'],
    ['no ids',             POST => 'push',   '{}'],
    ['ids that are none',  POST => 'push',   '{"ids":[1]}'],
    ['an empty list',      POST => 'push',   '{"ids":[]}'],
    ['a NUL',              POST => 'push',   '{"ids":["a\u0000b"]}'],
    ['deep nesting',       POST => 'push',   '{"ids":' . '[' x 5000],
) {
    my ($name, $method, $path, $body) = @$case;
    $r = api($method => $path, $body);
    is_status($r, 400, $name);
    ok($r->{json}{push_error}, '… with push_error');
}
is_status(api(POST => 'push', '{"ids":["' . 'x' x 70000 . '"]}'), 413, 'a large body');
for my $method (qw(DELETE HEAD)) {
    $r = api($method => "push/$device->{id}", '');
    is_status($r, 405, $method);
    is($r->{headers}{allow}, 'GET, PUT, POST', '… with what is allowed');
}
is_status(api(PUT => "push/$device->{id}", '', password => 'wrong'), 401, 'a wrong key');

# each answer: the error, and whether the token is dead from then on
for my $case (
    ['400 BadDeviceToken',          1], ['410 ExpiredToken', 1], ['410 Unregistered', 1],
    ['400 DeviceTokenNotForTopic',  0], ['403 BadCertificate', 0], ['403 BadCertificateEnvironment', 0],
    ['404 BadPath', 0], ['413 PayloadTooLarge', 0], ['429 TooManyRequests', 0],
    ['500 InternalServerError',     0], ['503 ServiceUnavailable', 0],
) {
    my ($answer, $dead) = @$case;
    my $target = target($answer);
    $r = push_to($target, $device);
    is_status($r, 207, $answer);
    is(status_of($r, $target)->{push_error}, $answer, '… is the error');
    like(status_of($r, $device)->{push_result}, $good, '… of that id alone');
    is(is_dead($target), $dead, $dead ? '… and the token is dead' : '… and the token is not dead');
    my $seen = $apns->count(hex_of($target), 1);
    $r = push_to($target);
    is_status($r, 500, '… again');
    is($apns->count(hex_of($target), $dead ? undef : $seen + 1) > $seen ? 1 : 0, $dead ? 0 : 1,
        $dead ? '… it is not pushed to' : '… it is pushed to');
    next unless $dead;
    like(status_of($r, $target)->{push_error}, qr/\Q$answer\E/, '… and the error tells of it');
    is(db_value('SELECT enabled FROM enrollments WHERE id = ?', $target->{id}), 1, '… it stays enabled');
    is_status(checkin($target, 'TokenUpdate'), 200, '… the same token again');
    is(is_dead($target), 0, '… revives it');
    is(status_of(push_to($target), $target)->{push_error}, $answer, '… it is pushed to');
    is_dead($target) or fail('… and dead again');
    $target->{token} = pack 'H*', NanoMDM::Apnsd::token('200');
    is_status(checkin($target, 'TokenUpdate'), 200, '… another token');
    is_status(push_to($target), 200, '… and all is well');
}
# a token that died before the device's last TokenUpdate is not the one that it has now
my $early = target('410 Unregistered, long ago');
$r = push_to($early);
is(status_of($r, $early)->{push_error}, '410 Unregistered', 'a token that was gone before');
is(is_dead($early), 0, '… is not taken for dead');
my $channel = enroll(device(parent => $device, token => pack('H*', NanoMDM::Apnsd::token('410 Unregistered'))));
$r = push_to($channel, $device);
is(is_dead($channel), 1, 'a user channel can be dead');
is(is_dead($device), 0, '… by itself');
is_status(checkin($device, 'TokenUpdate'), 200, '… its device\'s token');
is(is_dead($channel), 1, '… does not revive it');

# no answer
my $silent = target('silence');
my $begun = time;
$r = push_to($silent, $device);
is_status($r, 207, 'an answer that does not come');
like(status_of($r, $silent)->{push_error}, qr/time|answer/, '… is an error of that id');
like(status_of($r, $device)->{push_result}, $good, '… alone');
cmp_ok(time - $begun, '<', 10, '… after NanoMDMPushTimeout, which is 30 s by default');
is(is_dead($silent), 0, '… and no dead token');

# enqueue, and push
my ($command, $uuid) = command_plist('ProfileList');
my $before = $apns->count(hex_of($device));
$r = api(PUT => "enqueue/$device->{id}", $command);
is_status($r, 200, 'enqueue and push');
like(status_of($r, $device)->{push_result}, $good, '… with the id of the push');
is_deeply([sort keys %{ $r->{json} }], [qw(command_uuid request_type status)], '… and the command');
is($apns->count(hex_of($device), $before + 1), $before + 1, '… one push');
$r = api(PUT => "enqueue/$device->{id}", $command);
is_status($r, 200, '… again');
is($apns->count(hex_of($device), $before + 2), $before + 2, '… pushes again');
my ($second, $second_uuid) = command_plist('ProfileList');
$r = api(PUT => "enqueue/$device->{id},$early->{id},$unknown", $second);
is_status($r, 207, 'one well, one not pushed to, one unknown');
like(status_of($r, $device)->{push_result}, $good, '… the one');
is_deeply(status_of($r, $early), { push_error => '410 Unregistered' }, '… the other');
is_deeply($r->{json}{status}{$unknown}, { command_error => 'no such enrollment' }, '… the unknown one');
is(db_value('SELECT count(*) FROM enrollment_queue WHERE command_uuid = ?', $second_uuid), 2,
    '… two have the command');
is_status(api(PUT => "enqueue/$early->{id}", $second), 500, 'queued, and not pushed to');
$before = $apns->count(hex_of($device));
for my $case (['in the URL', "enqueue/$device->{id}?nopush=1", $second],
    ['in JSON', 'enqueue', sprintf '{"ids":["%s"],"command":"%s","nopush":true}', $device->{id},
        encode_base64($second, '')]) {
    my ($name, $path, $body) = @$case;
    $r = api(POST => $path, $body);
    is_status($r, 200, "nopush $name");
    ok($r->{json}{no_push}, '… is told');
    is_deeply(status_of($r, $device), {}, '… nothing is said of a push');
}
is($apns->count(hex_of($device)), $before, '… and none is sent');
$r = api(POST => 'enqueue', sprintf '{"ids":["%s"],"command":"%s"}', $device->{id}, encode_base64($second, ''));
is_status($r, 200, 'the JSON form, with a push');
like(status_of($r, $device)->{push_result}, $good, '… that is answered');

# another topic's certificate that cannot be used
my $other = enroll(device(token => pack('H*', NanoMDM::Apnsd::token('200'))));
$r = push_to($device, $other);
is_status($r, 207, 'a topic without certificate among others');
like(status_of($r, $other)->{push_error}, qr/certificate/, '… is an error of its ids');

# the certificate in the database, seen by the tool
my $where = var('nanomdm_driver') eq 'sqlite3' ? "sqlite3 $httpd->{database}" : var('nanomdm_database');
my @service = ('--url', "https://127.0.0.1:$apns->{port}", '--ca-file', pki->cert('other_ca'));
my ($exit, $said) = tool('nanomdm-push-check', '--database', $where, '--topic', $topic, @service);
is($exit, 0, 'nanomdm-push-check: the topic\'s certificate is accepted') or diag($said);
like($said, qr/^topic: +\Q$topic\E$/m, '… and named');
($exit, $said) = tool('nanomdm-push-check', '--conf', "$httpd->{dir}/httpd.conf", @service);
like($said, qr/^topic: +\Q$topic\E$/m, '… among those of a configuration');
($exit, $said) = tool('nanomdm-push-check', '--conf', "$httpd->{dir}/httpd.conf", '--topic', $topic);
is($exit, 0, '… which names the push service and its authority, too') or diag($said);
($exit, $said) = tool('nanomdm-push-check', '--conf', "$httpd->{dir}/httpd.conf", '--topic', $topic,
    '--url', 'https://127.0.0.1:1', '--timeout', 1);
is($exit, 1, '… unless an option does');
like($said, qr/no answer from https:\/\/127\.0\.0\.1:1:/, '… as it says');
if (var('nanomdm_driver') eq 'sqlite3') {    # a database of this suite's own
    my $dbh = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$httpd->{database}");
    $dbh->do('INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token) VALUES (?, ?, ?, 1)', undef,
        'a.broken', "-----BEGIN CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\n");
    ($exit, $said) = tool('nanomdm-push-check', '--conf', "$httpd->{dir}/httpd.conf");
    is($exit, 2, '… one that cannot be read is an error');
    like($said, qr/^topic: +a\.broken\ncertificate: cannot be used: /m, '… that is told');
    like($said, qr/^topic: +\Q$topic\E\n.*accepted$/ms, '… and the others are looked at');
    $dbh->do('DELETE FROM push_certs WHERE topic = ?', undef, 'a.broken');
}
($exit, $said) = tool('nanomdm-push-check', '--database', $where, '--topic', 'com.apple.mgmt.none', @service);
is($exit, 2, '… a topic without one is an error');
($exit, $said) = tool('nanomdm-push-check', '--database', $where, '--cert', pki->cert('rsa'), @service);
is($exit, 2, '… and so are two sources');

my $secrets = join '|', map { ($_->{magic}, unpack 'H*', $_->{token}) } $device, $early, $silent, $channel;
log_unlike($mark, qr/$secrets/i, 'neither tokens nor push magic are logged');

# a database that another server made
if (var('nanomdm_driver') eq 'sqlite3') {    # a database of this suite's own
    $httpd->stop;
    require DBI;
    DBI->connect("dbi:SQLite:dbname=$httpd->{database}", '', '', { RaiseError => 1 })
        ->do('DROP TABLE mdm_dead_tokens');
    $httpd->configure($httpd->{config} . "\nNanoMDMSchema check\n");
    ok($httpd->start, 'without a table of ours: starts');
    my $target = target('410 Unregistered');
    is(status_of(push_to($target), $target)->{push_error}, '410 Unregistered', "… pushes, $_") for 1, 2;
}
$httpd->stop;
$apns->stop;

done_testing;
