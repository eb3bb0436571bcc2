# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Each message's effect and reply, and what is refused: never with 401 or 403.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

sub reply_data {
    my ($r, $key) = @_;
    my ($base64) = $r->{body} =~ m{<key>\Q$key\E</key>\s*<data>\s*([^<]*?)\s*</data>};
    require MIME::Base64;
    return defined $base64 ? MIME::Base64::decode_base64($base64) : undef;
}

my $checkin = 'application/x-apple-aspen-mdm-checkin';
my $device  = device();
is_status(checkin($device, 'TokenUpdate'), 400, 'TokenUpdate without Authenticate');
enroll($device);
my $id = $device->{id};

# bootstrap token
my $r = checkin($device, 'GetBootstrapToken');
is_status($r, 200, 'no bootstrap token yet');
is($r->{body}, '', '… is an empty body');
is_status(checkin($device, 'SetBootstrapToken', BootstrapToken => data("a\0token")), 200,
    'SetBootstrapToken');
$r = checkin($device, 'GetBootstrapToken');
is(reply_data($r, 'BootstrapToken'), "a\0token", 'GetBootstrapToken');
is_status(checkin($device, 'SetBootstrapToken'), 200, 'an absent token');
is(checkin($device, 'GetBootstrapToken')->{body}, '', '… clears it');
checkin($device, 'SetBootstrapToken', BootstrapToken => data('again'));
is_status(checkin($device, 'Authenticate'), 200, 'Authenticate');
is(db_value('SELECT bootstrap_token_b64 FROM devices WHERE id = ?', $id), undef,
    '… clears the bootstrap token');
is(db_value('SELECT enabled FROM enrollments WHERE id = ?', $id), 0, '… and disables the enrollment');
is(db_value('SELECT token_update_tally FROM enrollments WHERE id = ?', $id), 0, '… its tally is 0');
enroll($device, 'enrolled again');

# user channels
my $user = device(parent => $device);
is_status(report($user), 200, 'a report of an unknown user channel is answered');
enroll($user, 'a user channel');
my $row = db('SELECT * FROM enrollments WHERE id = ?', $user->{id})->[0];
is($row->{type},      'User', 'its type');
is($row->{device_id}, $id,    'its device');
is(db_value('SELECT user_short_name FROM users WHERE id = ?', $user->{id}), 'jane', 'its short name');
my $shared = { %{ device(parent => $device) }, short_name => 'pat' };
$shared->{ids} = { UDID => $id, UserID => 'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF', UserShortName => 'pat' };
enroll($shared, 'a Shared iPad user');
is(db_value('SELECT type FROM enrollments WHERE id = ?', "$id:pat"), 'Shared iPad', '… its type and id');
for my $type (qw(Authenticate SetBootstrapToken GetBootstrapToken)) {
    is_status(checkin($user, $type), 400, "$type on a user channel");
}
is_status(checkin($user, 'UserAuthenticate'), 410, 'UserAuthenticate is declined');
$r = checkin($user, 'UserAuthenticate', DigestResponse => 'x');
is_status($r, 200, '… with a digest response it is not');
is($r->{body}, '', '… and the reply is empty');
is_status(checkin($device, 'UserAuthenticate'), 400, 'UserAuthenticate on a device channel');
$r = checkin($user, 'UserAuthenticate', -host => 'digest');
is_status($r, 200, 'empty-digest: UserAuthenticate');
like($r->{body}, qr{<key>DigestChallenge</key>\s*<string\s*(/>|></string>)}, '… an empty challenge');
is_status(checkin($user, 'CheckOut'), 200, 'CheckOut of a user channel');
is(db_value('SELECT enabled FROM enrollments WHERE id = ?', $user->{id}), 0, '… disables it');
is(db_value('SELECT enabled FROM enrollments WHERE id = ?', $id), 1, '… and nothing else');
is_status(checkin($device, 'CheckOut'), 200, 'CheckOut of the device');
is(db_value('SELECT count(*) FROM enrollments WHERE device_id = ? AND enabled = TRUE', $id), 0,
    '… disables all of its channels');

# user enrollment
my $byod = device();
$byod->{id}  = $byod->{ids}{UDID};
$byod->{ids} = { EnrollmentID => $byod->{id} };
enroll($byod, 'a user enrollment');
is(db_value('SELECT type FROM enrollments WHERE id = ?', $byod->{id}), 'User Enrollment (Device)',
    '… its type');

