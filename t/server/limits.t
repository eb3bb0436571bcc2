# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Sizes, slow clients, an absent database, and the traps of httpd that would answer 403 to a device.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $r = request(GET => '/version');
is_status($r, 200, '/version');
like($r->{headers}{'content-type'}, qr{^application/json}, 'content type');
like($r->{body}, qr/^\{\s*"version":\s*"v\d+\.\d+\.\d+"\s*\}\s*$/, 'version');

my $device = enroll(device());

# bodies: 4 KiB in the virtual host "small"
my $big = report_plist($device, Padding => 'x' x 5000);
is_status(send_message($device, 'text/xml', $big), 200, 'a body below the limit');
is_status(send_message($device, 'text/xml', $big, host => 'small'), 413, 'a body over the limit');
is_status(report($device, -host => 'small'), 200, 'a small one there');
my $chunks = sprintf "%x\r\n%s\r\n0\r\n\r\n", length $big, $big;
$r = request(PUT => '/mdm', host => 'small', raw => "PUT /mdm HTTP/1.1\r\nHost: x\r\n"
    . "Connection: close\r\nTransfer-Encoding: chunked\r\n"
    . 'Mdm-Signature: ' . sign($big, $device->{identity}) . "\r\n\r\n$chunks");
is_status($r, 413, 'a chunked body over the limit');
$chunks = sprintf "%x\r\n%s\r\n0\r\n\r\n", length $big, $big;
$r = request(PUT => '/mdm', raw => "PUT /mdm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    . "Transfer-Encoding: chunked\r\nMdm-Signature: " . sign($big, $device->{identity})
    . "\r\n\r\n$chunks");
is_status($r, 200, 'a chunked body below the limit');
$r = request(PUT => '/mdm', body => 'x' x 10, length => 1000,
    headers => ['Mdm-Signature' => sign('x', $device->{identity})]);
is_status($r, 408, 'a body that stops arriving');

# httpd's own traps
is_status(report($device, -host => 'denied'), 200, 'a denied document root');
my @ids = map { sprintf 'ID-%010d', $_ } 1 .. 2000;
my ($command) = command_plist('ProfileList');
$r = api(PUT => 'enqueue/' . join(',', $device->{id}, @ids) . '?nopush=1', $command);
is_status($r, 207, 'a path of ' . length(join ',', @ids) . ' bytes');
is(keys %{ $r->{json}{status} }, 2000 + grep({ $_ eq $device->{id} } keys %{ $r->{json}{status} }),
    'each id is answered');

# no database
for my $case (
    ['a report',       sub { report($device, -host => 'down') }],
    ['a check-in',     sub { checkin($device, 'Authenticate', -host => 'down') }],
    ['the API',        sub { api(PUT => "enqueue/$device->{id}?nopush=1", $command, host => 'down') }],
) {
    my ($name, $call) = @$case;
    $r = $call->();
    is_status($r, 503, "no database: $name");
    ok($r->{headers}{'retry-after'}, "… with Retry-After");
}

done_testing;
