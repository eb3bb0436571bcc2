# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# "Satisfy any" of mod_access_compat, with which httpd asks no further whoever may come in by host:
# wherever it comes from, it does not open content that is for enrolled devices alone, and neither
# does "AuthMerging Or". The endpoints of devices ask themselves.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Test;

my $httpd = server(NanoMDM::Httpd->new(modules => [qw(access_compat include)], config => <<'END_CONFIG'));
Alias "/content" "@dir@/content"
Alias "/pages"   "@dir@/pages"
Alias "/open"    "@dir@/open"
<Location "/mdm">
    SetHandler nanomdm
</Location>

# from above, and from below, where configtest does not look: a directory and a .htaccess file
<Directory "@dir@/content/above">
    Satisfy any
</Directory>
<Location "/content/above/">
    Require mdm-enrolled
</Location>
<Directory "@dir@/content/below">
    Require mdm-enrolled
</Directory>
<Directory "@dir@/content/below/child">
    Satisfy any
</Directory>
<Directory "@dir@/content/override">
    AllowOverride AuthConfig Limit
    Require mdm-enrolled
</Directory>
<Directory "@dir@/content/all">
    Satisfy any
</Directory>
<Location "/content/all/">
    Require mdm-enrolled
    Satisfy all
</Location>
<Directory "@dir@/pages">
    Options +Includes
    AddType text/html .shtml
    AddOutputFilter INCLUDES .shtml
</Directory>
<Directory "@dir@/content">
    ErrorDocument 400 /content/above/page.html
</Directory>
END_CONFIG
my @places = qw(above below below/child all override override/any override/denied override/method
    override/or);
mkdir "$httpd->{dir}/$_" for qw(content pages), map { "content/$_" } @places;
spew("$httpd->{dir}/content/$_/page.html", "secret content\n") for @places;
my %htaccess = (any => 'Satisfy any', denied => "Order deny,allow\nDeny from all\nSatisfy any",
    method => "<Limit POST>\nSatisfy any\n</Limit>",
    or => "AuthMerging Or\nRequire all granted");
spew("$httpd->{dir}/content/override/$_/.htaccess", "$htaccess{$_}\n") for sort keys %htaccess;
spew("$httpd->{dir}/pages/page.shtml", '<!--#include virtual="/content/above/page.html" -->');
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

sub content {
    my ($path, $who, $method) = @_;
    return request($method || 'GET' => $path, headers => [$who ? identity_headers($who, '') : ()]);
}

my $device = enroll(device());
is_status(checkin(device(), 'TokenUpdate'), 400, 'the endpoint of devices: a stranger');
is_status(content('/content/all/page.html', $device), 200, 'Satisfy all, where it says any above: a device');
is_status(content('/content/all/page.html'), 400, '… and nobody');

for my $path (qw(above below/child override/any override/denied)) {
    for my $who (undef, device(), $device) {
        my $name = !$who ? 'nobody' : $who == $device ? 'a device' : 'a stranger';
        my $mark = log_mark();
        my $r = content("/content/$path/page.html", $who);
        is_status($r, 400, "Satisfy any, $path: $name");
        unlike($r->{body}, qr/secret/, '… without the content');
        log_like($mark, qr/nanomdm:error.*Satisfy any.*take it out/, '… and the log says why')
            unless $path =~ /denied/ && $name ne 'a device';
    }
}
is_status(content('/content/below/page.html', $device), 200, 'beside it: a device');
is_status(content('/content/below/page.html'), 400, '… and nobody');
is_status(content('/content/override/method/page.html', $device), 200, 'for another method: a device');
is_status(content('/content/override/method/page.html', undef), 400, '… and nobody');
is_status(content('/content/override/method/page.html', undef, 'POST'), 400, '… and nobody with that one');
is_status(content('/content/override/or/page.html', $device), 200, 'AuthMerging Or: a device');
is_status(content('/content/override/or/page.html'), 400, '… and nobody');
unlike(content('/pages/page.shtml')->{body}, qr/secret/, 'included in an open page');
$httpd->stop;

done_testing;
