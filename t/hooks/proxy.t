# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The proxies of the environment that httpd is started in: declaration servers, webhooks and the
# escrow key server are asked through them, and no secret is told to the proxy itself by CONNECT.
#
# Databases: sqlite3 (it is of no matter which)

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $proxy  = NanoMDM::Receiver->new(tunnel => 'server');
my $server = NanoMDM::Receiver->new;
my $secure = NanoMDM::Receiver->new(tls => 'server');
my $events = NanoMDM::Receiver->new;
my ($url, $events_url) = map { $_->url('/') } $server, $events;
my ($secure_url, $escrow_url) = ($secure->url('/dm'), $secure->url('/unlock'));
my $httpd = server(NanoMDM::Httpd->new(ports => ['plain'], config => <<"END_CONFIG"));
NanoMDMWebhook $events_url topics=mdm.DeclarativeManagement
NanoMDMDeclarativeManagement $secure_url ca=\@pki\@/other_ca.pem send-key=send
NanoMDMEscrowKeyUnlockURL $escrow_url ca=\@pki\@/other_ca.pem
<Location "/mdm">
    SetHandler nanomdm
</Location>
\@api\@
<VirtualHost 127.0.0.1:\@plain_port\@>
    NanoMDMDeclarativeManagement $url
</VirtualHost>
END_CONFIG
sub start {
    my ($no_proxy) = @_;
    local @ENV{qw(http_proxy https_proxy no_proxy)} = (('http://jane:se%20cret@127.0.0.1:' . $proxy->port) x 2, $no_proxy);
    ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);
    return;
}
sub declarative {
    my ($device, @o) = @_;
    return checkin($device, 'DeclarativeManagement', Endpoint => 'tokens', @o);
}

start('');
my $device = enroll(device());
my $login = 'Basic ' . encode_base64('jane:se cret', '');

is_status(declarative($device), 200, 'by TLS');
my ($connect, $asked) = grep { $_->{method} ne 'POST' } $proxy->requests;
is("$connect->{method} $connect->{path}", 'CONNECT 127.0.0.1:' . $secure->port, '… through the proxy');
is($connect->{headers}{'proxy-authorization'}, $login, '… with its password');
is(join(' ', grep { /^x-/ } sort keys %{ $connect->{headers} }), '', '… which is told neither ids nor signatures');
is("$asked->{method} $asked->{path}", 'GET /dm/tokens', '… in the tunnel');
is($asked->{headers}{'x-enrollment-id'}, $device->{id}, '… the id');
ok($asked->{headers}{'x-hmac-signature'}, '… the signature');
is($asked->{headers}{'proxy-authorization'}, undef, "… but not the proxy's password");
ok((eventually { grep { "$_->{method} $_->{path}" eq "POST $events_url" } $proxy->requests }), 'a webhook by the proxy');

my $from = $proxy->count;
is_status(declarative($device, -host => 'plain'), 200, 'without TLS');
($asked) = grep { $_->{method} eq 'GET' } $proxy->requests($from);
is($asked->{path}, "${url}tokens", '… the proxy is asked');
is($asked->{headers}{'x-enrollment-id'}, $device->{id}, '… with the id');

my $topic = 'com.apple.mgmt.External.' . lc uuid();
my $cert = pki->issue("push-$topic", issuer => 'ca', subject => "/UID=$topic/CN=APSP");
is_status(api(PUT => 'pushcert', slurp(pki->cert($cert)) . slurp(pki->key($cert))), 200, 'a push certificate');
sub unlock { return api(POST => 'escrowkeyunlock', "topic=$topic&serial=C02&productType=Mac&escrowKey=KEY&orgName=Org&guid=G") }
$from = $proxy->count;
is_status(unlock(), 200, 'an escrow key');
like(join(' ', map { "$_->{method} $_->{path}" } grep { $_->{path} !~ /^http/ } $proxy->requests($from)),
    qr{CONNECT 127\.0\.0\.1:${\ $secure->port} POST /unlock\?serial=C02&productType=Mac}, '… in a tunnel');

for my $status (403, 407, 502) {
    $proxy->down;    # and with it the tunnels that are kept
    $proxy->answer(status => $status);
    $proxy->up;
    my $mark = log_mark();
    my $r = declarative($device);
    is_status($r, 502, "the proxy says $status: no TLS");
    unlike($r->{body}, qr/$status|proxy|tunnel|127\.0\.0\.1/i, '… which the device is not told');
    log_like($mark, qr/gave no answer: .*\b$status\b/, '… but the log');
    is_status(declarative($device, -host => 'plain'), 502, '… without TLS');
    is_status(unlock(), 502, '… an escrow key');
}
$proxy->down;
is_status(declarative($device, -host => $_), 502, 'no proxy') for '', 'plain';
is($_->count, 0, 'nobody was asked without it') for $server, $secure, $events;
$httpd->stop;

start('127.0.0.1');
is_status(declarative($device, -host => $_), 200, 'no_proxy: no proxy is needed') for '', 'plain';
ok((eventually { $events->count > 0 }), '… nor by a webhook');
is($_->count, 1, '… asked directly') for $server, $secure;
$httpd->stop;
done_testing;
