# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Require mdm-enrolled before a backend, as conf/nanomdm.conf shows it: what reaches it with each
# source of identity, what a client cannot forge, a backend that is away, and large content.

use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $backend = NanoMDM::Receiver->new;
# The example of the shipped configuration, with each source of identity.
my ($shipped) = slurp(var('top_dir') . '/conf/nanomdm.conf') =~ m{^(#<Location "/authproxy/">\n.*?^#</Location>\n)}ms
    or die 'no example in conf/nanomdm.conf';
$shipped =~ s/^#//gm;
$shipped =~ s{"http://127\.0\.0\.1:9008/"}{'"' . $backend->url('/content/') . '"'}e or die $shipped;
my $proxy = join '', map {
    my ($path, $identity) = @$_;
    my $text = $shipped;
    $text =~ s{"/authproxy/"}{"/$path/"};
    $text =~ s/NanoMDMIdentity signature/NanoMDMIdentity $identity/ or die $shipped;
    $text;
} ['authproxy', 'signature'], ['ssl', 'ssl'], ['hdr', 'header X-Client-Cert'];
my $httpd = server(NanoMDM::Httpd->new(ports => ['tls'], config => <<"END_CONFIG"));
MergeTrailers On
<Location "/mdm">
    SetHandler nanomdm
</Location>
<Location "/mdm-ssl">
    SetHandler nanomdm
    NanoMDMIdentity ssl
</Location>
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
$proxy
<Location "/bare/">
    Require mdm-enrolled
    ProxyPass "@{[$backend->url('/content/')]}" retry=0
</Location>
<Location "/open">
    FallbackResource /hdr/from-open
</Location>
<VirtualHost 127.0.0.1:\@tls_port\@>
    SSLEngine on
    SSLCertificateFile \@pki\@/server.pem
    SSLCertificateKeyFile \@pki\@/server.key
    SSLCACertificateFile \@pki\@/ca.pem
    SSLVerifyClient optional
</VirtualHost>
END_CONFIG
# What a sanitizer keeps of the memory that was freed is not to count below.
$ENV{ASAN_OPTIONS} = join ':', 'quarantine_size_mb=1', $ENV{ASAN_OPTIONS} || ();
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

sub content {
    my ($device, $method, $path, %o) = @_;
    my $tls = $device->{source} eq 'ssl';
    return request($method => $path, %o, ($tls ? (host => 'tls', identity => $device->{identity}) : ()),
        headers => [identity_headers($device, $o{body} // ''), @{ $o{headers} || [] }]);
}

# A backend may take these for the same: CGI, WSGI and their like see HTTP_X_ENROLLMENT_ID.
my @forged = map { ($_ => 'FORGED') } qw(X-Enrollment-ID X-Trace-ID x-enrollment-id X_Enrollment_ID
    x-enrollment_id X_Enrollment-ID X.Enrollment.ID X_Trace_ID x_trace-id), 'X-Enrollment-ID';
my %device;
for my $case (['authproxy', 'signature'], ['ssl', 'ssl'], ['hdr', 'header']) {
    my ($path, $source) = @$case;
    my $device = $device{$source} = enroll(device(source => $source, host => $source eq 'ssl' ? 'tls' : ''));
    for my $method (qw(GET PUT POST)) {
        my $body = $method eq 'GET' ? '' : "a body\0of $method" x 1000;
        my $r = content($device, $method, "/$path/a/b?c=d", body => $body,
            headers => [@forged, 'X-Enrollment' => 'FORGED']);
        is_status($r, 200, "$source: $method");
        my $q = ($backend->requests)[-1];
        is("$q->{method} $q->{path}", "$method /content/a/b?c=d", '… the path, without the prefix');
        ok($q->{body} eq $body, '… the body');
        is($q->{headers}{'x-enrollment-id'}, $device->{id}, '… who it is');
        is($q->{headers}{'x-trace-id'}, (split /, /, $r->{headers}{'x-trace-id'})[0], '… the trace id');
        is($q->{headers}{'mdm-signature'}, undef, '… no signature');
        is_deeply([grep { $q->{headers}{$_} =~ /FORGED/ } sort keys %{ $q->{headers} }], ['x-enrollment'],
            '… nothing forged, and what is not ours as it was');
    }
    my $n = $backend->count;
    my $stranger = device(source => $source, host => $device->{host});
    is_status(content($stranger, GET => "/$path/x", headers => [@forged]), 400, "$source: a stranger");
    is_status(request(GET => "/$path/x", headers => [@forged], host => $device->{host}), 400, "$source: nobody");
    is($backend->count, $n, '… do not get there');
}

# where the administrator forgot to set them, there are none; nor in trailers
is_status(content($device{signature}, GET => '/bare/x', headers => [@forged]), 200, 'no RequestHeader');
my $q = ($backend->requests)[-1];
is(join(' ', grep { /FORGED/ } values %{ $q->{headers} }), '', '… and nothing forged');
for my $case (['authproxy', 'signature'], ['bare', 'signature'], ['hdr', 'header']) {
    my ($path, $source) = @$case;
    my $head = "PUT /$path/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        . "Trailer: X-Enrollment-ID\r\n" . join ': ', identity_headers($device{$source}, 'one');
    my $r = request(PUT => "/$path/x", raw => "$head\r\n\r\n3\r\none\r\n0\r\nX-Enrollment-ID: FORGED\r\n"
        . "X_Enrollment_ID: FORGED\r\n\r\n");
    is_status($r, 200, "trailers, $path");
    $q = ($backend->requests)[-1];
    is(join(' ', grep { /FORGED/ } values %{ $q->{headers} }), '', '… nothing forged');
    is($q->{headers}{'x-enrollment-id'}, $path eq 'bare' ? undef : $device{$source}{id}, '… who it is');
}

# large content goes through, not into memory
sub peak {
    my $peak = 0;
    for my $pid ($httpd->children) {
        my ($kb) = slurp("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m;
        $peak = $kb if $kb > $peak;
    }
    return $peak;
}
my $size = 100 * 1024 * 1024;
for my $case (['authproxy', 'signature'], ['ssl', 'ssl'], ['hdr', 'header']) {
    my ($path, $source) = @$case;
    my $before = peak();
    $backend->answer(status => 200, size => $size);
    my $r = content($device{$source}, GET => "/$path/large", timeout => 60);
    is_status($r, 200, "$source: 100 MB");
    is(length $r->{body}, $size, '… all of it');
    my $more = peak() - $before;
    cmp_ok($more, '<', 20 * 1024, "… in $more kB more of a child's memory");
}

# from an open place into the closed one
is_status(content($device{header}, GET => '/open/x'), 200, 'an internal redirect, of a device');
is_status(request(GET => '/open/x'), 400, '… of nobody');

# what the backend itself says is its own matter
$backend->answer(status => 401);
is_status(content($device{signature}, GET => '/authproxy/x'), 401, "the backend's own 401 goes through");
$backend->answer(status => 200);

# a backend that is away
$backend->down;
for my $case (['authproxy', 'signature'], ['ssl', 'ssl'], ['hdr', 'header']) {
    my ($path, $source) = @$case;
    like(content($device{$source}, GET => "/$path/x")->{status}, qr/^50[23]$/, "$source: no backend");
}
$backend->up;
$backend->answer(raw => '');
is_status(content($device{signature}, GET => '/authproxy/x'), 502, 'a backend that hangs up');
$httpd->stop;
done_testing;