# GetToken
$r = checkin($device, 'GetToken', TokenServiceType => 'com.apple.maid');
is_status($r, 200, 'GetToken');
like(reply_data($r, 'TokenData'), qr/^the token of com\.apple\.maid/, '… the configured token');
is_status(checkin($device, 'GetToken', TokenServiceType => 'com.example'), 400, '… an unknown type');
is_status(checkin($device, 'GetToken'), 400, '… no type');
is_status(checkin($device, 'DeclarativeManagement', Endpoint => 'tokens'), 404,
    'DeclarativeManagement is not configured');

# what is refused
my $long = 'x' x 128;
for my $case (
    ['an unknown MessageType', checkin_plist($device, 'Nonsense')],
    ['no MessageType',         plist({ UDID => $id })],
    ['no id',                  plist({ MessageType => 'Authenticate', Topic => 'x' })],
    ['an empty UDID',          plist({ MessageType => 'CheckOut', UDID => '' })],
    ['a long UDID',            plist({ MessageType => 'CheckOut', UDID => 'x' x 256 })],
    ['no PushMagic',           checkin_plist($device, 'TokenUpdate', PushMagic => undef)],
    ['no Token',               checkin_plist($device, 'TokenUpdate', Token => undef)],
    ['no Topic',               checkin_plist($device, 'TokenUpdate', Topic => undef)],
    ['a long PushMagic',       checkin_plist($device, 'TokenUpdate', PushMagic => $long)],
    ['a long SerialNumber',    checkin_plist($device, 'Authenticate', SerialNumber => $long)],
    ['an empty body',          ''],
    ['no XML',                 'hello'],
    ['a binary plist',         "bplist00\xd1\1\2SfooSbar\x08\x0b\x0f\0\0\0\0\0\0\1\1\0\0\0\0\0\0\0\3"
        . "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x13"],
    ['an array',               plist(['a'])],
    ['an unfinished document', substr(checkin_plist($device, 'CheckOut'), 0, -20)],
    ['deep nesting',           plist({ MessageType => 'CheckOut', UDID => $id, }) =~
        s{<dict>}{'<dict><key>x</key>' . '<array>' x 1000 . '</array>' x 1000}er],
    ['an entity',              checkin_plist($device, 'CheckOut') =~
        s{<!DOCTYPE[^>]*>}{<!DOCTYPE plist [<!ENTITY a "b">]>}r],
) {
    my ($name, $body) = @$case;
    is_status(send_message($device, $checkin, $body), 400, $name);
}
is_status(report($device, Status => undef), 400, 'a report without Status');
is_status(report($device, Status => 'x' x 32), 400, 'a long Status');
is_status(request(GET => '/mdm'), 405, 'GET') ;

# reports that store nothing, and still get the next command
my ($command, $uuid) = command_plist('ProfileList');
is_status(api(PUT => "enqueue/$id?nopush=1", $command), 200, 'enqueue for a disabled enrollment');
for my $case (
    ['an unknown command',  { Status => 'Acknowledged', CommandUUID => uuid() }],
    ['no CommandUUID',      { Status => 'Error' }],
) {
    my ($name, $members) = @$case;
    $r = report($device, %$members);
    is_status($r, 200, $name);
    is($r->{body}, $command, "$name: the next command comes");
}
is_status(report($device, Status => 'SomethingNew', CommandUUID => $uuid), 200, 'an unknown status');
is(report($device)->{body}, '', '… is final');
is_status(report($device, Status => 'NotNow', CommandUUID => $uuid), 200, 'a late NotNow');
is(db_value('SELECT status FROM command_results WHERE id = ? AND command_uuid = ?', $id, $uuid),
    'SomethingNew', '… never replaces a final status');

# handlers that take one kind only
is_status(report($device, -path => '/mdm-command'), 200, 'nanomdm-command takes a report');
is_status(checkin($device, 'GetBootstrapToken', -path => '/mdm-command'), 400, '… no check-in');
is_status(checkin($device, 'GetBootstrapToken', -path => '/checkin'), 200,
    'nanomdm-checkin takes a check-in');
is_status(report($device, -path => '/checkin'), 400, '… no report');

done_testing;
