# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The API's paths, parameters and JSON form: ids of all kinds and in great numbers, what counts as
# nopush, mistakes, and what of a request gets into replies and logs.

use strict;
use warnings FATAL => 'all';
use utf8;

use MIME::Base64 qw(encode_base64);
use Time::HiRes qw(time);

use NanoMDM::Test;

binmode Test::More->builder->$_, ':utf8' for qw(output failure_output todo_output);

my $one = enroll(device());
my $two = enroll(device());
my $at  = enroll(device(udid => 'pat+jane@example.org ' . uuid()), 'an id with @, + and a space');
(my $at_escaped = $at->{id}) =~ s/ /%20/g;
my $user = enroll(device(parent => $one), 'a user channel');
my $unicode = enroll(device(udid => do { my $id = 'Gerät ☃ ' . uuid(); utf8::encode($id); $id }),
    'an id of Unicode');
my $escaped = join '', map { sprintf '%%%02X', ord } split //, $unicode->{id};

sub queued {
    my ($uuid) = @_;
    return join ' ', sort map { $_->{id} }
        @{ db('SELECT id FROM enrollment_queue WHERE command_uuid = ?', $uuid) };
}

# ids in the path
for my $case (
    ['two',                 "$one->{id},$two->{id}",            [$one, $two]],
    ['%2C',                 "$one->{id}%2C$two->{id}",          [$one, $two]],
    ['%2c',                 "$one->{id}%2c$two->{id}",          [$one, $two]],
    ['duplicates',          "$one->{id},$two->{id},$one->{id},$one->{id}", [$one, $two]],
    ['empty ones between',  ",$one->{id},,$two->{id},",         [$one, $two]],
    ['@ and +',             $at_escaped,                        [$at]],
    ['%40 and %2B',         $at_escaped =~ s/\@/%40/r =~ s/\+/%2B/r, [$at]],
    ['a user channel',      $user->{id},                        [$user]],
    ['… and %3A',           $user->{id} =~ s/:/%3A/r,           [$user]],
    ['Unicode',             $escaped,                           [$unicode]],
    ['Unicode, unescaped',  $unicode->{id} =~ s/ /%20/gr,       [$unicode]],
    ['a slash before',      "/$one->{id}",                      [$one]],
) {
    my ($name, $path, $devices) = @$case;
    my ($command, $uuid) = command_plist('ProfileList');
    my $r = api(PUT => "enqueue/$path?nopush=1", $command);
    is_status($r, 200, "ids: $name");
    is(queued($uuid), join(' ', sort map { $_->{id} } @$devices), '… are the ones that are queued');
    my %expected = map { my $id = $_->{id}; utf8::decode($id); ($id => {}) } @$devices;
    is_deeply($r->{json}{status} || {}, \%expected, '… and answered for') if $r->{json}{status};
}
for my $case (
    ['an escaped slash',  "$one->{id}%2Fx",  qr/^404$/],
    ['a slash',           "$one->{id}/x",    qr/^(404|500)$/],
    ['a NUL',             "$one->{id}%00x",  qr/^40[04]$/],
    ['a broken escape',   "$one->{id}%zz",   qr/^400$/],
    ['another case',      lc("x$one->{id}"), qr/^500$/],
    ['a control character', "%01$one->{id}", qr/^500$/],
    ['no UTF-8',          '%FF%FE',          qr/^500$/],
    ['256 bytes',         'x' x 256,         qr/^500$/],
    ['only commas',       ',,%2C',           qr/^400$/],
) {
    my ($name, $path, $status) = @$case;
    my ($command, $uuid) = command_plist('ProfileList');
    my $r = api(PUT => "enqueue/$path?nopush=1", $command);
    like($r->{status}, $status, "ids: $name") or diag($r->{body});
    is(queued($uuid), '', '… nothing is queued');
    is(db_value('SELECT count(*) FROM commands WHERE command_uuid = ?', $uuid), 0, '… nor kept');
}
my ($mixed, $mixed_uuid) = command_plist('ProfileList');
my $r = api(PUT => "enqueue/%FF,%01,$one->{id}," . 'y' x 300 . '?nopush=1', $mixed);
is_status($r, 207, 'impossible ids fail alone');
is(queued($mixed_uuid), $one->{id}, '… and the other is queued');
ok($r->{json}{status}{ 'y' x 300 }{command_error}, '… with an error for each');

