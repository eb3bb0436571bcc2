# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Nobody calls the API or migrates without some Require that keeps others out, whatever the
# administrator forgot; and httpd's own means do as well as the API key.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $basic = <<'END_BASIC';
AuthType Basic
AuthName "x"
AuthBasicProvider nanomdm
END_BASIC

# name, access control, and whether that is refused
my @cases = (
    ['none',           '',                                    0],
    ['granted',        'Require all granted',                 0],
    ['any',            "$basic\nRequire valid-user\nSatisfy any", 0],
    ['any_ip',         "$basic\nRequire valid-user\nRequire ip 127.0.0.1\nSatisfy any\nDeny from none.invalid", 0],
    ['requireany',     "$basic\n<RequireAny>\nRequire valid-user\nRequire all granted\n</RequireAny>", 0],
    ['beside',         "$basic\nRequire valid-user\nRequire all granted", 0],
    ['limit',          "$basic\n<Limit GET>\nRequire valid-user\n</Limit>", 0],
    ['if',             "$basic\nRequire valid-user\n<If \"true\">\nRequire all granted\n</If>", 0],
    ['ip',             'Require ip 127.0.0.1',                1],
    ['local',          'Require local',                       1],
    ['file', "AuthType Basic\nAuthName x\nAuthBasicProvider file\nAuthUserFile \@scratch\@/htpasswd\n"
        . 'Require valid-user', 1],
    ['both',           "$basic\n<RequireAll>\nRequire valid-user\nRequire ip 127.0.0.1\n</RequireAll>", 1],
);
my $config = '';
for (@cases) {
    my ($name, $access) = @$_;
    $config .= "<Location \"/$name/v1/\">\nSetHandler nanomdm-api\n$access\n</Location>\n"
        . "<Location \"/$name/migration\">\nSetHandler nanomdm-migration\n$access\n</Location>\n";
}
# below a location that keeps callers out, one that lets them in
$config .= <<"END_BELOW" . "<Location /mdm>\nSetHandler nanomdm\n</Location>\n";
<Location "/below/v1/">
    SetHandler nanomdm-api
    $basic
    Require valid-user
</Location>
<Location "/below/v1/enqueue">
    Require all granted
</Location>
<Location "/merged/v1/">
    SetHandler nanomdm-api
    $basic
    Require valid-user
</Location>
<Location "/merged/v1/enqueue">
    AuthMerging Or
    Require all granted
</Location>
<Location "/auth/v1/">
    SetHandler nanomdm-api
    $basic
</Location>
END_BELOW
my $httpd = server(NanoMDM::Httpd->new(config => $config, modules => ['access_compat']));
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device());

sub queued { return db_value('SELECT count(*) FROM commands') }

for my $case (@cases, ['below', '', 0], ['merged', '', 0]) {
    my ($name, $access, $good) = @$case;
    my ($command) = command_plist('ProfileList');
    my $message = checkin_plist(device(), 'Authenticate');
    my %as = $name eq 'file' ? (user => 'api', password => 'file-password') : ();
    my ($before, $devices) = (queued(), db_value('SELECT count(*) FROM devices'));
    my $mark = log_mark();
    if ($good) {
        is_status(api(PUT => "enqueue/$device->{id}?nopush=1", $command, base => "/$name/v1/", %as),
            200, "$name: the API");
        is(queued(), $before + 1, '… queues');
        is_status(api(PUT => "/$name/migration", $message, base => '', %as), 200, "$name: migration");
        log_unlike($mark, qr/open to anyone/, '… without complaint');
        next;
    }
    # with and without credentials
    for my $user ('', 'nanomdm') {
        my $r = api(PUT => "enqueue/$device->{id}?nopush=1", $command, base => "/$name/v1/", user => $user);
        is_status($r, 403, "$name: the API" . ($user ? '' : ', without credentials'));
        unlike($r->{body}, qr/command_uuid/, '… says nothing');
    }
    log_like($mark, qr/\[nanomdm:error\].*open to anyone.*Require/, '… logs an error with the remedy');
    is(queued(), $before, '… queues nothing');
    next if $name eq 'below' || $name eq 'merged';
    $mark = log_mark();
    is_status(api(PUT => "/$name/migration", $message, base => '', user => ''), 403, "$name: migration");
    log_like($mark, qr/\[nanomdm:error\].*open to anyone/, '… logs an error');
    is(db_value('SELECT count(*) FROM devices'), $devices, '… stores nothing');
}
my $before = queued();
isnt(api(PUT => "enqueue/$device->{id}?nopush=1", (command_plist('ProfileList'))[0], base => '/auth/v1/')
    ->{status}, 200, 'authentication without Require: httpd itself refuses');
is(queued(), $before, '… queues nothing');
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", '', base => '/file/v1/'), 401,
    'the API key where a file is asked');
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", '', base => '/both/v1/', user => ''), 401,
    'RequireAll: no credentials');
$httpd->stop;

done_testing;
