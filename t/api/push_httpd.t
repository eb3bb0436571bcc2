# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Pushes to an HTTP/2 server that was not written for it: httpd's own mod_http2, in a virtual host
# that asks for a client certificate and answers as the push service does when all is well.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

plan(skip_all => 'mod_http2 needs an MPM with threads') if var('mpm') eq 'prefork';

my $httpd = server(NanoMDM::Httpd->new(ports => ['apns'], modules => ['http2'], config => <<'END_CONFIG'));
<Location "/mdm">
    SetHandler nanomdm
</Location>
@api@
NanoMDMPushURL     https://localhost:@apns_port@
NanoMDMPushCAFile  @pki@/other_ca.pem
NanoMDMPushTimeout 10s
LogFormat "%m %U topic=%{apns-topic}i type=%{apns-push-type}i cert=%{SSL_CLIENT_S_DN_UID}x protocol=%{SSL_PROTOCOL}x %H %>s" apns
<VirtualHost 127.0.0.1:@apns_port@>
    Protocols h2
    SSLEngine on
    SSLCertificateFile @pki@/server.pem
    SSLCertificateKeyFile @pki@/server.key
    SSLCACertificateFile @pki@/ca.pem
    SSLVerifyClient require
    CustomLog "@dir@/apns_log" apns
    RewriteEngine On
    RewriteCond %{REQUEST_METHOD} =POST
    RewriteRule "^/3/device/[0-9a-f]+$" - [R=200,L]
    Header always set apns-id "expr=%{reqenv:UNIQUE_ID}"
</VirtualHost>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

my $topic = 'com.apple.mgmt.External.' . lc uuid();
my $name  = pki->issue('push-' . uuid(), issuer => 'ca', key => 'rsa', subject => "/UID=$topic/CN=APSP");
is_status(api(PUT => 'pushcert', slurp(pki->cert($name)) . slurp(pki->key($name))), 200, 'a push certificate');
my @device = map { enroll(device(topic => $topic)) } 1 .. 3;

my $r = api(PUT => "push/$device[0]{id}", '');
is_status($r, 200, 'a push');
like($r->{json}{status}{ $device[0]{id} }{push_result}, qr/^[\w\@-]{20,}$/, '… with the id of the push');
my ($command, $uuid) = command_plist('ProfileList');
$r = api(PUT => 'enqueue/' . join(',', map { $_->{id} } @device), $command);
is_status($r, 200, 'an enqueue for three');
is($r->{json}{command_uuid}, $uuid, '… with the command');
is(scalar(grep { $_->{push_result} } values %{ $r->{json}{status} }), 3, '… and three pushes');

my @lines;
eventually { @lines = split /\n/, slurp("$httpd->{dir}/apns_log"); @lines == 4 };
my %got;
for (@lines) {
    my ($token) = m{^POST /3/device/([0-9a-f]+) topic=\Q$topic\E type=mdm cert=\Q$topic\E protocol=TLSv1\.[23] HTTP/2(?:\.0)? 200$}
        or fail("unexpected: $_");
    $got{$token}++;
}
is_deeply(\%got, { map { unpack('H*', $device[$_]{token}) => $_ ? 1 : 2 } 0 .. 2 },
    'the service saw each token, the topic, the type, and the certificate of the topic');
$httpd->stop;

done_testing;