# a thousand ids; nearly the longest line
my $begun = time;
my @thousand = map { sprintf 'NONE-%04d', $_ } 1 .. 999;
my ($command, $uuid) = command_plist('ProfileList');
$r = api(PUT => 'enqueue/' . join(',', @thousand, $one->{id}) . '?nopush=1', $command);
is_status($r, 207, 'a thousand ids');
my $thousand = time - $begun;
is(keys %{ $r->{json}{status} }, 1000, '… each answered');
is(queued($uuid), $one->{id}, '… one queued');
my @long = map { sprintf '%08d-0000-0000-0000-000000000000', $_ } 1 .. 24_900;
my $path = join ',', @long, $two->{id};
cmp_ok(length $path, '>', 900_000, 'a path of ' . length($path) . ' bytes');
($command, $uuid) = command_plist('ProfileList');
$begun = time;
$r = api(PUT => "enqueue/$path?nopush=1", $command, timeout => 120);
is_status($r, 207, '… is answered');
cmp_ok(time - $begun, '<', 40 * $thousand + 10, '… as fast as 1,000');
is(scalar keys %{ $r->{json}{status} || {} }, 24_901, '… for each id');
is(queued($uuid), $two->{id}, '… and the one that exists is queued');

# nopush
for my $case (
    ['nopush=1',          1],
    ['nopush=0',          1],
    ['nopush=false',      1],
    ['no%70ush=1',        1],
    ['nopush=%31',        1],
    ['x=y&nopush=1',      1],
    ['nopush=',           0],
    ['nopush',            0],
    ['nopushes=1',        0],
    ['xnopush=1',         0],
    ['',                  0],
) {
    my ($query, $nopush) = @$case;
    ($command, $uuid) = command_plist('ProfileList');
    $r = api(PUT => "enqueue/$one->{id}" . (length $query ? "?$query" : ''), $command);
    is(queued($uuid), $one->{id}, "?$query: queued");
    if ($nopush) {
        is_status($r, 200, "?$query: no push");
        ok($r->{json}{no_push}, '… no_push');
        is_deeply($r->{json}{status}, { $one->{id} => {} }, '… no push_error');
    }
    else {
        is_status($r, 500, "?$query: a push, which fails");
        ok(!exists $r->{json}{no_push}, '… no no_push');
        ok($r->{json}{status}{ $one->{id} }{push_error}, '… push_error');
        ok(!exists $r->{json}{status}{ $one->{id} }{command_error}, '… but no command_error');
    }
}
($command, $uuid) = command_plist('ProfileList');
$r = api(PUT => "enqueue/$one->{id},NONE", $command);
is_status($r, 500, 'a push_error and a command_error: all failed');
is_deeply([map { sort keys %{ $r->{json}{status}{$_} } } $one->{id}, 'NONE'],
    ['push_error', 'command_error'], '… each its own');

# the JSON form
sub json {
    my ($text, %o) = @_;
    return api(POST => delete $o{path} // 'enqueue', $text, headers => ['Content-Type' => 'application/json'], %o);
}
($command, $uuid) = command_plist('ProfileList');
my $base64 = encode_base64($command, '');
my $secret = 'HIDDEN-' . uuid();
for my $case (
    ['broken JSON',              qq({"ids":["$secret"],"command": $secret)],
    ['not UTF-8',                qq({"ids":["$secret\xFF"],"command":"$base64"})],
    ['nothing',                  ''],
    ['an array',                 qq(["$secret"])],
    ['no ids',                   qq({"command":"$base64"})],
    ['no array of ids',          qq({"ids":"$secret","command":"$base64"})],
    ['ids that are no strings',  qq({"ids":[1],"command":"$base64"})],
    ['no id at all',             qq({"ids":[],"command":"$base64"})],
    ['no command',               qq({"ids":["$secret"]})],
    ['a command not in base64',  qq({"ids":["$secret"],"command":"$secret!"})],
    ['a command that is no plist', qq({"ids":["$secret"],"command":") . encode_base64($secret, '') . '"}'],
    ['nopush that is a string',  qq({"ids":["$secret"],"command":"$base64","nopush":"1"})],
    ['ids twice',                qq({"ids":["x"],"ids":["$secret"],"command":"$base64"})],
    ['deep nesting',             '[' x 100_000],
) {
    my ($name, $text) = @$case;
    utf8::downgrade($text);
    my $mark = log_mark();
    $r = json($text);
    is_status($r, 400, "JSON: $name");
    ok($r->{json}{command_error}, '… command_error');
    unlike($r->{body}, qr/\Q$secret/, '… the body is not quoted in the reply');
    log_unlike($mark, qr/\Q$secret/, '… nor in the log');
}
$r = json(qq({"ids":["$one->{id}","$one->{id}","NONE"],"command":"$base64","nopush":true}), path => 'enqueue/');
is_status($r, 207, 'JSON: a slash at the end, ids twice, one unknown');
is(queued($uuid), $one->{id}, '… queued once');
$r = json(qq({"ids":["$two->{id}"],"command":"$base64"}), path => 'enqueue?nopush=1');
is_status($r, 200, 'JSON: nopush in the query');
$r = json(qq({"ids":["$user->{id}"],"command":"$base64","nopush":false}));
is_status($r, 500, 'JSON: nopush false pushes');
ok($r->{json}{status}{ $user->{id} }{push_error}, '… push_error');
my @many = map { sprintf '%08d-0000-0000-0000-000000000000', $_ } 1 .. 100_000;
my ($batch, $batch_uuid) = command_plist('ProfileList');
sub batch {
    my (@ids) = @_;
    $begun = time;
    $r = json('{"ids":["' . join('","', @ids) . '"],"command":"' . encode_base64($batch, '') . '","nopush":true}',
        timeout => 120);
    return time - $begun;
}
my $tenth = batch(@many[ 0 .. 9_999 ]);
my $seconds = batch(@many, $two->{id});
is_status($r, 207, 'JSON: 100,000 ids');
cmp_ok($seconds, '<', 20 * $tenth + 20, '… as fast as 10,000');
is(scalar keys %{ $r->{json}{status} || {} }, 100_001, '… each answered');
is(queued($batch_uuid), $two->{id}, '… the one that exists is queued');

# methods, endpoints, sizes
for my $method (qw(GET DELETE)) {
    $r = api($method => "enqueue/$one->{id}", '');
    is_status($r, 405, "$method");
    like($r->{headers}{allow} // '', qr/PUT.*POST|POST.*PUT/, '… Allow');
}
is_status(api(PUT => $_, 'x'), 404, "no endpoint $_") for '', 'enqueuer', 'x/enqueue/y', 'Enqueue/x';
is_status(api(PUT => 'enqueue/x', 'x' x (9 << 20)), 413, 'a body over the limit');
($command, $uuid) = command_plist('ProfileList');
is_status(api(POST => "enqueue/$one->{id}?nopush=1", $command), 200, 'POST with ids in the path');

# limits of a command
for my $case (
    ['CommandUUID of 127',  'x' x 108 . substr(uuid() . '-' x 30, 0, 19), 'ProfileList', 200],
    ['RequestType of 63',   uuid(), 'R' x 63,  200],
    ['RequestType of 64',   uuid(), 'R' x 64,  400],
    ['empty RequestType',   uuid(), '',        400],
) {
    my ($name, $id, $type, $status) = @$case;
    $r = api(PUT => "enqueue/$one->{id}?nopush=1", plist({ CommandUUID => $id, Command => { RequestType => $type } }));
    is_status($r, $status, $name);
}
for my $case (
    ['a binary plist',       "bplist00\xd1\1\2SfooSbar"],
    ['a byte order mark',    "\xef\xbb\xbf$command"],
    ['a space first',        " $command"],
    ['deep nesting', plist({ CommandUUID => 'x', Command => { RequestType => 'x' } }) =~
        s{<dict>}{'<dict><key>x</key>' . '<array>' x 1000 . '</array>' x 1000}er],
    ['a Command that is text', plist({ CommandUUID => 'x', Command => 'x' })],
) {
    my ($name, $body) = @$case;
    utf8::downgrade($body);
    $r = api(PUT => "enqueue/$one->{id}?nopush=1", $body);
    is_status($r, 400, $name);
    ok($r->{json}{command_error}, '… command_error');
}

# the migration endpoint
my $migrated = device();
is_status(api(POST => '/migration', checkin_plist($migrated, 'Authenticate'), base => ''), 200, 'migration: POST');
is(db_value('SELECT count(*) FROM cert_auth_associations WHERE id = ?', $migrated->{id}), 0,
    '… associates no certificate');
$r = api(PUT => '/migration', checkin_plist($migrated, 'TokenUpdate'), base => '', user => '');
is_status($r, 401, 'migration: no credentials');
like($r->{headers}{'www-authenticate'}, qr/^Basic/, '… with a challenge');
is_status(api(PUT => '/migration', checkin_plist($migrated, 'TokenUpdate'), base => '', password => 'x'), 401,
    'migration: a wrong key');
is_status(api(GET => '/migration', '', base => ''), 405, 'migration: GET');
is_status(api(PUT => '/migration', 'x', base => ''), 400, 'migration: no plist');
is_status(api(PUT => '/migration', report_plist($migrated), base => ''), 400, 'migration: a report');
is_status(api(PUT => '/migration', checkin_plist($migrated, 'TokenUpdate'), base => ''), 200,
    'migration: TokenUpdate');
is(db_value('SELECT push_magic FROM enrollments WHERE id = ?', $migrated->{id}), $migrated->{magic}, '… is stored');

done_testing;
